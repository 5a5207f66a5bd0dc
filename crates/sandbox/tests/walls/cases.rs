//! The escape attempts: what is tried, what keeps it from succeeding, and where it succeeds.
//!
//! A case names an attempt of `attempts`, fills in what it needs to know, and says where the same attempt succeeds.
//! Start reading at `CASES`.

use std::collections::HashMap;

use sandbox::process::WallKind;

use super::world::{Outcome, World};

/// Where the same attempt succeeds.
#[derive(Clone, Copy)]
pub enum Control {
    /// Outside any sandbox.
    Outside,
    /// Outside, where the caller is root; an ordinary user is kept from it by the system.
    OutsideAsRoot,
    /// The same, or nowhere: not every kernel offers it.
    OutsideAsRootIfOffered,
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

use Control::{Outside, OutsideAsRoot, OutsideAsRootIfOffered, Without, WithoutIfOffered};

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
    case("reads a file of the host by a link in its code", "read", &[("TARGET", "{mine}/link")], Outside),
    case("reads a file through the first process's root", "read", &[("TARGET", "{first}/root{secret}")], Outside),
    case("lists the code root by the spawner's name of it", "list", &[("TARGET", "{code}")], Outside),
    case("gives its code a second name", "hard-link", &[("TARGET", "{mine}/bootstrap"), ("FOLDER", "{free}")], Outside),
    case("changes the mode of its code", "change-mode", &[("TARGET", "{mine}/bootstrap")], Outside),
    case("runs a program with root's bit", "setuid-program", &[("TARGET", "{setuid}")], OutsideAsRoot),
    case("opens the kernel's memory", "open", &[("TARGET", "/proc/kcore")], OutsideAsRootIfOffered),
    case("looks at the host through /proc", "look-at-host", &[], Outside),
    case("opens the kernel's log device", "open", &[("TARGET", "/dev/kmsg")], OutsideAsRoot),
    case("opens the control of loop devices", "open", &[("TARGET", "/dev/loop-control")], OutsideAsRoot),
    case("opens the keys of the machine", "open-write", &[("TARGET", "/proc/sysrq-trigger")], OutsideAsRootIfOffered),
    case("opens where cores go", "open-write", &[("TARGET", "/proc/sys/kernel/core_pattern")], OutsideAsRoot),
    case("writes its code", "write", &[("TARGET", "{task}/x")], Outside),
    case("writes what was made of its code", "write", &[("TARGET", "{cache}/x")], Outside),
    case("writes to the runtime's folder", "write", &[("TARGET", "{runtime}/x")], Outside),
    case("writes to the root", "write", &[("TARGET", "{root}/dunlin-test-file")], Outside),
    case(
        "writes to a setting of the kernel",
        "write",
        &[("TARGET", "/proc/self/oom_score_adj"), ("TEXT", "700")],
        Without(&[WallKind::Landlock]),
    ),
    case("traces another process", "ptrace", &[], Without(SECCOMP)),
    case("reads a process's memory by call", "read-process", &[], Outside),
    case("writes a process's memory by call", "write-process", &[], Outside),
    case("takes a descriptor of a process", "take-descriptor", &[], Outside),
    case("compares what processes hold", "compare-processes", &[], WithoutIfOffered(SECCOMP)),
    case("moves pages between nodes", "move-pages", &[], WithoutIfOffered(SECCOMP)),
    case("mounts", "mount", &[], Outside),
    case("makes a file system", "make-file-system", &[], OutsideAsRoot),
    case("clones a mount", "clone-mount", &[], OutsideAsRoot),
    case("enters a namespace", "enter-namespace", &[], OutsideAsRoot),
    case("clones by the newer call", "clone3", &[], Outside),
    case("makes a user namespace", "unshare", &[], Without(SECCOMP)),
    case("clones into a user namespace", "clone", &[], Without(SECCOMP)),
    case("changes its root", "chroot", &[], OutsideAsRoot),
    case("opens raw sockets", "raw-socket", &[], Outside),
    case("opens a virtual machine socket", "vsock", &[], WithoutIfOffered(SECCOMP)),
    case("opens a socket of a rare transport", "mptcp-socket", &[], WithoutIfOffered(SECCOMP)),
    case("opens a kernel crypto socket", "alg-socket", &[], WithoutIfOffered(SECCOMP)),
    case("reaches the host's abstract sockets", "abstract-socket", &[("NAME", "{abstract}")], Outside),
    case("opens a firewall socket", "netfilter-socket", &[], Outside),
    case("opens an audit socket", "audit-socket", &[], Outside),
    case("reaches the host's sockets by path", "unix-socket", &[("TARGET", "{socket}")], Outside),
    case("reaches the host's shared memory", "shared-memory", &[("KEY", "{key}")], Outside),
    case("reaches the host's datagrams", "datagram", &[("ADDRESS", "{datagrams}")], Without(&[WallKind::Network])),
    case(
        "reaches the host's loopback of IPv6",
        "tcp",
        &[("ADDRESS", "{listener6}")],
        WithoutIfOffered(&[WallKind::Network]),
    ),
    case("reaches the host's loopback", "tcp", &[("ADDRESS", "{listener}")], Without(&[WallKind::Network])),
    // A watcher would count the memory of so many processes.
    case("forks without end", "fork-bomb", &[], Without(&[WallKind::Tasks, WallKind::Memory])),
    case("fills /tmp", "fill-tmp", &[], Without(&[WallKind::Tmp])),
    case("fills /tmp with empty folders", "inodes", &[], Without(&[WallKind::Tmp])),
    case("takes more memory than it has", "memory-bomb", &[("MEGABYTES", "400")], Outside),
    case("takes more memory in children", "memory-bomb-in-children", &[("MEGABYTES", "400")], Outside),
    case("opens more files than it may", "open-files", &[], OutsideAsRoot),
    case("allows itself core files", "core-files", &[], Outside),
    case("watches every file", "watch-files", &[], WithoutIfOffered(SECCOMP)),
    case("asks for a key of a kernel keyring", "ask-keyring", &[], Without(SECCOMP)),
    case("loads a kernel module", "load-module", &[], OutsideAsRootIfOffered),
    case("loads another kernel", "load-kernel", &[], OutsideAsRootIfOffered),
    case("restarts the machine", "reboot", &[], OutsideAsRoot),
    case("turns swap on", "swap", &[], OutsideAsRoot),
    case("turns accounting on", "account", &[], OutsideAsRootIfOffered),
    case("asks for quotas", "quota", &[], WithoutIfOffered(SECCOMP)),
    case("reads its segment table", "segments", &[], WithoutIfOffered(SECCOMP)),
    case("goes before everybody", "priority", &[], OutsideAsRoot),
    case("becomes a real-time process", "real-time", &[], OutsideAsRoot),
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
        let bait = Bait::lay(world)?;
        let environment = |inside: bool| -> HashMap<&str, String> {
            let fill = |value: &str| bait.fill(&fill(world, value, inside, &name, &address));
            self.environment.iter().map(|(key, value)| (*key, fill(value))).collect()
        };

