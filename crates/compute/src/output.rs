//! One environment's output pipe and log: lines into events, platform lines between them, all in order.
//!
//! Two parties read the pipe without handing it over: the environment's keeper, whenever there is something, and the
//! invocation that ends, which empties it before its END line.
//!
//! Invariants
//!   1. Whatever the guest wrote before its answer is in the log before the END line.
//!   2. At most `HELD_BYTES_MAX` wait here; beyond that the pipe is left alone and the guest blocks in its own write,
//!      so that a flood harms only who makes it.
//!   3. Batches of one stream reach the sink in order: `flushing` is held from taking events until they are appended.
//!   4. One event holds at most `LINE_BYTES_MAX` bytes; longer lines become several.
//!   5. An event that a runtime writes for a logger begins on a line of its own: before it comes a line that ends with
//!      `RECORD_MARK`, with whatever was begun and not ended in front of it.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::Clock;
use bytes::{Buf, Bytes, BytesMut};
use model::ports::LogSink;
use model::{AccountId, ApplicationLevel, JsonLog, LogBatch, LogEvent, Region};
use parking_lot::Mutex;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use crate::records::Line;
use crate::telemetry::{self, Fact, Hub};

/// Most bytes of one event's text.
pub(crate) const LINE_BYTES_MAX: usize = 256 * 1024;
/// Most bytes that wait for the sink.
const HELD_BYTES_MAX: usize = 512 * 1024;
/// Most bytes that the end of an invocation takes out of the pipe: the largest pipe there is.
const DRAIN_BYTES_MAX: usize = 1024 * 1024;
/// At the end of a line: it ends because a runtime writes an event, and is none if there is nothing else in it. Runtimes cannot
/// know whether a line was begun, as programs write to the output by themselves.
const RECORD_MARK: u8 = 0x1e;
/// What `LogType=Tail` returns.
const TAIL_BYTES: usize = 4 * 1024;
/// Small, since every call empties the pipe twice and mostly finds nothing there.
const READ_BYTES: usize = 2 * 1024;

/// Where the lines go.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    /// Owner of the group.
    pub(crate) account: AccountId,
    /// Region of the group.
    pub(crate) region: Region,
    /// The group.
    pub(crate) group: Arc<str>,
    /// The stream of this environment.
    pub(crate) name: Arc<str>,
    /// Which lines it has, where they are JSON.
    pub(crate) json: Option<JsonLog>,
    /// The platform's line before everything else, if this log has it.
    pub(crate) first_line: Option<String>,
}

impl Stream {
    /// The platform's line before everything else is this one.
    pub(crate) fn begins_with(&mut self, line: &Line<'_>, now_ms: u64) {
        self.first_line = self.written(line, now_ms);
    }

    /// A line of the platform's as this log has it, if it has it.
    fn written(&self, line: &Line<'_>, now_ms: u64) -> Option<String> {
        match self.json {
            None => line.text(),
            Some(log) => line.record(now_ms, log.system),
        }
    }
}

/// The log of one environment.
pub(crate) struct Output {
    stream: Stream,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn LogSink>,
    source: Source,
    lines: Mutex<Lines>,
    /// Told where something was written by a program that nobody has seen yet.
    written: Notify,
    /// Whether it is told already that the runtime's part of the init is over.
    runtime_done: AtomicBool,
    flushing: tokio::sync::Mutex<()>,
}

/// Where a log's lines come from.
pub(crate) enum Source {
    /// A guest, which writes into a pipe.
    Pipe(pipe::Receiver),
    /// A program, which writes here itself (`take`).
    Written,
    /// Nobody: the guest never came to write.
    Nobody,
}

/// What the keeper should do after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// The pipe is empty for now.
    Empty,
    /// Enough is held: flush before reading on.
    Full,
    /// The guest has closed its end.
    Closed,
}

