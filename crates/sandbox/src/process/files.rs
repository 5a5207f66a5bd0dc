//! Folders of the host that a sandbox gets below `/mnt`: those that the operator's configuration names, and no others.
//!
//! A request says one by its place in that list, so no path of the host is ever in a request. They are opened before the stage
//! hides the host, and lie at `/files/N` of it. A sandbox gets a clone of such a mount, without setuid and devices. Where
//! sandboxes have user ids of their own, owners are mapped (an idmapped mount): inside, the folder's owner is the guest, and
//! what the guest makes belongs to the folder's owner, whatever sandbox it is. The owner is never root.
//!
//! Start reading at `Shared::open`, then `Shared::tree`.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use super::config::SharedFolder;
use super::make::reap;
use super::protocol::Step;
use super::sys::{self, At, Cloned, Fault};

/// One of the folders.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Where it is in the stage.
    place: CString,
    read_only: bool,
    /// Its owner and group on the host.
    owner: (u32, u32),
}

impl Shared {
    /// The folder as the `index`-th of the stage. Called while the host's root can be seen.
    pub(crate) fn open(folder: &SharedFolder, index: usize) -> Result<Self, Fault> {
        let about = fs::metadata(&folder.folder).at(Step::Files)?;
        if !about.is_dir() {
            return Err(Fault { step: Step::Files, errno: libc::ENOTDIR });
        }
        // A number has no zero byte.
        let place = CString::new(format!("/files/{index}")).unwrap_or_default();
        Ok(Self { place, read_only: folder.read_only, owner: (about.uid(), about.gid()) })
    }

    /// Whether it belongs to root, as whom nothing in a sandbox may act.
    pub(crate) fn is_roots(&self) -> bool {
        self.owner.0 == 0 || self.owner.1 == 0
    }

    /// A detached clone for a sandbox that has this id on the host; nothing where it has none of its own.
    pub(crate) fn tree(&self, host_id: Option<u32>, proc: &OwnedFd) -> Result<OwnedFd, Fault> {
        let tree = sys::clone_tree(libc::AT_FDCWD, &self.place).at(Step::Files)?;
        // SAFETY: the call has just made this descriptor.
        let tree = unsafe { OwnedFd::from_raw_fd(tree) };
        if let Some(host_id) = host_id {
            if self.is_roots() {
                return Err(Fault { step: Step::Files, errno: libc::EPERM });
            }
            let user = owners(self.owner, host_id, proc)?;
            sys::map_owners(tree.as_raw_fd(), user.as_raw_fd()).at(Step::Files)?;
        }
        let read_only = if self.read_only { sys::ATTR_RDONLY } else { 0 };
        sys::set_tree_attributes(tree.as_raw_fd(), read_only | sys::ATTR_NOSUID | sys::ATTR_NODEV).at(Step::Files)?;
        Ok(tree)
    }
}

/// A user namespace that stands for a mapping of owners: `owner` on the disk is `host_id` for those who look through the mount.
fn owners(owner: (u32, u32), host_id: u32, proc: &OwnedFd) -> Result<OwnedFd, Fault> {
    // SAFETY: the spawner never starts a thread.
    let (pid, pidfd) = match unsafe { sys::clone_process(libc::CLONE_NEWUSER, None) }.at(Step::Files)? {
        Cloned::Child => stand_still(),
        // SAFETY: the call has just made this descriptor.
        Cloned::Parent { pid, pidfd } => (pid, unsafe { OwnedFd::from_raw_fd(pidfd) }),
    };
    let open = |name: &str, flags| {
        rustix::fs::openat(
            proc,
            format!("{pid}/{name}"),
            flags | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
    };
    let mapped = || {
        for (name, id) in [("uid_map", owner.0), ("gid_map", owner.1)] {
            let file = open(name, rustix::fs::OFlags::WRONLY)?;
            rustix::io::write(&file, format!("{id} {host_id} 1").as_bytes())?;
        }
        open("ns/user", rustix::fs::OFlags::RDONLY)
    };
    let user = mapped().at(Step::Files);
    reap(&pidfd);
    user
}

/// What the process does that a user namespace is made with: it waits for its end.
fn stand_still() -> ! {
    if sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0).is_ok() {
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: ends the process without running anything of the forked copy.
    unsafe { libc::_exit(1) }
}
