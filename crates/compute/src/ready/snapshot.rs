//! Takes a snapshot: runs a version's init once, in a zygote of that version alone, for all environments that begin from it.
//!
//! As in an environment, the init has the version's code, layers, variables, limits and network, and credentials of its
//! role; but no name of a log stream, and credentials only by HTTP, as those of a snapshot end before those of its
//! environments do. When it is over the zygote has no network any more, and only forks.
//!
//! Invariants
//!   1. What the init wrote is in the function's log, in a stream of its own, and after it why there is no snapshot.
//!   2. A process that was not found fit for it by its own side (`dunlin_snapshot.py`) is never forked, nor one that has asked
//!      for an extension: that one belongs to one environment.
//!
//! Start reading at `take`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use model::{Family, FunctionVersion};
use sandbox::{Control, Guest, SandboxSpec, Started};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Kind;
use super::boot::{Copies, Zygote};
use crate::container_credentials::{self, Document, Lasting};
use crate::engine::Core;
use crate::environment::exit_of;
use crate::faults::{Fault, error_type_of};
use crate::frames::{Frames, SnapshotEnd};
use crate::output::{Output, Read, Source, Stream};
use crate::records::{self, Line, MadeFrom};
use crate::report::{Phase, Status};
use crate::start::{self, MIB};
use crate::variables;

/// How long an init may take at least. Source: Lambda's documentation of the init phase of functions with SnapStart.
const INIT_CAP_MIN: Duration = Duration::from_secs(130);
/// What is said of how long credentials last: so little that SDKs ask again before each use, and so get those of the
/// environment that they find themselves in.
const STALE_AFTER_MS: u64 = 300_000;
/// How much longer than the longest init the credentials are good.
const CREDENTIALS_S: u64 = 300;

/// Why there is no snapshot.
#[derive(Debug)]
pub(super) enum Untaken {
    /// The init leaves what cannot be forked, and will again.
    Unfit(String),
    /// Something failed.
    Failed(String),
}

/// Runs the init.
pub(super) async fn take(core: &Core, kind: &Kind, version: &FunctionVersion) -> Result<Zygote, Untaken> {
    let token: Arc<str> = core.random.hex(32).into();
    let began_us = core.clock.monotonic_us();
    let (started, stream) = start_guest(core, version, &token).await.map_err(Untaken::Failed)?;
    let Started { channel, output, listeners, control } = started;
    let ends = EndsUnlessTaken(Some(control.clone()));
    let id = start::identity(version, stream.name.rsplit(']').next().unwrap_or_default());
    let output = Output::new(stream, core.clock.clone(), core.log_sink.clone(), Source::Pipe(output));
    let Some(runtime_api) = listeners.runtime_api else {
        let untaken = Untaken::Unfit("this host gives functions no network of their own".to_owned());
        conclude(&output, 0, Status::Fine, Some(&untaken)).await;
        return Err(untaken);
    };
    if version.file_system.is_some() {
        let untaken = Untaken::Unfit("the function has a file system".to_owned());
        conclude(&output, 0, Status::Fine, Some(&untaken)).await;
        return Err(untaken);
    }
    let cap = INIT_CAP_MIN.max(Duration::from_millis(version.timeout_ms));
    let ttl_s = cap.as_secs() + CREDENTIALS_S;
    let credentials = core.authorizer.issue(&version.role_arn, version.function.name.as_str(), ttl_s).await;
    let lasting = Lasting::For { ms: STALE_AFTER_MS, clock: core.clock.clone() };
    let asked = CancellationToken::new();
    let document = Document::new(&token, credentials, lasting);
    let served = container_credentials::serve(runtime_api, document, asked.clone());
    let network = core.network.serve(id, listeners.tcp, listeners.dns, listeners.traces);
    let mut frames = Frames::new(channel).map_err(|error| Untaken::Failed(error.to_string()))?;
    let order = json!({
        "root": variables::TASK_ROOT,
        "handler": version.handler,
        "caches": start::caches_of(core, version),
        "snapshot": true,
    });
    frames.prepare(&order).await.map_err(|error| Untaken::Failed(error.to_string()))?;
    let init = read_beside(&output, frames.snapshot());
    let end = tokio::select! {
        end = timeout(cap, init) => end,
        () = asked.cancelled() => Ok(SnapshotEnd::Unfit("its init registers an extension".to_owned())),
    };
    drop((served, network));
    let init_us = core.clock.monotonic_us().saturating_sub(began_us);
    let untaken = match end {
        Ok(SnapshotEnd::Taken) => None,
        Ok(SnapshotEnd::Unfit(reason)) => Some((Status::Fine, Untaken::Unfit(reason))),
        Ok(SnapshotEnd::Error(document)) => {
            let error_type = error_type_of(&document);
            conclude(&output, init_us, Status::Error(&error_type), None).await;
            return Err(Untaken::Failed(error_type));
        }
        Ok(SnapshotEnd::Exited | SnapshotEnd::Broken) => {
            let fault = Fault::exited(&exit_of(&*control).await);
            conclude(&output, init_us, Status::Error(&fault.report_type), None).await;
            return Err(Untaken::Failed(fault.message));
        }
        Err(_) => Some((Status::Timeout, Untaken::Failed("its init took too long".to_owned()))),
    };
    if let Some((status, untaken)) = untaken {
        conclude(&output, init_us, status, Some(&untaken)).await;
        return Err(untaken);
    }
    conclude(&output, init_us, Status::Fine, None).await;
    let control = ends.taken();
    let copies = Copies { memory_mb: version.memory_mb, token };
    Ok(Zygote::new(kind, control, (frames, output)).with(copies))
}

