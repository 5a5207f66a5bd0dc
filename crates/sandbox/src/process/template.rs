//! The stage: the spawner's own small root, with the template that every sandbox's root is cloned from.
//!
//! ```text
//! /            tmpfs, the spawner's root
//! /template    tmpfs, read-only: what every guest sees, with empty /tmp /proc /opt /mnt /var/task
//! /new         where a sandbox mounts its clone of the template before it becomes its root
//! /code        the code root
//! /merge       where layers are merged
//! /trust       the certificates that guests trust
//! /files       the folders that the operator lets sandboxes have, each by its number
//! /proc        the host's, without which no sandbox could mount its own
//! ```
//!
//! The host's file system is not reachable from the stage, so a fresh sandbox, which starts with a copy of it, never
//! has it either. All host paths are opened before the stage becomes the root.
//!
//! Start reading at `raise`.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::config::SpawnerConfig;
use super::files::Shared;
use super::masks::Masks;
use super::protocol::{LAYERS_MAX, Step};
use super::sys::{self, At, Fault};
use crate::contract::{HOSTS, RESOLVER, TRUST_PLACES};

/// Folders of the host that hold programs and libraries; a link among them stays a link.
const SYSTEM: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"];
/// What programs read below `/etc`, and what says nothing about the host.
const ETC: &[&str] = &[
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/mime.types",
    "/etc/services",
    "/etc/protocols",
    "/etc/gai.conf",
    "/etc/fonts",
    "/etc/os-release",
];
/// Where guests always find the trusted certificates, whatever the distribution's own place is.
pub const TRUST_PATH: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where guests find the spawner's own program, which one kind of them is; Lambda has its own in this folder.
pub(crate) const PROGRAM: &CStr = c"/var/rapid/dunlin";
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// Where guests find the caches of their packages: the code's, then each layer's, in merge order.
pub(crate) const CACHES: [&CStr; 1 + LAYERS_MAX] = [
    c"/var/cache/0",
    c"/var/cache/1",
    c"/var/cache/2",
    c"/var/cache/3",
    c"/var/cache/4",
    c"/var/cache/5",
    c"/var/cache/6",
    c"/var/cache/7",
    c"/var/cache/8",
];
/// Empty folders that a sandbox mounts on, or that programs expect.
const EMPTY: &[&str] = &["/tmp", "/proc", "/opt", "/mnt", "/var/task", "/var/runtime", "/dev", "/etc", "/run"];
/// Small files of the platform's own.
const FILES: &[(&str, &str)] = &[
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/sbin/nologin\nsbx_user1051:x:993:990::/home/sbx_user1051:/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    ),
    ("/etc/group", "root:x:0:\nsbx:x:990:\nnogroup:x:65534:\n"),
    ("/etc/hosts", HOSTS),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"),
    ("/etc/resolv.conf", RESOLVER),
];
const LINKS: &[(&str, &str)] = &[
    // ES modules of Node.js look for packages in the folders above them only: here is the last one.
    ("/var/node_modules", "/var/runtime/node_modules"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];
/// The first folder of `LD_LIBRARY_PATH`. A loader looks through each folder of that in twenty variants for processors
/// before it tries the distribution's own, with some three hundred system calls in each native function's start: what
/// every program loads is found here. On Lambda, too, the system's libraries come before those of code and layers.
const FIRST_LIBRARIES: &str = "/var/lang/lib";
/// The libraries of the C and C++ runtimes, whose interfaces only grow.
const RUNTIME_LIBRARIES: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libresolv.so.2",
    "libutil.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
];

/// A piece of the host, opened before the stage hides it.
struct Piece {
    /// Absolute path inside the template.
    target: PathBuf,
    what: What,
}

enum What {
    Link(PathBuf),
    Tree { fd: OwnedFd, folder: bool, device: bool },
}