impl Output {
    /// The log of a new environment, its first line in it.
    pub(crate) fn new(mut stream: Stream, clock: Arc<dyn Clock>, sink: Arc<dyn LogSink>, source: Source) -> Self {
        let mut lines = Lines::new(stream.json.map(|log| log.application));
        if let Some(line) = stream.first_line.take() {
            lines.push(line, clock.now_ms());
        }
        let lines = Mutex::new(lines);
        let (written, runtime_done, flushing) = (Notify::new(), AtomicBool::new(false), tokio::sync::Mutex::new(()));
        Self { stream, clock, sink, source, lines, written, runtime_done, flushing }
    }

    /// Waits until the guest has written something or has closed its end.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match &self.source {
            Source::Pipe(pipe) => pipe.readable().await,
            Source::Written => {
                self.written.notified().await;
                Ok(())
            }
            Source::Nobody => std::future::pending().await,
        }
    }

    /// Takes what a program writes.
    pub(crate) fn take(&self, bytes: &[u8]) {
        let mut lines = self.lines.lock();
        let held = !lines.events.is_empty();
        lines.take(bytes, self.clock.now_ms());
        if !held && !lines.events.is_empty() {
            self.written.notify_one();
        }
    }

    /// Whether a program that writes more has to wait until it is flushed.
    pub(crate) fn is_full(&self) -> bool {
        self.lines.lock().held_bytes >= HELD_BYTES_MAX
    }

    /// Takes what is in the pipe now, without waiting.
    pub(crate) fn read(&self) -> Read {
        self.read_into(&mut self.lines.lock(), HELD_BYTES_MAX, |pipe, chunk| pipe.try_io(move || ask(pipe, chunk)))
    }

    /// Takes what is in the pipe at this moment. The kernel is asked, not the runtime: that one may not have heard yet
    /// of what the guest wrote just before its answer.
    fn drain_into(&self, lines: &mut Lines) {
        let room = lines.held_bytes + DRAIN_BYTES_MAX;
        self.read_into(lines, room, ask);
    }

    fn read_into(
        &self,
        lines: &mut Lines,
        held_max: usize,
        read: impl for<'a> Fn(&pipe::Receiver, &'a mut [MaybeUninit<u8>]) -> io::Result<&'a mut [u8]>,
    ) -> Read {
        let pipe = match &self.source {
            Source::Pipe(pipe) => pipe,
            Source::Written => return if lines.held_bytes >= held_max { Read::Full } else { Read::Empty },
            Source::Nobody => return Read::Closed,
        };
        let now_ms = self.clock.now_ms();
        let mut chunk = [MaybeUninit::uninit(); READ_BYTES];
        loop {
            if lines.held_bytes >= held_max {
                return Read::Full;
            }
            match read(pipe, &mut chunk) {
                Ok([]) => return Read::Closed,
                Ok(bytes) => lines.take(bytes, now_ms),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Read::Empty,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Read::Closed,
            }
        }
    }

    /// Begins an invocation: what was written before, its START line, and its tail if that is wanted. The first one's
    /// tail has the init in it.
    pub(crate) fn begin(&self, start: &Line<'_>, tail: bool) {
        let mut lines = self.lines.lock();
        self.drain_into(&mut lines);
        if !tail {
            lines.tail = None;
        } else if lines.tail.is_none() {
            lines.tail = Some(Tail::default());
        }
        let now_ms = self.clock.now_ms();
        // Where it stands, so that it can be taken back.
        lines.started = None;
        if self.put(&mut lines, start, now_ms) {
            lines.started = Some(lines.events.len());
        }
    }

    /// Ends an invocation: empties the pipe, then adds the platform's lines. Returns the tail.
    pub(crate) fn end<'a>(&self, platform_lines: impl IntoIterator<Item = Line<'a>>) -> Option<Bytes> {
        let mut lines = self.lines.lock();
        self.drain_into(&mut lines);
        let now_ms = self.clock.now_ms();
        lines.cut(now_ms);
        for line in platform_lines {
            self.put(&mut lines, &line, now_ms);
        }
        lines.tail.take().map(Tail::into_bytes)
    }

    /// Begins one of several calls that run at once: which of them writes a line cannot be told. A tail holds the lines of
    /// all of them.
    pub(crate) fn begin_among(&self, start: &Line<'_>, tail: bool) {
        let mut lines = self.lines.lock();
        self.drain_into(&mut lines);
        lines.tails += usize::from(tail);
        if lines.tails == 0 {
            lines.tail = None;
        } else if lines.tail.is_none() {
            lines.tail = Some(Tail::default());
        }
        lines.started = None;
        self.put(&mut lines, start, self.clock.now_ms());
    }

    /// Ends one of several calls that run at once; the tail, if it is wanted. A line that is not whole stays open: it may
    /// be another call's.
    pub(crate) fn end_among<'a>(
        &self,
        platform_lines: impl IntoIterator<Item = Line<'a>>,
        tail: bool,
    ) -> Option<Bytes> {
        let mut lines = self.lines.lock();
        self.drain_into(&mut lines);
        let now_ms = self.clock.now_ms();
        for line in platform_lines {
            self.put(&mut lines, &line, now_ms);
        }
        let shown = lines.tail.clone().filter(|_| tail);
        lines.tails = lines.tails.saturating_sub(usize::from(tail));
        shown.map(Tail::into_bytes)
    }

    /// The name of the stream.
    pub(crate) fn stream_name(&self) -> &str {
        &self.stream.name
    }

    /// Takes everything that the guest wrote so far and ends its last line.
    pub(crate) fn drain(&self) {
        let mut lines = self.lines.lock();
        self.drain_into(&mut lines);
        lines.cut(self.clock.now_ms());
    }

    /// Takes everything that the guest wrote so far.
    pub(crate) fn drain_whole(&self) {
        self.drain_into(&mut self.lines.lock());
    }

    /// Takes the START line of a call back that never reached the guest, unless it is in the sink already.
    pub(crate) fn retract(&self) {
        let mut lines = self.lines.lock();
        if lines.started.take().is_some_and(|at| at == lines.events.len()) {
            lines.events.pop();
        }
    }

    /// Adds one platform line.
    pub(crate) fn line(&self, line: &Line<'_>) {
        self.put(&mut self.lines.lock(), line, self.clock.now_ms());
    }

    /// Adds the platform's line that the runtime's part of the init is over, which subscribers are told beside the log.
    pub(crate) fn runtime_done(&self, line: &Line<'_>) {
        self.runtime_done.store(true, Ordering::Release);
        let now_ms = self.clock.now_ms();
        if let Some(text) = self.stream.written(line, now_ms) {
            self.lines.lock().push(text, now_ms);
        }
    }

    /// Whether the end of the runtime's part of the init was told.
    pub(crate) fn has_runtime_done(&self) -> bool {
        self.runtime_done.load(Ordering::Acquire)
    }

    /// Puts a line of the platform's where it belongs; whether the log has it.
    fn put(&self, lines: &mut Lines, line: &Line<'_>, now_ms: u64) -> bool {
        if let Some(hub) = &lines.hub {
            hub.line(line, now_ms);
        }
        let written = self.stream.written(line, now_ms);
        let has = written.is_some();
        if let Some(text) = written {
            lines.push(text, now_ms);
        }
        has
    }

    /// From now on subscribers hear of everything as well.
    pub(crate) fn tell(&self, hub: Arc<Hub>) {
        self.lines.lock().hub = Some(hub);
    }

    /// Adds what an extension has written. Its lines are cut by `cutter`.
    pub(crate) fn take_of_extension(&self, cutter: &mut Cutter, bytes: &[u8]) {
        let mut lines = self.lines.lock();
        let now_ms = self.clock.now_ms();
        cutter.take(bytes, |line, _| lines.of_extension(line, now_ms));
    }

    /// Ends the last line of an extension that writes no more.
    pub(crate) fn cut_of_extension(&self, cutter: &mut Cutter) {
        let mut lines = self.lines.lock();
        let now_ms = self.clock.now_ms();
        cutter.cut(|line, _| lines.of_extension(line, now_ms));
    }

    /// Whether the platform's lines are JSON records.
    pub(crate) fn has_records(&self) -> bool {
        self.stream.json.is_some()
    }

    /// Whether events wait for the sink.
    pub(crate) fn holds_events(&self) -> bool {
        !self.lines.lock().events.is_empty()
    }

    /// Ends a line that has no end yet, for a guest that will write no more.
    pub(crate) fn cut(&self) {
        let now_ms = self.clock.now_ms();
        self.lines.lock().cut(now_ms);
    }

    /// Hands all events to the sink, waiting while that is behind.
    pub(crate) async fn flush(&self) {
        let _order = self.flushing.lock().await;
        let events = self.lines.lock().hand_over();
        if events.is_empty() {
            return;
        }
        let Stream { account, region, group, name, .. } = &self.stream;
        let (account, region, group, stream) = (account.clone(), region.clone(), group.clone(), name.clone());
        self.sink.append(LogBatch { account, region, group, stream, events }).await;
    }
}

