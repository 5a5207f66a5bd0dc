//! What a guest is promised: its programs, environment, folders, network, output, limits told as such.
//!
//! `guest` is what runs inside, `CHECKS` what is looked at from outside. What a machine lacks (a Python, TPROXY) is said
//! and left out.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use model::{CodeDigest, Family};
use sandbox::process::WallKind;
use sandbox::{Backend, Error, Guest, Interpreter, Started, WallState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Check;
use super::attempts::{ask, fork, sleep_for_ever};
use super::world::{NO_BOOTSTRAP, World, digest, expect, finish};

pub const CHECKS: &[(&str, Check)] = &[
    ("the environment is the given one and nothing else", environment),
    ("the guest is nobody in particular", identity),
    ("exit codes and signals are told", exits),
    ("a bootstrap below /opt runs where the code has none", opt_bootstrap),
    ("layers are merged, later ones first", layers),
    ("what was made of packages is seen beside them, read-only", caches),
    ("missing code and programs are told in words", missing),
    ("an interpreter speaks on descriptor 3", interpreter),
    ("a wrapper starts an interpreter behind the walls", wrapped),
    ("a private prefix reaches the guest at its own path", private_prefix),
    ("every connection and question arrives", network),
    ("without TPROXY ports 80 and 443 arrive", fallback_network),
    ("memory over the limit is told as such", out_of_memory),
    ("usage is measured", usage),
    ("/tmp is written and /var/task read", folders),
    ("standard streams can be opened by name, and pipes made", streams),
    ("the platform's certificates are trusted", trust),
    ("real programs run", programs),
    ("many sandboxes at once", many),
    ("a crowd of sandboxes", crowd),
    ("a required wall that does not stand refuses", required),
];

/// What the guest of these checks does.
pub fn guest(name: &str) -> Result<String, String> {
    match name {
        "environment" => {
            let mut all: Vec<String> = std::env::vars().map(|(key, value)| format!("{key}={value}")).collect();
            all.sort();
            Ok(all.join(" "))
        }
        "identity" => Ok(describe_identity()),
        "exit" => std::process::exit(7),
        "die" => {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
            sleep_for_ever()
        }
        "connect" => connect(),
        "spin" => spin(),
        "sleep" => {
            std::thread::sleep(Duration::from_secs(1000));
            Ok(String::new())
        }
        "orphans" => leave_orphans(),
        "folders" => {
            let task = fs::read_dir("/var/task").unwrap().count();
            fs::write("/tmp/x", "y").map_err(|error| error.to_string())?;
            let working = std::env::current_dir().unwrap();
            Ok(format!("{task} {} {}", working.display(), fs::read_to_string("/tmp/x").unwrap()))
        }
        other => panic!("no attempt {other}"),
    }
}

fn describe_identity() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(",")
    };
    let keys = ["Uid:", "Gid:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];
    let pid = if std::process::id() == 1 { "first" } else { "later" };
    format!("{} {pid}", keys.map(line).join(" "))
}

/// Asks every address of `ADDRESSES` and, if there is one, the name server of `DNS`.
fn connect() -> Result<String, String> {
    let mut answers = Vec::new();
    for address in std::env::var("ADDRESSES").unwrap().split(' ') {
        let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(5))
            .map_err(|error| format!("{address}: {error}"))?;
        stream.write_all(b"ping").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| format!("{address}: {error}"))?;
        answers.push(answer);
    }
    if let Ok(address) = std::env::var("DNS") {
        answers.push(ask(&address, b"name?")?);
        // Whatever is not port 53 is refused at once.
        answers.push(ask("8.8.8.8:123", b"time?").unwrap_err());
    }
    Ok(answers.join(" "))
}

/// Uses processor and memory, says so, and stays.
fn spin() -> Result<String, String> {
    let began = std::time::Instant::now();
    let mut held = vec![1u8; 40 << 20];
    while began.elapsed() < Duration::from_millis(150) {
        for byte in held.iter_mut().step_by(4096) {
            *byte = byte.wrapping_add(1);
        }
    }
    println!("DONE");
    std::thread::sleep(Duration::from_secs(100));
    Ok(held[0].to_string())
}

/// Leaves processes without a parent, in sessions of their own.
fn leave_orphans() -> Result<String, String> {
    for _ in 0..3 {
        if fork().is_none() {
            let _ = rustix::process::setsid();
            if fork().is_none() {
                sleep_for_ever();
            }
            std::process::exit(0);
        }
    }
    println!("READY");
    std::thread::sleep(Duration::from_secs(1000));
    Ok(String::new())
}

