//! Finds out what this host gives: by trying, not by reading version numbers.
//!
//! A trial sandbox is made with everything on. Where a step fails whose wall the platform can do without, that wall is
//! left out, and the trial is made again; the walls that then stand are reported, and the operator's demands checked.
//!
//! Start reading at `probe`.

use std::fs;
use std::io;

use super::config::{FoundWall, Report, SpawnerConfig, WallKind};
use super::landlock;
use super::make::{Maker, reap};
use super::protocol::{self, GuestKind, REPLY_BYTES, Reply, StartRequest, Step, feature};
use super::spawner::trial_fds;
use super::sys::{self, Fault};
use crate::contract::WallState;

/// Gives the spawner a mount namespace, and where it has no privilege a user namespace. True when it is privileged.
pub(crate) fn enter_namespaces() -> Result<bool, String> {
    if sys::unshare(libc::CLONE_NEWNS).is_ok() {
        return Ok(true);
    }
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let refused = |what: &str, error: String| {
        format!(
            "{what}: {error}. An ordinary user needs user namespaces: look at the sysctls user.max_user_namespaces, \
             kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, or start as root."
        )
    };
    sys::unshare(libc::CLONE_NEWUSER)
        .map_err(|errno| refused("a user namespace cannot be made", io::Error::from_raw_os_error(errno).to_string()))?;
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))]
    {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| refused("ids cannot be mapped", error.to_string()))?;
    }
    sys::unshare(libc::CLONE_NEWNS)
        .map_err(|errno| refused("mounts cannot be separated", io::Error::from_raw_os_error(errno).to_string()))?;
    Ok(false)
}

/// A fault in words, with what to do where that is known.
pub(crate) fn explain(fault: &Fault) -> String {
    let words = format!("{:?}: {}", fault.step, io::Error::from_raw_os_error(fault.errno)).to_lowercase();
    match fault.step {
        Step::Proc => format!(
            "{words}. Parts of /proc are hidden here, as container engines do; start the container with an unmasked \
             /proc (--security-opt systempaths=unconfined)"
        ),
        Step::CpuWeight => format!(
            "{words}. A processor quota needs a control group: start as root, or in a systemd unit or session with \
             Delegate=yes (cgroup v2), or do without --cpu-quota"
        ),
        Step::Clone => format!("{words}. Look at the sysctls user.max_user_namespaces and user.max_net_namespaces"),
        _ => words,
    }
}

/// Makes trial sandboxes until one stands, and reports the walls.
pub(crate) fn probe(maker: &mut Maker, config: &SpawnerConfig) -> Report {
    let mut lost: Vec<(WallKind, String)> = Vec::new();
    let features = loop {
        match trial(maker) {
            Ok(features) => break features,
            Err(fault) => {
                let Some(kind) = go_without(maker, &fault) else {
                    let error = format!("no sandbox can be made on this host: {}", explain(&fault));
                    return Report { walls: Vec::new(), freezes: false, error: Some(error) };
                };
                lost.push((kind, explain(&fault)));
            }
        }
    };
    let walls = walls(maker, config, features, &lost);
    let missing: Vec<&FoundWall> =
        walls.iter().filter(|wall| config.require.contains(&wall.kind) && wall.state != WallState::Hard).collect();
    let error = missing
        .first()
        .map(|wall| format!("the wall \"{}\" is required and does not stand hard: {}", wall.kind.name(), wall.detail));
    Report { walls, freezes: maker.groups.freezes(), error }
}

/// Leaves out the wall that a failed step belongs to, if it stands and can be spared.
fn go_without(maker: &mut Maker, fault: &Fault) -> Option<WallKind> {
    let settings = &mut maker.settings;
    let spare = |on: &mut bool, kind| std::mem::replace(on, false).then_some(kind);
    match fault.step {
        Step::Network => spare(&mut settings.network, WallKind::Network),
        Step::Seccomp => spare(&mut settings.seccomp, WallKind::Seccomp),
        Step::Landlock if settings.landlock_abi > 0 => {
            settings.landlock_abi = 0;
            Some(WallKind::Landlock)
        }
        Step::IdMap => maker.ids.take().map(|_| WallKind::OwnUserId),
        // Root can do without user namespaces; an ordinary user cannot.
        Step::Clone if settings.privileged => spare(&mut settings.user_namespace, WallKind::UserNamespace),
        _ => None,
    }
}

