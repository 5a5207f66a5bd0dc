//! From a version whose package is a program to an environment: package, machine code, credentials, variables.
//!
//! What takes long here, to fetch a package or to compile it, is not the function's init: that is to open the program,
//! which loads no more than a file that is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::time::Duration;

use model::{FunctionVersion, InvokeError};
use sandbox::Control;
use sandbox::program::{Opened, ProgramSpec};
use tokio_util::sync::CancellationToken;

use super::{Runner, states};
use crate::engine::Core;
use crate::environment::{Before, Environment, Guest, Keeper};
use crate::fleet::{Card, EnvironmentState, Room};
use crate::output::{Output, Source};
use crate::pool::Pool;
use crate::records::{Line, MadeFrom};
use crate::report::{Beginning, Phase, Status};
use crate::start::{self, MIB, Purpose, StartEnd};
use crate::variables;

/// Starts an environment.
pub(crate) async fn start(core: &Arc<Core>, pool: &Arc<Pool>, room: Room, purpose: Purpose, phase: Phase) -> StartEnd {
    if let Err(error) = prepare(core, &pool.version).await {
        return StartEnd::refused(error);
    }
    match open(core, pool, room, purpose, phase).await {
        Ok(environment) => StartEnd::Ready(Box::new(environment)),
        Err(sandbox::Error::Unfit(reason)) => StartEnd::refused(InvokeError::NotReady(states::unfit(&reason))),
        Err(error) => StartEnd::refused(InvokeError::Internal(error.to_string())),
    }
}

/// Has a version's packages on the disk, and its program compiled.
async fn prepare(core: &Core, version: &FunctionVersion) -> Result<(), InvokeError> {
    if version.file_system.is_some() {
        let words = "A function that is a program (bootstrap.wasm) has no file systems below /mnt.";
        return Err(InvokeError::NotReady(words.to_owned()));
    }
    core.needs.note(version, core.clock.monotonic_us());
    core.packages.ensure(version).await?;
    states::compiled(core, &version.code).await
}

async fn open(
    core: &Arc<Core>,
    pool: &Arc<Pool>,
    room: Room,
    purpose: Purpose,
    phase: Phase,
) -> Result<Environment, sandbox::Error> {
    let version = &pool.version;
    let id = core.random.hex(16);
    let initialization = start::initialization(version, purpose);
    let from = MadeFrom { version, interpreter: None, initialization, phase };
    let stream = start::stream(core, version, &id, &Line::InitStart(from));
    let credentials = start::credentials(core, version).await;
    let born_us = core.clock.monotonic_us();
    let names = variables::Names { log_stream: &stream.name, initialization };
    let environment = variables::guest_variables(version, &credentials, names, &core.config.guest_variables);
    let output = Arc::new(Output::new(stream, core.clock.clone(), core.log_sink.clone(), Source::Written));
    let spec = ProgramSpec {
        code: version.code.clone(),
        layers: version.layers.clone(),
        memory_bytes: u64::from(version.memory_mb) * MIB,
        tmp_bytes: u64::from(version.tmp_mb) * MIB,
        environment,
        arguments: Some(version.handler.clone()).filter(|handler| !handler.is_empty()).into_iter().collect(),
        lines: output.clone(),
        outside: core.network.outside(start::identity(version, &id)),
    };
    let Opened { program, control } = core.backend.open(spec).await?;
    let init_us = core.clock.monotonic_us() - born_us;
    let card = Arc::new(card(version, &id, born_us, init_us, &control));
    core.fleet.enter(card.clone());
    let (gone, network) = (CancellationToken::new(), Box::new(()));
    let own = (output.clone(), control.clone(), gone.clone(), pool.clone());
    let keeper = Keeper { output: own.0, control: own.1, gone: own.2, id, pool: own.3, room, network };
    core.keepers.spawn(keeper.keep(core.clone()));
    if core.cut.is_cancelled() {
        // Everything was killed before this one was on the list.
        control.kill();
    }
    if output.has_records() {
        start::report_init(&output, init_us, initialization, phase, Status::Fine);
    }
    let before = Before { cpu: Duration::ZERO, tasks: 1 };
    let guest = Guest::Program(Runner::new(program));
    Ok(Environment::new(guest, output, control, card, gone, before, Beginning::Init { us: init_us }))
}

fn card(version: &Arc<FunctionVersion>, id: &str, born_us: u64, init_us: u64, control: &Arc<dyn Control>) -> Card {
    Card {
        id: id.to_owned(),
        version: version.clone(),
        born_us,
        control: Arc::downgrade(control),
        state: AtomicU8::new(EnvironmentState::Starting as u8),
        served: AtomicU64::new(0),
        init_us: AtomicU64::new(init_us),
        frozen: AtomicBool::new(false),
    }
}