fn say(world: &World, attempt: &str, off: &[WallKind]) -> String {
    let outcome = world.attempt(off, attempt, &HashMap::new());
    outcome.output.trim().to_owned()
}

fn environment(world: &World) -> Result<(), String> {
    let given = HashMap::from([("B", "x=y z".to_owned()), ("EMPTY", String::new())]);
    let outcome = world.attempt(&[], "environment", &given);
    expect("environment", outcome.output.trim(), "DID ATTEMPT=environment B=x=y z EMPTY=")
}

fn identity(world: &World) -> Result<(), String> {
    let zero = "0000000000000000";
    let wanted = format!("DID 993,993,993,993 990,990,990,990 {zero} {zero} 1 2 later");
    expect("identity", say(world, "identity", &[]), wanted.clone())?;
    // Without a user namespace root's platform still runs guests as somebody else.
    if world.is_root() {
        let found = say(world, "identity", &[WallKind::UserNamespace]);
        let uid: u32 = found.split([' ', ',']).nth(1).and_then(|uid| uid.parse().ok()).unwrap_or(0);
        expect("an id of the sandboxes' range", uid >= 0x7000_0000, true)?;
        expect("no privilege", found.contains(&format!("{zero} {zero} 1 2 later")), true)?;
    }
    Ok(())
}

fn exits(world: &World) -> Result<(), String> {
    let exit = world.attempt(&[], "exit", &HashMap::new()).exit;
    expect("code", (exit.code, exit.signal, exit.out_of_memory), (Some(7), None, false))?;
    let exit = world.attempt(&[], "die", &HashMap::new()).exit;
    expect("signal", (exit.code, exit.signal), (None, Some(libc::SIGTERM)))?;
    world.with_backend(&world.config(&[]), async |backend| {
        let started = backend.start(world.spec(&[("ATTEMPT", "sleep")])).await.map_err(|error| error.to_string())?;
        started.control.kill();
        let exit = started.control.wait().await;
        expect("killed", (exit.code, exit.signal), (None, Some(libc::SIGKILL)))?;
        // Asking again answers the same.
        expect("again", started.control.wait().await, exit)
    })
}

fn opt_bootstrap(world: &World) -> Result<(), String> {
    let code = world.add_code('c', "index.txt", "code");
    let layer = world.add_code('d', "bootstrap", "#!/bin/sh\necho from-opt $0 $PWD\n");
    let mut spec = world.spec(&[]);
    (spec.code, spec.layers) = (Some(code), vec![layer]);
    let outcome = world.run(&world.config(&[]), spec).map_err(|error| error.to_string())?;
    expect("output", outcome.output.trim(), "from-opt /opt/bootstrap /var/task")
}

fn layers(world: &World) -> Result<(), String> {
    let code = world.add_code(
        'c',
        "bootstrap",
        "#!/bin/sh\ncat /opt/one /opt/two /opt/both; touch /opt/x || echo read-only\n",
    );
    let first = world.add_code('d', "one", "one ");
    world.add_code('d', "both", "first ");
    let second = world.add_code('e', "two", "two ");
    world.add_code('e', "both", "second ");
    let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
    (spec.code, spec.layers) = (Some(code), vec![first, second]);
    let outcome = world.run(&world.config(&[]), spec).map_err(|error| error.to_string())?;
    expect("output", outcome.output.contains("one two second "), true)?;
    expect("read-only", outcome.output.contains("read-only"), true)
}

fn caches(world: &World) -> Result<(), String> {
    let code = world.add_code(
        '4',
        "bootstrap",
        "#!/bin/sh\ncd /var/cache; cat 0/made 2/made; echo x 2>/dev/null >0/made || echo kept; ls 1; ls /var/task /opt\n",
    );
    let (plain, layer) = (world.add_code('5', "one", ""), world.add_code('6', "two", ""));
    for (digest, text) in [(&code, "of the code "), (&layer, "of the layer ")] {
        let folder = world.cache_folder(digest);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("made"), text).unwrap();
    }
    let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
    (spec.code, spec.layers) = (Some(code), vec![plain, layer]);
    let outcome = world.run(&world.config(&[]), spec).map_err(|error| error.to_string())?;
    expect(
        "output",
        outcome.output.as_str(),
        "of the code of the layer kept\n/opt:\none\ntwo\n\n/var/task:\nbootstrap\n",
    )
}

