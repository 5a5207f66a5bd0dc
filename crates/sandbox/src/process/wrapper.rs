//! A program that starts an interpreter in its place: `AWS_LAMBDA_EXEC_WRAPPER`, executed with the interpreter's command line.
//!
//! It is what the guest's own process becomes, behind every wall; whatever it makes of line and environment is the guest's
//! affair. Where it cannot be executed, Lambda's runtimes write a line to the log and end with a shell's code for that, and so
//! does this.
//!
//! Invariant: nothing here allocates, locks or panics (`child`).

use std::convert::Infallible;
use std::ffi::CStr;
use std::mem::MaybeUninit;

use libc::{c_char, c_int};

use super::child::{Program, exit};
use super::protocol::Step;
use super::sys::{self, Fault};

/// Most words of an interpreter's command line.
const WORDS_MAX: usize = 64;
/// What a file without `#!` is a script of, the first that is there.
const SHELLS: [&CStr; 2] = [c"/bin/bash", c"/bin/sh"];
/// How much of a file tells whether it is text.
const LOOKED_AT: usize = 80;
/// What a shell ends with if it does not find what it is to execute, and if it finds it and cannot.
const NOT_FOUND: c_int = 127;
const NOT_EXECUTABLE: c_int = 126;

/// Executes a wrapper in front of a program.
pub(super) fn execute(
    wrapper: &CStr,
    program: &Program,
    environment: *const *const c_char,
) -> Result<Infallible, Fault> {
    // A shell's name, the wrapper, the line with its null pointer.
    let mut line = [std::ptr::null::<c_char>(); WORDS_MAX + 3];
    let words = program.argv.len().saturating_sub(1);
    if words > WORDS_MAX {
        return Err(Fault { step: Step::ExecInterpreter, errno: libc::E2BIG });
    }
    line[1] = wrapper.as_ptr();
    line[2..2 + words].copy_from_slice(&program.argv[..words]);
    // SAFETY: path, line and environment end with null pointers, their strings with zero bytes; all outlive the call.
    unsafe { libc::execve(wrapper.as_ptr(), line[1..].as_ptr(), environment) };
    let errno = sys::errno();
    if errno == libc::ENOEXEC && is_file(wrapper) && is_text(wrapper) {
        for shell in SHELLS {
            line[0] = shell.as_ptr();
            // SAFETY: as above.
            unsafe { libc::execve(shell.as_ptr(), line.as_ptr(), environment) };
        }
    }
    let (words, code) = refusal(errno, is_file(wrapper));
    tell(wrapper, words);
    exit(code)
}

/// What is said of a wrapper that could not be executed, and the code to end with.
fn refusal(errno: c_int, is_file: bool) -> (&'static CStr, c_int) {
    match errno {
        _ if !is_file => (c": does not exist\n", NOT_FOUND),
        libc::EACCES | libc::EPERM => (c": is not an executable\n", NOT_EXECUTABLE),
        libc::ENOENT | libc::ENOTDIR => (c": has an interpreter that does not exist\n", NOT_EXECUTABLE),
        libc::ENOEXEC => (c": has a format that cannot be executed here\n", NOT_EXECUTABLE),
        libc::E2BIG => (c": cannot be executed: its arguments and variables are too long\n", NOT_EXECUTABLE),
        _ => (c": cannot be executed\n", NOT_EXECUTABLE),
    }
}

fn is_file(path: &CStr) -> bool {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the path ends with a zero byte; the structure is read only where the call has filled it.
    unsafe {
        libc::stat(path.as_ptr(), stat.as_mut_ptr()) == 0
            && stat.assume_init_ref().st_mode & libc::S_IFMT == libc::S_IFREG
    }
}

/// Whether a file is a script that does not say of what: shells take what has no zero byte in its first line for one.
fn is_text(path: &CStr) -> bool {
    let Ok(file) = sys::open(path, libc::O_RDONLY) else { return false };
    let mut head = [0u8; LOOKED_AT];
    // SAFETY: the buffer is as long as is said.
    let read = unsafe { libc::read(file, head.as_mut_ptr().cast(), head.len()) };
    sys::close(file);
    let read = usize::try_from(read).unwrap_or(0).min(head.len());
    let first = head[..read].split(|byte| *byte == b'\n').next().unwrap_or(&[]);
    read > 0 && !first.contains(&0)
}

/// Writes a line to the guest's output, at once.
fn tell(path: &CStr, words: &CStr) {
    let part = |text: &CStr| libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.to_bytes().len() };
    let parts = [part(path), part(words)];
    // SAFETY: both parts are readable for as long as they say. Nothing can be done where it fails: the code says the rest.
    unsafe { libc::writev(2, parts.as_ptr(), 2) };
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::*;

    fn path(path: &Path) -> CString {
        CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    #[test]
    fn what_is_said_is_about_the_file() {
        for (errno, is_file, words, code) in [
            (libc::ENOENT, false, ": does not exist\n", 127),
            (libc::EACCES, false, ": does not exist\n", 127),
            (libc::EACCES, true, ": is not an executable\n", 126),
            (libc::ENOENT, true, ": has an interpreter that does not exist\n", 126),
            (libc::ENOEXEC, true, ": has a format that cannot be executed here\n", 126),
            (libc::ENOMEM, true, ": cannot be executed\n", 126),
        ] {
            let (said, ends) = refusal(errno, is_file);
            assert_eq!((said.to_str().unwrap(), ends), (words, code), "{errno} {is_file}");
        }
    }

    #[test]
    fn scripts_are_told_from_programs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        for (content, text) in [
            (&b"export A=1\nexec \"$@\"\n"[..], true),
            (b"a", true),
            (b"a\n\0", true),
            (b"", false),
            (b"\x7fELF\x02\x01\x01\0\0\n", false),
        ] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(is_text(&path(&file)), text, "{content:?}");
        }
        assert!(
            is_file(&path(&file)) && !is_file(&path(folder.path())) && !is_file(&path(&folder.path().join("none")))
        );
    }
}
