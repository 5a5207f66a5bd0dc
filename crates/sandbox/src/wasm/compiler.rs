//! Compiles programs: a guest of its own in a process sandbox turns a package's program into machine code.
//!
//! The compiler reads what strangers wrote, and a few kilobytes of it can ask for much work. In the sandbox it has limits
//! that a thread of the server could not be given: it is killed when its time or memory is over, a crash of it ends itself
//! alone, and it runs at a low priority without network, credentials or anything else of a function. What the sandbox does
//! not do is to make its result harmless: the code that comes out of it runs in the server. Who found a way to make the
//! compiler write what they want would be in the server as well as if it had compiled there.
//!
//! It says what it has made on its channel, in messages whose first byte tells what follows: a piece, the end, or why
//! there is nothing.
//!
//! Start reading at `compile`, and on the other side at `compiler_main`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use model::CodeDigest;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use wasmtime::Engine;

use super::artefacts::Artefacts;
use super::machine;
use crate::contract::{Backend, Error, Guest, SandboxSpec, Started};
use crate::program::PROGRAM_FILE;

/// Most bytes of a program.
const PROGRAM_BYTES_MAX: u64 = 100 * 1024 * 1024;
/// Most bytes of what is made of one.
const MADE_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// How long it takes at most.
const PATIENCE: Duration = Duration::from_secs(300);
/// Memory of the compiler.
const MEMORY_BYTES: u64 = 2 << 30;
const TMP_BYTES: u64 = 1 << 20;
/// Bytes of a piece; with the byte before it a message is no longer than the channel takes.
const PIECE_BYTES: usize = 32 * 1024 - 1;
const PIECE: u8 = b'p';
const END: u8 = b'e';
const UNFIT: u8 = b'u';
/// Most bytes of a reason.
const REASON_BYTES_MAX: usize = 2_000;
/// Where guests have their channel.
const CHANNEL: i32 = 3;

/// Has a package's program compiled.
pub(super) async fn compile(backend: &dyn Backend, artefacts: &Artefacts, code: &CodeDigest) -> Result<(), Error> {
    let spec = SandboxSpec {
        guest: Guest::Compiler,
        code: Some(code.clone()),
        layers: Vec::new(),
        files: None,
        root: None,
        memory_bytes: MEMORY_BYTES,
        tmp_bytes: TMP_BYTES,
        environment: Vec::new(),
        held: false,
    };
    let Started { channel, mut output, control, .. } = backend.start(spec).await?;
    let made = async {
        let mut words = Vec::new();
        let mut said = (&mut output).take(REASON_BYTES_MAX as u64);
        let (received, _) = tokio::join!(receive(channel, artefacts, code), said.read_to_end(&mut words));
        (received, words)
    };
    let made = timeout(PATIENCE, made).await;
    control.kill();
    let exit = control.wait().await;
    match made {
        Ok((Ok(()), _)) => Ok(()),
        Ok((Err(Failure::Unfit(reason)), _)) => Err(Error::Unfit(reason)),
        Ok((Err(Failure::Ended), _)) if exit.out_of_memory => {
            Err(Error::Unfit(format!("it takes more than {} MiB to compile", MEMORY_BYTES >> 20)))
        }
        Ok((Err(Failure::Ended), words)) => {
            let words = String::from_utf8_lossy(&words);
            Err(Error::Unfit(format!("the compiler ended before it was done ({})", words.trim())))
        }
        Ok((Err(Failure::Host(error)), _)) => Err(Error::Host(format!("a compiled program: {error}"))),
        Err(_) => Err(Error::Unfit(format!("it takes longer than {} s to compile", PATIENCE.as_secs()))),
    }
}

