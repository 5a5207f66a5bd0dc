//! Reads what `strace` has recorded: calls on the files below one folder, each with its begin and its end.
//!
//! A step is one line of the record, so steps are in the order in which strace saw them: before a call went into the
//! kernel and after it had come out. What ended before something else began did so on the machine, too.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// What a call does; paths are below the recorded folder, which itself is the empty path.
#[derive(Debug)]
pub enum Call {
    /// Opens a file; `create` if there is none, `empty` cuts it to nothing.
    Open { path: String, create: bool, empty: bool },
    /// Writes at a place, or where the last one ended. `synced`: returns when it is on disk.
    Write { path: String, offset: Option<u64>, data: Vec<u8>, synced: bool },
    /// Sets the length.
    Truncate { path: String, length: u64 },
    /// Makes it at least that long.
    Allocate { path: String, length: u64 },
    /// Waits until a file, or the names in a folder, are on disk.
    Sync { path: String },
    /// Gives another name.
    Rename { from: String, to: String },
    /// Gives one more name.
    Link { from: String, to: String },
    /// Takes a name away.
    Unlink { path: String },
    /// Makes a folder.
    MakeFolder { path: String },
    /// Says something on standard output.
    Say { line: String },
}

impl Call {
    /// The file or folder that it is about.
    pub fn path(&self) -> &str {
        match self {
            Self::Open { path, .. } | Self::Write { path, .. } | Self::Truncate { path, .. } => path,
            Self::Allocate { path, .. } | Self::Sync { path } | Self::Unlink { path } => path,
            Self::MakeFolder { path } | Self::Rename { to: path, .. } | Self::Link { to: path, .. } => path,
            Self::Say { .. } => "",
        }
    }
}

/// One line of the record.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// A call begins: its place in `Trace::calls`.
    Begin(usize),
    /// It ends; whether it succeeded, and for writes how many bytes were written.
    End(usize, Option<u64>),
    /// A process began: what was in the memory of the one before is gone, what it wrote is not.
    Start,
}

/// A record.
#[derive(Debug, Default)]
pub struct Trace {
    pub calls: Vec<Call>,
    pub steps: Vec<Step>,
    /// Calls that never ended, as the process was killed in them, by thread.
    open: Vec<(u64, usize)>,
}

impl Trace {
    /// Adds the record of one more process that worked on the folder.
    pub fn read(&mut self, file: &Path, folder: &Path) {
        let root = folder.to_str().unwrap();
        let mut lines = BufReader::with_capacity(1 << 20, File::open(file).unwrap());
        self.steps.push(Step::Start);
        self.open.clear();
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).unwrap() > 0 {
            self.line(std::str::from_utf8(&line).expect("strace writes ASCII").trim_end(), root);
            line.clear();
        }
    }

    fn line(&mut self, line: &str, root: &str) {
        let (thread, rest) = line.split_once(' ').unwrap_or_default();
        let Ok(thread) = thread.parse() else { panic!("not a line of strace: {line:.100}") };
        let rest = rest.trim_start();
        // Signals, ends of processes, calls that were not begun when the process was killed.
        if ["---", "+++", "???"].iter().any(|other| rest.starts_with(other)) {
            return;
        }
        if rest.starts_with("<... ") {
            let found = self.open.iter().position(|(of, _)| *of == thread);
            if let Some((_, call)) = found.map(|at| self.open.remove(at)) {
                self.end(call, rest);
            }
            return;
        }
        let Some(call) = parse(rest, root) else { return };
        self.calls.push(call);
        let call = self.calls.len() - 1;
        self.steps.push(Step::Begin(call));
        if rest.ends_with("<unfinished ...>") {
            self.open.push((thread, call));
        } else {
            self.end(call, rest);
        }
    }

    fn end(&mut self, call: usize, rest: &str) {
        // Neither has the line of a call that the death of its process cut off.
        let Some(at) = rest.rfind(") = ").map(|at| at + 1).or_else(|| rest.rfind(" = ")) else { return };
        let result: String = rest[at + 3..].chars().take_while(|c| !c.is_whitespace() && *c != '<').collect();
        // A question mark is a call that the death of the process has ended.
        if result != "?" {
            self.steps.push(Step::End(call, result.parse::<i64>().unwrap().try_into().ok()));
        }
    }
}

/// Reads arguments from left to right.
struct Arguments<'a> {
    rest: &'a str,
    root: &'a str,
}

