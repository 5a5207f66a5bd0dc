//! Operations on buckets and their objects in a run's name: S3's own interface, over the run's way out and signed with its keys,
//! as an SDK in its code would send them: to `AWS_ENDPOINT_URL_S3` if the function has that, else to the platform's.
//!
//! Invariants
//!   1. This module opens no socket, and knows no way that the program itself has not.
//!   2. Names are whole: none of them ends up as another bucket, another object or another operation.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Builder;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use quick_xml::Reader;
use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::line::Line;
use crate::program::{CallKeys, Outside};

/// The variable that says where objects are, as SDKs read it.
const ENDPOINT: &str = "AWS_ENDPOINT_URL_S3";
/// Names of one page, and of one removal. Source: S3's most.
pub(super) const PAGE: usize = 1_000;
/// Longest answer that is no object: a page of names, which take 1,024 bytes, and each of them three when encoded.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Lines that wait for the next call.
const IDLE_MAX: usize = 4;
/// What stands for itself in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PLAIN_OR_SLASH: &AsciiSet = &PLAIN.remove(b'/');

/// What S3 answered instead of doing it, or why it did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// As S3 names it: `NoSuchKey`. Empty if there was no answer.
    pub(super) code: String,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(why: impl ToString) -> Self {
        Self { code: String::new(), message: why.to_string() }
    }

    /// Whether it says that there is no such thing.
    fn is_absence(&self) -> bool {
        matches!(self.code.as_str(), "NoSuchKey" | "NoSuchBucket" | "NotFound")
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.code.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.code, self.message) }
    }
}

pub(super) type Done<T> = Result<T, Failure>;

/// An object's length in bytes, and when it was written, in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About {
    pub(super) bytes: u64,
    pub(super) written_s: u64,
}

/// An object, or a part of it, on its way here; with the line that it comes over.
pub(super) struct Coming {
    pub(super) bytes: u64,
    /// None: there are no bytes.
    pub(super) body: Option<(Incoming, Held)>,
}

/// A page of names, and where the next one begins.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) names: Vec<String>,
    pub(super) next: Option<String>,
}

/// One run's way to its objects. Copies share their lines.
#[derive(Clone)]
pub(super) struct Objects(Arc<Inner>);

struct Inner {
    outside: Arc<dyn Outside>,
    keys: Option<Arc<CallKeys>>,
    place: Arc<Result<Place, String>>,
    /// Connections that the run may still make.
    room: Arc<Semaphore>,
    idle: Mutex<Vec<Held>>,
}

/// A line, and its place among the run's connections.
pub(super) struct Held {
    line: Line,
    _permit: OwnedSemaphorePermit,
}

/// Where objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    host: String,
    port: u16,
    tls: bool,
    /// What the header `host` says.
    authority: String,
    /// What paths begin with.
    base: String,
}

impl Place {
    /// The one that a function's variables name, or that of the platform in a region.
    ///
    /// # Errors
    /// What is named is no place, in words.
    pub(super) fn of(environment: &[(String, String)], region: &str) -> Result<Self, String> {
        let named = environment.iter().rfind(|(name, value)| name == ENDPOINT && !value.is_empty());
        let url = named.map_or_else(|| format!("http://s3.{region}.amazonaws.com"), |(_, url)| url.clone());
        let unfit = || format!("{ENDPOINT} is {url:?}, which is no URL of a server (http://host:port)");
        let uri: Uri = url.parse().map_err(|_| unfit())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(unfit()),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(unfit)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(unfit());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let base = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { host, port, tls, authority: authority.to_string(), base })
    }
}

/// What is asked for.
struct Ask<'a> {
    method: Method,
    bucket: &'a str,
    /// None: the bucket itself.
    object: Option<&'a str>,
    /// Without its question mark; its parts in the order of their names.
    query: &'a str,
    headers: &'a [(&'a str, String)],
    body: Bytes,
}

impl<'a> Ask<'a> {
    fn of(method: Method, bucket: &'a str, object: Option<&'a str>) -> Self {
        Self { method, bucket, object, query: "", headers: &[], body: Bytes::new() }
    }

