//! The platform's side of the frame protocol of managed runtimes (see `guest_protocol`).
//!
//! Invariants
//!   1. One invocation is one write and, where the answer is small and whole, one read.
//!   2. Nothing that a guest sent before its INVOKE is ever taken for an answer to it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use tokio::net::UnixStream;

use crate::channel::Channel;
use crate::code_cache::Place;
use crate::environment::{Answer, Call};
use crate::faults::{ANSWER_BYTES_MAX, Failure, Fault};
use crate::guest_protocol::{self as protocol, BODY_BYTES_MAX, FromGuest, HEADER_BYTES, Read, kind};
use crate::start::InitEnd;
use crate::stream::Outlet;

/// Room for an INVOKE's meta.
const META_BYTES: usize = 384;
/// Room that a channel starts with.
const BUFFER_BYTES: usize = 8 * 1024;
/// Payloads up to this size are copied into their frame.
const COPIED_BYTES_MAX: usize = 16 * 1024;
/// An answer above this size leaves no room behind.
const LARGE_BYTES: usize = 64 * 1024;

/// The channel to one managed guest.
#[derive(Debug)]
pub(crate) struct Frames {
    channel: Channel,
    buffer: BytesMut,
    /// The guest has answered and is not ready yet.
    lingers: bool,
    booted: bool,
    /// What a zygote looked at while it got ready, where it says so.
    read: Option<Read>,
}

/// What a guest is told beside the handler that it is to load.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Variables that it was not started with.
    pub(crate) variables: Vec<(String, String)>,
    /// What was made of its code ahead.
    pub(crate) caches: Vec<Place>,
    /// Whether it runs the function's hooks of a snapshot, as there is none.
    pub(crate) hooks: bool,
    /// Whether a wrapper has started it, whose variables say what the handler is.
    pub(crate) wrapped: bool,
}

/// How the making of a snapshot ended.
#[derive(Debug)]
pub(crate) enum SnapshotEnd {
    /// It can be forked.
    Taken,
    /// It cannot, and why.
    Unfit(String),
    /// The init or a hook failed; the runtime's error document.
    Error(Bytes),
    /// The runtime ended.
    Exited,
    /// The runtime broke the protocol.
    Broken,
}

/// What came, if a frame did.
enum Incoming {
    Frame(FromGuest),
    /// An answer whose frame alone is larger than any answer may be.
    TooLarge,
    Malformed(String),
    Closed,
}

impl Frames {
    /// Frames over a fresh channel.
    pub(crate) fn new(channel: UnixStream) -> std::io::Result<Self> {
        let buffer = BytesMut::with_capacity(BUFFER_BYTES);
        Ok(Self { channel: Channel::new(channel)?, buffer, booted: false, lingers: false, read: None })
    }

    /// Waits until the guest is up; false if it ends before.
    pub(crate) async fn booted(&mut self) -> bool {
        while !self.booted {
            match self.incoming().await {
                Incoming::Frame(FromGuest::Booted) => self.booted = true,
                Incoming::Frame(FromGuest::Read(read)) => self.read = Some(read),
                _ => return false,
            }
        }
        true
    }

    /// Waits until a zygote has run its function's init.
    pub(crate) async fn snapshot(&mut self) -> SnapshotEnd {
        match self.incoming().await {
            Incoming::Frame(FromGuest::Booted) => {
                self.booted = true;
                SnapshotEnd::Taken
            }
            Incoming::Frame(FromGuest::Unfit(reason)) => SnapshotEnd::Unfit(reason),
            Incoming::Frame(FromGuest::InitError(document)) => SnapshotEnd::Error(document),
            Incoming::Closed => SnapshotEnd::Exited,
            _ => SnapshotEnd::Broken,
        }
    }

    /// What a booted zygote looked at; nothing where it does not say.
    pub(crate) fn read(&mut self) -> Option<Read> {
        self.read.take()
    }

    /// Tells a zygote what to get ready for: an empty object, or the function and what of its package is others'.
    pub(crate) async fn prepare(&mut self, order: &serde_json::Value) -> std::io::Result<()> {
        self.channel.write(&mut protocol::encode(kind::PREPARE, &[order.to_string().as_bytes()]).as_ref()).await
    }

    /// Has the guest compile a package; the pieces of what it makes, `most` bytes of them together.
    pub(crate) async fn compile(&mut self, order: &serde_json::Value, most: usize) -> Result<Vec<Bytes>, String> {
        let frame = protocol::encode(kind::COMPILE, &[order.to_string().as_bytes()]);
        self.channel.write(&mut frame.as_ref()).await.map_err(|error| error.to_string())?;
        let (mut pieces, mut left) = (Vec::new(), most);
        loop {
            match self.incoming().await {
                Incoming::Frame(FromGuest::Booted | FromGuest::Begin(_)) => {}
                Incoming::Frame(FromGuest::Chunk(piece)) => {
                    left = left.checked_sub(piece.len()).ok_or("it made too much")?;
                    pieces.push(piece);
                }
                Incoming::Frame(FromGuest::End) => return Ok(pieces),
                Incoming::Closed => return Err("the guest ended".to_owned()),
                _ => return Err("the guest broke the protocol".to_owned()),
            }
        }
    }

