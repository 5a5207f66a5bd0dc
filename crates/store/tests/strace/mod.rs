//! Running this test binary's children under `strace`: every system call on files recorded, and some made to fail.

#![allow(dead_code, reason = "not every test program uses all of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Every call that changes a file, a name or what is durable of them.
const CALLS: &str = "openat,creat,write,pwrite64,pwritev,pwritev2,ftruncate,fallocate,fsync,fdatasync,sync_file_range,\
     rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir";

/// What ends the child at the ignored test `child` of this binary.
pub fn child() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture", "--quiet"]);
    command
}

/// Runs `command` under strace, which records the file calls of all its threads, data in full, into `trace`. Each of
/// `inject` is an argument of `--inject`.
pub fn recorded(command: &Command, trace: &Path, inject: &[String]) -> Command {
    let mut strace = base_command();
    // Longer than any single write; paths beside the numbers of files.
    strace.args(["-y", "-s", "16777216", "-o"]).arg(trace).arg(format!("--trace={CALLS}"));
    strace.args(inject.iter().map(|inject| format!("--inject={inject}")));
    append(strace, command)
}

/// Runs `command` under strace with failures injected, but only into calls on the files `of`. Without a record.
pub fn injected(command: &Command, of: &[PathBuf], inject: &[String]) -> Command {
    let mut strace = base_command();
    strace.args(["-o", "/dev/null"]).arg(format!("--trace={CALLS}"));
    for path in of {
        strace.arg("-P").arg(path);
    }
    strace.args(inject.iter().map(|inject| format!("--inject={inject}")));
    append(strace, command)
}

fn base_command() -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "--seccomp-bpf"]);
    strace
}

fn append(mut strace: Command, command: &Command) -> Command {
    strace.arg("--").arg(command.get_program()).args(command.get_args());
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace
}

/// Says what is missing where strace cannot work.
pub fn require() {
    let mut probe = append(base_command(), &Command::new("true"));
    match probe.stdout(Stdio::null()).stderr(Stdio::piped()).output() {
        Err(error) => {
            panic!("this test needs the program strace ({error}): run scripts/setup.sh, or apt-get install strace")
        }
        Ok(done) => assert!(
            done.status.success(),
            "this test needs ptrace, which is not permitted here (in a container: --cap-add SYS_PTRACE): {}",
            String::from_utf8_lossy(&done.stderr)
        ),
    }
}

/// A folder in memory, where there is room: what a flush costs there does not matter to these tests.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).map_or(0, |found| found.f_bavail.saturating_mul(found.f_frsize));
    let made = if room > 2 << 30 { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).unwrap()
}
