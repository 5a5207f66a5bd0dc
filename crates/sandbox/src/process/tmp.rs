//! `/tmp` of sandboxes: a file system of its own with a hard size, on disk where the host allows it.
//!
//! Two forms. An **image** is a sparse file on the data folder's disk with a file system on a loop device; a process
//! beside the spawner makes them and keeps a few ahead (`images`). Where images cannot be had (an ordinary user, no loop
//! devices), `/tmp` is a **tmpfs**: memory of the host. Its pages are charged to whoever touches them, so the control
//! group of such a sandbox may hold its memory and its `/tmp` together, and the watcher sees to it that what is not
//! `/tmp` stays within the memory (`watch`).
//!
//! A sandbox that waits in a pool has the default size; at its assignment `Tmps::resize` gives it another. The mount
//! stays the same, and with it the Landlock rule, which is on the mounted root.
//!
//! Invariants
//!   1. A `/tmp` is never seen by two sandboxes, and nothing of it is left when its sandbox has ended.
//!   2. Images have no name: nobody but root's processes can open one, and they go with the last process that holds them.
//!
//! Start reading at `Tmps::take`.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::images::{Answer, Ask, Images};
use super::protocol::Step;
use super::sys::{self, At, Cloned, Fault};

/// What a sandbox has unless it asks for another size: Lambda's default.
pub(crate) const DEFAULT_BYTES: u64 = 512 << 20;
/// Least size that a tmpfs is capped at.
const MEMORY_CAP_LEAST: u64 = 512 << 20;
/// How many images are kept ready beyond those in use: what a burst finds.
const AHEAD: usize = 16;
/// And how many of them at any time, also while starts take them as fast as they can.
const AHEAD_LEAST: usize = 3;
/// Block of both file systems.
const BLOCK: u64 = 4096;

/// One sandbox's `/tmp`.
#[derive(Debug)]
pub(crate) enum Tmp {
    /// On disk.
    Image { id: u64, bytes: u64 },
    /// In memory. The mount is kept to look at it and to change it.
    Memory { bytes: u64, mount: OwnedFd },
}

impl Tmp {
    /// Bytes that a control group must hold beside the sandbox's memory.
    pub(crate) fn bytes_in_memory(&self) -> u64 {
        match self {
            Self::Image { .. } => 0,
            Self::Memory { bytes, .. } => *bytes,
        }
    }
}

/// Makes the `/tmp` of every sandbox.
#[derive(Debug)]
pub(crate) struct Tmps {
    /// Nothing where `/tmp` is in memory, with the reason.
    images: Result<Stock, String>,
    /// Most bytes of a tmpfs. None: without any limit, which only tests ask for.
    cap: Option<u64>,
    /// Processes that give back the memory of large tmpfs.
    ending: Vec<OwnedFd>,
}

/// Images that are ready or being made.
#[derive(Debug)]
struct Stock {
    maker: Images,
    ready: VecDeque<(u64, OwnedFd)>,
    /// Asked for and not yet answered.
    asked: usize,
    /// The same, of those that the keeper makes when it has nothing else to do.
    asked_later: usize,
    /// The first sandbox is a trial, and may be the only one: for it nothing is kept ahead.
    is_tried: bool,
}

impl Tmps {
    /// `images` says why there are none, if there are none. Without `limited`, a tmpfs has no size.
    pub(crate) fn new(images: Result<Images, String>, limited: bool) -> Self {
        let stock = |maker| Stock { maker, ready: VecDeque::new(), asked: 0, asked_later: 0, is_tried: false };
        Self { images: images.map(stock), cap: limited.then(memory_cap), ending: Vec::new() }
    }

    /// How a sandbox's `/tmp` is made here, for people.
    pub(crate) fn describe(&self) -> String {
        match (&self.images, self.cap) {
            (Ok(_), _) => "an image on the data folder's disk".to_owned(),
            (Err(why), Some(cap)) => format!(
                "tmpfs, which is memory of the host beside the function's own, of {} MB at most ({why})",
                cap >> 20
            ),
            (Err(why), None) => why.clone(),
        }
    }

