//! Zygotes: guests that are forked into sandboxes of their own, and what each of them is left with.
//!
//! The guests are the platform's own Python guest (`runtimes/python`); what they try is written in Python as well.

use std::fs;
use std::time::{Duration, Instant};

use model::{CodeDigest, Family};
use sandbox::process::{ProcessBackend, SpawnerConfig};
use sandbox::{Assignment, Backend, Error, Guest, SandboxSpec, Started};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Check;
use super::service::{no_python, python};
use super::world::{World, digest, expect, wait_until};

pub const CHECKS: &[(&str, Check)] = &[
    ("a zygote forks guests into sandboxes of their own", forks),
    ("a fork has given up what every guest gives up", given_up),
    ("a fork of a process that has run a function's init has given it up as well", given_up_after_init),
    ("a fork has the privileges and limits of a guest that is executed", same),
    ("a fork of a process that has run a function's init has them as well", same_after_init),
    ("forks know nothing of each other", apart),
    ("forks of a process that has run a function's init know nothing of each other", apart_after_init),
    ("forks have no descriptor of the init's", descriptors_after_init),
    ("an init that leaves more than memory makes no zygote", unfit),
    ("an init that lies to the platform gains nothing", lying_init),
    ("a fork that keeps something gets nothing", kept),
    ("the end of a zygote is not the end of its forks", outlived),
    ("a fork's end is told, and nothing of it stays", ended),
    ("a dead zygote forks no more", dead),
    ("a zygote is no function", no_function),
    ("a layer's modules are found that were looked for before it was there", late_layer),
    ("a zygote imports what others wrote, and nothing of the function's own", dependencies),
    ("imports that leave something behind make no zygote", unforkable),
];

const LOAD: u8 = 1;
const INVOKE: u8 = 2;
const READY: u8 = 16;
const RESPONSE: u8 = 18;
const PREPARE: u8 = 3;
const BOOTED: u8 = 15;
const READ: u8 = 24;
const UNFIT: u8 = 25;

const FILES: &[(&str, &str)] = &[
    ("dunlin_cache.py", include_str!("../../../../runtimes/python/dunlin_cache.py")),
    ("dunlin_guest.py", include_str!("../../../../runtimes/python/dunlin_guest.py")),
    ("dunlin_logs.py", include_str!("../../../../runtimes/python/dunlin_logs.py")),
    ("dunlin_rehearsal.py", include_str!("../../../../runtimes/python/dunlin_rehearsal.py")),
    ("dunlin_snapshot.py", include_str!("../../../../runtimes/python/dunlin_snapshot.py")),
    ("dunlin_zygote.py", include_str!("../../../../runtimes/python/dunlin_zygote.py")),
    ("snapshot_restore_py.py", include_str!("../../../../runtimes/python/snapshot_restore_py.py")),
    ("bootstrap.py", include_str!("../../../../runtimes/python/bootstrap.py")),
    ("zygote.py", include_str!("../../../../runtimes/python/zygote.py")),
];

/// A function that evaluates the event's text, after a definition of what attempts need.
const EVALUATE: &str = r#"
import os, sys, socket, json, ctypes, signal

def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)

def errno_of(call):
    try:
        return ["done", call()]
    except OSError as error:
        return error.errno

def handler(event, context):
    return eval(event, globals())
"#;

fn config(world: &World) -> SpawnerConfig {
    for (name, text) in FILES {
        fs::write(world.path("runtime/python").join(name), text).unwrap();
    }
    let mut config = world.config(&[]);
    config.interpreters.push(python());
    config
}

fn spec(world: &World, guest: Guest) -> SandboxSpec {
    SandboxSpec { guest, code: None, ..world.spec(&[("PATH", "/usr/bin:/bin")]) }
}

fn words(error: Error) -> String {
    error.to_string()
}

/// A sandbox with a guest that speaks frames.
struct Spoken {
    started: Started,
    /// What a zygote says that its imports looked at.
    read: Option<String>,
}

impl Spoken {
    async fn start(backend: &ProcessBackend, spec: SandboxSpec) -> Result<Self, String> {
        let mut this = Self { started: backend.start(spec).await.map_err(words)?, read: None };
        let (kind, _) = this.frame().await?;
        expect("the first frame", kind, BOOTED)?;
        Ok(this)
    }