enum Failure {
    Unfit(String),
    Ended,
    Host(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

async fn receive(channel: tokio::net::UnixStream, artefacts: &Artefacts, code: &CodeDigest) -> Result<(), Failure> {
    let mut channel = channel;
    let mut writing = artefacts.begin(code)?;
    let mut message = vec![0; PIECE_BYTES + 1];
    let mut bytes = 0;
    loop {
        let length = channel.read(&mut message).await.unwrap_or(0);
        match message[..length] {
            [PIECE, ref piece @ ..] => {
                bytes += piece.len();
                if bytes > MADE_BYTES_MAX {
                    return Err(Failure::Unfit(format!("it becomes more than {} MiB of code", MADE_BYTES_MAX >> 20)));
                }
                writing.push(piece)?;
            }
            [END] => return Ok(artefacts.keep(code, writing)?),
            [UNFIT, ref reason @ ..] => {
                return Err(Failure::Unfit(String::from_utf8_lossy(reason).into_owned()));
            }
            _ => return Err(Failure::Ended),
        }
    }
}

/// The compiler itself, as a guest: called as `PROGRAM __compiler`.
///
/// # Errors
/// The channel is not there.
pub fn compiler_main() -> io::Result<()> {
    machine::lower_priority();
    // SAFETY: the spawner gives every guest its channel under this number, and nothing else here has it.
    let channel = unsafe { UnixStream::from_raw_fd(CHANNEL) };
    tell(channel, &Path::new("/var/task").join(PROGRAM_FILE))
}

/// Compiles a file and says what came of it.
pub(super) fn tell(mut channel: UnixStream, path: &Path) -> io::Result<()> {
    match read(path).and_then(|program| made(&program)) {
        Ok(made) => {
            for piece in made.chunks(PIECE_BYTES) {
                say(&mut channel, PIECE, piece)?;
            }
            say(&mut channel, END, &[])
        }
        Err(reason) => {
            let end = reason.floor_char_boundary(REASON_BYTES_MAX);
            say(&mut channel, UNFIT, &reason.as_bytes()[..end])
        }
    }
}

fn say(channel: &mut UnixStream, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let message = [&[kind], bytes].concat();
    // The channel keeps the bounds of writes, so that a message is written whole or not at all.
    channel.write_all(&message)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| format!("it cannot be read: {error}"))?;
    let mut program = Vec::new();
    let read = file.take(PROGRAM_BYTES_MAX + 1).read_to_end(&mut program);
    read.map_err(|error| format!("it cannot be read: {error}"))?;
    if program.len() as u64 > PROGRAM_BYTES_MAX {
        return Err(format!("it has more than {} MiB", PROGRAM_BYTES_MAX >> 20));
    }
    Ok(program)
}

/// What a program is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Module,
    Component,
}

/// The magic number, then a version and a layer. Pure.
fn form(program: &[u8]) -> Result<Form, String> {
    match program.first_chunk::<8>() {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Ok(Form::Module),
        Some([0, b'a', b's', b'm', _, _, 1, 0]) => Ok(Form::Component),
        Some([0, b'a', b's', b'm', version, ..]) => {
            Err(format!("it is WebAssembly of a form ({version}) that is not known"))
        }
        _ => Err("it is not WebAssembly: it does not begin with its magic number".to_owned()),
    }
}

fn made(program: &[u8]) -> Result<Vec<u8>, String> {
    let form = form(program)?;
    let engine = Engine::new(&machine::config()).map_err(|error| format!("there is no engine: {error:#}"))?;
    let made = match form {
        Form::Module => engine.precompile_module(program),
        Form::Component => engine.precompile_component(program),
    };
    made.map_err(|error| format!("{error:#}"))
}

/// What the compiler makes of a text, for tests.
#[cfg(test)]
pub(super) fn made_of(text: &str) -> Result<Vec<u8>, String> {
    made(&wat::parse_str(text).map_err(|error| error.to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_by_their_first_bytes() {
        assert_eq!(form(b"\0asm\x01\0\0\0"), Ok(Form::Module));
        assert_eq!(form(b"\0asm\x0d\0\x01\0"), Ok(Form::Component));
        assert!(form(b"\0asm\x02\0\0\0").unwrap_err().contains("form (2)"));
        for other in [&b""[..], b"\0asm", b"#!/bin/sh\n", b"\x7fELF\x01\0\0\0"] {
            assert!(form(other).unwrap_err().contains("magic number"), "{other:?}");
        }
    }

    #[test]
    fn what_is_not_valid_is_told_in_words() {
        assert!(made_of("(module)").is_ok());
        assert!(made_of("(component)").is_ok());
        let wrong = made(b"\0asm\x01\0\0\0\xff").unwrap_err();
        assert!(!wrong.is_empty());
    }
}