/// What the kernel has of a pipe, at most as much as `chunk` takes.
fn ask<'a>(pipe: &pipe::Receiver, chunk: &'a mut [MaybeUninit<u8>]) -> io::Result<&'a mut [u8]> {
    Ok(rustix::io::read(pipe, chunk)?.0)
}

/// Bytes into events. Pure, apart from being told the time.
struct Lines {
    partial: Cutter,
    events: Vec<LogEvent>,
    held_bytes: usize,
    tail: Option<Tail>,
    /// Calls that want the tail, where several run at once.
    tails: usize,
    /// How many events there were with the START line of the present call.
    started: Option<usize>,
    /// The level that JSON lines of the guest's must have to be kept; absent where all are.
    least: Option<ApplicationLevel>,
    /// Who else hears of every line, if anybody does.
    hub: Option<Arc<Hub>>,
}

/// Bytes into lines, however they arrive; long ones become several.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    partial: BytesMut,
}

impl Cutter {
    /// Calls `each` with every line that ends, and with parts of one that is too long: these are not whole.
    fn take(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8], bool)) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..at], &mut each);
            each(&self.partial.split()[..], true);
            bytes = &bytes[at + 1..];
        }
        self.extend(bytes, &mut each);
    }

    fn extend(&mut self, mut bytes: &[u8], each: &mut impl FnMut(&[u8], bool)) {
        while self.partial.len() + bytes.len() > LINE_BYTES_MAX {
            let (head, rest) = bytes.split_at(LINE_BYTES_MAX - self.partial.len());
            self.partial.extend_from_slice(head);
            let whole = whole_characters(&self.partial);
            each(&self.partial.split_to(whole)[..], false);
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    /// Ends a line that has no end yet.
    fn cut(&mut self, mut each: impl FnMut(&[u8], bool)) {
        if !self.partial.is_empty() {
            each(&self.partial.split()[..], true);
        }
    }
}

impl Lines {
    fn new(least: Option<ApplicationLevel>) -> Self {
        let (partial, tail) = (Cutter::default(), Some(Tail::default()));
        Self { partial, events: Vec::new(), held_bytes: 0, tail, tails: 0, started: None, least, hub: None }
    }

    fn take(&mut self, bytes: &[u8], now_ms: u64) {
        let mut cutter = std::mem::take(&mut self.partial);
        cutter.take(bytes, |line, whole| self.line(line, whole, now_ms));
        self.partial = cutter;
    }

    fn cut(&mut self, now_ms: u64) {
        let mut cutter = std::mem::take(&mut self.partial);
        cutter.cut(|line, whole| self.line(line, whole, now_ms));
        self.partial = cutter;
    }

    /// A line of the function's, or a part of one.
    fn line(&mut self, line: &[u8], whole: bool, now_ms: u64) {
        let line = match line.split_last() {
            Some((&RECORD_MARK, [])) if whole => return,
            Some((&RECORD_MARK, begun)) if whole => begun,
            _ => line,
        };
        if !whole || self.least.is_none_or(|least| level_of(line).is_none_or(|level| level >= least)) {
            let text = text(line);
            if let Some(hub) = &self.hub {
                hub.tell(Fact::line(now_ms, telemetry::Stream::Function, &text, self.least.is_some()));
            }
            self.push(text, now_ms);
        }
    }

    fn of_extension(&mut self, line: &[u8], now_ms: u64) {
        let text = text(line);
        if let Some(hub) = &self.hub {
            hub.tell(Fact::line(now_ms, telemetry::Stream::Extension, &text, self.least.is_some()));
        }
        self.push(text, now_ms);
    }

    fn push(&mut self, message: String, now_ms: u64) {
        if let Some(tail) = &mut self.tail {
            tail.push(message.as_bytes());
        }
        // The event's own weight counts too, or empty lines would be free.
        self.held_bytes += message.len() + size_of::<LogEvent>();
        self.events.push(LogEvent { timestamp_ms: now_ms, message });
    }

    fn hand_over(&mut self) -> Vec<LogEvent> {
        self.held_bytes = 0;
        self.started = None;
        std::mem::take(&mut self.events)
    }
}

/// The level of a guest's line, if that is a JSON object: as the object says, or INFO where it does not name both a level and a
/// time that can be read.
fn level_of(line: &[u8]) -> Option<ApplicationLevel> {
    #[derive(serde::Deserialize)]
    struct Entry<'a> {
        #[serde(borrow, default)]
        level: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        timestamp: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        time: Option<Cow<'a, str>>,
    }
    let line = line.trim_ascii();
    if line.first() != Some(&b'{') {
        return None;
    }
    if let Ok(entry) = serde_json::from_slice::<Entry<'_>>(line) {
        let at = entry.timestamp.or(entry.time).and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let level = entry.level.and_then(|level| ApplicationLevel::parse(&level));
        return Some(level.filter(|_| at.is_some()).unwrap_or(ApplicationLevel::Info));
    }
    // Members of other kinds tell nothing; what is no JSON has no level.
    serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok().then_some(ApplicationLevel::Info)
}