    /// Pure: the path that names these and nothing else.
    fn path(&self, base: &str) -> Done<String> {
        if self.bucket.is_empty() {
            return Err(Failure::new("the name of a container cannot be empty"));
        }
        let mut path = format!("{base}/{}", utf8_percent_encode(self.bucket, PLAIN));
        if let Some(object) = self.object {
            if object.is_empty() {
                return Err(Failure::new("the name of an object cannot be empty"));
            }
            let _ = write!(path, "/{}", utf8_percent_encode(object, PLAIN_OR_SLASH));
        }
        if !self.query.is_empty() {
            let _ = write!(path, "?{}", self.query);
        }
        Ok(path)
    }
}

/// Pure: a copy's source as its header names it.
fn source(bucket: &str, object: &str) -> Done<String> {
    Ask::of(Method::GET, bucket, Some(object)).path("")
}

impl Objects {
    /// The way of a run with these keys to this place, over so many connections.
    pub(super) fn new(
        outside: Arc<dyn Outside>,
        keys: Option<Arc<CallKeys>>,
        place: Arc<Result<Place, String>>,
        room: Arc<Semaphore>,
    ) -> Self {
        Self(Arc::new(Inner { outside, keys, place, room, idle: Mutex::default() }))
    }

    /// Makes a bucket.
    pub(super) async fn make_bucket(&self, bucket: &str) -> Done<()> {
        let region = self.0.keys.as_ref().map_or("", |keys| &keys.region);
        let body = match region {
            // Which cannot be named.
            "" | "us-east-1" => String::new(),
            region => format!(
                "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        self.do_so(Ask { body: body.into(), ..Ask::of(Method::PUT, bucket, None) }).await.map(drop)
    }

    /// Whether there is a bucket.
    pub(super) async fn has_bucket(&self, bucket: &str) -> Done<bool> {
        present(self.do_so(Ask::of(Method::HEAD, bucket, None)).await)
    }

    /// Removes a bucket, which must be empty.
    pub(super) async fn remove_bucket(&self, bucket: &str) -> Done<()> {
        self.do_so(Ask::of(Method::DELETE, bucket, None)).await.map(drop)
    }

    /// When a bucket was made, in seconds since the epoch.
    pub(super) async fn bucket_made_s(&self, bucket: &str) -> Done<u64> {
        let ask = Request::builder().method(Method::GET).uri(format!("{}/", self.place()?.base));
        let answer = self.ask(ask, Bytes::new()).await?;
        let leaves = leaves(&self.whole(answer).await?.body)?;
        let at = leaves.iter().position(|(name, text)| name == "Name" && text == bucket);
        let made = at.and_then(|at| leaves[at..].iter().find(|(name, _)| name == "CreationDate"));
        let made = made.and_then(|(_, text)| text.parse::<Timestamp>().ok());
        made.map(seconds).ok_or_else(|| Failure {
            code: "NoSuchBucket".to_owned(),
            message: format!("{bucket} is not among the function's buckets"),
        })
    }

    /// An object from `first` to `last`, both included.
    pub(super) async fn read(&self, bucket: &str, object: &str, first: u64, last: u64) -> Done<Coming> {
        if last < first {
            return Err(Failure::new(format!("the range ends at {last}, before it begins at {first}")));
        }
        let range = format!("bytes={first}-{}", last.min(i64::MAX as u64));
        let range = [("range", range)];
        let headers = if (first, last) == (0, u64::MAX) { &[][..] } else { &range };
        let answer = self.answer(Ask { headers, ..Ask::of(Method::GET, bucket, Some(object)) }).await;
        let (answer, held) = match answer {
            // Of nothing, even the first byte is beyond the end.
            Err(failure) if failure.code == "InvalidRange" && first == 0 => {
                return Ok(Coming { bytes: 0, body: None });
            }
            answer => answer?,
        };
        let length = answer.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let bytes = length.ok_or_else(|| Failure::new("the answer does not say how long the object is"))?;
        Ok(Coming { bytes, body: Some((answer.into_body(), held)) })
    }

    /// What is known of an object; nothing if there is none.
    pub(super) async fn about(&self, bucket: &str, object: &str) -> Done<Option<About>> {
        let answer = match self.do_so(Ask::of(Method::HEAD, bucket, Some(object))).await {
            Err(failure) if failure.is_absence() => return Ok(None),
            answer => answer?,
        };
        let text = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        let bytes = text("content-length").and_then(|text| text.parse().ok());
        let written = text("last-modified").and_then(|text| rfc2822::parse(text).ok());
        match (bytes, written) {
            (Some(bytes), Some(written)) => Ok(Some(About { bytes, written_s: seconds(written.timestamp()) })),
            _ => Err(Failure::new("the answer says neither length nor date of the object")),
        }
    }

    /// Writes an object.
    pub(super) async fn write(&self, bucket: &str, object: &str, body: Bytes) -> Done<()> {
        self.do_so(Ask { body, ..Ask::of(Method::PUT, bucket, Some(object)) }).await.map(drop)
    }

    /// Begins an object in parts; its number.
    pub(super) async fn begin(&self, bucket: &str, object: &str) -> Done<String> {
        let answer = self.do_so(Ask { query: "uploads=", ..Ask::of(Method::POST, bucket, Some(object)) }).await?;
        let leaves = leaves(&answer.body)?;
        found(&leaves, "UploadId").map(ToOwned::to_owned).ok_or_else(|| Failure::new("the upload has no number"))
    }

    /// Writes a part; its mark.
    pub(super) async fn write_part(
        &self,
        (bucket, object): (&str, &str),
        upload: &str,
        number: usize,
        body: Bytes,
    ) -> Done<String> {
        let query = format!("partNumber={number}&uploadId={}", utf8_percent_encode(upload, PLAIN));
        let ask = Ask { query: &query, body, ..Ask::of(Method::PUT, bucket, Some(object)) };
        let answer = self.do_so(ask).await?;
        let mark = answer.headers.get("etag").and_then(|value| value.to_str().ok());
        mark.map(ToOwned::to_owned).ok_or_else(|| Failure::new("the part has no mark"))
    }

    /// Makes an object of parts with these marks.
    pub(super) async fn complete(&self, (bucket, object): (&str, &str), upload: &str, marks: &[String]) -> Done<()> {
        let query = format!("uploadId={}", utf8_percent_encode(upload, PLAIN));
        let mut body = "<CompleteMultipartUpload>".to_owned();
        for (index, mark) in marks.iter().enumerate() {
            let (number, mark) = (index + 1, escape(mark.as_str()));
            let _ = write!(body, "<Part><PartNumber>{number}</PartNumber><ETag>{mark}</ETag></Part>");
        }
        body.push_str("</CompleteMultipartUpload>");
        let ask = Ask { query: &query, body: body.into(), ..Ask::of(Method::POST, bucket, Some(object)) };
        no_failure(&self.do_so(ask).await?.body)
    }

    /// Gives up an object in parts.
    pub(super) async fn give_up(&self, (bucket, object): (&str, &str), upload: &str) -> Done<()> {
        let query = format!("uploadId={}", utf8_percent_encode(upload, PLAIN));
        self.do_so(Ask { query: &query, ..Ask::of(Method::DELETE, bucket, Some(object)) }).await.map(drop)
    }

    /// Copies an object.
    pub(super) async fn copy(&self, from: (&str, &str), to: (&str, &str)) -> Done<()> {
        let headers = [("x-amz-copy-source", source(from.0, from.1)?)];
        let answer = self.do_so(Ask { headers: &headers, ..Ask::of(Method::PUT, to.0, Some(to.1)) }).await?;
        no_failure(&answer.body)
    }

    /// Removes an object, if it is there.
    pub(super) async fn remove(&self, bucket: &str, object: &str) -> Done<()> {
        self.do_so(Ask::of(Method::DELETE, bucket, Some(object))).await.map(drop)
    }

    /// Removes objects, as far as they are there.
    pub(super) async fn remove_all(&self, bucket: &str, objects: &[String]) -> Done<()> {
        // XML cannot say such names.
        let (strange, plain): (Vec<_>, Vec<_>) = objects.iter().partition(|name| name.chars().any(char::is_control));
        for name in strange {
            self.remove(bucket, name).await?;
        }
        for some in plain.chunks(PAGE) {
            let mut body = "<Delete><Quiet>true</Quiet>".to_owned();
            for name in some {
                if name.is_empty() {
                    return Err(Failure::new("the name of an object cannot be empty"));
                }
                let _ = write!(body, "<Object><Key>{}</Key></Object>", escape(name.as_str()));
            }
            body.push_str("</Delete>");
            // Asked for of everybody, and known by all.
            let headers = [("content-md5", STANDARD.encode(Md5::digest(&body)))];
            let ask =
                Ask { query: "delete=", headers: &headers, body: body.into(), ..Ask::of(Method::POST, bucket, None) };
            no_failure(&self.do_so(ask).await?.body)?;
        }
        Ok(())
    }

    /// A page of names of a bucket.
    pub(super) async fn names(&self, bucket: &str, at: Option<&str>) -> Done<Names> {
        // Encoded, as XML cannot say all names.
        let rest = format!("encoding-type=url&list-type=2&max-keys={PAGE}");
        let query = match at {
            Some(at) => format!("continuation-token={}&{rest}", utf8_percent_encode(at, PLAIN)),
            None => rest,
        };
        names(&self.do_so(Ask { query: &query, ..Ask::of(Method::GET, bucket, None) }).await?.body)
    }

    fn place(&self) -> Done<&Place> {
        self.0.place.as_ref().as_ref().map_err(Failure::new)
    }

    /// Asks, and reads the answer to its end.
    async fn do_so(&self, ask: Ask<'_>) -> Done<Said> {
        let answer = self.answer(ask).await?;
        self.whole(answer).await
    }

    /// Reads an answer to its end; its line waits for the next call.
    async fn whole(&self, (answer, held): (http::Response<Incoming>, Held)) -> Done<Said> {
        let (head, body) = answer.into_parts();
        let body = read(body).await?;
        let mut idle = self.0.idle.lock();
        if idle.len() < IDLE_MAX && held.line.is_open() {
            idle.push(held);
        }
        Ok(Said { headers: head.headers, body })
    }

    /// Asks; the answer as it comes, if it is no refusal.
    async fn answer(&self, ask: Ask<'_>) -> Done<(http::Response<Incoming>, Held)> {
        let path = ask.path(&self.place()?.base)?;
        let mut request = Request::builder().method(ask.method).uri(path);
        for (name, value) in ask.headers {
            request = request.header(*name, value);
        }
        self.ask(request, ask.body).await
    }

    async fn ask(&self, request: Builder, body: Bytes) -> Done<(http::Response<Incoming>, Held)> {
        let place = self.place()?;
        let Some(keys) = &self.0.keys else {
            return Err(Failure::new("the function has no credentials"));
        };
        let request = request.header("host", &place.authority).body(()).map_err(Failure::new)?;
        let (mut parts, ()) = request.into_parts();
        self.0.outside.sign(&mut parts, &body, keys, "s3").map_err(Failure::new)?;
        let is_head = parts.method == Method::HEAD;
        let request = Request::from_parts(parts, Full::new(body));
        loop {
            let waiting = self.0.idle.lock().pop();
            let (mut held, is_new) = match waiting {
                Some(held) if held.line.is_open() => (held, false),
                Some(_) => continue,
                None => (self.open(place).await?, true),
            };
            match held.line.ask(request.clone()).await {
                Ok(answer) if answer.status().is_success() => return Ok((answer, held)),
                Ok(answer) => return Err(refusal(answer, is_head).await),
                // The other side has ended a line that waited, and whatever is asked for here may be asked for again.
                Err(_) if !is_new => {}
                Err(why) => return Err(Failure::new(why)),
            }
        }
    }

    async fn open(&self, place: &Place) -> Done<Held> {
        let permit = self.0.room.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Failure::new("the function has too many connections"))?;
        let line = Line::open(&*self.0.outside, &place.host, place.port, place.tls).await.map_err(Failure::new)?;
        Ok(Held { line, _permit: permit })
    }
}

/// An answer that was read to its end.
struct Said {
    headers: http::HeaderMap,
    body: Bytes,
}

async fn read(body: Incoming) -> Done<Bytes> {
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::new(format!("the answer broke off: {error}")))
}

