//! The spawner: one thread, one socket, one loop. It makes sandboxes, follows them to their end, and ends with them.
//!
//! Invariants
//!   1. It has no socket but the inherited one and those to its own sandboxes; no request holds a path or an id of the
//!      host; a packet that is no request is answered with a failure and nothing else happens.
//!   2. When the server's end of the socket closes, for whatever reason, every sandbox is killed, reaped and removed.
//!   3. A sandbox's end is told after its processes, mounts and cgroups are gone.
//!
//! Start reading at `spawner_main`, then `Spawner::turn`.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::fs::MemfdFlags;

use super::cgroup::{Group, Groups, Remains, read_meter};
use super::config::{Report, SpawnerConfig, WallKind};
use super::images::Images;
use super::landlock;
use super::make::{GuestFds, Ids, Made, Maker, Settings, reap};
use super::netns::Rules;
use super::probe;
use super::protocol::{self, GuestKind, REPLY_BYTES, REQUEST_BYTES, Reply, Request, StartRequest, Step, feature};
use super::seccomp;
use super::sys::{self, At, Fault};
use super::template;
use super::tmp::{Tmp, Tmps, used_bytes};
use super::watch::Watched;

/// Longest configuration message.
pub(crate) const CONFIG_BYTES_MAX: usize = 128 * 1024;
/// How often memory is looked at where no cgroup limits it: well under the 20 ms that are promised.
const WATCH_PERIOD: Duration = Duration::from_millis(12);
/// Niceness of the spawner and of sandboxes that are being made, where the system allows it.
const NICENESS: i32 = -5;
/// How often groups that the kernel still holds are tried again.
const REMOVE_PERIOD: Duration = Duration::from_millis(20);

/// A sandbox from clone to removal.
struct Sandbox {
    made: Made,
    token: u64,
    memory_bytes: u64,
    started: bool,
    /// Held to its processor share.
    settled: bool,
    fault: Option<Fault>,
    /// wait(2)'s status of the guest, as the first process told it.
    status: Option<i32>,
    watched: Watched,
    /// What its group holds, where that is more than its memory.
    meter: Option<OwnedFd>,
}

struct Spawner {
    control: OwnedFd,
    epoll: OwnedFd,
    maker: Maker,
    sandboxes: HashMap<u64, Sandbox>,
    next_id: u64,
    /// Groups that could not be removed yet.
    lingering: Vec<Group>,
    watching: bool,
}

/// Runs the spawner on the socket at descriptor 0. Never returns.
pub fn spawner_main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(error) => {
            let _ = rustix::io::write(rustix::stdio::stderr(), format!("spawner: {error}\n").as_bytes());
            1
        }
    };
    std::process::exit(code)
}

fn run() -> io::Result<()> {
    let control = settle_descriptors()?;
    // Ctrl-C reaches the whole foreground group; the spawner ends when the server does. A lost socket is an error.
    let _ = rustix::process::setsid();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGPIPE] {
        // SAFETY: no handler is installed, signals are ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let _ = crate::privilege::raise_file_limit();
    // On a loaded host a new sandbox mostly waits for a processor; it goes before running guests.
    sys::set_niceness(NICENESS);
    let mut buffer = vec![0; CONFIG_BYTES_MAX];
    let (length, _) = protocol::receive(&control, &mut buffer)?;
    let config: SpawnerConfig = serde_json::from_slice(&buffer[..length])?;
    drop(buffer);
    let (maker, report, remains) = match prepare(&config) {
        Ok(ready) => ready,
        Err(error) => {
            let report = Report { walls: Vec::new(), error: Some(error) };
            return protocol::send(&control, &serde_json::to_vec(&report)?, &[]);
        }
    };
    let refused = report.error.is_some();
    // A server that was killed while it started hears nothing; what was made for it goes all the same.
    let told = protocol::send(&control, &serde_json::to_vec(&report)?, &[]);
    if told.is_ok() && !refused {
        let alone = maker.groups.powers().memory && maker.tmps.are_on_disk();
        let watching = !alone && maker.settings.limit_memory;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let sandboxes = HashMap::new();
        let mut spawner = Spawner { control, epoll, maker, sandboxes, next_id: 1, lingering: Vec::new(), watching };
        let result = spawner.serve();
        spawner.end();
        remove_for_good(&remains);
        return result;
    }
    remove_for_good(&remains);
    told
}

