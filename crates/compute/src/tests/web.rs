//! Web servers: calls that share an environment, its end, and starts that fail. The servers are real ones of this process.

use std::sync::Arc;

use http::Request;
use model::ports::Invoker as _;
use model::{Body, Invocation, Outcome, Piece, WebAnswer, WebCall, WebServer};

use super::fixtures::{World, invocation};

/// A world with one web server that takes so many calls at once.
fn world(command: &str, concurrency: u32) -> Arc<World> {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let world = World::new();
    world.deploy("web", "echo", |version| {
        version.timeout_ms = 20_000;
        for (name, value) in [
            ("DUNLIN_WEB_COMMAND", command.to_owned()),
            ("DUNLIN_WEB_CONCURRENCY", concurrency.to_string()),
            ("AWS_LWA_PORT", port.to_string()),
        ] {
            version.environment.insert(name.into(), value);
        }
        version.web = WebServer::of(version.runtime.family(), &version.environment, version.timeout_ms).unwrap();
    });
    Arc::new(world)
}

/// The body of the answer to a request, or the outcome without one.
async fn get(world: &World, id: usize, path: &str) -> Result<String, Outcome> {
    let invocation = Invocation { trigger: model::Trigger::FunctionUrl, ..invocation("web", &id.to_string(), "") };
    let request = Request::get(path).body(Body::Whole(bytes::Bytes::new())).unwrap();
    let mut pieces = match world.engine.serve(WebCall { invocation, request }).await.unwrap() {
        WebAnswer::Begun(response) => response.into_body(),
        WebAnswer::Failed(outcome) => return Err(*outcome),
    };
    let mut body = Vec::new();
    loop {
        match std::future::poll_fn(|cx| pieces.poll_piece(cx)).await {
            Piece::Chunk(chunk) => body.extend_from_slice(&chunk),
            Piece::End(outcome) if outcome.error.is_none() => return Ok(String::from_utf8(body).unwrap()),
            Piece::End(outcome) => return Err(*outcome),
        }
    }
}

/// So many requests at once.
async fn all(world: &Arc<World>, count: usize, path: &'static str) -> Vec<Result<String, Outcome>> {
    let mut tasks = tokio::task::JoinSet::new();
    for id in 0..count {
        let world = world.clone();
        tasks.spawn(async move { get(&world, id, path).await });
    }
    tasks.join_all().await
}

#[tokio::test]
async fn calls_share_an_environment_up_to_its_seats() {
    let world = world("serve", 5);
    let answers = all(&world, 5, "/5").await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|body| body == "01")), "{answers:?}");
    assert_eq!(world.guests.started(), 1);
    assert_eq!(world.records.0.lock().len(), 5);
    assert_eq!(world.records.0.lock().iter().filter(|record| record.init_us.is_some()).count(), 1);
}

#[tokio::test]
async fn the_end_of_a_server_is_the_end_of_every_call_in_it_and_of_no_other() {
    let world = world("serve", 3);
    // Two wait for more than will come; the third ends their server once they are there.
    let waiting = {
        let world = world.clone();
        tokio::spawn(async move { all(&world, 2, "/9").await })
    };
    let last = get(&world, 7, "/end").await.unwrap_err();
    assert_eq!(last.error.unwrap().error_type, "Runtime.ExitError");
    for ended in waiting.await.unwrap() {
        let document = String::from_utf8(ended.unwrap_err().payload.to_vec()).unwrap();
        assert!(document.contains("exit status 3"), "{document}");
    }
    assert_eq!(get(&world, 8, "/1").await.unwrap(), "02");
    assert_eq!(world.records.0.lock().len(), 4);
}

#[tokio::test]
async fn a_start_that_fails_is_told_to_each_that_waits_and_once_in_the_log() {
    let world = world("crash", 10);
    let answers = all(&world, 4, "/").await;
    for answer in answers {
        let outcome = answer.unwrap_err();
        assert_eq!(outcome.error.unwrap().error_type, "Runtime.ExitError");
        assert!(String::from_utf8_lossy(&outcome.payload).contains("exit status 7"));
    }
    assert_eq!(world.records.0.lock().len(), 4, "each call is metered");
}

#[tokio::test]
async fn an_environment_is_used_again_and_asked_to_end() {
    let world = world("serve", 2);
    for id in 0..3 {
        assert_eq!(get(&world, id, "/1").await.unwrap(), "01");
    }
    world.engine.drain(std::time::Duration::from_secs(1)).await;
    assert_eq!(world.guests.alive(), 0);
}
