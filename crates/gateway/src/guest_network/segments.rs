//! The X-Ray daemon's address in a sandbox: SDKs send their segments there, as datagrams.
//!
//! Nothing here keeps traces, so segments are read as far as is needed to count them, and are gone. A datagram is a line of JSON, its head,
//! and a document behind it; nothing is ever answered.
//!
//! Invariant: what a sandbox sends costs no more than reading so many datagrams a second; the kernel drops the rest.

use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

use super::Guest;
use crate::traffic::Pace;

/// Segments of one sandbox that are read in a second.
const PER_SECOND: u64 = 1_024;
/// The largest datagram; a longer document cannot come in one.
const DATAGRAM_BYTES_MAX: usize = 65_535;

impl Guest {
    /// Takes what comes.
    pub(super) async fn take_segments(self: Arc<Self>, socket: UdpSocket) {
        let (pace, function) = (Pace::new(PER_SECOND), self.identity.function.arn());
        let mut datagram = Vec::new();
        loop {
            // Room is made when there is something, as most functions never send any.
            if socket.readable().await.is_err() {
                return;
            }
            datagram.resize(DATAGRAM_BYTES_MAX, 0);
            while let Ok(length) = socket.try_recv(&mut datagram) {
                self.service.traffic.segment(&function, is_segment(&datagram[..length]));
                let wait = pace.wait(1, Instant::now());
                if !wait.is_zero() {
                    sleep(wait).await;
                }
            }
            datagram = Vec::new();
        }
    }
}

/// Whether a datagram is what the daemon takes: `{"format":"json","version":1}`, and an object that names its trace.
fn is_segment(datagram: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Head<'a> {
        format: &'a str,
        version: u32,
    }
    #[derive(serde::Deserialize)]
    struct Segment {
        #[serde(rename = "trace_id")]
        _trace_id: serde::de::IgnoredAny,
    }
    let Some(end) = datagram.iter().position(|byte| *byte == b'\n') else { return false };
    let (head, document) = datagram.split_at(end);
    // A list would pass for an object with its members in their order.
    if ![head, document].iter().all(|part| part.trim_ascii_start().starts_with(b"{")) {
        return false;
    }
    let is_known =
        serde_json::from_slice::<Head<'_>>(head).is_ok_and(|head| head.format == "json" && head.version == 1);
    is_known && serde_json::from_slice::<Segment>(document).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_known_by_their_head_and_trace() {
        for (datagram, wanted) in [
            ("{\"format\": \"json\", \"version\": 1}\n{\"trace_id\":\"1-5-a\",\"id\":\"b\",\"name\":\"n\"}", true),
            ("{\"format\":\"json\",\"version\":1}\n{\"id\":\"b\"}", false),
            ("{\"format\":\"json\",\"version\":1}\n[1]", false),
            ("{\"format\":\"json\",\"version\":1}", false),
            ("[\"json\",1]\n{\"trace_id\":\"1\"}", false),
            ("{\"format\":\"xml\",\"version\":1}\n{\"trace_id\":\"1\"}", false),
            ("{\"format\":\"json\",\"version\":2}\n{\"trace_id\":\"1\"}", false),
            ("words\n{\"trace_id\":\"1\"}", false),
            ("\n", false),
            ("", false),
        ] {
            assert_eq!(is_segment(datagram.as_bytes()), wanted, "{datagram}");
        }
    }
}