/// A line's text. Runtimes join the lines of one event by carriage returns, which become what they stand for.
fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    if text.contains('\r') { text.replace('\r', "\n") } else { text.into_owned() }
}

/// How much of `bytes` to take so that no character is cut, if its end looks like UTF-8 at all.
fn whole_characters(bytes: &[u8]) -> usize {
    let end = bytes.len();
    let back = bytes.iter().rev().take(4).position(|byte| byte & 0b1100_0000 != 0b1000_0000);
    match back {
        Some(back) if back < end => {
            let lead = bytes[end - 1 - back];
            let width = match lead {
                0xc0..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf7 => 4,
                _ => 1,
            };
            if width > back + 1 && end - 1 - back > 0 { end - 1 - back } else { end }
        }
        _ => end,
    }
}

/// The last bytes of the log.
#[derive(Debug, Default, Clone)]
struct Tail {
    bytes: VecDeque<u8>,
}

impl Tail {
    fn push(&mut self, line: &[u8]) {
        let line = &line[line.len().saturating_sub(TAIL_BYTES)..];
        self.bytes.extend(line);
        self.bytes.push_back(b'\n');
        let excess = self.bytes.len().saturating_sub(TAIL_BYTES);
        self.bytes.advance(excess);
    }

    fn into_bytes(self) -> Bytes {
        Vec::from(self.bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages(lines: &mut Lines) -> Vec<String> {
        lines.hand_over().into_iter().map(|event| event.message).collect()
    }

    #[test]
    fn lines_become_events_however_they_arrive() {
        let mut lines = Lines::new(None);
        for chunk in [&b"one\ntw"[..], b"o\r\n\nth", b"ree\rfour"] {
            lines.take(chunk, 1);
        }
        assert_eq!(messages(&mut lines), ["one", "two", ""]);
        lines.cut(2);
        assert_eq!(messages(&mut lines), ["three\nfour"]);
        lines.cut(3);
        assert!(messages(&mut lines).is_empty());
    }

    #[test]
    fn a_record_begins_a_line_of_its_own() {
        let written = b"part\x1e\n[ERROR]\ta\rb\n\x1e\n{}\nraw\n\n\x1e\nend";
        for size in 1..=written.len() {
            let mut lines = Lines::new(None);
            for chunk in written.chunks(size) {
                lines.take(chunk, 1);
            }
            lines.cut(2);
            assert_eq!(messages(&mut lines), ["part", "[ERROR]\ta\nb", "{}", "raw", "", "end"]);
        }
        // A begun line of the greatest length: nothing is left of the mark.
        let mut lines = Lines::new(None);
        lines.take(&vec![b'x'; LINE_BYTES_MAX], 1);
        lines.take(b"\x1e\nrecord\n", 1);
        let found = messages(&mut lines);
        assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), [LINE_BYTES_MAX, 6]);
        // JSON that was glued to something else would be of no level.
        let mut lines = Lines::new(Some(ApplicationLevel::Error));
        lines.take(b"part\x1e\n{\"level\":\"info\",\"timestamp\":\"2024-11-02T16:51:31Z\"}\n", 1);
        assert_eq!(messages(&mut lines), ["part"]);
    }

