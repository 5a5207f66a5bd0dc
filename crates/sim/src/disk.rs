//! The disk of the log, in memory.
//!
//! It knows of each file what a reader sees, what is on disk, and the writes in between. A cut of the power decides of
//! each sector of each of these whether it got there, so they are lost, reordered and torn; at the 512 bytes of a disk
//! or the 4,096 of a page. A sync that fails leaves some sectors on disk and forgets the others, although readers still
//! see them: so does the kernel, which then takes the pages for clean. A failed write has written a part.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use store::embedded::disk::{Disk, DiskFile};

use crate::dice::Dice;

/// A file as readers see it, as it is on disk, and the steps from the one to the other.
#[derive(Debug, Default, Clone)]
struct Content {
    seen: Vec<u8>,
    on_disk: Vec<u8>,
    unsynced: Vec<Unsynced>,
    /// Whether the name is on disk.
    named: bool,
}

#[derive(Debug, Clone)]
enum Unsynced {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

/// What is to happen at an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// The power goes.
    Cut,
    /// The operation fails.
    Error,
}

#[derive(Debug)]
struct Inner {
    files: BTreeMap<String, Content>,
    dice: Dice,
    /// What happens after so many more operations.
    strike: Option<(u64, Strike)>,
    /// What has happened.
    struck: Option<Strike>,
    /// How many more bytes there are room for; none: enough.
    room: Option<u64>,
    /// Whether syncs do nothing.
    lies: bool,
}

/// The disk; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    name: String,
}

impl SimDisk {
    pub(crate) fn new(dice: Dice, lies: bool) -> Self {
        let inner = Inner { files: BTreeMap::new(), dice, strike: None, struck: None, room: None, lies };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Something happens at the operation after `operations` more.
    pub(crate) fn arm(&self, operations: u64, strike: Strike) {
        self.0.lock().strike = Some((operations, strike));
    }

    /// What has happened since the disk was last healed.
    pub(crate) fn struck(&self) -> Option<Strike> {
        self.0.lock().struck
    }

    /// Makes it work again.
    pub(crate) fn heal(&self) {
        let mut inner = self.0.lock();
        (inner.strike, inner.struck, inner.room) = (None, None, None);
    }

    pub(crate) fn set_room(&self, room: Option<u64>) {
        self.0.lock().room = room;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.lock().room.is_some()
    }

    /// Loses the power: what is not on disk is there or not, sector by sector.
    pub(crate) fn cut(&self) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let fate = Fate::new(&inner.dice);
        let dice = inner.dice.clone();
        inner.files.retain(|_, content| {
            content.settle(&fate, &dice);
            content.seen = content.on_disk.clone();
            content.named || dice.chance(50)
        });
    }
}

/// What becomes of unsynced sectors.
pub(crate) struct Fate {
    sector: usize,
    /// How many of a hundred get to the disk.
    kept: u64,
}

impl Fate {
    pub(crate) fn new(dice: &Dice) -> Self {
        Self { sector: *dice.pick(&[512, 4_096]), kept: *dice.pick(&[0, 50, 50, 90, 100]) }
    }

    /// Writes the sectors of `bytes` that get there to `target`, which is long enough.
    pub(crate) fn write(&self, dice: &Dice, target: &mut [u8], at: usize, bytes: &[u8]) {
        let mut from = 0;
        while from < bytes.len() {
            let to = bytes.len().min((at + from) / self.sector * self.sector + self.sector - at);
            if dice.chance(self.kept) {
                target[at + from..at + to].copy_from_slice(&bytes[from..to]);
            }
            from = to;
        }
    }
}

impl Content {
    /// Some of the unsynced get to the disk, the others never will.
    fn settle(&mut self, fate: &Fate, dice: &Dice) {
        for unsynced in std::mem::take(&mut self.unsynced) {
            match unsynced {
                Unsynced::Length(length) if dice.chance(fate.kept) => self.lengthen(length),
                Unsynced::Length(_) => {}
                Unsynced::Bytes(at, bytes) => {
                    // A file that is too short loses what lies beyond its end.
                    let kept = bytes.len().min(self.on_disk.len().saturating_sub(at));
                    if kept > 0 {
                        fate.write(dice, &mut self.on_disk, at, &bytes[..kept]);
                    }
                }
            }
        }
    }

    fn lengthen(&mut self, length: usize) {
        let length = length.max(self.on_disk.len());
        self.on_disk.resize(length, 0);
    }

