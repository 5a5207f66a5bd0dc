//! The socket to a managed guest, watched for input only.
//!
//! A runtime's usual stream is watched in both directions, and a unix socket tells its writer each time the reader
//! takes something: every call would wake the server once for nothing. Here room to write is watched only while there
//! is none. It does not know what a frame is, but that no write is longer than `MESSAGE_BYTES_MAX` (see `guest_protocol`).
//!
//! Start reading at `Channel`.

use std::io::{self, ErrorKind, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::guest_protocol::MESSAGE_BYTES_MAX;

/// Most room that one read is given.
const READ_BYTES_MAX: usize = 256 * 1024;

/// A non-blocking socket.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: AsyncFd<UnixStream>,
}

impl Channel {
    /// Takes over a socket.
    pub(crate) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        Ok(Self { socket: watch(stream.into_std()?, Interest::READABLE)? })
    }

    /// The socket itself, for calls that must not wait.
    pub(crate) fn socket(&self) -> &UnixStream {
        self.socket.get_ref()
    }

    /// Whether nothing has come. The kernel is asked, not the runtime, which may not have heard of it yet.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut asked = None;
        // Where the runtime believes that there is something, it learns in the same step that there is not.
        let _ = self.socket.try_io(Interest::READABLE, |socket| {
            let read = rustix::io::read(socket, &mut [0; 1]);
            asked = Some(read);
            Ok(read?)
        });
        asked.unwrap_or_else(|| rustix::io::read(self.socket(), &mut [0; 1])) == Err(Errno::AGAIN)
    }

    /// Writes all of `frame`. What it has not written after an error is left in `frame`.
    pub(crate) async fn write(&self, frame: &mut impl Buf) -> io::Result<()> {
        // The same socket once more, so that it can be watched for room as well.
        let mut watched = None;
        while frame.has_remaining() {
            let piece = frame.chunk();
            match self.socket().write(&piece[..piece.len().min(MESSAGE_BYTES_MAX)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => frame.advance(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if watched.is_none() {
                        watched = Some(watch(self.socket().try_clone()?, Interest::WRITABLE)?);
                    }
                    if let Some(socket) = &watched {
                        // The next write finds out whether there still is room.
                        socket.writable().await?.clear_ready();
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Appends what comes within `limit` to `buffer`, without giving the processor away. Nothing may come, or a part;
    /// the end of the other side is left for `read` to tell.
    pub(crate) fn look(&self, buffer: &mut BytesMut, limit: Duration) -> io::Result<()> {
        let began = Instant::now();
        loop {
            match self.read_some(buffer) {
                Err(Errno::AGAIN) if began.elapsed() < limit => std::hint::spin_loop(),
                Err(Errno::INTR) => {}
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One read; how much came. It comes by way of the stack: to copy what came is less than to clear the room that it
    /// might have taken.
    fn read_some(&self, buffer: &mut BytesMut) -> Result<usize, Errno> {
        let mut piece = [MaybeUninit::uninit(); MESSAGE_BYTES_MAX];
        let (came, _) = rustix::io::read(self.socket(), &mut piece)?;
        buffer.extend_from_slice(came);
        Ok(came.len())
    }

    /// One read into room of the buffer itself; how much came.
    fn read_much(&self, buffer: &mut BytesMut, room: usize) -> Result<usize, Errno> {
        let held = buffer.len();
        buffer.resize(held + room, 0);
        let read = rustix::io::read(self.socket(), &mut buffer[held..]);
        buffer.truncate(held + read.unwrap_or(0));
        read
    }

    /// Appends what has come to `buffer`, after waiting for it; 0 means that the other side is gone. `announced` is how
    /// much is known to come.
    pub(crate) async fn read(&self, buffer: &mut BytesMut, announced: usize) -> io::Result<usize> {
        let room = announced.min(READ_BYTES_MAX);
        loop {
            let mut ready = self.socket.readable().await?;
            // How much came does not tell whether there is more.
            let read = if room > MESSAGE_BYTES_MAX { self.read_much(buffer, room) } else { self.read_some(buffer) };
            match read {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Watches a socket in one direction.
// The call is deprecated for types whose descriptor may change or close before they are dropped, which no safe code can
// do to a `UnixStream`; what replaces it is unsafe.
#[allow(deprecated)]
fn watch(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(socket, interest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair() -> (Channel, tokio::net::UnixStream) {
        let (own, other) = tokio::net::UnixStream::pair().unwrap();
        (Channel::new(own).unwrap(), other)
    }

    #[tokio::test]
    async fn more_than_the_socket_holds_passes_in_both_directions() {
        let (channel, mut other) = pair();
        let sent: Vec<u8> = (0..4_000_000_u32).map(|number| (number % 251) as u8).collect();
        let echo = tokio::spawn(async move {
            let mut held = vec![0; 4_000_000];
            other.read_exact(&mut held).await.unwrap();
            other.write_all(&held).await.unwrap();
        });
        let mut frame = Bytes::copy_from_slice(&sent[..10]).chain(Bytes::copy_from_slice(&sent[10..]));
        channel.write(&mut frame).await.unwrap();
        let mut received = BytesMut::new();
        while received.len() < sent.len() {
            assert_ne!(channel.read(&mut received, sent.len()).await.unwrap(), 0);
        }
        assert_eq!(received, sent);
        echo.await.unwrap();
    }

    /// A channel as sandboxes have it, and the guest's end, which blocks.
    fn message_pair() -> (Channel, std::os::fd::OwnedFd) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (own, guest) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        rustix::io::ioctl_fionbio(&own, true).unwrap();
        (Channel::new(tokio::net::UnixStream::from_std(own.into()).unwrap()).unwrap(), guest)
    }

    #[tokio::test]
    async fn messages_are_never_cut_nor_overlooked() {
        let (channel, guest) = message_pair();
        let echo = std::thread::spawn(move || {
            let (mut held, mut message) = (0, [0; MESSAGE_BYTES_MAX]);
            while held < 1_000_000 {
                let length = rustix::io::read(&guest, &mut message).unwrap();
                held += length;
                rustix::io::write(&guest, &message[..length]).unwrap();
            }
            for number in 0..5 {
                rustix::io::write(&guest, &[number]).unwrap();
            }
        });
        let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
        let mut frame = Bytes::copy_from_slice(&sent[..10]).chain(Bytes::copy_from_slice(&sent[10..]));
        let mut received = BytesMut::new();
        // The guest takes no more before its own messages are read.
        let reading = async {
            while received.len() < sent.len() {
                assert_ne!(channel.read(&mut received, 0).await.unwrap(), 0);
            }
        };
        let (written, ()) = tokio::join!(channel.write(&mut frame), reading);
        written.unwrap();
        assert_eq!(received, sent);
        echo.join().unwrap();
        // All of them were there before the first is read.
        for number in 0..5 {
            assert_eq!(channel.read(&mut received, 0).await.unwrap(), 1);
            assert_eq!(received.last(), Some(&number));
        }
        assert_eq!(channel.read(&mut received, 0).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_quiet_channel_is_told_from_one_with_a_stray_message() {
        let (channel, guest) = message_pair();
        let mut received = BytesMut::new();
        assert!(channel.is_quiet());
        rustix::io::write(&guest, b"answer").unwrap();
        assert_eq!(channel.read(&mut received, 0).await.unwrap(), 6);
        assert!(channel.is_quiet(), "the runtime still takes it for readable");
        rustix::io::write(&guest, b"late").unwrap();
        assert_eq!(channel.read(&mut received, 0).await.unwrap(), 4);
        rustix::io::write(&guest, b"stray").unwrap();
        assert!(!channel.is_quiet());
        assert!(channel.is_quiet(), "it was taken away");
        drop(guest);
        assert!(!channel.is_quiet());
    }

    #[tokio::test]
    async fn a_read_waits_for_what_comes_later_and_tells_the_end() {
        let (channel, mut other) = pair();
        let mut received = BytesMut::with_capacity(8);
        for round in 0..100_u8 {
            let writer = async {
                tokio::task::yield_now().await;
                other.write_all(&[round]).await.unwrap();
            };
            let (count, ()) = tokio::join!(channel.read(&mut received, 0), writer);
            assert_eq!((count.unwrap(), received.last()), (1, Some(&round)));
        }
        drop(other);
        assert_eq!(channel.read(&mut received, 0).await.unwrap(), 0);
        let mut frame = Bytes::from_static(b"late");
        assert!(channel.write(&mut frame).await.is_err());
        assert_eq!(frame.remaining(), 4, "nothing was taken");
    }
}
