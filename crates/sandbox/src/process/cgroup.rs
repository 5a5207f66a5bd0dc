//! Control groups: memory, processes and processor weight of each sandbox, in v2 or v1; and freezing, in v2 alone: what
//! the freezer of v1 holds cannot be killed, and would outlive a platform that was.
//!
//! All groups of one spawner lie in one folder `dunlin-<boot id>-<pid>-<start time>` of each hierarchy, which it makes
//! at start and removes at the end; folders of spawners that no longer live are removed at start.
//!
//! Invariants
//!   1. Nothing outside that folder is written, but the `cgroup.subtree_control` above it in v2.
//!   2. A limit that is written has been accepted by the kernel; what is not there is reported, not assumed.
//!
//! Start reading at `Groups::find`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::watch::Shares;

/// The kinds of limits that a group gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Powers {
    pub(crate) memory: bool,
    pub(crate) tasks: bool,
    pub(crate) cpu: bool,
}

/// The spawner's folder in one hierarchy.
#[derive(Debug)]
struct Hierarchy {
    /// Parent of the folder: an absolute path, used at start only.
    path: PathBuf,
    folder: OwnedFd,
    powers: Powers,
}

/// All hierarchies that are used.
#[derive(Debug)]
pub(crate) struct Groups {
    unified: bool,
    hierarchies: Vec<Hierarchy>,
    /// Beside hierarchies of v1: one of v2, for freezing alone. A sandbox has a group in it only from when it is first to
    /// be frozen, as to move a process costs an RCU grace period.
    freezers: Option<Hierarchy>,
    name: String,
}

/// One sandbox's groups. Their folders are opened by name when something is wanted of them: descriptors that are kept would
/// be copied into, and closed in, the first process of every other sandbox.
#[derive(Debug)]
pub(crate) struct Group {
    name: String,
    /// What a process can be cloned into (v2).
    target: Option<OwnedFd>,
    limits: Limits,
    /// Its group among `Groups::freezers`.
    freezer: Option<OwnedFd>,
}

impl Group {
    /// The folder that a process may be cloned into (v2).
    pub(crate) fn clone_target(&self) -> Option<i32> {
        self.target.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// One of its files, below the spawner's folder of a hierarchy.
    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }
}

/// A file to enter a group by.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) file: OwnedFd,
    /// Whether the group holds a wall.
    pub(crate) must: bool,
}

/// What a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    /// What `/tmp` may hold beside it, where that is memory.
    pub(crate) tmp_bytes: u64,
    pub(crate) tasks: u64,
}

/// What a group counted when it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) cpu_ns: u64,
    pub(crate) peak_bytes: u64,
    pub(crate) out_of_memory: bool,
}

impl Counts {
    /// The larger of each: a watcher and a group may both have counted.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.max(other.cpu_ns),
            peak_bytes: self.peak_bytes.max(other.peak_bytes),
            out_of_memory: self.out_of_memory | other.out_of_memory,
        }
    }
}

const PREFIX: &str = "dunlin-";
const FREEZE: &str = "cgroup.freeze";
/// How often the processes of a sandbox are looked at until all of them are in its freezer.
const MOVE_ROUNDS: usize = 64;

/// One line of `/proc/self/mountinfo` about a cgroup hierarchy.
struct Mounted {
    root: String,
    point: PathBuf,
    unified: bool,
    controllers: Vec<String>,
}

fn mounted(text: &str) -> Vec<Mounted> {
    text.lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut front = front.split(' ').skip(3);
            let (root, point) = (front.next()?, front.next()?);
            let mut back = back.split(' ');
            let (kind, _, options) = (back.next()?, back.next()?, back.next()?);
            (kind == "cgroup" || kind == "cgroup2").then(|| Mounted {
                root: root.to_owned(),
                point: PathBuf::from(point),
                unified: kind == "cgroup2",
                controllers: options.split(',').map(str::to_owned).collect(),
            })
        })
        .collect()
}

