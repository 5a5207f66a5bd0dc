//! From a version whose package is a program to an environment: package, machine code, credentials, variables.
//!
//! What takes long here, to fetch a package or to compile it, is not the function's init: that is to open the program,
//! which loads no more than a file that is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
use std::time::Duration;

use model::InvokeError;
use sandbox::program::ProgramSpec;
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
    let version = &pool.version;
    if version.file_system.is_some() {
        let words = "A function that is a program (bootstrap.wasm) has no file systems below /mnt.";
        return StartEnd::refused(InvokeError::NotReady(words.to_owned()));
    }
    core.needs.note(version, core.clock.monotonic_us());
    if let Err(error) = core.packages.ensure(version).await {
        return StartEnd::refused(error);
    }
    if let Err(error) = states::compiled(core, &version.code).await {
        return StartEnd::refused(error);
    }
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
    let opened = match core.backend.open(spec).await {
        Ok(opened) => opened,
        Err(sandbox::Error::Unfit(reason)) => {
            return StartEnd::refused(InvokeError::NotReady(states::unfit(&reason)));
        }
        Err(error) => return StartEnd::refused(InvokeError::Internal(error.to_string())),
    };
    let control = opened.control;
    let init_us = core.clock.monotonic_us() - born_us;
    let card = Arc::new(Card {
        id: id.clone(),
        version: version.clone(),
        born_us,
        control: Arc::downgrade(&control),
        state: AtomicU8::new(EnvironmentState::Starting as u8),
        served: AtomicU64::new(0),
        init_us: AtomicU64::new(init_us),
        frozen: AtomicBool::new(false),
    });
    core.fleet.enter(card.clone());
    let gone = CancellationToken::new();
    let keeper = Keeper {
        output: output.clone(),
        control: control.clone(),
        gone: gone.clone(),
        id,
        pool: pool.clone(),
        room,
        network: Box::new(()),
    };
    core.keepers.spawn(keeper.keep(core.clone()));
    if core.cut.is_cancelled() {
        // Everything was killed before this one was on the list.
        control.kill();
    }
    if output.has_records() {
        start::report_init(&output, init_us, initialization, phase, Status::Fine);
    }
    let before = Before { cpu: Duration::ZERO, tasks: 1 };
    let guest = Guest::Program(Runner::new(opened.program));
    let beginning = Beginning::Init { us: init_us };
    StartEnd::Ready(Box::new(Environment::new(guest, output, control, card, gone, before, beginning)))
}
