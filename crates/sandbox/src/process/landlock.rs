//! Landlock: a second wall behind the mount namespace, and a wall against signals and abstract sockets.
//!
//! The guest may read and execute everything in its root, write below `/tmp` and what it has below `/mnt`, and write to the device nodes; whatever
//! is mounted by mistake stays read-only. Runs between clone and exec: nothing here allocates.
//!
//! Source of the numbers: landlock(7) and linux/landlock.h, ABI 1 to 6. Older kernels get what they know.

use std::ffi::CStr;

use libc::c_int;

use super::sys::{self, Call};

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const IOCTL_DEV: u64 = 1 << 15;
/// Everything of ABI 1: bits 0 to 12.
const ABI_1: u64 = (1 << 13) - 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// How the kernel calls a rule about a folder and all below it.
pub(crate) const RULE_PATH_BENEATH: i64 = 1;
/// Bytes of `struct landlock_ruleset_attr`: accesses to files, to the network, scopes.
pub(crate) const ATTRIBUTES_BYTES: usize = 24;
/// Bytes of `struct landlock_path_beneath_attr`: access, folder.
const RULE_BYTES: usize = 12;
/// Where the folder's descriptor lies in it.
pub(crate) const RULE_FOLDER_AT: usize = 8;

fn check(result: libc::c_long) -> Call<c_int> {
    if result < 0 { Err(sys::errno()) } else { Ok(result as c_int) }
}

/// The kernel's ABI; zero where there is no Landlock.
pub(crate) fn abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: the query form takes no memory.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

fn handled(abi: u32) -> u64 {
    ABI_1
        | if abi >= 2 { REFER } else { 0 }
        | if abi >= 3 { TRUNCATE } else { 0 }
        | if abi >= 5 { IOCTL_DEV } else { 0 }
}

/// What a ruleset is about. Older kernels refuse a longer structure only if its tail is not zero.
pub(crate) fn attributes(abi: u32) -> [u8; ATTRIBUTES_BYTES] {
    let scoped = if abi >= 6 { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 };
    let mut bytes = [0; ATTRIBUTES_BYTES];
    bytes[..8].copy_from_slice(&handled(abi).to_ne_bytes());
    bytes[16..].copy_from_slice(&scoped.to_ne_bytes());
    bytes
}

/// What a guest may do below which folder.
pub(crate) fn rules(abi: u32) -> [(&'static CStr, u64); 3] {
    let handled = handled(abi);
    let devices = (READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV) & handled;
    [(c"/", EXECUTE | READ_FILE | READ_DIR), (c"/tmp", handled), (c"/dev", devices)]
}

/// A rule whose folder is not filled in.
pub(crate) fn rule(access: u64) -> [u8; RULE_BYTES] {
    let mut bytes = [0; RULE_BYTES];
    bytes[..RULE_FOLDER_AT].copy_from_slice(&access.to_ne_bytes());
    bytes
}

fn allow(ruleset: c_int, path: &CStr, access: u64) -> Call<()> {
    let folder = sys::open(path, libc::O_PATH)?;
    let mut rule = rule(access);
    rule[RULE_FOLDER_AT..].copy_from_slice(&folder.to_ne_bytes());
    // SAFETY: `rule` lives through the call.
    let result =
        check(unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, rule.as_ptr(), 0u32) });
    sys::close(folder);
    result.map(drop)
}

/// Confines the calling process to `rules`, and to `/mnt` where it has a folder there. `no_new_privs` must be set.
pub(crate) fn confine(abi: u32, has_files: bool) -> Call<()> {
    let [root, tmp, devices] = rules(abi);
    if has_files {
        // What of it may be written is for the mount to say.
        confine_to(abi, &[root, tmp, devices, (c"/mnt", handled(abi))])
    } else {
        confine_to(abi, &[root, tmp, devices])
    }
}

/// Confines the calling process to its own signals and sockets, and leaves files to the mounts: for a zygote, whose forks
/// are confined once more, in roots of their own where no rule of the zygote's would hold.
pub(crate) fn confine_scopes(abi: u32) -> Call<()> {
    confine_to(abi, &[(c"/", handled(abi))])
}

fn confine_to(abi: u32, rules: &[(&CStr, u64)]) -> Call<()> {
    let attributes = attributes(abi);
    // SAFETY: `attributes` lives through the call and has the size that is said.
    let ruleset = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, attributes.as_ptr(), ATTRIBUTES_BYTES, 0u32)
    })?;
    for (path, access) in rules {
        allow(ruleset, path, *access)?;
    }
    // SAFETY: no pointers.
    let result = check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0u32) });
    sys::close(ruleset);
    result.map(drop)
}
