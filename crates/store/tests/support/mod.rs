//! A real PostgreSQL server for tests: made in a folder of its own, reached by a unix socket there, ended with the tests.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The server refuses to run as root; this is nobody.
const NOBODY: u32 = 65_534;

/// A running server with its folder.
pub struct Server {
    folder: PathBuf,
    /// Of the unix socket too.
    port: u16,
    programs: PathBuf,
    /// Closed when the test's process ends, however it ends: the server's keeper waits for that.
    _alive: ChildStdin,
    keeper: Child,
}

/// The server that all tests of a program share. It ends after them.
#[allow(dead_code, reason = "not every test program does this")]
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

/// The name of a schema that no other test uses.
#[allow(dead_code, reason = "not every test program does this")]
pub fn fresh_schema() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("dunlin_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Server {
    /// Makes a database cluster and starts a server on it, which is reached by a unix socket alone.
    #[allow(dead_code, reason = "not every test program does this")]
    pub fn start() -> Self {
        Self::start_with("listen_addresses = ''", 5432, |_| ())
    }

    /// The same with settings (lines of `postgresql.conf`) and a port of its own. `prepare` puts what they name into the
    /// folder of the cluster.
    pub fn start_with(settings: &str, port: u16, prepare: impl FnOnce(&Path)) -> Self {
        let programs = programs();
        let folder = tempfile::Builder::new().prefix("dunlin-pg-").tempdir().unwrap().keep();
        let root = is_root();
        if root {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = folder.join("data");
        let made = unprivileged(Command::new(programs.join("initdb")), root)
            .args(["-A", "trust", "-U", "dunlin", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .env("HOME", &folder)
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let common = "max_connections = 200\nshared_buffers = 32MB\n";
        let sockets = format!("port = {port}\nunix_socket_directories = '{}'\n", folder.display());
        fs::write(data.join("postgresql.auto.conf"), format!("{common}{sockets}{settings}\n")).unwrap();
        prepare(&data);
        for entry in fs::read_dir(&data).unwrap().flatten().filter(|_| root) {
            chown(entry.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let (keeper, alive) = keep(&programs, &folder, root);
        let server = Self { folder, port, programs, _alive: alive, keeper };
        server.wait_until_ready();
        server
    }

    /// The address of its database.
    pub fn url(&self) -> String {
        format!("host={} port={} user=dunlin dbname=postgres", self.folder.display(), self.port)
    }

    /// The unix socket of the server.
    #[allow(dead_code, reason = "not every test program does this")]
    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port))
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.is_ready() {
            assert!(Instant::now() < deadline, "PostgreSQL did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let mut check = Command::new(self.programs.join("pg_isready"));
        check
            .arg("-q")
            .arg("-h")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string()])
            .status()
            .is_ok_and(|status| status.success())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Kills the server as a power failure would end it, and starts it again.
    #[allow(dead_code, reason = "not every test program does this")]
    pub fn crash(&self) {
        let pid = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        let pid = pid.lines().next().unwrap().to_owned();
        // Its keeper starts another one.
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        let deadline = Instant::now() + Duration::from_secs(30);
        let restarted = || {
            let now = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
            now.lines().next().is_some_and(|line| line != pid) && self.is_ready()
        };
        while !restarted() {
            assert!(Instant::now() < deadline, "PostgreSQL did not come back: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A program that follows a server's log into a folder, as a replica does; ended with this.
#[allow(dead_code, reason = "not every test program does this")]
pub struct Follower {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Follower {
    /// Makes it stand still, or go on.
    #[allow(dead_code, reason = "not every test program does this")]
    pub fn stand_still(&self, still: bool) {
        let signal = if still { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts a follower of this server, which flushes what it gets at once.
    #[allow(dead_code, reason = "not every test program does this")]
    pub fn follower(&self, name: &str) -> Follower {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(self.programs.join("pg_receivewal"));
        command.args(["--no-password", "--synchronous", "-D"]).arg(folder.path());
        command.arg("-d").arg(format!("{} application_name={name}", self.url())).stderr(Stdio::null());
        Follower { process: command.spawn().unwrap(), _folder: folder }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Ends it at once; its folder goes with it.
        let _ = Command::new("kill").arg(self.keeper.id().to_string()).status();
        let _ = self.keeper.wait();
    }
}

/// A shell that runs the server again and again until its input ends: then it ends the server and removes the folder.
fn keep(programs: &Path, folder: &Path, root: bool) -> (Child, ChildStdin) {
    let script = r#"
        end() { trap - TERM; kill -QUIT "$server" 2>/dev/null; wait "$server"; rm -rf "$FOLDER"; exit 0; }
        trap end TERM
        run() {
            "$PROGRAMS/postgres" -D "$FOLDER/data" </dev/null >>"$FOLDER/log" 2>&1 &
            server=$!
        }
        run
        (while read -r _; do :; done; kill -TERM $$) <&3 3<&- &
        exec 3<&-
        while :; do wait "$server"; run; done
    "#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec 3<&0; {script}"));
    let mut child = unprivileged(command, root)
        .env("PROGRAMS", programs)
        .env("FOLDER", folder)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let alive = child.stdin.take().unwrap();
    (child, alive)
}

fn unprivileged(mut command: Command, root: bool) -> Command {
    if root {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// A port of this machine that nobody listens on.
#[allow(dead_code, reason = "not every test program does this")]
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t"))
}

/// The newest server on this machine.
fn programs() -> PathBuf {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder): &(u32, PathBuf)| folder.join("initdb").exists())
        .collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found
        .extend(std::env::split_paths(&path).filter(|folder| folder.join("initdb").exists()).map(|folder| (0, folder)));
    found.sort();
    found.pop().expect("PostgreSQL is not on this machine: run scripts/setup.sh, or apt-get install postgresql").1
}
