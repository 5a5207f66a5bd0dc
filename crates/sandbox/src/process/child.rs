//! The first process of a sandbox, from clone to the guest's exec and to its end.
//!
//! It is a fork of the spawner: it waits at the gate until its ids are mapped and its limits stand, builds its root,
//! its network and its walls, gives up every privilege, starts the guest, and then only reaps: it is process 1 of its
//! namespace, so that the guest is an ordinary process whose signals and orphans behave as everywhere.
//!
//! Invariants
//!   1. Nothing here allocates, locks or panics; everything that it needs was made before, in `Plan`.
//!   2. The guest starts after every wall stands; a wall that is asked for and fails ends the sandbox.
//!   3. The guest inherits descriptors 0 to 3 only, a zygote 0 to 5; this process keeps its status socket only, of a guest that
//!      is held or not there yet that guest's as well, and is not dumpable.
//!   4. It dies with the spawner (parent-death signal), and with it the whole process namespace.
//!
//! A guest that is booted before its function is known shares its working folder with this process, which follows when the
//! code is mounted over the one that they began in: not every guest can do that by itself.
//!
//! A vacant sandbox has no guest when it is made. Its first process builds every wall, gives everything up as ever, and waits
//! for the order that says who moves in, with what environment (`protocol::Order::Occupy`).
//!
//! A zygote is a guest like any other, but for two more descriptors. A fork of one has no guest to start: its first
//! process builds the walls, and the guest comes in from the zygote and is left to it as an orphan.
//!
//! What it does while the guest lives is in `tend`.
//!
//! Start reading at `run`.

use std::ffi::CStr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_char, c_int, c_ulong};

use super::cgroup::Door;
use super::landlock;
use super::masks::Masks;
use super::netns::{self, Rules, SOCKETS_MAX};
use super::protocol::{ENVIRONMENT_BYTES_MAX, ORDER_BYTES, Reply, Step, feature};
use super::sys::{self, At, Fault};
use super::template::CACHES;
use super::tend::{End, Tended};
use super::wrapper;

/// The user inside, as Lambda has it.
pub(crate) const INNER_UID: u32 = 993;
/// The group inside.
pub(crate) const INNER_GID: u32 = 990;
/// Most variables of an environment block.
const VARIABLES_MAX: usize = 4096;
/// Open files of a process, as in Lambda.
pub(crate) const OPEN_FILES: u64 = 1024;
/// Processes and threads of a sandbox, as in Lambda.
pub(crate) const TASKS: u64 = 1024;

/// How far guests stand back behind the platform, where only niceness can tell.
const GUEST_NICENESS: c_int = 5;

/// Tells a first process that the code of its guest is mounted.
pub(crate) const FOLLOW: rustix::process::Signal = rustix::process::Signal::USR1;
/// Tells a first process to ask its guest, and all that came of it, to end.
pub(crate) const TERMINATE: rustix::process::Signal = rustix::process::Signal::USR2;
/// Where a guest begins.
const TASK: &CStr = c"/var/task";
/// `contract::ROOT_TRUST` below the new root, which is the working folder.
const ROOT_TRUST: &CStr = c"run/dunlin-trust.pem";
/// Where a program is looked for if no `PATH` is among its variables. Source: what container engines do.
const PATHS: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a fork of a zygote is in its own process namespace: this process is 1, the one that forked it and ended is 2.
pub(crate) const FORKED_GUEST: c_int = 3;

