//! The host's interpreters, as this process's environment leads to them, and what is prepared for them.

use sandbox::Interpreters;
use sandbox::interpreter::{self, Environment, discover};

use crate::data_dir::{self, DataDir};

/// Looks once; takes a fraction of a second.
pub fn find() -> Interpreters {
    discover(&Environment::of_process())
}

/// Compiles the Python guest ahead, once for each Python and release of the guest. What fails costs each cold start
/// milliseconds and nothing else.
pub fn precompile(interpreters: &Interpreters, data: &DataDir) {
    let folder = data.path("runtime/python");
    let pythons = interpreters.usable.iter().filter(|known| known.family == model::Family::Python);
    let pythons: Vec<String> = pythons.map(|known| format!("{} {:?}", known.binary.display(), known.version)).collect();
    let wanted = format!("{}\n{}\n", data_dir::runtime_digest(), pythons.join("\n"));
    let marker = folder.join("compiled-for");
    if std::fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return;
    }
    let failures = interpreter::precompile(interpreters, &folder);
    for failure in &failures {
        tracing::warn!(failure, "the Python guest is not compiled ahead");
    }
    if failures.is_empty()
        && let Err(error) = data_dir::write_public(&marker, wanted.as_bytes())
    {
        tracing::warn!(%error, "the Python guest will be compiled again at the next start");
    }
}
