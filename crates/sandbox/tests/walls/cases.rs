//! The escape attempts: what is tried, what keeps it from succeeding, and where it succeeds.
//!
//! A case names an attempt of `attempts`, fills in what it needs to know, and says where the same attempt succeeds.
//! Start reading at `CASES`.

use std::collections::HashMap;

use sandbox::process::WallKind;

use super::world::World;

/// Where the same attempt succeeds.
#[derive(Clone, Copy)]
pub enum Control {
    /// Outside any sandbox.
    Outside,
    /// Outside, where the caller is root; an ordinary user is kept from it by the system.
    OutsideAsRoot,
    /// In a sandbox without these walls.
    Without(&'static [WallKind]),
    /// The same, or nowhere: not every kernel offers it.
    WithoutIfOffered(&'static [WallKind]),
}

pub struct Case {
    pub name: &'static str,
    attempt: &'static str,
    environment: &'static [(&'static str, &'static str)],
    control: Control,
}

use Control::{Outside, OutsideAsRoot, Without, WithoutIfOffered};

const fn case(
    name: &'static str,
    attempt: &'static str,
    environment: &'static [(&'static str, &'static str)],
    control: Control,
) -> Case {
    Case { name, attempt, environment, control }
}

const SECCOMP: &[WallKind] = &[WallKind::Seccomp];

/// `{…}` in a value is filled in by `fill`.
pub const CASES: &[Case] = &[
    case("reads a file of the host", "read", &[("TARGET", "{secret}")], Outside),
    case("reads another function's code by its host path", "read", &[("TARGET", "{other}")], Outside),
    case("reads another function's code beside its own", "list", &[("TARGET", "{task}/../{b}")], Outside),
    case("lists root's home", "list", &[("TARGET", "/root")], OutsideAsRoot),
    case("lists the host's homes", "list", &[("TARGET", "/home")], Outside),
    case("reads the host's accounts", "read", &[("TARGET", "/etc/shadow")], OutsideAsRoot),
    case("lists control groups", "list", &[("TARGET", "/sys/fs/cgroup")], Outside),
    case("lists the host's devices", "list", &[("TARGET", "/dev/pts")], Outside),
    case("reads a host process", "read", &[("TARGET", "/proc/{pid}/cmdline")], Outside),
    case("reads the first process's memory", "open", &[("TARGET", "{first}/mem")], Outside),
    case("reads the first process's environment", "read", &[("TARGET", "{first}/environ")], Outside),
    case("lists the first process's descriptors", "list", &[("TARGET", "{first}/fd")], Outside),
    case("signals a host process", "signal", &[("PID", "{pid}")], Outside),
    case("writes its code", "write", &[("TARGET", "{task}/x")], Outside),
    case("writes to the runtime's folder", "write", &[("TARGET", "{runtime}/x")], Outside),
    case("writes to the root", "write", &[("TARGET", "{root}/dunlin-test-file")], Outside),
    case(
        "writes to a setting of the kernel",
        "write",
        &[("TARGET", "/proc/self/oom_score_adj"), ("TEXT", "700")],
        Without(&[WallKind::Landlock]),
    ),
    case("traces another process", "ptrace", &[], Without(SECCOMP)),
    case("mounts", "mount", &[], Outside),
    case("makes a user namespace", "unshare", &[], Without(SECCOMP)),
    case("clones into a user namespace", "clone", &[], Without(SECCOMP)),
    case("changes its root", "chroot", &[], OutsideAsRoot),
    case("opens raw sockets", "raw-socket", &[], Outside),
    case("opens a virtual machine socket", "vsock", &[], WithoutIfOffered(SECCOMP)),
    case("opens a socket of a rare transport", "mptcp-socket", &[], WithoutIfOffered(SECCOMP)),
    case("opens a kernel crypto socket", "alg-socket", &[], WithoutIfOffered(SECCOMP)),
    case("reaches the host's abstract sockets", "abstract-socket", &[("NAME", "{abstract}")], Outside),
    case("reaches the host's loopback", "tcp", &[("ADDRESS", "{listener}")], Without(&[WallKind::Network])),
    // A watcher would count the memory of so many processes.
    case("forks without end", "fork-bomb", &[], Without(&[WallKind::Tasks, WallKind::Memory])),
    case("fills /tmp", "fill-tmp", &[], Without(&[WallKind::Tmp])),
    case("fills /tmp with empty folders", "inodes", &[], Without(&[WallKind::Tmp])),
    case("takes more memory than it has", "memory-bomb", &[("MEGABYTES", "400")], Outside),
    case("takes more memory in children", "memory-bomb-in-children", &[("MEGABYTES", "400")], Outside),
    case("opens more files than it may", "open-files", &[], OutsideAsRoot),
    case("allows itself core files", "core-files", &[], Outside),
    case("puts a key into a kernel keyring", "keyring", &[], Without(SECCOMP)),
    case("uses io_uring", "io-uring", &[], WithoutIfOffered(SECCOMP)),
    case("loads into the kernel (bpf)", "bpf", &[], OutsideAsRoot),
    case("counts events of the machine", "perf", &[], WithoutIfOffered(SECCOMP)),
    case("handles page faults for others", "userfaultfd", &[], WithoutIfOffered(SECCOMP)),
    case("inherits descriptors", "descriptors", &[], Outside),
    case("becomes root", "setuid", &[], OutsideAsRoot),
    case("makes a device", "mknod", &[("TARGET", "/tmp/dunlin-test-device")], OutsideAsRoot),
    case("turns address randomisation off", "personality", &[], Without(SECCOMP)),
    case("opens files by handle", "handle", &[], WithoutIfOffered(SECCOMP)),
    case("sets the clock", "clock", &[], OutsideAsRoot),
    case("reads the kernel's log", "syslog", &[], OutsideAsRoot),
];

impl Case {
    /// Tries inside, then where it must succeed. A note says where a control was not possible.
    pub fn check(&self, world: &World) -> Result<String, String> {
        // Held while the attempts run.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let name = format!("dunlin-test-{}", std::process::id());
        let abstract_listener =
            <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name)
                .and_then(|address| std::os::unix::net::UnixListener::bind_addr(&address))
                .map_err(|error| error.to_string())?;
        let address = listener.local_addr().map_err(|error| error.to_string())?.to_string();
        let environment = |inside: bool| -> HashMap<&str, String> {
            let fill = |value: &str| fill(world, value, inside, &name, &address);
            self.environment.iter().map(|(key, value)| (*key, fill(value))).collect()
        };

        let blocked = world.attempt(&[], self.attempt, &environment(true));
        // A guest that was killed says nothing, which is a block as well.
        if blocked.output.contains("DID") {
            return Err(format!("succeeded: {}", blocked.output.trim()));
        }
        if !blocked.output.contains("BLOCKED") && blocked.exit.signal.is_none() {
            return Err(format!("did not run: {:?} {:?}", blocked.exit, blocked.output));
        }
        let control = match self.control {
            Outside => world.attempt_outside(self.attempt, &environment(false)),
            OutsideAsRoot if world.is_root() => world.attempt_outside(self.attempt, &environment(false)),
            OutsideAsRoot => return Ok("(no control: only root may do this outside)".to_owned()),
            Without(walls) | WithoutIfOffered(walls) => world.attempt(walls, self.attempt, &environment(true)).output,
        };
        drop((listener, abstract_listener));
        match (control.contains("DID"), self.control) {
            (true, _) => Ok(String::new()),
            (false, WithoutIfOffered(_)) => Ok(format!("(no control: {})", control.trim())),
            (false, _) => Err(format!("the control did not succeed: {:?}", control.trim())),
        }
    }
}

fn fill(world: &World, value: &str, inside: bool, name: &str, address: &str) -> String {
    let path = |path: std::path::PathBuf| path.display().to_string();
    let (root, task, runtime, first) = if inside {
        (String::new(), "/var/task".to_owned(), "/var/runtime".to_owned(), "/proc/1".to_owned())
    } else {
        (
            path(world.path("code")),
            path(world.code_folder(&world.other)),
            path(world.path("runtime")),
            "/proc/self".to_owned(),
        )
    };
    value
        .replace("{secret}", &path(world.path("secret")))
        .replace("{other}", &path(world.code_folder(&world.other).join("secret")))
        .replace("{b}", world.other.as_str())
        .replace("{root}", &root)
        .replace("{task}", &task)
        .replace("{runtime}", &runtime)
        .replace("{first}", &first)
        .replace("{pid}", &std::process::id().to_string())
        .replace("{abstract}", name)
        .replace("{listener}", address)
}
