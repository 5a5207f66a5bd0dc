//! The embedded engine driven by hand, as the simulation drives it.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base::{Clock, ManualClock};
use store::embedded::{Progress, Stepped, open_stepped};
use store::{EmbeddedConfig, Error, Range, Store, Txn};

fn open(folder: &Path, clock: &Arc<ManualClock>) -> Stepped {
    let never = |reason: &str| panic!("the store failed: {reason}");
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    open_stepped(EmbeddedConfig { on_fatal: Arc::new(never), ..EmbeddedConfig::new(folder, clock) }).unwrap()
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    poll(pin!(future)).expect("it waits for nothing")
}

#[test]
fn a_commit_happens_when_the_committer_is_stepped_and_not_before() {
    let (folder, clock) = (tempfile::tempdir().unwrap(), ManualClock::at_ms(1));
    let mut stepped = open(folder.path(), &clock);
    let store = Arc::clone(stepped.store());
    let mut watch = store.watch(b"k");
    let mut changed = pin!(watch.changed());
    let mut commits: Vec<_> = (0..300u16)
        .map(|number| {
            let store = Arc::clone(&store);
            Box::pin(
                async move { store.commit(Txn::new().put(number.to_be_bytes().to_vec(), "v").put("k", "v")).await },
            )
        })
        .collect();
    assert!(commits.iter_mut().all(|commit| poll(commit.as_mut()).is_none()));
    assert!(poll(changed.as_mut()).is_none());
    assert_eq!(now(store.get(b"k")).unwrap(), None);
    assert_eq!(stepped.step_committer(), Progress::Worked);
    assert_eq!(stepped.step_committer(), Progress::Idle);
    for (number, commit) in commits.iter_mut().enumerate() {
        assert_eq!(poll(commit.as_mut()).unwrap().unwrap(), number as u64 + 1);
    }
    assert!(poll(changed.as_mut()).is_some());
    let all = now(store.range(&Range::prefix(""))).unwrap();
    assert_eq!(all.entries.len(), 301, "longer than what a threaded store reads on the caller's thread");

    // In the tree only when it is time and the applier is stepped.
    assert_eq!(stepped.step_applier(), Progress::Idle);
    clock.advance(Duration::from_secs(1));
    assert_eq!(stepped.step_applier(), Progress::Worked);
    assert_eq!(now(store.range(&Range::prefix(""))).unwrap(), all, "half way into the tree");
    while stepped.step_applier() == Progress::Worked {}
    assert_eq!(now(store.range(&Range::prefix(""))).unwrap(), all);

    let last = Box::pin(async { store.commit(Txn::new().put("last", "v").relaxed()).await });
    let mut last = last;
    assert!(poll(last.as_mut()).is_none());
    stepped.close();
    assert_eq!(poll(last.as_mut()).unwrap().unwrap(), 301);
    assert!(matches!(now(store.get(b"k")), Err(Error::Closed)));
    let again = open(folder.path(), &clock);
    assert_eq!(now(again.store().get(b"last")).unwrap().unwrap().version, 301);
}
