//! Unpacked packages that no function needs any more: their folders go, and what was made of them.
//!
//! A package is needed while a function that ran here still has it, while an environment or a zygote was started with
//! it, and for a while after it was last asked for. Folders of former processes count only once they are asked for.
//!
//! Invariants
//!   1. A start notes its package before it looks for the folder (`Packages::ensure`), and folders leave their names
//!      under the lock of these notes: nobody finds one that is about to go.

use std::collections::{HashMap, HashSet};

use model::{CodeDigest, FunctionRef, FunctionVersion, InvokeError};
use parking_lot::Mutex;

use crate::engine::{Core, LATEST};

/// For how long a package stays after it was last asked for.
const STAYS_US: u64 = 120_000_000;

/// Who needs which package.
#[derive(Default)]
pub(crate) struct Needs(Mutex<HashMap<CodeDigest, Need>>);

#[derive(Default)]
struct Need {
    /// Versions that were started with it, as the catalog names them.
    versions: HashSet<FunctionRef>,
    /// When it was last asked for: monotonic microseconds.
    asked_us: u64,
}

impl Needs {
    /// A version is about to be started.
    pub(crate) fn note(&self, version: &FunctionVersion, now_us: u64) {
        let mut needs = self.0.lock();
        for package in packages(version) {
            let need = needs.entry(package.clone()).or_default();
            need.asked_us = now_us;
            if !need.versions.contains(&named(version)) {
                need.versions.insert(named(version));
            }
        }
    }

    /// Who needed which package so far.
    fn noted(&self) -> Vec<(CodeDigest, FunctionRef)> {
        let needs = self.0.lock();
        let pairs = needs.iter().flat_map(|(package, need)| need.versions.iter().map(move |of| (package, of)));
        pairs.map(|(package, of)| (package.clone(), of.clone())).collect()
    }

    fn forget(&self, package: &CodeDigest, version: &FunctionRef) {
        if let Some(need) = self.0.lock().get_mut(package) {
            need.versions.remove(version);
        }
    }

    /// Takes packages off that nobody needs and calls `leave` for each, before anybody can note it again.
    fn take_off(&self, now_us: u64, is_used: impl Fn(&CodeDigest) -> bool, mut leave: impl FnMut(&CodeDigest)) {
        self.0.lock().retain(|package, need| {
            let stays =
                !need.versions.is_empty() || now_us.saturating_sub(need.asked_us) < STAYS_US || is_used(package);
            if !stays {
                leave(package);
            }
            stays
        });
    }
}

/// Whether a version is started with a package.
pub(crate) fn has(version: &FunctionVersion, package: &CodeDigest) -> bool {
    packages(version).any(|of| of == package)
}

fn packages(version: &FunctionVersion) -> impl Iterator<Item = &CodeDigest> {
    let of_image = version.image.iter().flat_map(|image| &image.layers);
    std::iter::once(&version.code).chain(&version.layers).chain(of_image)
}

/// A version as the catalog names it.
pub(crate) fn named(version: &FunctionVersion) -> FunctionRef {
    let qualifier = (version.version != LATEST).then(|| version.version.clone());
    FunctionRef { qualifier, ..version.function.clone() }
}

/// Removes what nobody needs.
pub(crate) async fn remove(core: &Core) {
    for (package, function) in core.needs.noted() {
        let gone = match core.catalog.version(&function).await {
            Ok(version) => !has(&version, &package),
            Err(error) => matches!(error, InvokeError::NotFound(_)),
        };
        if gone {
            core.needs.forget(&package, &function);
        }
    }
    let is_used = |package: &CodeDigest| core.fleet.uses(package) || core.ready.uses(package);
    let mut folders = Vec::new();
    core.needs.take_off(core.clock.monotonic_us(), is_used, |package| {
        folders.extend(core.packages.leave(package));
        core.code_caches.forget(package);
        core.programs.forget(package);
        core.backend.forget(package);
    });
    // What cannot be removed is removed at the next start.
    let removed = tokio::task::spawn_blocking(move || folders.into_iter().try_for_each(std::fs::remove_dir_all));
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(%error, "a package that nobody needs cannot be removed");
    }
}
