//! Which booted guests can become the environment of which function. Pure.

use model::{AccountId, Family, FunctionVersion, Runtime, RuntimeUse};

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
}

impl Kind {
    /// The guests that a function can have; none if it brings its own program.
    pub(crate) fn of(runtime_use: &RuntimeUse) -> Option<Self> {
        let memory_mb = match runtime_use.runtime.family() {
            Family::Node => Some(runtime_use.memory_mb),
            Family::Python => None,
            Family::Provided => return None,
        };
        Some(Self { account: runtime_use.account.clone(), runtime: runtime_use.runtime.clone(), memory_mb })
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
