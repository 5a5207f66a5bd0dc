//! Programs in hand-written text, run as the engine runs them. Not here: the sandbox of the compiler (`tests/walls`); the one
//! here compiles in this process.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::timeout;

use super::*;
use crate::contract::{Assignment, Control, Exit, GuestListeners, Held, Usage};
use crate::program::{Lines, Nowhere, ProgramKind, Reply, RunEnd};

const HTTP: &str = include_str!("../../../../tests/programs/http.wat");
const MIB: u64 = 1024 * 1024;
/// A module that imports what most do, around what it does when it starts.
const HEAD: &str = r#"
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $folder (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 3)
  ;; says a number below 100,000 on an output
  (func $tell (param $fd i32) (param $n i32)
    (local $at i32)
    (local.set $at (i32.const 64))
    (i32.store8 (local.get $at) (i32.const 10))
    (loop $digits
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
      (br_if $digits (local.get $n)))
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (i32.sub (i32.const 65) (local.get $at)))
    (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
"#;

/// What a program wrote into its log.
#[derive(Default)]
struct Log(Mutex<Vec<u8>>);

#[async_trait]
impl Lines for Log {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }

    fn has_room(&self) -> bool {
        true
    }

    async fn make_room(&self) {}
}

/// What a program answered.
#[derive(Clone, Default)]
struct Got(Arc<Mutex<(Option<u16>, Vec<u8>)>>);

#[async_trait]
impl Reply for Got {
    async fn head(&mut self, head: http::response::Parts) {
        self.0.lock().0 = Some(head.status.as_u16());
    }

    async fn piece(&mut self, bytes: Bytes) {
        self.0.lock().1.extend_from_slice(&bytes);
    }
}

/// Compiles in this process.
struct Compiler {
    code_root: PathBuf,
    started: Mutex<usize>,
}

#[derive(Debug)]
struct Ended;

#[async_trait]
impl Control for Ended {
    fn id(&self) -> u64 {
        0
    }

    async fn assign(&self, _: &Assignment) -> Result<(), Error> {
        Ok(())
    }

    fn kill(&self) {}

    fn freeze(&self) -> Box<dyn FnOnce() + Send> {
        Box::new(|| {})
    }

    fn thaw(&self) {}

    async fn wait(&self) -> Exit {
        Exit { code: Some(0), signal: None, out_of_memory: false, usage: Usage::default() }
    }

    fn settle(&self) {}

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn held(&self) -> Held {
        Held::default()
    }
}

#[async_trait]
impl Backend for Compiler {
    async fn start(&self, spec: SandboxSpec) -> Result<Started, Error> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        *self.started.lock() += 1;
        let path = self.code_root.join(spec.code.unwrap().as_str()).join(crate::program::PROGRAM_FILE);
        let flags = SocketFlags::CLOEXEC;
        let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::io::ioctl_fionbio(&own, true).unwrap();
        let channel = tokio::net::UnixStream::from_std(own.into()).unwrap();
        std::thread::spawn(move || compiler::tell(theirs.into(), &path).unwrap());
        let (_, output) = tokio::net::unix::pipe::pipe().unwrap();
        Ok(Started { channel, output, listeners: GuestListeners::default(), control: Arc::new(Ended) })
    }

    fn walls(&self) -> Vec<Wall> {
        Vec::new()
    }

    fn freezes(&self) -> bool {
        false
    }
}