    /// Asks the guest to load its handler, with variables that it was not started with, and waits for the end of that.
    pub(crate) async fn load(&mut self, root: &str, handler: &str, order: &Order) -> InitEnd {
        #[derive(Serialize)]
        struct Load<'a> {
            root: &'a str,
            handler: &'a str,
            environment: BTreeMap<&'a str, &'a str>,
            cold: bool,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            caches: &'a [Place],
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            hooks: bool,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            wrapped: bool,
        }
        let environment = order.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let Order { caches, hooks, wrapped, .. } = order;
        let (hooks, wrapped) = (*hooks, *wrapped);
        let load = Load { root, handler, environment, cold: true, caches, hooks, wrapped };
        let body = serde_json::to_vec(&load).unwrap_or_default();
        if self.channel.write(&mut protocol::encode(kind::LOAD, &[&body]).as_ref()).await.is_err() {
            return InitEnd::Exited;
        }
        loop {
            return match self.incoming().await {
                Incoming::Frame(FromGuest::Booted) if !self.booted => {
                    self.booted = true;
                    continue;
                }
                Incoming::Frame(FromGuest::Ready) => InitEnd::Ready,
                Incoming::Frame(FromGuest::InitError(document)) => InitEnd::Error(Failure::of(document)),
                Incoming::Frame(_) => InitEnd::Fault(Fault::protocol("it answered before it was asked")),
                Incoming::TooLarge => InitEnd::Fault(Fault::protocol("its first frame is too long")),
                Incoming::Malformed(detail) => InitEnd::Fault(Fault::protocol(&detail)),
                Incoming::Closed => InitEnd::Exited,
            };
        }
    }

    /// Runs one invocation. Not safe to go on with after being dropped half way: the environment then ends.
    pub(crate) async fn run(&mut self, call: &Call, look: Option<Duration>) -> Answer {
        if !self.channel.is_quiet() || !self.buffer.is_empty() {
            // Gone, or a frame that nobody asked for: this guest is not to be trusted with another event.
            return Answer::NotDelivered;
        }
        // One write: a large payload is not copied behind its head, a small one is sooner copied than gathered.
        let copied = call.payload.len() <= COPIED_BYTES_MAX;
        let payload = if copied { Bytes::new() } else { call.payload.clone() };
        let mut frame = invoke_frame(call, copied).chain(payload);
        let whole = frame.remaining();
        if self.channel.write(&mut frame).await.is_err() {
            return if frame.remaining() == whole { Answer::NotDelivered } else { Answer::Exited };
        }
        if let Some(look) = look
            && self.channel.look(&mut self.buffer, look).is_err()
        {
            return Answer::Exited;
        }
        let answer = self.answer(call).await;
        let large = match &answer {
            Answer::Response { payload, .. } => payload.len() > LARGE_BYTES,
            answer => matches!(answer, Answer::Streamed),
        };
        if large && self.buffer.is_empty() {
            // What is left of the buffer would keep the whole answer's memory for as long as the environment idles.
            self.buffer = BytesMut::with_capacity(BUFFER_BYTES);
        }
        answer
    }

    /// Reads up to the answer's end. A piece is read only when the one before it was taken: the guest waits meanwhile.
    async fn answer(&mut self, call: &Call) -> Answer {
        let mut outlet: Option<Outlet> = None;
        loop {
            match (self.incoming().await, &mut outlet) {
                (Incoming::Frame(FromGuest::Begin(content_type)), none @ None) => {
                    *none = Some(Outlet::open(call, content_type));
                }
                (Incoming::Frame(FromGuest::Linger), _) => self.lingers = true,
                (Incoming::Frame(FromGuest::Chunk(bytes)), Some(outlet)) => outlet.chunk(bytes).await,
                (Incoming::Frame(FromGuest::End), some @ Some(_)) => {
                    return some.take().map_or(Answer::Exited, Outlet::end);
                }
                (Incoming::Frame(FromGuest::Response { .. }), Some(_)) => {
                    return broken("it sent a whole answer after pieces of one");
                }
                (last, _) => return answer_of(last),
            }
        }
    }

    /// Whether the guest takes the next call.
    pub(crate) fn is_ready(&self) -> bool {
        !self.lingers
    }

    /// Waits until it does; false if it ended or broke the protocol.
    pub(crate) async fn ready(&mut self) -> bool {
        if self.lingers {
            self.lingers = !matches!(self.incoming().await, Incoming::Frame(FromGuest::Ready));
        }
        !self.lingers
    }

    async fn incoming(&mut self) -> Incoming {
        loop {
            match protocol::decode(&mut self.buffer) {
                Ok(Some(frame)) => return Incoming::Frame(frame),
                Ok(None) => {}
                Err(protocol::Error::TooLong(length)) if length > BODY_BYTES_MAX && self.is_response() => {
                    return Incoming::TooLarge;
                }
                Err(error) => return Incoming::Malformed(error.to_string()),
            }
            let announced = protocol::announced(&self.buffer);
            match self.channel.read(&mut self.buffer, announced).await {
                Ok(0) | Err(_) => return Incoming::Closed,
                Ok(_) => {}
            }
        }
    }

    /// Whether the frame that cannot be decoded says that it is a response. Its kind may not have come yet; a length
    /// below 64 MiB is then believed.
    fn is_response(&self) -> bool {
        match self.buffer.get(HEADER_BYTES - 1) {
            Some(kind) => *kind == kind::RESPONSE,
            None => self.buffer.first_chunk::<4>().is_some_and(|length| u32::from_le_bytes(*length) < 64 << 20),
        }
    }
}