fn missing(world: &World) -> Result<(), String> {
    let empty = world.add_code('1', "index.txt", "");
    let plain = world.add_code('2', "bootstrap", "#!/bin/sh\n");
    let file = world.code_folder(&plain).join("bootstrap");
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
    let noise = world.add_code('3', "bootstrap", "\u{7f}no program");
    let words = |code| {
        let mut spec = world.spec(&[]);
        spec.code = Some(code);
        world.run(&world.config(&[]), spec).err().map(|error| error.to_string()).unwrap_or_default()
    };
    expect("no bootstrap", words(empty), NO_BOOTSTRAP.into())?;
    expect("not executable", words(plain), "fork/exec /var/task/bootstrap: permission denied".into())?;
    expect("no program", words(noise), "fork/exec /var/task/bootstrap: exec format error".into())?;
    let absent = digest('f');
    let mut spec = world.spec(&[]);
    spec.code = Some(absent.clone());
    match world.run(&world.config(&[]), spec) {
        Err(Error::CodeMissing(code)) => expect("code", code, absent),
        other => Err(format!("{:?}", other.err())),
    }
}

pub fn python() -> Interpreter {
    Interpreter {
        family: Family::Python,
        version: (3, 0, 0),
        binary: fs::canonicalize("/usr/bin/python3").unwrap_or_else(|_| PathBuf::from("/usr/bin/python3")),
        prefix: PathBuf::from("/usr"),
        library_paths: Vec::new(),
    }
}

const ECHO: &str = "import socket, sys\n\
    s = socket.socket(fileno=3)\n\
    print('ready', flush=True)\n\
    print('warned', file=sys.stderr, flush=True)\n\
    s.sendall(s.recv(100).upper())\n";

/// Says so where the machine has no Python of the distribution.
pub fn no_python() -> bool {
    let absent = !fs::exists("/usr/bin/python3").unwrap_or(false);
    if absent {
        println!("    no /usr/bin/python3 on this machine: not checked");
    }
    absent
}

fn interpreter(world: &World) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    let mut config = world.config(&[]);
    config.interpreters.push(python());
    fs::write(world.path("runtime/python/bootstrap.py"), ECHO).unwrap();
    world.with_backend(&config, async |backend| {
        let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
        spec.guest = Guest::Interpreter { family: Family::Python, interpreter: 0, memory_mb: 256, wrapper: None };
        let mut started = backend.start(spec.clone()).await.map_err(|error| error.to_string())?;
        started.channel.write_all(b"over the channel").await.unwrap();
        let mut answer = [0; 16];
        started.channel.read_exact(&mut answer).await.map_err(|error| error.to_string())?;
        let outcome = finish(started).await;
        expect("answer", &answer[..], b"OVER THE CHANNEL")?;
        expect("output", outcome.output.as_str(), "ready\nwarned\n")?;
        spec.guest = Guest::Interpreter { family: Family::Python, interpreter: 1, memory_mb: 256, wrapper: None };
        expect("an unknown interpreter is refused", backend.start(spec).await.is_err(), true)
    })
}

