//! A server that has been taken over asks the spawner for what it must not give.
//!
//! The packets are made by hand, as an attacker would: `protocol` is private, and its layout is written down here
//! once more on purpose.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};

use super::Check;
use super::world::{World, expect, wait_until};

pub const CHECKS: &[(&str, Check)] = &[
    ("a hostile server gets no path, no id and no other size", garbage),
    ("a hostile server's descriptors are counted", descriptors),
    ("a code folder that is a link is refused", linked_code),
    ("a file passed for the output keeps its owner", output_file),
    ("a code folder that is swapped for a link leads nowhere else", swapped_code),
    ("a layer that is swapped for a link leads nowhere else", swapped_layer),
    ("limits of what is not there cannot be set", foreign_limits),
];

const REQUEST_BYTES: usize = AT_FILES + 8 + 160 + 64;
/// Where a packet says which folder of the host it wants.
const AT_FILES: usize = 56 + 64 * 9;

struct Spawner {
    socket: OwnedFd,
    child: Child,
}

impl Spawner {
    fn start(world: &World) -> Self {
        let (socket, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .arg("__spawner")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let spawner = Self { socket, child };
        spawner.send(&serde_json::to_vec(&world.config(&[])).unwrap(), &[]);
        let report = spawner.receive().0;
        assert!(report.starts_with(b"{"), "{}", String::from_utf8_lossy(&report));
        spawner
    }

    fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
        }
        rustix::net::sendmsg(&self.socket, &[io::IoSlice::new(packet)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    }

    fn receive(&self) -> (Vec<u8>, usize) {
        let mut buffer = vec![0; 65536];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [io::IoSliceMut::new(&mut buffer)];
        let message = rustix::net::recvmsg(&self.socket, &mut iov, &mut ancillary, RecvFlags::empty()).unwrap();
        let fds = ancillary.drain().count();
        buffer.truncate(message.bytes);
        (buffer, fds)
    }

    /// The kind of the next reply: 1 started, 2 failed, 3 exited.
    fn reply_kind(&self) -> u64 {
        let (packet, _) = self.receive();
        u64::from_le_bytes(packet[..8].try_into().unwrap())
    }

    fn end(mut self) -> Result<(), String> {
        drop(self.socket);
        let status = self.child.wait().map_err(|error| error.to_string())?;
        expect("a clean end", status.code(), Some(0))
    }
}

fn start_packet(code: &[u8; 64]) -> Vec<u8> {
    let mut packet = vec![0; REQUEST_BYTES];
    packet[0] = 1;
    packet[8] = 42;
    packet[24..32].copy_from_slice(&(128u64 << 20).to_le_bytes());
    packet[32..40].copy_from_slice(&(1u64 << 20).to_le_bytes());
    packet[48] = 1;
    packet[56..120].copy_from_slice(code);
    packet
}

fn garbage(world: &World) -> Result<(), String> {
    let spawner = Spawner::start(world);
    let good = start_packet(&[b'a'; 64]);
    let null = std::fs::File::open("/dev/null").unwrap();
    let fds = [null.as_fd(), null.as_fd(), null.as_fd()];
    let with = |at: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let files = |number: u32, name: &[u8]| {
        let mut packet = with(AT_FILES, &number.to_le_bytes());
        packet[AT_FILES + 4..AT_FILES + 8].copy_from_slice(&(name.len() as u32).to_le_bytes());
        packet[AT_FILES + 8..][..name.len()].copy_from_slice(name);
        packet
    };
    let climbing = *b"../../../../../../../../../../../../../../../../../../../etc////";
    let wrong: Vec<Vec<u8>> = vec![
        vec![0],
        vec![0xff; 17],
        vec![0xff; REQUEST_BYTES],
        vec![0; REQUEST_BYTES + 1],
        vec![1; 60_000],
        good[..REQUEST_BYTES - 1].to_vec(),
        start_packet(&climbing),
        // An assignment to no sandbox, a fork of no zygote, a zygote of no interpreter, code that is neither there nor not.
        with(0, &[3]),
        // Sockets in the network of no sandbox.
        with(0, &[7]),
        with(4, &[3]),
        with(4, &[2]),
        with(48, &[2]),
        with(0, &[99]),
        with(4, &[9]),
        with(24, &u64::MAX.to_le_bytes()),
        with(24, &0u64.to_le_bytes()),
        with(32, &0u64.to_le_bytes()),
        with(32, &u64::MAX.to_le_bytes()),
        with(40, &u32::MAX.to_le_bytes()),
        with(40, &1u32.to_le_bytes()),
        with(100, b"/"),
        with(100, &[0]),
        // A folder of the host that nobody named, and names that are none.
        files(1, b"data"),
        files(u32::MAX, b"data"),
        files(1, b".."),
        files(1, b"../etc"),
        files(1, b""),
        // An interpreter that is not there.
        with(4, &[1, 0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 200]),
    ];
    for (index, packet) in wrong.iter().enumerate() {
        spawner.send(packet, &fds);
        expect(&format!("packet {index}"), spawner.reply_kind(), 2)?;
    }
    // The words of a program of the server's own noise are not a configuration either.
    spawner.send(br#"{"code_root":"/etc"}"#, &[]);
    expect("a second configuration", spawner.reply_kind(), 2)?;
    // Killing what is not there does nothing.
    let mut kill = vec![0; REQUEST_BYTES];
    kill[0] = 2;
    kill[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    spawner.send(&kill, &[]);
    // And it still serves.
    spawner.send(&good, &fds);
    expect("a good request", spawner.reply_kind(), 1)?;
    spawner.end()
}

fn descriptors(world: &World) -> Result<(), String> {
    let spawner = Spawner::start(world);
    let null = std::fs::File::open("/dev/null").unwrap();
    let open = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0);
    let packet = start_packet(&[b'a'; 64]);
    // Its report comes before its loop stands.
    spawner.send(&packet, &[]);
    expect("no descriptors", spawner.reply_kind(), 2)?;
    let before = open(spawner.child.id());
    for count in [0, 1, 2, 4, 16, 20] {
        spawner.send(&packet, &vec![null.as_fd(); count]);
        expect(&format!("{count} descriptors"), spawner.reply_kind(), 2)?;
    }
    // The spawner's own folder can be counted by root alone: it is not dumpable for others.
    if world.is_root() {
        expect("descriptors that stay", open(spawner.child.id()), before)?;
    }
    assert!(spawner.socket.as_raw_fd() > 2);
    spawner.end()
}

fn linked_code(world: &World) -> Result<(), String> {
    let link = world.code_folder(&super::world::digest('9'));
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    let spawner = Spawner::start(world);
    let null = std::fs::File::open("/dev/null").unwrap();
    spawner.send(&start_packet(&[b'9'; 64]), &[null.as_fd(), null.as_fd(), null.as_fd()]);
    expect("a link", spawner.reply_kind(), 2)?;
    let pid = spawner.child.id();
    spawner.end()?;
    wait_until("the spawner is gone", || !std::path::Path::new(&format!("/proc/{pid}")).exists())
}

/// Swaps a folder of the code root for a link to a folder of the host and back, as fast as it can, until it is dropped.
struct Swapping {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Swapping {
    fn start(place: std::path::PathBuf, link: std::path::PathBuf) -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut swaps = 0;
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) || swaps % 2 == 1 {
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &place, cwd, &link, rustix::fs::RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) -> usize {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap())
    }
}

/// What `sandboxes` say that are started while `place` is swapped for a link to a folder with the host's secret. The
/// control: by its name, the secret is found.
fn raced(world: &World, place: &str, spec: &sandbox::SandboxSpec) -> Result<(), String> {
    use sandbox::Backend;
    let (place, link) = (world.path("code").join(place), world.path("code").join("swap"));
    let evil = world.path("evil");
    std::fs::create_dir_all(&evil).unwrap();
    std::fs::write(evil.join("which"), "the host's").unwrap();
    let _ = std::fs::remove_file(&link);
    // A name that leads to the host's folders from within the spawner's own root as well.
    let way = format!("/proc/{}/root{}", std::process::id(), evil.display());
    std::os::unix::fs::symlink(way, &link).unwrap();
    let swapping = Swapping::start(place.clone(), link.clone());
    let named =
        (0..100_000).any(|_| std::fs::read_to_string(place.join("which")).is_ok_and(|text| text == "the host's"));
    let outputs = world.with_backend(&world.config(&[]), async |backend| {
        let mut outputs: Vec<String> = Vec::new();
        // A refusal is as good as the right folder, but for the control: where the swaps have processors for themselves,
        // many starts in a row meet one.
        while outputs.len() < 25 || (outputs.len() < 500 && !outputs.iter().any(|output| output.contains("its own"))) {
            outputs.push(match backend.start(spec.clone()).await {
                Ok(started) => super::world::finish(started).await.output,
                Err(refusal) => refusal.to_string(),
            });
        }
        outputs
    });
    let swaps = swapping.end();
    std::fs::remove_file(&link).unwrap();
    expect("the control", named && swaps > 100, true)?;
    let right = outputs.iter().any(|output| output.contains("its own"));
    expect(&format!("the right folder, at least once, and not only: {:?}", outputs.last()), right, true)?;
    expect("the host's folder", outputs.iter().any(|output| output.contains("the host's")), false)
}

fn swapped_code(world: &World) -> Result<(), String> {
    let code = world.add_code('c', "bootstrap", "#!/bin/sh\ncat /var/task/which\n");
    world.add_code('c', "which", "its own");
    let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
    spec.code = Some(code.clone());
    // The link's folder has a program as well.
    std::fs::create_dir_all(world.path("evil")).unwrap();
    std::fs::copy(world.code_folder(&code).join("bootstrap"), world.path("evil/bootstrap")).unwrap();
    raced(world, code.as_str(), &spec)
}

fn swapped_layer(world: &World) -> Result<(), String> {
    let code = world.add_code('d', "bootstrap", "#!/bin/sh\ncat /opt/which\n");
    let layers = vec![world.add_code('e', "which", "its own"), world.add_code('f', "other", "")];
    let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
    spec.code = Some(code);
    let place = layers[0].as_str().to_owned();
    spec.layers = layers;
    let raced = raced(world, &place, &spec);
    // Other checks count on its absence.
    std::fs::remove_dir_all(world.code_folder(&super::world::digest('f'))).unwrap();
    raced
}

fn foreign_limits(world: &World) -> Result<(), String> {
    let spawner = Spawner::start(world);
    let resize = |id: u64, memory: u64, tmp: u64| {
        let mut packet = vec![0; REQUEST_BYTES];
        packet[0] = 3;
        for (place, word) in [7, id, memory, tmp].into_iter().enumerate() {
            packet[8 + 8 * place..16 + 8 * place].copy_from_slice(&word.to_le_bytes());
        }
        packet
    };
    for packet in [
        resize(1, 128 << 20, 512 << 20),
        resize(u64::MAX, 128 << 20, 512 << 20),
        resize(1, 0, 512 << 20),
        resize(1, 128 << 20, u64::MAX),
    ] {
        spawner.send(&packet, &[]);
        expect("a refusal", spawner.reply_kind(), 2)?;
    }
    spawner.end()
}

/// The spawner gives the output pipe to the guest; a server must not get other files given away so.
fn output_file(world: &World) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt;
    let path = world.path("precious");
    std::fs::write(&path, "x").unwrap();
    let before = path.metadata().unwrap().uid();
    let spawner = Spawner::start(world);
    let (file, null) = (std::fs::File::open(&path).unwrap(), std::fs::File::open("/dev/null").unwrap());
    spawner.send(&start_packet(&[b'a'; 64]), &[null.as_fd(), file.as_fd(), null.as_fd()]);
    expect("a reply", spawner.reply_kind(), 1)?;
    spawner.end()?;
    expect("the owner", path.metadata().unwrap().uid(), before)
}
