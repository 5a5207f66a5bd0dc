//! The seccomp program: which system calls a guest may make.
//!
//! Allowed is what Node, CPython, JVM, Go and native programs use; denied are the calls that reach other processes,
//! namespaces, mounts, kernel keyrings, tracing, modules, clocks, and the kernel's largest attack surfaces. Calls newer
//! than the newest reviewed one do not exist for a guest. The program is made once, at start.
//!
//! Invariants
//!   1. What is not listed as denied and not above `REVIEWED_MAX` is allowed; every other architecture is killed.
//!   2. A denied call answers EPERM, or ENOSYS where programs then take another way (`clone3`, io_uring, new calls).
//!   3. What needs a capability anyway and has harmless uses stays (`mknod` makes pipes); nobody inside has one.
//!   4. `clone` makes no namespaces; `socket` makes unix, TCP, UDP and route sockets only, never raw ones.
//!
//! Start reading at `program`.

use libc::{c_long, sock_filter};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// The newest call that was looked at (`mseal` in 6.10).
const REVIEWED_MAX: u32 = 462;

/// Denied with EPERM. Sources: seccomp(2), the man pages of each call.
const DENIED: &[c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Namespaces, mounts and roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    // Kernel keyrings.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Tracing and programs in the kernel.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_lookup_dcookie,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_set_mempolicy_home_node,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];

/// Denied with ENOSYS: programs have another way then.
const ABSENT: &[c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Denied with ENOSYS beside `ABSENT` where no control group counts memory: what these make is memory of no process, which
/// a watcher does not see.
const UNCOUNTED: &[c_long] = &[libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_shmget];

/// Flags of `clone` that make namespaces.
const NAMESPACE_FLAGS: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | 0x80) as u32;

/// `personality` values that change nothing that matters to isolation: query, Linux, and the two of old programs.
const PERSONALITIES: &[u32] = &[0xffff_ffff, 0, 0x8, 0x2_0000, 0x2_0008];

const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

// Offsets in `struct seccomp_data`; the argument words are the lower halves on little-endian machines.
const AT_NUMBER: u32 = 0;
const AT_ARCH: u32 = 4;
const fn at_argument(index: u32) -> u32 {
    16 + 8 * index
}

const LOAD: u16 = 0x20;
const JUMP_ALWAYS: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const fn errno(number: i32) -> u32 {
    0x0005_0000 | number as u32
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// What happens for one range of call numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Return(u32),
    Clone,
    Socket,
    SocketPair,
    Personality,
    Ioctl,
}

fn action_of(number: u32, counted: bool) -> Action {
    let number = c_long::from(number);
    if DENIED.contains(&number) {
        return Action::Return(errno(libc::EPERM));
    }
    if ABSENT.contains(&number) || (!counted && UNCOUNTED.contains(&number)) {
        return Action::Return(errno(libc::ENOSYS));
    }
    match number {
        libc::SYS_clone => Action::Clone,
        libc::SYS_socket => Action::Socket,
        libc::SYS_socketpair => Action::SocketPair,
        libc::SYS_personality => Action::Personality,
        libc::SYS_ioctl => Action::Ioctl,
        _ => Action::Return(ALLOW),
    }
}

/// Neighbouring numbers with the same action, as (first number, action).
fn ranges(action_of: impl Fn(u32) -> Action) -> Vec<(u32, Action)> {
    let mut ranges: Vec<(u32, Action)> = Vec::new();
    for number in 0..=REVIEWED_MAX {
        let action = action_of(number);
        if ranges.last().is_none_or(|(_, last)| *last != action) {
            ranges.push((number, action));
        }
    }
    ranges.push((REVIEWED_MAX + 1, Action::Return(errno(libc::ENOSYS))));
    ranges
}

/// The code of one action, call number already looked at.
fn leaf(action: Action) -> Vec<sock_filter> {
    let allow = statement(RETURN, ALLOW);
    let deny = statement(RETURN, errno(libc::EPERM));
    let load = |argument| statement(LOAD, at_argument(argument));
    match action {
        Action::Return(value) => vec![statement(RETURN, value)],
        Action::Clone => vec![load(0), jump(JUMP_SET, NAMESPACE_FLAGS, 0, 1), deny, allow],
        Action::Ioctl => vec![load(1), jump(JUMP_EQUAL, TIOCSTI, 1, 0), jump(JUMP_EQUAL, TIOCLINUX, 0, 1), deny, allow],
        Action::Personality => {
            let mut code = vec![load(0)];
            for (index, value) in PERSONALITIES.iter().enumerate() {
                code.push(jump(JUMP_EQUAL, *value, (PERSONALITIES.len() - index) as u8, 0));
            }
            code.extend([deny, allow]);
            code
        }
        Action::SocketPair => vec![
            load(0),
            jump(JUMP_EQUAL, libc::AF_UNIX as u32, 1, 0),
            statement(RETURN, errno(libc::EAFNOSUPPORT)),
            allow,
        ],
        Action::Socket => socket_leaf(),
    }
}

/// Unix sockets of the three connected or datagram kinds; TCP and UDP over IPv4 and IPv6; and netlink's route family,
/// which resolvers ask for addresses. Any other transport (SCTP, MPTCP, L2TP, SMC) is code of the kernel that only
/// attackers need; programs that try one fall back to TCP when told that it is not supported.
fn socket_leaf() -> Vec<sock_filter> {
    vec![
        statement(LOAD, at_argument(0)),
        jump(JUMP_EQUAL, libc::AF_UNIX as u32, 6, 0),
        jump(JUMP_EQUAL, libc::AF_INET as u32, 10, 0),
        jump(JUMP_EQUAL, libc::AF_INET6 as u32, 9, 0),
        jump(JUMP_EQUAL, libc::AF_NETLINK as u32, 1, 0),
        statement(RETURN, errno(libc::EAFNOSUPPORT)),
        statement(LOAD, at_argument(2)),
        jump(JUMP_EQUAL, libc::NETLINK_ROUTE as u32, 17, 16),
        // Unix.
        statement(LOAD, at_argument(1)),
        statement(AND, 0xf),
        jump(JUMP_EQUAL, libc::SOCK_STREAM as u32, 14, 0),
        jump(JUMP_EQUAL, libc::SOCK_DGRAM as u32, 13, 0),
        jump(JUMP_EQUAL, libc::SOCK_SEQPACKET as u32, 12, 11),
        // IPv4 and IPv6.
        statement(LOAD, at_argument(1)),
        statement(AND, 0xf),
        jump(JUMP_EQUAL, libc::SOCK_STREAM as u32, 1, 0),
        jump(JUMP_EQUAL, libc::SOCK_DGRAM as u32, 3, 7),
        statement(LOAD, at_argument(2)),
        jump(JUMP_EQUAL, libc::IPPROTO_IP as u32, 6, 0),
        jump(JUMP_EQUAL, libc::IPPROTO_TCP as u32, 5, 3),
        statement(LOAD, at_argument(2)),
        jump(JUMP_EQUAL, libc::IPPROTO_IP as u32, 3, 0),
        jump(JUMP_EQUAL, libc::IPPROTO_UDP as u32, 2, 0),
        statement(RETURN, errno(libc::EPROTONOSUPPORT)),
        statement(RETURN, errno(libc::EPERM)),
        statement(RETURN, ALLOW),
    ]
}

/// A binary search over `ranges`, each ending in its action's code.
fn search(ranges: &[(u32, Action)]) -> Vec<sock_filter> {
    if let [(_, action)] = ranges {
        return leaf(*action);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let (first, left, right) = (upper[0].0, search(lower), search(upper));
    let mut code = match u8::try_from(left.len()) {
        Ok(skip) => vec![jump(JUMP_GREATER_EQUAL, first, skip, 0)],
        Err(_) => vec![jump(JUMP_GREATER_EQUAL, first, 0, 1), statement(JUMP_ALWAYS, left.len() as u32)],
    };
    code.extend(left);
    code.extend(right);
    code
}

/// The whole program of a guest. `counted` says whether a control group counts its memory.
pub(crate) fn program(counted: bool) -> Vec<sock_filter> {
    program_of(&ranges(|number| action_of(number, counted)))
}

/// That of a zygote, whose forks enter namespaces that were made for them, and install the guest's program then.
pub(crate) fn zygote_program(counted: bool) -> Vec<sock_filter> {
    let action = |number| match c_long::from(number) {
        libc::SYS_setns => Action::Return(ALLOW),
        _ => action_of(number, counted),
    };
    program_of(&ranges(action))
}

fn program_of(ranges: &[(u32, Action)]) -> Vec<sock_filter> {
    let mut code = vec![
        statement(LOAD, AT_ARCH),
        jump(JUMP_EQUAL, ARCH, 1, 0),
        statement(RETURN, KILL),
        statement(LOAD, AT_NUMBER),
    ];
    code.extend(search(ranges));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u32; 6]) -> u32 {
        let word = |offset: u32| match offset {
            AT_NUMBER => number,
            AT_ARCH => arch,
            _ => arguments[((offset - 16) / 8) as usize],
        };
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let step = program[at];
            let branch = |taken: bool| 1 + usize::from(if taken { step.jt } else { step.jf });
            at += match step.code {
                LOAD => {
                    a = word(step.k);
                    1
                }
                AND => {
                    a &= step.k;
                    1
                }
                JUMP_ALWAYS => 1 + step.k as usize,
                JUMP_EQUAL => branch(a == step.k),
                JUMP_GREATER_EQUAL => branch(a >= step.k),
                JUMP_SET => branch(a & step.k != 0),
                RETURN => return step.k,
                other => panic!("code {other:x}"),
            };
        }
    }

    fn call(number: c_long, arguments: &[u32]) -> u32 {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        run(&program(true), ARCH, number as u32, all)
    }

    #[test]
    fn every_number_gets_its_action() {
        for counted in [true, false] {
            let program = program(counted);
            for number in 0..=REVIEWED_MAX {
                if let Action::Return(value) = action_of(number, counted) {
                    assert_eq!(run(&program, ARCH, number, [0; 6]), value, "call {number}");
                }
            }
        }
        let program = program(true);
        for number in [REVIEWED_MAX + 1, 0x4000_0000, 0x4000_0000 + 59, u32::MAX] {
            assert_eq!(run(&program, ARCH, number, [0; 6]), errno(libc::ENOSYS), "call {number:x}");
        }
        assert_eq!(run(&program, 0x4000_0003, 1, [0; 6]), KILL, "another architecture");
    }

    #[test]
    fn arguments_are_looked_at() {
        let denied = errno(libc::EPERM);
        assert_eq!(call(libc::SYS_clone, &[libc::CLONE_VM as u32 | libc::CLONE_THREAD as u32]), ALLOW);
        assert_eq!(call(libc::SYS_clone, &[libc::CLONE_NEWUSER as u32]), denied);
        assert_eq!(call(libc::SYS_clone, &[libc::CLONE_VM as u32 | libc::CLONE_NEWNET as u32]), denied);
        let socket = |domain: i32, kind: i32, protocol: i32| {
            call(libc::SYS_socket, &[domain as u32, kind as u32, protocol as u32])
        };
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::SOCK_SEQPACKET] {
            assert_eq!(socket(libc::AF_UNIX, kind, 0), ALLOW);
        }
        assert_eq!(socket(libc::AF_UNIX, libc::SOCK_RAW, 0), denied);
        for domain in [libc::AF_INET, libc::AF_INET6] {
            for (kind, protocol) in [(libc::SOCK_STREAM, libc::IPPROTO_TCP), (libc::SOCK_DGRAM, libc::IPPROTO_UDP)] {
                assert_eq!(socket(domain, kind | libc::SOCK_NONBLOCK, 0), ALLOW);
                assert_eq!(socket(domain, kind | libc::SOCK_CLOEXEC, protocol), ALLOW);
                let others =
                    [libc::IPPROTO_SCTP, libc::IPPROTO_MPTCP, libc::IPPROTO_ICMP, libc::IPPROTO_UDPLITE, 115, 256];
                for other in others {
                    assert_eq!(socket(domain, kind, other), errno(libc::EPROTONOSUPPORT), "protocol {other}");
                }
            }
            // Without a protocol, this kind is SCTP.
            assert_eq!(socket(domain, libc::SOCK_SEQPACKET, 0), denied);
            assert_eq!(socket(domain, libc::SOCK_RAW, 0), denied);
        }
        let netlink = libc::AF_NETLINK as u32;
        assert_eq!(call(libc::SYS_socket, &[netlink, libc::SOCK_RAW as u32, 0]), ALLOW);
        assert_eq!(call(libc::SYS_socket, &[netlink, libc::SOCK_RAW as u32, 12]), denied);
        for domain in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, libc::AF_BLUETOOTH] {
            assert_eq!(call(libc::SYS_socket, &[domain as u32, 1]), errno(libc::EAFNOSUPPORT));
        }
        assert_eq!(call(libc::SYS_personality, &[0xffff_ffff]), ALLOW);
        assert_eq!(call(libc::SYS_personality, &[0x2_0008]), ALLOW);
        assert_eq!(call(libc::SYS_personality, &[libc::ADDR_NO_RANDOMIZE as u32]), denied);
        assert_eq!(call(libc::SYS_ioctl, &[0, TIOCSTI]), denied);
        assert_eq!(call(libc::SYS_ioctl, &[0, TIOCLINUX]), denied);
        assert_eq!(call(libc::SYS_ioctl, &[0, 0x5401]), ALLOW);
    }

    #[test]
    fn a_zygote_may_enter_namespaces_and_nothing_else_more() {
        let (guest, zygote) = (program(true), zygote_program(true));
        for number in 0..=REVIEWED_MAX {
            let of = |program: &[sock_filter]| run(program, ARCH, number, [0; 6]);
            if c_long::from(number) == libc::SYS_setns {
                assert_eq!((of(&guest), of(&zygote)), (errno(libc::EPERM), ALLOW));
            } else {
                assert_eq!(of(&guest), of(&zygote), "call {number}");
            }
        }
    }

    #[test]
    fn the_program_is_compact() {
        assert!(program(false).len() < 400, "{}", program(false).len());
    }
}