fn c_path(path: &Path) -> CString {
    // A path with a zero byte cannot come from the file system; an empty one then fails to open.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

fn take(source: &Path, target: &Path, device: bool) -> Result<Piece, Fault> {
    let about = fs::symlink_metadata(source).at(Step::Stage)?;
    let target = target.to_owned();
    if about.file_type().is_symlink() && source == target {
        let to = fs::read_link(source).at(Step::Stage)?;
        return Ok(Piece { target, what: What::Link(to) });
    }
    let folder = fs::metadata(source).at(Step::Stage)?.is_dir();
    let fd = sys::clone_tree(libc::AT_FDCWD, &c_path(source)).at(Step::Stage)?;
    // SAFETY: the call has just made this descriptor.
    Ok(Piece { target, what: What::Tree { fd: unsafe { OwnedFd::from_raw_fd(fd) }, folder, device } })
}

/// Where distributions keep the settings of interpreters: one folder for each Java, `/etc/java-17-openjdk`, and which
/// extensions PHP has, `/etc/php` or `/etc/php.d`.
fn settings_of_interpreters() -> Vec<PathBuf> {
    let entries = fs::read_dir("/etc").into_iter().flatten().flatten();
    let starts = |name: &[u8]| name.starts_with(b"java") || name.starts_with(b"php");
    let named = entries.filter(|entry| starts(entry.file_name().as_bytes()));
    let mut folders: Vec<PathBuf> = named.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn pieces(config: &SpawnerConfig) -> Result<Vec<Piece>, Fault> {
    let mut pieces = Vec::new();
    for path in SYSTEM.iter().chain(ETC).map(PathBuf::from).chain(settings_of_interpreters()) {
        if path.symlink_metadata().is_ok() {
            pieces.push(take(&path, &path, false)?);
        }
    }
    for path in DEVICES {
        pieces.push(take(Path::new(path), Path::new(path), true)?);
    }
    pieces.push(take(&config.runtime_root, Path::new("/var/runtime"), false)?);
    let own = fs::read_link("/proc/self/exe").at(Step::Stage)?;
    pieces.push(take(&own, Path::new(OsStr::from_bytes(PROGRAM.to_bytes())), false)?);
    let mut seen: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    for interpreter in &config.interpreters {
        let outside = std::iter::once(&interpreter.prefix).chain(&interpreter.library_paths);
        for path in outside {
            let covered = seen.iter().any(|held| path.starts_with(held));
            if !covered && path.is_absolute() && path != Path::new("/") {
                pieces.push(take(path, path, false)?);
                seen.push(path.clone());
            }
        }
    }
    name_interpreters(config, &mut pieces);
    pieces.extend(runtime_libraries());
    if let Some(bundle) = &config.trust_bundle {
        trust_pieces(bundle, &mut pieces)?;
    }
    Ok(pieces)
}

/// Gives each interpreter the names that commands call it by, in a folder of its own. Of two of one version the first counts.
fn name_interpreters(config: &SpawnerConfig, pieces: &mut Vec<Piece>) {
    let mut seen = BTreeSet::new();
    for interpreter in &config.interpreters {
        let folder = interpreter.named_folder();
        if seen.insert(folder.clone()) {
            let links = interpreter.names().into_iter();
            pieces.extend(links.map(|(name, to)| Piece { target: folder.join(name), what: What::Link(to) }));
        }
    }
}

/// Links to the libraries that programs of this processor load, for those that this host has.
fn runtime_libraries() -> impl Iterator<Item = Piece> {
    let of_processor = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
    let folders =
        ["lib64", "usr/lib64", &of_processor, &format!("usr/{of_processor}")].map(|folder| Path::new("/").join(folder));
    RUNTIME_LIBRARIES.iter().filter_map(move |name| {
        let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())?;
        Some(Piece { target: Path::new(FIRST_LIBRARIES).join(name), what: What::Link(found) })
    })
}

/// Puts the bundle over every bundle of the distribution; a linked one is reached through the file that it links to.
fn trust_pieces(bundle: &Path, pieces: &mut Vec<Piece>) -> Result<(), Fault> {
    let mut targets: Vec<PathBuf> =
        TRUST_PLACES.iter().filter_map(|place| Path::new(place).canonicalize().ok()).collect();
    targets.sort();
    targets.dedup();
    if !Path::new(TRUST_PATH).exists() {
        // The distribution's folder has no such file and takes none: it is taken apart, and `certs` is made anew.
        pieces.retain(|piece| piece.target != Path::new("/etc/ssl"));
        for entry in fs::read_dir("/etc/ssl").into_iter().flatten().flatten() {
            if entry.file_name() != "certs" {
                pieces.push(take(&entry.path(), &entry.path(), false)?);
            }
        }
        targets.retain(|target| !target.starts_with("/etc/ssl/certs"));
        targets.push(PathBuf::from(TRUST_PATH));
    }
    for target in targets {
        pieces.push(take(bundle, &target, false)?);
    }
    Ok(())
}

fn put_file(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())
}

/// Below the template, the path `absolute`.
fn inside(absolute: &Path) -> PathBuf {
    Path::new("template").join(absolute.strip_prefix("/").unwrap_or(absolute))
}

/// Puts a piece into the template. Paths are relative to the stage, which is the working folder.
fn place(piece: &Piece) -> Result<(), Fault> {
    let target = inside(&piece.target);
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).at(Step::Stage)?;
    }
    match &piece.what {
        What::Link(to) => symlink(to, &target).at(Step::Stage),
        What::Tree { fd, folder, device } => {
            if target.symlink_metadata().is_err() {
                if *folder { fs::create_dir(&target) } else { put_file(&target, "") }.at(Step::Stage)?;
            }
            let nodev = if *device { 0 } else { sys::ATTR_NODEV };
            let attributes = sys::ATTR_RDONLY | sys::ATTR_NOSUID | nodev;
            sys::set_tree_attributes(fd.as_raw_fd(), attributes).at(Step::Stage)?;
            sys::attach_tree(fd.as_raw_fd(), libc::AT_FDCWD, &c_path(&target)).at(Step::Stage)
        }
    }
}

