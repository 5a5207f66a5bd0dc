//! Figures: a histogram of latencies, what the kernel says of this process, and JSON.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Named numbers, in order; lists of numbers for courses over time.
#[derive(Debug, Default)]
pub struct Figures {
    fields: Vec<(String, String)>,
}

impl Figures {
    pub fn set(&mut self, name: &str, value: f64) {
        self.fields.push((name.to_owned(), format!("{value:.3}")));
    }

    pub fn set_list(&mut self, name: &str, values: &[f64]) {
        let words: Vec<String> = values.iter().map(|value| format!("{value:.3}")).collect();
        self.fields.push((name.to_owned(), format!("[{}]", words.join(", "))));
    }

    pub fn json(&self) -> String {
        let mut text = String::from("{");
        for (number, (name, value)) in self.fields.iter().enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            // Writing into a string cannot fail.
            let _ = write!(text, "{comma}\"{name}\": {value}");
        }
        text + "}"
    }
}

/// Buckets per doubling: an error of at most 1.6 %.
const STEPS: u32 = 64;

/// Latencies, in constant memory.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u32>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; 40 * STEPS as usize], count: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, taken: Duration) {
        let ns = (taken.as_nanos() as u64).max(1);
        let doubling = ns.ilog2();
        let step = ((u128::from(ns) * u128::from(STEPS)) >> doubling) as u32 - STEPS;
        let index = (doubling * STEPS + step) as usize;
        let last = self.buckets.len() - 1;
        self.buckets[index.min(last)] += 1;
        self.count += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(own, more)| *own += more);
        self.count += other.count;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// In µs.
    pub fn quantile(&self, part: f64) -> f64 {
        let wanted = (self.count as f64 * part) as u64;
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += u64::from(*bucket);
            if seen > wanted {
                let (doubling, step) = (index as u32 / STEPS, index as u32 % STEPS);
                return f64::from(STEPS + step) / f64::from(STEPS) * 2f64.powi(doubling as i32) / 1_000.0;
            }
        }
        0.0
    }

    /// Rate, p50, p99 and the longest.
    pub fn report(&self, figures: &mut Figures, time: Duration) {
        figures.set("rate", self.count as f64 / time.as_secs_f64());
        for (name, part) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
            figures.set(name, self.quantile(part));
        }
    }
}

/// CPU time and page faults so far, of this process.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    cpu_us: f64,
    faults: f64,
    major: f64,
}

impl Spent {
    pub fn now() -> Self {
        let cpu_ns: f64 = tasks().filter_map(|task| first_number(&task.join("schedstat"))).sum();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse().ok()).unwrap_or(0.0);
        Self { cpu_us: cpu_ns / 1_000.0, faults: number(7), major: number(9) }
    }

    pub fn report(self, figures: &mut Figures, count: u64) {
        let (now, count) = (Self::now(), count.max(1) as f64);
        figures.set("cpu_us", (now.cpu_us - self.cpu_us) / count);
        figures.set("faults", (now.faults - self.faults) / count);
        figures.set("major_faults", now.major - self.major);
    }
}

fn tasks() -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(|task| task.path())
}

fn first_number(file: &Path) -> Option<f64> {
    fs::read_to_string(file).ok()?.split_whitespace().next()?.parse().ok()
}

/// Private anonymous memory of this process, in KiB.
pub fn anonymous_kib() -> u64 {
    status_kib("RssAnon:")
}

fn status_kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Watches the memory of this process until it is dropped.
pub struct MemoryWatch {
    stop: Arc<AtomicBool>,
    highest_kib: Arc<AtomicU64>,
}

impl MemoryWatch {
    pub fn start() -> Self {
        let (stop, highest_kib) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(anonymous_kib())));
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&highest_kib));
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                highest.fetch_max(anonymous_kib(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self { stop, highest_kib }
    }

    pub fn report(&self, figures: &mut Figures) {
        let highest = self.highest_kib.fetch_max(anonymous_kib(), Ordering::Relaxed).max(anonymous_kib());
        figures.set("anonymous_mib", highest as f64 / 1_024.0);
        figures.set("mapped_mib", status_kib("RssFile:") as f64 / 1_024.0);
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Bytes of the files under `folder` whose name is taken by `choose`.
pub fn bytes_under(folder: &Path, choose: fn(&str) -> bool) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.metadata() else { continue };
        if kind.is_dir() {
            sum += bytes_under(&entry.path(), choose);
        } else if choose(&entry.file_name().to_string_lossy()) {
            sum += kind.len();
        }
    }
    sum
}
