//! Landlock: a second wall behind the mount namespace, and a wall against signals and abstract sockets.
//!
//! The guest may read and execute everything in its root, write below `/tmp`, and write to the device nodes; whatever
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

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: c_int,
}

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

fn allow(ruleset: c_int, path: &CStr, access: u64) -> Call<()> {
    const RULE_PATH_BENEATH: u32 = 1;
    let parent_fd = sys::open(path, libc::O_PATH)?;
    let rule = PathBeneath { allowed_access: access, parent_fd };
    // SAFETY: `rule` lives through the call.
    let result =
        check(unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &raw const rule, 0u32) });
    sys::close(parent_fd);
    result.map(drop)
}

/// Confines the calling process. `no_new_privs` must be set.
pub(crate) fn confine(abi: u32) -> Call<()> {
    let handled = ABI_1
        | if abi >= 2 { REFER } else { 0 }
        | if abi >= 3 { TRUNCATE } else { 0 }
        | if abi >= 5 { IOCTL_DEV } else { 0 };
    let scoped = if abi >= 6 { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 };
    let attr = RulesetAttr { handled_access_fs: handled, handled_access_net: 0, scoped };
    // Older kernels refuse a longer structure only if its tail is not zero.
    let size = size_of::<RulesetAttr>();
    // SAFETY: `attr` lives through the call and `size` is its size.
    let ruleset = check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0u32) })?;
    allow(ruleset, c"/", EXECUTE | READ_FILE | READ_DIR)?;
    allow(ruleset, c"/tmp", handled)?;
    allow(ruleset, c"/dev", (READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV) & handled)?;
    // SAFETY: no pointers.
    let result = check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0u32) });
    sys::close(ruleset);
    result.map(drop)
}