async fn refusal(answer: http::Response<Incoming>, is_head: bool) -> Failure {
    let status = answer.status();
    let body = if is_head { Bytes::new() } else { read(answer.into_body()).await.unwrap_or_default() };
    refused(status, &leaves(&body).unwrap_or_default())
}

/// Pure: what a refusal says; by its status alone, where it has no words, as those of HEAD have none.
fn refused(status: StatusCode, leaves: &[(String, String)]) -> Failure {
    if let Some(code) = found(leaves, "Code") {
        return Failure { code: code.to_owned(), message: found(leaves, "Message").unwrap_or_default().to_owned() };
    }
    let code = match status {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::FORBIDDEN => "AccessDenied",
        _ => "",
    };
    Failure { code: code.to_owned(), message: format!("the answer was {status}") }
}

/// Some operations begin to answer before they know how they end.
fn no_failure(body: &[u8]) -> Done<()> {
    let leaves = leaves(body)?;
    if found(&leaves, "Code").is_some() { Err(refused(StatusCode::OK, &leaves)) } else { Ok(()) }
}

fn present<T>(answer: Done<T>) -> Done<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(failure) if failure.is_absence() => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or_default()
}

/// Pure: a page of names.
fn names(body: &[u8]) -> Done<Names> {
    let leaves = leaves(body)?;
    let encoded = found(&leaves, "EncodingType") == Some("url");
    let keys = leaves.iter().filter(|(name, _)| name == "Key").map(|(_, key)| {
        if !encoded {
            return Ok(key.clone());
        }
        // As forms encode: a space is a plus sign.
        let key = key.replace('+', " ");
        percent_decode_str(&key).decode_utf8().map(Into::into).map_err(Failure::new)
    });
    let names = keys.collect::<Done<Vec<String>>>()?;
    let more = found(&leaves, "IsTruncated") == Some("true");
    let next = more.then(|| found(&leaves, "NextContinuationToken").map(ToOwned::to_owned));
    match next {
        Some(None) => Err(Failure::new("the answer does not say where the next names are")),
        next => Ok(Names { names, next: next.flatten() }),
    }
}

