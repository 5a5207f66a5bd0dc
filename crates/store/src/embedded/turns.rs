//! Whose thread commits: the committer's own, or that of a caller who is alone.
//!
//! To hand a commit to another thread and to hear of its end wakes two threads, which takes a third of what a flush takes.
//! Many commits share that, as they share the flush. Where commits come one after another, as those of one client do, and
//! the disk is quick, the caller's thread takes the committer and commits: a sixth of a PutItem's time is saved. The
//! runtime's other tasks go on on its other threads meanwhile. As soon as commits come beside one another, or close upon each
//! other, they gather in the queue again. To let the runtime put another thread in the caller's place (`block_in_place`)
//! wakes one as well, and saves nothing.
//!
//! Invariants
//!   1. There is one committer, and it is in one thread's hands at a time.
//!   2. After a turn that failed or panicked there is none: nothing is written or flushed again.
//!   3. A caller's turn leaves nothing waiting that the committer's thread does not know of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::Shared;
use super::committer::{Committer, Step};
use super::schema::Fault;
use crate::commit::job::Job;
use crate::contract::{Durability, Error};

/// So many batches of one commit each in a row come from one who is alone.
const ALONE_BATCHES: u32 = 16;
/// Commits that follow each other sooner come from one caller at once, or from several. An answer that goes to a client,
/// and its next request, take longer.
const APART_US: u64 = 30;
/// Where a batch takes longer than that, two wakes are nothing.
const QUICK_US: u64 = 1_000;

/// The committer, and who may take it.
pub(super) struct Turns {
    shared: Arc<Shared>,
    committer: Mutex<Option<Committer>>,
    habit: Habit,
}

impl Turns {
    pub(super) fn new(shared: Arc<Shared>, committer: Committer) -> Self {
        Self { shared, committer: Mutex::new(Some(committer)), habit: Habit::default() }
    }

    /// The committer's own thread: works until the queue is closed and empty, or a turn has failed.
    pub(super) fn run(&self) -> Result<(), Fault> {
        let mut patience = None;
        loop {
            self.shared.queue.wait(patience);
            let (step, next) = self.turn(&mut self.committer.lock())?;
            if step == Step::End {
                return Ok(());
            }
            patience = next;
        }
    }

    /// Hands a job to whoever commits it; the caller's thread, if that is sooner.
    pub(super) fn submit(&self, job: Job) -> Result<(), Error> {
        let alone = job.work.durability() == Durability::Flushed
            && self.habit.is_alone(self.shared.clock.monotonic_us())
            && others_work();
        let Some(mut committer) = alone.then(|| self.committer.try_lock()).flatten() else {
            return self.shared.queue.push(job);
        };
        self.shared.queue.add(job)?;
        self.shared.guard(|| {
            let (_, patience) = self.turn(&mut committer)?;
            if patience.is_some() || !self.shared.queue.is_empty() {
                self.shared.queue.nudge();
            }
            Ok(())
        });
        Ok(())
    }

    /// One batch, if one waits; and after which time the next turn is due in any case.
    fn turn(&self, place: &mut Option<Committer>) -> Result<(Step, Option<Duration>), Fault> {
        let Some(mut committer) = place.take() else { return Ok((Step::End, None)) };
        let began_us = self.shared.clock.monotonic_us();
        let step = committer.step()?;
        if let Step::Batch(jobs) = step {
            self.habit.learn(jobs, began_us, self.shared.clock.monotonic_us());
        }
        let patience = committer.patience();
        if step != Step::End {
            *place = Some(committer);
        }
        Ok((step, patience))
    }
}

/// Whether the runtime has another thread, on which tasks go on while this one waits for the disk.
fn others_work() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1)
}

/// How commits come. Pure; written by whoever has the committer.
#[derive(Debug, Default)]
struct Habit {
    /// Batches of one job in a row, each well after the one before.
    alone: AtomicU32,
    ended_us: AtomicU64,
    /// How long a batch takes on average.
    took_us: AtomicU64,
}

impl Habit {
    /// Whether a commit that comes now comes alone, as those before did.
    fn is_alone(&self, now_us: u64) -> bool {
        self.alone.load(Ordering::Relaxed) >= ALONE_BATCHES
            && self.took_us.load(Ordering::Relaxed) <= QUICK_US
            && now_us.saturating_sub(self.ended_us.load(Ordering::Relaxed)) >= APART_US
    }

