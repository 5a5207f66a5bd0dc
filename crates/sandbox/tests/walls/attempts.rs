//! What a guest does to get out. Each attempt says `DID` or `BLOCKED`, and why.
//!
//! The same code runs outside a sandbox as the control, so it must not assume to be inside one.

use std::env::var;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

type Attempt = Result<String, String>;

/// Runs the attempt and ends the process.
pub fn run(name: &str) -> ! {
    let outcome = match name {
        "read" => read_file(),
        "open" => fs::File::open(path()).map(|_| String::new()).map_err(words),
        "write" => write_file(),
        "list" => fs::read_dir(path()).map(|entries| entries.count().to_string()).map_err(words),
        "ptrace" => ptrace(),
        "mount" => mount(),
        "unshare" => call(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) }),
        "clone" => clone_namespace(),
        "raw-socket" => raw_socket(),
        "vsock" => call(unsafe { i64::from(libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)) }),
        "alg-socket" => call(unsafe { i64::from(libc::socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)) }),
        "fork-bomb" => fork_bomb(),
        "memory-bomb" => memory_bomb(),
        "memory-bomb-in-children" => memory_bomb_in_children(),
        "fill-tmp" => fill_tmp(),
        "inodes" => inodes(),
        "keyring" => keyring(),
        "io-uring" => io_uring(),
        "bpf" => bpf(),
        "perf" => perf(),
        "userfaultfd" => call(unsafe { libc::syscall(libc::SYS_userfaultfd, 1) }),
        "descriptors" => descriptors(),
        "signal" => call(unsafe { i64::from(libc::kill(number("PID"), 0)) }),
        "abstract-socket" => abstract_socket(),
        "tcp" => TcpStream::connect(var("ADDRESS").unwrap()).map(|_| String::new()).map_err(words),
        "setuid" => call(unsafe { i64::from(libc::setuid(0)) }),
        "chroot" => call(unsafe { i64::from(libc::chroot(c"/".as_ptr())) }),
        "mknod" => mknod(),
        "host-name" => call(unsafe { i64::from(libc::sethostname(c"x".as_ptr(), 1)) }),
        "hard-link" => fs::hard_link(path(), "/tmp/dunlin-test-link").map(|()| String::new()).map_err(words),
        "personality" => call(unsafe { i64::from(libc::personality(libc::ADDR_NO_RANDOMIZE as _)) }),
        "handle" => handle(),
        "clock" => clock(),
        "syslog" => call(unsafe { i64::from(libc::klogctl(10, std::ptr::null_mut(), 0)) }),
        other => super::service::guest(other),
    };
    match outcome {
        Ok(detail) => println!("DID {detail}"),
        Err(detail) => println!("BLOCKED {detail}"),
    }
    std::process::exit(0)
}

fn words(error: io::Error) -> String {
    error.to_string()
}

fn path() -> String {
    var("TARGET").unwrap()
}

fn number(name: &str) -> i32 {
    var(name).unwrap().parse().unwrap()
}

fn call(result: i64) -> Attempt {
    if result < 0 { Err(words(io::Error::last_os_error())) } else { Ok(result.to_string()) }
}

fn read_file() -> Attempt {
    let mut text = [0; 64];
    let length = fs::File::open(path()).and_then(|mut file| file.read(&mut text)).map_err(words)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

fn write_file() -> Attempt {
    fs::write(path(), "x").map(|()| String::new()).map_err(words)
}

fn ptrace() -> Attempt {
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::pause();
            libc::_exit(0);
        }
        let result = libc::ptrace(libc::PTRACE_SEIZE, child, 0, 0);
        let answer = call(result);
        libc::kill(child, libc::SIGKILL);
        answer
    }
}

fn mount() -> Attempt {
    unsafe {
        if libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS) < 0 {
            call(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS))?;
        }
        let none = std::ptr::null();
        call(i64::from(libc::mount(c"x".as_ptr(), c"/tmp".as_ptr(), c"tmpfs".as_ptr(), 0, none)))
    }
}

fn clone_namespace() -> Attempt {
    let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid == 0 {
        unsafe { libc::_exit(0) };
    }
    call(pid)
}

fn raw_socket() -> Attempt {
    unsafe {
        let raw = || libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
        let packet = || libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        if raw() < 0 || packet() < 0 {
            call(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNET))?;
        }
        call(i64::from(raw()))?;
        call(i64::from(packet()))
    }
}