struct World {
    folder: tempfile::TempDir,
    compiler: Arc<Compiler>,
    wasm: Wasm,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let code_root = folder.path().join("code");
        let compiler = Arc::new(Compiler { code_root: code_root.clone(), started: Mutex::default() });
        let config = WasmConfig { code_root, folder: folder.path().join("wasm"), cpu_quota: false };
        let wasm = Wasm::new(compiler.clone(), config).unwrap();
        Self { folder, compiler, wasm }
    }

    /// The same folders in another process.
    fn restarted(self) -> Self {
        let config = self.wasm.config.clone();
        let wasm = Wasm::new(self.compiler.clone(), config).unwrap();
        Self { wasm, ..self }
    }

    /// A package with a program, told by the bytes of its text.
    fn package(&self, text: &str) -> CodeDigest {
        let digest = blake3::hash(text.as_bytes()).to_hex().to_string();
        let code = CodeDigest::parse(&digest).unwrap();
        let folder = self.folder.path().join("code").join(code.as_str());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("other.txt"), "of the package").unwrap();
        fs::write(folder.join(crate::program::PROGRAM_FILE), wat::parse_str(text).unwrap()).unwrap();
        code
    }

    async fn open(&self, code: &CodeDigest, memory_bytes: u64) -> Result<(Opened, Arc<Log>), Error> {
        self.open_with(code, &[], memory_bytes).await
    }

    async fn open_with(
        &self,
        code: &CodeDigest,
        layers: &[CodeDigest],
        memory_bytes: u64,
    ) -> Result<(Opened, Arc<Log>), Error> {
        let log = Arc::new(Log::default());
        let spec = ProgramSpec {
            code: code.clone(),
            layers: layers.to_vec(),
            memory_bytes,
            tmp_bytes: 4 * MIB,
            environment: Vec::new(),
            arguments: Vec::new(),
            lines: log.clone(),
            outside: Arc::new(Nowhere),
        };
        self.wasm.open(spec).await.map(|opened| (opened, log))
    }

    /// Runs a module that does `start`, once; how it ended and what it said.
    async fn run(&self, start: &str) -> (RunEnd, String) {
        let code = self.package(&format!("(module {HEAD} (func (export \"_start\") {start}))"));
        let (opened, _) = self.open(&code, 64 * MIB).await.unwrap();
        command(&opened, "").await
    }

    fn tmp_bytes(&self) -> u64 {
        let held = |folder: PathBuf| fs::read_dir(folder).unwrap().flatten();
        held(self.folder.path().join("wasm/tmp"))
            .flat_map(|of_environment| held(of_environment.path()))
            .map(|entry| std::os::unix::fs::MetadataExt::blocks(&entry.metadata().unwrap()) * 512)
            .sum()
    }
}

async fn command(opened: &Opened, input: &'static str) -> (RunEnd, String) {
    let got = Got::default();
    let run = opened.program.command(Vec::new(), Bytes::from_static(input.as_bytes()), Box::new(got.clone()));
    let end = timeout(Duration::from_secs(20), run).await.expect("a run ends");
    let said = String::from_utf8_lossy(&got.0.lock().1).into_owned();
    (end, said)
}

async fn request(opened: &Opened, path: &str) -> (RunEnd, Option<u16>, String) {
    let got = Got::default();
    let request = http::Request::get(path).header("host", "h").body(Bytes::new()).unwrap();
    let end = opened.program.request(Vec::new(), request, Box::new(got.clone())).await;
    let (status, body) = got.0.lock().clone();
    (end, status, String::from_utf8_lossy(&body).into_owned())
}

