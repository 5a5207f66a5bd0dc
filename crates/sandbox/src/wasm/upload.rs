//! An object that a program writes: it goes up as it is written, in parts, so that its length matters to nobody.
//!
//! What fits into one part is one request. What a value holds counts as memory of the run.
//!
//! Invariants
//!   1. An object is there whole, or as it was before: what is not finished leaves nothing.
//!   2. At most one part is being sent and one is being filled.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::objects::{Done, Failure, Objects};
use super::state::{Gauge, OutOfMemory};

/// Bytes of a part. Source: S3's least.
const PART_BYTES: usize = 5 << 20;
/// Parts of an object. Source: S3's most.
const PARTS_MAX: usize = 10_000;
/// Bytes that a stream takes at once.
const WRITE_BYTES: usize = 64 * 1024;

/// What a run may hold.
#[derive(Clone)]
pub(super) struct Memory {
    pub(super) gauge: Arc<Gauge>,
    pub(super) bytes: u64,
}

impl Memory {
    /// Whether there was room for so many bytes more; they are held then.
    fn hold(&self, bytes: u64) -> bool {
        let held = self.gauge.held_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > self.bytes {
            self.gauge.out_of_memory.store(true, Ordering::Relaxed);
            return false;
        }
        self.gauge.peak_bytes.fetch_max(held, Ordering::Relaxed);
        true
    }