fn fill_template(pieces: &[Piece]) -> Result<(), Fault> {
    for path in EMPTY {
        fs::create_dir_all(inside(Path::new(path))).at(Step::Stage)?;
    }
    for path in CACHES {
        fs::create_dir_all(inside(Path::new(OsStr::from_bytes(path.to_bytes())))).at(Step::Stage)?;
    }
    for (path, text) in FILES {
        put_file(&inside(Path::new(path)), text).at(Step::Stage)?;
    }
    for (link, to) in LINKS {
        symlink(to, inside(Path::new(link))).at(Step::Stage)?;
    }
    pieces.iter().try_for_each(place)
}

/// Where the stage has what guests trust, and the devices of every guest.
pub(crate) const TRUST: &CStr = c"/trust";
pub(crate) const GUEST_DEVICES: &CStr = c"/template/dev";

/// What the spawner keeps open of the stage.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The code root.
    pub(crate) code: OwnedFd,
    /// The stage's `/proc`.
    pub(crate) proc: OwnedFd,
    /// What of it is hidden from sandboxes.
    pub(crate) masks: Masks,
    /// Whether there are certificates (`TRUST`).
    pub(crate) has_trust: bool,
    /// The spawner's own mount namespace.
    pub(crate) mounts: OwnedFd,
    /// What sandboxes may get of the host.
    pub(crate) shared: Vec<Shared>,
}

/// Builds the stage and makes it the root of the caller's own mount namespace.
pub(crate) fn raise(config: &SpawnerConfig) -> Result<Stage, Fault> {
    // A strict umask must not take the guests' right to look around.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"").at(Step::Stage)?;
    let pieces = pieces(config)?;
    let code = take(&config.code_root, Path::new("/code"), false)?;
    let proc = take(Path::new("/proc"), Path::new("/proc"), false)?;
    let trust = config.trust_bundle.as_ref().map(|bundle| take(bundle, Path::new("/trust"), false)).transpose()?;
    let mut shared = Vec::new();
    for (index, folder) in config.shared.iter().enumerate() {
        let place = PathBuf::from(format!("files/{index}"));
        shared.push((Shared::open(folder, index)?, take(&folder.folder, &place, false)?));
    }

    // Any folder will do: the stage hides it in this mount namespace only, and nothing below it is needed any more.
    sys::mount(c"tmpfs", c"/tmp", c"tmpfs", libc::MS_NOSUID | libc::MS_NODEV, c"mode=755,size=1m").at(Step::Stage)?;
    sys::chdir(c"/tmp").at(Step::Stage)?;
    for folder in ["template", "new", "code", "merge", "proc", "files"] {
        fs::create_dir(folder).at(Step::Stage)?;
    }
    for (piece, folder) in [(&code, c"code"), (&proc, c"proc")] {
        if let What::Tree { fd, .. } = &piece.what {
            sys::attach_tree(fd.as_raw_fd(), libc::AT_FDCWD, folder).at(Step::Stage)?;
        }
    }
    if let Some(Piece { what: What::Tree { fd, .. }, .. }) = &trust {
        put_file(Path::new("trust"), "").at(Step::Stage)?;
        let attributes = sys::ATTR_RDONLY | sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC;
        sys::set_tree_attributes(fd.as_raw_fd(), attributes).at(Step::Stage)?;
        sys::attach_tree(fd.as_raw_fd(), libc::AT_FDCWD, c"trust").at(Step::Stage)?;
    }
    for (_, piece) in &shared {
        if let What::Tree { fd, .. } = &piece.what {
            fs::create_dir(&piece.target).at(Step::Stage)?;
            sys::attach_tree(fd.as_raw_fd(), libc::AT_FDCWD, &c_path(&piece.target)).at(Step::Stage)?;
        }
    }
    sys::mount(c"tmpfs", c"template", c"tmpfs", libc::MS_NOSUID | libc::MS_NODEV, c"mode=755,size=1m")
        .at(Step::Stage)?;
    fill_template(&pieces)?;
    fs::set_permissions("template", fs::Permissions::from_mode(0o755)).at(Step::Stage)?;
    let remount = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    sys::mount(c"", c"template", c"", remount, c"").at(Step::Stage)?;
    sys::pivot_here().at(Step::Stage)?;

    let open = |path: &str| fs::File::open(path).map(OwnedFd::from).at(Step::Stage);
    let shared = shared.into_iter().map(|(shared, _)| shared).collect();
    let has_trust = trust.is_some();
    let (code, proc, mounts) = (open("/code")?, open("/proc")?, open("/proc/self/ns/mnt")?);
    Ok(Stage { has_trust, code, masks: Masks::of_host(&proc), proc, mounts, shared })
}