    #[test]
    fn json_lines_below_the_level_are_left_out() {
        let kept = |line: &str, least| {
            let mut lines = Lines::new(least);
            lines.take(format!("{line}\n").as_bytes(), 1);
            messages(&mut lines).len() == 1
        };
        let at = |level: &str| format!(r#"{{"level":"{level}","timestamp":"2024-11-02T16:51:31.587Z","message":"x"}}"#);
        use ApplicationLevel::{Debug, Error, Info, Warn};
        for (line, level) in [
            (at("debug"), Debug),
            (at("INFO"), Info),
            (at("WARN"), Warn),
            (at("loud"), Info),
            (r#"{"level":"error","time":"2024-11-02T16:51:31Z"}"#.to_owned(), Error),
            (r#"{"level":"debug"}"#.to_owned(), Info),
            (r#"{"level":"error","timestamp":"today"}"#.to_owned(), Info),
            (r#"{"level":50,"message":"x"}"#.to_owned(), Info),
        ] {
            for least in [Debug, Info, Warn, Error] {
                assert_eq!(kept(&line, Some(least)), level >= least, "{line} {least:?}");
            }
            assert!(kept(&line, None));
        }
        for plain in ["words", "{words}", ""] {
            assert!(kept(plain, Some(Error)), "{plain:?}");
        }
    }

    #[test]
    fn long_lines_are_split_between_characters() {
        let mut lines = Lines::new(None);
        let long = "é".repeat(LINE_BYTES_MAX);
        lines.take(b"x", 1);
        lines.take(long.as_bytes(), 1);
        lines.take(b"\n", 1);
        let parts = messages(&mut lines);
        assert_eq!(parts.concat(), format!("x{long}"));
        assert!(parts.iter().all(|part| part.len() <= LINE_BYTES_MAX));
    }

    #[test]
    fn the_tail_is_the_last_four_kilobytes() {
        let mut tail = Tail::default();
        tail.push(b"first");
        tail.push(&[b'a'; TAIL_BYTES * 2]);
        tail.push(b"last");
        let bytes = tail.into_bytes();
        assert_eq!(bytes.len(), TAIL_BYTES);
        assert!(bytes.ends_with(b"a\nlast\n"));
    }

    proptest! {
        #[test]
        fn noise_of_any_cut_is_kept(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..20)) {
            let mut lines = Lines::new(None);
            for chunk in &chunks {
                lines.take(chunk, 1);
            }
            lines.cut(1);
            let ends = chunks.iter().flatten().filter(|byte| **byte == b'\n').count();
            let whole: Vec<u8> = chunks.concat();
            let marks = whole.split(|byte| *byte == b'\n').filter(|line| **line == [RECORD_MARK]).count();
            let unfinished = usize::from(whole.last().is_some_and(|byte| *byte != b'\n'));
            prop_assert_eq!(messages(&mut lines).len(), ends + unfinished - marks);
        }
    }
}