/// Who runs behind the walls.
#[derive(Clone, Copy)]
pub(crate) enum Role<'a> {
    /// Nobody: every wall is built, then the sandbox ends.
    Trial,
    /// A program.
    Guest(&'a [Program]),
    /// A program whose command line another one gets, which the first string of the environment names.
    Wrapped(&'a [Program]),
    /// A program that the first strings of the environment name: the folder that it begins in, then so many.
    Entrypoint(usize),
    /// A program that is connected to, and asked to end.
    Command(&'a [Program]),
    /// A program that forks.
    Zygote {
        programs: &'a [Program],
        /// Socket to the spawner, for its orders: descriptor 4.
        orders: c_int,
        /// What its forks call to enter their sandboxes: descriptor 5.
        entry: c_int,
    },
    /// A fork of a zygote, which comes in by itself.
    Fork,
    /// Whichever of these an order says, when it comes.
    Vacant { bootstrap: &'a [Program], command: &'a [Program] },
}

impl<'a> Role<'a> {
    /// A zygote's orders and entry, or -1.
    fn descriptors(self) -> (c_int, c_int) {
        match self {
            Self::Zygote { orders, entry, .. } => (orders, entry),
            _ => (-1, -1),
        }
    }

    pub(super) fn programs(self) -> &'a [Program] {
        match self {
            Self::Guest(programs)
            | Self::Wrapped(programs)
            | Self::Command(programs)
            | Self::Zygote { programs, .. } => programs,
            Self::Trial | Self::Entrypoint(_) | Self::Fork | Self::Vacant { .. } => &[],
        }
    }
}

/// One way to start the guest; the next is tried when the file does not exist.
pub(crate) struct Program {
    pub(crate) step: Step,
    pub(crate) path: std::ffi::CString,
    /// Null-terminated pointers to `arguments`.
    pub(crate) argv: Vec<*const c_char>,
    /// What `argv` points to.
    #[expect(dead_code, reason = "owns the strings")]
    pub(crate) arguments: Vec<std::ffi::CString>,
}

/// Everything a sandbox is made from, made before clone.
pub(crate) struct Plan<'a> {
    /// Socket to the spawner: one packet in (the gate), then replies out.
    pub(crate) status: c_int,
    /// Detached tree of the root: the template, or a folder of the sandbox's own.
    pub(crate) root: c_int,
    /// Detached trees of devices and of trusted certificates for a root of the sandbox's own, or -1 each.
    pub(crate) devices: c_int,
    pub(crate) trust: c_int,
    /// Detached tree of the code, or -1.
    pub(crate) code: c_int,
    /// Detached tree of the layers, or -1.
    pub(crate) layers: c_int,
    /// Detached trees of what was made of code and layers, or -1 each.
    pub(crate) caches: [c_int; CACHES.len()],
    /// Detached tree of a folder of the host, or -1.
    pub(crate) files: c_int,
    /// Where it goes, below the root: `mnt/NAME`.
    pub(crate) files_place: &'a CStr,
    pub(crate) environment: c_int,
    /// The guest's descriptor 3, or -1.
    pub(crate) channel: c_int,
    pub(crate) output: c_int,
    /// How to enter the sandbox's groups, where it was not cloned into them.
    pub(crate) doors: &'a [Door],
    /// Detached mount of `/tmp`.
    pub(crate) tmp: c_int,
    /// What of `/proc` is hidden.
    pub(crate) masks: Masks,
    pub(crate) role: Role<'a>,
    /// The guest is executed when the spawner says so.
    pub(crate) held: bool,
    pub(crate) rules: &'a Rules,
    pub(crate) seccomp: &'a [libc::sock_filter],
    /// Landlock's ABI; zero leaves it out.
    pub(crate) landlock_abi: u32,
    /// Limit processes by RLIMIT_NPROC, where no cgroup does.
    pub(crate) limit_tasks: bool,
    /// Run the guest at a lower priority, where no cgroup shares the processor.
    pub(crate) lower_priority: bool,
    /// Whether the network namespace is new and can be built.
    pub(crate) network: bool,
    pub(crate) tproxy: bool,
    /// Whether the ids are those of a user namespace of its own.
    pub(crate) user_namespace: bool,
    /// Without a user namespace: the host id to become.
    pub(crate) host_ids: Option<u32>,
    /// Supplementary groups can be dropped (root started the platform).
    pub(crate) drop_groups: bool,
    pub(crate) token: u64,
    pub(crate) id: u64,
}

impl Plan<'_> {
    /// Whether the code comes later, to a guest that was executed here.
    pub(super) fn follows(&self) -> bool {
        self.code < 0 && matches!(self.role, Role::Guest(_))
    }
}

/// Runs the sandbox's first process. Never returns.
pub(crate) fn run(plan: &Plan<'_>) -> ! {
    // What the server's own parent had told it to ignore is nothing for guests. None of them ends a namespace's first process.
    forget_handlers(1..SIGNALS_END);
    let code = match prepare(plan) {
        Ok((guest, handover)) => supervise(plan, guest, handover),
        Err(fault) => {
            let reply = Reply::Failed { token: plan.token, step: fault.step as u32, errno: fault.errno };
            let _ = sys::send(plan.status, &reply.encode());
            1
        }
    };
    exit(code)
}

pub(super) fn exit(code: c_int) -> ! {
    // SAFETY: ends the process without running anything of the forked copy.
    unsafe { libc::_exit(code) }
}

