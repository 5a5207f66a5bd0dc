//! What waits for the committer: bounded in number and in bytes, taken in batches.
//!
//! There is no timer. While the committer flushes one batch, the next gathers here; a lone job is taken at once.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::commit::job::Job;
use crate::contract::{Error, TXN_BYTES_MAX, TXN_PARTS_MAX};

/// Most jobs in one batch.
const BATCH_JOBS_MAX: usize = 1_024;
/// A batch of several jobs has at most this many bytes. A larger job is a batch of its own.
pub(super) const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What a part of a transaction takes in the log beside its key and value, at most.
const PART_BYTES: usize = 24;
/// No batch has more bytes in the log.
pub(super) const BATCH_BYTES_END: usize = TXN_BYTES_MAX + TXN_PARTS_MAX * PART_BYTES;
const _: () = assert!(BATCH_BYTES_MAX <= BATCH_BYTES_END, "a batch is no larger than its largest job may be");
/// Most jobs that wait.
const WAITING_JOBS_MAX: usize = 8_192;
/// Most bytes that wait.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes that a job takes in the log, at most.
pub(super) fn log_bytes(job: &Job) -> usize {
    job.bytes + job.work.parts() * PART_BYTES
}

/// What `take` found.
pub(super) enum Taken {
    /// At least one job.
    Batch(Vec<Job>),
    /// Nothing.
    Idle,
    /// Closed and empty.
    Closed,
}

pub(super) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Most bytes of a batch of several jobs.
    batch_bytes: usize,
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Whoever waits is to look for what else is due.
    nudged: bool,
    /// Why nothing more is taken in.
    closed: Option<Error>,
}

impl Queue {
    pub(super) fn new(batch_bytes: usize) -> Self {
        Self { inner: Mutex::default(), changed: Condvar::new(), batch_bytes }
    }

    /// Adds a job and wakes who waits for one, or says why not: `Busy` when full, or why the queue was closed.
    pub(super) fn push(&self, job: Job) -> Result<(), Error> {
        self.add(job)?;
        self.changed.notify_one();
        Ok(())
    }

    /// The same for one who takes it out again.
    pub(super) fn add(&self, job: Job) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        if let Some(reason) = &inner.closed {
            return Err(reason.clone());
        }
        if inner.jobs.len() >= WAITING_JOBS_MAX || inner.bytes + log_bytes(&job) > WAITING_BYTES_MAX {
            return Err(Error::Busy);
        }
        inner.bytes += log_bytes(&job);
        inner.jobs.push_back(job);
        Ok(())
    }

    /// Ends the wait of who waits.
    pub(super) fn nudge(&self) {
        self.inner.lock().nudged = true;
        self.changed.notify_one();
    }

    /// Whether no job waits.
    pub(super) fn is_empty(&self) -> bool {
        self.inner.lock().jobs.is_empty()
    }

    /// Waits for jobs, for the end or for a nudge, at most for `patience`.
    pub(super) fn wait(&self, patience: Option<Duration>) {
        let mut inner = self.inner.lock();
        while inner.jobs.is_empty() && inner.closed.is_none() && !inner.nudged {
            match patience {
                None => self.changed.wait(&mut inner),
                Some(patience) => {
                    if self.changed.wait_for(&mut inner, patience).timed_out() {
                        break;
                    }
                }
            }
        }
        inner.nudged = false;
    }

    /// Takes as many jobs as fit into a batch, but one at least.
    pub(super) fn take(&self) -> Taken {
        let mut inner = self.inner.lock();
        match (inner.jobs.is_empty(), &inner.closed) {
            (false, _) => Taken::Batch(inner.take_batch(self.batch_bytes)),
            (true, None) => Taken::Idle,
            (true, Some(_)) => Taken::Closed,
        }
    }

    /// Takes nothing more in; what waits is still to be taken.
    pub(super) fn close(&self, reason: Error) {
        self.inner.lock().closed.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// Takes nothing more in and drops what waits: its callers learn the reason.
    pub(super) fn poison(&self, reason: Error) {
        let mut inner = self.inner.lock();
        inner.closed = Some(reason);
        inner.bytes = 0;
        let dropped = std::mem::take(&mut inner.jobs);
        drop(inner);
        drop(dropped);
        self.changed.notify_all();
    }

    /// Why the queue is closed.
    pub(super) fn reason(&self) -> Error {
        self.inner.lock().closed.clone().unwrap_or(Error::Closed)
    }
}

impl Inner {
    fn take_batch(&mut self, bytes_max: usize) -> Vec<Job> {
        let mut batch = Vec::with_capacity(self.jobs.len().min(BATCH_JOBS_MAX));
        let mut bytes = 0;
        while let Some(next) = self.jobs.front().map(log_bytes) {
            let fits = batch.is_empty() || (batch.len() < BATCH_JOBS_MAX && bytes + next <= bytes_max);
            let Some(job) = self.jobs.pop_front_if(|_| fits) else { break };
            bytes += next;
            batch.push(job);
        }
        self.bytes -= bytes;
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::job::Work;
    use crate::contract::Txn;
    use tokio::sync::oneshot;

    fn job(bytes: usize) -> Job {
        Job { bytes, ..Job::new(Work::Commit(Txn::new())).unwrap().0 }
    }

    #[test]
    fn a_batch_ends_at_its_number_and_before_its_bytes() {
        let queue = Queue::new(BATCH_BYTES_MAX);
        (0..BATCH_JOBS_MAX + 1).for_each(|_| queue.push(job(1)).unwrap());
        for bytes in [BATCH_BYTES_MAX - 1, 1, BATCH_BYTES_END, 1, 1, BATCH_BYTES_MAX] {
            queue.push(job(bytes)).unwrap();
        }
        let mut sizes = Vec::new();
        queue.close(Error::Closed);
        while let Taken::Batch(batch) = queue.take() {
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [BATCH_JOBS_MAX, 2, 1, 1, 2, 1]);
    }

    #[test]
    fn a_full_queue_refuses_by_number_and_by_bytes() {
        let queue = Queue::new(BATCH_BYTES_MAX);
        (0..WAITING_JOBS_MAX).for_each(|_| queue.push(job(0)).unwrap());
        assert!(matches!(queue.push(job(0)), Err(Error::Busy)));
        let queue = Queue::new(BATCH_BYTES_MAX);
        queue.push(job(WAITING_BYTES_MAX - 1)).unwrap();
        assert!(matches!(queue.push(job(2)), Err(Error::Busy)));
        queue.push(job(1)).unwrap();
    }

    #[test]
    fn a_poisoned_queue_lets_its_waiters_go() {
        let queue = Queue::new(BATCH_BYTES_MAX);
        let (job, mut wait) = Job::new(Work::Commit(Txn::new())).unwrap();
        queue.push(job).unwrap();
        queue.poison(Error::Io("broken".into()));
        assert!(matches!(wait.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(matches!(queue.push(self::job(0)), Err(Error::Io(_))));
        assert!(matches!(queue.take(), Taken::Closed));
    }
}
