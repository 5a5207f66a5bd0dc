//! Starts the external extensions of an environment, reads what they write, and hears when they end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sandbox::{Beside, BesideSpec, Error};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

use super::Extensions;
use crate::faults::Fault;
use crate::output::{Cutter, Output};

/// Where the executables of extensions lie in a sandbox.
const FOLDER: &str = "/opt/extensions";
/// How long lines wait for company before they go to the sink.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 4 * 1024;
/// Reads in a row, before what was read is handed on.
const READS_MAX: usize = 64;

/// What a version's layers or image bring to run beside it.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    /// Files in `/opt/extensions`, in order.
    pub(crate) names: Vec<String>,
    /// The variables of each.
    pub(crate) environment: Vec<(String, String)>,
    /// Where each is started: as the function is, since an image may have no other folder.
    pub(crate) folder: String,
}

impl Extensions {
    /// Starts all of them, and waits until each has registered. An error ends the init.
    pub(crate) async fn launch(self: &Arc<Self>, agents: &Agents) -> Result<(), Fault> {
        for name in &agents.names {
            self.registry.lock().expect(name)?;
            self.launch_one(name, agents).await?;
        }
        tokio::select! {
            biased;
            fault = self.failed() => Err(fault),
            () = self.until(|registry| registry.all_registered().then_some(())) => Ok(()),
        }
    }

    async fn launch_one(self: &Arc<Self>, name: &str, agents: &Agents) -> Result<(), Fault> {
        let spec = BesideSpec {
            path: format!("{FOLDER}/{name}"),
            folder: agents.folder.clone(),
            environment: agents.environment.clone(),
        };
        let Beside { number, output } = match self.control.launch(&spec).await {
            Ok(beside) => beside,
            Err(error) => return Err(self.not_launched(name, &error)),
        };
        self.programs.lock().push((name.to_owned(), number));
        let mouth = Mouth::new(output);
        self.mouths.lock().push(mouth.clone());
        let reader = tokio::spawn(read(mouth, self.output.clone()));
        let (this, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            let exit = tokio::select! {
                biased;
                // Everything has ended, and an extension is not the reason.
                _ = this.control.wait() => return,
                exit = this.control.left(number) => exit,
            };
            // What it wrote last may say why.
            let _ = tokio::time::timeout(FLUSH_AFTER, reader).await;
            this.registry.lock().left(&name, &Fault::exit_words(&exit));
            this.moved.notify_waiters();
        });
        Ok(())
    }

    fn not_launched(&self, name: &str, error: &Error) -> Fault {
        let words = error.to_string();
        let kind = if words.ends_with("permission denied") { "PermissionDenied" } else { "UnknownError" };
        let mut registry = self.registry.lock();
        registry.launch_failed(name, kind, &words);
        registry.fault().cloned().unwrap_or_else(|| Fault::extension("Extension.LaunchError", &words))
    }
}

/// What one extension writes. Its reader and a call that ends both take from it.
pub(super) struct Mouth {
    pipe: pipe::Receiver,
    cutter: Mutex<Cutter>,
}

impl Mouth {
    fn new(pipe: pipe::Receiver) -> Arc<Self> {
        Arc::new(Self { pipe, cutter: Mutex::default() })
    }

    /// Takes what is in the pipe at this moment, as far as the kernel knows. False when no more will come.
    pub(super) fn drain(&self, output: &Output) -> bool {
        self.take(output, |chunk| Ok(rustix::io::read(&self.pipe, chunk)?))
    }

    fn take(&self, output: &Output, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> bool {
        let mut cutter = self.cutter.lock();
        let mut chunk = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            match read(&mut chunk) {
                Ok(0) => return false,
                Ok(length) => output.take_of_extension(&mut cutter, &chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

/// Reads what one extension writes, until it has closed its end.
async fn read(mouth: Arc<Mouth>, output: Arc<Output>) {
    let mut flush_at: Option<Instant> = None;
    loop {
        let readable = tokio::select! {
            readable = mouth.pipe.readable() => readable,
            () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {
                flush_at = None;
                output.flush().await;
                continue;
            }
        };
        if readable.is_err() || !mouth.take(&output, |chunk| mouth.pipe.try_read(chunk)) {
            break;
        }
        if output.is_full() {
            // A flood waits here, and its writer with it.
            output.flush().await;
        }
        flush_at.get_or_insert_with(|| Instant::now() + FLUSH_AFTER);
    }
    output.cut_of_extension(&mut mouth.cutter.lock());
    output.flush().await;
}
