//! One measure of one store, as one line of JSON. `benches/store.py` runs them all, interleaved, and reports.
//!
//! ```text
//! store-bench <part> <subject> <folder> [seconds] [workers]
//! ```
//! Parts: `probe` (the disk alone, no subject), `commits`, `sustained`, `fill` and then `gets` and `ranges` over the same
//! folder, `queue`. Subjects: `dunlin`, `sqlite`, `sqlite-large` (with a large cache and memory-mapped), `redb`, `lmdb`,
//! `fjall`, and for `commits` `log` (no tree at all). A process has one subject, so its CPU and memory are that subject's and the callers'.
//!
//! Start reading at `parts`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "figures are what this program is for")]

mod dunlin;
mod figures;
mod grouped;
mod parts;
mod peers;
mod subject;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use figures::Figures;
use grouped::Grouped;
use subject::{Failure, Subject};

fn main() -> ExitCode {
    match run() {
        Ok(figures) => {
            println!("{}", figures.json());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("store-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What was asked for.
struct Asked {
    part: String,
    folder: PathBuf,
    time: Duration,
    workers: u64,
}

fn run() -> Result<Figures, Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [part, subject, folder, rest @ ..] = &arguments[..] else {
        return Err("usage: store-bench <part> <subject> <folder> [seconds] [workers]".into());
    };
    let seconds: f64 = rest.first().map_or(Ok(2.0), |word| word.parse())?;
    let workers = rest.get(1).map_or(Ok(1), |word| word.parse())?;
    let asked = Asked { part: part.clone(), folder: folder.into(), time: Duration::from_secs_f64(seconds), workers };
    std::fs::create_dir_all(&asked.folder)?;
    if part == "probe" {
        return parts::probe(&asked.folder, asked.time);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        match &subject[..] {
            "dunlin" => measure(dunlin::Dunlin::open(&asked.folder.join("store"))?, &asked).await,
            "sqlite" => grouped(peers::sqlite::Sqlite::open(&asked.folder, false)?, &asked).await,
            "sqlite-large" => grouped(peers::sqlite::Sqlite::open(&asked.folder, true)?, &asked).await,
            "redb" => grouped(peers::redb::Redb::open(&asked.folder)?, &asked).await,
            "lmdb" => grouped(peers::lmdb::Lmdb::open(&asked.folder)?, &asked).await,
            "fjall" => grouped(peers::fjall::Fjall::open(&asked.folder)?, &asked).await,
            "log" => grouped(peers::log::Log::open(&asked.folder)?, &asked).await,
            other => Err(format!("{other} is no subject").into()),
        }
    })
}

async fn grouped<T: grouped::Tree>(tree: T, asked: &Asked) -> Result<Figures, Failure> {
    measure(Grouped::start(tree), asked).await
}

async fn measure<S: Subject>(subject: S, asked: &Asked) -> Result<Figures, Failure> {
    let subject = Arc::new(subject);
    let folder: &Path = &asked.folder;
    let figures = match &asked.part[..] {
        "commits" => parts::commits(&subject, asked.workers, asked.time).await,
        "sustained" => parts::sustained(&subject, asked.workers, asked.time, folder).await,
        "fill" => parts::fill(&subject, parts::READ_KEYS, parts::READ_VALUE).await,
        "gets" => parts::gets(&subject, asked.workers, asked.time).await,
        "ranges" => parts::ranges(&subject, asked.workers, asked.time).await,
        "queue" => parts::queue(&subject).await,
        other => Err(format!("{other} is no part").into()),
    }?;
    subject.close().await?;
    Ok(figures)
}