/// What the spawner gets: the sockets of the network, then the namespaces that others will enter.
struct Handover {
    fds: [c_int; SOCKETS_MAX + NAMESPACES_MAX],
    sockets: usize,
    count: usize,
    features: u32,
    /// Of a guest that is held.
    environment: Option<Environment>,
}

impl Handover {
    fn push(&mut self, fd: c_int) {
        if let Some(place) = self.fds.get_mut(self.count) {
            *place = fd;
            self.count += 1;
        }
    }
}

/// Most namespaces that anybody enters.
const NAMESPACES_MAX: usize = 7;
const NETWORK_NAMESPACE: &CStr = c"/proc/self/ns/net";
/// What a fork of a zygote enters: the user namespace first, which gives the right to the others.
const FORK_NAMESPACES: [&CStr; NAMESPACES_MAX] = [
    c"/proc/self/ns/user",
    c"/proc/self/ns/mnt",
    c"/proc/self/ns/ipc",
    c"/proc/self/ns/uts",
    c"/proc/self/ns/cgroup",
    NETWORK_NAMESPACE,
    c"/proc/self/ns/pid",
];
/// What the sandboxes of a zygote's forks are made in.
const ZYGOTE_NAMESPACES: [&CStr; 2] = [c"/proc/self/ns/user", c"/proc/self/ns/pid"];
/// The same where there may be no network to make them in: the last of these is it, if there is.
const PROGRAM_NAMESPACES: [&CStr; 2] = [c"/proc/self/ns/mnt", NETWORK_NAMESPACE];
/// What the spawner makes sockets in later.
const COMMAND_NAMESPACES: [&CStr; 1] = [NETWORK_NAMESPACE];
/// What the spawner mounts code in later.
const GUEST_NAMESPACES: [&CStr; 1] = [c"/proc/self/ns/mnt"];

impl Role<'_> {
    /// The namespaces that the spawner hands on or enters. This process opens them itself: an unprivileged spawner may not,
    /// once this process has given everything up.
    fn namespaces(self) -> &'static [&'static CStr] {
        match self {
            Self::Trial => &[],
            Self::Guest(_) | Self::Wrapped(_) => &GUEST_NAMESPACES,
            Self::Entrypoint(_) | Self::Vacant { .. } => &PROGRAM_NAMESPACES,
            Self::Command(_) => &COMMAND_NAMESPACES,
            Self::Zygote { .. } => &ZYGOTE_NAMESPACES,
            Self::Fork => &FORK_NAMESPACES,
        }
    }
}

fn prepare(plan: &Plan<'_>) -> Result<(c_int, Handover), Fault> {
    enter_groups(plan.doors).at(Step::Cgroup)?;
    let_go(plan);
    let mut gate = [0u8; 8];
    match sys::receive(plan.status, &mut gate) {
        Ok(0) => exit(1),
        Ok(_) => {}
        Err(errno) => return Err(Fault { step: Step::Gate, errno }),
    }
    if plan.user_namespace {
        // From an id that is not mapped here to one that is: this keeps every capability in the namespace.
        sys::become_ids(INNER_UID, INNER_GID).at(Step::Ids)?;
    }
    // The cgroup namespace starts at the sandbox's own group, which this process is in by now.
    sys::unshare(libc::CLONE_NEWCGROUP).at(Step::Cgroup)?;
    build_root(plan)?;
    let mut handover =
        Handover { fds: [-1; SOCKETS_MAX + NAMESPACES_MAX], sockets: 0, count: 0, features: 0, environment: None };
    if plan.network {
        let built = netns::build(plan.rules, plan.tproxy).at(Step::Network)?;
        built.fds.iter().take(built.count).for_each(|fd| handover.push(*fd));
        handover.features |= if built.tproxy { feature::TPROXY } else { 0 };
    }
    handover.sockets = handover.count;
    for path in plan.role.namespaces() {
        // Where it is not the sandbox's own, nobody can enter it, and everybody is in it.
        if *path == NETWORK_NAMESPACE && !plan.network {
            continue;
        }
        handover.push(sys::open(path, libc::O_RDONLY).at(Step::Zygote)?);
    }
    set_host_name();
    let lead = match plan.role {
        Role::Entrypoint(strings) => strings + 1,
        Role::Wrapped(_) => 1,
        _ => 0,
    };
    let environment = Environment::read(plan.environment, lead).at(Step::Environment)?;
    handover.features |= lock_down(plan)?;
    let guest = match plan.role {
        Role::Trial | Role::Vacant { .. } => 0,
        Role::Fork => FORKED_GUEST,
        Role::Guest(_) | Role::Wrapped(_) | Role::Command(_) | Role::Entrypoint(_) | Role::Zygote { .. } => {
            if plan.held {
                handover.environment = Some(environment);
                return Ok((0, handover));
            }
            clone_guest(&mut Launch::of_guest(plan, &environment), plan.follows())?
        }
    };
    environment.forget();
    Ok((guest, handover))
}

