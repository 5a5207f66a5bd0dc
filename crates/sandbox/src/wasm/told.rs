//! What a component is told by variables and arguments: `wasi:cli/environment`. The context of the library keeps a copy of
//! them for each run; here a run refers to those of its environment, and a program that asks gets the copy.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker};
use wasmtime_wasi::p2::bindings::cli::environment;

use super::state::State;
use crate::program::{PROGRAM_FILE, ProgramSpec};

/// What one run is told.
pub(super) struct Told {
    pub(super) spec: Arc<ProgramSpec>,
    /// Those of the call.
    pub(super) variables: Vec<(String, String)>,
}

impl Told {
    pub(super) fn variables(&self) -> impl Iterator<Item = &(String, String)> {
        self.spec.environment.iter().chain(&self.variables)
    }

    pub(super) fn arguments(&self) -> impl Iterator<Item = &str> {
        std::iter::once(PROGRAM_FILE).chain(self.spec.arguments.iter().map(String::as_str))
    }
}

impl environment::Host for Told {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(Told::variables(self).cloned().collect())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        Ok(self.arguments().map(str::to_owned).collect())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

struct HasTold;

impl HasData for HasTold {
    type Data<'a> = &'a mut Told;
}

/// Replaces the library's own.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    environment::add_to_linker::<State, HasTold>(linker, |state| &mut state.told)?;
    linker.allow_shadowing(false);
    Ok(())
}
