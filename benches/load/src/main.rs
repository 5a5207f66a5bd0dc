//! `load`: a closed-loop HTTP/1.1 load generator of one thread, shared by the platform and its peers in `benches/run.py`.
//!
//! Usage: `load ADDR CONNECTIONS WARM_MS RUN_MS REQUESTS`. The file `REQUESTS` holds whole requests, each after a line
//! with its length in bytes; the connections take them in turn and begin again at the end. One line of JSON on stdout:
//! answers, those of the warm-up as well, answers that are not 2xx, requests/s, and p50, p90, p99 and the highest
//! latency in µs. A transport error ends it with a message.
//!
//! Not here: open-loop load, TLS, pipelining, HTTP/2.
//!
//! Invariants
//!   1. One request is in flight per connection; a latency runs from its write to the last byte of its answer.
//!   2. Only answers that end within the run, after the warm-up, are counted.
//!   3. With one connection it blocks in `read`: no second system call stands between answer and next request.
//!
//! Start reading at `main`, then `Connection`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll;

type Failure = Box<dyn std::error::Error>;

/// How much an answer's head may hold before it is called broken.
const HEAD_MAX: usize = 64 * 1024;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, connections, warm_ms, run_ms, requests] = arguments.as_slice() else {
        return Err("usage: load ADDR CONNECTIONS WARM_MS RUN_MS REQUESTS".into());
    };
    let address: SocketAddr = address.parse()?;
    let requests = parse_requests(&std::fs::read(requests)?)?;
    let count: usize = connections.parse()?;
    let mut connections = Vec::with_capacity(count);
    for index in 0..count {
        connections.push(Connection::open(address, index * requests.len() / count.max(1))?);
    }
    let begin = Instant::now() + Duration::from_millis(warm_ms.parse()?);
    let mut tally = Tally::new(begin, Duration::from_millis(run_ms.parse()?));
    if let [only] = connections.as_mut_slice() {
        run_one(only, &requests, &mut tally)?;
    } else {
        run_many(&mut connections, &requests, &mut tally)?;
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", tally.json())?;
    Ok(())
}

/// One connection: blocking reads and writes.
fn run_one(connection: &mut Connection, requests: &[Vec<u8>], tally: &mut Tally) -> Result<(), Failure> {
    loop {
        connection.send(requests)?;
        let answer = loop {
            if let Some(answer) = connection.receive()? {
                break answer;
            }
        };
        if !tally.count(connection.sent_at, &answer) {
            return Ok(());
        }
    }
}

/// Many connections: readiness from the kernel, each ready socket answered at once.
fn run_many(connections: &mut [Connection], requests: &[Vec<u8>], tally: &mut Tally) -> Result<(), Failure> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, connection) in connections.iter_mut().enumerate() {
        connection.stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&poll, &connection.stream, data, epoll::EventFlags::IN)?;
        connection.send(requests)?;
    }
    let mut events = Vec::with_capacity(connections.len());
    loop {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let connection = &mut connections[usize::try_from(event.data.u64())?];
            if let Some(answer) = connection.receive()? {
                if !tally.count(connection.sent_at, &answer) {
                    return Ok(());
                }
                connection.send(requests)?;
            }
        }
    }
}