/// What a wrapper sees and changes, when it begins, and what is said where it cannot be executed.
fn wrapped(world: &World) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    const WRAPPER: &str = "#!/bin/sh\n\
        echo $# \"$1\" as $(id -u) with $(grep NoNewPrivs /proc/self/status)\n\
        export WRAPPED=yes\n\
        python=$1\n\
        shift\n\
        exec \"$python\" -X importtime \"$@\"\n";
    const GUEST: &str = "import os, socket, sys\n\
        s = socket.socket(fileno=3)\n\
        s.sendall((s.recv(100).decode() + ' ' + os.environ['WRAPPED']).encode())\n\
        print(os.getcwd(), 'importtime' in sys._xoptions, sorted(os.environ), flush=True)\n";
    let mut config = world.config(&[]);
    config.interpreters.push(python());
    fs::write(world.path("runtime/python/bootstrap.py"), GUEST).unwrap();
    let code = CodeDigest::parse(&"97".repeat(32)).unwrap();
    let add = |name, text: &str| world.add_package(code.clone(), name, text);
    add("start", WRAPPER);
    add("bare", &WRAPPER.replace("#!/bin/sh\n", ""));
    add("homeless", "#!/no/such/shell\n");
    add("broken", "\u{7f}ELF\0\0\0");
    add("plain", "#!/bin/sh\n");
    let plain = world.code_folder(&code).join("plain");
    fs::set_permissions(plain, fs::Permissions::from_mode(0o644)).unwrap();
    world.with_backend(&config, async |backend| {
        let spec = |wrapper: &str, held| {
            let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
            let wrapper = Some(wrapper.to_owned());
            spec.guest = Guest::Interpreter { family: Family::Python, interpreter: 0, memory_mb: 256, wrapper };
            (spec.code, spec.held) = (Some(code.clone()), held);
            spec
        };
        for (wrapper, held) in [("/var/task/start", false), ("/var/task/bare", false), ("/var/task/start", true)] {
            let mut started = backend.start(spec(wrapper, held)).await.map_err(|error| error.to_string())?;
            if held {
                started.control.begin().await.map_err(|error| error.to_string())?;
            }
            started.channel.write_all(b"wrapped").await.unwrap();
            let mut answer = [0; 11];
            started.channel.read_exact(&mut answer).await.map_err(|error| format!("{wrapper}: {error}"))?;
            expect("answer", &answer[..], b"wrapped yes")?;
            if held {
                started.control.left(sandbox::GUEST).await;
                started.control.kill();
            }
            let output = finish(started).await.output;
            let lines: Vec<&str> = output.lines().filter(|line| !line.starts_with("import time:")).collect();
            let first = lines.first().copied().unwrap_or_default();
            let binary = python().binary.display().to_string();
            expect("its line and rights", first, format!("6 {binary} as 993 with NoNewPrivs: 1").as_str())?;
            let last = lines.last().copied().unwrap_or_default();
            expect("the interpreter", last.starts_with("/var/task True ['") && last.contains("'WRAPPED'"), true)?;
        }
        for (wrapper, words, code) in [
            ("/opt/none", "does not exist", 127),
            ("/var/task", "does not exist", 127),
            ("/var/task/plain", "is not an executable", 126),
            ("/var/task/homeless", "has an interpreter that does not exist", 126),
            ("/var/task/broken", "has a format that cannot be executed here", 126),
        ] {
            let started = backend.start(spec(wrapper, false)).await.map_err(|error| error.to_string())?;
            let outcome = finish(started).await;
            expect("what is said", outcome.output, format!("{wrapper}: {words}\n"))?;
            expect(wrapper, outcome.exit.code, Some(code))?;
        }
        Ok(())
    })
}

/// A prefix below a folder that nobody but its owner may enter.
fn private_prefix(world: &World) -> Result<(), String> {
    // Not below /tmp, which is the guest's own.
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    let home = outside.path().join("home");
    let prefix = home.join("versions/1.0");
    fs::create_dir_all(prefix.join("bin")).unwrap();
    let binary = prefix.join("bin/python3");
    fs::write(prefix.join("library"), "found").unwrap();
    fs::write(home.join("versions/secret"), "no").unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let script = format!(
        "#!/bin/sh\ncat {0}/library; cat {1}/versions/secret || echo hidden\n",
        prefix.display(),
        home.display()
    );
    fs::write(&binary, script).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = world.config(&[]);
    config.interpreters.push(Interpreter { binary, prefix, ..python() });
    let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
    spec.guest = Guest::Interpreter { family: Family::Python, interpreter: 0, memory_mb: 256, wrapper: None };
    let outcome = world.run(&config, spec).map_err(|error| error.to_string())?;
    expect("the prefix", outcome.output.starts_with("found"), true)?;
    expect("its surroundings", outcome.output.trim().ends_with("hidden"), true)
}

/// Answers every connection with the address that it wanted, and every question.
async fn answer(mut started: Started) -> String {
    async fn tell(mut stream: tokio::net::TcpStream) {
        let mut question = [0; 4];
        stream.read_exact(&mut question).await.unwrap();
        let wanted = stream.local_addr().unwrap().to_string();
        stream.write_all(wanted.as_bytes()).await.unwrap();
    }
    let api = started.listeners.runtime_api.take().unwrap();
    for listener in started.listeners.tcp.drain(..).chain([api]) {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(tell(stream));
            }
        });
    }
    let dns = started.listeners.dns.take().unwrap();
    tokio::spawn(async move {
        let mut question = [0; 512];
        while let Ok((length, from)) = dns.recv_from(&mut question).await {
            assert_eq!(&question[..length], b"name?");
            dns.send_to(b"an-answer", from).await.unwrap();
        }
    });
    finish(started).await.output.trim().to_owned()
}

