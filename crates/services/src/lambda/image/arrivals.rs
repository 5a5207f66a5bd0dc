//! Layers on their way here: read once, and while they are written to a blob, looked at as archives under limits.
//!
//! Invariants
//!   1. Of callers that want one layer at the same time, one has it fetched and all wait for that; the fetch goes on when all
//!      of them have given up.
//!   2. What has arrived is a blob without an owner, which stays for `UPLOAD_MS`; it is given out for half of that.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};

use base::{Clock, Random};
use bytes::{Buf, Bytes};
use model::CodeDigest;
use oci::layer::{self, Limits, Summary};
use oci::registry::{self, Place, Registry};
use oci::{Digest, ENTRIES_MAX, UNPACKED_BYTES_MAX};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use store::references::References;
use store::{BlobWriter, Blobs};
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinHandle;

use super::Piece;
use super::push::Pushes;
use crate::lambda::packages::{UPLOAD_MS, Upload};

/// Pieces between who reads a layer and who looks at it.
const PIECES_AHEAD: usize = 8;

/// A layer that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Of its blob.
    pub(super) digest: Digest,
    /// Bytes of its blob.
    pub(super) bytes: u64,
    /// Of its archive.
    pub(super) diff_id: Digest,
}

/// A layer that is here.
#[derive(Debug, Clone)]
pub(in crate::lambda) struct Arrived {
    /// Its blob.
    pub(super) upload: Upload,
    /// Bytes of its archive.
    pub(super) unpacked_bytes: u64,
    /// Of its archive.
    pub(super) diff_id: Digest,
}

/// Why a layer does not come.
#[derive(Debug)]
pub(super) enum Failure {
    /// The registry.
    Registry(registry::Error),
    /// The store.
    Store(store::Error),
    /// The platform.
    Internal(String),
    /// It is not what it should be.
    Refused(String),
}

impl From<store::Error> for Failure {
    fn from(problem: store::Error) -> Self {
        Self::Store(problem)
    }
}

struct Flight {
    since_ms: u64,
    cell: Arc<OnceCell<Arrived>>,
}

/// Layers that come, or have come a short while ago.
pub(in crate::lambda) struct Arrivals {
    pub(super) registry: OnceLock<Registry>,
    pub(super) pushes: Pushes,
    references: References,
    blobs: Arc<dyn Blobs>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    flights: Mutex<HashMap<CodeDigest, Flight>>,
}

