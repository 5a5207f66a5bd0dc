//! System calls that the standard library and rustix do not offer, or that must not allocate.
//!
//! Every function here is one call or a short fixed sequence; none allocates, locks or panics, so that all of them
//! may run between clone and exec.
//!
//! Invariant: errors are plain errno values; a caller that knows the step adds it (`Fault`).

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use libc::{c_int, c_long, c_ulong, c_void};

use super::protocol::Step;

/// A step that failed and the system's errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

/// Result of one system call.
pub(crate) type Call<T> = Result<T, i32>;

/// Adds the step to a failed call.
pub(crate) trait At<T> {
    fn at(self, step: Step) -> Result<T, Fault>;
}

impl<T> At<T> for Call<T> {
    fn at(self, step: Step) -> Result<T, Fault> {
        self.map_err(|errno| Fault { step, errno })
    }
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, step: Step) -> Result<T, Fault> {
        self.map_err(|errno| Fault { step, errno: errno.raw_os_error() })
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, step: Step) -> Result<T, Fault> {
        self.map_err(|error| Fault { step, errno: error.raw_os_error().unwrap_or(libc::EIO) })
    }
}

/// The calling thread's errno.
pub(crate) fn errno() -> i32 {
    // SAFETY: the location is always valid for the calling thread.
    unsafe { *libc::__errno_location() }
}

fn check(result: c_long) -> Call<c_long> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn check_int(result: c_int) -> Call<c_int> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

pub(crate) const ATTR_RDONLY: u64 = 0x1;
pub(crate) const ATTR_NOSUID: u64 = 0x2;
pub(crate) const ATTR_NODEV: u64 = 0x4;
pub(crate) const ATTR_NOEXEC: u64 = 0x8;
pub(crate) const ATTR_NOATIME: u64 = 0x10;

/// libc's constant of this name does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const OPEN_TREE_CLONE: c_ulong = 1;
const OPEN_TREE_CLOEXEC: c_ulong = libc::O_CLOEXEC as c_ulong;
const AT_RECURSIVE: c_ulong = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: c_ulong = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: c_ulong = 0x40;

/// A detached copy of the mount tree at `path` below `dir` (`dir` itself when `path` is empty).
pub(crate) fn clone_tree(dir: c_int, path: &CStr) -> Call<c_int> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | libc::AT_EMPTY_PATH as c_ulong;
    // SAFETY: `path` is a valid C string for the call's duration.
    check(unsafe { libc::syscall(libc::SYS_open_tree, dir, path.as_ptr(), flags) }).map(|fd| fd as c_int)
}

/// Attaches the detached tree `tree` at `path` below `dir`.
pub(crate) fn attach_tree(tree: c_int, dir: c_int, path: &CStr) -> Call<()> {
    let flags = MOVE_MOUNT_F_EMPTY_PATH | if path.is_empty() { MOVE_MOUNT_T_EMPTY_PATH } else { 0 };
    // SAFETY: both paths are valid C strings for the call's duration.
    check(unsafe { libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), dir, path.as_ptr(), flags) }).map(drop)
}

/// Has every mount of the detached tree at `fd` show owners as a user namespace maps them.
pub(crate) fn map_owners(fd: c_int, user: c_int) -> Call<()> {
    const ATTR_IDMAP: u64 = 0x0010_0000;
    let attr = MountAttr { attr_set: ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd: user as u64 };
    let flags = libc::AT_EMPTY_PATH as c_ulong | AT_RECURSIVE;
    let size = size_of::<MountAttr>();
    // SAFETY: `attr` lives through the call and `size` is its size.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw const attr, size) }).map(drop)
}

/// `mkdir(2)`, for everybody to look into.
pub(crate) fn make_folder(path: &CStr) -> Call<()> {
    // SAFETY: `path` is a valid C string for the call's duration.
    check_int(unsafe { libc::mkdir(path.as_ptr(), 0o755) }).map(drop)
}

/// Sets attributes on every mount of the tree at `fd`.
pub(crate) fn set_tree_attributes(fd: c_int, set: u64) -> Call<()> {
    let attr = MountAttr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH as c_ulong | AT_RECURSIVE;
    let size = size_of::<MountAttr>();
    // SAFETY: `attr` lives through the call and `size` is its size.
    check(unsafe { libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), flags, &raw const attr, size) }).map(drop)
}

