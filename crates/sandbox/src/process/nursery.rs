//! A zygote as the spawner sees it: where its forks belong, how it is ordered to make one, and when it is over.
//!
//! An order is one packet with descriptors; so is its answer. Neither holds anything of variable size.
//!
//! ```text
//! order   = sandbox: u64 | namespaces: u32 | doors: u32 | doors that must open: u32 (bits) | 0: u32
//!           with: channel, output, the namespaces (user first), the doors
//! answer  = sandbox: u64 | errno: i32 | 0: u32
//! ```
//!
//! A zygote may run code of functions, so it is not believed: its answer only says that it is worth looking (`assign`).
//!
//! Invariant: it has `forks` of its own alive; only a zygote that takes no orders and has none of them is over.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::epoll;
use rustix::net::RecvFlags;

use super::cgroup::Door;
use super::make::{Home, Made};
use super::protocol::Step;
use super::sys::{self, At, Fault};

/// Bytes of an order and of an answer.
const ORDER_BYTES: usize = 24;
const ANSWER_BYTES: usize = 16;

/// What a zygote is ordered to do: to fork a guest for this sandbox.
pub(crate) struct Order {
    pub(crate) id: u64,
    pub(crate) channel: OwnedFd,
    pub(crate) output: OwnedFd,
}

/// One zygote.
pub(crate) struct Nursery {
    orders: OwnedFd,
    /// Known once its sandbox stands.
    home: Option<Home>,
    open: bool,
    /// Sandboxes below its namespaces.
    pub(crate) forks: usize,
}

impl Nursery {
    pub(crate) fn new(made: &mut Made) -> Result<Self, Fault> {
        let orders = made.orders.take().ok_or(Fault { step: Step::Zygote, errno: libc::EBADF })?;
        // The spawner waits for no zygote: it serves others too.
        rustix::io::ioctl_fionbio(&orders, true).at(Step::Zygote)?;
        Ok(Self { orders, home: None, open: true, forks: 0 })
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.orders
    }

    /// Its sandbox stands: its forks have a home.
    pub(crate) fn settle(&mut self, home: Home) {
        self.home = Some(home);
    }

    /// Where its next fork belongs; nothing if it takes no orders any more.
    pub(crate) fn home(&mut self) -> Option<&mut Home> {
        self.home.as_mut().filter(|_| self.open)
    }

    /// Orders a fork.
    pub(crate) fn send(&self, order: &Order, namespaces: &[OwnedFd], doors: &[Door]) -> Result<(), Fault> {
        let must = doors.iter().enumerate().fold(0u32, |bits, (index, door)| bits | u32::from(door.must) << index);
        let mut packet = [0; ORDER_BYTES];
        packet[..8].copy_from_slice(&order.id.to_le_bytes());
        packet[8..12].copy_from_slice(&(namespaces.len() as u32).to_le_bytes());
        packet[12..16].copy_from_slice(&(doors.len() as u32).to_le_bytes());
        packet[16..20].copy_from_slice(&must.to_le_bytes());
        let fds: Vec<RawFd> = [&order.channel, &order.output]
            .into_iter()
            .chain(namespaces)
            .chain(doors.iter().map(|door| &door.file))
            .map(AsRawFd::as_raw_fd)
            .collect();
        sys::send_with_fds(self.orders.as_raw_fd(), &packet, &fds).at(Step::Zygote)
    }

    /// The next answer: which sandbox, and how it went. Nothing when the zygote has closed its end or says nonsense.
    pub(crate) fn receive(&self) -> Option<(u64, i32)> {
        let mut packet = [0; ANSWER_BYTES + 1];
        let received = rustix::net::recv(&self.orders, &mut packet[..], RecvFlags::DONTWAIT);
        let Ok((ANSWER_BYTES, _)) = received else { return None };
        let (id, rest) = packet.split_first_chunk::<8>()?;
        let errno = rest.first_chunk::<4>()?;
        Some((u64::from_le_bytes(*id), i32::from_le_bytes(*errno)))
    }

    /// Takes no more orders. False if that was so before.
    pub(crate) fn close(&mut self, epoll: &OwnedFd) -> bool {
        if self.open {
            self.forget(epoll);
            let _ = rustix::net::shutdown(&self.orders, rustix::net::Shutdown::Both);
        }
        std::mem::replace(&mut self.open, false)
    }

    /// Watches it no longer.
    pub(crate) fn forget(&self, epoll: &OwnedFd) {
        if self.open {
            let _ = epoll::delete(epoll, &self.orders);
        }
    }

    /// Whether nothing needs its namespaces any more.
    pub(crate) fn is_over(&self) -> bool {
        !self.open && self.forks == 0
    }
}
