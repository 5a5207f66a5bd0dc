//! The socket to a managed guest, watched for input only.
//!
//! A runtime's usual stream is watched in both directions, and a unix socket tells its writer each time the reader
//! takes something: every call would wake the server once for nothing. Here room to write is watched only while there
//! is none. It does not know what a frame is.
//!
//! Start reading at `Channel`.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Least and most room that one read is given.
const READ_BYTES_MIN: usize = 4 * 1024;
const READ_BYTES_MAX: usize = 256 * 1024;

/// A non-blocking stream socket.
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

    /// Writes all of `frame` by gathering writes. What it has not written after an error is left in `frame`.
    pub(crate) async fn write(&self, frame: &mut impl Buf) -> io::Result<()> {
        // The same socket once more, so that it can be watched for room as well.
        let mut watched = None;
        while frame.has_remaining() {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = frame.chunks_vectored(&mut slices);
            match self.socket().write_vectored(&slices[..count]) {
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
        let held = buffer.len();
        buffer.resize(held + READ_BYTES_MIN, 0);
        let outcome = loop {
            match rustix::io::read(self.socket(), &mut buffer[held..]) {
                Ok(count) => break Ok(count),
                Err(rustix::io::Errno::AGAIN) if began.elapsed() < limit => std::hint::spin_loop(),
                Err(rustix::io::Errno::AGAIN) => break Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => break Err(error.into()),
            }
        };
        buffer.truncate(held + *outcome.as_ref().unwrap_or(&0));
        outcome.map(drop)
    }

    /// Appends what has come to `buffer`, after waiting for it; 0 means that the other side is gone.
    pub(crate) async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let held = buffer.len();
        let room = (buffer.capacity() - held).clamp(READ_BYTES_MIN, READ_BYTES_MAX);
        loop {
            let mut ready = self.socket.readable().await?;
            buffer.resize(held + room, 0);
            let read = rustix::io::read(self.socket(), &mut buffer[held..]);
            buffer.truncate(held + read.unwrap_or(0));
            match read {
                // Less than there was room for: the socket is empty, and more to come is a new event.
                Ok(count) if count > 0 && count < room => ready.clear_ready(),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            return Ok(read.unwrap_or(0));
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
            assert_ne!(channel.read(&mut received).await.unwrap(), 0);
        }
        assert_eq!(received, sent);
        echo.await.unwrap();
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
            let (count, ()) = tokio::join!(channel.read(&mut received), writer);
            assert_eq!((count.unwrap(), received.last()), (1, Some(&round)));
        }
        drop(other);
        assert_eq!(channel.read(&mut received).await.unwrap(), 0);
        let mut frame = Bytes::from_static(b"late");
        assert!(channel.write(&mut frame).await.is_err());
        assert_eq!(frame.remaining(), 4, "nothing was taken");
    }
}