fn trapped(end: &RunEnd) -> &str {
    match end {
        RunEnd::Trapped(words) => words,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_command_answers_what_it_writes() {
    let world = World::new();
    let echo = "(i32.store (i32.const 0) (i32.const 256)) (i32.store (i32.const 4) (i32.const 65536))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $tell (i32.const 2) (i32.const 42))";
    let code = world.package(&format!("(module {HEAD} (func (export \"_start\") {echo}))"));
    let (opened, log) = world.open(&code, 64 * MIB).await.unwrap();
    for input in ["{\"a\": 1}", "again"] {
        assert_eq!(command(&opened, input).await, (RunEnd::Done, input.to_owned()));
    }
    assert_eq!(*log.0.lock(), b"42\n42\n");
    let usage = opened.control.usage();
    assert_eq!(usage.memory_peak_bytes, 3 * 65_536);
    assert!(usage.cpu > Duration::ZERO);
}

#[tokio::test]
async fn each_run_begins_anew() {
    let world = World::new();
    let counts = "(i32.store (i32.const 512) (i32.add (i32.load (i32.const 512)) (i32.const 1)))
        (call $tell (i32.const 1) (i32.load (i32.const 512)))";
    let code = world.package(&format!("(module {HEAD} (func (export \"_start\") {counts}))"));
    let (opened, _) = world.open(&code, 64 * MIB).await.unwrap();
    for _ in 0..50 {
        assert_eq!(command(&opened, "").await.1, "1\n");
    }
    let code = world.package(HTTP);
    let (opened, _) = world.open(&code, 64 * MIB).await.unwrap();
    assert_eq!(opened.program.kind(), ProgramKind::Http);
    for _ in 0..50 {
        let (end, status, body) = request(&opened, "/a?b=c").await;
        assert_eq!((end, status, body.as_str()), (RunEnd::Done, Some(200), "/a?b=c asked 1 times\n"));
    }
}

#[tokio::test]
async fn ends_are_told_apart() {
    let world = World::new();
    assert_eq!(world.run("(call $exit (i32.const 0))").await.0, RunEnd::Done);
    assert_eq!(world.run("(call $exit (i32.const 7))").await.0, RunEnd::Exited(7));
    assert!(trapped(&world.run("(unreachable)").await.0).contains("unreachable"));
    assert!(trapped(&world.run("(drop (i32.load (i32.const -1)))").await.0).contains("out of bounds"));
    let deep = world.package("(module (memory (export \"memory\") 1) (func $f (export \"_start\") (call $f)))");
    let (opened, log) = world.open(&deep, 64 * MIB).await.unwrap();
    assert!(trapped(&command(&opened, "").await.0).contains("stack"));
    assert!(!log.0.lock().is_empty(), "what went wrong is in the log");
    let code = world.package(HTTP);
    let (opened, _) = world.open(&code, 64 * MIB).await.unwrap();
    assert!(matches!(request(&opened, "/n").await.0, RunEnd::Broken(_)));
    assert!(trapped(&request(&opened, "/t").await.0).contains("unreachable"));
}

#[tokio::test]
async fn memory_ends_at_the_limit_and_is_given_back() {
    let world = World::new();
    let code = world.package(HTTP);
    let (opened, _) = world.open(&code, 32 * MIB).await.unwrap();
    for _ in 0..3 {
        assert_eq!(request(&opened, "/g").await.0, RunEnd::OutOfMemory);
        assert_eq!(request(&opened, "/ok").await.0, RunEnd::Done);
    }
    let peak = opened.control.usage().memory_peak_bytes;
    assert!((31 * MIB..=32 * MIB).contains(&peak), "{peak}");
    assert_eq!(opened.control.held().memory_bytes, 0);
    let large = world.package("(module (memory (export \"memory\") 1024) (func (export \"_start\")))");
    let (opened, _) = world.open(&large, 32 * MIB).await.unwrap();
    assert_eq!(command(&opened, "").await.0, RunEnd::OutOfMemory, "what a program begins with counts too");
}

/// Whatever never ends can be dropped, and holds up nobody meanwhile, though there is but one thread.
#[tokio::test]
async fn what_never_ends_is_ended() {
    let world = World::new();
    let on = "(loop $on (br $on))";
    let modules = [
        world.package(&format!("(module (func (export \"_start\") {on}))")),
        world.package(&format!("(module (func $f {on}) (start $f) (func (export \"_start\")))")),
    ];
    for code in modules {
        let (opened, _) = world.open(&code, 64 * MIB).await.unwrap();
        let run = opened.program.command(Vec::new(), Bytes::new(), Box::new(Got::default()));
        let began = Instant::now();
        assert!(timeout(Duration::from_millis(30), run).await.is_err());
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    let code = world.package(HTTP);
    let (opened, _) = world.open(&code, 64 * MIB).await.unwrap();
    for path in ["/s", "/l"] {
        assert!(timeout(Duration::from_millis(30), request(&opened, path)).await.is_err());
    }
    assert_eq!(request(&opened, "/ok").await.0, RunEnd::Done);
    let control = opened.control.clone();
    let killed = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        control.kill();
        control.wait().await
    });
    assert_eq!(request(&opened, "/s").await.0, RunEnd::Killed);
    killed.await.unwrap();
}

#[tokio::test]
async fn a_program_sees_its_folders_and_nothing_above_them() {
    let world = World::new();
    fs::write(world.folder.path().join("secret"), "x").unwrap();
    let open = |folder: u32, name: &str, create: u32| {
        let data = name
            .bytes()
            .enumerate()
            .map(|(at, byte)| format!("(i32.store8 (i32.const {}) (i32.const {byte}))", 128 + at));
        format!(
            "{} (call $tell (i32.const 1) (call $open (i32.const {folder}) (i32.const 1) (i32.const 128) (i32.const {})
             (i32.const {create}) (i64.const {}) (i64.const 0) (i32.const 0) (i32.const 16)))",
            data.collect::<String>(),
            name.len(),
            if create == 0 { 2 } else { 66 },
        )
    };
    // 3 is /var/task, 4 is /tmp.
    for (folder, name, create, allowed) in [
        (3, "other.txt", 0, true),
        (3, "new", 1, false),
        (4, "new", 1, true),
        (3, "../secret", 0, false),
        (3, "../../secret", 0, false),
        (3, "/etc/passwd", 0, false),
        (4, "../../../secret", 0, false),
        (4, "x/../../../../secret", 0, false),
        (5, "other.txt", 0, false),
    ] {
        let (end, said) = world.run(&open(folder, name, create)).await;
        assert_eq!((end, said == "0\n"), (RunEnd::Done, allowed), "{folder} {name}: {said}");
    }
    // A link that leads out, made by the program or in its package.
    let make =
        "(i32.store (i32.const 96) (i32.const 0x2e2e2f2e)) (i64.store (i32.const 96) (i64.const 0x65732f2e2e2f2e2e))
        (i32.store (i32.const 104) (i32.const 0x74657263)) (i32.store8 (i32.const 120) (i32.const 108))
        (drop (call $symlink (i32.const 96) (i32.const 12) (i32.const 4) (i32.const 120) (i32.const 1)))";
    let (_, said) = world.run(&format!("{make} {}", open(4, "l", 0))).await;
    assert_ne!(said, "0\n", "../../secret by a link");
    // What is read-only stays so by another name.
    let link = "(i64.store (i32.const 96) (i64.const 0x78742e726568746f)) (i32.store8 (i32.const 104) (i32.const 116))
        (call $tell (i32.const 1) (call $link (i32.const 3) (i32.const 0) (i32.const 96) (i32.const 9) (i32.const 4)
            (i32.const 96) (i32.const 1)))";
    assert_ne!(world.run(link).await.1, "0\n");
}

