//! What a guest does to get out. Each attempt says `DID` or `BLOCKED`, and why.
//!
//! The same code runs outside a sandbox as the control, so it must not assume to be inside one.

use std::env::var;
use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

pub type Attempt = Result<String, String>;

/// Runs the attempt and ends the process.
pub fn run(name: &str) -> ! {
    let outcome = match name {
        "read" => read_file(),
        "open" => fs::File::open(path()).map(|_| String::new()).map_err(words),
        "write" => write_file(),
        "list" => fs::read_dir(path()).map(|entries| entries.count().to_string()).map_err(words),
        "ptrace" => ptrace(),
        "mount" => mount(),
        "unshare" => system(libc::SYS_unshare, &[libc::CLONE_NEWUSER as i64]),
        "clone" => clone_namespace(),
        "raw-socket" => raw_socket(),
        "vsock" => socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        "mptcp-socket" => socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        "alg-socket" => socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
        "fork-bomb" => fork_bomb(),
        "memory-bomb" => memory_bomb(),
        "memory-bomb-in-children" => memory_bomb_in_children(),
        "fill-tmp" => fill_tmp(),
        "inodes" => inodes(),
        "shared-memory-bomb" => shared_memory_bomb(),
        "traces" => traces(),
        "burn" => burn(),
        "open-files" => open_files(),
        "core-files" => core_files(),
        "fill-tmp-when-larger" => fill_tmp_when_larger(),
        "fill-tmp-to-the-last-byte" => fill_tmp_to_the_last_byte(),
        "keyring" => keyring(),
        "io-uring" => io_uring(),
        "bpf" => bpf(),
        "perf" => perf(),
        "userfaultfd" => system(libc::SYS_userfaultfd, &[1]),
        "descriptors" => descriptors(),
        "signal" => system(libc::SYS_kill, &[number("PID").into(), 0]),
        "abstract-socket" => abstract_socket(),
        "tcp" => TcpStream::connect(var("ADDRESS").unwrap()).map(|_| String::new()).map_err(words),
        "setuid" => system(libc::SYS_setuid, &[0]),
        "chroot" => system(libc::SYS_chroot, &[text(c"/")]),
        "mknod" => mknod(),
        "host-name" => system(libc::SYS_sethostname, &[text(c"x"), 1]),
        "personality" => system(libc::SYS_personality, &[libc::ADDR_NO_RANDOMIZE.into()]),
        "handle" => handle(),
        "clock" => clock(),
        "syslog" => system(libc::SYS_syslog, &[10, 0, 0]),
        other => super::calls::attempt(other).unwrap_or_else(|| match other {
            "count" | "breed" => super::frost::guest(other),
            other => super::service::guest(other),
        }),
    };
    match outcome {
        Ok(detail) => println!("DID {detail}"),
        Err(detail) => println!("BLOCKED {detail}"),
    }
    std::process::exit(0)
}

pub fn words(error: io::Error) -> String {
    error.to_string()
}

pub fn path() -> String {
    var("TARGET").unwrap()
}

pub fn number(name: &str) -> i32 {
    var(name).unwrap().parse().unwrap()
}

/// One system call. Arguments that are addresses must be of memory that outlives it, as `text` and `memory` give.
pub fn system(number: i64, arguments: &[i64]) -> Attempt {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    // SAFETY: every caller passes numbers, constants, or addresses of its own buffers of the size that the call takes.
    let result = unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4], all[5]) };
    if result < 0 { Err(words(io::Error::last_os_error())) } else { Ok(result.to_string()) }
}

pub fn text(text: &CStr) -> i64 {
    text.as_ptr() as i64
}

pub fn memory<T>(buffer: &mut T) -> i64 {
    std::ptr::from_mut(buffer) as i64
}

pub fn socket(domain: i32, kind: i32, protocol: i32) -> Attempt {
    system(libc::SYS_socket, &[domain.into(), kind.into(), protocol.into()])
}

/// Forks; nothing in the child.
pub fn fork() -> Option<i32> {
    // SAFETY: this program has one thread when it attempts something, so the child may go on as it likes.
    let pid = unsafe { libc::fork() };
    (pid != 0).then_some(pid)
}

/// Sleeps until a signal ends the process.
pub fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: no pointers.
        unsafe { libc::pause() };
    }
}

fn kill(pid: i32) {
    let _ = system(libc::SYS_kill, &[pid.into(), libc::SIGKILL.into()]);
}

/// Waits for a child and answers its status.
fn wait(pid: i32) -> i32 {
    let mut status = 0;
    let _ = system(libc::SYS_wait4, &[pid.into(), memory(&mut status), 0, 0]);
    status
}