    fn sync(&mut self) {
        for unsynced in std::mem::take(&mut self.unsynced) {
            match unsynced {
                Unsynced::Length(length) => self.lengthen(length),
                Unsynced::Bytes(at, bytes) => {
                    self.lengthen(at + bytes.len());
                    self.on_disk[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
    }

    fn write(&mut self, bytes: &[u8], at: usize) {
        if self.seen.len() < at + bytes.len() {
            self.seen.resize(at + bytes.len(), 0);
        }
        self.seen[at..at + bytes.len()].copy_from_slice(bytes);
        self.unsynced.push(Unsynced::Bytes(at, bytes.to_vec()));
    }
}

impl Inner {
    /// Counts an operation; whether it is struck.
    fn strike(&mut self) -> Option<Strike> {
        if self.struck == Some(Strike::Cut) {
            return self.struck;
        }
        match &mut self.strike {
            Some((0, strike)) => {
                self.struck = Some(*strike);
                self.strike = None;
                self.struck
            }
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }

    /// For operations that do all or nothing.
    fn check(&mut self) -> io::Result<()> {
        self.strike().map_or(Ok(()), |_| Err(failed()))
    }

    fn content(&mut self, name: &str) -> io::Result<&mut Content> {
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&mut self, name: &str, bytes: &[u8], at: u64) -> io::Result<()> {
        // The power was gone before.
        if self.struck == Some(Strike::Cut) {
            return Err(failed());
        }
        let struck = self.strike();
        let written = if struck.is_some() { self.dice.index(bytes.len() + 1) } else { bytes.len() };
        let at = usize::try_from(at).map_err(|_| failed())?;
        self.content(name)?.write(&bytes[..written], at);
        struck.map_or(Ok(()), |_| Err(failed()))
    }

    /// Syncs what was written within `part`.
    fn sync(&mut self, name: &str, part: &Range<usize>) -> io::Result<()> {
        if self.struck == Some(Strike::Cut) {
            return Err(failed());
        }
        let (struck, dice, lies) = (self.strike(), self.dice.clone(), self.lies);
        // It may be all on disk although nobody was told.
        let done = struck.is_none() || dice.chance(30);
        let content = self.content(name)?;
        if !lies {
            let within = |unsynced: &Unsynced| match unsynced {
                Unsynced::Length(_) => true,
                Unsynced::Bytes(at, bytes) => *at < part.end && at + bytes.len() > part.start,
            };
            let (own, others) = std::mem::take(&mut content.unsynced).into_iter().partition(within);
            content.unsynced = own;
            if done {
                content.sync();
            } else if struck == Some(Strike::Error) {
                content.settle(&Fate::new(&dice), &dice);
            }
            content.unsynced.extend::<Vec<_>>(others);
        }
        struck.map_or(Ok(()), |_| Err(failed()))
    }
}

fn failed() -> io::Error {
    // EIO.
    io::Error::from_raw_os_error(5)
}

impl Disk for SimDisk {
    fn exists(&self, name: &str) -> io::Result<bool> {
        let mut inner = self.0.lock();
        inner.check()?;
        Ok(inner.files.contains_key(name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.0.lock();
        inner.check()?;
        inner.files.entry(name.to_owned()).or_default();
        Ok(Arc::new(SimFile { disk: self.clone(), name: name.to_owned() }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.check()?;
        inner.files.remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.check()?;
        inner.files.values_mut().for_each(|content| content.named = true);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut inner = self.0.lock();
        inner.check()?;
        Ok(inner.room.unwrap_or(1 << 40))
    }
}

impl DiskFile for SimFile {
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.check()?;
        let room = inner.room.unwrap_or(u64::MAX);
        let content = inner.content(&self.name)?;
        let more = bytes.saturating_sub(content.seen.len() as u64);
        if more > room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if more > 0 {
            let length = content.seen.len() + usize::try_from(more).map_err(|_| failed())?;
            content.seen.resize(length, 0);
            content.unsynced.push(Unsynced::Length(length));
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.check()?;
        let at = usize::try_from(offset).map_err(|_| failed())?;
        let content = inner.content(&self.name)?;
        let Some(found) = content.seen.get(at..at + buffer.len()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        buffer.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.0.lock().write(&self.name, bytes, offset)
    }

    fn write_synced_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.disk.0.lock();
        inner.write(&self.name, bytes, offset)?;
        let at = usize::try_from(offset).map_err(|_| failed())?;
        // That earlier ones are on disk, too, would be luck.
        inner.sync(&self.name, &(at..at + bytes.len()))
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.0.lock().sync(&self.name, &(0..usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &SimDisk) -> Arc<dyn DiskFile> {
        let file = disk.open("log").unwrap();
        file.reserve(8_192).unwrap();
        file.sync().unwrap();
        disk.sync_names().unwrap();
        file
    }

    fn first(disk: &SimDisk) -> u8 {
        let mut byte = [0];
        disk.open("log").unwrap().read_at(&mut byte, 0).unwrap();
        byte[0]
    }

    #[test]
    fn a_cut_keeps_what_is_synced_and_loses_or_keeps_the_rest() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..100 {
            let disk = SimDisk::new(Dice::new(seed), false);
            file(&disk).write_synced_at(&[1], 0).unwrap();
            file(&disk).write_at(&[2], 0).unwrap();
            assert_eq!(first(&disk), 2);
            disk.cut();
            match first(&disk) {
                1 => lost += 1,
                2 => kept += 1,
                other => panic!("{other}"),
            }
        }
        assert!(kept > 10 && lost > 10, "{kept} {lost}");
    }

    #[test]
    fn after_a_sync_that_failed_a_later_one_brings_nothing_back() {
        let mut lost = 0;
        for seed in 0..100 {
            let disk = SimDisk::new(Dice::new(seed), false);
            let file = file(&disk);
            file.write_at(&[2], 0).unwrap();
            disk.arm(0, Strike::Error);
            file.sync().unwrap_err();
            file.sync().unwrap();
            assert_eq!(first(&disk), 2, "readers see what the disk has not");
            disk.cut();
            lost += u64::from(first(&disk) == 0);
        }
        assert!(lost > 10, "{lost}");
    }

    #[test]
    fn nothing_works_once_the_power_is_gone() {
        let disk = SimDisk::new(Dice::new(1), false);
        let file = file(&disk);
        disk.arm(1, Strike::Cut);
        file.write_at(&[1], 0).unwrap();
        file.sync().unwrap_err();
        file.write_at(&[3], 0).unwrap_err();
        assert!(disk.exists("log").is_err());
        assert_eq!(disk.struck(), Some(Strike::Cut));
    }
}