    /// Whether `/tmp` lies on disk.
    pub(crate) fn are_on_disk(&self) -> bool {
        self.images.is_ok()
    }

    /// A fresh `/tmp` and its detached mount.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<(Tmp, OwnedFd), Fault> {
        self.ending.retain(|process| !sys::has_ended(process.as_raw_fd()));
        match &mut self.images {
            Ok(stock) => stock.take(bytes).at(Step::Tmp),
            Err(_) => self.memory(bytes),
        }
    }

    fn memory(&self, bytes: u64) -> Result<(Tmp, OwnedFd), Fault> {
        let bytes = self.cap.map_or(bytes, |cap| bytes.min(cap));
        let options = if self.cap.is_some() { memory_options(bytes) } else { Vec::new() };
        let mut all = vec![(c"mode", c"1777".to_owned())];
        all.extend(options);
        let context = sys::open_file_system(c"tmpfs").at(Step::Tmp)?;
        // SAFETY: both calls have just made their descriptor.
        let context = unsafe { OwnedFd::from_raw_fd(context) };
        for (key, value) in &all {
            sys::configure(context.as_raw_fd(), key, value).at(Step::Tmp)?;
        }
        let mount = sys::mount_file_system(context.as_raw_fd(), sys::ATTR_NOSUID | sys::ATTR_NODEV).at(Step::Tmp)?;
        // SAFETY: as above.
        let mount = unsafe { OwnedFd::from_raw_fd(mount) };
        let kept = mount.try_clone().at(Step::Tmp)?;
        Ok((Tmp::Memory { bytes, mount: kept }, mount))
    }

    /// Gives a running sandbox's `/tmp` another size. What lies in it stays; a size below what is used means that nothing
    /// more can be written, and of a tmpfs it is refused. A tmpfs is capped as at its making.
    pub(crate) fn resize(&mut self, tmp: &mut Tmp, bytes: u64) -> Result<(), Fault> {
        let cap = self.cap;
        match (tmp, &mut self.images) {
            // Spares the way to the keeper and back while a call waits.
            (Tmp::Image { bytes: now, .. }, Ok(_)) if *now == bytes => {}
            (Tmp::Image { id, bytes: now }, Ok(stock)) => {
                stock.resize(*id, bytes).at(Step::Tmp)?;
                *now = bytes;
            }
            (Tmp::Memory { bytes: now, mount }, _) => {
                let bytes = cap.map_or(bytes, |cap| bytes.min(cap));
                let context = sys::pick_file_system(mount.as_raw_fd()).at(Step::Tmp)?;
                // SAFETY: the call has just made this descriptor.
                let context = unsafe { OwnedFd::from_raw_fd(context) };
                for (key, value) in memory_options(bytes) {
                    sys::configure(context.as_raw_fd(), key, &value).at(Step::Tmp)?;
                }
                sys::reconfigure_file_system(context.as_raw_fd()).at(Step::Tmp)?;
                *now = bytes;
            }
            (Tmp::Image { .. }, Err(_)) => return Err(Fault { step: Step::Tmp, errno: libc::EINVAL }),
        }
        Ok(())
    }

    /// Removes the `/tmp` of a sandbox that has ended.
    pub(crate) fn give_back(&mut self, tmp: Tmp) {
        /// More than this takes the kernel a while to free.
        const LARGE: u64 = 32 << 20;
        match (tmp, &mut self.images) {
            // A keeper that is gone has taken its images with it.
            (Tmp::Image { id, .. }, Ok(stock)) => drop(stock.maker.ask(&Ask::Drop { id })),
            (Tmp::Memory { mount, .. }, _) if used_bytes(&mount) > LARGE => {
                // The last process that holds it frees it: let that be one that nobody waits for.
                // SAFETY: the spawner never starts a thread.
                match unsafe { sys::clone_process(0, None) } {
                    // SAFETY: ends the process without running anything of the forked copy.
                    Ok(Cloned::Child) => unsafe { libc::_exit(0) },
                    // SAFETY: the call has just made this descriptor.
                    Ok(Cloned::Parent { pidfd, .. }) => self.ending.push(unsafe { OwnedFd::from_raw_fd(pidfd) }),
                    Err(_) => {}
                }
            }
            _ => {}
        }
    }
}

