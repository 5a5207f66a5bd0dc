//! Which booted guests can become the environment of which function. Pure.
//!
//! Vacant sandboxes can become that of every function which is a program of its own: nothing has run in them. Most guests of
//! runtimes are of nobody in particular. Python functions whose module imports much have others as well: forks of a zygote
//! that has imported what their packages bring of others. All functions of an account that bring the same share it,
//! from revision to revision, as long as what its imports looked at is the same (`Terms`). Those of a version with SnapStart
//! have run its init, and are for that version alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{AccountId, CodeDigest, Family, FunctionRef, FunctionVersion, Runtime, RuntimeUse};
use sha2::{Digest, Sha256};

use crate::dependencies::Dependencies;
use crate::guest_protocol::Read;
use crate::ready::boot::JAVA_VARIABLES_MAX;

/// Variables that an interpreter or its libraries look at only while they start, by their beginnings.
const READ_AT_START: &[&str] = &[
    "NODE_",
    "PYTHON",
    "JAVA_",
    "JDK_JAVA_",
    "_JAVA_",
    "RUBY",
    "PHP",
    "LD_",
    "LC_",
    "LANG",
    "MALLOC_",
    "GLIBC_",
    "OPENSSL_",
    "UV_",
    "AWS_LAMBDA_EXEC_",
];
/// Those among them that are looked at again: `NODE_PATH`, `PYTHONPATH` and `RUBYLIB` by the guests themselves when they load.
const READ_LATER: &[&str] = &["NODE_PATH", "NODE_ENV", "NODE_TLS_REJECT_UNAUTHORIZED", "PYTHONPATH", "RUBYLIB"];

/// Booted guests that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    /// What was booted in them; nothing in vacant sandboxes.
    pub(crate) booted: Option<BootedFor>,
    /// MiB of memory that the interpreter is started for; nothing where it does not need to know.
    pub(crate) memory_mb: Option<u32>,
    /// The dependencies that they have loaded; nothing for guests of nobody in particular.
    pub(crate) own: Option<Own>,
    /// The version whose init they have run; nothing for those that have run none.
    pub(crate) snapshot: Option<Snapshot>,
}

/// A runtime that is up, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BootedFor {
    /// Whose functions they serve: accounts share no process that was forked from one.
    pub(crate) account: AccountId,
    /// What was asked for; the variables of the start follow from it.
    pub(crate) runtime: Runtime,
}

/// One content of one version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    pub(crate) function: FunctionRef,
    pub(crate) version: String,
    pub(crate) revision: String,
}

/// Dependencies that are loaded ahead.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Own {
    /// What the package brings of others.
    dependencies: Option<String>,
    layers: Vec<CodeDigest>,
    /// Whose imports: the handler's module says what is loaded.
    handler: String,
    /// Of the package and all variables, for functions that cannot share.
    alone: Option<String>,
}

/// Variables of a zygote, or those that a function's would have.
pub(crate) type Variables = BTreeMap<String, String>;

/// What imports can look at, of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) code: CodeDigest,
    pub(crate) variables: Variables,
    pub(crate) dependencies: Arc<Dependencies>,
}

/// For whom a zygote has loaded what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    sight: Sight,
    /// What of it was looked at; nothing: all may have been.
    read: Option<Read>,
}

impl Terms {
    /// Of a zygote that could look at something, and did at a part of it.
    pub(crate) fn new(sight: Sight, read: Option<Read>) -> Self {
        Self { sight, read }
    }

    /// Whether the imports would have gone the same way for another version of the same kind.
    pub(crate) fn hold_for(&self, other: &Sight) -> bool {
        let same_code = self.sight.code == other.code;
        let Some(read) = &self.read else { return same_code && self.sight.variables == other.variables };
        // A module of the function's own goes before one of a layer or the platform.
        if !same_code && !other.dependencies.own.is_disjoint(&read.modules) {
            return false;
        }
        let looked_at = |name: &&String| {
            read.variables.as_ref().is_none_or(|names| names.contains(*name)) || is_read_at_start(name)
        };
        let names = self.sight.variables.keys().chain(other.variables.keys());
        names.filter(looked_at).all(|name| self.sight.variables.get(name) == other.variables.get(name))
    }
}

/// An init that takes less is not worth a zygote of its own: a fork takes some milliseconds too.
pub(crate) const INIT_WORTH: Duration = Duration::from_millis(40);

impl Kind {
    /// Sandboxes without a guest, for whatever program is executed in them.
    pub(crate) fn vacant() -> Self {
        Self { booted: None, memory_mb: None, own: None, snapshot: None }
    }

    /// The guests that a function can have.
    pub(crate) fn of(runtime_use: &RuntimeUse) -> Self {
        let memory_mb = match runtime_use.runtime.family() {
            _ if runtime_use.executes => return Self::vacant(),
            Family::Node | Family::Java => Some(runtime_use.memory_mb),
            Family::Python | Family::Ruby | Family::Php | Family::Provided => None,
        };
        let (account, runtime) = (runtime_use.account.clone(), runtime_use.runtime.clone());
        Self { booted: Some(BootedFor { account, runtime }), memory_mb, own: None, snapshot: None }
    }

