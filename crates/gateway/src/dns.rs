//! DNS messages, as much as a guest's resolver needs: one question in, one answer out; and a question to the host's name
//! servers with what they answer. Pure.
//!
//! Not here: what a name means (`guest_network`), sockets (there and `name_servers`). Guests are answered without EDNS, so an answer
//! over UDP fits 512 bytes or is cut, and is asked for again over TCP.
//!
//! Invariants
//!   1. No input makes this panic or read past the packet.
//!   2. Every answer repeats the question's id and question, and fits the bytes that it may have.
//!   3. Of a name server's answer a guest gets records of the type that it asked for and what leads to them (CNAME, DNAME), never
//!      others: an address that comes beside them has not been judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest answer over UDP, as resolvers without EDNS expect.
pub const DATAGRAM_BYTES_MAX: usize = 512;
/// Longest answer over TCP.
pub const STREAM_BYTES_MAX: usize = 65_535;
/// What is taken of a name server in one datagram: what passes everywhere in one piece.
pub(crate) const REPLY_BYTES_MAX: u16 = 1_232;
/// Most addresses of an answer.
const ADDRESSES_MAX: usize = 12;
/// Seconds that a resolver may keep an address.
const TTL_S: u32 = 30;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// Other records that name servers are asked for.
    Records,
    /// Anything else: a name has none of it here.
    Other,
}

/// Types whose records pass as they are. HTTPS and SVCB are none of them: addresses are in their middle.
const PASSED: &[u16] = &[2, 5, 6, 15, 16, 33, 35, 52, 257];
const CNAME: u16 = 5;
const DNAME: u16 = 39;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    id: u16,
    recursion_desired: bool,
    /// The question as it came, to be repeated.
    question: Vec<u8>,
    /// Name, lower case, without the last dot.
    pub name: String,
    /// What is asked for.
    pub kind: Kind,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Addresses; none means that the name has none of this kind.
    V4(Vec<Ipv4Addr>),
    /// Addresses; none means that the name has none of this kind.
    V6(Vec<Ipv6Addr>),
    /// There is no such name.
    NoSuchName,
    /// The answer is not known now.
    Failed,
    /// What a name server has of it.
    Records(Records),
}

/// Records as a name server gave them, behind the same question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// Whether there is the name at all.
    exists: bool,
    count: u16,
    bytes: Vec<u8>,
}

/// What a name server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Its answer.
    Records(Records),
    /// It has more to say than a datagram holds.
    Truncated,
    /// It cannot answer.
    Failed,
}

/// What to do with a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// Find out and answer.
    Query(Query),
    /// Send this back: the question is malformed or of a kind that is not answered.
    Refuse(Vec<u8>),
    /// Say nothing: not a question.
    Ignore,
}

/// Reads a packet.
pub fn parse(packet: &[u8]) -> Parsed {
    const RESPONSE: u8 = 0x80;
    let Some(head) = packet.first_chunk::<12>() else { return Parsed::Ignore };
    if head[2] & RESPONSE != 0 {
        return Parsed::Ignore;
    }
    let id = u16::from_be_bytes([head[0], head[1]]);
    let recursion_desired = head[2] & 1 != 0;
    let refuse = |code: u8| Parsed::Refuse(header(id, recursion_desired, code, 0, 0).to_vec());
    if (head[2] >> 3) & 0xf != 0 {
        return refuse(code::NOT_IMPLEMENTED);
    }
    // Answers and authorities belong to other operations; what is behind them (EDNS) is not read.
    if head[4..10] != [0, 1, 0, 0, 0, 0] {
        return refuse(code::FORMAT);
    }
    let Some((name, used)) = read_name(&packet[12..]) else { return refuse(code::FORMAT) };
    let Some([t1, t0, c1, c0]) = packet.get(12 + used..).and_then(|rest| rest.first_chunk::<4>()).copied() else {
        return refuse(code::FORMAT);
    };
    let question = &packet[12..12 + used + 4];
    let kind = match (u16::from_be_bytes([t1, t0]), u16::from_be_bytes([c1, c0])) {
        (1, 1) => Kind::A,
        (28, 1) => Kind::Aaaa,
        (12, 1) => Kind::Ptr,
        (kind, 1) if PASSED.contains(&kind) => Kind::Records,
        // Transfers of zones, everything at once, other classes.
        (249..=255, _) | (_, 0 | 2..) => {
            let mut answer = header(id, recursion_desired, code::NOT_IMPLEMENTED, 1, 0).to_vec();
            answer.extend_from_slice(question);
            return Parsed::Refuse(answer);
        }
        _ => Kind::Other,
    };
    Parsed::Query(Query { id, recursion_desired, question: question.to_vec(), name, kind })
}

