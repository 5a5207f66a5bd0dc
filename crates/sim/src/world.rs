//! The world: whose turn it is, how a life ends, and what must hold when the next one begins.
//!
//! A turn is a client's next step, a batch of the committer, a portion of the applier, time that passes, or a fault.
//! After each, all answers have gone past the checkers.
//!
//! What must hold after a life
//!   - killed, or ended by an error of the disk: all that was acknowledged is there;
//!   - cut from power: all that was acknowledged as flushed is there, and of what was relaxed a first part;
//!   - what was not answered may have happened, as a whole, after all that was acknowledged;
//!   - the state is that of the model at the recovered version, key by key, versions included.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ManualClock, SeededRandom};
use parking_lot::Mutex;
use store::embedded::disk::Disk;
use store::embedded::{OpenError, Progress, Stepped, open_stepped};
use store::{EmbeddedConfig, Entry, Error, Range, Store, Txn, Version};

use crate::checkers::model::Work;
use crate::dice::Dice;
use crate::disk::{SimDisk, Strike};
use crate::env::{Env, Left, MARKS, id_of_mark};
use crate::plan::{Broken, Ending, Plan, Stats};
use crate::tasks::{Task, now};
use crate::tree::Tree;
use crate::workload::{client, queues, rules, watchers};

/// Turns within which all has to come to rest once nothing fails any more.
const REST_TURNS: u64 = 20_000;
/// Attempts at opening a store whose disk fails meanwhile.
const OPENINGS: u64 = 20;

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// A hash over all events.
    pub hash: u64,
    /// What was not as it must be.
    pub violation: Option<String>,
    /// How often what happened.
    pub stats: Stats,
    /// All events, if they were to be kept.
    pub events: Vec<String>,
}

/// Runs what follows from a seed.
pub fn run(seed: u64, broken: Broken, keep_events: bool) -> Outcome {
    let dice = Dice::new(seed);
    let plan = Plan::new(&dice.split());
    let env = Env::new(dice.split(), keep_events, plan.tree_bytes_max.is_some(), broken);
    env.event(format_args!("{plan:?}"));
    let ended = World::new(Rc::clone(&env), plan, &dice).and_then(|mut world| world.run());
    if let Err(what) = ended {
        env.violated(what);
    }
    let mut trace = env.trace.borrow_mut();
    Outcome {
        hash: trace.hash(),
        violation: env.violation(),
        stats: env.stats.borrow().clone(),
        events: trace.take_lines(),
    }
}

/// The store's clock, where it is to be wrong on purpose.
struct Ahead(Arc<ManualClock>);

impl Clock for Ahead {
    fn now_us(&self) -> u64 {
        self.0.now_us() + 100_000
    }
    fn monotonic_us(&self) -> u64 {
        self.0.monotonic_us()
    }
}

struct World {
    env: Rc<Env>,
    plan: Plan,
    dice: Dice,
    disk: SimDisk,
    tree: Tree,
    engine: Option<Stepped>,
    clients: Vec<Task>,
    watchers: Vec<Task>,
    /// Why the store says that it cannot go on.
    fatal: Arc<Mutex<Option<String>>>,
}

/// What is not as it must be, or cannot be done.
type Held<T = ()> = Result<T, String>;

impl World {
    fn new(env: Rc<Env>, plan: Plan, dice: &Dice) -> Held<Self> {
        let disk = SimDisk::new(dice.split(), env.is_broken(Broken::LyingDisk));
        Ok(Self {
            env,
            plan,
            dice: dice.split(),
            disk,
            tree: Tree::new().map_err(text)?,
            engine: None,
            clients: Vec::new(),
            watchers: Vec::new(),
            fatal: Arc::default(),
        })
    }

    fn run(&mut self) -> Held {
        let mut left = Left::default();
        for life in 0..self.plan.lives {
            self.env.event(format_args!("life {life}"));
            self.recover(&mut left)?;
            self.live()?;
            left = self.end()?;
        }
        self.recover(&mut left)?;
        self.spawn();
        self.come_to_rest()?;
        let mut left = self.close()?;
        self.recover(&mut left)?;
        self.halt(false)
    }