    fn let_go(&self, bytes: u64) {
        let less = |held: u64| Some(held.saturating_sub(bytes));
        // The closure always has a value.
        let _ = self.gauge.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// A value on its way out.
pub(super) struct Upload {
    objects: Objects,
    memory: Memory,
    /// The bucket and the object; as soon as they are known.
    target: Option<(String, String)>,
    filling: Vec<u8>,
    sending: Option<Sending>,
    /// The number of the object in parts, once there is one, and the marks of its parts.
    upload: Option<String>,
    marks: Vec<String>,
    failed: Option<Failure>,
    /// Whether the stream to write to was given out.
    pub(super) is_given: bool,
}

/// A part on its way.
struct Sending {
    bytes: u64,
    /// The upload's number and the part's mark.
    task: AbortOnDropHandle<Done<(String, String)>>,
}

impl Upload {
    pub(super) fn new(objects: Objects, memory: Memory) -> Self {
        let (filling, marks) = (Vec::new(), Vec::new());
        let (target, sending, upload, failed) = (None, None, None, None);
        Self { objects, memory, target, filling, sending, upload, marks, failed, is_given: false }
    }

    /// Says where it goes.
    ///
    /// # Errors
    /// It goes somewhere already.
    pub(super) fn aim(&mut self, bucket: &str, object: &str) -> Done<()> {
        if let Some((bucket, object)) = &self.target {
            return Err(Failure::new(format!("the value is being written to {object} in {bucket} already")));
        }
        self.target = Some((bucket.to_owned(), object.to_owned()));
        Ok(())
    }

    /// How many bytes can be taken now.
    fn room(&self) -> usize {
        PART_BYTES - self.filling.len()
    }

    fn take(&mut self, bytes: &[u8]) -> StreamResult<()> {
        if !self.memory.hold(bytes.len() as u64) {
            return Err(StreamError::Trap(OutOfMemory.into()));
        }
        self.filling.extend_from_slice(bytes);
        self.send_on();
        Ok(())
    }

    /// Sends a part that is full, if none is being sent.
    fn send_on(&mut self) {
        if self.room() > 0 || self.sending.is_some() || self.failed.is_some() {
            return;
        }
        if self.target.is_none() {
            let words = format!("more than {PART_BYTES} bytes were written before write-data says to which object");
            self.failed = Some(Failure::new(words));
        } else if self.marks.len() == PARTS_MAX {
            self.failed = Some(Failure::new(format!("an object has at most {PARTS_MAX} parts of {PART_BYTES} bytes")));
        } else {
            self.send();
        }
    }

    fn send(&mut self) {
        let Some((bucket, object)) = self.target.clone() else { return };
        let part = Bytes::from(mem::take(&mut self.filling));
        let (objects, upload, number) = (self.objects.clone(), self.upload.clone(), self.marks.len() + 1);
        let bytes = part.len() as u64;
        let sent = async move {
            let upload = match upload {
                Some(upload) => upload,
                None => objects.begin(&bucket, &object).await?,
            };
            let mark = objects.write_part((&bucket, &object), &upload, number, part).await?;
            Ok((upload, mark))
        };
        self.sending = Some(Sending { bytes, task: AbortOnDropHandle::new(tokio::spawn(sent)) });
    }

    /// Waits until no part is being sent. What is left of the wait is waited for again, if it is given up.
    async fn sent(&mut self) {
        let Some(sending) = &mut self.sending else { return };
        let sent = (&mut sending.task).await;
        self.memory.let_go(sending.bytes);
        self.sending = None;
        match sent.unwrap_or_else(|error| Err(Failure::new(error))) {
            Ok((upload, mark)) => {
                self.upload = Some(upload);
                self.marks.push(mark);
                self.send_on();
            }
            Err(failure) => self.failed = Some(failure),
        }
    }

    /// Writes what is left, and has the object there.
    ///
    /// # Errors
    /// It is not.
    pub(super) async fn finish(&mut self) -> Done<()> {
        while self.sending.is_some() {
            self.sent().await;
        }
        if let Some(failure) = &self.failed {
            return Err(failure.clone());
        }
        let Some((bucket, object)) = self.target.clone() else {
            return Err(Failure::new("write-data has not said to which object the value is to be written"));
        };
        if self.upload.is_none() {
            return self.objects.write(&bucket, &object, mem::take(&mut self.filling).into()).await;
        }
        if !self.filling.is_empty() {
            self.send();
            self.sent().await;
            if let Some(failure) = &self.failed {
                return Err(failure.clone());
            }
        }
        if let Some(upload) = &self.upload {
            self.objects.complete((&bucket, &object), upload, &self.marks).await?;
            self.upload = None;
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let sending = self.sending.take();
        self.memory.let_go(self.filling.len() as u64 + sending.as_ref().map_or(0, |sending| sending.bytes));
        let (Some((bucket, object)), Ok(runtime)) = (self.target.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (objects, upload) = (self.objects.clone(), self.upload.take());
        if sending.is_none() && upload.is_none() {
            return;
        }
        // The service would keep the parts for ever.
        runtime.spawn(async move {
            let begun = match sending {
                // Only who waits for the answer learns the number of what has just begun.
                Some(sending) => sending.task.await.ok().and_then(Result::ok).map(|(upload, _)| upload),
                None => None,
            };
            if let Some(upload) = upload.or(begun) {
                // What is not taken away now is left to the service's own rules.
                let _ = objects.give_up((&bucket, &object), &upload).await;
            }
        });
    }
}

/// The stream of a value.
pub(super) struct Writing(pub(super) Arc<Mutex<Upload>>);

#[wasmtime_wasi::async_trait]
impl Pollable for Writing {
    async fn ready(&mut self) {
        let mut upload = self.0.lock().await;
        while upload.room() == 0 && upload.failed.is_none() {
            upload.sent().await;
        }
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Writing {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut upload = self.0.try_lock().map_err(|_| StreamError::trap("the value is in use"))?;
        if bytes.len() > upload.room() {
            return Err(StreamError::trap("more was written than there was room for"));
        }
        upload.take(&bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        // The object is there when the value is finished, not before.
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let upload = self.0.try_lock().map_err(|_| StreamError::trap("the value is in use"))?;
        match &upload.failed {
            Some(failure) => Err(StreamError::LastOperationFailed(wasmtime::Error::msg(failure.to_string()))),
            None => Ok(upload.room().min(WRITE_BYTES)),
        }
    }
}
