//! The one engine of the process: its settings, what programs can import, its clock, and where long runs go on.
//!
//! Runs are interrupted by epochs: a thread counts milliseconds while something runs, and code compares that count at the
//! head of every loop and function. A run begins on the thread of who asked for it, as most are over within a fraction of
//! a millisecond. One that is not is moved, at its first interruption, to a runtime of its own whose threads have a lower
//! priority (`drive`), so that no program holds up a thread that serves others for longer than one tick.
//!
//! Invariants
//!   1. `config` is the same for who compiles and who runs; what was compiled under another is not loaded.
//!   2. No run holds a thread of the server longer than a tick between two points where it can be dropped.
//!   3. While nothing runs the clock stands still and wakes nobody.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::Linker as ComponentLinker;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Linker, PoolingAllocationConfig};
use wasmtime_wasi::{p1, p2};

use super::state::{Gauge, State};
use super::{blobstore, keyvalue, quota, told};

/// Runs that there can be at once.
pub(super) const RUNS_MAX: u32 = 500;
/// Most core modules, memories and tables of one program, and elements of one table.
pub(super) const MODULES_MAX: u32 = 100;
const MEMORIES_MAX: u32 = 2;
const TABLES_MAX: u32 = 20;
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Bytes of a memory that are cleared by hand for its next run, and kept; the rest is given back to the system.
const KEPT_BYTES: usize = 128 * 1024;
/// Memories that are kept so while nobody uses them.
const KEPT_SLOTS: u32 = 32;
const STACK_BYTES: usize = 1024 * 1024;
const WASM_STACK_BYTES: usize = 512 * 1024;
/// How long a run goes on uninterrupted.
const TICK: Duration = Duration::from_millis(1);
/// How many ticks one goes on that has been moved.
pub(super) const LATER_TICKS: u64 = 5;
/// Ticks without a run after which the clock stops.
const IDLE_TICKS: u32 = 100;
/// Memory of which a program has a whole processor, as of any function.
const BYTES_PER_PROCESSOR: u64 = 1_769 * 1024 * 1024;
const NICENESS: i32 = 10;