    /// The runtime that they are guests of.
    pub(crate) fn runtime(&self) -> Option<&Runtime> {
        self.booted.as_ref().map(|booted| &booted.runtime)
    }

    /// Whose functions they serve; nothing where that does not matter.
    pub(crate) fn account(&self) -> Option<&AccountId> {
        self.booted.as_ref().map(|booted| &booted.account)
    }

    /// Whether they are forked from zygotes.
    pub(crate) fn is_forked(&self) -> bool {
        self.runtime().is_some_and(|runtime| runtime.family() == Family::Python)
    }

    /// The guests of a version that have loaded nothing, where they are forked. What a wrapper starts is no fork: it decides
    /// on variables and arguments that the interpreter begins with.
    fn plain_forks(version: &FunctionVersion) -> Option<Self> {
        if version.wrapper().is_some() {
            return None;
        }
        version.runtime_use().as_ref().map(Self::of).filter(Self::is_forked)
    }

    /// The guests that have run a version's init, if it is to begin from a snapshot and its process can be forked.
    pub(crate) fn snapshot(version: &FunctionVersion) -> Option<Self> {
        let plain = Self::plain_forks(version)?;
        let snapshot = Snapshot {
            function: version.function.clone(),
            version: version.version.clone(),
            revision: version.revision.clone(),
        };
        version.snap_start.then_some(Self { snapshot: Some(snapshot), ..plain })
    }

    /// The guests that have loaded a version's dependencies; none where there are no zygotes.
    pub(crate) fn own(version: &FunctionVersion, dependencies: &Dependencies) -> Option<Self> {
        let plain = Self::plain_forks(version)?;
        let own = Own {
            dependencies: dependencies.digest.clone(),
            layers: version.layers.clone(),
            handler: version.handler.clone(),
            alone: None,
        };
        Some(Self { own: Some(own), ..plain })
    }

    /// The same for functions with exactly this package and these variables.
    pub(crate) fn alone(&self, sight: &Sight) -> Self {
        let text = serde_json::json!([sight.code, sight.variables]).to_string();
        let digest = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { own: self.own.clone().map(|own| Own { alone: Some(digest), ..own }), ..self.clone() }
    }

    /// The guests that a version can have; none also where a variable of it has to be there from the start of a runtime.
    pub(crate) fn for_version(version: &FunctionVersion) -> Option<Self> {
        let runtime_use = version.runtime_use()?;
        if runtime_use.executes {
            return Some(Self::vacant());
        }
        let early = version.environment.keys().any(|name| is_read_at_start(name));
        // Those of the platform come to them.
        let many = version.runtime.family() == Family::Java && version.environment.len() > JAVA_VARIABLES_MAX / 2;
        (!early && !many).then(|| Self::of(&runtime_use))
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
        for name in [
            "NODE_OPTIONS",
            "NODE_EXTRA_CA_CERTS",
            "LD_PRELOAD",
            "PYTHONHASHSEED",
            "AWS_LAMBDA_EXEC_WRAPPER",
            "RUBYOPT",
            "PHPRC",
        ] {
            let mut early = plain.clone();
            early.environment.insert(name.into(), "1".into());
            assert_eq!(Kind::for_version(&early), None, "{name}");
        }
    }

    #[test]
    fn python_functions_share_what_their_packages_bring_of_others() {
        let mut one = version("f");
        assert_eq!(Kind::own(&one, &Dependencies::default()), None, "Node.js");
        one.runtime = Runtime::parse("python3.12").unwrap();
        let brings = |digest: &str| Dependencies { digest: Some(digest.into()), ..Dependencies::default() };
        let own = |version: &FunctionVersion, digest| Kind::own(version, &brings(digest)).unwrap();
        let kind = own(&one, "1");
        assert_ne!(Some(&kind), Kind::for_version(&one).as_ref());
        let mut other = version("g");
        (other.runtime, other.revision, other.memory_mb) = (one.runtime.clone(), "2".into(), 1_024);
        other.code = CodeDigest::parse(&"0b".repeat(32)).unwrap();
        other.environment.insert("A".into(), "1".into());
        assert_eq!(own(&other, "1"), kind);
        assert_ne!(own(&other, "2"), kind);
        assert_ne!(Kind::own(&other, &Dependencies::default()).as_ref(), Some(&kind));
        let changes: [&dyn Fn(&mut FunctionVersion); 4] = [
            &|version| version.layers.push(version.code.clone()),
            &|version| version.handler = "another.handler".into(),
            &|version| version.runtime = Runtime::parse("python3.11").unwrap(),
            &|version| version.function.account = AccountId::parse("111111111111").unwrap(),
        ];
        for change in changes {
            let mut changed = one.clone();
            change(&mut changed);
            assert_ne!(own(&changed, "1"), kind);
        }
    }