/// `mount(2)`; empty `kind` or `data` are passed as null.
pub(crate) fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: c_ulong, data: &CStr) -> Call<()> {
    let kind = if kind.is_empty() { std::ptr::null() } else { kind.as_ptr() };
    let data = if data.is_empty() { std::ptr::null() } else { data.as_ptr().cast::<c_void>() };
    // SAFETY: all pointers are null or valid C strings for the call's duration.
    check_int(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data) }).map(drop)
}

const FSCONFIG_SET_STRING: c_ulong = 1;
const FSCONFIG_CMD_CREATE: c_ulong = 6;
const FSCONFIG_CMD_RECONFIGURE: c_ulong = 7;

/// Begins a new file system of this kind.
pub(crate) fn open_file_system(kind: &CStr) -> Call<c_int> {
    const FSOPEN_CLOEXEC: c_ulong = 1;
    // SAFETY: `kind` is a valid C string for the call's duration.
    check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(|fd| fd as c_int)
}

/// Begins to change the file system of a mount.
pub(crate) fn pick_file_system(mount: c_int) -> Call<c_int> {
    const FSPICK_CLOEXEC: c_ulong = 1;
    const FSPICK_EMPTY_PATH: c_ulong = 8;
    let flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
    // SAFETY: a constant string.
    check(unsafe { libc::syscall(libc::SYS_fspick, mount, c"".as_ptr(), flags) }).map(|fd| fd as c_int)
}

/// Sets a parameter of a file system that was begun or picked.
pub(crate) fn configure(context: c_int, key: &CStr, value: &CStr) -> Call<()> {
    // SAFETY: both are valid C strings for the call's duration.
    let result = unsafe {
        libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0 as c_ulong)
    };
    check(result).map(drop)
}

/// Sets a parameter that has no value.
pub(crate) fn configure_flag(context: c_int, key: &CStr) -> Call<()> {
    const FSCONFIG_SET_FLAG: c_ulong = 0;
    let none = std::ptr::null::<u8>();
    // SAFETY: `key` is a valid C string for the call's duration; a flag takes no value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context, FSCONFIG_SET_FLAG, key.as_ptr(), none, 0 as c_ulong) })
        .map(drop)
}

fn command(context: c_int, command: c_ulong) -> Call<()> {
    let none = std::ptr::null::<u8>();
    // SAFETY: these commands take no key and no value.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context, command, none, none, 0 as c_ulong) }).map(drop)
}

/// Makes the file system and a detached mount of it.
pub(crate) fn mount_file_system(context: c_int, attributes: u64) -> Call<c_int> {
    const FSMOUNT_CLOEXEC: c_ulong = 1;
    command(context, FSCONFIG_CMD_CREATE)?;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes) }).map(|fd| fd as c_int)
}

/// Applies what was set to a picked file system.
pub(crate) fn reconfigure_file_system(context: c_int) -> Call<()> {
    command(context, FSCONFIG_CMD_RECONFIGURE)
}

/// The number of a loop device that nobody uses, by the control device.
pub(crate) fn free_loop_device(control: c_int) -> Call<c_int> {
    const LOOP_CTL_GET_FREE: c_ulong = 0x4C82;
    // SAFETY: no pointers.
    check_int(unsafe { libc::ioctl(control, LOOP_CTL_GET_FREE as _) })
}

/// Has the kernel take a loop device away that nobody uses.
pub(crate) fn remove_loop_device(control: c_int, number: c_int) -> Call<()> {
    const LOOP_CTL_REMOVE: c_ulong = 0x4C81;
    // SAFETY: no pointers.
    check_int(unsafe { libc::ioctl(control, LOOP_CTL_REMOVE as _, number) }).map(drop)
}

