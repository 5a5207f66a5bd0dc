//! The probe in Rust, a component that takes HTTP: does what its event says, as `tests/sdk/behaviour/__init__.py` describes it.
//!
//! Events are posted to `/events`; everything else is a request of a client, whose body it answers as it is.

use std::io::{Read, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wasip2::http::proxy::export!(Probe);

struct Probe;

impl wasip2::exports::http::incoming_handler::Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        begin();
        let path = request.path_with_query().unwrap_or_default();
        let told = request.headers().get("x-amzn-lambda-context").pop().unwrap_or_default();
        let body = read(&request);
        match path.as_str() {
            "/events" => match act(&serde_json::from_slice(&body).expect("an event is JSON"), &told) {
                Ok(answer) => send(out, 200, "application/json", &[answer.to_string().as_bytes()], 0),
                Err(message) => send(out, 500, "text/plain", &[message.as_bytes()], 0),
            },
            "/stream" => {
                let event: Value = serde_json::from_slice(&body).expect("an event is JSON");
                send(out, 200, "text/plain", &[b"first ", b"last"], number(&event, "ms"));
            }
            _ => send(out, 200, "application/octet-stream", &[&body], 0),
        }
    }
}

fn begin() {
    match std::env::var("PROBE_INIT").as_deref() {
        Ok("raise") => panic!("at the start"),
        Ok("exit") => std::process::exit(5),
        Ok("hang") => std::thread::sleep(Duration::from_secs(60)),
        _ => {}
    }
}

fn read(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("it is read once");
    let mut stream = body.stream().expect("it is read once");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the body comes");
    bytes
}

fn send(out: ResponseOutparam, status: u16, kind: &str, pieces: &[&[u8]], between_ms: u64) {
    let headers = Fields::from_list(&[("content-type".to_owned(), kind.as_bytes().to_vec())]).expect("a header");
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a status");
    let body = response.body().expect("a body");
    ResponseOutparam::set(out, Ok(response));
    let mut stream = body.write().expect("a stream");
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            std::thread::sleep(Duration::from_millis(between_ms));
        }
        stream.write_all(piece).expect("somebody reads");
        stream.flush().expect("somebody reads");
    }
    drop(stream);
    OutgoingBody::finish(body, None).expect("an end");
}

fn number(event: &Value, name: &str) -> u64 {
    event[name].as_u64().unwrap_or_default()
}

fn act(event: &Value, told: &[u8]) -> Result<Value, String> {
    let who = format!("{:016x}", wasip2::random::random::get_random_u64());
    let what = event["do"].as_str().unwrap_or_default();
    if ["raise", "exit", "spin", "allocate"].contains(&what) {
        println!("at {who}");
    }
    Ok(match what {
        "raise" => return Err(event["message"].as_str().unwrap_or_default().to_owned()),
        "exit" => std::process::exit(number(event, "code") as i32),
        "spin" => loop {
            std::hint::black_box(());
        },
        "allocate" => {
            let mut held = Vec::new();
            loop {
                held.push(std::hint::black_box(vec![1_u8; 8 << 20]));
            }
        }
        "sleep" | "count" => {
            std::thread::sleep(Duration::from_millis(number(event, "ms")));
            json!({"who": who, "calls": 1})
        }
        "environment" => std::env::vars().map(|(name, value)| (name, Value::from(value))).collect(),
        "context" => facts(told),
        "print" => {
            for line in event["lines"].as_array().into_iter().flatten() {
                println!("{}", line.as_str().unwrap_or_default());
            }
            eprintln!("to stderr");
            Value::Null
        }
        "large" => Value::from("x".repeat(number(event, "bytes") as usize)),
        "files" => files(&who),
        _ => event.clone(),
    })
}

fn files(who: &str) -> Value {
    let mut notes = std::fs::read("/tmp/notes").unwrap_or_default();
    notes.push(b'x');
    std::fs::write("/tmp/notes", &notes).expect("a folder for files");
    let folder = std::env::current_dir().unwrap_or_default();
    let data = std::fs::read_to_string("/var/task/data.txt").expect("a file of the package");
    let refused = std::fs::write("/var/task/new", "").is_err();
    json!({"who": who, "folder": folder, "notes": notes.len(), "refused": refused, "data": data})
}

fn facts(told: &[u8]) -> Value {
    let told: Value = serde_json::from_slice(told).expect("a context is JSON");
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
    let variable = |name: &str| std::env::var(format!("AWS_LAMBDA_{name}")).unwrap_or_default();
    json!({
        "id": told["request_id"], "name": variable("FUNCTION_NAME"), "version": variable("FUNCTION_VERSION"),
        "memory": variable("FUNCTION_MEMORY_SIZE"), "arn": told["invoked_function_arn"], "group": variable("LOG_GROUP_NAME"),
        "stream": variable("LOG_STREAM_NAME"), "left": told["deadline"].as_i64().unwrap_or_default() - now_ms,
        "client": told["client_context"]["custom"],
    })
}