    fn learn(&self, jobs: usize, began_us: u64, ended_us: u64) {
        let apart = began_us.saturating_sub(self.ended_us.swap(ended_us, Ordering::Relaxed)) >= APART_US;
        let alone = if jobs == 1 && apart { self.alone.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.alone.store(alone, Ordering::Relaxed);
        let took_us = self.took_us.load(Ordering::Relaxed);
        self.took_us.store((took_us * 7 + ended_us.saturating_sub(began_us)) / 8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::AtomicBool;

    use base::ManualClock;

    use super::super::applier::Behind;
    use super::super::disk::{Disk, DiskFile, FolderDisk};
    use super::super::{EmbeddedConfig, Parts, prepare};
    use super::*;
    use crate::commit::job::{Done, Work};
    use crate::contract::Txn;

    /// After batches of so many jobs, each so long after the one before, of so many microseconds: whether one is alone that
    /// comes as long after.
    fn alone_after(batches: u32, jobs: usize, apart_us: u64, took_us: u64) -> bool {
        let (habit, mut now_us) = (Habit::default(), 1_000_000);
        for _ in 0..batches {
            habit.learn(jobs, now_us, now_us + took_us);
            now_us += took_us + apart_us;
        }
        habit.is_alone(now_us)
    }

    #[test]
    fn one_client_is_alone_and_several_are_not() {
        assert!(alone_after(ALONE_BATCHES, 1, 80, 200));
        assert!(!alone_after(ALONE_BATCHES - 1, 1, 80, 200));
        assert!(!alone_after(100, 2, 80, 200), "they share batches");
        assert!(!alone_after(100, 1, 10, 200), "the next waited while the one before was committed");
        assert!(!alone_after(100, 1, 80, 5_000), "the disk is slow");
    }

    #[test]
    fn one_crowd_ends_it() {
        let habit = Habit::default();
        (0..100_u64).for_each(|turn| habit.learn(1, turn * 1_000, turn * 1_000 + 200));
        assert!(habit.is_alone(100_000));
        assert!(!habit.is_alone(99_210), "it comes upon the end of the one before");
        habit.learn(3, 100_000, 100_200);
        assert!(!habit.is_alone(110_000));
    }

    /// A log whose flushes are counted, and fail when they are to.
    #[derive(Default)]
    struct Flushes {
        count: AtomicU32,
        fail: AtomicBool,
    }

    struct Counting(Arc<dyn Disk>, Arc<Flushes>);

    struct CountingFile(Arc<dyn DiskFile>, Arc<Flushes>);

    impl Flushes {
        fn one(&self) -> io::Result<()> {
            self.count.fetch_add(1, Ordering::SeqCst);
            if self.fail.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        }
    }

    impl Disk for Counting {
        fn exists(&self, name: &str) -> io::Result<bool> {
            self.0.exists(name)
        }
        fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            Ok(Arc::new(CountingFile(self.0.open(name)?, Arc::clone(&self.1))))
        }
        fn remove(&self, name: &str) -> io::Result<()> {
            self.0.remove(name)
        }
        fn sync_names(&self) -> io::Result<()> {
            self.0.sync_names()
        }
        fn free_bytes(&self) -> io::Result<u64> {
            self.0.free_bytes()
        }
    }

    impl DiskFile for CountingFile {
        fn reserve(&self, bytes: u64) -> io::Result<()> {
            self.0.reserve(bytes)
        }
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
            self.0.read_at(buffer, offset)
        }
        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.0.write_at(bytes, offset)
        }
        fn write_synced_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            self.0.write_at(bytes, offset)?;
            self.1.one()
        }
        fn sync(&self) -> io::Result<()> {
            self.1.one()
        }
    }

    /// A store whose committer's thread is the test.
    struct World {
        clock: Arc<ManualClock>,
        flushes: Arc<Flushes>,
        failed: Arc<AtomicBool>,
        turns: Turns,
        _folder: tempfile::TempDir,
    }

    impl World {
        /// One where commits have come one after another.
        fn of_one_client() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (clock, flushes, failed) =
                (Arc::new(ManualClock::default()), Arc::default(), Arc::new(AtomicBool::default()));
            let log_disk: Arc<dyn Disk> = Arc::new(Counting(FolderDisk::shared(folder.path()), Arc::clone(&flushes)));
            let has_failed = Arc::clone(&failed);
            let config = EmbeddedConfig {
                log_disk: Some(log_disk),
                on_fatal: Arc::new(move |_| has_failed.store(true, Ordering::SeqCst)),
                ..EmbeddedConfig::new(folder.path(), clock.clone())
            };
            let Parts { shared, worker, reader, writer, version, .. } = prepare(config, false).unwrap();
            let behind = Behind::inline(Arc::clone(&shared), Arc::new(Mutex::new(worker)));
            let committer = Committer::new(behind, Arc::clone(&shared), reader, writer, version);
            let world = Self { clock, flushes, failed, turns: Turns::new(shared, committer), _folder: folder };
            for _ in 0..ALONE_BATCHES {
                let mut outcome = world.submit(Txn::new().put("a", "x"));
                assert!(outcome.try_recv().is_err(), "the thread is to do it");
                world.thread();
                outcome.try_recv().unwrap().unwrap();
            }
            world
        }

        fn submit(&self, txn: Txn) -> Outcome {
            self.clock.advance(Duration::from_millis(1));
            let (job, outcome) = Job::new(Work::Commit(txn)).unwrap();
            // Who is refused finds that out by an outcome that never comes.
            let _ = self.turns.submit(job);
            outcome
        }

        /// What the committer's thread does when it is woken.
        fn thread(&self) {
            self.turns.turn(&mut self.turns.committer.lock()).unwrap();
        }

        fn flushes(&self) -> u32 {
            self.flushes.count.load(Ordering::SeqCst)
        }
    }

    type Outcome = tokio::sync::oneshot::Receiver<Result<Done, Error>>;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_is_alone_commits_and_who_is_not_waits() {
        let world = World::of_one_client();
        world.submit(Txn::new().put("a", "y")).try_recv().unwrap().unwrap();
        let mut relaxed = world.submit(Txn::new().put("b", "y").relaxed());
        assert!(relaxed.try_recv().is_err(), "it has no flush to wait for");
        let held = world.turns.committer.lock();
        let mut beside = world.submit(Txn::new().put("c", "y"));
        drop(held);
        assert!(beside.try_recv().is_err());
        world.thread();
        relaxed.try_recv().unwrap().unwrap();
        beside.try_recv().unwrap().unwrap();
        assert!(world.submit(Txn::new().put("a", "z")).try_recv().is_err(), "two have come beside one another");
    }

    #[tokio::test]
    async fn who_has_the_only_thread_leaves_it_to_others() {
        let world = World::of_one_client();
        assert!(world.submit(Txn::new().put("a", "y")).try_recv().is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_callers_turn_tells_the_thread_what_is_still_to_be_flushed() {
        let world = World::of_one_client();
        let (job, mut relaxed) = Job::new(Work::Commit(Txn::new().put("b", "y").relaxed())).unwrap();
        world.turns.shared.queue.add(job).unwrap();
        let before = world.flushes();
        let mut refused = world.submit(Txn::new().expect_absent("a").put("c", "y"));
        assert!(matches!(refused.try_recv().unwrap(), Err(Error::Conflict)));
        relaxed.try_recv().unwrap().unwrap();
        assert_eq!(world.flushes(), before);
        // It would wait for ever.
        world.turns.shared.queue.wait(None);
        world.clock.advance(Duration::from_millis(500));
        world.thread();
        assert_eq!(world.flushes(), before + 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_callers_turn_that_fails_ends_the_store() {
        let world = World::of_one_client();
        world.flushes.fail.store(true, Ordering::SeqCst);
        let mut outcome = world.submit(Txn::new().put("a", "y"));
        assert!(outcome.try_recv().is_err(), "nobody knows whether it is on the disk");
        assert!(world.failed.load(Ordering::SeqCst));
        let flushes = world.flushes();
        assert!(world.submit(Txn::new().put("a", "z")).try_recv().is_err());
        world.turns.run().unwrap();
        assert_eq!(world.flushes(), flushes, "no flush is tried again");
    }
}