/// The caller's folder in a mounted hierarchy, from `/proc/self/cgroup`.
fn own_folder(mount: &Mounted, membership: &str) -> Option<PathBuf> {
    let path = membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = if mount.unified {
            number == "0" && controllers.is_empty()
        } else {
            controllers.split(',').any(|c| !c.is_empty() && mount.controllers.iter().any(|m| m == c))
        };
        ours.then_some(path)
    })?;
    // By whole components: `/box` is no parent of `/boxes`. A folder above the namespace's root begins with `..`; joined
    // to the mount point it would leave the hierarchy.
    let below = Path::new(path).strip_prefix(&mount.root).ok()?;
    below.components().all(|part| matches!(part, Component::Normal(_))).then(|| mount.point.join(below))
}

fn words(path: &Path) -> Vec<String> {
    fs::read_to_string(path).map(|text| text.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

/// Start time of a living process in clock ticks since boot: with the pid, it names a process for ever.
fn start_time(pid: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = stat.rsplit_once(") ")?.1;
    // A dead process that nobody has reaped holds nothing.
    (!rest.starts_with(['Z', 'X'])).then(|| rest.split(' ').nth(19).map(str::to_owned)).flatten()
}

impl Groups {
    /// Finds what this host gives the caller and makes the folder there. `server` is the process above the spawner:
    /// in a delegated v2 folder both must move into a leaf before the folder may have limits below it.
    pub(crate) fn find(boot_id: &str, server: i32) -> Self {
        let pid = std::process::id().to_string();
        let name = format!("{PREFIX}{boot_id}-{pid}-{}", start_time(&pid).unwrap_or_default());
        let mounts = mounted(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for mount in mounts.iter().filter(|mount| mount.unified) {
            if let Some(hierarchy) = Self::unified(mount, &membership, &name, server) {
                return Self { unified: true, hierarchies: vec![hierarchy], freezers: None, name };
            }
        }
        let freezers = mounts.iter().filter(|mount| mount.unified).find_map(|mount| {
            let made = Self::folder(own_folder(mount, &membership)?, &name, Powers::default())?;
            can_freeze(&made.folder).then_some(made)
        });
        let hierarchies = mounts
            .iter()
            .filter(|mount| !mount.unified)
            .filter_map(|mount| Self::legacy(mount, &membership, &name))
            .collect();
        Self { unified: false, hierarchies, freezers, name }
    }

    fn unified(mount: &Mounted, membership: &str, name: &str, server: i32) -> Option<Hierarchy> {
        let own = own_folder(mount, membership)?;
        let candidates = [own.clone(), mount.point.clone()];
        for parent in candidates {
            if !words(&parent.join("cgroup.controllers")).iter().any(|c| c == "memory") {
                continue;
            }
            // A folder with processes in it cannot give limits to folders below. The root of all can: it has no type.
            if parent.join("cgroup.type").exists() && !leave(&parent, server) {
                continue;
            }
            remove_stale(&parent);
            let wanted = ["memory", "pids", "cpu"];
            for controller in wanted {
                let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            let path = parent.join(name);
            if fs::create_dir(&path).is_err() {
                continue;
            }
            for controller in wanted {
                let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            let enabled = words(&path.join("cgroup.subtree_control"));
            let has = |controller: &str| enabled.iter().any(|c| c == controller);
            let powers = Powers { memory: has("memory"), tasks: has("pids"), cpu: has("cpu") };
            if !powers.memory {
                let _ = fs::remove_dir(&path);
                continue;
            }
            let folder = open_folder(&path)?;
            return Some(Hierarchy { path: parent, folder, powers });
        }
        None
    }

    fn legacy(mount: &Mounted, membership: &str, name: &str) -> Option<Hierarchy> {
        let has = |controller: &str| mount.controllers.iter().any(|c| c == controller);
        let powers = Powers { memory: has("memory"), tasks: has("pids"), cpu: has("cpu") };
        let accounting = has("cpuacct");
        if powers == Powers::default() && !accounting {
            return None;
        }
        Self::folder(own_folder(mount, membership)?, name, powers)
    }

    /// Makes the folder below `parent`.
    fn folder(parent: PathBuf, name: &str, powers: Powers) -> Option<Hierarchy> {
        remove_stale(&parent);
        let path = parent.join(name);
        fs::create_dir(&path).ok()?;
        let folder = open_folder(&path)?;
        if powers.memory {
            // The folders below take it over.
            let _ = write_at(&folder, "memory.swappiness", "0");
        }
        Some(Hierarchy { path: parent, folder, powers })
    }

    /// Whether sandboxes can be frozen.
    pub(crate) fn freezes(&self) -> bool {
        let unified = self.hierarchies.first().filter(|_| self.unified);
        unified.or(self.freezers.as_ref()).is_some_and(|hierarchy| can_freeze(&hierarchy.folder))
    }

    /// The file that freezes a sandbox: "1" stops all its processes, "0" lets them go on. `first` is its first process,
    /// which goes on in a mixed setup, where it can be told from the others.
    pub(crate) fn freezer(&self, group: &mut Group, first: i32) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        if self.unified {
            let hierarchy = self.hierarchies.first().ok_or(io::ErrorKind::Unsupported)?;
            return Ok(rustix::fs::openat(&hierarchy.folder, group.file(FREEZE), flags, Mode::empty())?);
        }
        if group.freezer.is_none() {
            let freezers = self.freezers.as_ref().ok_or(io::ErrorKind::Unsupported)?;
            make_folder(freezers, &group.name)?;
            group.freezer = Some(open_group(freezers, &group.name)?);
        }
        let folder = group.freezer.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        self.move_all(group, folder, first)?;
        Ok(rustix::fs::openat(folder, FREEZE, flags, Mode::empty())?)
    }

    /// Moves every process but the first into a folder. What they fork meanwhile is seen in another round, or was forked
    /// there already.
    fn move_all(&self, group: &Group, folder: &OwnedFd, first: i32) -> io::Result<()> {
        let hierarchy = self.hierarchies.first().ok_or(io::ErrorKind::Unsupported)?;
        let (from, members) = (&hierarchy.folder, group.file("cgroup.procs"));
        // One that is ending is accepted and stays where it is; it forks no more.
        let mut tried = vec![first];
        for _ in 0..MOVE_ROUNDS {
            // In this order: who was forked in the folder is found in it. Those who are there go on forking, so that
            // new ones alone are no reason for another round.
            let held = processes(from, &members)?;
            let there = processes(folder, "cgroup.procs")?;
            let left: Vec<i32> = held.into_iter().filter(|pid| !tried.contains(pid) && !there.contains(pid)).collect();
            if left.is_empty() {
                return Ok(());
            }
            for pid in left {
                // One that has ended is refused. Whatever else is in the way of one may be gone in the next round.
                match write_at(folder, "cgroup.procs", &pid.to_string()) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {}
                    _ => tried.push(pid),
                }
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Which limits stand.
    pub(crate) fn powers(&self) -> Powers {
        self.hierarchies.iter().fold(Powers::default(), |sum, hierarchy| Powers {
            memory: sum.memory | hierarchy.powers.memory,
            tasks: sum.tasks | hierarchy.powers.tasks,
            cpu: sum.cpu | hierarchy.powers.cpu,
        })
    }

    /// Whether this is the unified hierarchy.
    pub(crate) fn is_unified(&self) -> bool {
        self.unified
    }

    /// Makes a sandbox's groups with their limits.
    pub(crate) fn create(&self, id: u64, limits: Limits) -> io::Result<Group> {
        let mut group = Group { name: id.to_string(), target: None, limits, freezer: None };
        let made = self.hierarchies.iter().try_for_each(|hierarchy| {
            make_folder(hierarchy, &group.name)?;
            self.limit(hierarchy, &group, limits)?;
            if self.unified {
                group.target = Some(open_group(hierarchy, &group.name)?);
            }
            Ok(())
        });
        match made {
            Ok(()) => Ok(group),
            Err(error) => {
                self.remove(&group);
                Err(error)
            }
        }
    }

    /// The processes in a sandbox's groups, if a group holds them.
    pub(crate) fn members(&self, group: &Group) -> Option<Vec<i32>> {
        let text = self.hierarchies.first().and_then(|first| read_at(&first.folder, &group.file("cgroup.procs")))?;
        text.split_whitespace().map(|word| word.parse().ok()).collect()
    }

    /// Gives a sandbox's groups other limits. A memory limit below what is used is refused by v1, and makes v2 reclaim
    /// or kill.
    pub(crate) fn set_limits(&self, group: &mut Group, limits: Limits) -> io::Result<()> {
        if group.limits == limits {
            return Ok(());
        }
        self.hierarchies.iter().try_for_each(|hierarchy| self.limit(hierarchy, group, limits))?;
        group.limits = limits;
        Ok(())
    }

    /// Holds a sandbox to the processor time of its memory size, whether or not others want the rest.
    pub(crate) fn set_quota(&self, group: &Group, memory_bytes: u64) -> io::Result<()> {
        let hierarchy = self.hierarchies.iter().find(|hierarchy| hierarchy.powers.cpu);
        let hierarchy = hierarchy.ok_or(io::ErrorKind::Unsupported)?;
        let write = |name, value: &str| write_at(&hierarchy.folder, &group.file(name), value);
        let quota = cpu_quota_us(memory_bytes);
        if self.unified {
            write("cpu.max", &format!("{quota} {CPU_PERIOD_US}"))
        } else {
            write("cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
            write("cpu.cfs_quota_us", &quota.to_string())
        }
    }

    fn limit(&self, hierarchy: &Hierarchy, group: &Group, limits: Limits) -> io::Result<()> {
        let write = |name, value: &str| write_at(&hierarchy.folder, &group.file(name), value);
        let memory = (limits.memory_bytes + limits.tmp_bytes).to_string();
        let powers = hierarchy.powers;
        if powers.memory && self.unified {
            write("memory.max", &memory)?;
            // Absent without swap support in the kernel.
            let _ = write("memory.swap.max", "0");
            let _ = write("memory.oom.group", "1");
        } else if powers.memory {
            // With swap counted, neither limit may pass the other: downwards, as for a group that is new, this is the order;
            // upwards the first is refused until the second is written.
            let limited = write("memory.limit_in_bytes", &memory);
            let _ = write("memory.memsw.limit_in_bytes", &memory);
            limited.or_else(|_| write("memory.limit_in_bytes", &memory))?;
        }
        if powers.tasks {
            write("pids.max", &limits.tasks.to_string())?;
        }
        if powers.cpu {
            let weight = cpu_weight(limits.memory_bytes);
            if self.unified {
                write("cpu.weight", &weight.clamp(1, 10_000).to_string())?;
            } else {
                write("cpu.shares", &(weight * 1024 / 100).max(2).to_string())?;
            }
        }
        Ok(())
    }

    /// The files that a process writes "0" to in order to enter a sandbox's groups, each with whether it must. In v1 only
    /// this way spares the lock over all process groups, which costs an RCU grace period: many milliseconds under load.
    /// In v2, where nothing spares it, whoever can be cloned into the group is.
    pub(crate) fn doors(&self, group: &Group) -> io::Result<Vec<Door>> {
        let name = if self.unified { "cgroup.procs" } else { "tasks" };
        let name = group.file(name);
        self.hierarchies
            .iter()
            .map(|hierarchy| {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&hierarchy.folder, &*name, flags, Mode::empty())?;
                // A platform with real-time priority cannot enter a processor group; that share is no wall.
                Ok(Door { file, must: hierarchy.powers.memory || hierarchy.powers.tasks })
            })
            .collect()
    }

    /// Files that tell memory now, memory peak, processor time and tasks, in this order; or nothing if one is missing.
    pub(crate) fn meters(&self, group: &Group) -> Vec<OwnedFd> {
        let names: [&[&str]; 4] = if self.unified {
            [&["memory.current"], &["memory.peak", "memory.current"], &["cpu.stat"], &["pids.current"]]
        } else {
            [&["memory.usage_in_bytes"], &["memory.max_usage_in_bytes"], &["cpuacct.usage"], &["pids.current"]]
        };
        names
            .iter()
            .map(|names| names.iter().find_map(|name| self.open(group, name)))
            .collect::<Option<Vec<_>>>()
            .unwrap_or_default()
    }

    /// The file that tells how much memory a sandbox's group holds now.
    pub(crate) fn usage_file(&self, group: &Group) -> Option<OwnedFd> {
        self.open(group, if self.unified { "memory.current" } else { "memory.usage_in_bytes" })
    }

    /// Opens a file to read, in whichever hierarchy has it.
    fn open(&self, group: &Group, name: &str) -> Option<OwnedFd> {
        let (name, flags) = (group.file(name), OFlags::RDONLY | OFlags::CLOEXEC);
        let mut hierarchies = self.hierarchies.iter();
        hierarchies.find_map(|hierarchy| rustix::fs::openat(&hierarchy.folder, &*name, flags, Mode::empty()).ok())
    }

    fn read(&self, group: &Group, name: &str) -> Option<String> {
        let name = group.file(name);
        self.hierarchies.iter().find_map(|hierarchy| read_at(&hierarchy.folder, &name))
    }

    /// What a sandbox's group holds that the kernel cannot let go of.
    pub(crate) fn shares(&self, group: &Group) -> Shares {
        let text = self.read(group, "memory.stat").unwrap_or_default();
        let (anonymous, shared) = if self.unified { ("anon", "shmem") } else { ("total_rss", "total_shmem") };
        let field = |key| keyed(&text, key).unwrap_or(0);
        Shares { anonymous: field(anonymous), shared: field(shared) }
    }

    /// What was used, read before removal.
    pub(crate) fn counts(&self, group: &Group) -> Counts {
        let read = |name: &str| self.read(group, name);
        let number = |name: &str| read(name).and_then(|text| text.trim().parse::<u64>().ok());
        if self.unified {
            Counts {
                cpu_ns: read("cpu.stat").and_then(|text| keyed(&text, "usage_usec")).unwrap_or(0) * 1000,
                peak_bytes: number("memory.peak").unwrap_or(0),
                out_of_memory: read("memory.events").and_then(|text| keyed(&text, "oom_kill")).unwrap_or(0) > 0,
            }
        } else {
            Counts {
                cpu_ns: number("cpuacct.usage").unwrap_or(0),
                peak_bytes: number("memory.max_usage_in_bytes").unwrap_or(0),
                out_of_memory: read("memory.oom_control").and_then(|text| keyed(&text, "oom_kill")).unwrap_or(0) > 0,
            }
        }
    }

    /// Removes a sandbox's groups. False while the kernel still holds one; try again later.
    pub(crate) fn remove(&self, group: &Group) -> bool {
        let freezers = self.freezers.iter().filter(|_| group.freezer.is_some());
        self.hierarchies.iter().chain(freezers).fold(true, |gone, hierarchy| {
            let removed = rustix::fs::unlinkat(&hierarchy.folder, &group.name, rustix::fs::AtFlags::REMOVEDIR);
            gone & matches!(removed, Ok(()) | Err(rustix::io::Errno::NOENT))
        })
    }

    /// Opens the parents, for `Remains`, while their paths can still be reached.
    pub(crate) fn remains(&self) -> Remains {
        let all = self.hierarchies.iter().chain(&self.freezers);
        let parents = all.filter_map(|hierarchy| open_folder(&hierarchy.path)).collect();
        Remains { parents, name: self.name.clone() }
    }
}

/// The spawner's own folders, removed at the very end.
#[derive(Debug)]
pub(crate) struct Remains {
    parents: Vec<OwnedFd>,
    name: String,
}

impl Remains {
    /// Removes the folders. False while one is still held.
    pub(crate) fn remove(&self) -> bool {
        self.parents.iter().fold(true, |gone, parent| {
            let removed = rustix::fs::unlinkat(parent, &self.name, rustix::fs::AtFlags::REMOVEDIR);
            gone & matches!(removed, Ok(()) | Err(rustix::io::Errno::NOENT))
        })
    }
}

/// Moves the caller and the server out of a delegated folder into a leaf below it, if nobody else is in it.
fn leave(own: &Path, server: i32) -> bool {
    let ours = [std::process::id().to_string(), server.to_string()];
    let inside = words(&own.join("cgroup.procs"));
    if inside.iter().any(|pid| !ours.contains(pid)) {
        return false;
    }
    let leaf = own.join(format!("{PREFIX}platform"));
    let _ = fs::create_dir(&leaf);
    ours.iter().all(|pid| fs::write(leaf.join("cgroup.procs"), pid).is_ok())
}

/// Removes folders of spawners that no longer live.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let mut parts = rest.rsplitn(3, '-');
        let (Some(started), Some(pid), Some(_)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let numeric = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !numeric(started) || !numeric(pid) || start_time(pid).as_deref() == Some(started) {
            continue;
        }
        for inner in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::remove_dir(inner.path());
            }
        }
        let _ = fs::remove_dir(entry.path());
    }
}

/// Period of the processor quota: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// Microseconds of one processor in each period that a memory size gives: 1,769 MiB make one processor in Lambda. The
/// kernel takes no less than one millisecond.
fn cpu_quota_us(memory_bytes: u64) -> u64 {
    ((memory_bytes >> 20) * CPU_PERIOD_US / 1769).max(1_000)
}

/// Processor weight of a memory size: 1,769 MiB make one processor in Lambda, 100 is the kernel's default weight.
fn cpu_weight(memory_bytes: u64) -> u64 {
    ((memory_bytes >> 20) * 100 / 1769).max(1)
}

fn can_freeze(folder: &OwnedFd) -> bool {
    rustix::fs::accessat(folder, FREEZE, rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::empty()).is_ok()
}

/// Makes a sandbox's folder in a hierarchy.
fn make_folder(hierarchy: &Hierarchy, name: &str) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(&hierarchy.folder, name, Mode::from_raw_mode(0o755))?)
}

fn open_group(hierarchy: &Hierarchy, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&hierarchy.folder, name, flags, Mode::empty())?)
}

