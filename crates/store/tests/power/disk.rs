//! A disk as the recorded calls leave it: what a loss of power cannot touch, and what it may have and may not have.
//!
//! The rules are those that POSIX gives, and no kinder:
//!   - a write is safe when a sync of its file, begun after the write had ended, has ended; or as a synced write itself;
//!   - until then each of its pages (or sectors) is there or not, whatever became of the others;
//!   - the length of a file is one of those that it had since the last sync;
//!   - a name is made, moved or taken away safely when a sync of its folder, begun after it, has ended.
//!
//! Of several writes to a page the disk has what the first k of them made of it: the page cache holds no older ones.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use base::Random;

use crate::trace::{Call, Step, Trace};

const PAGE: u64 = 4_096;
const SECTOR: u64 = 512;

/// Which syncs a lying disk does not do: told what and where.
pub type Lie = fn(&Call) -> bool;

/// An honest disk.
pub fn honest(_: &Call) -> bool {
    false
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(usize),
}

#[derive(Debug, Default)]
struct Inode {
    safe: Vec<u8>,
    pending: Vec<Pending>,
}

/// A change that is not safe yet: of which call, and whether that has ended.
#[derive(Debug)]
struct Pending {
    call: usize,
    ended: bool,
    change: Change,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Write { offset: u64, length: u64 },
    Truncate(u64),
    Allocate(u64),
}

#[derive(Debug)]
enum Naming {
    Set { path: String, node: Node },
    Unset { path: String },
    Move { from: String, to: String, node: Node },
}