fn read_file() -> Attempt {
    let mut text = [0; 64];
    let length = fs::File::open(path()).and_then(|mut file| file.read(&mut text)).map_err(words)?;
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

fn write_file() -> Attempt {
    let text = var("TEXT").unwrap_or_else(|_| "x".to_owned());
    fs::write(path(), text).map(|()| String::new()).map_err(words)
}

fn ptrace() -> Attempt {
    let Some(child) = fork() else { sleep_for_ever() };
    let answer = system(libc::SYS_ptrace, &[libc::PTRACE_SEIZE.into(), child.into(), 0, 0]);
    kill(child);
    answer
}

fn mount() -> Attempt {
    if system(libc::SYS_unshare, &[libc::CLONE_NEWNS.into()]).is_err() {
        system(libc::SYS_unshare, &[(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).into()])?;
    }
    system(libc::SYS_mount, &[text(c"x"), text(c"/tmp"), text(c"tmpfs"), 0, 0])
}

fn clone_namespace() -> Attempt {
    let answer = system(libc::SYS_clone, &[(libc::CLONE_NEWUSER | libc::SIGCHLD).into(), 0, 0, 0, 0])?;
    if answer == "0" {
        std::process::exit(0);
    }
    Ok(answer)
}

fn raw_socket() -> Attempt {
    let raw = || socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
    let packet = || socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
    if raw().is_err() || packet().is_err() {
        system(libc::SYS_unshare, &[(libc::CLONE_NEWUSER | libc::CLONE_NEWNET).into()])?;
    }
    raw()?;
    packet()
}

/// Many processes at once; a limit of about a thousand is wanted.
fn fork_bomb() -> Attempt {
    const WANTED: usize = 1500;
    let mut children = Vec::new();
    let mut failure = None;
    while children.len() < WANTED && failure.is_none() {
        match fork() {
            None => sleep_for_ever(),
            Some(pid) if pid > 0 => children.push(pid),
            Some(_) => failure = Some(io::Error::last_os_error()),
        }
    }
    children.iter().for_each(|pid| kill(*pid));
    for pid in &children {
        wait(*pid);
    }
    match failure {
        None => Ok(children.len().to_string()),
        Some(error) => Err(format!("after {}: {error}", children.len())),
    }
}

/// Memory of this size, all of it in use. It is in use for as long as the caller keeps it.
#[must_use]
fn touch(megabytes: usize) -> Vec<Vec<u8>> {
    let mut held = Vec::new();
    for _ in 0..megabytes {
        let mut piece = vec![0u8; 1 << 20];
        for page in piece.chunks_mut(4096) {
            page[0] = 1;
        }
        held.push(std::hint::black_box(piece));
    }
    held
}

fn memory_bomb() -> Attempt {
    let megabytes = number("MEGABYTES") as usize;
    let held = touch(megabytes);
    // A watcher needs a moment; without one this does not end.
    if fs::exists("/var/task").unwrap_or(false) {
        std::thread::sleep(std::time::Duration::from_secs(10));
    }
    Ok(held.len().to_string())
}

/// The same spread over children, each small.
fn memory_bomb_in_children() -> Attempt {
    let share = number("MEGABYTES") as usize / 8;
    let mut children = Vec::new();
    for _ in 0..8 {
        let Some(pid) = fork() else {
            // Held while it sleeps: only together the children are too large.
            let held = touch(share);
            std::thread::sleep(std::time::Duration::from_secs(2));
            std::process::exit(i32::from(held.is_empty()))
        };
        children.push(pid);
    }
    let killed = children.into_iter().filter(|pid| libc::WIFSIGNALED(wait(*pid))).count();
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
    let made = (0..10_000).try_for_each(|index| fs::create_dir(format!("{folder}/{index}")));
    let _ = fs::remove_dir_all(folder);
    made.map(|()| String::new()).map_err(words)
}

/// Writes until it may not, in small pieces at the end. `DID` tells how much that was, and with what words it ended.
fn fill_tmp_to_the_last_byte() -> Attempt {
    let mut file = fs::File::create("/tmp/dunlin-test-full").map_err(words)?;
    let mut written = 0;
    for piece in [1 << 20, 4096, 1] {
        let bytes = vec![1u8; piece];
        let refused = loop {
            match file.write(&bytes) {
                Ok(length) => written += length as u64,
                Err(error) => break error,
            }
        };
        if refused.raw_os_error() != Some(libc::ENOSPC) {
            return Err(format!("after {written} bytes: {refused}"));
        }
    }
    // What was accepted reaches the disk, and what is removed is free again.
    file.sync_all().map_err(words)?;
    drop(file);
    fs::remove_file("/tmp/dunlin-test-full").map_err(words)?;
    fs::write("/tmp/dunlin-test-again", vec![1u8; 1 << 20]).map_err(words)?;
    Ok(written.to_string())
}

/// Looks for what somebody else has left in `/tmp`, and leaves something.
fn traces() -> Attempt {
    const MARK: &[u8] = b"somebody's secret ";
    let folder = var("FOLDER").unwrap_or_else(|_| "/tmp".to_owned());
    let names: Vec<_> = fs::read_dir(&folder).map_err(words)?.flatten().map(|entry| entry.file_name()).collect();
    // Blocks that are given to a file before anything is written to it.
    let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(format!("{folder}/blocks"));
    let mut file = file.map_err(words)?;
    let none = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&file, none, 0, 16 << 20).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(words)?;
    let found = bytes.windows(MARK.len()).any(|window| window == MARK);
    let text: Vec<u8> = MARK.iter().copied().cycle().take(16 << 20).collect();
    std::os::unix::fs::FileExt::write_all_at(&file, &text, 0).map_err(words)?;
    file.sync_all().map_err(words)?;
    if names.is_empty() && !found { Err("none".to_owned()) } else { Ok(format!("{names:?} {found}")) }
}