/// The processes in a group.
fn processes(folder: &OwnedFd, name: &str) -> io::Result<Vec<i32>> {
    let file = rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

fn open_folder(path: &Path) -> Option<OwnedFd> {
    File::open(path).ok().map(OwnedFd::from)
}

fn write_at(folder: &OwnedFd, name: &str, value: &str) -> io::Result<()> {
    let file = rustix::fs::openat(folder, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

fn read_at(folder: &OwnedFd, name: &str) -> Option<String> {
    let file = rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // The longest is v2's memory.stat, of some three thousand bytes.
    let mut buffer = [0u8; 8192];
    let length = rustix::io::read(&file, &mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The number after `key` in lines of `key number`.
pub(crate) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The number in a file of a control group.
pub(crate) fn read_meter(file: &OwnedFd) -> u64 {
    let mut buffer = [0u8; 512];
    let length = rustix::io::pread(file, &mut buffer, 0).unwrap_or(0);
    let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
    // A plain number, but for v2's processor time, which is one line of several, in microseconds.
    text.trim().parse::<u64>().ok().or_else(|| keyed(text, "usage_usec").map(|us| us * 1000)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_folder_is_found_below_a_container_root() {
        let text = "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n\
                    31 20 0:27 /docker/abc /cg/memory rw - cgroup cgroup rw,memory\n\
                    32 20 0:28 / /proc rw - proc proc rw\n";
        let membership = "5:memory:/docker/abc/inner\n0::/user.slice/x.service\n";
        let mounts = mounted(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(own_folder(&mounts[0], membership), Some("/sys/fs/cgroup/user.slice/x.service".into()));
        assert_eq!(own_folder(&mounts[1], membership), Some("/cg/memory/inner".into()));
    }

    #[test]
    fn a_folder_outside_the_mount_is_not_found() {
        let mounts = mounted(
            "30 20 0:26 /box /sys/fs/cgroup rw - cgroup2 cgroup rw\n31 20 0:27 / /cg/memory rw - cgroup cgroup rw,memory\n",
        );
        assert_eq!(own_folder(&mounts[0], "0::/boxes/x\n"), None);
        assert_eq!(own_folder(&mounts[0], "0::/box\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(own_folder(&mounts[1], "5:memory:/../other\n"), None);
        assert_eq!(own_folder(&mounts[1], "5:memory:/\n"), Some("/cg/memory".into()));
    }

    #[test]
    fn counters_are_read_by_whole_keys() {
        assert_eq!(keyed("oom 3\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(keyed("oom_kill_disable 0\n", "oom_kill"), None);
    }

    #[test]
    fn weight_follows_memory() {
        assert_eq!(cpu_weight(1769 << 20), 100);
        assert_eq!(cpu_weight(128 << 20), 7);
        assert_eq!(cpu_weight(1 << 20), 1);
        assert_eq!(cpu_quota_us(1769 << 20), CPU_PERIOD_US);
        assert_eq!(cpu_quota_us(10_240 << 20), 578_858);
        assert_eq!(cpu_quota_us(128 << 20), 7_235);
        assert_eq!(cpu_quota_us(1 << 20), 1_000);
    }
}