fn found<'a>(leaves: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    leaves.iter().find(|(name, _)| name == wanted).map(|(_, text)| text.as_str())
}

/// Pure: the elements of an answer that hold no others, in their order; their names, and their texts.
fn leaves(xml: &[u8]) -> Done<Vec<(String, String)>> {
    let unclear = |error: &dyn std::fmt::Display| Failure::new(format!("the answer is no XML: {error}"));
    let mut reader = Reader::from_str(std::str::from_utf8(xml).map_err(|error| unclear(&error))?);
    let (mut leaves, mut open, mut text) = (Vec::new(), None, String::new());
    loop {
        match reader.read_event().map_err(|error| unclear(&error))? {
            Event::Start(start) => {
                open = Some(start.local_name().as_ref().to_owned());
                text.clear();
            }
            Event::End(_) => {
                if let Some(name) = open.take() {
                    leaves.push((name, std::mem::take(&mut text)));
                }
            }
            Event::Text(part) => text.push_str(&part.xml10_content()),
            Event::CData(part) => text.push_str(&part.xml10_content()),
            Event::GeneralRef(name) => match name.resolve_char_ref().map_err(|error| unclear(&error))? {
                Some(one) => text.push(one),
                None => {
                    let known = resolve_predefined_entity(&name);
                    text.push_str(known.ok_or_else(|| unclear(&format!("nobody knows &{};", &*name)))?);
                }
            },
            Event::Eof => return Ok(leaves),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bucket: &str, object: Option<&str>) -> Done<String> {
        Ask::of(Method::GET, bucket, object).path("/base")
    }

    #[test]
    fn names_are_whole_in_paths() {
        assert_eq!(path("b", None).unwrap(), "/base/b");
        assert_eq!(path("b/../c?x", None).unwrap(), "/base/b%2F..%2Fc%3Fx");
        assert_eq!(path("b", Some("a b/ü+?#%2f&=\u{1}")).unwrap(), "/base/b/a%20b/%C3%BC%2B%3F%23%252f%26%3D%01");
        assert_eq!(source("b", "a b/c").unwrap(), "/b/a%20b/c");
        for (bucket, object) in [("", None), ("", Some("x")), ("b", Some(""))] {
            assert!(path(bucket, object).unwrap_err().message.contains("cannot be empty"));
        }
        let ask = Ask { query: "uploads=", ..Ask::of(Method::POST, "b", Some("c")) };
        assert_eq!(ask.path("").unwrap(), "/b/c?uploads=");
    }

    #[test]
    fn places_are_those_of_the_sdks() {
        let of = |url: &str| Place::of(&[(ENDPOINT.to_owned(), url.to_owned())], "eu-west-1");
        let place = |host: &str, port, tls, authority: &str, base: &str| {
            Ok(Place { host: host.into(), port, tls, authority: authority.into(), base: base.into() })
        };
        let own = place("s3.eu-west-1.amazonaws.com", 80, false, "s3.eu-west-1.amazonaws.com", "");
        assert_eq!(Place::of(&[], "eu-west-1"), own);
        assert_eq!(of(""), own);
        assert_eq!(of("https://S3.example.com/"), place("s3.example.com", 443, true, "S3.example.com", ""));
        assert_eq!(of("http://[::1]:9000/a/"), place("::1", 9000, false, "[::1]:9000", "/a"));
        for wrong in ["s3.example.com", "ftp://a", "http://a@b", "http://a/?x", "/", "http://"] {
            assert!(of(wrong).unwrap_err().starts_with("AWS_ENDPOINT_URL_S3 is "), "{wrong}");
        }
    }

    #[test]
    fn answers_are_read() {
        let page = br#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>
            <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><Contents><Key>a%2Fb+c%01</Key><Size>1</Size></Contents>
            <Contents><Key>d</Key></Contents><NextContinuationToken>x&amp;&#x79;</NextContinuationToken></ListBucketResult>"#;
        let names_of = |names: &[&str], next: Option<&str>| Names {
            names: names.iter().map(ToString::to_string).collect(),
            next: next.map(Into::into),
        };
        assert_eq!(names(page).unwrap(), names_of(&["a/b c\u{1}", "d"], Some("x&y")));
        let plain = "<R><IsTruncated>false</IsTruncated><Contents><Key>a+b%20&lt;</Key></Contents></R>";
        assert_eq!(names(plain.as_bytes()).unwrap(), names_of(&["a+b%20<"], None));
        assert!(names(b"<R><IsTruncated>true</IsTruncated></R>").is_err());
        for damaged in ["<R><Key>a</R>", "<R><Key>&nothing;</Key></R>"] {
            assert!(names(damaged.as_bytes()).unwrap_err().message.starts_with("the answer is no XML"), "{damaged}");
        }
    }

    #[test]
    fn refusals_are_read() {
        let said = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>";
        let failure = refused(StatusCode::NOT_FOUND, &leaves(said.as_bytes()).unwrap());
        assert_eq!(failure.to_string(), "NoSuchKey: The specified key does not exist.");
        assert!(failure.is_absence());
        assert!(refused(StatusCode::NOT_FOUND, &[]).is_absence());
        assert_eq!(refused(StatusCode::FORBIDDEN, &[]).to_string(), "AccessDenied: the answer was 403 Forbidden");
        assert_eq!(no_failure(said.as_bytes()), Err(failure));
        assert_eq!(no_failure(b""), Ok(()));
        assert_eq!(no_failure(b"<CopyObjectResult><ETag>x</ETag></CopyObjectResult>"), Ok(()));
    }
}
