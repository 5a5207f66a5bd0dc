//! Makes one sandbox: everything between a checked request and a child that waits behind the open gate.
//!
//! Non-purpose: what happens to a sandbox afterwards; the loop in `spawner` follows it.
//!
//! Invariants
//!   1. A request names code by digest only; it is resolved beneath the code root, without links.
//!   2. Host user ids come from `Ids` only: a request cannot name one.
//!   3. A fork's sandbox lies below its zygote's namespaces, in a user namespace that belongs to the zygote's user: so the
//!      zygote needs no capability to send a guest in, and has none.
//!
//! Start reading at `Maker::make`.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use libc::c_int;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use model::Family;

use super::cgroup::{Counts, Door, Group, Groups, Limits};
use super::child::{self, INNER_GID, INNER_UID, Plan, Program, Role};
use super::entry::{self, Entry};
use super::netns::Rules;
use super::procfs;
use super::protocol::{Digest, FilesRequest, GuestKind, LAYERS_MAX, SOCKETS_EACH, StartRequest, Step};
use super::sys::{self, At, Cloned, Fault};
use super::template::{self, GUEST_DEVICES, Stage, TRUST};
use super::tmp::{Tmp, Tmps};
use crate::contract::{CACHE_SUFFIX, COMMAND_VARIABLE};
use crate::interpreter::{Interpreter, JAVA_FLAGS, PHP_FLAGS, PYTHON_FLAGS, RUBY_FLAGS};

/// Ranges of host ids, the preferred one first: above everything that distributions and container tools give out;
/// within the 65,536 ids of a container without privilege, above its users and below `nobody`.
const ID_RANGES: [(u32, u32); 2] = [(0x7000_0000, 0x1_0000), (50_000, 10_000)];

/// Forks that one zygote makes. Each has a host id of its own, from the block that the zygote's user namespace maps.
pub(crate) const FORKS_MAX: u32 = 255;
/// Inside a zygote, the first of its forks' ids.
const FORKS_ID: u32 = 100_000;

/// Host user ids, one per sandbox, and blocks of them for zygotes with their forks.
#[derive(Debug)]
pub(crate) struct Ids {
    next: u32,
    end: u32,
    free: Vec<u32>,
    free_blocks: Vec<u32>,
}

/// A host id, or a zygote's block that begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostId {
    One(u32),
    Block(u32),
    /// Of a zygote's block, which is given back as a whole.
    Within(u32),
}

impl HostId {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::One(id) | Self::Block(id) | Self::Within(id) => id,
        }
    }
}

impl Ids {
    /// The range that the caller may hand out: all of it is mapped in the caller's own user namespace.
    pub(crate) fn find() -> Option<Self> {
        let maps =
            ["/proc/self/uid_map", "/proc/self/gid_map"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let (base, count) = ID_RANGES.into_iter().find(|range| maps.iter().all(|map| holds(map, *range)))?;
        Some(Self { next: base, end: base + count, free: Vec::new(), free_blocks: Vec::new() })
    }

    fn take(&mut self) -> Option<HostId> {
        self.free.pop().or_else(|| self.fresh(1)).map(HostId::One)
    }

    fn take_block(&mut self) -> Option<HostId> {
        self.free_blocks.pop().or_else(|| self.fresh(FORKS_MAX + 1)).map(HostId::Block)
    }

    fn fresh(&mut self, count: u32) -> Option<u32> {
        let id = self.next;
        let next = id.checked_add(count).filter(|next| *next <= self.end)?;
        self.next = next;
        Some(id)
    }

    fn give_back(&mut self, id: HostId) {
        match id {
            HostId::One(id) => self.free.push(id),
            HostId::Block(id) => self.free_blocks.push(id),
            HostId::Within(_) => {}
        }
    }
}

/// Where a zygote's forks belong.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) user: OwnedFd,
    pub(crate) processes: OwnedFd,
    /// The zygote's own host id, where it has one.
    host_id: Option<u32>,
    forks: u32,
}

impl Home {
    /// Of a zygote with these namespaces: the user's and the processes'.
    pub(crate) fn new(namespaces: Vec<OwnedFd>, made: &Made) -> Result<Self, Fault> {
        let wrong = Fault { step: Step::Zygote, errno: libc::EMFILE };
        let [user, processes] = <[OwnedFd; 2]>::try_from(namespaces).map_err(|_| wrong)?;
        Ok(Self { user, processes, host_id: made.host_id.map(HostId::number), forks: 0 })
    }

    /// The next fork's id: inside the zygote, and on the host where it has one of its own.
    fn next_id(&mut self) -> Result<(u32, Option<HostId>), Fault> {
        if self.forks == FORKS_MAX {
            return Err(Fault { step: Step::Zygote, errno: libc::EAGAIN });
        }
        let number = self.forks;
        self.forks += 1;
        Ok(match self.host_id {
            Some(host) => (FORKS_ID + number, Some(HostId::Within(host + 1 + number))),
            None => (INNER_UID, None),
        })
    }
}

