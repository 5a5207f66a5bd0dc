//! Extensions as a program in a sandbox sees them: raw HTTP beside a custom runtime. Those that are processes of their own
//! are in `tests/sdk/test_extensions.py`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::custom_runtimes::{Reply, address, next, post, raw, world};

const PATIENCE: Duration = Duration::from_secs(20);

async fn ask(address: SocketAddr, method: &str, path: &str, id: &str, body: &str) -> Reply {
    let length = body.len();
    let id = if id.is_empty() { String::new() } else { format!("lambda-extension-identifier: {id}\r\n") };
    let text = format!(
        "{method} /{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nlambda-extension-name: inside\r\n\
         lambda-extension-function-error-type: Extension.Own\r\n{id}content-length: {length}\r\n\r\n{body}"
    );
    raw(address, text.as_bytes()).await
}

async fn register(address: SocketAddr) -> String {
    let reply = ask(address, "POST", "2020-01-01/extension/register", "", "{\"events\":[\"INVOKE\"]}").await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.header("lambda-extension-identifier").unwrap().to_owned()
}

async fn next_event(address: SocketAddr, id: &str) -> Reply {
    ask(address, "GET", "2020-01-01/extension/event/next", id, "").await
}

/// Asks for the next event beside what the test does.
fn waiting(address: SocketAddr, id: &str) -> tokio::task::JoinHandle<Reply> {
    let id = id.to_owned();
    tokio::spawn(async move { next_event(address, &id).await })
}

#[tokio::test]
async fn an_answer_does_not_wait_and_the_environment_does() {
    let world = world();
    let (outcome, (address, id)) = tokio::join!(world.call("f", "{}"), async {
        let address = address(&world).await;
        let id = register(address).await;
        let waiting = waiting(address, &id);
        next(address).await;
        let event = timeout(PATIENCE, waiting).await.unwrap().unwrap();
        let event: Value = serde_json::from_str(&event.body).unwrap();
        assert_eq!((&event["eventType"], &event["requestId"]), (&json!("INVOKE"), &json!("r-1")));
        assert_eq!(event["tracing"]["type"], "X-Amzn-Trace-Id");
        post(address, "runtime/invocation/r-1/response", "1").await;
        tokio::spawn(next(address));
        (address, id)
    });
    assert_eq!(outcome.unwrap().payload, "1");
    assert!(world.records.0.lock().is_empty(), "it is metered when the extension is done");
    assert!(!world.lines.messages().iter().any(|line| line.starts_with("REPORT")));
    let waiting = waiting(address, &id);
    world.until("the call is settled", |world| world.records.0.lock().len() == 1).await;
    world
        .until("it takes the next call", |world| {
            world.engine.environments().iter().any(|environment| environment.state == crate::EnvironmentState::Idle)
        })
        .await;
    let line = "EXTENSION\tName: inside\tState: Ready\tEvents: [INVOKE]";
    world.until("the log says so", |world| world.lines.messages().iter().any(|of| of == line)).await;
    let late = ask(address, "POST", "2020-01-01/extension/register", "", "{\"events\":[]}").await;
    assert!(late.status == 403 && late.body.contains("Extension.RegistrationClosed"), "{}", late.body);
    let (outcome, ()) = tokio::join!(world.call("f", "{}"), async {
        // The runtime's last wait has the event; the answer comes from here.
        timeout(PATIENCE, waiting).await.unwrap().unwrap();
        while post(address, "runtime/invocation/r-1/response", "2").await.status != 202 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert_eq!(outcome.unwrap().payload, "2");
    assert_eq!(world.guests.started(), 1, "one environment for both");
}

#[tokio::test]
async fn an_extension_that_gives_up_fails_the_call_at_once() {
    let world = world();
    let (outcome, ()) = tokio::join!(world.call("f", "{}"), async {
        let address = address(&world).await;
        let id = register(address).await;
        let waiting = waiting(address, &id);
        next(address).await;
        timeout(PATIENCE, waiting).await.unwrap().unwrap();
        let gone = ask(address, "POST", "2020-01-01/extension/exit/error", &id, "{}").await;
        assert_eq!(gone.status, 202);
    });
    let outcome = outcome.unwrap();
    assert_eq!(outcome.error.unwrap().error_type, "Extension.ExitError");
    assert!(std::str::from_utf8(&outcome.payload).unwrap().contains("inside: Extension.Own"));
    world.until("the environment ends", |world| world.guests.alive() == 0).await;
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let world = world();
    let (outcome, ()) = tokio::join!(world.call("f", "{}"), async {
        let address = address(&world).await;
        let large = format!("{{\"events\":[\"{}\"]}}", "x".repeat(300_000));
        let reply = ask(address, "POST", "2020-01-01/extension/register", "", &large).await;
        assert_eq!(reply.status, 413);
        next(address).await;
        post(address, "runtime/invocation/r-1/response", "1").await;
    });
    assert_eq!(outcome.unwrap().payload, "1");
}

/// Takes requests and answers them, the first with an error; the events of all.
async fn subscriber(listener: &TcpListener, wanted: &str) -> Vec<Value> {
    let (mut all, mut asked) = (Vec::new(), 0);
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let length = stream.read(&mut chunk).await.unwrap();
            if length == 0 {
                break;
            }
            seen.extend_from_slice(&chunk[..length]);
            let text = String::from_utf8_lossy(&seen).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let bytes: usize =
                head.to_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
            if body.len() < bytes {
                continue;
            }
            assert!(head.starts_with("POST /all HTTP/1.1") && head.contains("sandbox.localdomain:"), "{head}");
            asked += 1;
            if asked == 1 {
                stream.write_all(b"HTTP/1.1 503 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
                break;
            }
            let events: Vec<Value> = serde_json::from_str(body).unwrap();
            all.extend(events);
            stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            if all.iter().any(|event| event["type"] == wanted) {
                return all;
            }
            seen.clear();
        }
    }
}

#[tokio::test]
async fn telemetry_is_sent_until_it_is_taken() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (outcome, (address, id)) = tokio::join!(world.call("f", "{}"), async {
        let address = address(&world).await;
        let id = register(address).await;
        let wish = json!({
            "schemaVersion": "2022-12-13", "types": ["platform"], "buffering": {"timeoutMs": 25},
            "destination": {"protocol": "HTTP", "URI": format!("http://sandbox.localdomain:{port}/all")},
        });
        let reply = ask(address, "PUT", "2022-07-01/telemetry", &id, &wish.to_string()).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, "\"OK\""));
        let waiting = waiting(address, &id);
        next(address).await;
        timeout(PATIENCE, waiting).await.unwrap().unwrap();
        post(address, "runtime/invocation/r-1/response", "1").await;
        tokio::spawn(next(address));
        (address, id)
    });
    assert_eq!(outcome.unwrap().payload, "1");
    tokio::spawn(async move { next_event(address, &id).await });
    let events = timeout(PATIENCE, subscriber(&listener, "platform.report")).await.unwrap();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let order = ["initStart", "telemetrySubscription", "initRuntimeDone", "start", "runtimeDone", "report"];
    let places = order.map(|kind| kinds.iter().position(|of| *of == format!("platform.{kind}")).unwrap_or(usize::MAX));
    assert!(places.is_sorted() && places[5] < usize::MAX, "{kinds:?}");
    let done = &events[places[4]]["record"];
    assert_eq!((&done["requestId"], &done["metrics"]["producedBytes"]), (&json!("r-1"), &json!(1)));
    let line = "TELEMETRY\tName: inside\tState: Subscribed\tTypes: [Platform]";
    world.until("the log says so", |world| world.lines.messages().iter().any(|of| of == line)).await;
}