fn enter_groups(doors: &[Door]) -> sys::Call<()> {
    for door in doors {
        let entered = sys::write(door.file.as_raw_fd(), b"0");
        if door.must {
            entered?;
        }
    }
    Ok(())
}

/// Descriptors of a plan, the caches apart.
const OWN_FDS: usize = 13;

/// Closes whatever the spawner holds of other sandboxes. With many of them their descriptors alone would pass the limit
/// that a guest gets.
fn let_go(plan: &Plan<'_>) {
    let (orders, entry) = plan.role.descriptors();
    let own: [c_int; OWN_FDS] = [
        plan.status,
        plan.root,
        plan.devices,
        plan.trust,
        plan.code,
        plan.layers,
        plan.files,
        plan.environment,
        plan.channel,
        plan.output,
        plan.tmp,
        orders,
        entry,
    ];
    let mut kept = [-1; OWN_FDS + CACHES.len()];
    kept[..OWN_FDS].copy_from_slice(&own);
    kept[OWN_FDS..].copy_from_slice(&plan.caches);
    kept.sort_unstable();
    // Those below are the spawner's fillers.
    let mut next = 10;
    for fd in kept {
        if fd >= next {
            let _ = sys::close_range(next as u32, fd as u32 - 1);
            next = fd + 1;
        }
    }
    let _ = sys::close_range(next as u32, u32::MAX);
}

fn set_host_name() {
    const NAME: &[u8] = b"sandbox";
    // SAFETY: the name is valid for its length. A refusal leaves the host's name in place, which harms nothing.
    unsafe { libc::sethostname(NAME.as_ptr().cast(), NAME.len()) };
}

fn build_root(plan: &Plan<'_>) -> Result<(), Fault> {
    const PROC_FLAGS: c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let read_only = sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV;
    sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"").at(Step::Mount)?;
    sys::attach_tree(plan.root, libc::AT_FDCWD, c"/new").at(Step::Template)?;
    sys::chdir(c"/new").at(Step::Template)?;
    sys::attach_tree(plan.tmp, libc::AT_FDCWD, c"tmp").at(Step::Tmp)?;
    for (tree, place) in [(plan.devices, c"dev"), (plan.trust, ROOT_TRUST)] {
        if tree >= 0 {
            sys::attach_tree(tree, libc::AT_FDCWD, place).at(Step::Root)?;
        }
    }
    if plan.code >= 0 {
        sys::set_tree_attributes(plan.code, read_only).at(Step::Task)?;
        sys::attach_tree(plan.code, libc::AT_FDCWD, c"var/task").at(Step::Task)?;
    }
    if plan.layers >= 0 {
        sys::set_tree_attributes(plan.layers, read_only).at(Step::Opt)?;
        sys::attach_tree(plan.layers, libc::AT_FDCWD, c"opt").at(Step::Opt)?;
    }
    for (cache, place) in plan.caches.into_iter().zip(CACHES) {
        if cache >= 0 {
            // Below the new root, which is the working folder.
            sys::attach_tree(cache, libc::AT_FDCWD, &place[1..]).at(Step::Cache)?;
        }
    }
    if plan.files >= 0 {
        attach_files(plan.files, plan.files_place).at(Step::Files)?;
    }
    sys::mount(c"proc", c"proc", c"proc", PROC_FLAGS, c"").at(Step::Proc)?;
    plan.masks.put().at(Step::Proc)?;
    sys::pivot_here().at(Step::Pivot)
}

/// Puts a folder of the host below `/mnt`, in which nothing else can be made. Paths are relative to the new root, which is
/// the working folder.
fn attach_files(files: c_int, place: &CStr) -> sys::Call<()> {
    const FLAGS: c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount(c"tmpfs", c"mnt", c"tmpfs", FLAGS, c"mode=755,size=16k,nr_inodes=4")?;
    sys::make_folder(place)?;
    sys::mount(c"", c"mnt", c"", FLAGS | libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY, c"")?;
    sys::attach_tree(files, libc::AT_FDCWD, place)
}

