//! DNS messages, as much as a guest's resolver needs: one question in, one answer out. Pure.
//!
//! Not here: what a name means (`guest_network`), TCP, EDNS (answers fit 512 bytes).
//!
//! Invariants
//!   1. No input makes this panic or read past the packet.
//!   2. Every answer repeats the question's id and question, and fits `ANSWER_BYTES_MAX`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest answer, as resolvers without EDNS expect.
pub const ANSWER_BYTES_MAX: usize = 512;
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
    /// Anything else.
    Other,
}

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
    if head[4..6] != [0, 1] {
        return refuse(code::FORMAT);
    }
    let Some((name, used)) = read_name(&packet[12..]) else { return refuse(code::FORMAT) };
    let Some([t1, t0, c1, c0]) = packet.get(12 + used..).and_then(|rest| rest.first_chunk::<4>()).copied() else {
        return refuse(code::FORMAT);
    };
    let kind = match (u16::from_be_bytes([t1, t0]), u16::from_be_bytes([c1, c0])) {
        (1, 1) => Kind::A,
        (28, 1) => Kind::Aaaa,
        _ => Kind::Other,
    };
    let question = packet[12..12 + used + 4].to_vec();
    Parsed::Query(Query { id, recursion_desired, question, name, kind })
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

/// The packet of an answer.
pub fn encode(query: &Query, answer: &Answer) -> Vec<u8> {
    let (code, records): (u8, Vec<Vec<u8>>) = match answer {
        Answer::V4(addresses) => (0, addresses.iter().map(|address| address.octets().to_vec()).collect()),
        Answer::V6(addresses) => (0, addresses.iter().map(|address| address.octets().to_vec()).collect()),
        Answer::NoSuchName => (code::NO_SUCH_NAME, Vec::new()),
        Answer::Failed => (code::FAILED, Vec::new()),
    };
    let mut out = Vec::with_capacity(ANSWER_BYTES_MAX);
    out.extend_from_slice(&header(query.id, query.recursion_desired, code, 1, 0));
    out.extend_from_slice(&query.question);
    let mut count = 0;
    for data in records.iter().take(ADDRESSES_MAX) {
        let record_bytes = 12 + data.len();
        if out.len() + record_bytes > ANSWER_BYTES_MAX {
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
        let answer = encode(&asked, &Answer::V4(vec![Ipv4Addr::new(100, 64, 0, 1)]));
        assert_eq!(answer[..12], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[12..sent.len()], sent[12..]);
        assert_eq!(answer[sent.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 100, 64, 0, 1]);
        assert_eq!(query("x", 28).kind, Kind::Aaaa);
        assert_eq!(query("x", 16).kind, Kind::Other);
    }

    #[test]
    fn empty_missing_and_failed_answers_differ_in_their_code() {
        let asked = query("a.b", 28);
        for (answer, code) in [(Answer::V6(vec![]), 0x80), (Answer::NoSuchName, 0x83), (Answer::Failed, 0x82)] {
            let bytes = encode(&asked, &answer);
            assert_eq!((bytes[3], bytes[7]), (code, 0), "{answer:?}");
        }
        let many = encode(&asked, &Answer::V6(vec![Ipv6Addr::LOCALHOST; 100]));
        assert_eq!(many[7], 12);
        assert!(many.len() <= ANSWER_BYTES_MAX);
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
                let answer = encode(&query, &Answer::V4(vec![Ipv4Addr::LOCALHOST; 40]));
                proptest::prop_assert!(answer.len() <= ANSWER_BYTES_MAX);
            }
        }
    }
}