    /// Opens the store and finds out what it has kept.
    fn recover(&mut self, left: &mut Left) -> Held {
        left.cut |= self.open()?;
        let Some(engine) = &self.engine else { return Ok(()) };
        let store = Arc::clone(engine.store());
        let version = now(store.snapshot()).ok_or("a snapshot waits")?.map_err(text)?.version();
        let state = now(store.range(&Range::prefix(""))).ok_or("a range waits")?.map_err(text)?.entries;
        let known = self.env.model.borrow().current();
        self.env.event(format_args!("recovered {version}, {known} were known, {} flushed", left.flushed));
        let at_least = if left.cut { left.flushed } else { left.acknowledged };
        if version < at_least {
            return Err(format!("{at_least} commits must have been kept, {version} are there"));
        }
        if version < known {
            self.env.count(|stats| stats.lost_relaxed += known - version);
            self.env.roll_back(version);
        } else {
            self.env.count(|stats| stats.resolved += version - known);
        }
        self.resolve(version, &state, &mut left.works)?;
        self.env.recovered();
        rules::check(&self.env, &state);
        queues::check(&self.env, &state);
        self.env.set_store(Some(store));
        self.env.violation().map_or(Ok(()), Err)
    }

    /// Finds an order of the commits of which nobody was told that leads to the state.
    fn resolve(&self, version: Version, state: &[Entry], works: &mut BTreeMap<u64, Work>) -> Held {
        let current = self.env.model.borrow().current();
        if current == version {
            return self.compare(state);
        }
        let marks = [MARKS, &(current + 1).to_be_bytes()].concat();
        let mark = state.iter().find(|entry| entry.key.starts_with(&marks)).map(|entry| id_of_mark(&entry.key));
        let candidates: Vec<u64> = match mark {
            Some(id) => vec![id],
            None => works.iter().filter(|(_, work)| !work.has_mark()).map(|(id, _)| *id).collect(),
        };
        let mut outcome = Err(format!("commit {} is nobody's, mark {mark:?}", current + 1));
        for id in candidates {
            let Some(work) = works.remove(&id) else { continue };
            outcome = self.env.apply(&work).and_then(|_| self.resolve(version, state, works));
            if outcome.is_ok() {
                break;
            }
            self.env.roll_back(current);
            works.insert(id, work);
        }
        outcome
    }

    fn compare(&self, state: &[Entry]) -> Held {
        let expected = self.env.model.borrow().range(&Range::prefix(""), Version::MAX).entries;
        let differ = |(found, expected): (&Entry, &Entry)| {
            (found != expected).then(|| format!("the store has {found:?}, the model {expected:?}"))
        };
        match state.iter().zip(&expected).find_map(differ) {
            Some(what) => Err(what),
            None if state.len() == expected.len() => Ok(()),
            None => Err(format!("the store has {} entries, the model {}", state.len(), expected.len())),
        }
    }

    /// Opens the store; the disk may fail meanwhile, or the power. True if that was cut.
    fn open(&mut self) -> Held<bool> {
        let mut cut = false;
        for _ in 0..OPENINGS {
            if self.dice.chance(15) {
                self.disk.arm(self.dice.below(30), *self.dice.pick(&[Strike::Error, Strike::Cut]));
            }
            let opened = open_stepped(self.config());
            let struck = self.disk.struck();
            match opened {
                Ok(engine) if struck.is_none() => {
                    self.disk.heal();
                    self.tree.opened(engine.applied()).map_err(text)?;
                    self.engine = Some(engine);
                    return Ok(cut);
                }
                Ok(_) => return Err("the disk failed, and the store was opened".to_owned()),
                Err(error) if struck.is_none() || matches!(error, OpenError::Damaged(_)) => {
                    return Err(format!("the store cannot be opened: {error}"));
                }
                Err(error) => {
                    self.env.event(format_args!("not opened: {error}"));
                    self.tree.closed().map_err(text)?;
                    let power = struck == Some(Strike::Cut);
                    cut |= power;
                    self.halt(power)?;
                }
            }
        }
        Err("the store cannot be opened".to_owned())
    }

    fn config(&self) -> EmbeddedConfig {
        let fatal = Arc::clone(&self.fatal);
        *fatal.lock() = None;
        let clock = Arc::clone(&self.env.clock);
        let clock: Arc<dyn Clock> =
            if self.env.is_broken(Broken::EarlyLeases) { Arc::new(Ahead(clock)) } else { clock };
        EmbeddedConfig {
            random: SeededRandom::new(0),
            size_bytes_max: self.plan.tree_bytes_max,
            log_disk: Some(Arc::new(self.disk.clone()) as Arc<dyn Disk>),
            limits: self.plan.limits,
            on_fatal: Arc::new(move |reason| *fatal.lock() = Some(reason.to_owned())),
            ..EmbeddedConfig::new(self.tree.folder(), clock)
        }
    }