/// The engine's settings.
pub(super) fn config() -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(RUNS_MAX)
        .total_core_instances(RUNS_MAX * MODULES_MAX)
        .total_memories(RUNS_MAX * MEMORIES_MAX)
        .total_tables(RUNS_MAX * TABLES_MAX)
        .total_stacks(RUNS_MAX)
        .max_core_instances_per_component(MODULES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(8 << 20)
        .table_elements(TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(KEPT_BYTES)
        .table_keep_resident(KEPT_BYTES / 8)
        .max_unused_warm_slots(KEPT_SLOTS);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .concurrency_support(false)
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(STACK_BYTES)
        .shared_memory(false)
        // Offsets of instructions, for whoever has the program's text beside it: a third of what is kept.
        .generate_address_map(false);
    config
}

/// Everything that runs need beside their program.
pub(super) struct Machine {
    pub(super) engine: Engine,
    pub(super) components: ComponentLinker<State>,
    pub(super) modules: Linker<State>,
    clock: Arc<Clock>,
    later: OnceLock<Runtime>,
    /// One for each run.
    room: Semaphore,
    cpu_quota: bool,
}

impl Machine {
    /// A new one; its clock stands still.
    pub(super) fn new(cpu_quota: bool) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config())?;
        let mut components = ComponentLinker::new(&engine);
        p2::add_to_linker_async(&mut components)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components)?;
        told::add_to_linker(&mut components)?;
        quota::limit_components(&mut components)?;
        keyvalue::add_to_linker(&mut components)?;
        blobstore::add_to_linker(&mut components)?;
        let mut modules = Linker::new(&engine);
        p1::add_to_linker_async(&mut modules, |state: &mut State| &mut state.wasi)?;
        quota::limit_modules(&mut modules)?;
        let clock = Clock::start(engine.clone())?;
        let room = Semaphore::new(RUNS_MAX as usize);
        Ok(Self { engine, components, modules, clock, later: OnceLock::new(), room, cpu_quota })
    }

    /// Runs a future that is a run to its end; once it has been interrupted, where runs do that take longer.
    pub(super) async fn drive<T: Send + 'static>(
        &self,
        gauge: &Arc<Gauge>,
        memory_bytes: u64,
        run: impl Future<Output = T> + Send + 'static,
    ) -> T {
        // Never closed, so that who waits gets one.
        let _room = self.room.acquire().await;
        let _ticking = self.clock.tick();
        let share = self.cpu_quota.then(|| memory_bytes as f64 / BYTES_PER_PROCESSOR as f64);
        // The run and the reader of its answer wake each other, and each turn is measured. Who is interrupted has had enough.
        let own = gauge.clone();
        let run = base::repolled_while(run, move || !own.interrupted.load(Ordering::Relaxed));
        let mut run = Box::pin(Measured { run: Box::pin(run), gauge: gauge.clone(), share, began: None, pause: None });
        let first = std::future::poll_fn(|cx| match run.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if gauge.interrupted.load(Ordering::Relaxed) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match first.await {
            Some(done) => done,
            None => match AbortOnDropHandle::new(self.later().spawn(run)).await {
                Ok(done) => done,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The runtime ends with the platform alone.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn later(&self) -> &Runtime {
        self.later.get_or_init(|| {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name("wasm")
                // What is spawned here takes milliseconds of each turn, so that others are looked at after each.
                .event_interval(1)
                .global_queue_interval(1)
                .enable_all()
                .on_thread_start(lower_priority)
                .build()
                .unwrap_or_else(|error| panic!("no threads for programs: {error}"))
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(later) = self.later.take() {
            later.shutdown_background();
        }
        self.clock.stop();
    }
}

/// Priority is no wall: what fails here is fairness alone.
pub(super) fn lower_priority() {
    // SAFETY: the call takes numbers only; zero is the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}

/// A run whose processor time is counted, and held to a share of it where that is wanted.
struct Measured<T> {
    run: Pin<Box<dyn Future<Output = T> + Send>>,
    gauge: Arc<Gauge>,
    share: Option<f64>,
    /// When it began, and what its environment had used by then.
    began: Option<(Instant, u64)>,
    pause: Option<Pin<Box<Sleep>>>,
}

fn thread_time_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    (now.tv_sec as u64) * 1_000_000_000 + now.tv_nsec as u64
}

impl<T> Future for Measured<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        let before = thread_time_ns();
        let polled = self.run.as_mut().poll(cx);
        let used = thread_time_ns().saturating_sub(before);
        let total = self.gauge.cpu_ns.fetch_add(used, Ordering::Relaxed) + used;
        if let (Some(share), Poll::Pending) = (self.share, &polled) {
            let (began, at_first) = *self.began.get_or_insert_with(|| (Instant::now(), total));
            let due = Duration::from_nanos(((total - at_first) as f64 / share) as u64);
            let pause = due.saturating_sub(began.elapsed());
            if pause > TICK {
                self.pause = Some(Box::pin(sleep(pause)));
                // The pause is to be asked as soon as it is over; the run has woken this already, or will.
                cx.waker().wake_by_ref();
            }
        }
        polled
    }
}

/// Counts milliseconds while something runs.
struct Clock {
    running: AtomicUsize,
    parked: AtomicBool,
    ended: AtomicBool,
    thread: OnceLock<Thread>,
    ticks: AtomicU64,
}

impl Clock {
    fn start(engine: Engine) -> std::io::Result<Arc<Self>> {
        let clock = Arc::new(Self {
            running: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            thread: OnceLock::new(),
            ticks: AtomicU64::new(0),
        });
        let own = clock.clone();
        let started = thread::Builder::new().name("wasm-clock".to_owned()).spawn(move || own.run(&engine))?;
        let _ = clock.thread.set(started.thread().clone());
        Ok(clock)
    }

    fn run(&self, engine: &Engine) {
        let mut idle = 0;
        while !self.ended.load(Ordering::SeqCst) {
            if self.running.load(Ordering::SeqCst) > 0 {
                idle = 0;
            } else {
                idle += 1;
            }
            if idle > IDLE_TICKS {
                self.parked.store(true, Ordering::SeqCst);
                // Whoever begins after this line sees that it is parked; whoever began before is seen here.
                if self.running.load(Ordering::SeqCst) == 0 && !self.ended.load(Ordering::SeqCst) {
                    thread::park();
                }
                self.parked.store(false, Ordering::SeqCst);
                idle = 0;
            }
            thread::sleep(TICK);
            engine.increment_epoch();
            self.ticks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ticks until what is returned is dropped.
    fn tick(self: &Arc<Self>) -> Ticking {
        self.running.fetch_add(1, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) {
            self.unpark();
        }
        Ticking(self.clone())
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn stop(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.unpark();
    }
}

struct Ticking(Arc<Clock>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_still_while_nothing_runs() {
        let machine = Machine::new(false).unwrap();
        let ticks = || machine.clock.ticks.load(Ordering::Relaxed);
        let parked = || machine.clock.parked.load(Ordering::SeqCst);
        let until = |what: &dyn Fn() -> bool| {
            while !what() {
                thread::sleep(TICK)
            }
        };
        until(&parked);
        let before = ticks();
        {
            let _ticking = machine.clock.tick();
            until(&|| ticks() > before + 2);
        }
        until(&parked);
        let stopped = ticks();
        thread::sleep(TICK * 20);
        assert_eq!(ticks(), stopped);
    }
}