        is_blocked(&world.attempt(&[], self.attempt, &environment(true)))?;
        is_blocked(&world.attempt_moved(self.attempt, &environment(true)))
            .map_err(|why| format!("in a sandbox that was vacant before: {why}"))?;
        let control = match self.control {
            Outside => world.attempt_outside(self.attempt, &environment(false)),
            OutsideAsRoot | OutsideAsRootIfOffered if world.is_root() => {
                world.attempt_outside(self.attempt, &environment(false))
            }
            OutsideAsRoot | OutsideAsRootIfOffered => {
                return Ok("(no control: only root may do this outside)".to_owned());
            }
            Without(walls) | WithoutIfOffered(walls) => world.attempt(walls, self.attempt, &environment(true)).output,
        };
        drop((listener, abstract_listener, bait));
        match (control.contains("DID"), self.control) {
            (true, _) => Ok(String::new()),
            (false, WithoutIfOffered(_) | OutsideAsRootIfOffered) => Ok(format!("(no control: {})", control.trim())),
            (false, _) => Err(format!("the control did not succeed: {:?}", control.trim())),
        }
    }
}

fn is_blocked(blocked: &Outcome) -> Result<(), String> {
    // A guest that was killed says nothing, which is a block as well.
    if blocked.output.contains("DID") {
        return Err(format!("succeeded: {}", blocked.output.trim()));
    }
    if !blocked.output.contains("BLOCKED") && blocked.exit.signal.is_none() {
        return Err(format!("did not run: {:?} {:?}", blocked.exit, blocked.output));
    }
    Ok(())
}

