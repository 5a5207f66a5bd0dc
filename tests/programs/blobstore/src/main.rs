//! Does to containers what its event says: a JSON string of steps, separated by `|`, of words, separated by spaces. Answers
//! with a JSON list of what came of each step.

// The streams are those of this package's own binding to WASI, which is one with the standard library's at link time.
wit_bindgen::generate!({
    inline: r#"
        package test:program;
        world program {
            import wasi:blobstore/blobstore@0.2.0-draft;
        }

        package wasi:io@0.2.0 {
            interface error { resource error { to-debug-string: func() -> string; } }
            interface poll {
                resource pollable { ready: func() -> bool; block: func(); }
            }
            interface streams {
                use error.{error};
                use poll.{pollable};
                variant stream-error { last-operation-failed(error), closed }
                resource input-stream {
                    read: func(len: u64) -> result<list<u8>, stream-error>;
                    blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
                    subscribe: func() -> pollable;
                }
                resource output-stream {
                    check-write: func() -> result<u64, stream-error>;
                    write: func(contents: list<u8>) -> result<_, stream-error>;
                    blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
                    blocking-flush: func() -> result<_, stream-error>;
                    subscribe: func() -> pollable;
                }
            }
        }

        package wasi:blobstore@0.2.0-draft {
            interface types {
                use wasi:io/streams@0.2.0.{input-stream, output-stream};
                type error = string;
                record container-metadata { name: string, created-at: u64 }
                record object-metadata { name: string, container: string, created-at: u64, size: u64 }
                record object-id { container: string, object: string }
                resource outgoing-value {
                    new-outgoing-value: static func() -> outgoing-value;
                    outgoing-value-write-body: func() -> result<output-stream>;
                    finish: static func(this: outgoing-value) -> result<_, error>;
                }
                resource incoming-value {
                    incoming-value-consume-sync: static func(this: incoming-value) -> result<list<u8>, error>;
                    incoming-value-consume-async: static func(this: incoming-value) -> result<input-stream, error>;
                    size: func() -> u64;
                }
            }
            interface container {
                use types.{container-metadata, error, incoming-value, object-metadata, outgoing-value};
                resource container {
                    name: func() -> result<string, error>;
                    info: func() -> result<container-metadata, error>;
                    get-data: func(name: string, start: u64, end: u64) -> result<incoming-value, error>;
                    write-data: func(name: string, data: borrow<outgoing-value>) -> result<_, error>;
                    list-objects: func() -> result<stream-object-names, error>;
                    delete-object: func(name: string) -> result<_, error>;
                    delete-objects: func(names: list<string>) -> result<_, error>;
                    has-object: func(name: string) -> result<bool, error>;
                    object-info: func(name: string) -> result<object-metadata, error>;
                    clear: func() -> result<_, error>;
                }
                resource stream-object-names {
                    read-stream-object-names: func(len: u64) -> result<tuple<list<string>, bool>, error>;
                    skip-stream-object-names: func(num: u64) -> result<tuple<u64, bool>, error>;
                }
            }
            interface blobstore {
                use container.{container};
                use types.{error, object-id};
                create-container: func(name: string) -> result<container, error>;
                get-container: func(name: string) -> result<container, error>;
                delete-container: func(name: string) -> result<_, error>;
                container-exists: func(name: string) -> result<bool, error>;
                copy-object: func(src: object-id, dest: object-id) -> result<_, error>;
                move-object: func(src: object-id, dest: object-id) -> result<_, error>;
            }
        }
    "#,
    generate_all,
});

use wasi::blobstore::blobstore::{self, ObjectId};
use wasi::blobstore::container::Container;
use wasi::blobstore::types::{IncomingValue, OutgoingValue};
use wasi::io::streams::{InputStream, StreamError};

/// What every byte of a large object is.
fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

fn words_of(error: StreamError) -> String {
    match error {
        StreamError::LastOperationFailed(error) => error.to_debug_string(),
        StreamError::Closed => "closed".to_owned(),
    }
}

fn id(text: &str) -> ObjectId {
    let (container, object) = text.split_once('/').expect("container/object");
    ObjectId { container: container.to_owned(), object: object.to_owned() }
}

/// Writes an object by pieces; `aimed` says whether the object is named before they are.
fn write(container: &Container, name: &str, pieces: impl Iterator<Item = Vec<u8>>, aimed: bool) -> Result<(), String> {
    let value = OutgoingValue::new_outgoing_value();
    if aimed {
        container.write_data(name, &value)?;
    }
    {
        let stream = value.outgoing_value_write_body().expect("a stream");
        assert!(value.outgoing_value_write_body().is_err());
        for piece in pieces {
            for part in piece.chunks(4096) {
                stream.blocking_write_and_flush(part).map_err(words_of)?;
            }
        }
    }
    if !aimed {
        container.write_data(name, &value)?;
    }
    OutgoingValue::finish(value)
}

/// A large object's pieces.
fn pieces(bytes: u64) -> impl Iterator<Item = Vec<u8>> {
    const PIECE: u64 = 64 * 1024;
    (0..bytes.div_ceil(PIECE)).map(move |piece| (piece * PIECE..bytes.min((piece + 1) * PIECE)).map(byte).collect())
}

/// Reads a stream to its end; how many bytes it has, if all are those of a large object.
fn check(stream: &InputStream) -> Result<u64, String> {
    let mut at = 0;
    loop {
        match stream.blocking_read(1 << 20) {
            Ok(piece) => {
                for seen in piece {
                    assert_eq!(seen, byte(at), "at {at}");
                    at += 1;
                }
            }
            Err(StreamError::Closed) => return Ok(at),
            Err(error) => return Err(words_of(error)),
        }
    }
}