    async fn zygote(world: &World, backend: &ProcessBackend) -> Result<Self, String> {
        Self::prepared(backend, spec(world, Guest::Zygote { family: Family::Python, interpreter: 0 }), json!({})).await
    }

    async fn prepared(backend: &ProcessBackend, spec: SandboxSpec, order: Value) -> Result<Self, String> {
        let mut this = Self { started: backend.start(spec).await.map_err(words)?, read: None };
        this.send(PREPARE, order.to_string().as_bytes()).await;
        let (mut kind, mut body) = this.frame().await?;
        if kind == READ {
            this.read = Some(String::from_utf8(body).unwrap());
            (kind, body) = this.frame().await?;
        }
        expect("the first frame", (kind, body.len()), (BOOTED, 0))?;
        Ok(this)
    }

    async fn fork(&self, world: &World, backend: &ProcessBackend) -> Result<Self, String> {
        Self::start(backend, spec(world, Guest::Fork { zygote: self.started.control.id() })).await
    }

    async fn frame(&mut self) -> Result<(u8, Vec<u8>), String> {
        let channel = &mut self.started.channel;
        // A short frame is one message, which one read takes whole.
        let mut frame = vec![0; 64 * 1024];
        // Not `read`: what it leaves in the socket it would not look for again, as it does not know that messages have bounds.
        let read = loop {
            channel.readable().await.map_err(|error| error.to_string())?;
            match channel.try_read(&mut frame) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => break read,
            }
        };
        match read {
            Ok(length) if length >= 5 => frame.truncate(length),
            other => return Err(format!("no frame: {other:?}; output: {}", self.output().await)),
        }
        Ok((frame[4], frame.split_off(5)))
    }

    async fn output(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(2), self.started.output.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn send(&mut self, kind: u8, body: &[u8]) {
        let mut frame = (body.len() as u32 + 1).to_le_bytes().to_vec();
        frame.push(kind);
        frame.extend_from_slice(body);
        self.started.channel.write_all(&frame).await.unwrap();
    }

    async fn assign(&self, code: &CodeDigest) -> Result<(), String> {
        self.assign_with(code, Vec::new()).await
    }

    async fn assign_with(&self, code: &CodeDigest, layers: Vec<CodeDigest>) -> Result<(), String> {
        let (memory_bytes, tmp_bytes) = (200 << 20, 700 << 20);
        let assignment = Assignment { code: Some(code.clone()), layers, memory_bytes, tmp_bytes, occupant: None };
        self.started.control.assign(&assignment).await.map_err(words)
    }

    /// Assigns the function that evaluates, and has it loaded.
    async fn load(&mut self, code: &CodeDigest) -> Result<(), String> {
        self.load_handler(code, "index.handler").await
    }

    async fn load_handler(&mut self, code: &CodeDigest, handler: &str) -> Result<(), String> {
        self.assign(code).await?;
        self.load_assigned(handler).await
    }

    async fn load_assigned(&mut self, handler: &str) -> Result<(), String> {
        let load = json!({"root": "/var/task", "handler": handler, "environment": {"MARK": "its own"}});
        self.send(LOAD, load.to_string().as_bytes()).await;
        let (kind, body) = self.frame().await?;
        if kind == READY { Ok(()) } else { Err(format!("{kind}: {}", String::from_utf8_lossy(&body))) }
    }

    async fn evaluate(&mut self, expression: &str) -> Result<Value, String> {
        let meta = json!({"requestId": "1", "deadlineMs": 0, "functionArn": "arn"}).to_string();
        let mut body = (meta.len() as u32).to_le_bytes().to_vec();
        body.extend_from_slice(meta.as_bytes());
        body.extend_from_slice(json!(expression).to_string().as_bytes());
        self.send(INVOKE, &body).await;
        let (kind, body) = self.frame().await?;
        if kind != RESPONSE {
            return Err(format!("{kind}: {}", String::from_utf8_lossy(&body)));
        }
        // How long it took, then the length of the answer's type.
        let (_, rest) = body.split_first_chunk::<4>().ok_or("a short answer")?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or("a short answer")?;
        serde_json::from_slice(&rest[u32::from_le_bytes(*length) as usize..]).map_err(|error| error.to_string())
    }

    async fn expect(&mut self, expression: &str, wanted: Value) -> Result<(), String> {
        let found = self.evaluate(expression).await?;
        expect(expression, found, wanted)
    }
}