/// Whether one line of an id map holds a whole range.
fn holds(map: &str, (base, count): (u32, u32)) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let (base, end) = (u64::from(base), u64::from(base) + u64::from(count));
        matches!(numbers[..], [inside, _, count] if inside <= base && inside + count >= end)
    })
}

/// How sandboxes are made on this host.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) user_namespace: bool,
    pub(crate) network: bool,
    pub(crate) tproxy: bool,
    pub(crate) landlock_abi: u32,
    pub(crate) seccomp: bool,
    /// Root started the platform: groups can be dropped, other ids mapped.
    pub(crate) privileged: bool,
    pub(crate) limit_memory: bool,
    pub(crate) limit_tasks: bool,
    /// Processor time ends at the share of the memory, also where nobody else wants it.
    pub(crate) cpu_quota: bool,
}

/// Everything that outlives one sandbox.
pub(crate) struct Maker {
    pub(crate) stage: Stage,
    pub(crate) groups: Groups,
    pub(crate) tmps: Tmps,
    pub(crate) settings: Settings,
    pub(crate) interpreters: Vec<Interpreter>,
    pub(crate) rules: Rules,
    pub(crate) seccomp: Vec<libc::sock_filter>,
    pub(crate) zygote_seccomp: Vec<libc::sock_filter>,
    /// Nothing where sandboxes share the caller's id.
    pub(crate) ids: Option<Ids>,
}

/// A child behind its gate.
pub(crate) struct Made {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) status: OwnedFd,
    pub(crate) group: Option<Group>,
    pub(crate) host_id: Option<HostId>,
    /// Of a zygote: where it takes orders.
    pub(crate) orders: Option<OwnedFd>,
    /// Of a fork: what it enters its groups by.
    pub(crate) doors: Vec<Door>,
    pub(crate) tmp: Tmp,
}

/// The descriptors of a start request.
pub(crate) struct GuestFds {
    pub(crate) channel: Option<OwnedFd>,
    pub(crate) output: OwnedFd,
    pub(crate) environment: OwnedFd,
}

/// What the child gets besides the maker's own: held until it is cloned.
struct Inputs {
    root: OwnedFd,
    /// What a root of the sandbox's own has mounted in it.
    own: Option<RootPieces>,
    code: Option<OwnedFd>,
    layers: Option<OwnedFd>,
    caches: Caches,
    files: Option<(OwnedFd, CString)>,
    fds: GuestFds,
    tmp: OwnedFd,
    cast: Cast,
    held: bool,
    token: u64,
    id: u64,
}

/// Detached trees of the caches of a sandbox's packages, by their place among `template::CACHES`.
pub(crate) type Caches = [Option<OwnedFd>; 1 + LAYERS_MAX];

/// Detached trees that a root which is not the template needs.
pub(crate) struct RootPieces {
    devices: OwnedFd,
    trust: Option<OwnedFd>,
}

/// Who will run, with what it needs.
enum Cast {
    Trial,
    Guest(Vec<Program>),
    Wrapped(Vec<Program>),
    Entrypoint(u32),
    Command(Vec<Program>),
    Zygote { programs: Vec<Program>, orders: OwnedFd, entry: OwnedFd },
    Fork,
    Vacant { bootstrap: Vec<Program>, command: Vec<Program> },
}

impl Cast {
    fn role(&self) -> Role<'_> {
        match self {
            Self::Trial => Role::Trial,
            Self::Guest(programs) => Role::Guest(programs),
            Self::Wrapped(programs) => Role::Wrapped(programs),
            Self::Entrypoint(strings) => Role::Entrypoint(*strings as usize),
            Self::Command(programs) => Role::Command(programs),
            Self::Zygote { programs, orders, entry } => {
                Role::Zygote { programs, orders: orders.as_raw_fd(), entry: entry.as_raw_fd() }
            }
            Self::Fork => Role::Fork,
            Self::Vacant { bootstrap, command } => Role::Vacant { bootstrap, command },
        }
    }
}

fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: every caller passes a descriptor that a system call has just made for it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Maker {
    /// Makes the sandbox `id`; a fork's below the `home` of its zygote. What it makes before a failure is gone again when
    /// it returns.
    pub(crate) fn make(
        &mut self,
        request: &StartRequest,
        fds: GuestFds,
        id: u64,
        home: Option<&mut Home>,
    ) -> Result<Made, Fault> {
        let mut orders = None;
        let cast = match request.guest {
            GuestKind::Fork { .. } => Cast::Fork,
            GuestKind::Zygote { .. } => {
                let (own, theirs) = seqpacket_pair(Step::Zygote)?;
                orders = Some(own);
                Cast::Zygote { programs: self.programs(request.guest)?, orders: theirs, entry: self.entry()? }
            }
            GuestKind::Interpreter { wrapped: true, .. } => Cast::Wrapped(self.programs(request.guest)?),
            GuestKind::Bootstrap | GuestKind::Interpreter { .. } | GuestKind::Compiler => {
                Cast::Guest(self.programs(request.guest)?)
            }
            GuestKind::Entrypoint { strings } => Cast::Entrypoint(strings),
            GuestKind::Vacant => Cast::Vacant {
                bootstrap: self.programs(GuestKind::Bootstrap)?,
                command: self.programs(GuestKind::Command)?,
            },
            GuestKind::Command if !self.settings.network => {
                return Err(Fault { step: Step::Sockets, errno: libc::EOPNOTSUPP });
            }
            GuestKind::Command => Cast::Command(self.programs(request.guest)?),
        };
        let mut made = self.make_cast(request, fds, id, cast, home)?;
        made.orders = orders;
        Ok(made)
    }

    /// The same with no guest: every wall is built, then the sandbox ends.
    pub(crate) fn make_trial(&mut self, request: &StartRequest, fds: GuestFds) -> Result<Made, Fault> {
        self.make_cast(request, fds, 0, Cast::Trial, None)
    }

    fn make_cast(
        &mut self,
        request: &StartRequest,
        fds: GuestFds,
        id: u64,
        cast: Cast,
        home: Option<&mut Home>,
    ) -> Result<Made, Fault> {
        let code = match &cast {
            Cast::Trial => Some(self.template_folder()?),
            _ => request.code.as_ref().map(|code| self.code_tree(code)).transpose()?,
        };
        let (root, own) = match &request.root {
            None => (owned(sys::clone_tree(libc::AT_FDCWD, c"/template").at(Step::Template)?), None),
            Some(root) => (self.own_root(root)?, Some(self.root_pieces()?)),
        };
        let layers = self.layers_tree(&request.layers)?;
        let caches = self.cache_trees(request.code.as_ref(), &request.layers)?;
        let (nest, host_id) = match home {
            Some(home) => {
                let (inner_id, host_id) = home.next_id()?;
                (Some((&*home, inner_id)), host_id)
            }
            None => (None, self.take_id(matches!(cast, Cast::Zygote { .. }))?),
        };
        let files = request.files.as_ref().map(|files| self.files_tree(files, host_id)).transpose();
        let taken = files.and_then(|files| Ok((files, self.tmps.take(request.tmp_bytes)?)));
        let (files, (tmp, mount)) = match taken {
            Ok(taken) => taken,
            Err(fault) => {
                self.give_id_back(host_id);
                return Err(fault);
            }
        };
        let (held, token) = (request.held, request.token);
        let inputs = Inputs { root, own, code, layers, caches, files, fds, tmp: mount, cast, held, token, id };
        let group = match self.group(id, request.memory_bytes, tmp.bytes_in_memory()) {
            Ok(group) => group,
            Err(fault) => {
                self.give_back(host_id, tmp);
                return Err(fault);
            }
        };
        // A child that is cloned into its group needs no door.
        let target = group.as_ref().and_then(Group::clone_target).filter(|_| nest.is_none());
        let made = self.doors(group.as_ref().filter(|_| target.is_none())).and_then(|doors| {
            let made = self.clone_child(&inputs, target, &doors, host_id, nest)?;
            // What is kept is copied into the first process of every other sandbox.
            Ok((made, if nest.is_some() { doors } else { Vec::new() }))
        });
        match made {
            Ok(((pid, pidfd, status), doors)) => {
                Ok(Made { pid, pidfd, status, group, host_id, tmp, orders: None, doors })
            }
            Err(fault) => {
                if let Some(group) = &group {
                    self.groups.remove(group);
                }
                self.give_back(host_id, tmp);
                Err(fault)
            }
        }
    }

    fn doors(&self, group: Option<&Group>) -> Result<Vec<Door>, Fault> {
        group.map_or(Ok(Vec::new()), |group| self.groups.doors(group)).at(Step::Cgroup)
    }

    /// No id left is a refusal: a sandbox must not get the platform's own for that.
    fn take_id(&mut self, block: bool) -> Result<Option<HostId>, Fault> {
        let exhausted = Fault { step: Step::IdMap, errno: libc::EAGAIN };
        let take = |ids: &mut Ids| if block { ids.take_block() } else { ids.take() };
        self.ids.as_mut().map(|ids| take(ids).ok_or(exhausted)).transpose()
    }

    /// Takes a sandbox's id and `/tmp` back once it has ended.
    pub(crate) fn give_back(&mut self, host_id: Option<HostId>, tmp: Tmp) {
        self.give_id_back(host_id);
        self.tmps.give_back(tmp);
    }

    fn give_id_back(&mut self, host_id: Option<HostId>) {
        if let (Some(ids), Some(id)) = (&mut self.ids, host_id) {
            ids.give_back(id);
        }
    }

    /// Gives a sandbox other limits: its memory, its share of the processors, its `/tmp`.
    pub(crate) fn resize(&mut self, made: &mut Made, memory_bytes: u64, tmp_bytes: u64) -> Result<(), Fault> {
        self.tmps.resize(&mut made.tmp, tmp_bytes)?;
        let limits = self.limits(memory_bytes, made.tmp.bytes_in_memory());
        made.group.as_mut().map_or(Ok(()), |group| self.groups.set_limits(group, limits)).at(Step::Assign)
    }

    /// Holds a sandbox whose start is over to its processor share, where that is wanted.
    pub(crate) fn settle(&self, made: &Made, memory_bytes: u64) -> Result<(), Fault> {
        let group = made.group.as_ref().filter(|_| self.settings.cpu_quota);
        group.map_or(Ok(()), |group| self.groups.set_quota(group, memory_bytes)).at(Step::CpuWeight)
    }

    /// The file by which a zygote's forks enter their sandboxes.
    fn entry(&self) -> Result<OwnedFd, Fault> {
        if !self.settings.user_namespace {
            return Err(Fault { step: Step::Zygote, errno: libc::EOPNOTSUPP });
        }
        let lower_priority = !self.groups.powers().cpu;
        let text = entry::program(Entry {
            landlock_abi: self.settings.landlock_abi,
            limit_tasks: self.settings.limit_tasks && !self.groups.powers().tasks,
            niceness: child::niceness(lower_priority),
            last_capability: procfs::last_capability(&self.stage.proc).at(Step::Zygote)?,
            seccomp: if self.settings.seccomp { &self.seccomp } else { &[] },
        });
        sys::memory_file(c"entry", text.as_bytes()).at(Step::Zygote)
    }

    fn programs(&self, guest: GuestKind) -> Result<Vec<Program>, Fault> {
        let refused = Fault { step: Step::Request, errno: libc::EINVAL };
        match guest {
            GuestKind::Bootstrap => Ok(vec![
                program(Step::ExecTask, c"/var/task/bootstrap".into(), Vec::new()),
                program(Step::ExecOpt, c"/opt/bootstrap".into(), Vec::new()),
            ]),
            GuestKind::Command => {
                let arguments = vec![c"-c".into(), CString::new(command_script()).map_err(|_| refused)?];
                Ok(vec![program(Step::ExecCommand, c"/bin/sh".into(), arguments)])
            }
            GuestKind::Interpreter { index, .. } | GuestKind::Zygote { index } => {
                let interpreter = self.interpreters.get(index as usize).ok_or(refused)?;
                let binary = CString::new(interpreter.binary.as_os_str().as_bytes()).map_err(|_| refused)?;
                let arguments = match (interpreter.family, guest) {
                    (Family::Node, GuestKind::Interpreter { heap_mb, .. }) => vec![
                        CString::new(format!("--max-old-space-size={heap_mb}")).map_err(|_| refused)?,
                        c"/var/runtime/nodejs/bootstrap.cjs".into(),
                    ],
                    (Family::Java, GuestKind::Interpreter { heap_mb, .. }) => java(heap_mb).ok_or(refused)?,
                    (Family::Ruby, GuestKind::Interpreter { .. }) => words(RUBY_FLAGS),
                    (Family::Php, GuestKind::Interpreter { .. }) => words(PHP_FLAGS),
                    (Family::Python, GuestKind::Interpreter { .. }) => python(c"/var/runtime/python/bootstrap.py"),
                    (Family::Python, _) => python(c"/var/runtime/python/zygote.py"),
                    _ => return Err(refused),
                };
                Ok(vec![program(Step::ExecInterpreter, binary, arguments)])
            }
            GuestKind::Compiler => {
                Ok(vec![program(Step::ExecInterpreter, template::PROGRAM.into(), vec![c"__compiler".into()])])
            }
            GuestKind::Fork { .. } | GuestKind::Entrypoint { .. } | GuestKind::Vacant => Err(refused),
        }
    }

    /// The children of a sandbox's first process: its guest and orphans, of a zygote's also its forks' first processes.
    pub(crate) fn children(&self, first: i32) -> Vec<i32> {
        procfs::children(&self.stage.proc, first)
    }

    /// Kills the children of a sandbox's first process that are in its own process namespace.
    pub(crate) fn kill_children(&self, first: i32) {
        // The number of a process in each namespace that has it.
        let depth = |pid| {
            let status = self.status(pid).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.map_or(0, |numbers| numbers.split_whitespace().count())
        };
        let own = depth(first);
        for pid in self.children(first) {
            let Ok(child) = sys::pidfd_open(pid).map(owned) else { continue };
            // What is still a child is what was opened: a number that is given out again is nobody's child here.
            if self.children(first).contains(&pid) && depth(pid) == own {
                let _ = rustix::process::pidfd_send_signal(&child, rustix::process::Signal::KILL);
            }
        }
    }

    /// Signals the child of a sandbox's first process that has this number in there.
    pub(crate) fn signal_child(&self, first: i32, number: i32, signal: i32) {
        let is_it = |pid| {
            let status = self.status(pid).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            numbers.and_then(|numbers| numbers.split_whitespace().last()?.parse().ok()) == Some(number)
        };
        let Some(pid) = self.children(first).into_iter().find(|pid| is_it(*pid)) else { return };
        let Ok(child) = sys::pidfd_open(pid).map(owned) else { return };
        // What is still a child is what was opened.
        if self.children(first).contains(&pid)
            && let Some(signal) = rustix::process::Signal::from_named_raw(signal)
        {
            let _ = rustix::process::pidfd_send_signal(&child, signal);
        }
    }

    /// The `status` of a process.
    pub(crate) fn status(&self, pid: i32) -> io::Result<String> {
        procfs::read(&self.stage.proc, &format!("{pid}/status"))
    }

    fn template_folder(&self) -> Result<OwnedFd, Fault> {
        Ok(owned(sys::clone_tree(libc::AT_FDCWD, c"/template/var/task").at(Step::Task)?))
    }

    /// Opens the folder of a digest beneath the code root.
    fn code_folder(&self, digest: &Digest, step: Step) -> Result<OwnedFd, Fault> {
        self.folder(digest, step)
    }

    fn folder(&self, name: &[u8], step: Step) -> Result<OwnedFd, Fault> {
        let refused = Fault { step, errno: libc::EINVAL };
        let name = CString::new(name).map_err(|_| refused)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.stage.code, name, flags, Mode::empty(), resolve).at(step)
    }

    pub(crate) fn code_tree(&self, digest: &Digest) -> Result<OwnedFd, Fault> {
        let folder = self.code_folder(digest, Step::Code)?;
        Ok(owned(sys::clone_tree(folder.as_raw_fd(), c"").at(Step::Code)?))
    }

    /// A folder below the code root that is a sandbox's whole root.
    fn own_root(&self, digest: &Digest) -> Result<OwnedFd, Fault> {
        let folder = self.code_folder(digest, Step::Root)?;
        let tree = owned(sys::clone_tree(folder.as_raw_fd(), c"").at(Step::Root)?);
        let read_only = sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV;
        sys::set_tree_attributes(tree.as_raw_fd(), read_only).at(Step::Root)?;
        Ok(tree)
    }

    fn root_pieces(&self) -> Result<RootPieces, Fault> {
        let clone = |path| sys::clone_tree(libc::AT_FDCWD, path).at(Step::Root).map(owned);
        let trust = self.stage.has_trust.then(|| clone(TRUST)).transpose()?;
        Ok(RootPieces { devices: clone(GUEST_DEVICES)?, trust })
    }

    /// What becomes `/opt`: nothing, the one layer, or an overlay of several, the last on top.
    pub(crate) fn layers_tree(&self, layers: &[Digest]) -> Result<Option<OwnedFd>, Fault> {
        let folders =
            layers.iter().map(|layer| self.code_folder(layer, Step::Layers)).collect::<Result<Vec<_>, _>>()?;
        match &folders[..] {
            [] => Ok(None),
            [one] => Ok(Some(owned(sys::clone_tree(one.as_raw_fd(), c"").at(Step::Layers)?))),
            _ => {
                // By descriptor: a name could stand for something else by now.
                let place = |folder: &OwnedFd| format!("/proc/self/fd/{}", folder.as_raw_fd());
                let places: Vec<String> = folders.iter().rev().map(place).collect();
                let options = CString::new(format!("lowerdir={}", places.join(":")))
                    .map_err(|_| Fault { step: Step::Layers, errno: libc::EINVAL })?;
                let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
                sys::mount(c"overlay", c"/merge", c"overlay", flags, &options).at(Step::Layers)?;
                let tree = sys::clone_tree(libc::AT_FDCWD, c"/merge").at(Step::Layers).map(owned);
                rustix::mount::unmount("/merge", rustix::mount::UnmountFlags::DETACH).at(Step::Layers)?;
                tree.map(Some)
            }
        }
    }

    /// What the platform has made of the code and of each layer, read-only; nothing where it has made nothing.
    pub(crate) fn cache_trees(&self, code: Option<&Digest>, layers: &[Digest]) -> Result<Caches, Fault> {
        let mut caches = Caches::default();
        for (place, digest) in caches.iter_mut().zip([code].into_iter().chain(layers.iter().map(Some))) {
            let Some(digest) = digest else { continue };
            let name = [&digest[..], CACHE_SUFFIX.as_bytes()].concat();
            let folder = match self.folder(&name, Step::Cache) {
                Ok(folder) => folder,
                Err(fault) if fault.errno == libc::ENOENT => continue,
                Err(fault) => return Err(fault),
            };
            let tree = owned(sys::clone_tree(folder.as_raw_fd(), c"").at(Step::Cache)?);
            let read_only = sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC;
            sys::set_tree_attributes(tree.as_raw_fd(), read_only).at(Step::Cache)?;
            *place = Some(tree);
        }
        Ok(caches)
    }

    /// A folder of the host for a sandbox, and where it will be below the sandbox's root.
    fn files_tree(&self, files: &FilesRequest, host_id: Option<HostId>) -> Result<(OwnedFd, CString), Fault> {
        let refused = Fault { step: Step::Files, errno: libc::EINVAL };
        let shared = self.stage.shared.get(files.index as usize).ok_or(refused)?;
        let place = CString::new([b"mnt/", &files.name[..]].concat()).map_err(|_| refused)?;
        Ok((shared.tree(host_id.map(HostId::number), &self.stage.proc)?, place))
    }

    /// Why a folder that the operator named cannot be given to sandboxes; tried with an id that one of them would have.
    pub(crate) fn refused_folder(&mut self) -> Option<(usize, Fault)> {
        let host_id = self.ids.as_mut().and_then(Ids::take);
        let refused = self.stage.shared.iter().enumerate().find_map(|(index, shared)| {
            let tried = shared.tree(host_id.map(HostId::number), &self.stage.proc);
            tried.err().map(|fault| (index, fault))
        });
        self.give_id_back(host_id);
        refused
    }

    fn group(&self, id: u64, memory_bytes: u64, tmp_bytes: u64) -> Result<Option<Group>, Fault> {
        self.groups.create(id, self.limits(memory_bytes, tmp_bytes)).at(Step::Cgroup).map(Some)
    }

    fn limits(&self, memory_bytes: u64, tmp_bytes: u64) -> Limits {
        let unlimited = Limits { memory_bytes: 1 << 40, tmp_bytes: 0, tasks: 1 << 20 };
        // One more task than the guest's for the sandbox's first process.
        Limits {
            memory_bytes: if self.settings.limit_memory { memory_bytes } else { unlimited.memory_bytes },
            tmp_bytes,
            tasks: if self.settings.limit_tasks { child::TASKS + 1 } else { unlimited.tasks },
        }
    }

    fn clone_child(
        &self,
        inputs: &Inputs,
        target: Option<c_int>,
        doors: &[Door],
        host_id: Option<HostId>,
        nest: Option<(&Home, u32)>,
    ) -> Result<(i32, OwnedFd, OwnedFd), Fault> {
        let settings = &self.settings;
        let (status, inner) = seqpacket_pair(Step::Clone)?;
        let role = inputs.cast.role();
        let seccomp = if matches!(role, Role::Zygote { .. }) { &self.zygote_seccomp } else { &self.seccomp };
        let plan = Plan {
            status: inner.as_raw_fd(),
            root: inputs.root.as_raw_fd(),
            devices: inputs.own.as_ref().map_or(-1, |own| own.devices.as_raw_fd()),
            trust: inputs.own.as_ref().and_then(|own| own.trust.as_ref()).map_or(-1, AsRawFd::as_raw_fd),
            code: inputs.code.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            layers: inputs.layers.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            caches: inputs.caches.each_ref().map(|cache| cache.as_ref().map_or(-1, AsRawFd::as_raw_fd)),
            files: inputs.files.as_ref().map_or(-1, |(tree, _)| tree.as_raw_fd()),
            files_place: inputs.files.as_ref().map_or(c"", |(_, place)| place),
            environment: inputs.fds.environment.as_raw_fd(),
            channel: inputs.fds.channel.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            output: inputs.fds.output.as_raw_fd(),
            doors,
            tmp: inputs.tmp.as_raw_fd(),
            masks: self.stage.masks,
            role,
            held: inputs.held,
            rules: &self.rules,
            seccomp: if settings.seccomp { seccomp } else { &[] },
            landlock_abi: settings.landlock_abi,
            limit_tasks: settings.limit_tasks && !self.groups.powers().tasks,
            lower_priority: !self.groups.powers().cpu,
            network: settings.network,
            tproxy: settings.tproxy,
            user_namespace: settings.user_namespace,
            host_ids: if settings.user_namespace { None } else { host_id.map(HostId::number) },
            drop_groups: settings.privileged && nest.is_none(),
            token: inputs.token,
            id: inputs.id,
        };
        if let Some(id) = host_id {
            give_pipe(&inputs.fds.output, id.number()).at(Step::Ids)?;
        }
        let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        for (wanted, flag) in [(settings.user_namespace, libc::CLONE_NEWUSER), (settings.network, libc::CLONE_NEWNET)] {
            namespaces |= if wanted { flag } else { 0 };
        }
        let (pidfd, mapped) = match nest {
            Some((home, inner_id)) => self.clone_below(home, inner_id, namespaces, &plan)?,
            // SAFETY: the spawner never starts a thread.
            None => match unsafe { sys::clone_process(namespaces, target) }.at(Step::Clone)? {
                Cloned::Child => child::run(&plan),
                Cloned::Parent { pid, pidfd } => (owned(pidfd), self.map_ids(pid, host_id).map(|()| pid)),
            },
        };
        match mapped.and_then(|pid| self.open_gate(pid, &status).map(|()| pid)) {
            Ok(pid) => Ok((pid, pidfd, status)),
            Err(fault) => {
                // The child ends when its socket closes; here it is reaped.
                drop((status, inner));
                reap(&pidfd);
                Err(fault)
            }
        }
    }

    /// Maps the child's ids: its own, and a zygote's forks' as well.
    fn map_ids(&self, pid: i32, host_id: Option<HostId>) -> Result<(), Fault> {
        if !self.settings.user_namespace {
            return Ok(());
        }
        // Where sandboxes have no ids of their own, they have the spawner's, by whatever name it goes here.
        let (uid, gid) = match host_id {
            Some(id) => (id.number(), id.number()),
            None => (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
        };
        let forks = match host_id {
            Some(HostId::Block(id)) => format!("\n{FORKS_ID} {} {FORKS_MAX}", id + 1),
            _ => String::new(),
        };
        self.write_proc(pid, "uid_map", &format!("{INNER_UID} {uid} 1{forks}")).at(Step::IdMap)?;
        self.write_proc(pid, "gid_map", &format!("{INNER_GID} {gid} 1{forks}")).at(Step::IdMap)
    }

    /// Clones a fork's first process below the zygote's namespaces, and maps its id: by a helper that goes into the zygote's
    /// user namespace, as only who is there may map, and the zygote may not; and by a child of it that belongs to the
    /// zygote's user, as the new user namespace then does, and is in its process namespace. Both end at once, and the zygote's
    /// first process is the new one's parent; here it is known by its descriptor, and its number if it could be mapped.
    fn clone_below(
        &self,
        home: &Home,
        inner_id: u32,
        namespaces: c_int,
        plan: &Plan<'_>,
    ) -> Result<(OwnedFd, Result<i32, Fault>), Fault> {
        let group = if inner_id == INNER_UID { INNER_GID } else { inner_id };
        let maps = [("uid_map", format!("{INNER_UID} {inner_id} 1")), ("gid_map", format!("{INNER_GID} {group} 1"))];
        let (user, processes) = (home.user.as_raw_fd(), home.processes.as_raw_fd());
        let (mut descriptor, mut number) = (-1, 0);
        let write = |pid, name, map| self.write_proc(pid, name, map).map_err(|error| errno(&error));
        // SAFETY: the spawner never starts a thread, and its helpers do not either; the closures leave numbers only.
        let done = unsafe {
            sys::aside(&mut || {
                sys::setns(user)?;
                sys::setns(processes)?;
                sys::aside(&mut || {
                    sys::become_ids(INNER_UID, INNER_GID)?;
                    match sys::clone_process(namespaces, None)? {
                        Cloned::Child => child::run(plan),
                        Cloned::Parent { pidfd, .. } => {
                            descriptor = pidfd;
                            Ok(())
                        }
                    }
                })?;
                number = self.number_of(descriptor).map_err(|error| errno(&error))?;
                maps.iter().try_for_each(|(name, map)| write(number, name, map))
            })
        };
        if descriptor < 0 {
            return Err(Fault { step: Step::Clone, errno: done.err().unwrap_or(libc::ECHILD) });
        }
        Ok((owned(descriptor), done.map(|()| number).at(Step::IdMap)))
    }

    /// The number of the process that a descriptor is of.
    fn number_of(&self, descriptor: c_int) -> io::Result<i32> {
        let text = procfs::read(&self.stage.proc, &format!("self/fdinfo/{descriptor}"))?;
        let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        number.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
    }

    /// Lets the child go on.
    fn open_gate(&self, pid: i32, status: &OwnedFd) -> Result<(), Fault> {
        // When the host itself is out of memory, guests go before the platform.
        let _ = self.write_proc(pid, "oom_score_adj", "500");
        sys::send(status.as_raw_fd(), b"go").at(Step::Gate)
    }

    fn write_proc(&self, pid: i32, name: &str, value: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.stage.proc, format!("{pid}/{name}"), flags, Mode::empty())?;
        rustix::io::write(&file, value.as_bytes())?;
        Ok(())
    }
}

