//! Which programs are compiled: begun at a deployment, so that its first call need not wait, and told to who asks.
//!
//! Each node compiles for itself. What is known is of this process only: of a package that nobody has asked for here, the
//! first start finds out.

use std::collections::HashMap;
use std::sync::Arc;

use model::{CodeDigest, InvokeError, ProgramState};
use parking_lot::Mutex;

use crate::engine::Core;

/// What is known of the programs of packages.
#[derive(Default)]
pub(crate) struct Programs(Mutex<HashMap<CodeDigest, ProgramState>>);

impl Programs {
    /// How far one is.
    pub(crate) fn state(&self, code: &CodeDigest) -> ProgramState {
        self.0.lock().get(code).cloned().unwrap_or(ProgramState::Open)
    }

    /// Nobody needs the package any more.
    pub(crate) fn forget(&self, code: &CodeDigest) {
        self.0.lock().remove(code);
    }

    /// Has one compiled in the background, unless it is, or is being.
    pub(crate) fn begin(&self, core: &Arc<Core>, code: &CodeDigest) {
        {
            let mut known = self.0.lock();
            if known.get(code).is_some_and(|state| *state != ProgramState::Open) {
                return;
            }
            known.insert(code.clone(), ProgramState::Pending);
        }
        let (own, code) = (core.clone(), code.clone());
        let work = async move {
            if let Err(error) = compiled(&own, &code).await {
                tracing::debug!(package = %code, %error, "a program could not be compiled");
            }
        };
        core.tasks.spawn(core.closing.clone().run_until_cancelled_owned(work));
    }
}

/// Has the program of a package compiled, and waits for that. What comes of it is known from then on.
pub(crate) async fn compiled(core: &Core, code: &CodeDigest) -> Result<(), InvokeError> {
    let made = async {
        core.packages.ensure_one(code).await?;
        match core.backend.compile(code).await {
            Ok(()) => Ok(ProgramState::Ready),
            Err(sandbox::Error::Unfit(reason)) => Ok(ProgramState::Unfit(reason)),
            Err(error) => Err(InvokeError::Internal(error.to_string())),
        }
    };
    let made = made.await;
    // A fault of the platform says nothing of the program: the next one tries again.
    let state = made.as_ref().map_or(ProgramState::Open, Clone::clone);
    core.programs.0.lock().insert(code.clone(), state);
    match made? {
        ProgramState::Unfit(reason) => Err(InvokeError::NotReady(unfit(&reason))),
        _ => Ok(()),
    }
}

/// What callers are told of a program that cannot be run.
pub(super) fn unfit(reason: &str) -> String {
    format!("The function's bootstrap.wasm cannot be run: {reason}")
}