/// Runs a check with a zygote, and the digest of the function that evaluates.
fn with_zygote(
    world: &World,
    check: impl AsyncFnOnce(&ProcessBackend, Spoken, CodeDigest) -> Result<(), String>,
) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    let code = world.add_code('0', "index.py", EVALUATE);
    world.with_backend(&config(world), async |backend| {
        let zygote = Spoken::zygote(world, backend).await?;
        check(backend, zygote, code).await
    })
}

fn forks(world: &World) -> Result<(), String> {
    with_zygote(world, async |backend, zygote, code| {
        let mut took = Vec::new();
        for _ in 0..10 {
            let began = Instant::now();
            let mut fork = zygote.fork(world, backend).await?;
            let forked = began.elapsed();
            fork.load(&code).await?;
            took.push((forked, began.elapsed() - forked));
            fork.expect("1 + 1", json!(2)).await?;
            fork.expect("[os.getpid(), os.getppid()]", json!([3, 1])).await?;
            fork.expect("[os.getuid(), os.getgid()]", json!([993, 990])).await?;
            fork.expect("sorted(os.listdir('/var/task'))", json!(["index.py"])).await?;
            fork.expect("os.environ['MARK']", json!("its own")).await?;
            fork.expect("os.getcwd()", json!("/var/task")).await?;
            fork.expect("open('/tmp/x', 'w').write('mine')", json!(4)).await?;
            // An image on the disk keeps back what the sandbox may not use, but for a few blocks.
            let room = "699 <= os.statvfs('/tmp').f_bavail * os.statvfs('/tmp').f_frsize >> 20 <= 701";
            fork.expect(room, json!(true)).await?;
            let interfaces = "[name for _, name in socket.if_nameindex()]";
            fork.expect(interfaces, json!(["lo"])).await?;
        }
        took.sort();
        println!("    fork and load, medians: {:?}", took[5]);
        Ok(())
    })
}

/// The same with a zygote that has run the init of that function, after `init`.
fn with_snapshot(
    world: &World,
    init: &str,
    check: impl AsyncFnOnce(&ProcessBackend, Spoken, CodeDigest) -> Result<(), String>,
) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    let code = world.add_code('0', "index.py", &format!("{EVALUATE}\n{init}"));
    let done = world.with_backend(&config(world), async |backend| {
        let zygote = Spoken::prepared(backend, preparing(world, &code), snapshot_order()).await?;
        check(backend, zygote, code.clone()).await
    });
    world.add_code('0', "index.py", EVALUATE);
    done
}

fn snapshot_order() -> Value {
    json!({"root": "/var/task", "handler": "index.handler", "snapshot": true})
}

type Checked<'a> = (&'a ProcessBackend, Spoken, CodeDigest);

fn given_up(world: &World) -> Result<(), String> {
    with_zygote(world, async |backend, zygote, code| fork_has_given_up(world, (backend, zygote, code)).await)
}

fn given_up_after_init(world: &World) -> Result<(), String> {
    with_snapshot(world, "", async |backend, zygote, code| fork_has_given_up(world, (backend, zygote, code)).await)
}

async fn fork_has_given_up(world: &World, (backend, zygote, code): Checked<'_>) -> Result<(), String> {
    let mut fork = zygote.fork(world, backend).await?;
    fork.load(&code).await?;
    let sets = "[int(status()[name], 16) for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')]";
    fork.expect(sets, json!([0, 0, 0, 0, 0])).await?;
    fork.expect("[status()['NoNewPrivs'], status()['Seccomp']]", json!(["1", "2"])).await?;
    fork.expect("sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:4]", json!([0, 1, 2, 3])).await?;
    fork.expect("len(os.listdir('/proc/self/fd'))", json!(5)).await?;
    let limits = "[__import__('resource').getrlimit(kind) for kind in (7, 4)]";
    fork.expect(limits, json!([[1024, 1024], [0, 0]])).await?;
    for (attempt, errno) in [
        ("errno_of(lambda: open('/x', 'w'))", json!(libc::EROFS)),
        ("errno_of(lambda: open('/var/task/x', 'w'))", json!(libc::EROFS)),
        ("errno_of(lambda: os.kill(1, 9))", json!(libc::EPERM)),
        ("errno_of(lambda: open('/proc/1/mem', 'rb'))", json!(libc::EACCES)),
    ] {
        fork.expect(attempt, errno).await?;
    }
    let calls = "[(ctypes.CDLL(None, use_errno=True).syscall(*call), ctypes.get_errno())[1] for call in %s]";
    // setns, unshare, mount, clone of a user namespace, bpf: what a zygote may and more.
    let attempted =
        "[(308, 0, 0), (272, 0x10000000), (165, 0, 0, 0, 0, 0), (56, 0x10000011, 0, 0, 0, 0), (321, 0, 0, 0)]";
    if cfg!(target_arch = "x86_64") {
        fork.expect(&calls.replace("%s", attempted), json!([1, 1, 1, 1, 1])).await?;
    }
    Ok(())
}