fn network(world: &World) -> Result<(), String> {
    let addresses = "127.0.0.1:9001 93.184.216.34:443 10.1.2.3:5432 [2001:db8::1]:8080";
    world.with_backend(&world.config(&[]), async |backend| {
        let wall = backend.walls().into_iter().find(|wall| wall.name == WallKind::Interception.name());
        if wall.is_none_or(|wall| wall.state != WallState::Hard) {
            println!("    no TPROXY on this machine: not checked");
            return Ok(());
        }
        let spec = world.spec(&[("ATTEMPT", "connect"), ("ADDRESSES", addresses), ("DNS", "8.8.8.8:53")]);
        let output = answer(backend.start(spec).await.map_err(|error| error.to_string())?).await;
        expect("answers", output, format!("DID {addresses} an-answer Connection refused (os error 111)"))
    })
}

fn fallback_network(world: &World) -> Result<(), String> {
    let addresses = "127.0.0.1:9001 93.184.216.34:443 10.1.2.3:80 [2001:db8::1]:443";
    world.with_backend(&world.config(&[WallKind::Interception]), async |backend| {
        let spec = world.spec(&[("ATTEMPT", "connect"), ("ADDRESSES", addresses), ("DNS", "127.0.0.1:53")]);
        let output = answer(backend.start(spec).await.map_err(|error| error.to_string())?).await;
        expect("answers", output, format!("DID {addresses} an-answer Connection refused (os error 111)"))?;
        let spec = world.spec(&[("ATTEMPT", "connect"), ("ADDRESSES", "93.184.216.34:5432")]);
        let output = answer(backend.start(spec).await.map_err(|error| error.to_string())?).await;
        expect("another port", output.starts_with("BLOCKED"), true)
    })
}

fn out_of_memory(world: &World) -> Result<(), String> {
    let outcome = world.attempt(&[], "memory-bomb", &HashMap::from([("MEGABYTES", "400".to_owned())]));
    expect("exit", (outcome.exit.signal, outcome.exit.out_of_memory), (Some(libc::SIGKILL), true))?;
    expect("peak", outcome.exit.usage.memory_peak_bytes > 200 << 20, true)
}

fn usage(world: &World) -> Result<(), String> {
    world.with_backend(&world.config(&[]), async |backend| {
        let spec = world.spec(&[("ATTEMPT", "spin")]);
        let mut started = backend.start(spec).await.map_err(|error| error.to_string())?;
        started.output.read_exact(&mut [0; 5]).await.unwrap();
        let (usage, held) = (started.control.usage(), started.control.held());
        expect("processor time", usage.cpu > Duration::from_millis(20), true)?;
        expect("memory", held.memory_bytes > 40 << 20 && held.memory_bytes < 100 << 20, true)?;
        expect("peak", usage.memory_peak_bytes >= held.memory_bytes, true)?;
        expect("tasks", held.tasks, 1)?;
        started.control.kill();
        let exit = started.control.wait().await;
        expect("at the end", exit.usage.memory_peak_bytes > 40 << 20, true)?;
        expect("time at the end", exit.usage.cpu > Duration::from_millis(10), true)
    })
}

fn folders(world: &World) -> Result<(), String> {
    expect("folders", say(world, "folders", &[]), "DID 3 /var/task y".to_owned())
}

fn streams(world: &World) -> Result<(), String> {
    let script = "#!/bin/sh\necho one >/dev/stdout; echo two >/dev/stderr; mkfifo /tmp/p && echo three\n\
                  cat /dev/null; head -c 4 /dev/urandom | wc -c; echo x >/dev/full || echo full\n";
    let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
    spec.code = Some(world.add_code('6', "bootstrap", script));
    let outcome = world.run(&world.config(&[]), spec).map_err(|error| error.to_string())?;
    let words: Vec<&str> = outcome.output.lines().filter(|line| !line.contains(": ")).collect();
    expect("output", words, vec!["one", "two", "three", "4", "full"])
}