fn answer_of(last: Incoming) -> Answer {
    match last {
        Incoming::Frame(FromGuest::Response { payload, .. }) if payload.len() > ANSWER_BYTES_MAX => {
            Answer::Fault { fault: Fault::answer_too_large(), sound: true }
        }
        Incoming::Frame(FromGuest::Response { run_us, content_type, payload }) => {
            let content_type = (!content_type.is_empty()).then_some(content_type);
            Answer::Response { payload, content_type, run_us: Some(u64::from(run_us)) }
        }
        Incoming::Frame(FromGuest::Error(document)) => Answer::Error(Failure::of(document)),
        Incoming::Frame(FromGuest::InitError(document)) => Answer::LastError(Failure::of(document)),
        Incoming::Frame(_) => broken("it sent another frame instead of an answer"),
        Incoming::TooLarge => Answer::Fault { fault: Fault::answer_too_large(), sound: false },
        Incoming::Malformed(detail) => broken(&detail),
        Incoming::Closed => Answer::Exited,
    }
}

fn broken(detail: &str) -> Answer {
    Answer::Fault { fault: Fault::protocol(detail), sound: false }
}

/// The frame of a call, but for the payload itself where that is `copied` by nobody.
fn invoke_frame(call: &Call, copied: bool) -> Bytes {
    const META_AT: usize = HEADER_BYTES + 4;
    let payload: &[u8] = if copied { &call.payload } else { &[] };
    let mut frame = BytesMut::with_capacity(META_AT + META_BYTES + payload.len()).writer();
    frame.get_mut().put_bytes(0, META_AT);
    write_meta(call, &mut frame);
    let mut frame = frame.into_inner();
    // Payloads are bounded far below 4 GiB.
    let meta_bytes = u32::try_from(frame.len() - META_AT).unwrap_or(u32::MAX);
    let length = u32::try_from(frame.len() - 4 + call.payload.len()).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4] = kind::INVOKE;
    frame[HEADER_BYTES..META_AT].copy_from_slice(&meta_bytes.to_le_bytes());
    frame.extend_from_slice(payload);
    frame.freeze()
}

fn write_meta(call: &Call, out: impl std::io::Write) {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Meta<'a> {
        request_id: &'a str,
        deadline_ms: u64,
        function_arn: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        trace_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        client_context: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tenant_id: Option<&'a str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        stream: bool,
    }
    let meta = Meta {
        request_id: &call.request_id.0,
        deadline_ms: call.deadline_ms,
        function_arn: &call.function_arn,
        trace_id: call.trace_id.as_deref(),
        client_context: call.client_context.as_deref(),
        tenant_id: call.version.tenant.as_deref(),
        stream: call.sink.is_some(),
    };
    // Strings and a number always serialise, and memory takes every byte.
    let result = serde_json::to_writer(out, &meta);
    debug_assert!(result.is_ok(), "{result:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixtures::version;
    use model::RequestId;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_large_answer_leaves_no_room_behind() {
        let (own, mut guest) = UnixStream::pair().unwrap();
        let mut frames = Frames::new(own).unwrap();
        let call = Call {
            request_id: RequestId("r".into()),
            payload: Bytes::from_static(b"{}"),
            deadline_ms: 1,
            function_arn: String::new(),
            trace_id: None,
            client_context: None,
            version: Arc::new(version("f")),
            sink: None,
        };
        for bytes in [10, 5_000_000, 10] {
            let answering = async {
                let mut asked = [0; 4];
                guest.read_exact(&mut asked).await.unwrap();
                let mut rest = vec![0; u32::from_le_bytes(asked) as usize];
                guest.read_exact(&mut rest).await.unwrap();
                let body = vec![b'1'; bytes];
                guest.write_all(&protocol::encode(kind::RESPONSE, &[&[0; 8], &body])).await.unwrap();
            };
            let (answer, ()) = tokio::join!(frames.run(&call, None), answering);
            let Answer::Response { payload, .. } = answer else { panic!("{answer:?}") };
            assert_eq!(payload.len(), bytes);
            drop(payload);
            // Room for a read: more cannot be told from outside than what the buffer could be given back.
            assert!(!frames.buffer.try_reclaim(1_000_000), "it holds on to a large answer's memory");
        }
    }
}
