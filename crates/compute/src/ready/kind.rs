//! Which booted guests can become the environment of which function. Pure.
//!
//! Most are of nobody in particular. Python functions whose module imports much have guests of their own as well: forks
//! of a zygote that has imported the dependencies of one revision, with that revision's variables.

use std::time::Duration;

use model::{AccountId, Family, FunctionRef, FunctionVersion, Runtime, RuntimeUse};

/// Variables that an interpreter or its libraries look at only while they start, by their beginnings.
const READ_AT_START: &[&str] =
    &["NODE_", "PYTHON", "LD_", "LC_", "LANG", "MALLOC_", "GLIBC_", "OPENSSL_", "UV_", "AWS_LAMBDA_EXEC_"];
/// Those among them that are looked at again: `NODE_PATH` and `PYTHONPATH` by the guests themselves when they load.
const READ_LATER: &[&str] = &["NODE_PATH", "NODE_ENV", "NODE_TLS_REJECT_UNAUTHORIZED", "PYTHONPATH"];

/// Booted guests that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    /// Whose functions they serve: accounts share no process that was forked from one.
    pub(crate) account: AccountId,
    /// What was asked for; the variables of the start follow from it.
    pub(crate) runtime: Runtime,
    /// MiB of memory that the interpreter is started for; nothing where it does not need to know.
    pub(crate) memory_mb: Option<u32>,
    /// The revision whose dependencies they have loaded; nothing for guests of nobody in particular.
    pub(crate) own: Option<Revision>,
}

/// One content of one version of a function.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Revision {
    function: FunctionRef,
    version: String,
    revision: String,
}

/// An init that takes less is not worth a zygote of its own: a fork takes some milliseconds too.
const INIT_WORTH: Duration = Duration::from_millis(40);

impl Kind {
    /// The guests that a function can have; none if it brings its own program.
    pub(crate) fn of(runtime_use: &RuntimeUse) -> Option<Self> {
        let memory_mb = match runtime_use.runtime.family() {
            Family::Node => Some(runtime_use.memory_mb),
            Family::Python => None,
            Family::Provided => return None,
        };
        Some(Self { account: runtime_use.account.clone(), runtime: runtime_use.runtime.clone(), memory_mb, own: None })
    }

    /// The guests that have loaded a version's own dependencies; none where there are no zygotes.
    pub(crate) fn own(version: &FunctionVersion) -> Option<Self> {
        let plain = Self::of(&version.runtime_use()).filter(|kind| kind.runtime.family() == Family::Python)?;
        let revision = Revision {
            function: version.function.clone(),
            version: version.version.clone(),
            revision: version.revision.clone(),
        };
        Some(Self { own: Some(revision), ..plain })
    }

    /// The same, if an init of this length makes them worth it.
    pub(crate) fn worth_its_own(version: &FunctionVersion, init: Duration) -> Option<Self> {
        if init < INIT_WORTH { None } else { Self::own(version) }
    }

    /// The guests that a version can have; none also where a variable of it has to be there from the start.
    pub(crate) fn for_version(version: &FunctionVersion) -> Option<Self> {
        let early = version.environment.keys().any(|name| is_read_at_start(name));
        if early { None } else { Self::of(&version.runtime_use()) }
    }
}

fn is_read_at_start(name: &str) -> bool {
    READ_AT_START.iter().any(|beginning| name.starts_with(beginning)) && !READ_LATER.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::version;

    #[test]
    fn variables_that_are_read_at_the_start_need_a_start() {
        let mut plain = version("f");
        plain.environment.insert("NODE_ENV".into(), "production".into());
        plain.environment.insert("TABLE".into(), "t".into());
        assert!(Kind::for_version(&plain).is_some());
        for name in ["NODE_OPTIONS", "NODE_EXTRA_CA_CERTS", "LD_PRELOAD", "PYTHONHASHSEED", "AWS_LAMBDA_EXEC_WRAPPER"] {
            let mut early = plain.clone();
            early.environment.insert(name.into(), "1".into());
            assert_eq!(Kind::for_version(&early), None, "{name}");
        }
    }

    #[test]
    fn only_slow_python_functions_have_guests_of_their_own() {
        let mut slow = version("f");
        let (short, long) = (Duration::from_millis(10), Duration::from_millis(400));
        assert_eq!(Kind::worth_its_own(&slow, long), None, "Node.js");
        slow.runtime = Runtime::parse("python3.12").unwrap();
        assert_eq!(Kind::worth_its_own(&slow, short), None);
        let own = Kind::worth_its_own(&slow, long).unwrap();
        assert_ne!(Some(&own), Kind::for_version(&slow).as_ref());
        slow.revision = "2".into();
        assert_ne!(Kind::own(&slow), Some(own));
    }

    #[test]
    fn only_what_an_interpreter_must_know_tells_kinds_apart() {
        let of = |runtime: &str, memory_mb| {
            let mut version = version("f");
            version.runtime = Runtime::parse(runtime).unwrap();
            version.memory_mb = memory_mb;
            Kind::for_version(&version)
        };
        assert_eq!(of("python3.12", 128), of("python3.12", 1_024));
        assert_ne!(of("nodejs22.x", 128), of("nodejs22.x", 1_024));
        assert_eq!(of("nodejs22.x", 128), of("nodejs22.x", 128));
        assert_eq!(of("provided.al2023", 128), None);
    }
}
