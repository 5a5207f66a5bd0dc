//! Gives a sandbox that runs without a function, or without anybody, its code and its layers.
//!
//! The mounts are made by the spawner itself, in the sandbox's own mount namespace, for which it goes there and back: it
//! has one thread, and no way into a sandbox is left open for it. A fork of a zygote is looked at first, from outside.
//!
//! Invariants
//!   1. A fork that has not given up everything gets nothing: no capability in any set, no way to get one, both filters,
//!      the sandbox's own namespaces, and no other process beside it.
//!   2. The spawner comes back to its own mount namespace, or ends.
//!
//! Start reading at `furnish`.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::AtFlags;

use super::child::FOLLOW;
use super::make::{Made, Maker};
use super::protocol::{Digest, Step};
use super::sys::{self, At, Fault};
use super::template::CACHES;

/// Filters of a guest that was forked: the zygote's and its own.
const FILTERS: u32 = 2;
/// The kinds of namespaces that a guest is looked up in; their numbers are unique among all.
const NAMESPACES: [&str; 7] = ["user", "mnt", "ipc", "uts", "cgroup", "net", "pid"];

/// The inside of a sandbox that waits for its function.
pub(crate) struct Inside {
    mounts: OwnedFd,
    who: Who,
}

/// Who is inside already.
enum Who {
    /// A guest that was executed there, in a folder that the code is mounted over.
    Guest,
    /// Nobody but the first process.
    Nobody,
    /// A fork of a zygote, which has to be in these namespaces.
    Fork(Vec<OwnedFd>),
}

impl Inside {
    /// Of a guest that was executed in a sandbox.
    pub(crate) fn of_guest(mounts: OwnedFd) -> Self {
        Self { mounts, who: Who::Guest }
    }

    /// Of a vacant sandbox.
    pub(crate) fn of_vacant(mounts: OwnedFd) -> Self {
        Self { mounts, who: Who::Nobody }
    }

    /// Of a fork, with the namespaces that it is sent into: the user's, the mounts, and others.
    pub(crate) fn of_fork(namespaces: &[OwnedFd]) -> Result<Self, Fault> {
        let all = namespaces.iter().map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>().at(Step::Zygote)?;
        let mounts = all.get(1).ok_or(Fault { step: Step::Zygote, errno: libc::EMFILE })?;
        Ok(Self { mounts: mounts.try_clone().at(Step::Zygote)?, who: Who::Fork(all) })
    }
}

/// Mounts code and layers in a sandbox that has none.
pub(crate) fn furnish(
    maker: &Maker,
    made: &Made,
    inside: &Inside,
    code: &Digest,
    layers: &[Digest],
) -> Result<(), Fault> {
    if let Who::Fork(namespaces) = &inside.who {
        verify(maker, made, namespaces)?;
    }
    let read_only = sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV;
    let caches = maker.cache_trees(Some(code), layers)?;
    let code = maker.code_tree(code)?;
    sys::set_tree_attributes(code.as_raw_fd(), read_only).at(Step::Task)?;
    let layers = maker.layers_tree(layers)?;
    if let Some(layers) = &layers {
        sys::set_tree_attributes(layers.as_raw_fd(), read_only).at(Step::Opt)?;
    }
    let done = within(&inside.mounts, &maker.stage.mounts, || {
        sys::attach_tree(code.as_raw_fd(), libc::AT_FDCWD, c"/var/task").at(Step::Task)?;
        if let Some(layers) = &layers {
            sys::attach_tree(layers.as_raw_fd(), libc::AT_FDCWD, c"/opt").at(Step::Opt)?;
        }
        caches.iter().zip(CACHES).try_for_each(|(cache, place)| match cache {
            Some(cache) => sys::attach_tree(cache.as_raw_fd(), libc::AT_FDCWD, place).at(Step::Cache),
            None => Ok(()),
        })
    });
    if let Who::Guest = inside.who {
        // The guest waits for that by itself where it matters to it: one that has ended is noticed elsewhere.
        let _ = rustix::process::pidfd_send_signal(&made.pidfd, FOLLOW);
    }
    done
}

/// Acts in a sandbox's mount namespace. Everything there but `/tmp` is read-only to guests, so that a path of the
/// template leads where the template has it.
fn within(mounts: &OwnedFd, own: &OwnedFd, act: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    sys::setns(mounts.as_raw_fd()).at(Step::Assign)?;
    let done = act();
    if sys::setns(own.as_raw_fd()).is_err() {
        // Whatever comes next would happen among the mounts of a guest.
        std::process::abort();
    }
    done
}

/// Looks at a forked guest from outside.
fn verify(maker: &Maker, made: &Made, namespaces: &[OwnedFd]) -> Result<(), Fault> {
    let kept = |errno| Fault { step: Step::Verify, errno };
    let [guest] = maker.children(made.pid)[..] else { return Err(kept(libc::ESRCH)) };
    let status = maker.status(guest).at(Step::Verify)?;
    if !has_given_up(&status, maker.settings.seccomp.then_some(FILTERS)) {
        return Err(kept(libc::EPERM));
    }
    let own = NAMESPACES.iter().map(|name| {
        let path = format!("{guest}/ns/{name}");
        rustix::fs::statat(&maker.stage.proc, path, AtFlags::empty()).map(|stat| stat.st_ino).at(Step::Verify)
    });
    let own = own.collect::<Result<Vec<_>, _>>()?;
    for namespace in namespaces {
        let wanted = rustix::fs::fstat(namespace).at(Step::Verify)?.st_ino;
        if !own.contains(&wanted) {
            return Err(kept(libc::EXDEV));
        }
    }
    let members = made.group.as_ref().and_then(|group| maker.groups.members(group));
    match members {
        Some(mut members) => {
            members.sort_unstable();
            let mut both = [made.pid, guest];
            both.sort_unstable();
            if members == both { Ok(()) } else { Err(kept(libc::EBUSY)) }
        }
        None => Ok(()),
    }
}

/// Whether a process's status says that it has no privilege and cannot get one. Sources: proc_pid_status(5).
fn has_given_up(status: &str, filters: Option<u32>) -> bool {
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim)
    };
    let none = |name| !field(name).is_empty() && field(name).bytes().all(|digit| digit == b'0');
    let filtered = filters.is_none_or(|wanted| {
        // Kernels before 5.9 do not count them.
        let counted = field("Seccomp_filters");
        field("Seccomp") == "2" && (counted.is_empty() || counted.parse() == Ok(wanted))
    });
    let threads = field("Threads") == "1";
    threads
        && filtered
        && field("NoNewPrivs") == "1"
        && ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(none) == [true; 5]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN_UP: &str = "Name:\tpython3\nThreads:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
        CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n\
        Seccomp_filters:\t2\n";

    #[test]
    fn every_set_and_filter_is_looked_at() {
        assert!(has_given_up(GIVEN_UP, Some(2)));
        for (from, to) in [
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000200000"),
            ("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff"),
            ("CapAmb:\t0000000000000000\n", ""),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("Seccomp_filters:\t2", "Seccomp_filters:\t1"),
            ("Threads:\t1", "Threads:\t2"),
        ] {
            let kept = GIVEN_UP.replace(from, to);
            assert_ne!(kept, GIVEN_UP);
            assert!(!has_given_up(&kept, Some(2)), "{to}");
        }
        let old = GIVEN_UP.replace("Seccomp_filters:\t2\n", "");
        assert!(has_given_up(&old, Some(2)) && has_given_up(&old.replace("Seccomp:\t2", "Seccomp:\t0"), None));
    }
}