    #[test]
    fn a_snapshot_is_one_versions_alone() {
        let mut one = version("f");
        one.runtime = Runtime::parse("python3.12").unwrap();
        assert_eq!(Kind::snapshot(&one), None, "nobody asked for it");
        one.snap_start = true;
        let kind = Kind::snapshot(&one).unwrap();
        assert_ne!(Some(&kind), Kind::for_version(&one).as_ref());
        let changes: [&dyn Fn(&mut FunctionVersion); 5] = [
            &|version| version.version = "2".into(),
            &|version| version.revision = "2".into(),
            &|version| version.function.name = model::FunctionName::parse("g").unwrap(),
            &|version| version.function.account = AccountId::parse("111111111111").unwrap(),
            &|version| version.function.region = model::Region::parse("eu-west-1").unwrap(),
        ];
        for change in changes {
            let mut changed = one.clone();
            change(&mut changed);
            assert_ne!(Kind::snapshot(&changed).unwrap(), kind);
        }
        one.runtime = Runtime::parse("nodejs22.x").unwrap();
        assert_eq!(Kind::snapshot(&one), None, "its process has threads");
    }

    #[test]
    fn what_a_wrapper_starts_is_neither_forked_nor_booted_ahead() {
        let mut one = version("f");
        (one.runtime, one.snap_start) = (Runtime::parse("python3.12").unwrap(), true);
        let kinds = |version: &FunctionVersion| {
            let own = Kind::own(version, &Dependencies::default());
            [Kind::for_version(version), own, Kind::snapshot(version)]
        };
        assert!(kinds(&one).iter().all(Option::is_some));
        one.environment.insert(model::web::WRAPPER.into(), "/opt/wrapper".into());
        assert_eq!(kinds(&one), [const { None }; 3]);
        // Who brings a program of its own does not look at it.
        one.runtime = Runtime::parse("provided.al2023").unwrap();
        assert_eq!(Kind::for_version(&one), Some(Kind::vacant()));
    }

    fn sight(code: &str, pairs: &[(&str, &str)], own: &[&str]) -> Sight {
        let own = own.iter().map(|name| (*name).to_owned()).collect();
        Sight {
            code: CodeDigest::parse(&code.repeat(32)).unwrap(),
            variables: pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            dependencies: Arc::new(Dependencies { own, ..Dependencies::default() }),
        }
    }

    #[test]
    fn a_zygote_is_for_those_that_its_imports_would_not_tell_from_its_own() {
        let plain = sight("0a", &[("A", "1"), ("B", "1")], &["app"]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let terms = |read: Option<&[&str]>| {
            let read = Read { variables: read.map(names), modules: names(&["boto3", "six"]) };
            Terms::new(plain.clone(), Some(read))
        };
        type Pairs<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Option<&[&str]>, Pairs<'_>, bool); 9] = [
            (Some(&["A"]), &[("A", "1"), ("C", "1")], true),
            (Some(&["A"]), &[("A", "2"), ("B", "1")], false),
            (Some(&["A"]), &[("B", "1")], false),
            (Some(&["C"]), &[("A", "1"), ("B", "1")], true),
            (Some(&["C"]), &[("C", "1")], false),
            (Some(&[]), &[], true),
            (Some(&[]), &[("PYTHONHASHSEED", "1")], false),
            (None, &[("A", "1"), ("B", "1")], true),
            (None, &[("A", "1")], false),
        ];
        for (read, others, hold) in cases {
            assert_eq!(terms(read).hold_for(&sight("0b", others, &["other"])), hold, "{read:?} {others:?}");
        }
        let shadowing = sight("0b", &[("A", "1"), ("B", "1")], &["app", "six"]);
        assert!(!terms(Some(&[])).hold_for(&shadowing), "its own six is another");
        let unsaid = Terms::new(plain.clone(), None);
        assert!(unsaid.hold_for(&plain) && !unsaid.hold_for(&Sight { code: shadowing.code.clone(), ..plain.clone() }));
        let mut version = version("f");
        version.runtime = Runtime::parse("python3.12").unwrap();
        let kind = Kind::own(&version, &Dependencies::default()).unwrap();
        assert_ne!(kind.alone(&plain), kind);
        assert_ne!(kind.alone(&plain), kind.alone(&shadowing));
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
        assert_eq!(of("ruby3.3", 128), of("ruby3.3", 1_024));
        assert_eq!(of("provided.al2023", 128), Some(Kind::vacant()));
        assert_eq!(of("provided.al2", 1_024), Some(Kind::vacant()));
    }

    #[test]
    fn what_is_executed_needs_a_sandbox_and_nothing_else() {
        let mut server = version("f");
        server.environment.insert("NODE_OPTIONS".into(), "--no-warnings".into());
        server.environment.insert("DUNLIN_WEB_COMMAND".into(), "node server.js".into());
        server.web = model::WebServer::of(Family::Node, &server.environment, 3_000).unwrap();
        assert_eq!(Kind::for_version(&server), Some(Kind::vacant()));
        let mut program = version("f");
        (program.runtime, program.program) = (Runtime::parse("provided.al2023").unwrap(), true);
        assert_eq!(Kind::for_version(&program), None, "it has no process");
    }
}