fn errno(error: &io::Error) -> c_int {
    error.raw_os_error().unwrap_or(libc::EIO)
}

fn seqpacket_pair(step: Step) -> Result<(OwnedFd, OwnedFd), Fault> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).at(step)
}

/// What starts a command: one shell that hides the variable it reads, and becomes the one that runs it.
fn command_script() -> String {
    format!("command=${COMMAND_VARIABLE}; unset {COMMAND_VARIABLE}; exec /bin/sh -c \"$command\"")
}

/// Sockets in a sandbox's network, made by a helper that goes there and does not come back.
pub(crate) fn sockets_within(network: &OwnedFd) -> Result<Vec<OwnedFd>, Fault> {
    let mut made = [-1; SOCKETS_EACH];
    let network = network.as_raw_fd();
    // SAFETY: the spawner never starts a thread; the closure leaves numbers only, of descriptors that it shares.
    let result = unsafe {
        sys::aside(&mut || {
            sys::setns(network)?;
            for socket in &mut made {
                *socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
            }
            Ok(())
        })
    };
    let made = made.into_iter().filter(|fd| *fd >= 0).map(owned).collect();
    result.at(Step::Sockets)?;
    Ok(made)
}

fn words(all: &[&str]) -> Vec<CString> {
    all.iter().filter_map(|word| CString::new(*word).ok()).collect()
}