#[tokio::test]
async fn a_program_reads_its_layers_merged_and_writes_none() {
    let world = World::new();
    let layers = ["1", "2"].map(|text| {
        let digest = CodeDigest::parse(&text.repeat(64)).unwrap();
        let folder = world.folder.path().join("code").join(digest.as_str());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("x"), text).unwrap();
        digest
    });
    // 4 is /opt: says what is in x, and what comes of making n.
    let read = "(i32.store8 (i32.const 128) (i32.const 120))
        (drop (call $open (i32.const 4) (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 0) (i64.const 2)
            (i64.const 0) (i32.const 0) (i32.const 16)))
        (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 1))
        (drop (call $read (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store8 (i32.const 128) (i32.const 110))
        (call $tell (i32.const 1) (i32.eqz (call $open (i32.const 4) (i32.const 0) (i32.const 128) (i32.const 1)
            (i32.const 1) (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 16))))";
    let code = world.package(&format!("(module {HEAD} (func (export \"_start\") {read}))"));
    let turned = [layers[1].clone(), layers[0].clone()];
    for (layers, said) in [(&layers[..1], "10\n"), (&layers[..], "20\n"), (&turned[..], "10\n")] {
        let (opened, _) = world.open_with(&code, layers, 64 * MIB).await.unwrap();
        assert_eq!(command(&opened, "").await.1, said);
    }
}

#[tokio::test]
async fn the_size_of_tmp_is_hard() {
    let world = World::new();
    let fill = |more: &str| {
        format!(
            "(local $n i32)
            (i32.store8 (i32.const 128) (i32.const 102)) {more}
            (drop (call $open (i32.const 4) (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 1) (i64.const 66)
                (i64.const 0) (i32.const 0) (i32.const 16)))
            (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 65536))
            (block $full (loop $on
                (br_if $full (call $write (i32.load (i32.const 16)) (i32.const 0) (i32.const 1) (i32.const 8)))
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br $on)))
            (call $tell (i32.const 1) (local.get $n))"
        )
    };
    let (end, said) = world.run(&fill("")).await;
    let pieces: u64 = said.trim().parse().unwrap();
    assert_eq!(end, RunEnd::Done);
    // 4 MiB, of which a 64th may be left.
    assert!((60..=64).contains(&pieces), "{said}");
    // By the number of an output there is no way around the charge.
    let (_, said) = world.run("(call $tell (i32.const 1) (call $renumber (i32.const 4) (i32.const 1)))").await;
    assert_eq!(said, "58\n");
    // Names take room as well.
    let folders = "(local $n i32)
        (block $full (loop $on
            (i32.store (i32.const 128) (i32.add (i32.const 0x41414141) (i32.and (local.get $n) (i32.const 15))))
            (i32.store8 (i32.const 129) (i32.add (i32.const 0x41) (i32.and (i32.shr_u (local.get $n) (i32.const 4)) (i32.const 15))))
            (i32.store8 (i32.const 130) (i32.add (i32.const 0x41) (i32.shr_u (local.get $n) (i32.const 8))))
            (br_if $full (call $folder (i32.const 4) (i32.const 128) (i32.const 4)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $on)))
        (call $tell (i32.const 1) (local.get $n))";
    let (_, said) = world.run(folders).await;
    let made: u64 = said.trim().parse().unwrap();
    assert!((200..=512).contains(&made), "{said}");
    assert!(world.tmp_bytes() <= 3 * 4 * MIB);
}

