//! The Runtime API as a custom runtime sees it: raw HTTP over the sandbox's loopback.
//!
//! Every request is written by hand, so that what goes over the wire is what the test says.

use std::net::SocketAddr;

use model::{ApplicationLevel, Ending, InvokeError, JsonLog, Outcome, Runtime, SystemLevel, UsageRecord};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fixtures::{World, invocation};

pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split_once(": ").is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
        self.head.lines().find(named).map(|line| line.split_once(": ").unwrap().1)
    }
}

/// Sends bytes on a connection of their own and reads the answer.
pub(super) async fn raw(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head[9..12].parse().unwrap();
    Reply { status, head: head.to_owned(), body: body.to_owned() }
}

async fn request(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    let text = format!(
        "{method} /2018-06-01/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}"
    );
    raw(address, text.as_bytes()).await
}

pub(super) async fn next(address: SocketAddr) -> Reply {
    request(address, "GET", "runtime/invocation/next", "", "").await
}

pub(super) async fn post(address: SocketAddr, path: &str, body: &str) -> Reply {
    request(address, "POST", path, "", body).await
}

pub(super) fn world() -> World {
    let world = World::new();
    world.deploy("f", "", |version| version.runtime = Runtime::parse("provided.al2023").unwrap());
    world
}

/// The address of the Runtime API of the environment that a call has started.
pub(super) async fn address(world: &World) -> SocketAddr {
    world.until("the sandbox is there", |world| world.guests.runtime_api.lock().is_some()).await;
    world.guests.runtime_api.lock().unwrap()
}

/// Calls the function once while `runtime` plays the runtime.
async fn played<F: Future<Output = ()>>(world: &World, runtime: impl FnOnce(SocketAddr) -> F) -> Outcome {
    let (outcome, ()) = tokio::join!(world.call("f", "{\"a\":1}"), async { runtime(address(world).await).await });
    outcome.unwrap()
}

/// Whether the log has a REPORT line with these words.
fn has_report(world: &World, words: &str) -> bool {
    world.lines.messages().iter().any(|line| line.starts_with("REPORT") && line.contains(words))
}

