//! What a forked guest does to give up everything, as data: system calls that it makes one after another.
//!
//! A guest that is executed by the spawner's own fork gives everything up before exec (`child::lock_down`). A fork of a
//! zygote is in the middle of an interpreter, which knows how to make a system call and nothing of walls; so what it has to
//! call is made here, once, and lies in a memory file that every zygote reads. Whether a guest has done it is looked at
//! from outside, before it gets anything (`assign`).
//!
//! The file is JSON: `{"calls": [[number, must, keep, at, [[kind, value] × 6]]], "pointers": [[at, to]], "memory":
//! hexadecimal}`. `memory` is copied to a place of its own; to the eight bytes at `at` of each
//! pointer the address of `to` is written. An argument is a number (kind 0), an address within `memory` (1), or the result
//! of the call that was kept under this number (2). A result is kept if `keep` is not negative, and its lower four bytes
//! are written to `memory` at `at` if that is not negative. Where a call that `must` fails, the guest ends.
//!
//! Invariant: after the last call the guest has no capability, cannot get one, and runs under both filters.
//!
//! Start reading at `program`.

use libc::{c_int, c_long, sock_filter};
use serde_json::{Value, json};

use super::child::{INNER_GID, INNER_UID, OPEN_FILES, TASKS};
use super::landlock;

/// An argument of a call.
#[derive(Debug, Clone, Copy)]
enum Argument {
    Number(i64),
    /// An offset within `memory`.
    Address(usize),
    /// What an earlier call answered.
    Kept(usize),
}

use Argument::{Address, Kept, Number};

/// What differs between hosts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) landlock_abi: u32,
    pub(crate) limit_tasks: bool,
    pub(crate) niceness: c_int,
    /// The highest number of a capability.
    pub(crate) last_capability: i64,
    pub(crate) seccomp: &'a [sock_filter],
}

#[derive(Default)]
struct Calls {
    calls: Vec<Value>,
    pointers: Vec<Value>,
    memory: Vec<u8>,
    kept: usize,
}

impl Calls {
    /// Puts bytes at a place that any structure may lie at.
    fn bytes(&mut self, bytes: &[u8]) -> usize {
        self.memory.resize(self.memory.len().next_multiple_of(16), 0);
        let at = self.memory.len();
        self.memory.extend_from_slice(bytes);
        at
    }

    fn call(&mut self, number: c_long, must: bool, arguments: &[Argument]) {
        self.push(number, must, -1, -1, arguments);
    }

    /// A call whose result is used later; written to `memory` as well, if `at` says where.
    fn keep(&mut self, number: c_long, at: Option<usize>, arguments: &[Argument]) -> usize {
        let kept = self.kept;
        self.kept += 1;
        self.push(number, true, kept as i64, at.map_or(-1, |at| at as i64), arguments);
        kept
    }

    fn push(&mut self, number: c_long, must: bool, keep: i64, at: i64, arguments: &[Argument]) {
        let mut all = [Number(0); 6];
        all[..arguments.len()].copy_from_slice(arguments);
        let all: Vec<Value> = all
            .iter()
            .map(|argument| match argument {
                Number(value) => json!([0, value]),
                Address(at) => json!([1, at]),
                Kept(index) => json!([2, index]),
            })
            .collect();
        self.calls.push(json!([number, must, keep, at, all]));
    }

    fn limit(&mut self, resource: u32, value: u64) {
        let at = self.bytes(&[value.to_ne_bytes(), value.to_ne_bytes()].concat());
        let arguments = [Number(0), Number(i64::from(resource)), Address(at), Number(0)];
        self.call(libc::SYS_prlimit64, true, &arguments);
    }

    fn prctl(&mut self, must: bool, option: c_int, first: i64) {
        self.call(libc::SYS_prctl, must, &[Number(i64::from(option)), Number(first)]);
    }