#[tokio::test]
async fn tmp_stays_between_two_runs_and_goes_with_its_environment() {
    let world = World::new();
    let make = "(i32.store8 (i32.const 128) (i32.const 102))
        (call $tell (i32.const 1) (call $open (i32.const 4) (i32.const 0) (i32.const 128) (i32.const 1) (i32.const 5)
            (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 16)))";
    let code = world.package(&format!("(module {HEAD} (func (export \"_start\") {make}))"));
    let (opened, _) = world.open(&code, 64 * MIB).await.unwrap();
    // O_CREAT and O_EXCL: the second time it is there.
    assert_eq!(command(&opened, "").await.1, "0\n");
    assert_eq!(command(&opened, "").await.1, "20\n");
    let (other, _) = world.open(&code, 64 * MIB).await.unwrap();
    assert_eq!(command(&other, "").await.1, "0\n", "another environment has its own");
    let left = || fs::read_dir(world.folder.path().join("wasm/tmp")).unwrap().count();
    assert_eq!(left(), 2);
    opened.control.kill();
    opened.control.wait().await;
    assert_eq!(left(), 1);
    drop(other);
    assert_eq!(left(), 0);
}

#[tokio::test]
async fn what_the_host_keeps_for_a_program_has_bounds() {
    let world = World::new();
    // Files that are opened and never closed.
    let open = "(local $n i32) (i64.store (i32.const 128) (i64.const 0x78742e726568746f)) (i32.store8 (i32.const 136) (i32.const 116))
        (block $full (loop $on
            (br_if $full (call $open (i32.const 3) (i32.const 0) (i32.const 128) (i32.const 9) (i32.const 0) (i64.const 2)
                (i64.const 0) (i32.const 0) (i32.const 16)))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br $on)))";
    let (end, _) = world.run(open).await;
    assert!(matches!(end, RunEnd::Done | RunEnd::Trapped(_)), "{end:?}");
    // More random bytes at once than anybody needs, and more than there is memory for.
    for (bytes, fits) in [(1024, true), (-1, false)] {
        let asked = format!("(if (call $random (i32.const 1024) (i32.const {bytes})) (then (unreachable)))");
        let (end, _) = world.run(&asked).await;
        assert_eq!(end == RunEnd::Done, fits, "{bytes}: {end:?}");
    }
}