impl Naming {
    /// The folder that has to be synced.
    fn folder(&self) -> &str {
        let (Self::Set { path, .. } | Self::Unset { path } | Self::Move { to: path, .. }) = self;
        path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Set { path, node } => drop(names.insert(path.clone(), *node)),
            Self::Unset { path } => drop(names.remove(path)),
            Self::Move { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// The disk at a step of the record.
pub struct Disk<'a> {
    trace: &'a Trace,
    lie: Lie,
    inodes: Vec<Inode>,
    /// As the machine sees them.
    names: BTreeMap<String, Node>,
    safe_names: BTreeMap<String, Node>,
    /// In order, numbered.
    pending_names: Vec<(usize, Naming)>,
    namings: usize,
    /// Where the next plain write to a file goes.
    positions: HashMap<String, u64>,
    /// By running sync: of a file the changes that had ended when it began, of a folder the number of namings.
    syncs: HashMap<usize, (Vec<usize>, usize)>,
}

impl<'a> Disk<'a> {
    pub fn new(trace: &'a Trace, lie: Lie) -> Self {
        let names = BTreeMap::from([(String::new(), Node::Folder)]);
        Self {
            trace,
            lie,
            inodes: Vec::new(),
            safe_names: names.clone(),
            names,
            pending_names: Vec::new(),
            namings: 0,
            positions: HashMap::new(),
            syncs: HashMap::new(),
        }
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Start => {
                // What a dead process was in the midst of is over: what it wrote lies in the page cache.
                self.inodes.iter_mut().flat_map(|inode| &mut inode.pending).for_each(|pending| pending.ended = true);
                self.syncs.clear();
            }
            Step::Begin(call) => self.begin(call),
            Step::End(call, result) => self.end(call, result),
        }
    }

    fn file(&self, path: &str) -> Option<usize> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Some(*inode),
            _ => None,
        }
    }

    fn begin(&mut self, call: usize) {
        let of = &self.trace.calls[call];
        let inode = self.file(of.path());
        let change = match (of, inode) {
            (Call::Write { path, offset, data, .. }, Some(_)) => {
                let length = data.len() as u64;
                let offset = offset.unwrap_or_else(|| {
                    let position = self.positions.entry(path.clone()).or_default();
                    *position += length;
                    *position - length
                });
                Change::Write { offset, length }
            }
            (Call::Truncate { length, .. }, Some(_)) => Change::Truncate(*length),
            (Call::Allocate { length, .. }, Some(_)) => Change::Allocate(*length),
            (Call::Sync { .. }, _) => {
                let pending = inode.map(|inode| &self.inodes[inode].pending[..]).unwrap_or_default();
                let ended = pending.iter().filter(|pending| pending.ended).map(|pending| pending.call).collect();
                self.syncs.insert(call, (ended, self.namings));
                return;
            }
            _ => return,
        };
        self.inodes[inode.unwrap()].pending.push(Pending { call, ended: false, change });
    }

    fn end(&mut self, call: usize, result: Option<u64>) {
        let of = &self.trace.calls[call];
        let inode = self.file(of.path());
        match (of, result) {
            (Call::Write { .. } | Call::Truncate { .. } | Call::Allocate { .. }, _) => {
                let Some(inode) = inode else { return };
                self.changed(inode, call, result);
            }
            (_, None) => drop(self.syncs.remove(&call)),
            (Call::Open { path, create, empty }, _) => {
                self.positions.insert(path.clone(), 0);
                if let Some(inode) = inode.filter(|_| *empty) {
                    let change = Change::Truncate(0);
                    self.inodes[inode].pending.push(Pending { call, ended: true, change });
                }
                if *create && !self.names.contains_key(path) {
                    self.inodes.push(Inode::default());
                    let node = Node::File(self.inodes.len() - 1);
                    self.name(Naming::Set { path: path.clone(), node });
                }
            }
            (Call::Sync { path }, _) => self.synced(call, path, inode),
            (Call::Rename { from, to }, _) => {
                let node = self.names[from];
                self.name(Naming::Move { from: from.clone(), to: to.clone(), node });
            }
            (Call::Link { from, to }, _) => {
                let node = self.names[from];
                self.name(Naming::Set { path: to.clone(), node });
            }
            (Call::Unlink { path }, _) => self.name(Naming::Unset { path: path.clone() }),
            (Call::MakeFolder { path }, _) => self.name(Naming::Set { path: path.clone(), node: Node::Folder }),
            (Call::Say { .. }, _) => {}
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push((self.namings, naming));
        self.namings += 1;
    }

    /// A change of a file has ended.
    fn changed(&mut self, inode: usize, call: usize, result: Option<u64>) {
        let pending = &mut self.inodes[inode].pending;
        let Some(at) = pending.iter().rposition(|pending| pending.call == call) else { return };
        pending[at].ended = true;
        match (&mut pending[at].change, result) {
            (_, None) => drop(pending.remove(at)),
            (Change::Write { length, .. }, Some(written)) => *length = written,
            _ => {}
        }
        let of = &self.trace.calls[call];
        if result.is_some() && matches!(of, Call::Write { synced: true, .. }) && !(self.lie)(of) {
            self.make_safe(inode, &[call]);
        }
    }

    fn synced(&mut self, call: usize, path: &str, inode: Option<usize>) {
        let (ended, namings) = self.syncs.remove(&call).unwrap_or_default();
        if (self.lie)(&self.trace.calls[call]) {
            return;
        }
        if let Some(inode) = inode {
            self.make_safe(inode, &ended);
            return;
        }
        let safe = |(number, naming): &(usize, Naming)| *number < namings && naming.folder() == path;
        let (safe, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending_names).into_iter().partition(safe);
        safe.iter().for_each(|(_, naming)| naming.apply(&mut self.safe_names));
        self.pending_names = rest;
    }

    /// Takes changes over; with a write all those before it that it lies upon.
    fn make_safe(&mut self, inode: usize, calls: &[usize]) {
        let Inode { safe, pending } = &mut self.inodes[inode];
        for call in calls {
            let Some(at) = pending.iter().position(|pending| pending.call == *call) else { continue };
            let change = pending[at].change;
            let mut kept = Vec::new();
            for (number, earlier) in pending.drain(..=at).enumerate() {
                if number == at || earlier.ended && overlap(earlier.change, change) {
                    apply(&self.trace.calls[earlier.call], earlier.change, safe);
                } else {
                    kept.push(earlier);
                }
            }
            pending.splice(..0, kept);
        }
    }

    /// Writes the folder as a cut of the power leaves it, by chance.
    pub fn cut(&self, folder: &Path, random: &dyn Random) {
        let chance = Chance::new(random);
        let mut names = self.safe_names.clone();
        let kept = self.pending_names.iter().filter(|_| chance.keeps(random));
        kept.for_each(|(_, naming)| naming.apply(&mut names));
        for (path, node) in &names {
            let place = folder.join(path);
            // A name below a folder that is not there is not there either. Folders come before what is in them.
            if !place.parent().is_some_and(|parent| path.is_empty() || parent.is_dir()) {
                continue;
            }
            match node {
                Node::Folder => std::fs::create_dir_all(&place).unwrap(),
                // Memory that several processes share, made anew by the first that opens it.
                Node::File(_) if path.ends_with("-shm") => {}
                Node::File(inode) => std::fs::write(&place, self.left_of(&self.inodes[*inode], random)).unwrap(),
            }
        }
    }

    fn left_of(&self, inode: &Inode, random: &dyn Random) -> Vec<u8> {
        let mut content = inode.safe.clone();
        if inode.pending.is_empty() {
            return content;
        }
        let chance = Chance::new(random);
        // Which of its lengths the file has: up to which change they happened.
        let resized = if chance.keeps(random) { below(random, inode.pending.len() as u64 + 1) } else { 0 };
        let mut length = content.len() as u64;
        let mut lengths = inode.pending.iter().map(|pending| {
            length = length_after(length, pending.change);
            length
        });
        let length = resized.checked_sub(1).and_then(|at| lengths.nth(usize::try_from(at).unwrap()));
        let length = length.unwrap_or(content.len() as u64);
        let mut seen: HashMap<u64, (u64, u64)> = HashMap::new();
        for unit in inode.pending.iter().flat_map(|pending| units(pending.change, chance.unit)) {
            seen.entry(unit).or_default().1 += 1;
        }
        for (kept, writes) in seen.values_mut() {
            *kept = if chance.keeps(random) { 1 + below(random, *writes) } else { 0 };
            *writes = 0;
        }
        for (number, Pending { call, change, .. }) in inode.pending.iter().enumerate() {
            match (&self.trace.calls[*call], change) {
                (Call::Write { data, .. }, Change::Write { offset, length }) => {
                    for unit in units(*change, chance.unit) {
                        let (kept, writes) = seen.get_mut(&unit).unwrap();
                        *writes += 1;
                        if *writes <= *kept {
                            let begin = (unit * chance.unit).max(*offset);
                            let end = ((unit + 1) * chance.unit).min(offset + length);
                            put(&mut content, begin, &data[(begin - offset) as usize..(end - offset) as usize]);
                        }
                    }
                }
                (_, Change::Truncate(length)) if (number as u64) < resized => content.truncate(*length as usize),
                _ => {}
            }
        }
        content.resize(length as usize, 0);
        content
    }
}