/// What else of the host attempts are after: a segment of shared memory, and sockets that answer.
struct Bait {
    key: i32,
    segment: i32,
    _socket: std::os::unix::net::UnixListener,
    socket: std::path::PathBuf,
    datagrams: std::net::SocketAddr,
    six: Option<std::net::TcpListener>,
}

impl Bait {
    fn lay(world: &World) -> Result<Self, String> {
        let key = 0x4455_0000 | (std::process::id() & 0xffff) as i32;
        // SAFETY: no pointers.
        let segment = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | 0o666) };
        let socket = world.path("socket");
        let _ = std::fs::remove_file(&socket);
        let listener = std::os::unix::net::UnixListener::bind(&socket).map_err(|error| error.to_string())?;
        let answering = std::net::UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let datagrams = answering.local_addr().map_err(|error| error.to_string())?;
        std::thread::spawn(move || {
            let mut question = [0; 64];
            // Ends with its own bait's last word.
            while let Ok((length, from)) = answering.recv_from(&mut question) {
                if &question[..length] == b"end" {
                    break;
                }
                let _ = answering.send_to(b"pong", from);
            }
        });
        let six = std::net::TcpListener::bind("[::1]:0").ok();
        Ok(Self { key, segment, _socket: listener, socket, datagrams, six })
    }

    fn fill(&self, value: &str) -> String {
        let six = self.six.as_ref().and_then(|listener| listener.local_addr().ok());
        value
            .replace("{key}", &self.key.to_string())
            .replace("{socket}", &self.socket.display().to_string())
            .replace("{datagrams}", &self.datagrams.to_string())
            .replace("{listener6}", &six.map_or("[::1]:1".to_owned(), |address| address.to_string()))
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        // SAFETY: removes this test's own segment; the structure is not asked for.
        unsafe { libc::shmctl(self.segment, libc::IPC_RMID, std::ptr::null_mut()) };
        if let Ok(sender) = std::net::UdpSocket::bind("127.0.0.1:0") {
            let _ = sender.send_to(b"end", self.datagrams);
        }
    }
}

fn fill(world: &World, value: &str, inside: bool, name: &str, address: &str) -> String {
    let path = |path: std::path::PathBuf| path.display().to_string();
    let [mine, code, free, setuid, cache] = if inside {
        ["/var/task", "/code", "/tmp", "/var/task/setuid", "/var/cache/0"].map(str::to_owned)
    } else {
        let (mine, cache) = (world.code_folder(&world.code), world.cache_folder(&world.code));
        [mine, world.path("code"), world.folder.path().into(), world.path("setuid"), cache].map(path)
    };
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
        .replace("{mine}", &mine)
        .replace("{code}", &code)
        .replace("{free}", &free)
        .replace("{setuid}", &setuid)
        .replace("{cache}", &cache)
        .replace("{b}", world.other.as_str())
        .replace("{root}", &root)
        .replace("{task}", &task)
        .replace("{runtime}", &runtime)
        .replace("{first}", &first)
        .replace("{pid}", &std::process::id().to_string())
        .replace("{abstract}", name)
        .replace("{listener}", address)
}
