//! The sizes at which the engine acts.

use super::{applier, log, overlay, queue, schema};
use crate::commit::recent;

/// Sizes at which the engine acts. The default is for production; a simulation makes them small, so that a short run
/// meets all of them. Other values are for that only: they are not checked, and a folder keeps those it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a segment of the log, whole blocks of 4,096. A full batch fits into one, and so does any transaction.
    pub segment_bytes: usize,
    /// A batch of several transactions has at most this many bytes in the log.
    pub batch_bytes: usize,
    /// So many bytes of log are worth writing into the tree, or two fifths of `overlay_bytes` of memory.
    pub due_log_bytes: usize,
    /// So many deletions are.
    pub due_deletes: usize,
    /// Above this many bytes that the tree does not have yet, commits wait for it.
    pub overlay_bytes: usize,
    /// Most writes of one transaction over the tree.
    pub portion_writes: usize,
    /// At this length the tree's own log is copied into its file.
    pub wal_bytes: u64,
    /// Most writes that are remembered for the checking of ranges.
    pub recent_writes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            segment_bytes: log::SEGMENT_BYTES,
            batch_bytes: queue::BATCH_BYTES_MAX,
            due_log_bytes: overlay::DUE_LOG_BYTES,
            due_deletes: overlay::DUE_DELETES,
            overlay_bytes: overlay::WEIGHT_MAX,
            portion_writes: applier::PORTION_WRITES,
            wal_bytes: schema::WAL_BYTES_MAX,
            recent_writes: recent::WRITES_MAX,
        }
    }
}