fn python(script: &CStr) -> Vec<CString> {
    words(PYTHON_FLAGS).into_iter().chain([script.to_owned()]).collect()
}

/// What starts the Java guest, as Lambda starts its own: a collector and a compiler that suit small memories. Its heap gets
/// five sixths of what engines may have, as there is more beside it than in others: classes, compiled code, stacks.
fn java(heap_mb: u32) -> Option<Vec<CString>> {
    let heap = format!("-Xmx{}m", heap_mb * 5 / 6);
    let flags = [&heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData"];
    let all = flags.into_iter().chain(JAVA_FLAGS.iter().copied());
    all.map(|flag| CString::new(flag).ok()).collect()
}

/// Gives the output pipe to the guest's user: a guest that opens `/dev/stderr` opens it anew. Only a nameless pipe is
/// given away; whatever else a server passes for it keeps its owner.
pub(crate) fn give_pipe(output: &OwnedFd, id: u32) -> rustix::io::Result<()> {
    const PIPE_FILE_SYSTEM: u64 = 0x5049_5045;
    if rustix::fs::fstatfs(output)?.f_type as u64 == PIPE_FILE_SYSTEM {
        let (uid, gid) = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
        rustix::fs::fchown(output, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// Kills and reaps. Answers what it and its descendants used.
pub(crate) fn reap(pidfd: &OwnedFd) -> Counts {
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
    let (cpu_ns, peak_bytes) = sys::wait(pidfd.as_raw_fd());
    Counts { cpu_ns, peak_bytes, out_of_memory: false }
}

fn program(step: Step, path: CString, arguments: Vec<CString>) -> Program {
    let mut all: Vec<CString> = vec![path.clone()];
    all.extend(arguments);
    let mut argv: Vec<_> = all.iter().map(|argument: &CString| CStr::as_ptr(argument)).collect();
    argv.push(std::ptr::null());
    Program { step, path, argv, arguments: all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_must_be_mapped_whole() {
        let host = "         0          0 4294967295\n";
        assert!(ID_RANGES.iter().all(|range| holds(host, *range)));
        let container = "0 100000 65536\n";
        assert!(!holds(container, ID_RANGES[0]) && holds(container, ID_RANGES[1]));
        assert!(!holds("0 1000 1\n", ID_RANGES[1]));
    }

    #[test]
    fn ids_come_back_and_end() {
        let mut ids = Ids { next: 7, end: 9 + FORKS_MAX + 1, free: Vec::new(), free_blocks: Vec::new() };
        let block = ids.take_block();
        assert_eq!(block, Some(HostId::Block(7)));
        let first = 8 + FORKS_MAX;
        let one = |id| Some(HostId::One(id));
        assert_eq!((ids.take(), ids.take(), ids.take()), (one(first), one(first + 1), None));
        assert_eq!(ids.take_block(), None);
        ids.give_back(HostId::One(first));
        ids.give_back(HostId::Within(9));
        assert_eq!((ids.take(), ids.take()), (one(first), None));
        ids.give_back(HostId::Block(7));
        assert_eq!(ids.take_block(), block);
    }
}