/// Keeps all processors busy for a while.
fn burn() -> Attempt {
    let end = std::time::Instant::now() + std::time::Duration::from_millis(number("MILLISECONDS") as u64);
    println!("READY");
    let spin = move || while std::time::Instant::now() < end {};
    let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(spin)).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    Ok(String::new())
}

/// More files than a process may have open; the limit may be raised where that is allowed.
fn open_files() -> Attempt {
    let limit = libc::rlimit { rlim_cur: 4096, rlim_max: 4096 };
    let _ = system(libc::SYS_prlimit64, &[0, libc::RLIMIT_NOFILE.into(), (&raw const limit) as i64, 0]);
    let files: Result<Vec<_>, _> = (0..1500).map(|_| fs::File::open("/dev/null")).collect();
    files.map(|files| files.len().to_string()).map_err(words)
}

/// Whether a process that crashes may leave its memory behind.
fn core_files() -> Attempt {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    system(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE.into(), 0, memory(&mut limit)])?;
    let wanted = libc::rlimit { rlim_cur: 4096, rlim_max: limit.rlim_max.max(4096) };
    system(libc::SYS_prlimit64, &[0, libc::RLIMIT_CORE.into(), (&raw const wanted) as i64, 0])
}

/// Waits until more than the default may be written, then fills it.
fn fill_tmp_when_larger() -> Attempt {
    println!("READY");
    let free = || rustix::fs::statvfs("/tmp").map(|about| about.f_bavail * about.f_frsize);
    while free().map_err(|error| error.to_string())? < 600 << 20 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    fill_tmp_to_the_last_byte()
}

/// Memory in a file that has no name and lies in no `/tmp`.
fn shared_memory_bomb() -> Attempt {
    let file = rustix::fs::memfd_create("bomb", rustix::fs::MemfdFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let mut file = fs::File::from(file);
    for _ in 0..number("MEGABYTES") {
        file.write_all(&vec![1; 1 << 20]).map_err(words)?;
    }
    std::thread::sleep(std::time::Duration::from_secs(10));
    Ok(String::new())
}

fn keyring() -> Attempt {
    const PROCESS_KEYRING: i64 = -2;
    system(libc::SYS_add_key, &[text(c"user"), text(c"dunlin-test"), text(c"x"), 1, PROCESS_KEYRING])
}

fn io_uring() -> Attempt {
    let mut parameters = [0u8; 256];
    system(libc::SYS_io_uring_setup, &[4, memory(&mut parameters)])
}

fn bpf() -> Attempt {
    const MAP_CREATE: i64 = 0;
    // An array of one word: type, key size, value size, entries.
    let mut attributes = [0u32; 32];
    attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
    system(libc::SYS_bpf, &[MAP_CREATE, memory(&mut attributes), 128])
}

fn perf() -> Attempt {
    // A software counter of this process's own context switches, without the kernel.
    let mut attributes = [0u64; 16];
    attributes[0] = 1 | 128 << 32;
    attributes[1] = 3;
    attributes[5] = 1 << 5 | 1 << 6;
    system(libc::SYS_perf_event_open, &[memory(&mut attributes), 0, -1, -1, 0])
}

/// Descriptors beyond the four that a guest is given.
fn descriptors() -> Attempt {
    let open = |fd: &i64| system(libc::SYS_fcntl, &[*fd, libc::F_GETFD.into()]).is_ok();
    let extra: Vec<i64> = (3..1024).filter(open).collect();
    if extra.is_empty() { Err("none".to_owned()) } else { Ok(format!("{extra:?}")) }
}

fn abstract_socket() -> Attempt {
    let address = SocketAddr::from_abstract_name(var("NAME").unwrap()).map_err(words)?;
    UnixStream::connect_addr(&address).map(|_| String::new()).map_err(words)
}

fn mknod() -> Attempt {
    let path = CString::new(path()).unwrap();
    let (mode, null) = (libc::S_IFCHR | 0o666, libc::makedev(1, 3));
    let result = system(libc::SYS_mknodat, &[libc::AT_FDCWD.into(), text(&path), mode.into(), null as i64]);
    let _ = fs::remove_file(self::path());
    result
}

/// A file handle, which would reach files by number.
fn handle() -> Attempt {
    // The number of bytes behind the header of two words.
    let mut handle = [0u32; 34];
    handle[0] = 128;
    let mut mount = 0i32;
    let arguments = [libc::AT_FDCWD.into(), text(c"/usr"), memory(&mut handle), memory(&mut mount), 0];
    system(libc::SYS_name_to_handle_at, &arguments)
}

/// Sets the clock to what it is.
fn clock() -> Attempt {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    let mut time = [now.as_secs() as i64, now.subsec_nanos().into()];
    system(libc::SYS_clock_settime, &[libc::CLOCK_REALTIME.into(), memory(&mut time)])
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