/// Makes a sandbox with every wall and no guest. Answers its features.
fn trial(maker: &mut Maker) -> Result<u32, Fault> {
    let request = StartRequest {
        token: 0,
        guest: GuestKind::Bootstrap,
        memory_bytes: 128 << 20,
        tmp_bytes: 1 << 20,
        code: None,
        layers: Vec::new(),
        files: None,
        root: None,
        held: false,
    };
    let made = maker.make_trial(&request, trial_fds()?)?;
    let mut packet = [0; REPLY_BYTES];
    let answer =
        protocol::receive(&made.status, &mut packet).ok().and_then(|(length, _)| Reply::decode(&packet[..length]));
    let quota = maker.settle(&made, request.memory_bytes);
    reap(&made.pidfd);
    if let Some(group) = &made.group {
        while !maker.groups.remove(group) {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
    maker.give_back(made.host_id, made.tmp);
    quota?;
    match answer {
        Some(Reply::Started { features, .. }) => Ok(features),
        Some(Reply::Failed { step, errno, .. }) => {
            Err(Fault { step: Step::from_number(step).unwrap_or(Step::Vanished), errno })
        }
        _ => Err(Fault { step: Step::Vanished, errno: 0 }),
    }
}

/// Tells of each wall whether it stands, and why not.
struct Judge<'a> {
    config: &'a SpawnerConfig,
    lost: &'a [(WallKind, String)],
    group: &'static str,
}

impl Judge<'_> {
    fn why(&self, kind: WallKind, advice: &str) -> String {
        let found = self.lost.iter().find(|(lost, _)| *lost == kind).map(|(_, why)| format!("{why}; "));
        let off = self.config.off.contains(&kind).then(|| "turned off; ".to_owned());
        format!("{}{advice}", found.or(off).unwrap_or_default())
    }

    /// A wall that stands hard or not at all.
    fn stands(&self, kind: WallKind, on: bool, how: &str, advice: &str) -> FoundWall {
        if on {
            FoundWall::new(kind, WallState::Hard, how)
        } else {
            FoundWall::new(kind, WallState::Missing, self.why(kind, advice))
        }
    }

    /// A wall that has a softer form.
    fn softens(&self, kind: WallKind, hard: bool, how: &str, soft: &str) -> FoundWall {
        if hard {
            FoundWall::new(kind, WallState::Hard, how)
        } else {
            FoundWall::new(kind, WallState::Soft, self.why(kind, soft))
        }
    }

    /// A limit: by a cgroup, or by something softer.
    fn limit(&self, kind: WallKind, by_group: bool, soft: &str) -> FoundWall {
        const ADVICE: &str =
            "for a hard limit start as root, or in a systemd unit or session with Delegate=yes (cgroup v2)";
        if self.config.off.contains(&kind) {
            return FoundWall::new(kind, WallState::Missing, "turned off");
        }
        self.softens(kind, by_group, self.group, &format!("{soft}; {ADVICE}"))
    }
}

fn walls(maker: &Maker, config: &SpawnerConfig, features: u32, lost: &[(WallKind, String)]) -> Vec<FoundWall> {
    let settings = &maker.settings;
    let powers = maker.groups.powers();
    let group = if maker.groups.is_unified() { "cgroup v2" } else { "cgroup v1" };
    let judge = Judge { config, lost, group };
    let landlock = format!("ABI {}", landlock::abi());
    let tasks = if settings.user_namespace { "RLIMIT_NPROC in the user namespace" } else { "RLIMIT_NPROC" };
    let fixed = |kind, how: &str| FoundWall::new(kind, WallState::Hard, how);
    vec![
        judge.stands(
            WallKind::UserNamespace,
            settings.user_namespace,
            "one id mapped, which is not root",
            "set the sysctl user.max_user_namespaces above 0",
        ),
        fixed(WallKind::Mounts, "pivot_root onto a read-only root"),
        fixed(WallKind::Processes, "process, IPC and host name namespaces"),
        judge.stands(
            WallKind::Network,
            settings.network,
            "loopback only",
            "guests share the host's network; the kernel needs CONFIG_NET_NS",
        ),
        judge.softens(
            WallKind::Interception,
            features & feature::TPROXY != 0,
            "every TCP connection arrives (nftables, TPROXY)",
            "connections to ports 80 and 443 arrive, others are refused; load the modules nf_tables and nft_tproxy",
        ),
        judge.stands(WallKind::Seccomp, settings.seccomp, "seccomp program", "the kernel needs CONFIG_SECCOMP_FILTER"),
        judge.stands(
            WallKind::Landlock,
            features & feature::LANDLOCK != 0,
            &landlock,
            "needs Linux 5.13 with landlock in the lsm= list",
        ),
        judge.softens(
            WallKind::OwnUserId,
            maker.ids.is_some(),
            "each sandbox has a host id of its own",
            "sandboxes share the platform's id and are apart by namespaces only; start as root for own ids",
        ),
        judge.limit(WallKind::Memory, powers.memory, "watched every 12 ms, killed above the limit"),
        judge.limit(WallKind::Tasks, powers.tasks, tasks),
        judge.limit(WallKind::Cpu, powers.cpu, "niceness only"),
        judge.stands(WallKind::Tmp, !config.off.contains(&WallKind::Tmp), &maker.tmps.describe(), ""),
    ]
}
