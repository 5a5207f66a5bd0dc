//! Answers in pieces: they pass as they come, slowly for slow readers, and every call is settled at its true end.

use std::sync::atomic::Ordering;

use model::ports::Invoker;
use model::{Answered, Ending, Outcome, Piece, StreamedAnswer};

use super::fixtures::{World, invocation};
use super::guests::Guests;

const MIB: u64 = 1024 * 1024;

async fn answered(world: &World, handler: &str) -> Answered {
    world.deploy("f", handler, |_| {});
    let mut call = invocation("f", "r-1", "{}");
    call.log_tail = true;
    world.engine.invoke_streaming(call).await.unwrap()
}

async fn streamed(world: &World, handler: &str) -> StreamedAnswer {
    match answered(world, handler).await {
        Answered::Streamed(answer) => answer,
        Answered::Whole(outcome) => panic!("it came whole: {outcome:?}"),
    }
}

async fn rest(answer: &mut StreamedAnswer) -> (u64, Box<Outcome>) {
    let mut bytes = 0;
    loop {
        match answer.next().await {
            Piece::Chunk(chunk) => bytes += chunk.len() as u64,
            Piece::End(outcome) => return (bytes, outcome),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_piece_is_there_before_the_function_ends() {
    let world = World::new();
    let mut answer = streamed(&world, "stream").await;
    assert_eq!((answer.content_type.as_deref(), answer.executed_version.as_str()), (Some("text/x"), "$LATEST"));
    let Piece::Chunk(first) = answer.next().await else { panic!("the end came first") };
    assert_eq!(first, "first ");
    assert!(world.records.0.lock().is_empty(), "the function still runs");
    let (bytes, outcome) = rest(&mut answer).await;
    assert_eq!((bytes, outcome.error.as_ref(), outcome.payload.len()), (6, None, 0));
    let tail = String::from_utf8(outcome.log_tail.unwrap().to_vec()).unwrap();
    assert!(tail.contains("REPORT RequestId: r-1\tDuration: 100"), "{tail}");
    let records = world.records.0.lock().clone();
    assert_eq!((records.len(), records[0].ending, records[0].duration_us / 1_000_000), (1, Ending::Success, 1));
    streamed(&world, "stream").await;
    assert_eq!(world.guests.started(), 1, "the environment is sound");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_no_stream_gets_all_at_once() {
    let world = World::new();
    let outcome = world.call_of("stream").await;
    assert_eq!((&outcome.payload[..], outcome.content_type.as_deref()), (&b"first second"[..], Some("text/x")));
    let world = World::new();
    let outcome = world.call_of(&format!("flood {}", 7 * MIB)).await;
    assert_eq!(outcome.error.unwrap().error_type, "Function.ResponseSizeTooLarge");
    world.call("f", "1").await.unwrap();
    assert_eq!(world.guests.started(), 1, "the environment is sound");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_came_whole_is_whole() {
    let world = World::new();
    let Answered::Whole(outcome) = answered(&world, "echo").await else { panic!("a stream") };
    assert_eq!(outcome.payload, "{}");
    let Answered::Whole(outcome) = answered(&World::new(), "throw").await else { panic!("a stream") };
    assert_eq!(outcome.error.unwrap().error_type, "TypeError");
}

#[tokio::test(start_paused = true)]
async fn failures_half_way_end_the_stream() {
    for (handler, error_type, ending) in [
        ("stream throw", "E", Ending::FunctionError),
        ("stream exit", "Runtime.ExitError", Ending::Crash),
        ("stream whole", "Runtime.Unknown", Ending::Crash),
    ] {
        let world = World::new();
        let mut answer = streamed(&world, handler).await;
        let (bytes, outcome) = rest(&mut answer).await;
        assert_eq!((bytes, outcome.error.unwrap().error_type.as_str()), (12, error_type), "{handler}");
        assert!(outcome.payload.starts_with(b"{\"errorType\":"), "{handler}");
        assert_eq!(world.records.0.lock()[0].ending, ending, "{handler}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_slows_the_guest_and_in_the_end_its_time_is_over() {
    let world = World::new();
    let mut answer = streamed(&world, &format!("flood {}", 64 * MIB)).await;
    // The clock moves only when nobody can go on: all that fits between guest and caller is there then.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(world.guests.streamed.load(Ordering::SeqCst) < 2 * MIB);
    let (bytes, outcome) = rest(&mut answer).await;
    assert_eq!((bytes, outcome.error), (64 * MIB, None));
    let mut answer = streamed(&world, &format!("flood {}", 64 * MIB)).await;
    world.until("the call ends", |world| world.records.0.lock().len() == 2).await;
    let (bytes, outcome) = rest(&mut answer).await;
    assert!(bytes < 2 * MIB, "{bytes}");
    assert_eq!(outcome.error.unwrap().error_type, "Sandbox.Timedout");
    assert_eq!(world.records.0.lock()[1].ending, Ending::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_function_whose_caller_is_gone_runs_to_its_end() {
    let world = World::new();
    let mut answer = streamed(&world, &format!("flood {}", 16 * MIB)).await;
    assert!(matches!(answer.next().await, Piece::Chunk(_)));
    drop(answer);
    world.until("the call ends", |world| !world.records.0.lock().is_empty()).await;
    assert_eq!(world.records.0.lock()[0].ending, Ending::Success);
    assert_eq!(world.guests.streamed.load(Ordering::SeqCst), 16 * MIB);
}

#[tokio::test(start_paused = true)]
async fn the_largest_stream_passes_and_not_a_byte_more() {
    for (limit, error_type) in [(2 * MIB, None), (2 * MIB - 1, Some("Function.ResponseSizeTooLarge"))] {
        let world = World::with(Guests::new(), |config| config.streams.bytes_max = limit);
        let mut answer = streamed(&world, &format!("flood {}", 2 * MIB)).await;
        let (bytes, outcome) = rest(&mut answer).await;
        assert!(bytes <= limit);
        assert_eq!(outcome.error.map(|error| error.error_type).as_deref(), error_type);
        world.call("f", "1").await.unwrap();
        assert_eq!(world.guests.started(), 1, "the environment is sound");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_can_be_set() {
    let world = World::with(Guests::new(), |config| config.streams.bytes_per_s = Some(2 * MIB));
    let mut answer = streamed(&world, &format!("flood {}", 8 * MIB)).await;
    let began = tokio::time::Instant::now();
    assert_eq!(rest(&mut answer).await.0, 8 * MIB);
    let took = began.elapsed().as_millis();
    assert!((900..1_100).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_lingers_takes_the_next_call_when_it_is_ready() {
    let world = World::new();
    let began = tokio::time::Instant::now();
    world.call_of("linger 500").await;
    assert!(began.elapsed().as_millis() < 100, "the answer does not wait");
    world.until("it is idle", |world| world.engine.environments()[0].state == crate::EnvironmentState::Idle).await;
    assert!(began.elapsed().as_millis() >= 500);
    world.call("f", "1").await.unwrap();
    assert_eq!(world.guests.started(), 1);
    let world = World::new();
    world.call_of("linger 60000").await;
    world.until("the sandbox is gone", |world| world.guests.alive() == 0).await;
    assert!(began.elapsed().as_millis() < 10_000, "the function's own time bounds it");
}