fn error_type(outcome: &Outcome) -> &str {
    &outcome.error.as_ref().unwrap().error_type
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_round() {
    use model::ports::Invoker;
    let world = world();
    let mut call = invocation("f", "r-1", "{\"a\":1}");
    call.trace_id = Some("Root=1-a-b;Parent=c;Sampled=0".into());
    call.client_context = Some("{\"custom\":{}}".into());
    call.function.qualifier = None;
    let (outcome, ()) = tokio::join!(world.engine.invoke(call), async {
        let address = address(&world).await;
        let event = next(address).await;
        assert_eq!((event.status, event.body.as_str()), (200, "{\"a\":1}"));
        let trace =
            crate::recursion::counted(Some("Root=1-a-b;Parent=c;Sampled=0"), &super::fixtures::reference("f")).unwrap();
        for (name, value) in [
            ("Lambda-Runtime-Aws-Request-Id", "r-1"),
            ("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:000000000000:function:f"),
            ("Lambda-Runtime-Trace-Id", trace.as_str()),
            ("Lambda-Runtime-Client-Context", "{\"custom\":{}}"),
            ("Content-Type", "application/json"),
        ] {
            assert_eq!(event.header(name), Some(value), "{name}");
        }
        assert_eq!(event.header("Lambda-Runtime-Cognito-Identity"), None);
        let deadline: u64 = event.header("Lambda-Runtime-Deadline-Ms").unwrap().parse().unwrap();
        assert!((super::fixtures::START_MS + 3_000..super::fixtures::START_MS + 4_000).contains(&deadline));
        let early = next(address).await;
        assert_eq!(early.status, 403);
        assert!(early.body.contains("\"errorType\":\"InvalidStateTransition\""), "{}", early.body);
        let wrong = post(address, "runtime/invocation/other/response", "1").await;
        assert_eq!(wrong.body, r#"{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}"#);
        let done =
            request(address, "POST", "runtime/invocation/r-1/response", "content-type: text/x\r\n", "done").await;
        assert_eq!((done.status, done.body.trim_end()), (202, "{\"status\":\"OK\"}"));
        let again = post(address, "runtime/invocation/r-1/response", "again").await;
        assert_eq!(again.status, 400);
    });
    let outcome = outcome.unwrap();
    assert_eq!((outcome.payload, outcome.content_type.as_deref()), ("done".into(), Some("text/x")));
    world.until("it is over", |world| has_report(world, "Status: timeout")).await;
    assert!(world.lines.messages().last().unwrap().contains("Init Duration"));
}

#[tokio::test]
async fn the_next_call_waits_for_the_runtime_and_is_warm() {
    let world = world();
    played(&world, |address| async move {
        next(address).await;
        post(address, "runtime/invocation/r-1/response", "1").await;
    })
    .await;
    let asked = tokio::spawn(next(address(&world).await));
    world.until("the call is over", |world| world.records.0.lock().len() == 1).await;
    let outcome = played(&world, |address| async move {
        asked.await.unwrap();
        let error = "{\"errorType\":\"E\",\"errorMessage\":\"m\"}";
        assert_eq!(post(address, "runtime/invocation/r-1/error", error).await.status, 202);
        let _waiting = tokio::spawn(next(address));
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    })
    .await;
    assert_eq!(error_type(&outcome), "E");
    assert_eq!(outcome.payload, "{\"errorType\":\"E\",\"errorMessage\":\"m\"}");
    assert_eq!(world.guests.started(), 1);
}

/// The address of the Runtime API of the environment that comes after this one.
async fn address_after(world: &World, first: SocketAddr) -> SocketAddr {
    world.until("there is another", |world| *world.guests.runtime_api.lock() != Some(first)).await;
    address(world).await
}

#[tokio::test(start_paused = true)]
async fn init_errors_pass_unchanged() {
    let world = world();
    let error = |n: u32| format!("{{\"errorType\":\"Runtime.Custom{n}\",\"errorMessage\":\"m\"}}");
    let outcome = played(&world, async |first| {
        assert_eq!(post(first, "runtime/init/error", &error(1)).await.status, 202);
        let second = address_after(&world, first).await;
        assert_eq!(post(second, "runtime/init/error", &error(2)).await.status, 202);
    })
    .await;
    assert_eq!(outcome.payload, error(2), "the init of the call's own time is its answer");
    let lines = world.lines.messages();
    let reports: Vec<_> =
        lines.iter().filter_map(|line| line.split_once(" ms\tPhase: ")).map(|(_, rest)| rest).collect();
    assert_eq!(
        reports,
        ["init\tStatus: error\tError Type: Runtime.Custom1", "invoke\tStatus: error\tError Type: Runtime.Custom2"]
    );
    assert!(lines.last().unwrap().ends_with("Status: error\tError Type: Runtime.Custom2"), "{lines:?}");
    assert_eq!(world.records.0.lock().len(), 1);
}

/// Posts an error whose type is said beside the document.
async fn fail_as(address: SocketAddr, path: &str, said: &str) -> Reply {
    let headers = format!("lambda-runtime-function-error-type: {said}\r\n");
    request(address, "POST", path, &headers, "{\"errorType\":\"Mine\"}").await
}

#[tokio::test(start_paused = true)]
async fn the_type_that_is_said_beside_an_init_error_is_the_logs() {
    let world = world();
    let outcome = played(&world, async |first| {
        fail_as(first, "runtime/init/error", "Runtime.NoSuchModule").await;
        fail_as(address_after(&world, first).await, "runtime/init/error", "custom").await;
    })
    .await;
    assert_eq!((error_type(&outcome), &outcome.payload[..]), ("Mine", &b"{\"errorType\":\"Mine\"}"[..]));
    let lines = world.lines.messages();
    let told = |phase: &str, kind: &str| {
        let end = format!("\tPhase: {phase}\tStatus: error\tError Type: {kind}");
        lines.iter().any(|line| line.ends_with(&end))
    };
    assert!(told("init", "Runtime.NoSuchModule") && told("invoke", "Runtime.Unknown"), "{lines:?}");
    assert!(has_report(&world, "Status: error\tError Type: Runtime.Unknown"), "{lines:?}");
}

#[tokio::test]
async fn the_type_that_is_said_beside_an_error_is_the_records() {
    let world = world();
    world.deploy("f", "", |version| {
        version.runtime = Runtime::parse("provided.al2023").unwrap();
        version.json_log = Some(JsonLog { application: ApplicationLevel::Info, system: SystemLevel::Debug });
    });
    let outcome = played(&world, async |address| {
        next(address).await;
        fail_as(address, "runtime/invocation/r-1/error", "Function.NotToday").await;
        tokio::spawn(next(address));
    })
    .await;
    assert_eq!(error_type(&outcome), "Mine");
    let told = "\"status\":\"error\",\"errorType\":\"Function.NotToday\"";
    for kind in ["platform.runtimeDone", "platform.report"] {
        let is_there = |line: &String| line.contains(kind) && line.contains("Function.NotToday") && line.contains(told);
        world.until(kind, |world| world.lines.messages().iter().any(is_there)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_init_that_succeeds_when_it_is_repeated_serves_the_call() {
    let world = world();
    let outcome = played(&world, async |first| {
        assert_eq!(post(first, "runtime/init/error", "{\"errorType\":\"E\"}").await.status, 202);
        let second = address_after(&world, first).await;
        assert_eq!(next(second).await.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        post(second, "runtime/invocation/r-1/response", "1").await;
        tokio::spawn(next(second));
    })
    .await;
    assert_eq!((outcome.payload, outcome.error), ("1".into(), None));
    world.until("it is over", |world| has_report(world, "Duration: 5")).await;
    let report = world.lines.messages().pop().unwrap();
    assert!(!report.contains("Init Duration"), "the repeated init is the call's own time: {report}");
    assert_eq!(world.records.0.lock()[0].init_us, None);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_init_has_the_functions_time() {
    let world = world();
    let outcome = played(&world, async |first| {
        assert_eq!(post(first, "runtime/init/error", "{}").await.status, 202);
    })
    .await;
    assert_eq!(error_type(&outcome), "Sandbox.Timedout");
    let lines = world.lines.messages();
    assert!(
        lines.contains(&"INIT_REPORT Init Duration: 3000.00 ms\tPhase: invoke\tStatus: timeout".to_owned()),
        "{lines:?}"
    );
    world.until("the sandboxes are gone", |world| world.guests.alive() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_init_error_after_init_is_refused() {
    let world = world();
    played(&world, |address| async move {
        next(address).await;
        let late = post(address, "runtime/init/error", "{}").await;
        assert_eq!(late.status, 403);
        assert!(late.body.contains(
            "State transition from RuntimeRunning to RuntimeInitError failed for runtime. \
             Error: State transition is not allowed"
        ));
        post(address, "runtime/invocation/r-1/response", "1").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn large_answers_get_a_413_and_an_error() {
    let world = world();
    let outcome = played(&world, |address| async move {
        next(address).await;
        let reply = post(address, "runtime/invocation/r-1/response", &"x".repeat(6_291_557)).await;
        assert_eq!(reply.status, 413);
        assert_eq!(
            reply.body,
            r#"{"errorMessage":"Exceeded maximum allowed payload size (6291556 bytes).","errorType":"RequestEntityTooLarge"}"#
        );
    })
    .await;
    assert_eq!(error_type(&outcome), "Function.ResponseSizeTooLarge");
}

#[tokio::test(start_paused = true)]
async fn streamed_answers_are_collected() {
    let world = world();
    let head = "POST /2018-06-01/runtime/invocation/r-1/response HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                transfer-encoding: chunked\r\n";
    let streaming = "lambda-runtime-function-response-mode: streaming\r\n";
    let whole = format!("{head}{streaming}\r\n2\r\n{{\"\r\n5\r\na\":1}}\r\n0\r\n\r\n");
    let outcome = played(&world, |address| async move {
        next(address).await;
        assert_eq!(raw(address, whole.as_bytes()).await.status, 202);
    })
    .await;
    assert_eq!(outcome.payload, "{\"a\":1}");

    let failed = format!(
        "{head}{streaming}trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n2\r\nab\r\n0\r\n\
         Lambda-Runtime-Function-Error-Type: E\r\nLambda-Runtime-Function-Error-Body: eyJlcnJvclR5cGUiOiJFIn0=\r\n\r\n"
    );
    let outcome = played(&world, |address| async move {
        next(address).await;
        assert_eq!(raw(address, failed.as_bytes()).await.status, 202);
    })
    .await;
    assert_eq!((error_type(&outcome), &outcome.payload[..]), ("E", &b"{\"errorType\":\"E\"}"[..]));

    let outcome = played(&world, |address| async move {
        next(address).await;
        let mode = "lambda-runtime-function-response-mode: odd\r\n";
        let reply = request(address, "POST", "runtime/invocation/r-1/response", mode, "1").await;
        assert_eq!(
            reply.body,
            r#"{"errorMessage":"Invalid function response mode","errorType":"InvalidFunctionResponseMode"}"#
        );
    })
    .await;
    assert_eq!(error_type(&outcome), "Runtime.InvalidResponseModeHeader");
}

#[tokio::test(start_paused = true)]
async fn streamed_answers_pass_as_they_come() {
    use model::ports::Invoker;
    use model::{Answered, Piece};
    let world = world();
    let head = "POST /2018-06-01/runtime/invocation/r-1/response HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                content-type: text/x\r\ntransfer-encoding: chunked\r\n\
                trailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n";
    let streaming = "lambda-runtime-function-response-mode: streaming\r\n";
    let failed = "0\r\nLambda-Runtime-Function-Error-Type: E\r\n\
                  Lambda-Runtime-Function-Error-Body: eyJlcnJvclR5cGUiOiJFIn0=\r\n\r\n";
    for (mode, last, error_type) in [
        (streaming, "0\r\n\r\n", None),
        (streaming, failed, Some("E")),
        (streaming, "x", Some("Runtime.TruncatedResponse")),
        // AWS's client for Go names no mode.
        ("", "0\r\n\r\n", None),
        ("", failed, Some("E")),
    ] {
        let (answered, mut stream) = tokio::join!(world.engine.invoke_streaming(invocation("f", "r-1", "1")), async {
            let address = address(&world).await;
            next(address).await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("{head}{mode}\r\n5\r\nfirst\r\n").as_bytes()).await.unwrap();
            stream
        });
        let Answered::Streamed(mut answer) = answered.unwrap() else { panic!("it came whole") };
        assert_eq!(answer.content_type.as_deref(), Some("text/x"));
        let Piece::Chunk(first) = answer.next().await else { panic!("the end came first") };
        assert_eq!(first, "first");
        stream.write_all(format!("3\r\nend\r\n{last}").as_bytes()).await.unwrap();
        if last == "x" {
            stream.shutdown().await.unwrap();
        }
        let Piece::Chunk(second) = answer.next().await else { panic!("the end came too early") };
        assert_eq!(second, "end");
        let Piece::End(outcome) = answer.next().await else { panic!("a third piece") };
        assert_eq!(outcome.error.map(|error| error.error_type).as_deref(), error_type);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_off_answer_is_an_error() {
    let world = world();
    let outcome = played(&world, |address| async move {
        next(address).await;
        let head =
            "POST /2018-06-01/runtime/invocation/r-1/response HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nab";
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
    })
    .await;
    assert_eq!(error_type(&outcome), "Runtime.TruncatedResponse");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_says_so() {
    let world = world();
    played(&world, |address| async move {
        let reply = request(address, "GET", "runtime/restore/next", "", "").await;
        assert_eq!((reply.status, reply.body.contains("snapshots")), (501, true));
        let nonsense = b"GET /2020-01-01/extension/nonsense HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        assert_eq!(raw(address, nonsense).await.status, 404);
        assert_eq!(request(address, "GET", "nonsense", "", "").await.status, 404);
        assert_eq!(request(address, "GET", "ping", "", "").await.body, "pong");
        next(address).await;
        post(address, "runtime/invocation/r-1/response", "1").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_and_a_timeout_during_a_call() {
    let world = world();
    let guests = world.guests.clone();
    let outcome = played(&world, |address| async move {
        next(address).await;
        guests.crash_all(7);
    })
    .await;
    assert!(std::str::from_utf8(&outcome.payload).unwrap().contains("exit status 7"));
    *world.guests.runtime_api.lock() = None;
    let outcome = played(&world, |address| async move {
        next(address).await;
    })
    .await;
    assert_eq!(error_type(&outcome), "Sandbox.Timedout");
    world.until("the sandboxes are gone", |world| world.guests.alive() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_dies_after_its_answer_costs_nobody_a_call() {
    let world = world();
    let guests = world.guests.clone();
    played(&world, |address| async move {
        next(address).await;
        post(address, "runtime/invocation/r-1/response", "1").await;
    })
    .await;
    guests.crash_all(1);
    *world.guests.runtime_api.lock() = None;
    let outcome = played(&world, |address| async move {
        next(address).await;
        post(address, "runtime/invocation/r-1/response", "2").await;
    })
    .await;
    assert_eq!(outcome.payload, "2");
}

#[tokio::test]
async fn a_call_is_over_when_the_runtime_asks_for_the_next_one() {
    let world = world();
    let outcome = played(&world, |address| async move {
        next(address).await;
        post(address, "runtime/invocation/r-1/response", "1").await;
    })
    .await;
    assert_eq!(outcome.payload, "1");
    assert!(world.records.0.lock().is_empty(), "the caller has its answer before the call is over");
    assert!(!world.lines.messages().iter().any(|line| line.starts_with("END") || line.starts_with("REPORT")));
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(world.records.0.lock().is_empty());
    let waiting = tokio::spawn(next(address(&world).await));
    world.until("it is metered", |world| world.records.0.lock().len() == 1).await;
    let UsageRecord { duration_us, ending, .. } = world.records.0.lock()[0].clone();
    assert!((1_000_000..2_000_000).contains(&duration_us), "{duration_us}");
    assert_eq!(ending, Ending::Success);
    world.until("the log says so", |world| has_report(world, "Duration: 1")).await;
    waiting.abort();
    assert_eq!(world.guests.started(), 1);
}

#[tokio::test]
async fn who_has_its_answer_may_call_again() {
    use model::ports::Invoker;
    let world = world();
    world.deploy("f", "", |version| {
        version.runtime = Runtime::parse("provided.al2023").unwrap();
        version.reserved_concurrency = Some(1);
    });
    let throttled = |outcome: Result<Outcome, InvokeError>| matches!(outcome, Err(InvokeError::Throttled(_)));
    played(&world, async |address| {
        next(address).await;
        assert!(throttled(world.call("f", "2").await), "one runs");
        post(address, "runtime/invocation/r-1/response", "1").await;
    })
    .await;
    let engine = world.engine.clone();
    let again = tokio::spawn(async move { engine.invoke(invocation("f", "r-2", "2")).await });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(throttled(world.call("f", "3").await), "one waits for the one place");
    assert!(!again.is_finished());
    let address = address(&world).await;
    assert_eq!(next(address).await.header("Lambda-Runtime-Aws-Request-Id"), Some("r-2"));
    post(address, "runtime/invocation/r-2/response", "2").await;
    assert_eq!(again.await.unwrap().unwrap().payload, "2");
    assert_eq!(world.guests.started(), 1);
}

#[tokio::test]
async fn work_after_an_answer_has_the_time_of_the_call() {
    let world = world();
    let outcome = played(&world, |address| async move {
        next(address).await;
        post(address, "runtime/invocation/r-1/response", "1").await;
    })
    .await;
    assert_eq!((outcome.payload, outcome.error), ("1".into(), None), "the answer stays");
    world.until("it is over", |world| has_report(world, "Duration: 3000.00 ms")).await;
    let messages = world.lines.messages();
    let at = messages.iter().position(|line| line.contains("r-1 Task timed out after 3.00 seconds")).unwrap();
    assert!(messages[at + 1].starts_with("END ") && messages[at + 2].contains("Status: timeout"), "{messages:?}");
    let UsageRecord { duration_us, ending, .. } = world.records.0.lock()[0].clone();
    assert_eq!((duration_us, ending), (3_000_000, Ending::Timeout));
    world.until("the sandbox is gone", |world| world.guests.alive() == 0).await;
}

#[tokio::test]
async fn an_exit_after_an_answer_is_told() {
    for (code, words) in [
        (3, "Runtime exited with error: exit status 3"),
        // A runtime that has served enough has not asked for its next call either.
        (0, "Runtime exited without providing a reason"),
    ] {
        let world = world();
        let guests = world.guests.clone();
        let outcome = played(&world, |address| async move {
            next(address).await;
            post(address, "runtime/invocation/r-1/response", "1").await;
        })
        .await;
        assert_eq!((outcome.payload, outcome.error), ("1".into(), None), "the answer stays");
        guests.crash_all(code);
        world.until("it is over", |world| has_report(world, "Status: error\tError Type: Runtime.ExitError")).await;
        assert!(world.lines.messages().iter().any(|line| line.contains(words)), "{:?}", world.lines.messages());
        assert_eq!(world.records.0.lock()[0].ending, Ending::Crash);
    }
}

#[tokio::test]
async fn a_tail_has_what_comes_after_the_answer() {
    use model::ports::Invoker;
    let world = world();
    let mut call = invocation("f", "r-1", "1");
    call.log_tail = true;
    let (outcome, ()) = tokio::join!(world.engine.invoke(call), async {
        let address = address(&world).await;
        next(address).await;
        post(address, "runtime/invocation/r-1/response", "1").await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        tokio::spawn(next(address));
    });
    let tail = outcome.unwrap().log_tail.unwrap();
    let tail = std::str::from_utf8(&tail).unwrap();
    assert!(tail.contains("END RequestId: r-1\nREPORT RequestId: r-1\tDuration: 5"), "{tail}");
}