/// Puts a file behind a loop device, which lets go of it by itself when nobody uses the device any more.
pub(crate) fn configure_loop_device(device: c_int, file: c_int) -> Call<()> {
    const LOOP_CONFIGURE: c_ulong = 0x4C0A;
    const AUTOCLEAR: u32 = 4;
    /// `struct loop_config` of linux/loop.h; what stays zero has no names here.
    #[repr(C)]
    struct Config {
        fd: u32,
        block_size: u32,
        info: [u64; 5],
        numbers: [u32; 3],
        flags: u32,
        rest: [u64; 30],
    }
    const { assert!(size_of::<Config>() == 304) };
    let config =
        Config { fd: file as u32, block_size: 0, info: [0; 5], numbers: [0; 3], flags: AUTOCLEAR, rest: [0; 30] };
    // SAFETY: `config` lives through the call and has the structure's size.
    check_int(unsafe { libc::ioctl(device, LOOP_CONFIGURE as _, &raw const config) }).map(drop)
}

/// Drops what the kernel keeps of a block device's content.
pub(crate) fn forget_device_pages(device: c_int) -> Call<()> {
    const BLKFLSBUF: c_ulong = 0x1261;
    // SAFETY: no pointers.
    check_int(unsafe { libc::ioctl(device, BLKFLSBUF as _, 0) }).map(drop)
}

/// Ends a file system at once, without writing what it still holds in memory. A refusal costs that writing.
pub(crate) fn shut_down_file_system(root: c_int) {
    const FS_IOC_SHUTDOWN: c_ulong = 0x8004_587D;
    let without_flush: u32 = 2;
    // SAFETY: the value lives through the call, which reads a word.
    unsafe { libc::ioctl(root, FS_IOC_SHUTDOWN as _, &raw const without_flush) };
}

/// Makes the current folder the root of the mount namespace and drops the old root.
pub(crate) fn pivot_here() -> Call<()> {
    // SAFETY: plain calls on constant strings. The old root is stacked on the new one, at ".", and detached from there.
    unsafe {
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check_int(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check_int(libc::chdir(c"/".as_ptr())).map(drop)
    }
}

/// Changes the working folder.
pub(crate) fn chdir(path: &CStr) -> Call<()> {
    // SAFETY: a valid C string.
    check_int(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

/// Opens `path`.
pub(crate) fn open(path: &CStr, flags: c_int) -> Call<c_int> {
    // SAFETY: a valid C string.
    check_int(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) })
}

/// Writes bytes in one piece.
pub(crate) fn write(fd: c_int, bytes: &[u8]) -> Call<()> {
    // SAFETY: the slice is valid for its length.
    check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as c_long).map(drop)
}

/// A file without a name that holds `bytes`.
pub(crate) fn memory_file(name: &CStr, bytes: &[u8]) -> rustix::io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::pwrite(&file, &bytes[written..], written as u64)?;
    }
    Ok(file)
}

/// Closes `fd`; errors do not matter to any caller.
pub(crate) fn close(fd: c_int) {
    // SAFETY: the callers own `fd`.
    unsafe { libc::close(fd) };
}

/// Closes every descriptor from `first` to `last`.
pub(crate) fn close_range(first: u32, last: u32) -> Call<()> {
    // SAFETY: no pointers. Called by processes that keep none of these descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// What `clone_process` returned.
pub(crate) enum Cloned {
    /// In the parent: the child's process id and pidfd.
    Parent { pid: i32, pidfd: c_int },
    /// In the child.
    Child,
}

/// Forks into new namespaces. With `cgroup`, the child starts in that cgroup (v2).
///
/// # Safety
/// The calling process must be single-threaded, else the child may find locks held for ever.
pub(crate) unsafe fn clone_process(namespaces: c_int, cgroup: Option<c_int>) -> Call<Cloned> {
    let mut pidfd: c_int = -1;
    // SAFETY: all-zero is a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces as u32 as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(group) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group as u64;
    }
    // SAFETY: `args` is valid and its size is right; without CLONE_VM and a stack of its own the child goes on with a
    // copy of this stack, as after fork.
    match check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent { pid: pid as i32, pidfd }),
    }
}

