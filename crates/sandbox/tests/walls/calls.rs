//! Attempts by single calls and by links: what the kernel, the file system and the host's other sockets would give.
//!
//! A call whose arguments are wrong on purpose counts as made when the kernel complains about them: it has come past the
//! question whether it may be made at all. Nothing here changes the host, so that each can run outside as its control.

use std::env::var;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::attempts::{Attempt, ask, memory, number, path, socket, system, text, words};

/// The attempt of this name, if it is one of these.
pub fn attempt(name: &str) -> Option<Attempt> {
    Some(match name {
        "read-process" => process_memory(libc::SYS_process_vm_readv),
        "write-process" => process_memory(libc::SYS_process_vm_writev),
        "take-descriptor" => take_descriptor(),
        "compare-processes" => own_pid(libc::SYS_kcmp, &[0, 1, 1]),
        "clone3" => clone3(),
        "move-pages" => system(libc::SYS_move_pages, &[0, 0, 0, 0, 0, 0]),
        "watch-files" => system(libc::SYS_fanotify_init, &[0x200, 0]),
        "ask-keyring" => made(libc::SYS_request_key, &[text(c"user"), text(c"dunlin-test-none"), 0, 0]),
        "load-module" => made(libc::SYS_init_module, &[0, 0, text(c"")]),
        "load-kernel" => made(libc::SYS_kexec_load, &[0, 1000, 0, 0]),
        "reboot" => made(libc::SYS_reboot, &[0, 0, 0, 0]),
        "swap" => made(libc::SYS_swapon, &[text(c"/dunlin-test-none"), 0]),
        "account" => made(libc::SYS_acct, &[text(c"/dunlin-test-none")]),
        "quota" => made(libc::SYS_quotactl, &[0x80_0001 << 8, text(c"/dunlin-test-none"), 0, 0]),
        "make-file-system" => system(libc::SYS_fsopen, &[text(c"tmpfs"), 1]),
        "clone-mount" => system(libc::SYS_open_tree, &[libc::AT_FDCWD.into(), text(c"/usr"), 1 | 0x8_0000]),
        "enter-namespace" => enter_namespace(),
        "netfilter-socket" => socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
        "audit-socket" => socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT),
        "segments" => segments(),
        "open-write" => fs::OpenOptions::new().write(true).open(path()).map(|_| String::new()).map_err(words),
        "shared-memory" => system(libc::SYS_shmget, &[number("KEY").into(), 0, 0]),
        "unix-socket" => UnixStream::connect(path()).map(|_| String::new()).map_err(words),
        "datagram" => ask(&var("ADDRESS").unwrap(), b"ping"),
        "hard-link" => hard_link(),
        "change-mode" => {
            fs::set_permissions(path(), fs::Permissions::from_mode(0o777)).map(|()| String::new()).map_err(words)
        }
        "setuid-program" => setuid_program(),
        "am-i-root" => rustix::process::geteuid().is_root().then(String::new).ok_or("not root".to_owned()),
        "priority" => system(libc::SYS_setpriority, &[libc::PRIO_PROCESS.into(), 0, -20]),
        "real-time" => real_time(),
        "look-at-host" => look_at_host(),
        _ => return None,
    })
}

/// What `/proc` tells of the machine; what programs need of it counts too, where it is not there.
fn look_at_host() -> Attempt {
    const HOSTS: &str = "interrupts softirqs irq diskstats partitions scsi acpi asound latency_stats sched_debug timer_list \
        timer_stats kcore kallsyms modules config.gz cmdline keys sys/kernel/random/boot_id";
    const NEEDED: &str = "cpuinfo meminfo stat uptime loadavg vmstat version filesystems self/status self/maps self/mountinfo \
        self/cgroup self/limits sys/kernel/random/uuid sys/kernel/osrelease sys/net/core/somaxconn sys/vm/overcommit_memory";
    let of = |name: &str| format!("/proc/{name}");
    let tells = |name: &&str| {
        fs::read(of(name)).is_ok_and(|text| !text.is_empty())
            || fs::read_dir(of(name)).is_ok_and(|entries| entries.count() > 0)
    };
    let told: Vec<&str> = HOSTS.split_ascii_whitespace().filter(tells).collect();
    let missing: Vec<&str> = NEEDED.split_ascii_whitespace().filter(|name| !tells(name)).collect();
    match (told.is_empty(), missing.is_empty()) {
        (true, true) => Err("nothing is told".to_owned()),
        _ => Ok(format!("{told:?}, without {missing:?}")),
    }
}

/// A call that must fail, by its own reasons if it is made.
fn made(number: i64, arguments: &[i64]) -> Attempt {
    match system(number, arguments) {
        Ok(_) => Err("succeeded, which no attempt wants".to_owned()),
        Err(_) => {
            let error = std::io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Err(error.to_string()),
                _ => Ok(error.to_string()),
            }
        }
    }
}

fn own_pid(number: i64, rest: &[i64]) -> Attempt {
    let own = i64::from(std::process::id());
    system(number, &[&[own, own], rest].concat())
}

/// This process's own memory, by the call that reaches other processes too.
fn process_memory(number: i64) -> Attempt {
    let (mut from, mut to) = (7u64, 0u64);
    let length = size_of::<u64>();
    let mut local = libc::iovec { iov_base: (&raw mut to).cast(), iov_len: length };
    let mut remote = libc::iovec { iov_base: (&raw mut from).cast(), iov_len: length };
    system(number, &[std::process::id().into(), memory(&mut local), 1, memory(&mut remote), 1, 0])
}

fn take_descriptor() -> Attempt {
    let process: i64 = system(libc::SYS_pidfd_open, &[std::process::id().into(), 0])?.parse().unwrap();
    system(libc::SYS_pidfd_getfd, &[process, 1, 0])
}

/// The newer call, whose flags no filter can look at.
fn clone3() -> Attempt {
    let mut arguments = [0u64; 11];
    arguments[0] = libc::CLONE_NEWUSER as u64;
    arguments[4] = libc::SIGCHLD as u64;
    let answer = system(libc::SYS_clone3, &[memory(&mut arguments), 88])?;
    if answer == "0" {
        std::process::exit(0);
    }
    Ok(answer)
}

fn enter_namespace() -> Attempt {
    let namespace = fs::File::open("/proc/self/ns/net").map_err(words)?;
    system(libc::SYS_setns, &[std::os::fd::AsRawFd::as_raw_fd(&namespace).into(), 0])
}

#[cfg(target_arch = "x86_64")]
fn segments() -> Attempt {
    let mut table = [0u64; 8];
    system(libc::SYS_modify_ldt, &[0, memory(&mut table), 64])
}

#[cfg(not(target_arch = "x86_64"))]
fn segments() -> Attempt {
    Err("another processor".to_owned())
}

/// A second name for a file of the code, in a folder that may be written.
fn hard_link() -> Attempt {
    let to = format!("{}/dunlin-test-link", var("FOLDER").unwrap());
    let made = fs::hard_link(path(), &to).map_err(words);
    let _ = fs::remove_file(&to);
    made.map(|()| String::new())
}

/// A program that says whose right it has, with root's bit on its file.
fn setuid_program() -> Attempt {
    let mut command = Command::new(path());
    command.env("ATTEMPT", "am-i-root");
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let output = command.output().map_err(words)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if said.contains("DID") { Ok(said) } else { Err(said) }
}

fn real_time() -> Attempt {
    let mut parameter = 1i32;
    system(libc::SYS_sched_setscheduler, &[0, libc::SCHED_FIFO.into(), memory(&mut parameter)])
}