fn trust(world: &World) -> Result<(), String> {
    let place = sandbox::process::TRUST_PATH;
    fs::write(world.path("bundle.pem"), "the platform's").unwrap();
    let mut config = world.config(&[]);
    config.trust_bundle = Some(world.path("bundle.pem"));
    let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
    spec.code = Some(world.add_code('7', "bootstrap", &format!("#!/bin/sh\ncat {place}\n")));
    let outcome = world.run(&config, spec).map_err(|error| error.to_string())?;
    expect("bundle", outcome.output.as_str(), "the platform's")
}

fn many(world: &World) -> Result<(), String> {
    let code = world.add_code('4', "bootstrap", "#!/bin/sh\necho $NUMBER\n");
    world.with_backend(&world.config(&[]), async |backend| {
        let runs = (0..40).map(|number| {
            let mut spec = world.spec(&[("NUMBER", &number.to_string())]);
            spec.code = Some(code.clone());
            async move { finish(backend.start(spec).await.unwrap()).await.output.trim().to_owned() }
        });
        let mut set = Vec::new();
        for run in runs {
            set.push(Box::pin(run));
        }
        let outputs = join_all(set).await;
        let wanted: Vec<String> = (0..40).map(|number| number.to_string()).collect();
        expect("outputs", outputs, wanted)
    })
}

/// More sandboxes than a guest's limit of open files has room for, each with some of the spawner's.
fn crowd(world: &World) -> Result<(), String> {
    sandbox::privilege::raise_file_limit().map_err(|error| error.to_string())?;
    world.with_backend(&world.config(&[]), async |backend| {
        let mut held = Vec::new();
        for number in 0..200 {
            let started = backend.start(world.spec(&[("ATTEMPT", "sleep")])).await;
            held.push(started.map_err(|error| format!("number {number}: {error}"))?);
        }
        Ok(())
    })
}

/// Polls all futures to their end.
async fn join_all<F: Future<Output = String> + Unpin>(mut futures: Vec<F>) -> Vec<String> {
    let mut done: Vec<Option<String>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in futures.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(output) = std::pin::Pin::new(future).poll(context)
            {
                *slot = Some(output);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

fn required(world: &World) -> Result<(), String> {
    let mut config = world.config(&[WallKind::Seccomp]);
    config.require = vec![WallKind::Seccomp];
    let error = sandbox::process::launch_spawner(&config).err().map(|error| error.to_string()).unwrap_or_default();
    expect("refusal", error.contains("system call filter"), true)
}

/// What real functions do: threads, workers, subprocesses, timers, random numbers, name look-ups of their own host.
fn programs(world: &World) -> Result<(), String> {
    if no_python() {
        return Ok(());
    }
    let script = r#"#!/bin/sh
python3 -c '
import concurrent.futures as c, subprocess, tempfile, socket, uuid, os, mmap, ctypes, ssl, sqlite3, asyncio
with c.ThreadPoolExecutor(8) as p: assert sum(p.map(int, range(100))) == 4950
assert subprocess.check_output(["/bin/echo", "x"]) == b"x\n"
with tempfile.NamedTemporaryFile() as f: f.write(b"x"); f.flush(); os.fsync(f.fileno())
socket.getaddrinfo("localhost", 80); uuid.uuid4(); mmap.mmap(-1, 4096); os.cpu_count(); os.getlogin
ssl.create_default_context(); sqlite3.connect("/tmp/x.db").execute("create table t(a)")
asyncio.run(asyncio.sleep(0))
assert os.fork() or os._exit(0) is None
print("python")'
if command -v node >/dev/null; then node -e '
const { Worker } = require("worker_threads"), { execFileSync } = require("child_process"), fs = require("fs"), os = require("os");
if (execFileSync("/bin/echo", ["x"]).toString() !== "x\n") throw 1;
fs.writeFileSync("/tmp/y", "z"); fs.renameSync("/tmp/y", "/tmp/z"); os.cpus(); os.totalmem(); os.userInfo();
require("crypto").randomBytes(8); require("zlib").gzipSync("x"); fs.watch("/tmp").close();
new Worker("require(\"worker_threads\").parentPort.postMessage(1)", { eval: true }).on("message", () => console.log("node"));
'; else echo node; fi
"#;
    let mut spec = world.spec(&[("PATH", "/usr/bin:/bin")]);
    spec.code = Some(world.add_code('5', "bootstrap", script));
    spec.memory_bytes = 1 << 30;
    let outcome = world.run(&world.config(&[]), spec).map_err(|error| error.to_string())?;
    expect("output", outcome.output.as_str(), "python\nnode\n")
}