/// A keep-alive connection with at most one request in flight.
struct Connection {
    stream: TcpStream,
    next: usize,
    sent_at: Instant,
    received: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr, first: usize) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream, next: first, sent_at: Instant::now(), received: Vec::with_capacity(8192) })
    }

    fn send(&mut self, requests: &[Vec<u8>]) -> Result<(), Failure> {
        let request = &requests[self.next % requests.len()];
        self.next += 1;
        self.received.clear();
        self.sent_at = Instant::now();
        self.stream.write_all(request)?;
        Ok(())
    }

    /// One read; the answer, if it is whole.
    fn receive(&mut self) -> Result<Option<Answer>, Failure> {
        let mut chunk = [0_u8; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err("the server closed the connection".into()),
            Ok(length) => {
                self.received.extend_from_slice(&chunk[..length]);
                answer_in(&self.received)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What counts of an answer.
struct Answer {
    status: u16,
}

/// The answer that `bytes` hold, if it is whole. Bodies have a length or are chunked.
fn answer_in(bytes: &[u8]) -> Result<Option<Answer>, Failure> {
    let Some(head_end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_MAX { Err("no end of the answer's head".into()) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..head_end])?;
    let body = &bytes[head_end + 4..];
    let status: u16 = head.get(9..12).ok_or("no status line")?.parse()?;
    let field = |name: &str| {
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let whole = match (field("content-length"), field("transfer-encoding")) {
        (Some(length), _) => body.len() >= length.parse::<usize>()?,
        (None, Some(_)) => body.ends_with(b"0\r\n\r\n"),
        (None, None) if status == 204 => true,
        (None, None) => return Err("an answer without length".into()),
    };
    Ok(whole.then_some(Answer { status }))
}

/// What was seen within the run.
struct Tally {
    begin: Instant,
    end: Instant,
    latencies_ns: Vec<u64>,
    refused: u64,
    in_all: u64,
}

impl Tally {
    fn new(begin: Instant, run: Duration) -> Self {
        Self { begin, end: begin + run, latencies_ns: Vec::with_capacity(1 << 20), refused: 0, in_all: 0 }
    }

    /// Counts an answer that ended now; false when the run is over.
    fn count(&mut self, sent_at: Instant, answer: &Answer) -> bool {
        let now = Instant::now();
        if now >= self.end {
            return false;
        }
        self.in_all += 1;
        if now >= self.begin {
            self.latencies_ns.push(u64::try_from((now - sent_at).as_nanos()).unwrap_or(u64::MAX));
            self.refused += u64::from(!(200..300).contains(&answer.status));
        }
        true
    }

    fn json(&mut self) -> String {
        self.latencies_ns.sort_unstable();
        let count = self.latencies_ns.len();
        let at = |share: f64| {
            let index = ((count as f64 * share) as usize).min(count.saturating_sub(1));
            self.latencies_ns.get(index).map_or(0.0, |ns| *ns as f64 / 1_000.0)
        };
        let rate = count as f64 / (self.end - self.begin).as_secs_f64();
        format!(
            "{{\"answers\":{count},\"answers_in_all\":{},\"refused\":{},\"rps\":{rate:.1},\"p50_us\":{:.1},\"p90_us\":{:.1},\"p99_us\":{:.1},\"max_us\":{:.1}}}",
            self.in_all,
            self.refused,
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        )
    }
}

/// Whole requests, each after a line with its length.
fn parse_requests(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        let line_end = bytes.iter().position(|byte| *byte == b'\n').ok_or("a length line without end")?;
        let length: usize = std::str::from_utf8(&bytes[..line_end])?.parse()?;
        let end = line_end + 1 + length;
        requests.push(bytes.get(line_end + 1..end).ok_or("a request is cut")?.to_vec());
        bytes = &bytes[end..];
    }
    if requests.is_empty() { Err("no requests".into()) } else { Ok(requests) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_at_their_length_or_last_chunk() {
        for (text, status) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Some(200)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", None),
            ("HTTP/1.1 502 Bad\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Some(502)),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", None),
            ("HTTP/1.1 204 No Content\r\n\r\n", Some(204)),
            ("HTTP/1.1 200 OK\r\n", None),
        ] {
            assert_eq!(answer_in(text.as_bytes()).unwrap().map(|answer| answer.status), status, "{text}");
        }
        assert!(answer_in(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    #[test]
    fn requests_follow_their_length() {
        assert_eq!(parse_requests(b"3\nabc1\nx").unwrap(), vec![b"abc".to_vec(), b"x".to_vec()]);
        assert!(parse_requests(b"").is_err());
        assert!(parse_requests(b"5\nabc").is_err());
    }
}
