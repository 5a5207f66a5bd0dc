//! The keeper: a process beside the spawner that makes `/tmp` images and ends with it.
//!
//! An image is a sparse file without a name on the data folder's disk, with an ext4 file system on a loop device. All are
//! copies of one template: `mke2fs` runs once, and only the few blocks that it wrote are written again. Every image is
//! of the largest size; what a sandbox may use of it is set through the kernel's `reserved_clusters` of that file
//! system, which makes one stock serve all sizes, and a size change at any time. To make one and to remove it takes two
//! milliseconds, most of it waiting in the kernel; therefore it happens here and not in the spawner, and what nobody waits
//! for happens when nobody asked for anything of late: bursts of starts need the processors themselves. A loop device is
//! set up once and used again with its file emptied: to set one up means to flush the disk. Devices that the kernel has made
//! for the keeper go with it; only one that was killed leaves its own behind, unused.
//!
//! The keeper also watches the disk: when it is nearly full, the sandboxes are told that their `/tmp` is full. Otherwise
//! a guest's write would succeed in the page cache and be lost on its way to the disk.
//!
//! Invariants
//!   1. A loop device clears itself when the last process that holds it, or its file system, ends: nothing is left,
//!      whoever is killed.
//!   2. A file system is mounted on a device only when no other is mounted there, and only on an emptied file: a sandbox
//!      never sees what another one wrote.
//!   3. Only root's processes ever had a name or a descriptor of an image's file: the kernel never mounts what a server
//!      or a guest could have written beside the file system.
//!   4. A guest holds no capability that reserved clusters or reserved blocks would not stop.
//!
//! Start reading at `Images::launch`, then `Keeper::serve`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::protocol;
use super::sys::{self, Call, Cloned};
use super::tmp::DEFAULT_BYTES;

/// Bytes of data that the largest `/tmp` may hold. Source: Lambda's largest ephemeral storage.
const BYTES_MAX: u64 = 10 << 30;
/// Files of an image: what mke2fs would give the largest size.
const INODES: u64 = BYTES_MAX / 16_384;
const INODE_BYTES: u64 = 256;
const BLOCK: u64 = 4096;
/// Bytes of an image's file: the data, the inode tables, and the maps of both.
const FILE_BYTES: u64 = BYTES_MAX + INODES * INODE_BYTES + (32 << 20);
/// Blocks that folders and the maps of large files may take beside the data.
const SLACK_BLOCKS: u64 = 16;
/// Free bytes below which the disk counts as full; as much again is wanted before it no longer does.
const DISK_LEAST: u64 = 128 << 20;
/// Free bytes above which the disk need not be watched closely.
const DISK_AMPLE: u64 = 8 << 30;
const WATCH_CLOSELY_MS: i64 = 50;
const WATCH_MS: i64 = 1_000;
/// How long the spawner waits for one answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
const TOOLS: &[&str] = &[
    "/usr/sbin/mke2fs",
    "/sbin/mke2fs",
    "/usr/bin/mke2fs",
    "/usr/local/sbin/mke2fs",
    "/run/current-system/sw/bin/mke2fs",
];
const FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,uninit_bg,\
                        dir_nlink,extra_isize";
const MESSAGE_BYTES: usize = 24;
/// Most loop devices that are kept for later: as many as a burst of environments that ends leaves at once.
const SPARE_SLOTS: usize = 64;
/// For how long nothing must have been asked before images are made that nobody waits for.
const CALM_MS: i64 = 100;

/// How often it is tried to take a device away whose file system ends in these moments, and how long between.
const REMOVALS: u32 = 8;
const BETWEEN_REMOVALS: std::time::Duration = std::time::Duration::from_millis(25);

/// What the spawner asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One more image, of the default size: now, or when nothing else is asked for.
    Make { later: bool },
    /// Another size for an image.
    Resize { id: u64, bytes: u64 },
    /// The sandbox of this image has ended.
    Drop { id: u64 },
}