#[tokio::test]
async fn a_package_is_compiled_once_and_kept() {
    let world = World::new();
    let code = world.package(HTTP);
    let (one, two) = tokio::join!(world.wasm.compile(&code), world.wasm.compile(&code));
    one.and(two).unwrap();
    assert_eq!(*world.compiler.started.lock(), 1);
    let world = world.restarted();
    drop(world.open(&code, 64 * MIB).await.unwrap());
    assert_eq!(*world.compiler.started.lock(), 1, "the next process finds it");
    // What the disk did to it is found, and it is compiled anew.
    let kept = fs::read_dir(world.folder.path().join("wasm/code")).unwrap().flatten().map(|entry| entry.path());
    let made = kept.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "cwasm")).unwrap();
    let mut bytes = fs::read(&made).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&made, bytes).unwrap();
    let (opened, _) = world.open(&code, 64 * MIB).await.unwrap();
    assert_eq!(request(&opened, "/ok").await.0, RunEnd::Done);
    assert_eq!(*world.compiler.started.lock(), 2);
    world.wasm.forget(&code);
    assert!(!made.exists());
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_its_reason() {
    let world = World::new();
    for (text, words) in [
        ("(module)", "without a function _start"),
        ("(module (func (export \"_start\") (param i32)))", "without a function _start"),
        ("(module (import \"env\" \"f\" (func)) (func (export \"_start\")))", "env.f"),
        ("(module (import \"wasi_snapshot_preview1\" \"nope\" (func)) (func (export \"_start\")))", "nope"),
        ("(module (memory (export \"memory\") i64 1) (func (export \"_start\")))", ""),
        ("(component)", "exports neither"),
        (
            "(component (import \"wasi:keyvalue/store@0.2.0\" (instance)) (import \"wasi:http/types@0.3.0\" (instance)))",
            "wasi:keyvalue/store@0.2.0, wasi:http/types@0.3.0",
        ),
    ] {
        let code = world.package(text);
        for _ in 0..2 {
            match world.wasm.compile(&code).await {
                Err(Error::Unfit(reason)) => assert!(reason.contains(words), "{text}: {reason}"),
                Ok(()) if words.is_empty() => {}
                other => panic!("{text}: {other:?}"),
            }
        }
    }
    let code = world.package("(module)");
    let file = world.folder.path().join("code").join(code.as_str()).join(crate::program::PROGRAM_FILE);
    for wrong in [&b""[..], b"#!/bin/sh", b"\0asm\x01\0\0\0\x01\xff"] {
        fs::write(&file, wrong).unwrap();
        world.wasm.forget(&code);
        assert!(matches!(world.wasm.compile(&code).await, Err(Error::Unfit(_))), "{wrong:?}");
    }
}

/// What is only deployed costs no memory of the engine: a program is loaded with its first environment.
#[tokio::test]
async fn a_program_is_unloaded_with_its_last_environment() {
    let world = World::new();
    let code = world.package(HTTP);
    world.wasm.compile(&code).await.unwrap();
    let loaded = || world.wasm.loaded.lock().values().filter(|loaded| loaded.strong_count() > 0).count();
    assert_eq!(loaded(), 0);
    let (one, _) = world.open(&code, 64 * MIB).await.unwrap();
    let (two, _) = world.open(&code, 64 * MIB).await.unwrap();
    assert_eq!(loaded(), 1);
    drop((one, two));
    assert_eq!(loaded(), 0);
}
