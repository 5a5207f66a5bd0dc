//! One call at a time: answers, failures, log lines, records.
//!
//! The handler's name selects what the guest does; see `guests`. Words and numbers are those of Lambda.

use std::time::Duration;

use bytes::Bytes;
use model::{ApplicationLevel, Ending, InvokeError, JsonLog, Outcome, SystemLevel};
use serde_json::Value;

use super::fixtures::{World, invocation};
use super::guests::Guests;

fn error_type(outcome: &Outcome) -> &str {
    let error = outcome.error.as_ref().unwrap();
    assert_eq!(error.kind, "Unhandled");
    &error.error_type
}

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_logged_and_metered() {
    let world = World::new();
    let outcome = world.call_of("print 2").await;
    assert_eq!(outcome.payload, "{\"a\": 1}");
    assert_eq!(outcome.error, None);
    assert_eq!(outcome.executed_version, "$LATEST");
    assert_eq!(outcome.log_tail, None);
    let lines = world.lines.messages();
    assert!(
        lines[0].starts_with("INIT_START Runtime Version: nodejs:22.1.0\tRuntime Version ARN: arn:"),
        "{}",
        lines[0]
    );
    let report = lines.last().unwrap();
    assert!(report.starts_with("REPORT RequestId: r-1\tDuration: 0.00 ms\tBilled Duration: 1 ms\t"), "{report}");
    assert!(report.ends_with("Max Memory Used: 10 MB\tInit Duration: 0.00 ms\t"), "{report}");
    assert_eq!(
        lines[1..lines.len() - 1],
        ["loading", "START RequestId: r-1 Version: $LATEST", "line 0", "line 1", "unfinished", "END RequestId: r-1"]
    );
    let records = world.records.0.lock();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].ending, records[0].billed_ms, records[0].cpu_us), (Ending::Success, 1, 700));
    assert_eq!(records[0].init_us, Some(0));
}