/// A guest's niceness.
pub(crate) fn niceness(lower_priority: bool) -> c_int {
    if lower_priority { GUEST_NICENESS } else { 0 }
}

/// Gives up everything. Answers the features that stand.
fn lock_down(plan: &Plan<'_>) -> Result<u32, Fault> {
    let mut features = 0;
    sys::set_limit(libc::RLIMIT_NOFILE, OPEN_FILES).at(Step::Limits)?;
    sys::set_limit(libc::RLIMIT_CORE, 0).at(Step::Limits)?;
    if plan.limit_tasks {
        sys::set_limit(libc::RLIMIT_NPROC, TASKS).at(Step::Limits)?;
    }
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(Step::Capabilities)?;
    if plan.landlock_abi > 0 {
        match plan.role {
            Role::Zygote { .. } => landlock::confine_scopes(plan.landlock_abi),
            _ => landlock::confine(plan.landlock_abi, plan.files >= 0),
        }
        .at(Step::Landlock)?;
        features |= feature::LANDLOCK;
    }
    sys::set_niceness(niceness(plan.lower_priority));
    if plan.drop_groups {
        sys::drop_groups().at(Step::Ids)?;
    }
    sys::drop_bounding_set().at(Step::Capabilities)?;
    if let Some(id) = plan.host_ids {
        sys::become_ids(id, id).at(Step::Ids)?;
    }
    sys::drop_capabilities().at(Step::Capabilities)?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0, 0).at(Step::Capabilities)?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong, 0).at(Step::Capabilities)?;
    if !plan.seccomp.is_empty() {
        sys::install_seccomp(plan.seccomp).at(Step::Seccomp)?;
    }
    Ok(features)
}

/// The environment block: the memory file's strings, and pointers to them. Of a program's line, which goes before, a null
/// pointer stands between the line and the variables.
pub(super) struct Environment {
    area: *mut u8,
    length: usize,
    /// Strings before the variables.
    lead: usize,
}

impl Environment {
    const POINTERS: usize = (VARIABLES_MAX + 2) * size_of::<*const c_char>();

    /// Reads the file. Whoever wrote it may still change it; what was read stays.
    fn read(file: c_int, lead: usize) -> sys::Call<Self> {
        let length = Self::POINTERS + ENVIRONMENT_BYTES_MAX + 1;
        // SAFETY: a fresh private mapping; pages that are not touched cost nothing.
        let area = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if area == libc::MAP_FAILED {
            return Err(sys::errno());
        }
        let this = Self { area: area.cast(), length, lead };
        // SAFETY: the text part is ENVIRONMENT_BYTES_MAX bytes and one terminator that stays zero.
        let text = unsafe { this.area.add(Self::POINTERS) };
        let mut filled = 0;
        while filled < ENVIRONMENT_BYTES_MAX {
            // SAFETY: `filled` is below the text part's size.
            let read = unsafe {
                libc::pread(file, text.add(filled).cast(), ENVIRONMENT_BYTES_MAX - filled, filled as libc::off_t)
            };
            match read {
                0 => break,
                read if read > 0 => filled += read as usize,
                _ => return Err(sys::errno()),
            }
        }
        let mut at = 0;
        let mut count = 0;
        while at < filled {
            if count == VARIABLES_MAX {
                return Err(libc::E2BIG);
            }
            // SAFETY: `at` is within the text, which ends with a zero; `count` is below the pointers' number.
            unsafe {
                let variable = text.add(at);
                *this.area.cast::<*const c_char>().add(this.place(count)) = variable.cast();
                at += libc::strlen(variable.cast()) + 1;
            }
            count += 1;
        }
        if count < lead { Err(libc::EINVAL) } else { Ok(this) }
    }

    /// Where the pointer to a string lies.
    fn place(&self, string: usize) -> usize {
        if self.lead > 0 && string >= self.lead { string + 1 } else { string }
    }

    fn pointers(&self) -> *const *const c_char {
        // SAFETY: within the mapping, which has two pointers more than there are strings.
        unsafe { self.area.cast_const().cast::<*const c_char>().add(self.place(self.lead)) }
    }

    /// What goes before the variables.
    fn line(&self) -> *const *const c_char {
        self.area.cast_const().cast()
    }