/// What the keeper answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An image; its detached mount lies beside the message.
    Made {
        id: u64,
        later: bool,
    },
    NotMade {
        errno: i32,
        later: bool,
    },
    Resized {
        errno: i32,
    },
}

fn message(words: [u64; 3]) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn words(packet: &[u8]) -> Option<[u64; 3]> {
    let packet: &[u8; MESSAGE_BYTES] = packet.try_into().ok()?;
    let mut words = [0; 3];
    for (word, bytes) in words.iter_mut().zip(packet.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    Some(words)
}

impl Ask {
    fn encode(self) -> [u8; MESSAGE_BYTES] {
        message(match self {
            Self::Make { later } => [1, u64::from(later), 0],
            Self::Resize { id, bytes } => [2, id, bytes],
            Self::Drop { id } => [3, id, 0],
        })
    }

    fn decode(packet: &[u8]) -> Option<Self> {
        match words(packet)? {
            [1, later, _] => Some(Self::Make { later: later != 0 }),
            [2, id, bytes] => Some(Self::Resize { id, bytes }),
            [3, id, _] => Some(Self::Drop { id }),
            _ => None,
        }
    }
}

impl Answer {
    fn encode(self) -> [u8; MESSAGE_BYTES] {
        message(match self {
            Self::Made { id, later } => [1, id, u64::from(later)],
            Self::NotMade { errno, later } => [2, errno as u64, u64::from(later)],
            Self::Resized { errno } => [3, errno as u64, 0],
        })
    }

    fn decode(packet: &[u8]) -> Option<Self> {
        match words(packet)? {
            [1, id, later] => Some(Self::Made { id, later: later != 0 }),
            [2, errno, later] => Some(Self::NotMade { errno: errno as i32, later: later != 0 }),
            [3, errno, _] => Some(Self::Resized { errno: errno as i32 }),
            _ => None,
        }
    }
}

/// The spawner's end of the keeper.
#[derive(Debug)]
pub(crate) struct Images {
    /// Closed before the keeper is waited for.
    socket: Option<OwnedFd>,
    keeper: OwnedFd,
}

impl Drop for Images {
    fn drop(&mut self) {
        self.socket = None;
        sys::wait(self.keeper.as_raw_fd());
    }
}

impl Images {
    /// Starts the keeper, which makes one image to see that it can. Call with privilege, before the stage hides the host.
    ///
    /// # Errors
    /// Why there are no images on this host, for people.
    pub(crate) fn launch(folder: &Path) -> Result<Self, String> {
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (socket, inner) = pair.map_err(|error| error.to_string())?;
        // The host's file system must stay in sight of mke2fs when the spawner has left it.
        // SAFETY: the spawner never starts a thread.
        let keeper = match unsafe { sys::clone_process(libc::CLONE_NEWNS, None) } {
            Ok(Cloned::Child) => keep(inner, folder),
            Ok(Cloned::Parent { pidfd, .. }) => owned(pidfd),
            Err(errno) => return Err(io::Error::from_raw_os_error(errno).to_string()),
        };
        drop(inner);
        let timeout = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(PATIENCE))
            .map_err(|error| error.to_string())?;
        let mut text = [0; 512];
        let heard = protocol::receive(&socket, &mut text);
        let images = Self { socket: Some(socket), keeper };
        let (length, _) = heard.map_err(|error| error.to_string())?;
        match &text[..length] {
            b"ready" => Ok(images),
            why => Err(String::from_utf8_lossy(why).into_owned()),
        }
    }

    pub(crate) fn ask(&self, ask: &Ask) -> Call<()> {
        let socket = self.socket.as_ref().ok_or(libc::EPIPE)?;
        sys::send(socket.as_raw_fd(), &ask.encode())
    }

    /// Waits for one answer.
    pub(crate) fn answer(&self) -> Call<(Answer, Option<OwnedFd>)> {
        let mut packet = [0; MESSAGE_BYTES];
        let socket = self.socket.as_ref().ok_or(libc::EPIPE)?;
        let (length, fds) = protocol::receive(socket, &mut packet).map_err(|error| number(&error))?;
        if length == 0 {
            return Err(libc::EPIPE);
        }
        let answer = Answer::decode(&packet[..length]).ok_or(libc::EBADMSG)?;
        Ok((answer, fds.into_iter().next()))
    }

    pub(crate) fn has_answer(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| is_readable(socket, 0))
    }
}

fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn is_readable(socket: &OwnedFd, milliseconds: i64) -> bool {
    let timeout =
        (milliseconds >= 0).then(|| Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 });
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    rustix::event::poll(&mut fds, timeout.as_ref()).unwrap_or(0) > 0
}

/// The keeper's process.
fn keep(socket: OwnedFd, folder: &Path) -> ! {
    // Nothing of the spawner's but its own end: above all not the socket to the server, which says by closing that the
    // spawner has ended.
    let own = socket.as_raw_fd() as u32;
    let _ = sys::close_range(10, own - 1);
    let _ = sys::close_range(own + 1, u32::MAX);
    let code = match Keeper::new(folder) {
        Ok(mut keeper) => {
            let _ = protocol::send(&socket, b"ready", &[]);
            keeper.serve(&socket);
            0
        }
        Err(why) => {
            let _ = protocol::send(&socket, why.chars().take(120).collect::<String>().as_bytes(), &[]);
            1
        }
    };
    // SAFETY: ends the process without running anything of the forked copy.
    unsafe { libc::_exit(code) }
}

/// A loop device with its file.
struct Slot {
    number: i32,
    name: String,
    device: OwnedFd,
    file: File,
}

/// One image in use or ready.
struct Image {
    slot: Slot,
    /// Its root folder, open: the file system ends here and not in a process of the sandbox.
    root: OwnedFd,
    /// The kernel's setting of what may not be used.
    reserved: File,
    blocks: u64,
}

struct Keeper {
    folder: OwnedFd,
    loops: File,
    devices: OwnedFd,
    /// Devices with lower numbers are the host's: they stay.
    first_own: i32,
    /// Numbers of the devices that are to be taken away.
    unneeded: HashSet<i32>,
    settings: OwnedFd,
    /// Places and contents of the template's blocks that are not empty.
    template: Vec<(u64, Vec<u8>)>,
    /// Free blocks of an empty image.
    free: u64,
    images: HashMap<u64, Image>,
    next: u64,
    /// Devices whose file is empty.
    spare: Vec<Slot>,
    /// Images whose sandbox has ended.
    ended: VecDeque<u64>,
    /// How many images are to be made that nobody waits for.
    later: usize,
    /// The disk has no room: nobody may write.
    full: bool,
}

