//! Makes one sandbox: everything between a checked request and a child that waits behind the open gate.
//!
//! Non-purpose: what happens to a sandbox afterwards; the loop in `spawner` follows it.
//!
//! Invariants
//!   1. A request names code by digest only; it is resolved beneath the code root, without links.
//!   2. Host user ids come from `Ids` only: a request cannot name one.
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

use super::cgroup::{Counts, Group, Groups, Limits};
use super::child::{self, INNER_GID, INNER_UID, Plan, Program};
use super::netns::Rules;
use super::protocol::{Digest, GuestKind, StartRequest, Step};
use super::sys::{self, At, Cloned, Fault};
use super::template::Stage;
use super::tmp::{Tmp, Tmps};
use crate::interpreter::{Interpreter, PYTHON_FLAGS};

/// Ranges of host ids, the preferred one first: above everything that distributions and container tools give out;
/// within the 65,536 ids of a container without privilege, above its users and below `nobody`.
const ID_RANGES: [(u32, u32); 2] = [(0x7000_0000, 0x1_0000), (50_000, 10_000)];

/// Host user ids, one per sandbox.
#[derive(Debug)]
pub(crate) struct Ids {
    next: u32,
    end: u32,
    free: Vec<u32>,
}

impl Ids {
    /// The range that the caller may hand out: all of it is mapped in the caller's own user namespace.
    pub(crate) fn find() -> Option<Self> {
        let maps =
            ["/proc/self/uid_map", "/proc/self/gid_map"].map(|path| fs::read_to_string(path).unwrap_or_default());
        let (base, count) = ID_RANGES.into_iter().find(|range| maps.iter().all(|map| holds(map, *range)))?;
        Some(Self { next: base, end: base + count, free: Vec::new() })
    }

    fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let id = (self.next < self.end).then_some(self.next)?;
            self.next += 1;
            Some(id)
        })
    }

    pub(crate) fn give_back(&mut self, id: u32) {
        self.free.push(id);
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
    /// Nothing where sandboxes share the caller's id.
    pub(crate) ids: Option<Ids>,
}

/// A child behind its gate.
pub(crate) struct Made {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) status: OwnedFd,
    pub(crate) group: Option<Group>,
    pub(crate) host_id: Option<u32>,
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
    code: OwnedFd,
    layers: Option<OwnedFd>,
    fds: GuestFds,
    tmp: OwnedFd,
    programs: Vec<Program>,
    token: u64,
    id: u64,
}

fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: every caller passes a descriptor that a system call has just made for it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Maker {
    /// Makes the sandbox `id`. What it makes before a failure is gone again when it returns.
    pub(crate) fn make(&mut self, request: &StartRequest, fds: GuestFds, id: u64) -> Result<Made, Fault> {
        let programs = self.programs(request.guest)?;
        self.make_running(request, fds, id, programs)
    }

    /// The same with no guest: every wall is built, then the sandbox ends.
    pub(crate) fn make_trial(&mut self, request: &StartRequest, fds: GuestFds) -> Result<Made, Fault> {
        self.make_running(request, fds, 0, Vec::new())
    }

    fn make_running(
        &mut self,
        request: &StartRequest,
        fds: GuestFds,
        id: u64,
        programs: Vec<Program>,
    ) -> Result<Made, Fault> {
        let trial = programs.is_empty();
        let code = if trial { self.template_folder()? } else { self.code_tree(&request.code)? };
        let root = owned(sys::clone_tree(libc::AT_FDCWD, c"/template").at(Step::Template)?);
        let layers = self.layers_tree(&request.layers)?;
        let (tmp, mount) = self.tmps.take(request.tmp_bytes)?;
        let inputs = Inputs { root, code, layers, fds, tmp: mount, programs, token: request.token, id };
        // No id left is a refusal: a sandbox must not get the platform's own for that.
        let exhausted = Fault { step: Step::IdMap, errno: libc::EAGAIN };
        let host_id = match self.ids.as_mut().map(|ids| ids.take().ok_or(exhausted)).transpose() {
            Ok(host_id) => host_id,
            Err(fault) => {
                self.give_back(None, tmp);
                return Err(fault);
            }
        };
        let group = match self.group(id, request.memory_bytes, tmp.bytes_in_memory()) {
            Ok(group) => group,
            Err(fault) => {
                self.give_back(host_id, tmp);
                return Err(fault);
            }
        };
        let made = self.clone_child(&inputs, group.as_ref(), host_id);
        match made {
            Ok((pid, pidfd, status)) => Ok(Made { pid, pidfd, status, group, host_id, tmp }),
            Err(fault) => {
                if let Some(group) = &group {
                    self.groups.remove(group);
                }
                self.give_back(host_id, tmp);
                Err(fault)
            }
        }
    }

    /// Takes a sandbox's id and `/tmp` back once it has ended.
    pub(crate) fn give_back(&mut self, host_id: Option<u32>, tmp: Tmp) {
        if let (Some(ids), Some(id)) = (&mut self.ids, host_id) {
            ids.give_back(id);
        }
        self.tmps.give_back(tmp);
    }

    /// Gives a sandbox other limits than it was made with: its memory, its share of the processors, its `/tmp`.
    pub(crate) fn resize(&mut self, made: &mut Made, memory_bytes: u64, tmp_bytes: u64) -> Result<(), Fault> {
        self.tmps.resize(&mut made.tmp, tmp_bytes)?;
        let limits = self.limits(memory_bytes, made.tmp.bytes_in_memory());
        made.group.as_ref().map_or(Ok(()), |group| self.groups.set_limits(group, limits)).at(Step::Resize)
    }

    /// Holds a sandbox whose start is over to its processor share, where that is wanted.
    pub(crate) fn settle(&self, made: &Made, memory_bytes: u64) -> Result<(), Fault> {
        let group = made.group.as_ref().filter(|_| self.settings.cpu_quota);
        group.map_or(Ok(()), |group| self.groups.set_quota(group, memory_bytes)).at(Step::CpuWeight)
    }

    fn programs(&self, guest: GuestKind) -> Result<Vec<Program>, Fault> {
        let refused = Fault { step: Step::Request, errno: libc::EINVAL };
        match guest {
            GuestKind::Bootstrap => Ok(vec![
                program(Step::ExecTask, c"/var/task/bootstrap".into(), Vec::new()),
                program(Step::ExecOpt, c"/opt/bootstrap".into(), Vec::new()),
            ]),
            GuestKind::Interpreter { index, heap_mb } => {
                let interpreter = self.interpreters.get(index as usize).ok_or(refused)?;
                let binary = CString::new(interpreter.binary.as_os_str().as_bytes()).map_err(|_| refused)?;
                let arguments = match interpreter.family {
                    Family::Node => vec![
                        CString::new(format!("--max-old-space-size={heap_mb}")).map_err(|_| refused)?,
                        c"/var/runtime/nodejs/bootstrap.cjs".into(),
                    ],
                    Family::Python => {
                        let flags = PYTHON_FLAGS.iter().map(|flag| CString::new(*flag).map_err(|_| refused));
                        let mut all = flags.collect::<Result<Vec<_>, _>>()?;
                        all.push(c"/var/runtime/python/bootstrap.py".into());
                        all
                    }
                    Family::Provided => return Err(refused),
                };
                Ok(vec![program(Step::ExecInterpreter, binary, arguments)])
            }
        }
    }

    fn template_folder(&self) -> Result<OwnedFd, Fault> {
        Ok(owned(sys::clone_tree(libc::AT_FDCWD, c"/template/var/task").at(Step::Task)?))
    }

    /// Opens the folder of a digest beneath the code root.
    fn code_folder(&self, digest: &Digest, step: Step) -> Result<OwnedFd, Fault> {
        let refused = Fault { step, errno: libc::EINVAL };
        let name = CString::new(&digest[..]).map_err(|_| refused)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.stage.code, name, flags, Mode::empty(), resolve).at(step)
    }

    fn code_tree(&self, digest: &Digest) -> Result<OwnedFd, Fault> {
        let folder = self.code_folder(digest, Step::Code)?;
        Ok(owned(sys::clone_tree(folder.as_raw_fd(), c"").at(Step::Code)?))
    }

    /// What becomes `/opt`: nothing, the one layer, or an overlay of several, the last on top.
    fn layers_tree(&self, layers: &[Digest]) -> Result<Option<OwnedFd>, Fault> {
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
        group: Option<&Group>,
        host_id: Option<u32>,
    ) -> Result<(i32, OwnedFd, OwnedFd), Fault> {
        let settings = &self.settings;
        let (status, inner) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .at(Step::Clone)?;
        let doors = group.map(|group| self.groups.doors(group)).transpose().at(Step::Cgroup)?.unwrap_or_default();
        let plan = Plan {
            status: inner.as_raw_fd(),
            root: inputs.root.as_raw_fd(),
            code: inputs.code.as_raw_fd(),
            layers: inputs.layers.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            environment: inputs.fds.environment.as_raw_fd(),
            channel: inputs.fds.channel.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            output: inputs.fds.output.as_raw_fd(),
            doors: &doors,
            tmp: inputs.tmp.as_raw_fd(),
            programs: &inputs.programs,
            rules: &self.rules,
            seccomp: if settings.seccomp { &self.seccomp } else { &[] },
            landlock_abi: settings.landlock_abi,
            limit_tasks: settings.limit_tasks && !self.groups.powers().tasks,
            lower_priority: !self.groups.powers().cpu,
            network: settings.network,
            tproxy: settings.tproxy,
            user_namespace: settings.user_namespace,
            host_ids: if settings.user_namespace { None } else { host_id },
            drop_groups: settings.privileged,
            token: inputs.token,
            id: inputs.id,
        };
        if let Some(id) = host_id {
            give_pipe(&inputs.fds.output, id).at(Step::Ids)?;
        }
        let mut namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        for (wanted, flag) in [(settings.user_namespace, libc::CLONE_NEWUSER), (settings.network, libc::CLONE_NEWNET)] {
            namespaces |= if wanted { flag } else { 0 };
        }
        let target = group.and_then(|group| self.groups.clone_target(group));
        // SAFETY: the spawner never starts a thread.
        match unsafe { sys::clone_process(namespaces, target) }.at(Step::Clone)? {
            Cloned::Child => child::run(&plan),
            Cloned::Parent { pid, pidfd } => {
                let pidfd = owned(pidfd);
                match self.open_gate(pid, host_id, &status) {
                    Ok(()) => Ok((pid, pidfd, status)),
                    Err(fault) => {
                        // The child ends when its socket closes; here it is reaped.
                        drop((status, inner));
                        reap(&pidfd);
                        Err(fault)
                    }
                }
            }
        }
    }

    /// Maps the child's ids and lets it go on.
    fn open_gate(&self, pid: i32, host_id: Option<u32>, status: &OwnedFd) -> Result<(), Fault> {
        if self.settings.user_namespace {
            // Where sandboxes have no ids of their own, they have the spawner's, by whatever name it goes here.
            let (uid, gid) = match host_id {
                Some(id) => (id, id),
                None => (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
            };
            self.write_proc(pid, "uid_map", &format!("{INNER_UID} {uid} 1")).at(Step::IdMap)?;
            self.write_proc(pid, "gid_map", &format!("{INNER_GID} {gid} 1")).at(Step::IdMap)?;
        }
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

/// Gives the output pipe to the guest's user: a guest that opens `/dev/stderr` opens it anew. Only a nameless pipe is
/// given away; whatever else a server passes for it keeps its owner.
fn give_pipe(output: &OwnedFd, id: u32) -> rustix::io::Result<()> {
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
        let mut ids = Ids { next: 7, end: 9, free: Vec::new() };
        assert_eq!((ids.take(), ids.take(), ids.take()), (Some(7), Some(8), None));
        ids.give_back(7);
        assert_eq!((ids.take(), ids.take()), (Some(7), None));
    }
}
