//! How the server, started as root, becomes an id of its own that owns nothing but its data.
//!
//! Order at start, before any thread exists: `prepare_data_dir`, `process::launch_spawner`, `drop_to`. The spawner
//! keeps root's privileges in a process without an IP socket; the server keeps none.
//!
//! A data folder below a private folder (root's home) cannot be reached by another id. Opening private folders to
//! everybody would be wrong, so the folder is bound to `/run/dunlin` in a mount namespace of the server's own: the
//! host sees nothing but an empty folder there, and it goes with the process.
//!
//! Invariant: `drop_to` either gives up everything or fails; there is no half.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

use crate::process::sys;

/// The id of a server that root started, where the operator names no other: next to the ids of sandboxes, above every
/// range that distributions give out.
pub const SERVICE_ID: u32 = 0x7001_0000;

/// Where a data folder below a private folder is bound.
const REACHABLE: &str = "/run/dunlin";

/// Whether the caller is root in the host's or its container's sense: whether `drop_to` makes sense.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Raises the number of open files to what the system allows: a sandbox takes about ten of the server's, and as many
/// of the spawner's. Answers the limit.
///
/// # Errors
/// When the system refuses.
pub fn raise_file_limit() -> io::Result<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

fn system(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// Gives up groups, capabilities and root's id, for good. Call before any thread exists.
///
/// # Errors
/// When the system refuses a step; the caller must end then.
pub fn drop_to(uid: u32, gid: u32) -> io::Result<()> {
    sys::drop_groups().map_err(system)?;
    sys::drop_bounding_set().map_err(system)?;
    sys::become_ids(uid, gid).map_err(system)?;
    sys::drop_capabilities().map_err(system)?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(system)?;
    let back = sys::become_ids(0, 0);
    if back.is_ok() && uid != 0 {
        return Err(io::Error::other("root's id could be taken back"));
    }
    Ok(())
}

/// Makes `path` (0700) the folder of the given ids with all that is in it, and answers a path by which they reach it.
/// Call as root, before any thread exists.
///
/// # Errors
/// When the folder cannot be made, given away or bound, or belongs to another ordinary user.
pub fn prepare_data_dir(path: &Path, uid: u32, gid: u32) -> io::Result<PathBuf> {
    if !path.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    let path = path.canonicalize()?;
    let owner = path.metadata()?.uid();
    if owner != 0 && owner != uid {
        return Err(io::Error::other(format!("{} belongs to the user id {owner}", path.display())));
    }
    give(&path, uid, gid)?;
    if parents_admit(&path, uid, gid)? {
        return Ok(path);
    }
    sys::unshare(libc::CLONE_NEWNS).map_err(system)?;
    sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_SLAVE, c"").map_err(system)?;
    fs::DirBuilder::new().recursive(true).mode(0o755).create(REACHABLE)?;
    rustix::mount::mount_bind(&path, REACHABLE)?;
    Ok(PathBuf::from(REACHABLE))
}

/// Gives a folder away, and what is in it where it is not given away already.
fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let about = path.symlink_metadata()?;
    if (about.uid(), about.gid()) != (uid, gid) {
        // Never through a link: whoever wrote into the folder before must not choose what root gives away.
        lchown(path, Some(uid), Some(gid))?;
    }
    if about.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    Ok(())
}

/// Whether every folder above `path` lets these ids pass.
fn parents_admit(path: &Path, uid: u32, gid: u32) -> io::Result<bool> {
    for parent in path.ancestors().skip(1) {
        let about = parent.metadata()?;
        let shift = if about.uid() == uid {
            6
        } else if about.gid() == gid {
            3
        } else {
            0
        };
        if about.mode() >> shift & 1 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_parent_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let set = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        set(0o711);
        assert!(parents_admit(&inner, SERVICE_ID, SERVICE_ID).unwrap());
        set(0o700);
        assert!(!parents_admit(&inner, SERVICE_ID, SERVICE_ID).unwrap());
        let owner = folder.path().metadata().unwrap().uid();
        assert!(parents_admit(&inner, owner, SERVICE_ID).unwrap());
    }
}