mod code {
    pub(super) const FORMAT: u8 = 1;
    pub(super) const FAILED: u8 = 2;
    pub(super) const NO_SUCH_NAME: u8 = 3;
    pub(super) const NOT_IMPLEMENTED: u8 = 4;
}

/// The labels of a name, and how many bytes they took. Names of questions have no pointers.
fn read_name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        // 63 is the longest label; larger lengths are pointers.
        if length > 63 || name.len() + length > 253 {
            return None;
        }
        let label = bytes.get(at..at + length)?;
        // A dot inside a label would read as two labels.
        if !label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.') {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
        at += length;
    }
}

fn header(id: u16, recursion_desired: bool, code: u8, questions: u8, answers: u8) -> [u8; 12] {
    let [id1, id0] = id.to_be_bytes();
    // A response, recursion available.
    [id1, id0, 0x80 | u8::from(recursion_desired), 0x80 | code, 0, questions, 0, answers, 0, 0, 0, 0]
}

/// The packet of an answer, of at most so many bytes. What does not fit is cut: addresses after the last that fits, for all of them
/// serve the same; other records all at once, and the answer says so.
pub fn encode(query: &Query, answer: &Answer, bytes_max: usize) -> Vec<u8> {
    if let Answer::Records(records) = answer {
        return encode_records(query, records, bytes_max);
    }
    let (code, records): (u8, Vec<Vec<u8>>) = match answer {
        Answer::V4(addresses) => (0, addresses.iter().map(|address| address.octets().to_vec()).collect()),
        Answer::V6(addresses) => (0, addresses.iter().map(|address| address.octets().to_vec()).collect()),
        Answer::NoSuchName => (code::NO_SUCH_NAME, Vec::new()),
        Answer::Failed | Answer::Records(_) => (code::FAILED, Vec::new()),
    };
    let mut out = Vec::with_capacity(DATAGRAM_BYTES_MAX);
    out.extend_from_slice(&header(query.id, query.recursion_desired, code, 1, 0));
    out.extend_from_slice(&query.question);
    let mut count = 0;
    for data in records.iter().take(ADDRESSES_MAX) {
        let record_bytes = 12 + data.len();
        if out.len() + record_bytes > bytes_max {
            break;
        }
        let kind: u16 = if data.len() == 4 { 1 } else { 28 };
        // The name is the question's, at offset 12.
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out.extend_from_slice(&TTL_S.to_be_bytes());
        out.extend_from_slice(&[0, if data.len() == 4 { 4 } else { 16 }]);
        out.extend_from_slice(data);
        count += 1;
    }
    out[7] = count;
    out
}

fn encode_records(query: &Query, records: &Records, bytes_max: usize) -> Vec<u8> {
    const TRUNCATED: u8 = 2;
    let code = if records.exists { 0 } else { code::NO_SUCH_NAME };
    let mut out = header(query.id, query.recursion_desired, code, 1, 0).to_vec();
    out.extend_from_slice(&query.question);
    if out.len() + records.bytes.len() > bytes_max {
        out[2] |= TRUNCATED;
        return out;
    }
    out[6..8].copy_from_slice(&records.count.to_be_bytes());
    out.extend_from_slice(&records.bytes);
    out
}

impl Query {
    /// The question's section of the packet: what a name server is asked.
    pub fn question(&self) -> &[u8] {
        &self.question
    }
}