    fn confine(&mut self, abi: u32) {
        let attributes = self.bytes(&landlock::attributes(abi));
        let size = landlock::ATTRIBUTES_BYTES as i64;
        let ruleset =
            self.keep(libc::SYS_landlock_create_ruleset, None, &[Address(attributes), Number(size), Number(0)]);
        for (path, access) in landlock::rules(abi) {
            let name = self.bytes(path.to_bytes_with_nul());
            let rule = self.bytes(&landlock::rule(access));
            let flags = i64::from(libc::O_PATH | libc::O_CLOEXEC);
            let open = [Number(i64::from(libc::AT_FDCWD)), Address(name), Number(flags), Number(0)];
            let folder = self.keep(libc::SYS_openat, Some(rule + landlock::RULE_FOLDER_AT), &open);
            let add = [Kept(ruleset), Number(landlock::RULE_PATH_BENEATH), Address(rule), Number(0)];
            self.call(libc::SYS_landlock_add_rule, true, &add);
            self.call(libc::SYS_close, true, &[Kept(folder)]);
        }
        self.call(libc::SYS_landlock_restrict_self, true, &[Kept(ruleset), Number(0)]);
        self.call(libc::SYS_close, true, &[Kept(ruleset)]);
    }

    /// Empties every set of capabilities.
    fn drop_capabilities(&mut self, last: i64) {
        for capability in 0..=last {
            self.prctl(true, libc::PR_CAPBSET_DROP, capability);
        }
        self.prctl(true, libc::PR_CAP_AMBIENT, i64::from(libc::PR_CAP_AMBIENT_CLEAR_ALL));
        const VERSION_3: u32 = 0x2008_0522;
        let header = self.bytes(&[VERSION_3.to_ne_bytes(), 0u32.to_ne_bytes()].concat());
        let none = self.bytes(&[0; 24]);
        self.call(libc::SYS_capset, true, &[Address(header), Address(none)]);
    }

    fn filter(&mut self, program: &[sock_filter]) {
        let mut code = Vec::with_capacity(program.len() * 8);
        for step in program {
            code.extend_from_slice(&step.code.to_ne_bytes());
            code.extend_from_slice(&[step.jt, step.jf]);
            code.extend_from_slice(&step.k.to_ne_bytes());
        }
        let code = self.bytes(&code);
        let mut description = [0; 16];
        description[..2].copy_from_slice(&(program.len() as u16).to_ne_bytes());
        let description = self.bytes(&description);
        self.pointers.push(json!([description + 8, code]));
        let arguments = [Number(i64::from(libc::SECCOMP_SET_MODE_FILTER)), Number(0), Address(description)];
        self.call(libc::SYS_seccomp, true, &arguments);
    }
}

/// The file's text.
pub(crate) fn program(entry: Entry<'_>) -> String {
    let mut calls = Calls::default();
    let (uid, gid) = (Number(i64::from(INNER_UID)), Number(i64::from(INNER_GID)));
    calls.call(libc::SYS_setresgid, true, &[gid, gid, gid]);
    calls.call(libc::SYS_setresuid, true, &[uid, uid, uid]);
    calls.limit(libc::RLIMIT_NOFILE, OPEN_FILES);
    calls.limit(libc::RLIMIT_CORE, 0);
    if entry.limit_tasks {
        calls.limit(libc::RLIMIT_NPROC, TASKS);
    }
    calls.prctl(true, libc::PR_SET_NO_NEW_PRIVS, 1);
    if entry.landlock_abi > 0 {
        calls.confine(entry.landlock_abi);
    }
    // Priority is no wall.
    let process = i64::from(libc::PRIO_PROCESS);
    calls.call(libc::SYS_setpriority, false, &[Number(process), Number(0), Number(i64::from(entry.niceness))]);
    calls.drop_capabilities(entry.last_capability);
    // As after an exec: what is in `/proc` about the guest belongs to the guest.
    calls.prctl(true, libc::PR_SET_DUMPABLE, 1);
    if !entry.seccomp.is_empty() {
        calls.filter(entry.seccomp);
    }
    let memory: String = calls.memory.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({"calls": calls.calls, "pointers": calls.pointers, "memory": memory}).to_string()
}