fn remove_for_good(remains: &Remains) {
    for _ in 0..100 {
        if remains.remove() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Moves the socket away from descriptor 0 and fills 0 to 9, so that no descriptor of a sandbox is ever among the
/// numbers that its guest gets.
fn settle_descriptors() -> io::Result<OwnedFd> {
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 10)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    loop {
        let filler = rustix::io::dup(&null)?;
        if filler.as_raw_fd() >= 10 {
            break;
        }
        // Stays open for good, on purpose.
        std::mem::forget(filler);
    }
    Ok(control)
}

/// Enters namespaces of the spawner's own, finds what the host gives, builds the stage, and makes a trial sandbox.
fn prepare(config: &SpawnerConfig) -> Result<(Maker, Report, Remains), String> {
    let server = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let off = |kind| config.off.contains(&kind);
    let groups = Groups::find(&config.boot_id, server);
    let remains = groups.remains();
    let privileged = probe::enter_namespaces()?;
    let tmps = Tmps::new(images(config, privileged), !off(WallKind::Tmp));
    let stage = template::raise(config).map_err(|fault| probe::explain(&fault))?;
    let settings = Settings {
        user_namespace: !off(WallKind::UserNamespace),
        network: !off(WallKind::Network),
        tproxy: !off(WallKind::Interception),
        landlock_abi: if off(WallKind::Landlock) { 0 } else { landlock::abi() },
        seccomp: !off(WallKind::Seccomp),
        privileged,
        limit_memory: !off(WallKind::Memory),
        limit_tasks: !off(WallKind::Tasks),
        cpu_quota: config.cpu_quota,
    };
    let seccomp = seccomp::program(groups.powers().memory);
    let mut maker = Maker {
        stage,
        groups,
        tmps,
        settings,
        interpreters: config.interpreters.clone(),
        rules: Rules::new(),
        seccomp,
        ids: Ids::find().filter(|_| privileged && !off(WallKind::OwnUserId)),
    };
    let report = probe::probe(&mut maker, config);
    Ok((maker, report, remains))
}

/// Images for `/tmp`, or why there are none.
fn images(config: &SpawnerConfig, privileged: bool) -> Result<Images, String> {
    if config.off.contains(&WallKind::Tmp) {
        return Err("turned off".to_owned());
    }
    let folder = config.tmp_root.as_deref().ok_or("no folder on a disk was named")?;
    if !privileged {
        return Err("start as root for one on the disk".to_owned());
    }
    Images::launch(folder)
}

const CONTROL: u64 = 0;

impl Spawner {
    /// Serves until the server is gone.
    fn serve(&mut self) -> io::Result<()> {
        epoll::add(&self.epoll, &self.control, epoll::EventData::new_u64(CONTROL), epoll::EventFlags::IN)?;
        let mut next_watch = Instant::now();
        while self.turn()? {
            if self.watching && Instant::now() >= next_watch {
                self.watch();
                next_watch = Instant::now() + WATCH_PERIOD;
            }
            let groups = &self.maker.groups;
            self.lingering.retain(|group| !groups.remove(group));
        }
        Ok(())
    }

    /// Waits for events and handles them. False when the server is gone.
    fn turn(&mut self) -> io::Result<bool> {
        let period = if self.watching && !self.sandboxes.is_empty() {
            Some(WATCH_PERIOD)
        } else {
            (!self.lingering.is_empty()).then_some(REMOVE_PERIOD)
        };
        let timeout = period.map(|period| Timespec { tv_sec: 0, tv_nsec: period.as_nanos() as i64 });
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 64];
        let ready = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        let keys: Vec<u64> = ready.iter().map(|event| event.data.u64()).collect();
        for key in keys {
            match key {
                CONTROL => {
                    if !self.take_request()? {
                        return Ok(false);
                    }
                }
                key if key % 2 == 0 => self.take_status(key / 2),
                key => self.finish(key / 2),
            }
        }
        Ok(true)
    }

    fn reply(&self, reply: Reply, fds: &[RawFd]) {
        // A server that is gone is noticed by the next read.
        let _ = protocol::send(&self.control, &reply.encode(), fds);
    }

    /// False when the server is gone.
    fn take_request(&mut self) -> io::Result<bool> {
        let mut packet = [0; REQUEST_BYTES + 1];
        let (length, fds) = match protocol::receive(&self.control, &mut packet) {
            Ok((0, _)) => return Ok(false),
            Ok(received) => received,
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => (REQUEST_BYTES + 1, Vec::new()),
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(false),
            Err(error) => return Err(error),
        };
        match Request::decode(packet.get(..length).unwrap_or(&packet)) {
            Some(Request::Kill(id)) => self.kill(id),
            Some(Request::Settle(id)) => self.settle(id),
            Some(Request::Resize { token, id, memory_bytes, tmp_bytes }) => {
                let reply = match self.resize(id, memory_bytes, tmp_bytes) {
                    Ok(()) => Reply::Resized { token },
                    Err(fault) => Reply::Failed { token, step: fault.step as u32, errno: fault.errno },
                };
                self.reply(reply, &[]);
            }
            Some(Request::Start(start)) => {
                if let Err(fault) = self.start(&start, fds) {
                    let step = fault.step as u32;
                    self.reply(Reply::Failed { token: start.token, step, errno: fault.errno }, &[]);
                }
            }
            None => self.reply(Reply::Failed { token: 0, step: Step::Request as u32, errno: libc::EBADMSG }, &[]),
        }
        Ok(true)
    }

    fn start(&mut self, request: &StartRequest, fds: Vec<OwnedFd>) -> Result<(), Fault> {
        let refused = Fault { step: Step::Request, errno: libc::EBADF };
        let [channel, output, environment] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| refused)?;
        let channel = matches!(request.guest, GuestKind::Interpreter { .. }).then_some(channel);
        let id = self.next_id;
        self.next_id += 1;
        let made = self.maker.make(request, GuestFds { channel, output, environment }, id)?;
        let added = [(&made.status, id * 2), (&made.pidfd, id * 2 + 1)].into_iter().try_for_each(|(fd, key)| {
            epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key), epoll::EventFlags::IN).at(Step::Request)
        });
        let counted = made.group.as_ref().filter(|_| self.watching && made.tmp.bytes_in_memory() > 0);
        let meter = counted.and_then(|group| self.maker.groups.usage_file(group));
        let sandbox = Sandbox {
            made,
            token: request.token,
            memory_bytes: request.memory_bytes,
            started: false,
            settled: false,
            fault: added.err(),
            status: None,
            watched: Watched::default(),
            meter,
        };
        let failed = sandbox.fault.is_some();
        self.sandboxes.insert(id, sandbox);
        if failed {
            self.finish(id);
        }
        Ok(())
    }

    fn resize(&mut self, id: u64, memory_bytes: u64, tmp_bytes: u64) -> Result<(), Fault> {
        let absent = Fault { step: Step::Resize, errno: libc::ESRCH };
        let sandbox = self.sandboxes.get_mut(&id).filter(|sandbox| sandbox.started).ok_or(absent)?;
        self.maker.resize(&mut sandbox.made, memory_bytes, tmp_bytes)?;
        sandbox.memory_bytes = memory_bytes;
        if sandbox.settled { self.maker.settle(&sandbox.made, memory_bytes) } else { Ok(()) }
    }

    fn settle(&mut self, id: u64) {
        if let Some(sandbox) = self.sandboxes.get_mut(&id).filter(|sandbox| sandbox.started && !sandbox.settled) {
            sandbox.settled = true;
            // The trial has shown that the kernel takes it.
            let _ = self.maker.settle(&sandbox.made, sandbox.memory_bytes);
        }
    }

    fn kill(&self, id: u64) {
        if let Some(sandbox) = self.sandboxes.get(&id) {
            let _ = rustix::process::pidfd_send_signal(&sandbox.made.pidfd, rustix::process::Signal::KILL);
        }
    }

    /// Reads one message of a sandbox's first process.
    fn take_status(&mut self, id: u64) {
        let Some(sandbox) = self.sandboxes.get_mut(&id) else { return };
        let mut packet = [0; REPLY_BYTES];
        let (length, fds) = match protocol::receive(&sandbox.made.status, &mut packet) {
            Ok((length, fds)) if length > 0 => (length, fds),
            // The other end is closed: its process has ended or is about to.
            _ => {
                let _ = epoll::delete(&self.epoll, &sandbox.made.status);
                return;
            }
        };
        match Reply::decode(&packet[..length]) {
            // The kernel drops descriptors that this process has no room for.
            Some(Reply::Started { listeners, .. }) if fds.len() != listeners as usize => {
                sandbox.fault = Some(Fault { step: Step::Network, errno: libc::EMFILE });
                self.kill(id);
            }
            Some(Reply::Started { features, pid: _, listeners, .. }) => {
                sandbox.started = true;
                let meters =
                    sandbox.made.group.as_ref().map(|group| self.maker.groups.meters(group)).unwrap_or_default();
                let all: Vec<RawFd> = fds.iter().chain(&meters).map(AsRawFd::as_raw_fd).collect();
                let pid = sandbox.made.pid;
                let features = features | if sandbox.meter.is_some() { feature::TMP_IN_GROUP } else { 0 };
                let reply =
                    Reply::Started { token: sandbox.token, id, pid, listeners, meters: meters.len() as u32, features };
                self.reply(reply, &all);
            }
            Some(Reply::Failed { step, errno, .. }) => {
                sandbox.fault = Some(Fault { step: Step::from_number(step).unwrap_or(Step::Vanished), errno });
            }
            Some(Reply::Exited { status, .. }) => sandbox.status = Some(status),
            Some(Reply::Resized { .. }) | None => {}
        }
    }

    /// Reaps a sandbox whose first process has ended, removes what is left of it, and tells the server.
    fn finish(&mut self, id: u64) {
        // What it said last may still lie in its socket.
        let mut unread = true;
        while unread {
            let Some(sandbox) = self.sandboxes.get(&id) else { return };
            unread = has_input(&sandbox.made.status);
            if unread {
                self.take_status(id);
            }
        }
        let Some(sandbox) = self.sandboxes.remove(&id) else { return };
        let reaped = reap(&sandbox.made.pidfd);
        let Sandbox { made, token, memory_bytes, started, fault, status, watched, meter, .. } = sandbox;
        drop((made.pidfd, made.status));
        // A group counts exactly; without one, what was seen while it ran and what was used when it was reaped.
        let mut counts = watched.counts().or(reaped);
        if let Some(group) = made.group {
            if self.maker.groups.powers().memory {
                counts = self.maker.groups.counts(&group);
            }
            if meter.is_some() {
                // The group's peak may be that of `/tmp`; beyond the limit nothing else is held for long.
                counts.peak_bytes = counts.peak_bytes.min(memory_bytes);
                counts.out_of_memory |= watched.counts().out_of_memory;
            }
            self.remove_group(group);
        }
        self.maker.give_back(made.host_id, made.tmp);
        let reply = if started {
            let status = status.unwrap_or(libc::SIGKILL);
            let out_of_memory = counts.out_of_memory;
            Reply::Exited { id, status, out_of_memory, cpu_ns: counts.cpu_ns, peak_bytes: counts.peak_bytes }
        } else {
            let fault = fault.unwrap_or(Fault { step: Step::Vanished, errno: 0 });
            Reply::Failed { token, step: fault.step as u32, errno: fault.errno }
        };
        self.reply(reply, &[]);
    }

    fn remove_group(&mut self, group: Group) {
        for _ in 0..5 {
            if self.maker.groups.remove(&group) {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        self.lingering.push(group);
    }

    /// Looks at every sandbox's memory and kills what is above its limit.
    fn watch(&mut self) {
        let maker = &self.maker;
        for sandbox in self.sandboxes.values_mut().filter(|sandbox| sandbox.started) {
            let Sandbox { made, memory_bytes, watched, meter, .. } = sandbox;
            let over = match (meter, &made.group) {
                (Some(meter), Some(group)) => {
                    let shares = || maker.groups.shares(group);
                    watched.look_at_group(read_meter(meter), *memory_bytes, shares, || tmp_bytes(&made.tmp))
                }
                _ => watched.look(&maker.stage.proc, made.pid, *memory_bytes),
            };
            if over {
                let _ = rustix::process::pidfd_send_signal(&made.pidfd, rustix::process::Signal::KILL);
            }
        }
    }

    /// Kills, reaps and removes everything.
    fn end(&mut self) {
        for id in self.sandboxes.keys() {
            self.kill(*id);
        }
        let ids: Vec<u64> = self.sandboxes.keys().copied().collect();
        for id in ids {
            if let Some(sandbox) = self.sandboxes.remove(&id) {
                reap(&sandbox.made.pidfd);
                self.lingering.extend(sandbox.made.group);
            }
        }
        for _ in 0..100 {
            let groups = &self.maker.groups;
            self.lingering.retain(|group| !groups.remove(group));
            if self.lingering.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Bytes that lie in a `/tmp` of memory.
fn tmp_bytes(tmp: &Tmp) -> u64 {
    match tmp {
        Tmp::Memory { mount, .. } => used_bytes(mount),
        Tmp::Image { .. } => 0,
    }
}

fn has_input(fd: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut fds, Some(&now)).unwrap_or(0) > 0;
    ready && fds[0].revents().contains(rustix::event::PollFlags::IN) && peek(fd) > 0
}

/// Bytes of the next packet; zero at the end of the stream.
fn peek(fd: &OwnedFd) -> usize {
    let mut byte = [0u8; 1];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    rustix::net::recv(fd, &mut byte[..], flags).map_or(0, |(length, _)| length)
}

/// Descriptors for a trial: nothing to read, nowhere to write.
pub(crate) fn trial_fds() -> Result<GuestFds, Fault> {
    let output = File::options().write(true).open("/template/dev/null").at(Step::Stage)?.into();
    let environment = rustix::fs::memfd_create("environment", MemfdFlags::CLOEXEC).at(Step::Stage)?;
    Ok(GuestFds { channel: None, output, environment })
}