fn same(world: &World) -> Result<(), String> {
    with_zygote(world, async |backend, zygote, code| fork_is_like_executed(world, (backend, zygote, code)).await)
}

fn same_after_init(world: &World) -> Result<(), String> {
    with_snapshot(world, "", async |backend, zygote, code| fork_is_like_executed(world, (backend, zygote, code)).await)
}

/// `entry` and `child` list the same walls, each for its own way into a sandbox.
async fn fork_is_like_executed(world: &World, (backend, zygote, code): Checked<'_>) -> Result<(), String> {
    let guest = Guest::Interpreter { family: Family::Python, interpreter: 0, memory_mb: 200, wrapper: None };
    let mut executed = Spoken::start(backend, spec(world, guest)).await?;
    let mut forked = zygote.fork(world, backend).await?;
    executed.load(&code).await?;
    forked.load(&code).await?;
    let names = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups"];
    for looked_at in [
        format!("[status()[name] for name in {}]", json!(names)),
        "[__import__('resource').getrlimit(kind) for kind in range(16)]".into(),
        "os.getpriority(os.PRIO_PROCESS, 0)".into(),
        "ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)".into(),
        "[errno_of(lambda: os.listdir(path)) for path in ('/proc/1/root', '/proc/sys', '/dev', '/tmp')]".into(),
    ] {
        let wanted = executed.evaluate(&looked_at).await?;
        forked.expect(&looked_at, wanted).await?;
    }
    Ok(())
}

fn apart(world: &World) -> Result<(), String> {
    with_zygote(world, async |backend, zygote, code| forks_are_apart(world, (backend, zygote, code)).await)
}

/// All that an init could have begun that random numbers come from is begun.
fn apart_after_init(world: &World) -> Result<(), String> {
    let init =
        "import random, ssl, tempfile, uuid\nrandom.random(), ssl.RAND_bytes(8), uuid.uuid4(), tempfile.mktemp()\n";
    with_snapshot(world, init, async |backend, zygote, code| forks_are_apart(world, (backend, zygote, code)).await)
}

async fn forks_are_apart(world: &World, (backend, zygote, code): Checked<'_>) -> Result<(), String> {
    let mut one = zygote.fork(world, backend).await?;
    let mut two = zygote.fork(world, backend).await?;
    one.load(&code).await?;
    two.load(&code).await?;
    one.expect("open('/tmp/secret', 'w').write('one')", json!(3)).await?;
    one.expect("globals().__setitem__('secret', 'one')", Value::Null).await?;
    two.expect("os.listdir('/tmp')", json!([])).await?;
    two.expect("globals().get('secret')", Value::Null).await?;
    two.expect("sorted(int(pid) for pid in os.listdir('/proc') if pid.isdigit())", json!([1, 3])).await?;
    for expression in [
        "os.urandom(8).hex()",
        "__import__('random').random()",
        "__import__('uuid').uuid4().hex",
        "__import__('ssl').RAND_bytes(8).hex()",
        "__import__('tempfile').mktemp()",
    ] {
        let (first, second) = (one.evaluate(expression).await?, two.evaluate(expression).await?);
        expect(expression, first == second, false)?;
    }
    for namespace in ["user", "mnt", "pid", "net", "ipc", "uts"] {
        let link = format!("os.readlink('/proc/self/ns/{namespace}')");
        let (first, second) = (one.evaluate(&link).await?, two.evaluate(&link).await?);
        expect(&link, first == second, false)?;
    }
    let listen =
        "(globals().__setitem__('held', socket.socket(socket.AF_UNIX)), held.bind('\\0abstract'), held.listen())[0]";
    one.expect(listen, Value::Null).await?;
    let connect = "errno_of(lambda: socket.socket(socket.AF_UNIX).connect('\\0abstract'))";
    two.expect(connect, json!(libc::ECONNREFUSED)).await
}