/// Bytes that lie in a tmpfs.
pub(crate) fn used_bytes(mount: &OwnedFd) -> u64 {
    rustix::fs::fstatfs(mount).map_or(0, |about| (about.f_blocks - about.f_bfree) * about.f_bsize as u64)
}

/// A quarter of the host's memory: several functions must be able to fill their `/tmp`.
fn memory_cap() -> u64 {
    let total = sys::system_value(libc::_SC_PHYS_PAGES) * sys::system_value(libc::_SC_PAGESIZE);
    (total / 4).max(MEMORY_CAP_LEAST)
}

/// Inodes are kernel memory as well: one for each page, and some for small sizes.
fn memory_options(bytes: u64) -> Vec<(&'static std::ffi::CStr, CString)> {
    let text = |number: u64| CString::new(number.to_string()).unwrap_or_default();
    vec![(c"size", text(bytes)), (c"nr_inodes", text((bytes / BLOCK).max(1024)))]
}

impl Stock {
    fn take(&mut self, bytes: u64) -> sys::Call<(Tmp, OwnedFd)> {
        self.stock_up(1)?;
        while self.ready.is_empty() {
            self.hear()?;
        }
        // What is ready already is taken over without waiting.
        while self.asked + self.asked_later > 0 && self.maker.has_answer() {
            self.hear()?;
        }
        let (id, mount) = self.ready.pop_front().ok_or(libc::EPIPE)?;
        if bytes != DEFAULT_BYTES
            && let Err(errno) = self.resize(id, bytes)
        {
            let _ = self.maker.ask(&Ask::Drop { id });
            return Err(errno);
        }
        // Without the next ones there is still this one.
        let later = if std::mem::replace(&mut self.is_tried, true) { AHEAD } else { 0 };
        let _ = self.stock_up(AHEAD_LEAST).and_then(|()| self.stock_up_later(later));
        Ok((Tmp::Image { id, bytes }, mount))
    }

    fn stock_up(&mut self, wanted: usize) -> sys::Call<()> {
        while self.ready.len() + self.asked < wanted {
            self.maker.ask(&Ask::Make { later: false })?;
            self.asked += 1;
        }
        Ok(())
    }

    /// What is not wanted at once costs the keeper nothing before it has nothing else to do.
    fn stock_up_later(&mut self, wanted: usize) -> sys::Call<()> {
        while self.ready.len() + self.asked + self.asked_later < wanted {
            self.maker.ask(&Ask::Make { later: true })?;
            self.asked_later += 1;
        }
        Ok(())
    }

    fn resize(&mut self, id: u64, bytes: u64) -> sys::Call<()> {
        self.maker.ask(&Ask::Resize { id, bytes })?;
        loop {
            if let Some(result) = self.hear()? {
                return result;
            }
        }
    }

    /// Takes one answer. Some: the outcome of a change of size.
    fn hear(&mut self) -> sys::Call<Option<sys::Call<()>>> {
        match self.maker.answer()? {
            (Answer::Made { id, later }, Some(mount)) => {
                self.answered(later);
                self.ready.push_back((id, mount));
                Ok(None)
            }
            (Answer::NotMade { errno, later }, _) => {
                self.answered(later);
                // Nobody waits for what comes later.
                if later { Ok(None) } else { Err(errno) }
            }
            (Answer::Resized { errno: 0 }, _) => Ok(Some(Ok(()))),
            (Answer::Resized { errno }, _) => Ok(Some(Err(errno))),
            (Answer::Made { .. }, None) => Err(libc::EMFILE),
        }
    }

    fn answered(&mut self, later: bool) {
        let asked = if later { &mut self.asked_later } else { &mut self.asked };
        *asked = asked.saturating_sub(1);
    }
}