/// Runs `act` in a process of its own that shares this one's memory and descriptors, while this one stands still: for what
/// changes a process for good. What `act` answers is answered.
///
/// # Safety
/// The calling process must be single-threaded. `act` must not unwind, nor leave anything in memory that counts on the
/// credentials of the process that it ran in.
pub(crate) unsafe fn aside(act: &mut dyn FnMut() -> Call<()>) -> Call<()> {
    const STACK_BYTES: usize = 512 * 1024;
    struct Aside<'a> {
        act: &'a mut dyn FnMut() -> Call<()>,
        errno: c_int,
    }
    extern "C" fn run(aside: *mut c_void) -> c_int {
        // SAFETY: `aside` passes its own structure and waits.
        let aside = unsafe { &mut *aside.cast::<Aside<'_>>() };
        let errno = (aside.act)().err().unwrap_or(0);
        // SAFETY: as above; volatile, since the waiting parent reads it. The process ends without running anything else.
        unsafe {
            std::ptr::write_volatile(&raw mut aside.errno, errno);
            libc::_exit(0)
        }
    }
    let mut aside = Aside { act, errno: libc::ECHILD };
    // SAFETY: the stack is a fresh mapping, used by the child alone; the child shares memory and this process waits
    // (CLONE_VFORK) until it has ended, so `aside` outlives its use.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let stack = libc::mmap(std::ptr::null_mut(), STACK_BYTES, protection, flags, -1, 0);
        if stack == libc::MAP_FAILED {
            return Err(errno());
        }
        let top = stack.cast::<u8>().add(STACK_BYTES).cast();
        let flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(run, top, flags, (&raw mut aside).cast());
        let failed = if pid < 0 { errno() } else { 0 };
        if pid > 0 {
            while libc::waitpid(pid, std::ptr::null_mut(), 0) < 0 && errno() == libc::EINTR {}
        }
        libc::munmap(stack, STACK_BYTES);
        match (failed, std::ptr::read_volatile(&raw const aside.errno)) {
            (0, 0) => Ok(()),
            (0, errno) | (errno, _) => Err(errno),
        }
    }
}

/// Moves the caller into the namespace that a file stands for; of a process namespace, only its children to come.
pub(crate) fn setns(namespace: c_int) -> Call<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::setns(namespace, 0) }).map(drop)
}

/// A descriptor of a process.
pub(crate) fn pidfd_open(pid: i32) -> Call<c_int> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(|fd| fd as c_int)
}

/// Moves the caller into new namespaces.
pub(crate) fn unshare(flags: c_int) -> Call<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::unshare(flags) }).map(drop)
}

/// Takes on one user and group id in all three forms.
pub(crate) fn become_ids(uid: u32, gid: u32) -> Call<()> {
    // SAFETY: no pointers. The raw calls change this thread alone, which is all there is.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid)).map(drop)
    }
}

/// Drops supplementary groups.
pub(crate) fn drop_groups() -> Call<()> {
    // SAFETY: an empty list needs no memory.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()) }).map(drop)
}

/// `prctl` with up to two arguments.
pub(crate) fn prctl(option: c_int, first: c_ulong, second: c_ulong) -> Call<c_int> {
    // SAFETY: only options without pointers are used in this crate.
    check_int(unsafe { libc::prctl(option, first, second, 0, 0) })
}

/// Empties the bounding and ambient sets.
pub(crate) fn drop_bounding_set() -> Call<()> {
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => {}
            Err(libc::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong, 0).map(drop)
}

/// Empties the permitted, effective and inheritable sets.
pub(crate) fn drop_capabilities() -> Call<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let data = [0u32; 6];
    // SAFETY: version 3 reads two structures of three words each, which `data` holds.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Sets both limits of a resource.