/// Connections of the init have ended, files have places of their own, and nothing else is there.
fn descriptors_after_init(world: &World) -> Result<(), String> {
    let init = "\
import threading
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname())
other = server.accept()[0]
server.close()
file = open('/etc/passwd', 'rb', buffering=0)
FIRST = file.read(4).decode()
null = open('/dev/null', 'w')
";
    with_snapshot(world, init, async |backend, zygote, code| {
        let mut one = zygote.fork(world, backend).await?;
        let mut two = zygote.fork(world, backend).await?;
        one.load(&code).await?;
        two.load(&code).await?;
        for fork in [&mut one, &mut two] {
            fork.expect("[client.recv(1).decode(), other.recv(1).decode()]", json!(["", ""])).await?;
            fork.expect("errno_of(lambda: client.send(b'x'))", json!(libc::EPIPE)).await?;
            fork.expect("[file.tell(), FIRST, null.write('x')]", json!([4, "root", 1])).await?;
        }
        one.expect("file.read(1).decode()", json!(":")).await?;
        two.expect("file.tell()", json!(4)).await?;
        // The channel, the output twice, the input, the listing, and what is named above.
        two.expect("len(os.listdir('/proc/self/fd'))", json!(9)).await
    })
}

fn unfit(world: &World) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    let done = world.with_backend(&config(world), async |backend| {
        for (init, wanted) in [
            (
                "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
                "a thread",
            ),
            // A program has begun a moment before its process has its name.
            (
                "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\n\
                 while open('/proc/%d/comm' % child.pid).read() != 'sleep\\n': pass",
                "a process (sleep)",
            ),
            // The one between has begun the other and ended when the init ends, and nobody has taken note.
            (
                "child = os.fork() or (os.setsid(), os.fork() and os._exit(0), __import__('time').sleep(60))\n\
                 os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)",
                "processes",
            ),
            ("open('/tmp/x', 'w').close()", "files in /tmp: x"),
            ("pair = socket.socketpair()", "something open: socket:["),
            ("datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "something open: socket:["),
            ("server = socket.create_server(('127.0.0.1', 0))", "something open: socket:["),
            ("ends = os.pipe()", "something open: pipe:["),
            ("import mmap\nshared = mmap.mmap(-1, 4096)", "memory that processes share"),
            ("import signal\nsignal.alarm(60)", "a timer"),
        ] {
            let code = world.add_code('0', "index.py", &format!("{EVALUATE}\n{init}\n"));
            let mut zygote =
                Spoken { started: backend.start(preparing(world, &code)).await.map_err(words)?, read: None };
            zygote.send(PREPARE, snapshot_order().to_string().as_bytes()).await;
            let (kind, body) = zygote.frame().await?;
            let reason = String::from_utf8_lossy(&body).into_owned();
            expect(init, (kind, reason.contains(wanted)), (UNFIT, true)).map_err(|why| format!("{why}: {reason}"))?;
            zygote.started.control.wait().await;
        }
        Ok(())
    });
    world.add_code('0', "index.py", EVALUATE);
    done
}

/// An init that has itself declared fit and lets its forks keep what they are to give up.
fn lying_init(world: &World) -> Result<(), String> {
    let init = "\
import dunlin_snapshot, dunlin_zygote, threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
dunlin_snapshot.obstacle = lambda known: (None, [])
dunlin_zygote.Entry.enter = lambda self: None
";
    with_snapshot(world, init, async |backend, zygote, code| {
        let error = match zygote.fork(world, backend).await {
            Ok(fork) => fork.assign(&code).await.err(),
            Err(why) => Some(why),
        };
        let error = error.ok_or("it kept everything and was given the function")?;
        expect("who found out", error.contains("verify"), true).map_err(|why| format!("{why}: {error}"))
    })
}

/// Zygotes whose forks leave something out, as code that was imported into one could make them.
fn kept(world: &World) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    let config = config(world);
    let path = world.path("runtime/python/dunlin_zygote.py");
    let text = fs::read_to_string(&path).unwrap();
    for (what, from, to) in [
        ("everything", "    entry.enter()\n", "    pass\n"),
        ("its second filter", "self.calls = order[\"calls\"]", "self.calls = order[\"calls\"][:-1]"),
        (
            "its bounding set",
            "        for number, must, keep, at, arguments in self.calls:\n",
            "        for number, must, keep, at, arguments in self.calls:\n            if number in (157, 167) and arguments[0][1] == 24:\n                continue\n",
        ),
        (
            "a process beside it",
            "            if copy_process() == 0:\n",
            "            if copy_process() == 0:\n                while True:\n                    time.sleep(1)\n            if copy_process() == 0:\n",
        ),
        (
            "the zygote's mounts",
            "                self.entry.must(SETNS, space)\n",
            "                space == spaces[1] or self.entry.must(SETNS, space)\n",
        ),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{what}");
        fs::write(&path, changed).unwrap();
        let done = world.with_backend(&config, async |backend| {
            let zygote = Spoken::zygote(world, backend).await?;
            match zygote.fork(world, backend).await {
                Ok(fork) => Ok(fork.assign(&digest('0')).await.err()),
                Err(why) => Ok::<_, String>(Some(why)),
            }
        });
        fs::write(&path, &text).unwrap();
        let error = done?.ok_or(format!("{what} was kept and the function given"))?;
        // Where a guest did not come up at all, its walls were not tried.
        expect(what, error.contains("verify"), true).map_err(|why| format!("{why}: {error}"))?;
    }
    Ok(())
}