impl Arrivals {
    /// None so far.
    pub(in crate::lambda) fn new(
        references: References,
        blobs: Arc<dyn Blobs>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Arc<Self> {
        let (registry, pushes, flights) = (OnceLock::new(), Pushes::default(), Mutex::default());
        Arc::new(Self { registry, pushes, references, blobs, clock, random, flights })
    }

    fn flight(&self, code: &CodeDigest) -> Arc<OnceCell<Arrived>> {
        let now_ms = self.clock.now_ms();
        let mut flights = self.flights.lock();
        let young = |flight: &Flight| now_ms.saturating_sub(flight.since_ms) < UPLOAD_MS / 2;
        flights.retain(|_, flight| young(flight) || Arc::strong_count(&flight.cell) > 1);
        let fresh = || Flight { since_ms: now_ms, cell: Arc::default() };
        flights.entry(code.clone()).or_insert_with(fresh).cell.clone()
    }

    /// What has arrived is given out no more.
    pub(super) fn forget(&self, code: &CodeDigest) {
        self.flights.lock().remove(code);
    }

    /// A layer that has arrived a short while ago.
    pub(super) fn arrived(&self, code: &CodeDigest) -> Option<Arrived> {
        self.flight(code).get().cloned()
    }

    /// Gives out a layer that somebody has brought.
    pub(super) fn keep(&self, code: &CodeDigest, arrived: Arrived) {
        // Who has brought the same a moment before has brought it as well.
        let _ = self.flight(code).set(arrived);
    }

    /// Fetches a layer, goes on with a fetch that is under way, or answers what has arrived.
    pub(super) async fn fetch(self: &Arc<Self>, place: Place, wanted: Wanted) -> Result<Arrived, Failure> {
        let internal = |problem: &dyn std::fmt::Display| Failure::Internal(problem.to_string());
        let code = CodeDigest::parse(wanted.digest.digits()).ok_or_else(|| internal(&"a digest has 64 digits"))?;
        let cell = self.flight(&code);
        let this = self.clone();
        // A task of its own: the caller may give up.
        let task = tokio::spawn(async move { cell.get_or_try_init(|| this.fetch_now(&place, &wanted)).await.cloned() });
        task.await.unwrap_or_else(|problem| Err(internal(&problem)))
    }

    async fn fetch_now(&self, place: &Place, wanted: &Wanted) -> Result<Arrived, Failure> {
        let registry = self.registry.get().ok_or_else(|| Failure::Internal("there is no registry client".into()))?;
        let mut body = registry.blob(place, &wanted.digest).await.map_err(Failure::Registry)?;
        let mut intake = self.begin(&wanted.digest, wanted.bytes).await?;
        while let Some(piece) = body.next().await.map_err(Failure::Registry)? {
            match intake.push(piece).await {
                Ok(()) => {}
                // Who looks at it has seen enough, or it is too long: `finish` says why.
                Err(Failure::Refused(_)) => break,
                Err(other) => return Err(other),
            }
        }
        let arrived = intake.finish(&wanted.digest).await?;
        if arrived.diff_id != wanted.diff_id {
            return Err(Failure::Refused(format!(
                "the layer {} unpacks to another digest than it should",
                wanted.digest
            )));
        }
        Ok(arrived)
    }

    /// Begins to take a layer of at most so many bytes.
    pub(super) async fn begin(&self, digest: &Digest, bytes_max: u64) -> Result<Intake, Failure> {
        let blob = self.references.begin(digest.digits()).await?;
        let writer = self.blobs.write(&blob).await?;
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        let inspection = tokio::task::spawn_blocking(move || {
            let limits = Limits { bytes: UNPACKED_BYTES_MAX, entries: ENTRIES_MAX };
            layer::walk(Feed { receiver, piece: Bytes::new() }, limits, &mut ())
        });
        let pieces = Some(sender);
        Ok(Intake { blob, writer, bytes: 0, bytes_max, sum: Sha256::new(), pieces, inspection })
    }
}

/// A layer that is being taken. Dropped before its end, it leaves nothing but a mark that ends by itself.
pub(super) struct Intake {
    blob: String,
    writer: Box<dyn BlobWriter>,
    /// So many so far.
    pub(super) bytes: u64,
    bytes_max: u64,
    sum: Sha256,
    pieces: Option<mpsc::Sender<Bytes>>,
    inspection: JoinHandle<Result<Summary, layer::Error>>,
}

impl Intake {
    /// Takes the next piece.
    pub(super) async fn push(&mut self, piece: Piece) -> Result<(), Failure> {
        self.bytes += piece.len() as u64;
        if self.bytes > self.bytes_max {
            return Err(Failure::Refused("a layer is longer than was said".into()));
        }
        self.sum.update(&piece);
        self.writer.push(piece.clone()).await?;
        let Some(pieces) = &self.pieces else { return Ok(()) };
        if pieces.send(piece).await.is_err() {
            return Err(Failure::Refused("the layer is refused".into()));
        }
        Ok(())
    }

    /// The end of the layer: it is kept if it is what it should be.
    pub(super) async fn finish(mut self, digest: &Digest) -> Result<Arrived, Failure> {
        if self.bytes > self.bytes_max {
            return Err(Failure::Refused(format!(
                "the layer {digest} is longer than the {} bytes that were said",
                self.bytes_max
            )));
        }
        self.pieces = None;
        let seen = (&mut self.inspection).await.map_err(|problem| Failure::Internal(problem.to_string()))?;
        let limit = |problem: &layer::Error| matches!(problem, layer::Error::TooLarge(_) | layer::Error::TooMany(_));
        let found = Digest::finish(self.sum);
        let summary = match seen {
            // Not all of it was read: its digest says nothing.
            Err(problem) if limit(&problem) => return Err(Failure::Refused(problem.to_string())),
            _ if found != *digest => {
                return Err(Failure::Refused(format!("the layer {digest} has another digest: {found}")));
            }
            Err(problem) => return Err(Failure::Refused(problem.to_string())),
            Ok(summary) => summary,
        };
        self.writer.finish().await?;
        let upload = Upload { blob: self.blob };
        Ok(Arrived { upload, unpacked_bytes: summary.bytes, diff_id: summary.diff_id })
    }
}

/// Pieces as something to read, for a thread that may wait.
struct Feed {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.piece.has_remaining() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.remaining());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
