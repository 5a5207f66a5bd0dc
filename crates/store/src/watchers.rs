//! Who waits for changes under which prefix: the common half of every engine's watches.
//!
//! Invariants
//!   1. A watch made before `touched` wakes by it if its prefix covers one of the keys.
//!   2. Waking costs one look-up per key and distinct prefix length, however many watches there are.
//!   3. Prefixes that nobody waits for any more are forgotten.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::contract::{Version, Watch};

/// All watches of one store.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By length of the prefix, so that a key is looked up once per length and not once per watch.
    by_length: BTreeMap<usize, HashMap<Bytes, watch::Sender<Version>>>,
    /// Prefixes that the last sweep left; when they have doubled, the next one is due.
    swept: usize,
    closed: bool,
}

impl Watchers {
    /// A watch of everything under `prefix`.
    pub(crate) fn watch(&self, prefix: &[u8]) -> Watch {
        let mut inner = self.inner.lock();
        if inner.closed {
            // The sender ends here, which the watch understands as a closed store.
            return Watch::new(watch::channel(0).1);
        }
        inner.sweep_if_due();
        let of_length = inner.by_length.entry(prefix.len()).or_default();
        let sender = of_length.entry(Bytes::copy_from_slice(prefix)).or_insert_with(|| watch::channel(0).0);
        Watch::new(sender.subscribe())
    }

    /// Wakes every watch whose prefix begins one of `keys`.
    pub(crate) fn touched<'a>(&self, keys: impl Iterator<Item = &'a [u8]>, version: Version) {
        let mut inner = self.inner.lock();
        if inner.by_length.is_empty() {
            return;
        }
        for key in keys {
            for (length, prefixes) in inner.by_length.range_mut(..=key.len()) {
                if let Some(sender) = prefixes.get(&key[..*length]) {
                    sender.send_replace(version);
                }
            }
        }
    }

    /// Wakes every watch: for an engine that cannot tell any more what was written.
    pub(crate) fn touched_all(&self, version: Version) {
        for sender in self.inner.lock().by_length.values().flat_map(HashMap::values) {
            sender.send_replace(version);
        }
    }

    /// Ends every watch, now and from now on.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.by_length.clear();
    }
}

impl Inner {
    fn sweep_if_due(&mut self) {
        if self.prefixes() <= 2 * self.swept + 64 {
            return;
        }
        for prefixes in self.by_length.values_mut() {
            prefixes.retain(|_, sender| sender.receiver_count() > 0);
        }
        self.by_length.retain(|_, prefixes| !prefixes.is_empty());
        self.swept = self.prefixes();
    }

    fn prefixes(&self) -> usize {
        self.by_length.values().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_prefixes_are_forgotten() {
        let watchers = Watchers::default();
        let kept = watchers.watch(b"kept");
        for number in 0..10_000u32 {
            drop(watchers.watch(&number.to_be_bytes()));
        }
        let left = watchers.inner.lock().prefixes();
        assert!(left < 200, "{left} prefixes are left");
        drop(kept);
    }
}