    /// Unmaps: the secrets in it live on in the guest alone.
    pub(super) fn forget(self) {
        // SAFETY: the mapping is this structure's own and used by nobody any more.
        unsafe { libc::munmap(self.area.cast(), self.length) };
    }
}

/// Reads the strings of a program: `lead` of them go before the variables.
pub(super) fn read_environment(file: c_int, lead: usize) -> sys::Call<Environment> {
    Environment::read(file, lead)
}

/// What a program's start shares with its parent, which waits meanwhile.
pub(super) struct Launch<'a> {
    plan: &'a Plan<'a>,
    /// What is tried, one after the other, unless there is a line.
    programs: &'a [Program],
    environment: *const *const c_char,
    /// Folder, program and arguments, ended by a null pointer; only of `Role::Entrypoint` and of programs beside the guest. Of
    /// `Role::Wrapped` the wrapper.
    line: *const *const c_char,
    /// Where a program beside the guest writes to; -1 is the guest.
    output: c_int,
    fault: Fault,
}

impl<'a> Launch<'a> {
    const NO_FAULT: Fault = Fault { step: Step::Fork, errno: 0 };

    /// The guest's.
    pub(super) fn of_guest(plan: &'a Plan<'a>, environment: &Environment) -> Self {
        Self::of_programs(plan, plan.role.programs(), environment)
    }

    /// The same for one that was not known when the sandbox was made.
    pub(super) fn of_programs(plan: &'a Plan<'a>, programs: &'a [Program], environment: &Environment) -> Self {
        let (line, environment) = (environment.line(), environment.pointers());
        Self { plan, programs, environment, line, output: -1, fault: Self::NO_FAULT }
    }

    /// That of a program beside it.
    pub(super) fn of_program(plan: &'a Plan<'a>, environment: &Environment, output: c_int) -> Self {
        Self { output, ..Self::of_guest(plan, environment) }
    }
}