#[tokio::test(start_paused = true)]
async fn no_report_has_more_memory_than_the_function_may_have() {
    let world = World::new();
    world.call_of("print 1").await;
    let memory_mb = world.records.0.lock()[0].memory_mb;
    let most = u64::from(memory_mb) << 20;
    for (counted, shown) in [(most - (1 << 20), memory_mb - 1), (most, memory_mb), (most + 4_096, memory_mb)] {
        world.guests.swell(counted);
        let _ = world.call("f", "1").await.unwrap();
        let lines = world.lines.messages();
        assert!(lines.last().unwrap().contains(&format!("Max Memory Used: {shown} MB\t")), "{lines:?}");
        assert_eq!(world.records.0.lock().last().unwrap().memory_peak_bytes, counted.min(most));
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_in_json_has_records_of_its_level() {
    let kinds = async |system, handler: &str| {
        let world = World::new();
        world.deploy("f", handler, |version| {
            version.json_log = Some(JsonLog { application: ApplicationLevel::Info, system });
        });
        let _ = world.call("f", "1").await.unwrap();
        let lines = world.lines.messages();
        let records = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let kind = |record: &Value| record["type"].as_str()?.strip_prefix("platform.").map(str::to_owned);
        records.filter_map(|record| kind(&record)).collect::<Vec<_>>()
    };
    let all = ["initStart", "initRuntimeDone", "initReport", "start", "runtimeDone", "report"];
    assert_eq!(kinds(SystemLevel::Debug, "print 1").await, all);
    assert_eq!(kinds(SystemLevel::Info, "print 1").await, ["initStart", "start", "report"]);
    assert_eq!(kinds(SystemLevel::Warn, "print 1").await, Vec::<String>::new());
    assert_eq!(kinds(SystemLevel::Warn, "throw").await, ["runtimeDone", "report"], "a function's own error is one");
    assert_eq!(kinds(SystemLevel::Warn, "exit 3").await, ["runtimeDone", "report"]);
    let init = ["initRuntimeDone", "initReport"];
    let failed = [&init[..], &init, &["runtimeDone", "report"]].concat();
    assert_eq!(kinds(SystemLevel::Warn, "init_error").await, failed);
}

#[tokio::test(start_paused = true)]
async fn the_second_call_is_warm() {
    let world = World::new();
    world.call_of("echo").await;
    world.call("f", "2").await.unwrap();
    assert_eq!(world.guests.started(), 1);
    assert!(!world.lines.messages().last().unwrap().contains("Init Duration"));
    assert_eq!(world.records.0.lock()[1].init_us, None);
    let shown = world.engine.environments();
    assert_eq!((shown.len(), shown[0].served), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn the_guest_sees_the_call() {
    let world = World::new();
    world.deploy("f", "meta", |_| {});
    let mut invocation = invocation("f", "r-9", "{}");
    invocation.trace_id = Some("Root=1-a-b".into());
    invocation.client_context = Some("{\"x\":1}".into());
    let outcome = tokio_test_call(&world, invocation).await;
    let meta: serde_json::Value = serde_json::from_slice(&outcome.payload).unwrap();
    assert_eq!(meta["requestId"], "r-9");
    assert_eq!(meta["functionArn"], "arn:aws:lambda:us-east-1:000000000000:function:f");
    let trace = meta["traceId"].as_str().unwrap();
    let whole = trace.starts_with("Root=1-a-b;Parent=") && trace.contains(";Sampled=0;Lineage=1:");
    assert!(whole && trace.ends_with(":1"), "decided, and with this call counted: {trace}");
    assert_eq!(meta["clientContext"], "{\"x\":1}");
    assert_eq!(meta["deadlineMs"], super::fixtures::START_MS + 3_000);
    let spec = world.guests.specs.lock()[0].clone();
    assert!(spec.environment.contains(&("AWS_SESSION_TOKEN".into(), "f".into())));
    let stream = spec.environment.iter().find(|(name, _)| name == "AWS_LAMBDA_LOG_STREAM_NAME").unwrap();
    assert_eq!(*stream.1, *world.lines.0.lock()[0].stream);
    assert!(stream.1.starts_with("2023/11/14/[$LATEST]"), "{}", stream.1);
}

async fn tokio_test_call(world: &World, invocation: model::Invocation) -> Outcome {
    use model::ports::Invoker;
    world.engine.invoke(invocation).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_functions_own_error_passes_unchanged() {
    let world = World::new();
    let outcome = world.call_of("throw").await;
    assert_eq!(outcome.payload, r#"{"errorType":"TypeError","errorMessage":"x","trace":[]}"#);
    assert_eq!(error_type(&outcome), "TypeError");
    world.call("f", "1").await.unwrap();
    assert_eq!(world.guests.started(), 1, "the environment is sound");
    assert_eq!(world.records.0.lock()[0].ending, Ending::FunctionError);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_ends_the_environment() {
    let world = World::new();
    let outcome = world.call_of("sleep 60000").await;
    assert_eq!(
        outcome.payload,
        r#"{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: r-1 Error: Task timed out after 3.00 seconds"}"#
    );
    let lines = world.lines.messages();
    assert_eq!(lines[3], "2023-11-14T22:13:23.000Z r-1 Task timed out after 3.00 seconds\n");
    assert!(lines[5].contains("Duration: 3000.00 ms\tBilled Duration: 3000 ms\t"), "{}", lines[5]);
    assert!(lines[5].ends_with("\tStatus: timeout"), "{}", lines[5]);
    assert_eq!(world.records.0.lock()[0].ending, Ending::Timeout);
    world.until("the sandbox is gone", |world| world.guests.alive() == 0).await;
    world.deploy("f", "echo", |version| version.revision = "2".into());
    world.call("f", "1").await.unwrap();
    assert_eq!(world.guests.started(), 2);
}

#[tokio::test(start_paused = true)]
async fn exits_are_reported_as_lambda_does() {
    let world = World::new();
    let outcome = world.call_of("exit 1").await;
    assert_eq!(
        outcome.payload,
        r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: r-1 Error: Runtime exited with error: exit status 1"}"#
    );
    let lines = world.lines.messages();
    assert_eq!(lines[3], "last words");
    assert_eq!(lines[4], "RequestId: r-1 Error: Runtime exited with error: exit status 1\nRuntime.ExitError");
    assert!(lines[6].ends_with("Status: error\tError Type: Runtime.ExitError"));
    assert_eq!(world.records.0.lock()[0].ending, Ending::Crash);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_ends_the_process_is_an_exit_as_well() {
    let world = World::new();
    let outcome = world.call_of("die 129").await;
    assert_eq!(outcome.payload, r#"{"errorType":"Error","errorMessage":"uncaught"}"#);
    assert_eq!(error_type(&outcome), "Error");
    let lines = world.lines.messages();
    assert_eq!(lines[3], "RequestId: r-1 Error: Runtime exited with error: exit status 129\nRuntime.ExitError");
    assert!(lines[5].ends_with("Status: error\tError Type: Runtime.ExitError"), "{}", lines[5]);
    assert_eq!(world.records.0.lock()[0].ending, Ending::Crash);

    // One that does not end by itself is ended.
    let world = World::new();
    let outcome = world.call_of("die 0").await;
    assert_eq!(error_type(&outcome), "Error");
    assert!(world.lines.messages().iter().any(|line| line.contains("exited with error: signal: killed")));
    world.until("the sandboxes are gone", |world| world.guests.alive() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn out_of_memory_is_told() {
    let world = World::new();
    let outcome = world.call_of("oom").await;
    assert_eq!(error_type(&outcome), "Runtime.ExitError");
    assert!(std::str::from_utf8(&outcome.payload).unwrap().contains("signal: killed"));
    assert!(world.lines.messages().last().unwrap().ends_with("Error Type: Runtime.OutOfMemory"));
    assert_eq!(world.records.0.lock()[0].ending, Ending::OutOfMemory);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_talks_nonsense_is_ended() {
    let world = World::new();
    let outcome = world.call_of("garbage").await;
    assert_eq!(error_type(&outcome), "Runtime.Unknown");
    world.until("the sandbox is gone", |world| world.guests.alive() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_stray_answer_never_reaches_another_caller() {
    let world = World::new();
    world.call_of("twice").await;
    for payload in ["1", "2", "3"] {
        assert_eq!(world.call("f", payload).await.unwrap().payload, payload);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_have_a_size_limit() {
    let world = World::new();
    let outcome = world.call_of("large 6291556").await;
    assert_eq!((outcome.payload.len(), outcome.error), (6_291_556, None));
    for bytes in [6_291_557, 20_000_000] {
        world.deploy("f", &format!("large {bytes}"), |version| version.revision = bytes.to_string());
        let outcome = world.call("f", "1").await.unwrap();
        assert_eq!(error_type(&outcome), "Function.ResponseSizeTooLarge", "{bytes}");
        assert!(outcome.payload.starts_with(b"{\"errorType\":\"Function.ResponseSizeTooLarge\""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_init_is_the_answer() {
    let world = World::new();
    let outcome = world.call_of("init_error").await;
    assert_eq!(outcome.payload, r#"{"errorType":"Runtime.ImportModuleError","errorMessage":"no"}"#);
    assert_eq!(error_type(&outcome), "Runtime.ImportModuleError");
    let lines = world.lines.messages();
    assert_eq!(lines[1], "loading");
    assert_eq!(
        lines[2],
        "INIT_REPORT Init Duration: 0.00 ms\tPhase: init\tStatus: error\tError Type: Runtime.ImportModuleError"
    );
    assert!(lines[3].starts_with("INIT_START ") && lines[4] == "loading", "{lines:?}");
    assert_eq!(
        lines[5],
        "INIT_REPORT Init Duration: 0.00 ms\tPhase: invoke\tStatus: error\tError Type: Runtime.ImportModuleError"
    );
    assert_eq!(lines[6], "START RequestId: r-1 Version: $LATEST");
    assert!(lines[8].ends_with("\tStatus: error\tError Type: Runtime.ImportModuleError"), "{lines:?}");
    assert_eq!((world.guests.started(), lines.len()), (2, 9), "the call repeats it once");
    world.call("f", "1").await.unwrap();
    assert_eq!(world.guests.started(), 4, "it is tried again for the next call");
    assert_eq!(world.records.0.lock().len(), 2);
    world.until("the sandboxes are gone", |world| world.guests.alive() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_crowd_repeats_a_failing_init_once_for_each_call() {
    use model::ports::Invoker;
    let world = World::with(Guests::booting(Duration::from_millis(50)), |config| config.starts_max = 1);
    world.deploy("f", "init_error", |_| {});
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..10 {
        let engine = world.engine.clone();
        calls.spawn(async move { engine.invoke(invocation("f", &call.to_string(), "1")).await.unwrap() });
    }
    for outcome in calls.join_all().await {
        assert_eq!(error_type(&outcome), "Runtime.ImportModuleError");
    }
    assert!(world.guests.started() <= 20, "{}", world.guests.started());
    world.until("the sandboxes are gone", |world| world.guests.alive() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_in_init_and_a_missing_program_are_told() {
    let world = World::new();
    let outcome = world.call_of("init_exit").await;
    assert!(std::str::from_utf8(&outcome.payload).unwrap().contains("exit status 3"));
    world.deploy("g", "missing", |_| {});
    let outcome = world.call("g", "1").await.unwrap();
    assert_eq!(
        outcome.payload,
        r#"{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: r-1 Error: fork/exec /var/task/bootstrap: no such file or directory"}"#
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_init_is_cut_and_repeated_within_the_call() {
    let world = World::new();
    world.deploy("f", "slow_init 15000", |version| version.timeout_ms = 20_000);
    let outcome = world.call("f", "1").await.unwrap();
    assert_eq!(outcome.payload, "1");
    let lines = world.lines.messages();
    assert!(
        lines.contains(&"INIT_REPORT Init Duration: 10000.00 ms\tPhase: init\tStatus: timeout".to_owned()),
        "{lines:?}"
    );
    let report = lines.last().unwrap();
    assert!(report.contains("\tDuration: 15") && !report.contains("Init Duration"), "{report}");
    world.call("f", "2").await.unwrap();
    assert_eq!(world.guests.started(), 2, "the environment of the repeated init is kept");

    world.deploy("g", "slow_init 15000", |_| {});
    let outcome = world.call("g", "1").await.unwrap();
    assert_eq!(error_type(&outcome), "Sandbox.Timedout");
}

#[tokio::test(start_paused = true)]
async fn the_tail_holds_the_calls_lines() {
    let world = World::new();
    world.deploy("f", "print 500", |_| {});
    for _ in 0..2 {
        let mut invocation = invocation("f", "r-1", "1");
        invocation.log_tail = true;
        let tail = tokio_test_call(&world, invocation).await.log_tail.unwrap();
        assert_eq!(tail.len(), 4_096);
        let text = String::from_utf8(tail.to_vec()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[lines.len() - 4..lines.len() - 1], ["line 499", "unfinished", "END RequestId: r-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn refused_calls_reach_no_environment() {
    let world = World::with(Guests::without_python(), |_| {});
    world.deploy("f", "echo", |_| {});
    assert!(matches!(world.call("nobody", "1").await, Err(InvokeError::NotFound(_))));
    assert!(matches!(world.call("f", "{").await, Err(InvokeError::PayloadNotJson(_))));
    let mut large = invocation("f", "r", "");
    large.payload = Bytes::from(vec![b' '; 6 * 1024 * 1024 + 1]);
    use model::ports::Invoker;
    assert!(matches!(world.engine.invoke(large).await, Err(InvokeError::PayloadTooLarge { .. })));
    world.deploy("python", "echo", |version| version.runtime = model::Runtime::parse("python3.12").unwrap());
    assert!(matches!(world.call("python", "1").await, Err(InvokeError::NotReady(_))));
    assert!(matches!(world.engine.dry_run(&super::fixtures::reference("python")).await, Err(InvokeError::NotReady(_))));
    world.deploy("bad", "echo", |version| {
        version.code = model::CodeDigest::parse(&format!("bad{}", "0".repeat(61))).unwrap()
    });
    assert!(matches!(world.call("bad", "1").await, Err(InvokeError::NotReady(_))));
    world.engine.dry_run(&super::fixtures::reference("f")).await.unwrap();
    assert_eq!(world.guests.started(), 0);
    assert!(world.records.0.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_environment_that_dies_idle_costs_nobody_a_call() {
    let world = World::with(Guests::new(), |_| {});
    world.call_of("echo").await;
    world.guests.crash_all(1);
    tokio::task::yield_now().await;
    let outcome = world.call("f", "2").await.unwrap();
    assert_eq!((outcome.payload, outcome.error), (Bytes::from_static(b"2"), None));
    world.until("only the new one is shown", |world| world.engine.environments().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.guests.started(), 2);
}