fn overlap(one: Change, other: Change) -> bool {
    match (one, other) {
        (Change::Write { offset: a, length: b }, Change::Write { offset: c, length: d }) => {
            a / PAGE < (c + d).div_ceil(PAGE) && c / PAGE < (a + b).div_ceil(PAGE)
        }
        _ => true,
    }
}

fn units(change: Change, unit: u64) -> std::ops::Range<u64> {
    match change {
        Change::Write { offset, length } => offset / unit..(offset + length).div_ceil(unit),
        _ => 0..0,
    }
}

fn length_after(length: u64, change: Change) -> u64 {
    match change {
        Change::Write { offset, length: written } => length.max(offset + written),
        Change::Truncate(length) => length,
        Change::Allocate(least) => length.max(least),
    }
}

fn put(content: &mut Vec<u8>, at: u64, data: &[u8]) {
    let (begin, end) = (at as usize, at as usize + data.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[begin..end].copy_from_slice(data);
}

fn apply(call: &Call, change: Change, content: &mut Vec<u8>) {
    match (call, change) {
        (Call::Write { data, .. }, Change::Write { offset, length }) => put(content, offset, &data[..length as usize]),
        (_, change) => content.resize(length_after(content.len() as u64, change) as usize, 0),
    }
}

/// How likely it is, for one file or all names, that something is kept; and in what units it is decided.
struct Chance {
    of_ten: u64,
    unit: u64,
}

impl Chance {
    /// All and nothing are as likely as all that is between.
    fn new(random: &dyn Random) -> Self {
        let of_ten = [0, 10, 5, 9, 1, 10][below(random, 6) as usize];
        Self { of_ten, unit: if below(random, 3) == 0 { SECTOR } else { PAGE } }
    }

    fn keeps(&self, random: &dyn Random) -> bool {
        below(random, 10) < self.of_ten
    }
}

/// A number below `end`.
pub fn below(random: &dyn Random, end: u64) -> u64 {
    random.next_u64() % end
}