#[tokio::test]
async fn who_waits_for_the_runtime_hears_when_it_is_ready() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let began = std::time::Instant::now();
    let (outcome, events) = tokio::join!(world.call("f", "{}"), async {
        let address = address(&world).await;
        let id = register(address).await;
        let asked = tokio::spawn(next(address));
        let wish = json!({
            "schemaVersion": "2022-12-13", "types": ["platform"], "buffering": {"timeoutMs": 25},
            "destination": {"protocol": "HTTP", "URI": format!("http://sandbox.localdomain:{port}/all")},
        });
        let reply = ask(address, "PUT", "2022-07-01/telemetry", &id, &wish.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        // It asks for its first event only now.
        let mut events = timeout(PATIENCE, subscriber(&listener, "platform.initRuntimeDone")).await.unwrap();
        assert!(!events.iter().any(|event| event["type"] == "platform.initReport"), "{events:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let waiting = waiting(address, &id);
        timeout(PATIENCE, asked).await.unwrap().unwrap();
        timeout(PATIENCE, waiting).await.unwrap().unwrap();
        post(address, "runtime/invocation/r-1/response", "1").await;
        tokio::spawn(next(address));
        events.extend(timeout(PATIENCE, subscriber(&listener, "platform.runtimeDone")).await.unwrap());
        events
    });
    assert_eq!(outcome.unwrap().payload, "1");
    assert!(began.elapsed() < Duration::from_secs(8), "the init was cut");
    assert_eq!(world.guests.started(), 1);
    let of = |kind: &str| {
        let found: Vec<&Value> = events.iter().filter(|event| event["type"] == format!("platform.{kind}")).collect();
        assert_eq!(found.len(), 1, "{kind}: {events:?}");
        found[0]
    };
    let (done, report) = (of("initRuntimeDone"), of("initReport"));
    assert_eq!((&done["record"]["status"], &report["record"]["status"]), (&json!("success"), &json!("success")));
    let at = |event: &Value| event["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(at(report).duration_since(at(done)).as_millis() >= 300, "each has its own time: {events:?}");
}