fn parse(line: &str, root: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let mut arguments = Arguments { rest, root };
    let call = match name {
        "openat" => {
            let path = arguments.path_at();
            let flags = arguments.word();
            Call::Open { path: path?, create: flags.contains("O_CREAT"), empty: flags.contains("O_TRUNC") }
        }
        "write" if rest.starts_with("1<") => {
            arguments.file();
            Call::Say { line: String::from_utf8(arguments.text()).ok()? }
        }
        "write" => {
            let path = arguments.file()?;
            Call::Write { path, offset: None, data: arguments.text(), synced: false }
        }
        "pwrite64" => {
            let path = arguments.file()?;
            let data = arguments.text();
            arguments.word();
            Call::Write { path, offset: arguments.number(), data, synced: false }
        }
        "pwritev2" => {
            let path = arguments.file()?;
            arguments.skip("[{iov_base=");
            let data = arguments.text();
            let (length, count) = (arguments.word(), arguments.number());
            assert_eq!((length, count), (format!("iov_len={}}}]", data.len()).as_str(), Some(1)), "several parts");
            let offset = arguments.number();
            Call::Write { path, offset, data, synced: arguments.word().contains("RWF_DSYNC") }
        }
        "ftruncate" => Call::Truncate { path: arguments.file()?, length: arguments.number()? },
        "fallocate" => {
            let path = arguments.file()?;
            assert_eq!(arguments.word(), "0", "another kind of fallocate");
            let offset = arguments.number()?;
            Call::Allocate { path, length: offset + arguments.number()? }
        }
        "fsync" | "fdatasync" => Call::Sync { path: arguments.file()? },
        "rename" => {
            let from = arguments.path()?;
            Call::Rename { from, to: arguments.path()? }
        }
        "linkat" => {
            let from = arguments.path_at()?;
            Call::Link { from, to: arguments.path_at()? }
        }
        "unlink" => Call::Unlink { path: arguments.path()? },
        // Folders that are removed were empty: what counts of them is that they may be there.
        "unlinkat" => Call::Unlink { path: arguments.path_at()? },
        "mkdir" => Call::MakeFolder { path: arguments.path()? },
        _ => panic!("no meaning is known of the call {name}"),
    };
    Some(call)
}

impl<'a> Arguments<'a> {
    fn skip(&mut self, text: &str) {
        self.rest = self.rest.strip_prefix(text).unwrap_or_else(|| panic!("{text} expected: {:.100}", self.rest));
    }

    /// The path below the root, if it is there.
    fn below(&self, path: &str) -> Option<String> {
        let below = path.strip_prefix(self.root)?;
        (below.is_empty() || below.starts_with('/')).then(|| below.trim_start_matches('/').to_owned())
    }

    /// Up to the next comma or the end.
    fn word(&mut self) -> &'a str {
        let end = self.rest.find([',', ')', ' ']).unwrap_or(self.rest.len());
        let word = &self.rest[..end];
        self.rest = self.rest[end..].trim_start_matches([',', ' ']);
        word
    }

    fn number(&mut self) -> Option<u64> {
        self.word().parse().ok()
    }

    /// `5</path>` or `AT_FDCWD</path>`: the path as it is.
    fn full_file(&mut self) -> &'a str {
        let begin = self.rest.find('<').unwrap_or_else(|| panic!("a path expected: {:.100}", self.rest));
        let end = begin + self.rest[begin..].find('>').unwrap();
        let path = &self.rest[begin + 1..end];
        self.rest = self.rest[end + 1..].trim_start_matches("(deleted)").trim_start_matches([',', ' ']);
        path
    }

    fn file(&mut self) -> Option<String> {
        let path = self.full_file();
        self.below(path)
    }

    fn path(&mut self) -> Option<String> {
        let path = String::from_utf8(self.text()).unwrap();
        self.below(&path)
    }

    /// A path that may begin in an open folder.
    fn path_at(&mut self) -> Option<String> {
        let folder = self.full_file();
        let path = String::from_utf8(self.text()).unwrap();
        if path.starts_with('/') { self.below(&path) } else { self.below(&format!("{folder}/{path}")) }
    }

    /// A quoted text, without its quotes and with its bytes as they are.
    fn text(&mut self) -> Vec<u8> {
        /// Zeros come in masses.
        const ZEROS: usize = 1_024;
        let zeros = "\\0".repeat(ZEROS);
        self.skip("\"");
        let mut bytes = Vec::new();
        // Searches for one character are fast where nothing else is, so the end is only looked for when it is passed.
        let mut end = self.rest.find('"').expect("the end of a text");
        while let Some(run) = self.rest[..end].find('\\') {
            let whole = self.rest.len();
            bytes.extend_from_slice(&self.rest.as_bytes()[..run]);
            self.rest = &self.rest[run..];
            // The last of them may be longer, for a digit behind it.
            while self.rest.len() > 2 * ZEROS + 2 && self.rest.as_bytes()[..2 * ZEROS] == *zeros.as_bytes() {
                bytes.resize(bytes.len() + ZEROS - 1, 0);
                self.rest = &self.rest[2 * ZEROS - 2..];
            }
            let rest = self.rest.as_bytes();
            let digits = rest[1..].iter().take(3).take_while(|digit| (b'0'..b'8').contains(digit)).count();
            let (byte, length) = match rest[1] {
                _ if digits > 0 => (u32::from_str_radix(&self.rest[1..=digits], 8).unwrap(), digits),
                b'n' => (10, 1),
                b't' => (9, 1),
                b'v' => (11, 1),
                b'f' => (12, 1),
                b'r' => (13, 1),
                other => (u32::from(other), 1),
            };
            bytes.push(u8::try_from(byte).unwrap());
            self.rest = &self.rest[1 + length..];
            end = match (end + self.rest.len()).checked_sub(whole) {
                Some(end) => end,
                None => self.rest.find('"').expect("the end of a text"),
            };
        }
        bytes.extend_from_slice(&self.rest.as_bytes()[..end]);
        self.rest = &self.rest[end..];
        self.rest = &self.rest[1..];
        assert!(!self.rest.starts_with("..."), "strace has cut off a text");
        self.rest = self.rest.trim_start_matches([',', ' ']);
        bytes
    }
}