/// Many processes at once; a limit of about a thousand is wanted.
fn fork_bomb() -> Attempt {
    const WANTED: usize = 1500;
    let mut children = Vec::new();
    let mut failure = None;
    while children.len() < WANTED && failure.is_none() {
        match unsafe { libc::fork() } {
            0 => unsafe {
                libc::pause();
                libc::_exit(0)
            },
            pid if pid > 0 => children.push(pid),
            _ => failure = Some(io::Error::last_os_error()),
        }
    }
    for pid in &children {
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
    for pid in &children {
        unsafe { libc::waitpid(*pid, std::ptr::null_mut(), 0) };
    }
    match failure {
        None => Ok(children.len().to_string()),
        Some(error) => Err(format!("after {}: {error}", children.len())),
    }
}

fn touch(megabytes: usize) -> usize {
    let mut held = Vec::new();
    for _ in 0..megabytes {
        let mut piece = vec![0u8; 1 << 20];
        for page in piece.chunks_mut(4096) {
            page[0] = 1;
        }
        held.push(std::hint::black_box(piece));
    }
    held.len()
}

fn memory_bomb() -> Attempt {
    let megabytes = number("MEGABYTES") as usize;
    let held = touch(megabytes);
    // A watcher needs a moment; without one this does not end.
    if fs::exists("/var/task").unwrap_or(false) {
        std::thread::sleep(std::time::Duration::from_secs(10));
    }
    Ok(held.to_string())
}

/// The same spread over children, each small.
fn memory_bomb_in_children() -> Attempt {
    let share = number("MEGABYTES") as usize / 8;
    let children: Vec<i32> = (0..8)
        .map(|_| match unsafe { libc::fork() } {
            0 => {
                touch(share);
                std::thread::sleep(std::time::Duration::from_secs(2));
                std::process::exit(0)
            }
            pid => pid,
        })
        .collect();
    let mut killed = 0;
    for pid in children {
        let mut status = 0;
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        killed += usize::from(libc::WIFSIGNALED(status));
    }
    if killed > 0 { Err(format!("{killed} killed")) } else { Ok(String::new()) }
}

fn fill_tmp() -> Attempt {
    let mut file = fs::File::create("/tmp/dunlin-test-fill").map_err(words)?;
    let piece = vec![1u8; 1 << 20];
    let mut outcome = Ok(String::new());
    for done in 0..20 {
        if let Err(error) = file.write_all(&piece) {
            outcome = Err(format!("after {done} MiB: {error}"));
            break;
        }
    }
    let _ = fs::remove_file("/tmp/dunlin-test-fill");
    outcome
}

fn inodes() -> Attempt {
    let folder = "/tmp/dunlin-test-inodes";
    fs::create_dir_all(folder).map_err(words)?;
    let made = (0..10_000).try_for_each(|index| fs::File::create(format!("{folder}/{index}")).map(drop));
    let _ = fs::remove_dir_all(folder);
    made.map(|()| String::new()).map_err(words)
}

fn keyring() -> Attempt {
    const PROCESS_KEYRING: i32 = -2;
    let (kind, name) = (c"user", c"dunlin-test");
    call(unsafe { libc::syscall(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), c"x".as_ptr(), 1, PROCESS_KEYRING) })
}

fn io_uring() -> Attempt {
    let mut parameters = [0u8; 256];
    call(unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, parameters.as_mut_ptr()) })
}

fn bpf() -> Attempt {
    const MAP_CREATE: i32 = 0;
    // An array of one word: type, key size, value size, entries.
    let mut attributes = [0u32; 32];
    attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
    call(unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, attributes.as_ptr(), 128) })
}

fn perf() -> Attempt {
    // A software counter of this process's own context switches, without the kernel.
    let mut attributes = [0u64; 16];
    attributes[0] = 1 | 128 << 32;
    attributes[1] = 3;
    attributes[5] = 1 << 5 | 1 << 6;
    call(unsafe { libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), 0, -1, -1, 0) })
}

/// Descriptors beyond the four that a guest is given.
fn descriptors() -> Attempt {
    let extra: Vec<i32> = (3..1024).filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0).collect();
    if extra.is_empty() { Err("none".to_owned()) } else { Ok(format!("{extra:?}")) }
}

fn abstract_socket() -> Attempt {
    let address = SocketAddr::from_abstract_name(var("NAME").unwrap()).map_err(words)?;
    UnixStream::connect_addr(&address).map(|_| String::new()).map_err(words)
}

fn mknod() -> Attempt {
    let path = CString::new(path()).unwrap();
    let null = libc::makedev(1, 3);
    let result = call(unsafe { i64::from(libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, null)) });
    let _ = fs::remove_file(self::path());
    result
}

/// A file handle, which would reach files by number.
fn handle() -> Attempt {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount = 0i32;
    call(unsafe {
        libc::syscall(libc::SYS_name_to_handle_at, libc::AT_FDCWD, c"/usr".as_ptr(), &raw mut handle, &raw mut mount, 0)
    })
}

/// Sets the clock to what it is.
fn clock() -> Attempt {
    unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now);
        call(i64::from(libc::clock_settime(libc::CLOCK_REALTIME, &raw const now)))
    }
}

/// Sends a datagram and waits for the answer.
pub fn ask(address: &str, question: &[u8]) -> Attempt {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(words)?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).map_err(words)?;
    socket.connect(address).map_err(words)?;
    socket.send(question).map_err(words)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).map_err(words)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