fn outlived(world: &World) -> Result<(), String> {
    with_zygote(world, async |backend, zygote, code| {
        let mut fork = zygote.fork(world, backend).await?;
        fork.load(&code).await?;
        zygote.started.control.kill();
        // Dropped channels end nothing either.
        let control = zygote.started.control.clone();
        drop(zygote);
        tokio::time::timeout(Duration::from_millis(300), control.wait())
            .await
            .err()
            .ok_or("the zygote's sandbox is gone")?;
        fork.expect("1 + 1", json!(2)).await?;
        fork.started.control.kill();
        fork.started.control.wait().await;
        control.wait().await;
        Ok(())
    })
}

fn ended(world: &World) -> Result<(), String> {
    with_zygote(world, async |backend, zygote, code| {
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().count();
        let before = (mounts(), super::world::group_folders());
        for (expression, code_wanted, signal) in
            [("os._exit(7)", Some(7), None), ("signal.raise_signal(signal.SIGKILL)", None, Some(libc::SIGKILL))]
        {
            let mut fork = zygote.fork(world, backend).await?;
            fork.load(&code).await?;
            expect("it answers nothing", fork.evaluate(expression).await.is_err(), true)?;
            let exit = fork.started.control.wait().await;
            expect("its end", (exit.code, exit.signal), (code_wanted, signal))?;
        }
        // A guest that is done ends as an interpreter does.
        let mut fork = zygote.fork(world, backend).await?;
        fork.load(&code).await?;
        fork.started.channel.shutdown().await.unwrap();
        let exit = fork.started.control.wait().await;
        expect("a closed channel", (exit.code, exit.signal), (Some(0), None))?;
        wait_until("all is gone", || (mounts(), super::world::group_folders()) == before)
    })
}

fn dead(world: &World) -> Result<(), String> {
    with_zygote(world, async |backend, zygote, _| {
        zygote.started.control.kill();
        zygote.started.control.wait().await;
        let refused = backend.start(spec(world, Guest::Fork { zygote: zygote.started.control.id() })).await;
        expect("a fork of it", refused.is_err(), true)?;
        let refused = backend.start(spec(world, Guest::Fork { zygote: 1 << 50 })).await;
        expect("a fork of nobody", refused.is_err(), true)
    })
}

fn no_function(world: &World) -> Result<(), String> {
    with_zygote(world, async |backend, zygote, code| {
        expect("a zygote gets no code", zygote.assign(&code).await.is_err(), true)?;
        let plain = Spoken::start(
            backend,
            spec(world, Guest::Interpreter { family: Family::Python, interpreter: 0, memory_mb: 128, wrapper: None }),
        )
        .await?;
        let refused = backend.start(spec(world, Guest::Fork { zygote: plain.started.control.id() })).await;
        expect("a fork of a guest", refused.is_err(), true)?;
        plain.assign(&code).await
    })
}