    /// The clients of a life.
    fn spawn(&mut self) {
        self.env.stopping.set(false);
        self.clients = (0..self.plan.clients).map(|_| Task::new(client(Rc::clone(&self.env)))).collect();
        self.watchers =
            (0..self.plan.watchers).map(|number| Task::new(watchers::watcher(Rc::clone(&self.env), number))).collect();
    }

    /// Clients work and faults strike, until it is time or the store ends.
    fn live(&mut self) -> Held {
        self.spawn();
        if self.dice.chance(self.plan.disk_errors) {
            self.disk.arm(self.dice.below(200), Strike::Error);
        } else if self.dice.chance(self.plan.cuts_within) {
            self.disk.arm(self.dice.below(200), Strike::Cut);
        }
        for _ in 0..self.plan.turns {
            self.turn()?;
            if self.fatal.lock().is_some() || self.disk.struck() == Some(Strike::Cut) {
                break;
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> Held {
        let (committer, applier) = (self.plan.committer, self.plan.applier);
        let turn = self.dice.below(12 + committer + applier);
        if turn < 10 {
            self.poll_one();
        } else if turn < 10 + committer {
            self.step_committer()?;
        } else if turn < 10 + committer + applier {
            self.step_applier()?;
        } else {
            let time = *self.dice.pick(&[1, 1, 5, 20, 20, 100, 600, 1_100]);
            let time = if self.dice.chance(2) { 6_000 } else { time };
            self.env.event(format_args!("{time} ms pass"));
            self.env.clock.advance(Duration::from_millis(time));
        }
        if self.dice.below(1_000) < self.plan.full_disks {
            let room = (!self.disk.is_full()).then(|| *self.dice.pick(&[0, 65_536, 400_000]));
            self.env.event(format_args!("room on the disk: {room:?}"));
            self.disk.set_room(room);
        }
        if self.disk.is_full() {
            self.env.disk_is_full();
        }
        self.env.violation().map_or(Ok(()), Err)
    }

    fn poll_one(&mut self) {
        let all = self.clients.iter_mut().chain(&mut self.watchers);
        let mut ready: Vec<(usize, &mut Task)> = all.enumerate().filter(|(_, task)| task.is_ready()).collect();
        let count = ready.len();
        if !ready.is_empty() {
            let (number, task) = &mut ready[self.dice.index(count)];
            self.env.event(format_args!("client {number}"));
            task.poll();
        }
    }

    fn step_committer(&mut self) -> Held<Progress> {
        let Some(engine) = &mut self.engine else { return Ok(Progress::Ended) };
        let progress = engine.step_committer();
        self.env.event(format_args!("committer: {progress:?}"));
        self.after_step(progress)?;
        if progress != Progress::Ended {
            self.env.committer_had_its_turn();
        }
        Ok(progress)
    }

    fn step_applier(&mut self) -> Held<Progress> {
        let Some(engine) = &mut self.engine else { return Ok(Progress::Ended) };
        let progress = engine.step_applier();
        self.env.event(format_args!("applier: {progress:?}"));
        self.after_step(progress)?;
        Ok(progress)
    }

    fn after_step(&mut self, progress: Progress) -> Held {
        let reason = self.fatal.lock().clone();
        match (&reason, self.disk.struck()) {
            (Some(reason), None) => return Err(format!("the store failed without a cause: {reason}")),
            (None, _) if progress == Progress::Ended => return Err("the store ended and did not say why".to_owned()),
            _ => {}
        }
        if reason.is_none() {
            self.env.collect()?;
        }
        let Some(engine) = &self.engine else { return Ok(()) };
        if self.tree.note(engine.applied()).map_err(text)? {
            self.env.count(|stats| stats.generations += 1);
        }
        Ok(())
    }

    /// Ends a life in one of its ways, and says what it leaves.
    fn end(&mut self) -> Held<Left> {
        let failed = self.fatal.lock().is_some();
        let struck = self.disk.struck();
        let ending = match (struck, failed) {
            (Some(Strike::Cut), _) => Ending::Cut,
            (_, true) => Ending::Kill,
            _ => *self.dice.pick(&self.plan.endings),
        };
        self.env.event(format_args!("ends: {ending:?}, {struck:?}"));
        if matches!(ending, Ending::Close | Ending::Calm) {
            if ending == Ending::Calm {
                self.come_to_rest()?;
            }
            return self.close();
        }
        let mut left = self.env.collect_last()?;
        self.env.count(|stats| match ending {
            Ending::Cut => {
                stats.cuts += 1;
                stats.cuts_within += u64::from(struck.is_some());
            }
            _ => *(if failed { &mut stats.disk_errors } else { &mut stats.kills }) += 1,
        });
        left.cut = ending == Ending::Cut;
        self.halt(left.cut)?;
        Ok(left)
    }

    /// Ends the process, and leaves of the disks what a kill or a cut of the power leaves.
    fn halt(&mut self, power: bool) -> Held {
        self.clients.clear();
        self.watchers.clear();
        self.env.set_store(None);
        let dice = power.then(|| self.dice.split());
        self.tree.end(dice.as_ref(), || drop(self.engine.take())).map_err(text)?;
        if power {
            self.disk.cut();
        }
        self.disk.heal();
        Ok(())
    }

    /// Closes the store as a server does that is told to stop; afterwards the power may go, and nothing with it.
    fn close(&mut self) -> Held<Left> {
        self.env.event(format_args!("close"));
        self.disk.heal();
        while self.step_committer()? != Progress::Idle {}
        let mut left = self.env.collect_last()?;
        let Some(engine) = self.engine.take() else { return Ok(left) };
        self.clients.clear();
        self.watchers.clear();
        self.env.set_store(None);
        engine.close();
        if let Some(reason) = self.fatal.lock().clone() {
            return Err(format!("the store failed while it was closed: {reason}"));
        }
        self.tree.closed().map_err(text)?;
        self.halt(self.dice.chance(50))?;
        left.flushed = left.acknowledged;
        Ok(left)
    }

    /// Nothing fails any more, and no client begins anything: all must end, and the store must take something new.
    fn come_to_rest(&mut self) -> Held {
        self.env.event(format_args!("rest"));
        self.disk.heal();
        self.env.stopping.set(true);
        self.rest()?;
        watchers::check(&self.env);
        self.clients.push(Task::new(probe(Rc::clone(&self.env))));
        self.rest()?;
        let Some(engine) = &self.engine else { return Ok(()) };
        let state = now(engine.store().range(&Range::prefix(""))).ok_or("a range waits")?.map_err(text)?.entries;
        self.compare(&state)?;
        rules::check(&self.env, &state);
        queues::check(&self.env, &state);
        watchers::check(&self.env);
        self.env.violation().map_or(Ok(()), Err)
    }

    fn rest(&mut self) -> Held {
        for _ in 0..REST_TURNS {
            self.clients.iter_mut().chain(&mut self.watchers).filter(|task| task.is_ready()).for_each(Task::poll);
            self.env.violation().map_or(Ok(()), Err)?;
            let committer = self.step_committer()?;
            let applier = self.step_applier()?;
            self.env.clock.advance(Duration::from_millis(20));
            let ready = self.watchers.iter().any(Task::is_ready);
            let busy = ready || self.clients.iter().any(|task| !task.is_done());
            if !busy && self.env.is_quiet() && committer == Progress::Idle && applier == Progress::Idle {
                return Ok(());
            }
        }
        Err("it does not come to rest".to_owned())
    }
}

/// After whatever has happened, the store goes on; if it is full, as soon as something is deleted.
async fn probe(env: Rc<Env>) {
    for _ in 0..50 {
        match env.commit(Txn::new().put("k/00", "alive")).await {
            Ok(_) => return,
            Err(Error::DiskFull) => {}
            Err(error) => return env.violated(format!("the store does not go on: {error}")),
        }
        for prefix in ["k/", "s/", "m/"] {
            let Ok(page) = env.range(&Range::prefix(prefix).rows(200)).await else { continue };
            let txn = page.entries.iter().fold(Txn::new(), |txn, entry| txn.delete(entry.key.clone()));
            if let Err(error) = env.commit_unmarked(txn).await {
                return env.violated(format!("what only deletes was refused: {error}"));
            }
        }
    }
    env.violated("the store does not go on after all was deleted");
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