/// The packet that asks a name server a question.
pub(crate) fn ask(id: u16, question: &[u8]) -> Vec<u8> {
    let [id1, id0] = id.to_be_bytes();
    let [size1, size0] = REPLY_BYTES_MAX.to_be_bytes();
    let mut out = vec![id1, id0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    out.extend_from_slice(question);
    // EDNS: how long a datagram may be.
    out.extend_from_slice(&[0, 0, 41, size1, size0, 0, 0, 0, 0, 0, 0]);
    out
}

/// Reads what came from a name server that was asked this; nothing if it is no answer to that.
pub(crate) fn read_reply(packet: &[u8], id: u16, question: &[u8]) -> Option<Reply> {
    const RESPONSE: u8 = 0x80;
    const TRUNCATED: u8 = 2;
    let head = packet.first_chunk::<12>()?;
    let asked = packet.get(12..12 + question.len())?;
    let is_answer = head[..2] == id.to_be_bytes() && head[2] & 0xf8 == RESPONSE && head[4..6] == [0, 1];
    if !is_answer || !asked.eq_ignore_ascii_case(question) {
        return None;
    }
    let code = head[3] & 0xf;
    if code != 0 && code != code::NO_SUCH_NAME {
        return Some(Reply::Failed);
    }
    if head[2] & TRUNCATED != 0 {
        return Some(Reply::Truncated);
    }
    let kind = u16::from_be_bytes(*question.last_chunk::<4>()?.first_chunk()?);
    let (start, answers) = (12 + question.len(), u16::from_be_bytes([head[6], head[7]]));
    let (mut end, mut count) = (start, 0);
    for _ in 0..answers {
        let Some((of, next)) = record(packet, end) else { return Some(Reply::Failed) };
        // Names point back into what is before them, so that any beginning of the records is whole.
        if of != kind && of != CNAME && of != DNAME {
            break;
        }
        (end, count) = (next, count + 1);
    }
    let bytes = packet.get(start..end)?.to_vec();
    Some(Reply::Records(Records { exists: code == 0, count, bytes }))
}

/// The type of the record at a place, and where it ends.
fn record(packet: &[u8], mut at: usize) -> Option<(u16, usize)> {
    const POINTER: u8 = 0xc0;
    loop {
        match *packet.get(at)? {
            0 => break at += 1,
            length if length & POINTER == POINTER => break at += 2,
            length if length & POINTER == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    let [t1, t0, _, _, _, _, _, _, l1, l0] = *packet.get(at..)?.first_chunk::<10>()?;
    let end = at + 10 + usize::from(u16::from_be_bytes([l1, l0]));
    (end <= packet.len()).then_some((u16::from_be_bytes([t1, t0]), end))
}

/// The address that a name below `arpa` stands for.
pub fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = labels.split('.').rev().map(|label| label.parse().ok()).collect::<Option<_>>()?;
        return Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?));
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let digit = |label: &str| (label.len() == 1).then(|| u8::from_str_radix(label, 16).ok()).flatten();
    let digits: Vec<u8> = labels.split('.').rev().map(digit).collect::<Option<_>>()?;
    let octets: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0)).collect();
    Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok().filter(|_| digits.len() == 32)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            out.push(u8::try_from(label.len()).unwrap());
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out
    }

    fn query(name: &str, kind: u16) -> Query {
        match parse(&packet(name, kind)) {
            Parsed::Query(query) => query,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn questions_are_read_and_answered() {
        let asked = query("DynamoDB.us-east-1.amazonaws.com", 1);
        assert_eq!((asked.name.as_str(), asked.kind), ("dynamodb.us-east-1.amazonaws.com", Kind::A));
        let sent = packet("DynamoDB.us-east-1.amazonaws.com", 1);
        let answer = encode(&asked, &Answer::V4(vec![Ipv4Addr::new(100, 64, 0, 1)]), DATAGRAM_BYTES_MAX);
        assert_eq!(answer[..12], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[12..sent.len()], sent[12..]);
        assert_eq!(answer[sent.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 100, 64, 0, 1]);
        assert_eq!(query("x", 28).kind, Kind::Aaaa);
        assert_eq!((query("x", 12).kind, query("x", 33).kind), (Kind::Ptr, Kind::Records));
        assert_eq!((query("x", 65).kind, query("x", 99).kind), (Kind::Other, Kind::Other));
    }

    #[test]
    fn empty_missing_and_failed_answers_differ_in_their_code() {
        let asked = query("a.b", 28);
        for (answer, code) in [(Answer::V6(vec![]), 0x80), (Answer::NoSuchName, 0x83), (Answer::Failed, 0x82)] {
            let bytes = encode(&asked, &answer, DATAGRAM_BYTES_MAX);
            assert_eq!((bytes[3], bytes[7]), (code, 0), "{answer:?}");
        }
        let many = encode(&asked, &Answer::V6(vec![Ipv6Addr::LOCALHOST; 100]), DATAGRAM_BYTES_MAX);
        assert_eq!(many[7], 12);
        assert!(many.len() <= DATAGRAM_BYTES_MAX);
    }

    /// A name server's answer to the question of `asked`: so many texts of 100 bytes, then an address that nobody asked for.
    fn reply(asked: &[u8], texts: u16) -> Vec<u8> {
        let mut out = vec![7, 7, 0x81, 0x80, 0, 1];
        out.extend_from_slice(&(texts + 1).to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 0]);
        out.extend_from_slice(asked);
        for _ in 0..texts {
            out.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 9, 0, 100, 99]);
            out.extend_from_slice(&[b't'; 99]);
        }
        out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 1]);
        out
    }

    #[test]
    fn records_pass_and_nothing_beside_them() {
        let asked = query("Txt.example", 16);
        let Some(Reply::Records(records)) = read_reply(&reply(&asked.question, 2), 0x0707, &asked.question) else {
            panic!()
        };
        assert_eq!((records.count, records.bytes.len()), (2, 224));
        let answer = Answer::Records(records);
        let whole = encode(&asked, &answer, DATAGRAM_BYTES_MAX);
        assert_eq!(whole[..12], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        assert!(whole[12..].starts_with(&asked.question) && whole.ends_with(b"tttt"));
        // Too long for a datagram: cut, and said so.
        let Some(Reply::Records(many)) = read_reply(&reply(&asked.question, 9), 0x0707, &asked.question) else {
            panic!()
        };
        let answer = Answer::Records(many);
        let cut = encode(&asked, &answer, DATAGRAM_BYTES_MAX);
        assert_eq!((cut[2], cut[7], cut.len()), (0x83, 0, 12 + asked.question.len()));
        assert_eq!(encode(&asked, &answer, STREAM_BYTES_MAX)[7], 9);
    }

    #[test]
    fn only_the_answer_to_what_was_asked_is_taken() {
        let asked = query("a.example", 16);
        let good = reply(&asked.question, 1);
        let with = |at: usize, byte: u8| {
            let mut other = good.clone();
            other[at] = byte;
            read_reply(&other, 0x0707, &asked.question)
        };
        assert_eq!(read_reply(&good, 0x0708, &asked.question), None, "another id");
        assert_eq!(
            (with(2, 0x01), with(13, b'b'), with(5, 2)),
            (None, None, None),
            "a question, another name, two of them"
        );
        assert!(matches!(with(13, b'A'), Some(Reply::Records(_))), "names have no case");
        assert_eq!((with(3, 0x82), with(2, 0x83)), (Some(Reply::Failed), Some(Reply::Truncated)));
        assert!(matches!(with(3, 0x83), Some(Reply::Records(Records { exists: false, .. }))));
        assert_eq!(read_reply(&good[..good.len() - 30], 0x0707, &asked.question), Some(Reply::Failed));
        let sent = ask(0x0707, &asked.question);
        assert!(
            sent.starts_with(&[7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1])
                && sent.ends_with(&[0, 41, 4, 208, 0, 0, 0, 0, 0, 0])
        );
    }

    #[test]
    fn names_of_addresses() {
        let six = format!("{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(24));
        for (name, wanted) in [
            ("8.8.4.4.in-addr.arpa", Some("4.4.8.8")),
            (six.as_str(), Some("2001:db8::")),
            ("8.4.4.in-addr.arpa", None),
            ("8.8.8.256.in-addr.arpa", None),
            ("0.0.ip6.arpa", None),
            ("arpa", None),
        ] {
            assert_eq!(reversed(name), wanted.map(|text| text.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn what_is_no_plain_question_is_refused_or_ignored() {
        let good = packet("a", 1);
        let with = |at: usize, byte: u8| {
            let mut bad = good.clone();
            bad[at] = byte;
            bad
        };
        let code = |packet: &[u8]| match parse(packet) {
            Parsed::Refuse(bytes) => bytes[3] & 0xf,
            other => panic!("{other:?}"),
        };
        assert_eq!(parse(&with(2, 0x81)), Parsed::Ignore);
        assert_eq!(parse(&good[..11]), Parsed::Ignore);
        assert_eq!(code(&with(2, 0x29)), 4);
        // All, a transfer, another class: with the question, by which resolvers know it.
        for (kind, class) in [(255, 1), (252, 1), (1, 3)] {
            let mut bad = packet("a", kind);
            *bad.last_mut().unwrap() = class;
            assert_eq!(code(&bad), 4, "{kind} {class}");
            assert!(matches!(parse(&bad), Parsed::Refuse(answer) if answer[12..] == bad[12..]));
        }
        assert_eq!(code(&with(5, 2)), 1);
        assert_eq!(code(&with(12, 0xc0)), 1);
        assert_eq!(code(&with(13, b'.')), 1);
        assert_eq!(code(&good[..good.len() - 1]), 1);
    }

    proptest::proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600), flag: bool) {
            let mut noise = noise;
            // Most noise is no question: half of the cases get a head that is.
            if flag && noise.len() >= 12 {
                noise[..12].copy_from_slice(&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            }
            if let Parsed::Query(query) = parse(&noise) {
                let answer = encode(&query, &Answer::V4(vec![Ipv4Addr::LOCALHOST; 40]), DATAGRAM_BYTES_MAX);
                proptest::prop_assert!(answer.len() <= DATAGRAM_BYTES_MAX);
                reversed(&query.name);
            }
            let question = query("a", 16).question;
            if flag && noise.len() >= 12 + question.len() {
                noise[..12].copy_from_slice(&[0, 1, 0x81, 0x80, 0, 1, 0, 3, 0, 0, 0, 0]);
                noise[12..12 + question.len()].copy_from_slice(&question);
            }
            if let Some(Reply::Records(records)) = read_reply(&noise, 1, &question) {
                proptest::prop_assert!(records.bytes.len() < noise.len());
            }
        }
    }
}