/// A package as an installer leaves it, and a function that imports it.
fn with_package(world: &World, text: &str) -> CodeDigest {
    let code = world.add_code('0', "index.py", EVALUATE);
    world.add_code('0', "app.py", "import own\ntry:\n    import others.part\nexcept ImportError:\n    pass\n\ndef handler(event, context):\n    return eval(event, globals())\n");
    world.add_code('0', "own.py", "import os\nPID = os.getpid()\n");
    world.add_code('0', "others/__init__.py", text);
    world.add_code('0', "others/part.py", "import os\nWHERE = os.getpid()\n");
    world.add_code('0', "others-1.0.dist-info/RECORD", "others/__init__.py,,\nothers/part.py,,\n");
    code
}

fn preparing(world: &World, code: &CodeDigest) -> SandboxSpec {
    let guest = Guest::Zygote { family: Family::Python, interpreter: 0 };
    SandboxSpec { code: Some(code.clone()), ..spec(world, guest) }
}

fn without_package(world: &World) {
    for name in ["app.py", "own.py"] {
        fs::remove_file(world.code_folder(&digest('0')).join(name)).unwrap();
    }
    for name in ["others", "others-1.0.dist-info"] {
        fs::remove_dir_all(world.code_folder(&digest('0')).join(name)).unwrap();
    }
}

fn dependencies(world: &World) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    let code = with_package(world, "import os\nHOME = os.environ.get('COLOUR')\n");
    let order = json!({"root": "/var/task", "handler": "app.handler", "modules": ["others"]});
    let done = world.with_backend(&config(world), async |backend| {
        let mut spec = preparing(world, &code);
        spec.environment.push(("COLOUR".into(), "blue".into()));
        let zygote = Spoken::prepared(backend, spec, order).await?;
        let read: Value = serde_json::from_str(zygote.read.as_deref().unwrap_or("null")).unwrap_or_default();
        expect("the variables that were looked at", &read["variables"], &json!(["COLOUR"]))?;
        // Beside them the library's that were loaded ahead: a function's own ones of these names come before.
        let looked: Vec<&str> = read["modules"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let of = |names: &[&str]| names.iter().filter(|name| looked.contains(name)).count();
        expect("the modules that were looked for", (of(&["others", "random"]), of(&["app", "own"])), (2, 0))?;
        let mut fork = zygote.fork(world, backend).await?;
        fork.load_handler(&code, "app.handler").await?;
        // Process 2 of its own namespace imported the one, the guest the other.
        fork.expect(
            "[others.part.WHERE, own.PID, os.getpid() if 'os' in globals() else own.os.getpid()]",
            json!([2, 3, 3]),
        )
        .await?;
        fork.expect("others.HOME", json!("blue")).await?;
        fork.expect("sorted(own.os.listdir('/tmp'))", json!([])).await
    });
    without_package(world);
    done
}

fn unforkable(world: &World) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    for (what, text) in [
        ("a thread", "import threading, time\nthreading.Thread(target=time.sleep, args=(100,), daemon=True).start()\n"),
        ("a socket", "import socket\nHELD = socket.socket()\n"),
        ("a file in /tmp", "open('/tmp/left', 'w').close()\n"),
        ("a module of the function's own", "try:\n    import own\nexcept ImportError:\n    pass\n"),
    ] {
        let code = with_package(world, text);
        let order = json!({"root": "/var/task", "handler": "app.handler", "modules": ["others"]});
        let made = world.with_backend(&config(world), async |backend| {
            Spoken::prepared(backend, preparing(world, &code), order).await.map(drop)
        });
        without_package(world);
        expect(what, made.is_err(), true)?;
    }
    Ok(())
}

fn late_layer(world: &World) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    let code = world.add_code('0', "index.py", EVALUATE);
    let layer = world.add_code('e', "python/layered.py", "WHERE = 'a layer'\n");
    let cache = world.cache_folder(&layer);
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("made"), "of a layer").unwrap();
    world.with_backend(&config(world), async |backend| {
        let mut zygote = spec(world, Guest::Zygote { family: Family::Python, interpreter: 0 });
        zygote.environment.push(("PYTHONPATH".into(), "/opt/python".into()));
        let zygote = Spoken::prepared(backend, zygote, json!({})).await?;
        let mut fork = zygote.fork(world, backend).await?;
        fork.assign_with(&code, vec![layer]).await?;
        fork.load_assigned("index.handler").await?;
        fork.expect("__import__('layered').WHERE", json!("a layer")).await?;
        fork.expect("open('/var/cache/1/made').read()", json!("of a layer")).await
    })
}