fn say(what: &'static str) -> impl Fn(i32) -> String {
    move |errno| format!("{what}: {}", io::Error::from_raw_os_error(errno))
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: every caller passes a descriptor that a system call has just made for it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Keeper {
    fn new(folder: &Path) -> Result<Self, String> {
        const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
        let tool = TOOLS.iter().map(PathBuf::from).find(|path| path.exists());
        let tool = tool.ok_or("mke2fs is not installed; it is part of e2fsprogs")?;
        let open = |path: &Path, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        let folder =
            open(folder, OFlags::DIRECTORY | OFlags::RDONLY).map_err(|error| format!("the folder: {error}"))?;
        let kind = rustix::fs::fstatfs(&folder).map_err(|error| error.to_string())?.f_type as u64;
        if IN_MEMORY.contains(&kind) {
            return Err("the data folder lies in memory".to_owned());
        }
        let loops = open(Path::new("/dev/loop-control"), OFlags::RDWR)
            .map_err(|error| format!("there are no loop devices: /dev/loop-control: {error}"))?;
        let settings = open(Path::new("/sys/fs/ext4"), OFlags::DIRECTORY | OFlags::RDONLY)
            .map_err(|error| format!("the kernel has no ext4: /sys/fs/ext4: {error}"))?;
        // The kernel's own folder of devices: a container's may lack loop devices that are made later.
        let devices = sys::open_file_system(c"devtmpfs")
            .map(owned)
            .and_then(|context| sys::mount_file_system(context.as_raw_fd(), sys::ATTR_NOSUID))
            .map(owned)
            .map_err(say("the devices' file system"))?;
        let mut keeper = Self {
            folder,
            loops: loops.into(),
            devices,
            first_own: first_own(),
            unneeded: HashSet::new(),
            settings,
            template: Vec::new(),
            free: 0,
            images: HashMap::new(),
            next: 1,
            spare: Vec::new(),
            ended: VecDeque::new(),
            later: 0,
            full: false,
        };
        keeper.make_template(&tool)?;
        let (id, mount) = keeper.make().map_err(say("an image"))?;
        drop(mount);
        keeper.drop_image(id);
        Ok(keeper)
    }

    /// An empty file without a name.
    fn file(&self) -> Call<File> {
        let mode = Mode::from_raw_mode(0o600);
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let nameless = rustix::fs::openat(&self.folder, ".", flags | OFlags::TMPFILE, mode);
        let file = nameless.or_else(|_| {
            // Not every file system makes them; there is a name for a moment, and nobody else may open it.
            let name = format!(".tmp-image-{}", std::process::id());
            let _ = rustix::fs::unlinkat(&self.folder, &name, AtFlags::empty());
            let file = rustix::fs::openat(&self.folder, &name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            rustix::fs::unlinkat(&self.folder, &name, AtFlags::empty())?;
            Ok(file)
        });
        let file = file.map_err(rustix::io::Errno::raw_os_error)?;
        rustix::fs::ftruncate(&file, FILE_BYTES).map_err(rustix::io::Errno::raw_os_error)?;
        Ok(file.into())
    }

    fn make_template(&mut self, tool: &Path) -> Result<(), String> {
        let slot = self.new_slot().map_err(say("a file of the data folder on a loop device"))?;
        let made = Command::new(tool)
            .env_clear()
            .env("MKE2FS_CONFIG", "/dev/null")
            .args(["-q", "-F", "-b", "4096", "-m", "0", "-G", "128", "-e", "continue", "-O", FEATURES])
            .args(["-I", &INODE_BYTES.to_string(), "-N", &INODES.to_string()])
            .args(["-E", "lazy_itable_init=1,nodiscard"])
            .arg(format!("/proc/{}/fd/{}", std::process::id(), slot.file.as_raw_fd()))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("mke2fs: {error}"))?;
        if !made.status.success() {
            return Err(format!("mke2fs: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        {
            let mount = self.mount(&slot).map_err(say("a file system on a loop device"))?;
            let root = open_root(&mount).map_err(say("the image's root"))?;
            rustix::fs::fchmod(&root, Mode::from_raw_mode(0o1777)).map_err(|error| error.to_string())?;
            rustix::fs::unlinkat(&root, "lost+found", AtFlags::REMOVEDIR).map_err(|error| error.to_string())?;
            self.free = rustix::fs::fstatfs(&root).map_err(|error| error.to_string())?.f_bfree;
        }
        // Unmounted by now: closing the last descriptor has done it, and what it held is in the file.
        self.template = contents(&slot.file).map_err(|error| format!("the template: {error}"))?;
        self.keep(slot);
        Ok(())
    }

    /// Puts an empty file on a loop device.
    fn new_slot(&mut self) -> Call<Slot> {
        let file = self.file()?;
        loop {
            let number = sys::free_loop_device(self.loops.as_raw_fd())?;
            let name = format!("loop{number}");
            let device = match self.open_device(&name, OFlags::RDWR) {
                Ok(device) => device,
                // Who had made it has just taken it away.
                Err(libc::ENXIO | libc::ENOENT) => continue,
                Err(errno) => return Err(errno),
            };
            match sys::configure_loop_device(device.as_raw_fd(), file.as_raw_fd()) {
                Ok(()) => {
                    self.unneeded.remove(&number);
                    return Ok(Slot { number, name, device, file });
                }
                // Somebody else was quicker.
                Err(libc::EBUSY) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn open_device(&self, name: &str, flags: OFlags) -> Call<OwnedFd> {
        rustix::fs::openat(&self.devices, name, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(rustix::io::Errno::raw_os_error)
    }

    /// Empties a device's file and keeps it for later. Where that is refused, and where the file system is still mounted
    /// somewhere, the device goes when that ends.
    fn keep(&mut self, slot: Slot) {
        let whole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let unmounted = self.open_device(&slot.name, OFlags::RDONLY | OFlags::EXCL).is_ok();
        let emptied = unmounted
            && rustix::fs::fallocate(&slot.file, whole, 0, FILE_BYTES).is_ok()
            && sys::forget_device_pages(slot.device.as_raw_fd()).is_ok();
        if emptied && self.spare.len() < SPARE_SLOTS {
            self.spare.push(slot);
        } else {
            self.let_go(slot);
        }
    }

    /// Gives a device back to the host, or has the kernel take it away if that made it for images.
    fn let_go(&mut self, slot: Slot) {
        self.unneeded.extend(Some(slot.number).filter(|number| *number >= self.first_own));
        drop(slot);
        self.remove_unneeded();
    }

    /// Takes away the devices that nobody uses any more; others are tried again with the next.
    fn remove_unneeded(&mut self) {
        let loops = self.loops.as_raw_fd();
        self.unneeded.retain(|number| sys::remove_loop_device(loops, *number) == Err(libc::EBUSY));
    }

    /// Mounts what is on a device.
    fn mount(&self, slot: &Slot) -> Call<OwnedFd> {
        // A device with a file system that is still mounted would give that one again.
        drop(self.open_device(&slot.name, OFlags::RDONLY | OFlags::EXCL)?);
        let context = owned(sys::open_file_system(c"ext4")?);
        let source = CString::new(format!("/proc/self/fd/{}", slot.device.as_raw_fd())).map_err(|_| libc::EINVAL)?;
        sys::configure(context.as_raw_fd(), c"source", &source)?;
        // Nothing here outlives a crash, so nothing is flushed; inode tables are zero as the file is.
        for flag in [c"nobarrier", c"noinit_itable"] {
            sys::configure_flag(context.as_raw_fd(), flag)?;
        }
        // Maps of what is free are read when something is written: ahead of that, all of them would take most of what an
        // image takes of the processor and of memory. A kernel that does not know the word reads none ahead.
        let _ = sys::configure_flag(context.as_raw_fd(), c"no_prefetch_block_bitmaps");
        let attributes = sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOATIME;
        sys::mount_file_system(context.as_raw_fd(), attributes).map(owned)
    }

    /// Makes an image of the default size. Answers its number and detached mount.
    fn make(&mut self) -> Call<(u64, OwnedFd)> {
        if let Some(slot) = self.spare.pop()
            && let Ok(made) = self.make_on(slot)
        {
            return Ok(made);
        }
        let slot = self.new_slot()?;
        self.make_on(slot)
    }

    fn make_on(&mut self, slot: Slot) -> Call<(u64, OwnedFd)> {
        for (at, bytes) in &self.template {
            slot.file.write_all_at(bytes, *at).map_err(|error| number(&error))?;
        }
        let mount = self.mount(&slot)?;
        let root = open_root(&mount)?;
        if rustix::fs::fstatfs(&root).map_or(0, |about| about.f_bfree) != self.free {
            return Err(libc::EUCLEAN);
        }
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let reserved = format!("{}/reserved_clusters", slot.name);
        let reserved = rustix::fs::openat(&self.settings, reserved, flags, Mode::empty())
            .map_err(rustix::io::Errno::raw_os_error)?;
        let image = Image { slot, root, reserved: reserved.into(), blocks: DEFAULT_BYTES / BLOCK + SLACK_BLOCKS };
        self.limit(&image)?;
        let id = self.next;
        self.next += 1;
        self.images.insert(id, image);
        Ok((id, mount))
    }

    /// Lets the kernel keep back what the sandbox may not use.
    fn limit(&self, image: &Image) -> Call<()> {
        let usable = if self.full { 0 } else { image.blocks };
        let reserved = self.free.saturating_sub(usable);
        image.reserved.write_at(reserved.to_string().as_bytes(), 0).map_err(|error| number(&error)).map(drop)
    }

    fn resize(&mut self, id: u64, bytes: u64) -> Call<()> {
        let image = self.images.get_mut(&id).ok_or(libc::ENOENT)?;
        image.blocks = bytes.min(BYTES_MAX).div_ceil(BLOCK) + SLACK_BLOCKS;
        self.images.get(&id).map_or(Ok(()), |image| self.limit(image))
    }

    fn drop_image(&mut self, id: u64) {
        /// Less than this is written sooner than the kernel has put a line about the end into its log.
        const LITTLE_BLOCKS: u64 = 1024;
        let Some(Image { slot, root, .. }) = self.images.remove(&id) else { return };
        let free = rustix::fs::fstatfs(&root).map_or(0, |about| about.f_bfree);
        if free + LITTLE_BLOCKS < self.free {
            // What is not on the disk yet need not get there.
            sys::shut_down_file_system(root.as_raw_fd());
        }
        // Unmounts: the sandbox's own mount went with its last process.
        drop(root);
        self.keep(slot);
    }

    /// Serves until the spawner is gone. Who waits for an image goes before what has ended, and that before what nobody
    /// waits for.
    fn serve(&mut self, socket: &OwnedFd) {
        let mut calm_in = CALM_MS;
        loop {
            let wait = match (self.ended.is_empty(), self.images.is_empty()) {
                (false, _) => 0,
                (true, false) => self.watch_disk(),
                (true, true) => -1,
            };
            let wait = if self.later > 0 && wait != 0 { calm_in } else { wait };
            if is_readable(socket, wait) {
                calm_in = CALM_MS;
                if !self.take(socket) {
                    break;
                }
            } else if let Some(id) = self.ended.pop_front() {
                self.drop_image(id);
            } else if self.later > 0 {
                calm_in = 0;
                self.later -= 1;
                if !self.give(socket, true) {
                    break;
                }
            }
        }
        self.end();
    }

    /// Leaves no device behind, also of sandboxes that end in these moments.
    fn end(&mut self) {
        let ids: Vec<u64> = self.images.keys().copied().collect();
        ids.into_iter().for_each(|id| self.drop_image(id));
        while let Some(slot) = self.spare.pop() {
            self.let_go(slot);
        }
        for _ in 0..REMOVALS {
            self.remove_unneeded();
            if self.unneeded.is_empty() {
                return;
            }
            std::thread::sleep(BETWEEN_REMOVALS);
        }
    }

    /// Takes one message and answers it. False when the spawner is gone.
    fn take(&mut self, socket: &OwnedFd) -> bool {
        let mut packet = [0; MESSAGE_BYTES];
        let length = match protocol::receive(socket, &mut packet) {
            Ok((length, _)) if length > 0 => length,
            _ => return false,
        };
        match Ask::decode(&packet[..length]) {
            Some(Ask::Make { later: false }) => self.give(socket, false),
            Some(Ask::Make { later: true }) => {
                self.later += 1;
                true
            }
            Some(Ask::Resize { id, bytes }) => {
                let errno = self.resize(id, bytes).err().unwrap_or(0);
                protocol::send(socket, &Answer::Resized { errno }.encode(), &[]).is_ok()
            }
            Some(Ask::Drop { id }) => {
                self.ended.push_back(id);
                true
            }
            None => false,
        }
    }

    /// Makes an image for the spawner. False when that is gone.
    fn give(&mut self, socket: &OwnedFd, later: bool) -> bool {
        match self.make() {
            Ok((id, mount)) => protocol::send(socket, &Answer::Made { id, later }.encode(), &[mount.as_raw_fd()]),
            Err(errno) => protocol::send(socket, &Answer::NotMade { errno, later }.encode(), &[]),
        }
        .is_ok()
    }

    /// Looks at the disk, closes or opens every `/tmp`, and answers how many milliseconds that is good for.
    fn watch_disk(&mut self) -> i64 {
        let Ok(disk) = rustix::fs::fstatvfs(&self.folder) else { return WATCH_MS };
        let free = disk.f_bavail * disk.f_frsize;
        if free > DISK_AMPLE && !self.full {
            return WATCH_MS;
        }
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let full = is_full(free, on_the_way(&text), self.full);
        if full != self.full {
            self.full = full;
            for image in self.images.values() {
                // A file system that has just ended has no setting any more.
                let _ = self.limit(image);
            }
        }
        WATCH_CLOSELY_MS
    }
}

/// The number of the first loop device that the kernel does not make by itself.
fn first_own() -> i32 {
    /// What kernels make unless they are told otherwise.
    const USUAL: i32 = 8;
    let told = std::fs::read_to_string("/sys/module/loop/parameters/max_loop");
    told.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0).max(USUAL)
}

fn open_root(mount: &OwnedFd) -> Call<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(mount, ".", flags, Mode::empty()).map_err(rustix::io::Errno::raw_os_error)
}

/// The parts of a sparse file that are not holes, without blocks of zeros.
fn contents(file: &File) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut parts: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut at = 0;
    loop {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return Ok(parts),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        let mut block = vec![0; BLOCK as usize];
        for place in (start..end).step_by(BLOCK as usize) {
            let length = file.read_at(&mut block, place)?;
            if block[..length].iter().any(|byte| *byte != 0) {
                match parts.last_mut() {
                    Some((first, bytes)) if *first + bytes.len() as u64 == place => {
                        bytes.extend_from_slice(&block[..length]);
                    }
                    _ => parts.push((place, block[..length].to_vec())),
                }
            }
        }
        at = end;
    }
}

/// Bytes that are written and not yet on a disk, from `/proc/meminfo`.
fn on_the_way(meminfo: &str) -> u64 {
    let field = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    };
    (field("Dirty:") + field("Writeback:")) * 1024
}

/// Whether the disk counts as full: what is still on its way to it must find room.
fn is_full(free: u64, on_the_way: u64, was_full: bool) -> bool {
    let least = if was_full { 2 * DISK_LEAST } else { DISK_LEAST };
    free < least + on_the_way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let makes = [false, true].map(|later| Ask::Make { later });
        for ask in makes.into_iter().chain([Ask::Resize { id: 7, bytes: 1 << 33 }, Ask::Drop { id: u64::MAX }]) {
            assert_eq!(Ask::decode(&ask.encode()), Some(ask));
        }
        for later in [false, true] {
            for answer in [Answer::Made { id: 3, later }, Answer::NotMade { errno: 28, later }] {
                assert_eq!(Answer::decode(&answer.encode()), Some(answer));
            }
        }
        assert_eq!(Answer::decode(&Answer::Resized { errno: 0 }.encode()), Some(Answer::Resized { errno: 0 }));
        assert_eq!(Ask::decode(&[0; MESSAGE_BYTES]), None);
        assert_eq!(Ask::decode(&[1]), None);
    }

    #[test]
    fn a_disk_is_full_before_it_is() {
        assert!(!is_full(DISK_LEAST, 0, false));
        assert!(is_full(DISK_LEAST, 1, false));
        assert!(is_full(2 * DISK_LEAST - 1, 0, true), "and stays so for a while");
        assert!(!is_full(2 * DISK_LEAST, 0, true));
        assert_eq!(on_the_way("MemFree: 9 kB\nDirty:   12 kB\nWriteback:  3 kB\nWritebackTmp: 7 kB\n"), 15 * 1024);
    }

    #[test]
    fn only_what_is_written_is_copied() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 5000], 8192).unwrap();
        file.write_all_at(&[0; 4096], 65536).unwrap();
        let parts = contents(&file).unwrap();
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].0, parts[0].1.len(), &parts[0].1[..5000]), (8192, 8192, &[7; 5000][..]));
    }
}