/// Starts the process that runs the init; with it where its log goes.
async fn start_guest(core: &Core, version: &FunctionVersion, token: &str) -> Result<(Started, Stream), String> {
    let index = start::interpreter_for(core, &version.runtime)?;
    start::prepare(core, version).await.map_err(|error| error.to_string())?;
    let spec = SandboxSpec {
        guest: Guest::Zygote { family: Family::Python, interpreter: index },
        root: None,
        code: Some(version.code.clone()),
        layers: version.layers.clone(),
        files: None,
        memory_bytes: u64::from(version.memory_mb) * MIB,
        tmp_bytes: u64::from(version.tmp_mb) * MIB,
        environment: variables::snapshot_variables(version, token, &core.config.guest_variables),
        held: false,
    };
    let interpreter = core.interpreters.usable.get(index).map(|it| it.version);
    let from = MadeFrom { version, interpreter, initialization: variables::SNAP_START, phase: Phase::Init };
    let stream = start::stream(core, version, &core.random.hex(16), &Line::InitStart(from));
    let started = core.backend.start(spec).await.map_err(|error| error.to_string())?;
    Ok((started, stream))
}

/// Does something while the guest's output goes to the log.
async fn read_beside<T>(output: &Output, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            readable = output.readable(), if open => {
                open = readable.is_ok() && output.read() != Read::Closed;
                output.flush().await;
            }
        }
    }
}

/// Ends the log of the init, with why there is no snapshot if the function's own words do not say it.
async fn conclude(output: &Output, init_us: u64, status: Status<'_>, why: Option<&Untaken>) {
    let (initialization, phase) = (variables::SNAP_START, Phase::Init);
    let init = records::Init { us: init_us, initialization, phase, status, of_snapshot: true };
    output.drain();
    output.line(&Line::InitRuntimeDone(init));
    output.line(&Line::InitReport(init));
    if let Some(Untaken::Unfit(reason) | Untaken::Failed(reason)) = why {
        let words = format!("SnapStart is off for this version, each environment runs the init itself: {reason}");
        output.line(&Line::Words(&words));
    }
    output.flush().await;
}

/// Ends a guest whose snapshot was not taken.
struct EndsUnlessTaken(Option<Arc<dyn Control>>);

impl EndsUnlessTaken {
    fn taken(mut self) -> Arc<dyn Control> {
        match self.0.take() {
            Some(control) => control,
            None => unreachable!("it is taken once"),
        }
    }
}

impl Drop for EndsUnlessTaken {
    fn drop(&mut self) {
        if let Some(control) = &self.0 {
            control.kill();
        }
    }
}