pub(crate) fn set_limit(resource: u32, value: u64) -> Call<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` lives through the call.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, std::ptr::null::<u8>()) })
        .map(drop)
}

/// Sets the caller's niceness. A refusal leaves it as it is: priority is no wall.
pub(crate) fn set_niceness(niceness: c_int) {
    // SAFETY: no pointers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
}

/// Installs a seccomp program for the calling thread and its children.
pub(crate) fn install_seccomp(program: &[libc::sock_filter]) -> Call<()> {
    let fprog = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program during the call and does not write to it.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER as c_ulong, 0 as c_ulong, &raw const fprog)
    })
    .map(drop)
}

/// Creates a socket.
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Call<c_int> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })
}

/// Sets an integer option of a socket.
pub(crate) fn set_socket_option(fd: c_int, level: c_int, option: c_int, value: c_int) -> Call<()> {
    // SAFETY: the value lives through the call and its size is right.
    check_int(unsafe {
        libc::setsockopt(fd, level, option, (&raw const value).cast(), size_of::<c_int>() as libc::socklen_t)
    })
    .map(drop)
}

/// Binds a socket to an IPv4 address in host order.
pub(crate) fn bind_v4(fd: c_int, address: u32, port: u16) -> Call<()> {
    // SAFETY: all-zero is a valid address; the size is right.
    unsafe {
        let mut name: libc::sockaddr_in = std::mem::zeroed();
        name.sin_family = libc::AF_INET as u16;
        name.sin_port = port.to_be();
        name.sin_addr.s_addr = address.to_be();
        check_int(libc::bind(fd, (&raw const name).cast(), size_of::<libc::sockaddr_in>() as libc::socklen_t)).map(drop)
    }
}

/// Binds a socket to a port of every IPv6 address.
pub(crate) fn bind_v6_any(fd: c_int, port: u16) -> Call<()> {
    // SAFETY: all-zero is a valid address; the size is right.
    unsafe {
        let mut name: libc::sockaddr_in6 = std::mem::zeroed();
        name.sin6_family = libc::AF_INET6 as u16;
        name.sin6_port = port.to_be();
        check_int(libc::bind(fd, (&raw const name).cast(), size_of::<libc::sockaddr_in6>() as libc::socklen_t))
            .map(drop)
    }
}

/// Starts to listen.
pub(crate) fn listen(fd: c_int, backlog: c_int) -> Call<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::listen(fd, backlog) }).map(drop)
}

/// Sends bytes on a connected or netlink socket.
pub(crate) fn send(fd: c_int, bytes: &[u8]) -> Call<()> {
    // SAFETY: the slice is valid for its length.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    check(sent as c_long).map(drop)
}

/// Receives one message.
pub(crate) fn receive(fd: c_int, buffer: &mut [u8]) -> Call<usize> {
    // SAFETY: the slice is valid for its length.
    let received = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    check(received as c_long).map(|length| length as usize)
}

/// Most descriptors in one message.
pub(crate) const FDS_MAX: usize = 16;

/// Sends one message with descriptors.
pub(crate) fn send_with_fds(fd: c_int, bytes: &[u8], fds: &[c_int]) -> Call<()> {
    send_message(fd, bytes, fds, 0)
}

/// The same, unless that would have to wait.
pub(crate) fn send_with_fds_now(fd: c_int, bytes: &[u8], fds: &[c_int]) -> Call<()> {
    send_message(fd, bytes, fds, libc::MSG_DONTWAIT)
}

fn send_message(fd: c_int, bytes: &[u8], fds: &[c_int], flags: c_int) -> Call<()> {
    const SPACE: usize = 128;
    #[repr(C, align(8))]
    struct Control([u8; SPACE]);
    if fds.len() > FDS_MAX {
        return Err(libc::EINVAL);
    }
    let mut control = Control([0; SPACE]);
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: the header points to buffers that outlive the call; SPACE holds the control message of FDS_MAX
    // descriptors (16 + 64 bytes), so the data pointer is within it.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        if !fds.is_empty() {
            let size = size_of_val(fds) as u32;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size) as usize;
            std::ptr::copy_nonoverlapping(fds.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), size as usize);
        }
        check(libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL | flags) as c_long).map(drop)
    }
}

/// Receives one message with its descriptors; those that `fds` has no place for are closed. Places without one stay as they
/// are.
pub(crate) fn receive_with_fds(fd: c_int, buffer: &mut [u8], fds: &mut [c_int; 2]) -> Call<usize> {
    const SPACE: usize = 128;
    #[repr(C, align(8))]
    struct Control([u8; SPACE]);
    let mut control = Control([0; SPACE]);
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the header points to buffers that outlive the call. The kernel writes whole control messages into the buffer,
    // whose lengths say how many descriptors follow their heads.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = SPACE;
        let length = check(libc::recvmsg(fd, &raw mut message, libc::MSG_CMSG_CLOEXEC) as c_long)?;
        let mut next = 0;
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                for index in 0..bytes / size_of::<c_int>() {
                    let got = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast::<c_int>().add(index));
                    match fds.get_mut(next) {
                        Some(place) => *place = got,
                        None => close(got),
                    }
                    next += 1;
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        Ok(length as usize)
    }
}

/// A copy of a descriptor that is at least `least`.
pub(crate) fn duplicate_above(fd: c_int, least: c_int) -> Call<c_int> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) })
}

/// Has the end of a child interrupt `wait_readable`, and be kept back at all other times.
pub(crate) fn hold_back_children() {
    extern "C" fn nothing(_signal: c_int) {}
    let handler: extern "C" fn(c_int) = nothing;
    // SAFETY: all-zero is valid for both structures, which outlive the calls. Without a handler the signal would be thrown
    // away and wake nobody.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut());
        let mut children: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut children, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const children, std::ptr::null_mut());
    }
}

/// Waits until there is something to read, the other side is gone, or a signal comes (EINTR).
pub(crate) fn wait_readable(fd: c_int) -> Call<bool> {
    let mut wanted = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: all-zero is an empty set; both structures outlive the call.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        check_int(libc::ppoll(&raw mut wanted, 1, std::ptr::null(), &raw const none))?;
    }
    Ok(wanted.revents != 0)
}

/// Reaps one child that has ended, if one has: its number and wait(2)'s status.
pub(crate) fn reap_one() -> Call<Option<(c_int, c_int)>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = check_int(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) })?;
    Ok((pid > 0).then_some((pid, status)))
}

/// Sends a signal; whether anybody was there for it.
pub(crate) fn signal(pid: c_int, signal: c_int) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// Waits for a process to end, and reaps it if it is a child. Answers the processor time, in ns, of a child and of the
/// descendants that it has reaped, and the most bytes that any one of them had; nothing of another's child.
pub(crate) fn wait(pidfd: c_int) -> (u64, u64) {
    // SAFETY: all-zero is valid for both structures, which outlive the call.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let mut usage: libc::rusage = std::mem::zeroed();
        while libc::syscall(libc::SYS_waitid, libc::P_PIDFD, pidfd, &raw mut info, libc::WEXITED, &raw mut usage) < 0 {
            match errno() {
                libc::EINTR => {}
                libc::ECHILD => {
                    let mut end = libc::pollfd { fd: pidfd, events: libc::POLLIN, revents: 0 };
                    while libc::poll(&raw mut end, 1, -1) < 0 && errno() == libc::EINTR {}
                    return (0, 0);
                }
                _ => return (0, 0),
            }
        }
        let ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
        (ns(usage.ru_utime) + ns(usage.ru_stime), usage.ru_maxrss as u64 * 1024)
    }
}

/// Reaps a child if it has ended; whether it has.
pub(crate) fn has_ended(pidfd: c_int) -> bool {
    let flags = libc::WEXITED | libc::WNOHANG;
    // SAFETY: all-zero is valid for the structure, which outlives the call. Without a child that has ended, the process
    // id in it stays zero.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let none = std::ptr::null::<u8>();
        libc::syscall(libc::SYS_waitid, libc::P_PIDFD, pidfd, &raw mut info, flags, none) < 0 || info.si_pid() != 0
    }
}

/// Processor time of a living process, all threads together.
pub(crate) fn process_cpu_ns(pid: i32) -> Option<u64> {
    // How the kernel names a process's own clock: clock_getcpuclockid(3).
    const SCHEDULED: i32 = 2;
    let clock = (!pid << 3) | SCHEDULED;
    // SAFETY: all-zero is a valid time, which the call fills.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        (libc::clock_gettime(clock, &raw mut time) == 0)
            .then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

/// A positive number that `sysconf` knows.
pub(crate) fn system_value(name: c_int) -> u64 {
    // SAFETY: no pointers.
    u64::try_from(unsafe { libc::sysconf(name) }).unwrap_or(0).max(1)
}