fn text(value: IncomingValue) -> Result<String, String> {
    let size = value.size();
    let bytes = IncomingValue::incoming_value_consume_sync(value)?;
    assert_eq!(size, bytes.len() as u64);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn all_names(container: &Container, some: u64) -> Result<Vec<String>, String> {
    let (stream, mut names) = (container.list_objects()?, Vec::new());
    loop {
        let (more, is_over) = stream.read_stream_object_names(some)?;
        assert!(more.len() as u64 <= some);
        names.extend(more);
        if is_over {
            return Ok(names);
        }
    }
}

fn step(held: &mut Option<Container>, words: &[&str]) -> Result<String, String> {
    let done = |()| "done".to_owned();
    match words {
        ["make", name] => return Ok(held.insert(blobstore::create_container(name)?).name()?),
        ["open", name] => return Ok(held.insert(blobstore::get_container(name)?).name()?),
        ["drop", name] => return blobstore::delete_container(name).map(done),
        ["there", name] => return blobstore::container_exists(name).map(|is| is.to_string()),
        ["copy", from, to] => return blobstore::copy_object(&id(from), &id(to)).map(done),
        ["move", from, to] => return blobstore::move_object(&id(from), &id(to)).map(done),
        ["variable", name] => return Ok(std::env::var(name).unwrap_or_default()),
        _ => {}
    }
    let container = held.as_ref().expect("a container that was opened before");
    match words {
        ["info"] => container.info().map(|about| format!("{} {}", about.name, about.created_at)),
        ["write", name, text] => write(container, name, [text.as_bytes().to_vec()].into_iter(), true).map(done),
        ["write-first", name, text] => write(container, name, [text.as_bytes().to_vec()].into_iter(), false).map(done),
        ["write-nothing", name] => write(container, name, std::iter::empty(), true).map(done),
        ["write-large", name, bytes] => write(container, name, pieces(bytes.parse().expect("a number")), true).map(done),
        ["write-large-first", name, bytes] => {
            write(container, name, pieces(bytes.parse().expect("a number")), false).map(done)
        }
        ["abandon", name, bytes] => {
            let value = OutgoingValue::new_outgoing_value();
            container.write_data(name, &value)?;
            let stream = value.outgoing_value_write_body().expect("a stream");
            for piece in pieces(bytes.parse().expect("a number")) {
                for part in piece.chunks(4096) {
                    stream.blocking_write_and_flush(part).map_err(words_of)?;
                }
            }
            drop(stream);
            drop(value);
            Ok("abandoned".to_owned())
        }
        // What was written and is not yet sent counts as memory.
        ["hoard", count] => {
            let mut held = Vec::new();
            for number in 0..count.parse().expect("a number") {
                let value = OutgoingValue::new_outgoing_value();
                container.write_data(&format!("hoard-{number}"), &value)?;
                let stream = value.outgoing_value_write_body().expect("a stream");
                for _ in 0..1279 {
                    stream.blocking_write_and_flush(&[0; 4096]).map_err(words_of)?;
                }
                held.push((stream, value));
            }
            Ok(held.len().to_string())
        }
        ["write-twice", name, other] => {
            let value = OutgoingValue::new_outgoing_value();
            container.write_data(name, &value)?;
            container.write_data(other, &value).map(done)
        }
        ["unaimed"] => OutgoingValue::finish(OutgoingValue::new_outgoing_value()).map(done),
        ["read", name] => text(container.get_data(name, 0, u64::MAX)?),
        ["range", name, start, end] => {
            text(container.get_data(name, start.parse().expect("a number"), end.parse().expect("a number"))?)
        }
        ["read-large", name] => {
            let value = container.get_data(name, 0, u64::MAX)?;
            let size = value.size();
            let stream = IncomingValue::incoming_value_consume_async(value)?;
            let bytes = check(&stream)?;
            assert_eq!(bytes, size);
            Ok(bytes.to_string())
        }
        // Values that are read later hold up nobody.
        ["read-beside", first, second] => {
            let held = container.get_data(first, 0, u64::MAX)?;
            let other = text(container.get_data(second, 0, u64::MAX)?)?;
            Ok(format!("{} {other}", text(held)?))
        }
        ["has", name] => container.has_object(name).map(|is| is.to_string()),
        ["about", name] => {
            container.object_info(name).map(|a| format!("{} {} {} {}", a.container, a.name, a.size, a.created_at))
        }
        ["delete", name] => container.delete_object(name).map(done),
        ["delete-all", names @ ..] => {
            container.delete_objects(&names.iter().map(ToString::to_string).collect::<Vec<_>>()).map(done)
        }
        ["list", some] => all_names(container, some.parse().expect("a number")).map(|names| names.join(" ")),
        ["skip", some] => {
            let stream = container.list_objects()?;
            let (gone, is_over) = stream.skip_stream_object_names(some.parse().expect("a number"))?;
            let (names, _) = stream.read_stream_object_names(2)?;
            Ok(format!("{gone} {is_over} {}", names.join(" ")))
        }
        ["clear"] => container.clear().map(done),
        words => panic!("{words:?}"),
    }
}

fn main() {
    let event = std::io::read_to_string(std::io::stdin()).expect("an event");
    let mut held = None;
    let answers: Vec<String> = event
        .trim_matches('"')
        .split('|')
        .map(|line| match step(&mut held, &line.split(' ').collect::<Vec<_>>()) {
            Ok(answer) => format!("{answer:?}"),
            Err(words) => format!("{:?}", format!("error: {words}")),
        })
        .collect();
    println!("[{}]", answers.join(","));
}