/// Clones a process that becomes the program, which shares its folder with this one if `follows`; its number.
pub(super) fn clone_guest(launch: &mut Launch<'_>, follows: bool) -> Result<c_int, Fault> {
    const STACK_BYTES: usize = 64 * 1024;
    // SAFETY: the stack is a fresh mapping, used by the child alone; the child shares memory and this process waits
    // (CLONE_VFORK) until it has executed the guest or ended, so `launch` outlives its use.
    let (pid, stack) = unsafe {
        let stack = libc::mmap(
            std::ptr::null_mut(),
            STACK_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if stack == libc::MAP_FAILED {
            return Err(sys::errno()).at(Step::Fork);
        }
        let top = stack.cast::<u8>().add(STACK_BYTES).cast();
        let folder = if follows { libc::CLONE_FS } else { 0 };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | folder | libc::SIGCHLD;
        (libc::clone(become_guest, top, flags, std::ptr::from_mut(launch).cast()), stack)
    };
    if pid < 0 {
        return Err(sys::errno()).at(Step::Fork);
    }
    // SAFETY: the child has left this stack. `fault` is read anew: the child has written it.
    let fault = unsafe {
        libc::munmap(stack, STACK_BYTES);
        std::ptr::read_volatile(&raw const launch.fault)
    };
    if fault.errno != 0 { Err(fault) } else { Ok(pid) }
}

/// One after the last signal's number.
const SIGNALS_END: c_int = 65;

/// Has these signals do what they do by default.
fn forget_handlers(signals: impl IntoIterator<Item = c_int>) {
    for signal in signals {
        // SAFETY: installs no handler; what cannot be set is refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

extern "C" fn become_guest(launch: *mut libc::c_void) -> c_int {
    // SAFETY: `clone_guest` passes its `Launch` and waits.
    let launch = unsafe { &mut *launch.cast::<Launch<'_>>() };
    let fault = match guest(launch) {
        Err(fault) => fault,
        Ok(never) => match never {},
    };
    // SAFETY: as above; volatile, since the waiting parent reads it.
    unsafe { std::ptr::write_volatile(&raw mut launch.fault, fault) };
    exit(127)
}

fn guest(launch: &Launch<'_>) -> Result<std::convert::Infallible, Fault> {
    let plan = launch.plan;
    let is_guest = launch.output < 0;
    let (orders, entry) = if is_guest { plan.role.descriptors() } else { (-1, -1) };
    let (channel, output) = if is_guest { (plan.channel, plan.output) } else { (-1, launch.output) };
    let first_closed = [(entry, 6), (orders, 5), (channel, 4)];
    let first_closed = first_closed.into_iter().find(|(fd, _)| *fd >= 0).map_or(3, |(_, next)| next);
    let null = sys::open(c"/dev/null", libc::O_RDONLY).at(Step::Fork)?;
    let null = sys::duplicate_above(null, 10).at(Step::Fork)?;
    // Those that this process has set since it began.
    forget_handlers([libc::SIGCHLD, FOLLOW.as_raw(), TERMINATE.as_raw()]);
    // SAFETY: plain calls. The descriptors are all above 9, so that none of the targets is a source.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::setsid();
        libc::umask(0o022);
        let targets = [(null, 0), (output, 1), (output, 2), (channel, 3), (orders, 4), (entry, 5)];
        for (source, target) in targets {
            if source >= 0 && libc::dup2(source, target) < 0 {
                return Err(sys::errno()).at(Step::Fork);
            }
        }
    }
    sys::close_range(first_closed, u32::MAX).at(Step::Fork)?;
    if !is_guest || matches!(plan.role, Role::Entrypoint(_)) {
        return execute_line(launch);
    }
    sys::chdir(TASK).at(Step::Fork)?;
    if let (Role::Wrapped(_), [program]) = (plan.role, launch.programs) {
        // SAFETY: `Environment::read` has made a line of one string, ended by a zero byte, which is not changed any more.
        let wrapper = unsafe { CStr::from_ptr(*launch.line) };
        return wrapper::execute(wrapper, program, launch.environment);
    }
    // The first place that has a file is the one that counts.
    let mut fault = Fault { step: Step::Fork, errno: libc::ENOENT };
    for program in launch.programs {
        // SAFETY: path, arguments and environment are null-terminated and outlive the call.
        let errno = unsafe {
            libc::execve(program.path.as_ptr(), program.argv.as_ptr(), launch.environment);
            sys::errno()
        };
        fault = Fault { step: program.step, errno };
        if is_file(&program.path) {
            return Err(fault);
        }
    }
    if fault.step == Step::ExecOpt {
        fault = Fault { step: Step::NoBootstrap, errno: libc::ENOENT };
    }
    Err(fault)
}

/// Whether there is something at a path that is no folder.
fn is_file(path: &CStr) -> bool {
    // SAFETY: the path is null-terminated and the buffer large enough; an all-zero `stat` is one.
    unsafe {
        let mut found: libc::stat = std::mem::zeroed();
        libc::stat(path.as_ptr(), &raw mut found) == 0 && found.st_mode & libc::S_IFMT != libc::S_IFDIR
    }
}

/// Executes a program by its line: where it says, or where `PATH` says if it has no slash.
fn execute_line(launch: &Launch<'_>) -> Result<std::convert::Infallible, Fault> {
    // SAFETY: `Environment::read` has made the line of at least a folder and a program, each ended by a zero byte; they are
    // not changed while they are used.
    let (folder, program, argv) = unsafe {
        let argv = launch.line.add(1);
        (CStr::from_ptr(*launch.line), CStr::from_ptr(*argv), argv)
    };
    sys::chdir(folder).at(Step::Folder)?;
    let refused = |errno| Fault { step: Step::ExecEntrypoint, errno };
    // SAFETY: path, arguments and environment are null-terminated and outlive the call.
    let execute = |path: *const c_char| unsafe {
        libc::execve(path, argv, launch.environment);
        sys::errno()
    };
    let name = program.to_bytes();
    if name.is_empty() || name.contains(&b'/') {
        return Err(refused(execute(program.as_ptr())));
    }
    let mut found = libc::ENOENT;
    for place in paths(launch.environment).split(|byte| *byte == b':') {
        let mut path = [0u8; libc::PATH_MAX as usize];
        let place: &[u8] = if place.is_empty() { b"." } else { place };
        let length = place.len() + 1 + name.len();
        if length >= path.len() {
            continue;
        }
        path[..place.len()].copy_from_slice(place);
        path[place.len()] = b'/';
        path[place.len() + 1..length].copy_from_slice(name);
        match execute(path.as_ptr().cast()) {
            libc::ENOENT | libc::ENOTDIR => {}
            // Another place may have one that can be executed.
            libc::EACCES => found = libc::EACCES,
            errno => return Err(refused(errno)),
        }
    }
    Err(refused(found))
}

/// The value of `PATH` among variables, or the usual one.
fn paths<'a>(mut variables: *const *const c_char) -> &'a [u8] {
    // SAFETY: the pointers end with a null pointer, each string with a zero byte, and both outlive the guest's start.
    unsafe {
        while !(*variables).is_null() {
            if let Some(value) = CStr::from_ptr(*variables).to_bytes().strip_prefix(b"PATH=") {
                return value;
            }
            variables = variables.add(1);
        }
    }
    PATHS
}

/// Goes to where the code is now, and the guest with it.
extern "C" fn follow(_signal: c_int) {
    // SAFETY: async-signal-safe calls; what was interrupted finds its error as it left it.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::chdir(TASK.as_ptr());
        *errno = before;
    }
}

/// Whether the guest was asked to end.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Asks every process here but this one to end.
extern "C" fn terminate(_signal: c_int) {
    ASKED.store(true, Ordering::Relaxed);
    // SAFETY: async-signal-safe calls; what was interrupted finds its error as it left it. Nothing outside this process
    // namespace can be meant.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        libc::kill(-1, libc::SIGTERM);
        *errno = before;
    }
}

/// Tells that the guest runs, or may come in, then reaps until it ends.
fn supervise(plan: &Plan<'_>, guest: c_int, handover: Handover) -> c_int {
    if plan.follows() {
        let handler: extern "C" fn(c_int) = follow;
        // SAFETY: the handler does what a handler may. Waiting goes on after it.
        unsafe { libc::signal(FOLLOW.as_raw(), handler as libc::sighandler_t) };
    }
    if let Role::Command(_) | Role::Entrypoint(_) | Role::Vacant { .. } = plan.role {
        let handler: extern "C" fn(c_int) = terminate;
        // SAFETY: as above.
        unsafe { libc::signal(TERMINATE.as_raw(), handler as libc::sighandler_t) };
    }
    let started = Reply::Started {
        token: plan.token,
        id: plan.id,
        pid: guest,
        listeners: handover.sockets as u32,
        meters: 0,
        features: handover.features,
    };
    let fds = handover.fds.get(..handover.count).unwrap_or(&[]);
    if sys::send_with_fds(plan.status, &started.encode(), fds).is_err() {
        return 1;
    }
    if let Role::Vacant { .. } = plan.role {
        keep_only([plan.status, plan.output]);
    } else if handover.environment.is_none() {
        keep_only([plan.status]);
    }
    match plan.role {
        Role::Trial => return 0,
        // Without a child there is nothing to wait for: the spawner says when there is one.
        Role::Fork if !hears(plan.status) => return 1,
        _ => {}
    }
    let End::Guest(status) = Tended::new(plan, guest, handover.environment).until_end() else { return 1 };
    if ASKED.load(Ordering::Relaxed) {
        // A shell ends at once; what it had started has its own way to end, and comes here as an orphan.
        let _ = reap_until(0);
    }
    let exited = Reply::Exited { id: plan.id, status, out_of_memory: false, cpu_ns: 0, peak_bytes: 0 };
    let _ = sys::send(plan.status, &exited.encode());
    if matches!(plan.role, Role::Zygote { .. }) {
        // The sandboxes of its forks are below this process's namespaces, and end with them. Nobody waits for these, nor
        // for orphans.
        // SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        while hears(plan.status) {}
    }
    0
}

/// Waits for a word of the spawner's; false when it will say nothing more.
fn hears(socket: c_int) -> bool {
    let mut word = [0u8; ORDER_BYTES];
    loop {
        match sys::receive(socket, &mut word) {
            Ok(length) => return length > 0,
            Err(libc::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Reaps every child until `guest` ends; wait(2)'s status of it, or nothing if there is no such child. No child is 0.
fn reap_until(guest: c_int) -> Option<c_int> {
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid == guest {
            return Some(status);
        }
        if pid < 0 && sys::errno() != libc::EINTR {
            return None;
        }
    }
}

/// Closes every descriptor but these, none of which is zero.
pub(super) fn keep_only<const COUNT: usize>(mut fds: [c_int; COUNT]) {
    fds.sort_unstable();
    let mut next = 0;
    for fd in fds {
        let fd = fd as u32;
        if fd > next {
            let _ = sys::close_range(next, fd - 1);
        }
        next = fd + 1;
    }
    let _ = sys::close_range(next, u32::MAX);
}
