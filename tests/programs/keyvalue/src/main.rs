//! Does to a store what its event says: a JSON string of steps, separated by `|`, of words, separated by spaces. Answers
//! with a JSON list of what came of each step.

#[cfg(not(feature = "second"))]
mod bindings {
    wit_bindgen::generate!({
        inline: r#"
            package wasi:keyvalue@0.2.0-draft;
            interface store {
                variant error { no-such-store, access-denied, other(string) }
                record key-response { keys: list<string>, cursor: option<u64> }
                open: func(identifier: string) -> result<bucket, error>;
                resource bucket {
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                    delete: func(key: string) -> result<_, error>;
                    exists: func(key: string) -> result<bool, error>;
                    list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                }
            }
            interface atomics {
                use store.{bucket, error};
                increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
            }
            interface batch {
                use store.{bucket, error};
                get-many: func(bucket: borrow<bucket>, keys: list<string>)
                    -> result<list<option<tuple<string, list<u8>>>>, error>;
                set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
                delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
            }
            world program { import store; import atomics; import batch; }
        "#,
    });
}

#[cfg(feature = "second")]
mod bindings {
    wit_bindgen::generate!({
        inline: r#"
            package wasi:keyvalue@0.2.0-draft2;
            interface store {
                variant error { no-such-store, access-denied, other(string) }
                record key-response { keys: list<string>, cursor: option<string> }
                open: func(identifier: string) -> result<bucket, error>;
                resource bucket {
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                    delete: func(key: string) -> result<_, error>;
                    exists: func(key: string) -> result<bool, error>;
                    list-keys: func(cursor: option<string>) -> result<key-response, error>;
                }
            }
            interface atomics {
                use store.{bucket, error};
                variant cas-error { store-error(error), cas-failed(cas) }
                resource cas {
                    new: static func(bucket: borrow<bucket>, key: string) -> result<cas, error>;
                    current: func() -> result<option<list<u8>>, error>;
                }
                increment: func(bucket: borrow<bucket>, key: string, delta: s64) -> result<s64, error>;
                swap: func(cas: cas, value: list<u8>) -> result<_, cas-error>;
            }
            interface batch {
                use store.{bucket, error};
                get-many: func(bucket: borrow<bucket>, keys: list<string>)
                    -> result<list<option<tuple<string, list<u8>>>>, error>;
                set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
                delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
            }
            world program { import store; import atomics; import batch; }
        "#,
    });
}

use bindings::wasi::keyvalue::store::{self, Bucket, Error};
use bindings::wasi::keyvalue::{atomics, batch};

fn text(bytes: Option<Vec<u8>>) -> String {
    bytes.map_or("none".to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn step(bucket: &mut Option<Bucket>, words: &[&str]) -> Result<String, Error> {
    if let ["open", name] = words {
        *bucket = Some(store::open(name)?);
        return Ok("opened".to_owned());
    }
    let bucket = bucket.as_ref().expect("a store that was opened before");
    let done = |()| "done".to_owned();
    match words {
        ["get", key] => bucket.get(key).map(text),
        ["set", key, value] => bucket.set(key, value.as_bytes()).map(done),
        ["delete", key] => bucket.delete(key).map(done),
        ["exists", key] => bucket.exists(key).map(|is| is.to_string()),
        ["list"] => all_keys(bucket).map(|keys| keys.join(" ")),
        ["add", key, delta] => atomics::increment(bucket, key, delta.parse().expect("a number")).map(|sum| sum.to_string()),
        ["fill", count] => {
            let pairs: Vec<_> = (0..count.parse().expect("a count")).map(number).collect();
            batch::set_many(bucket, &pairs).map(done)
        }
        ["count", count] => {
            let keys: Vec<_> = (0..count.parse().expect("a count")).map(|index| number(index).0).collect();
            let found = batch::get_many(bucket, &keys)?;
            assert!(found.iter().zip(&keys).all(|(pair, key)| pair.as_ref().is_none_or(|(of, _)| of == key)));
            Ok(found.iter().flatten().filter(|(key, value)| format!("key-{}", text(Some(value.clone()))) == *key).count().to_string())
        }
        ["clear", count] => {
            let keys: Vec<_> = (0..count.parse().expect("a count")).map(|index| number(index).0).collect();
            batch::delete_many(bucket, &keys).map(done)
        }
        #[cfg(feature = "second")]
        ["swap", key, meanwhile, value] => swap(bucket, key, meanwhile, value),
        words => panic!("{words:?}"),
    }
}

fn number(index: usize) -> (String, Vec<u8>) {
    (format!("key-{index}"), index.to_string().into_bytes())
}

fn all_keys(bucket: &Bucket) -> Result<Vec<String>, Error> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        #[cfg(feature = "second")]
        let page = bucket.list_keys(cursor.as_deref())?;
        #[cfg(not(feature = "second"))]
        let page = bucket.list_keys(cursor)?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            keys.sort();
            return Ok(keys);
        }
    }
}

/// Swaps a value after somebody else has written, and again with what that swap says.
#[cfg(feature = "second")]
fn swap(bucket: &Bucket, key: &str, meanwhile: &str, value: &str) -> Result<String, Error> {
    use atomics::{Cas, CasError};
    let first = Cas::new(bucket, key)?;
    let seen = text(first.current()?);
    if meanwhile != "-" {
        bucket.set(key, meanwhile.as_bytes())?;
    }
    match atomics::swap(first, value.as_bytes()) {
        Ok(()) => Ok(format!("{seen}: swapped")),
        Err(CasError::StoreError(error)) => Err(error),
        Err(CasError::CasFailed(again)) => {
            let now = text(again.current()?);
            match atomics::swap(again, value.as_bytes()) {
                Ok(()) => Ok(format!("{seen}: {now}: swapped")),
                Err(_) => Ok("never".to_owned()),
            }
        }
    }
}

fn main() {
    let event = std::io::read_to_string(std::io::stdin()).expect("an event");
    let mut bucket = None;
    let answers: Vec<String> = event
        .trim_matches('"')
        .split('|')
        .map(|line| match step(&mut bucket, &line.split(' ').collect::<Vec<_>>()) {
            Ok(answer) => format!("{answer:?}"),
            Err(Error::NoSuchStore) => "\"no such store\"".to_owned(),
            Err(Error::AccessDenied) => "\"access denied\"".to_owned(),
            Err(Error::Other(words)) => format!("{:?}", format!("other: {words}")),
        })
        .collect();
    println!("[{}]", answers.join(","));
}
