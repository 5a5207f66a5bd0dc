//! What the operations of a transaction come to: the keys they write and the values these then have.
//!
//! Every engine and the model turn `Op`s into writes here, so that adds, numbered keys and the order of operations on
//! one key mean the same everywhere. Pure: what was there before is asked from the caller.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::contract::{Error, Op, Version};
use crate::due::Due;

/// The keys that a transaction writes; no value where it deletes.
pub(crate) type Writes = BTreeMap<Bytes, Option<Bytes>>;

/// The writes of `ops` as commit `version` at `now_ms`. `before` tells the value of a key before the transaction.
pub(crate) fn of_ops<E: From<Error>>(
    ops: Vec<Op>,
    version: Version,
    now_ms: u64,
    mut before: impl FnMut(&Bytes) -> Result<Option<Bytes>, E>,
) -> Result<Writes, E> {
    let mut writes = Writes::new();
    for op in ops {
        match op {
            Op::Put(key, value) => writes.insert(key, Some(value)),
            Op::Delete(key) => writes.insert(key, None),
            Op::Add(key, by) => {
                let value = match writes.get(&key) {
                    Some(earlier) => earlier.clone(),
                    None => before(&key)?,
                };
                let sum = add(value.as_deref(), by)?;
                writes.insert(key, Some(sum))
            }
            Op::PutNumbered { prefix, suffix, value } => {
                let key = [&prefix[..], &version.to_be_bytes(), &suffix[..]].concat();
                writes.insert(key.into(), Some(value))
            }
            Op::Offer { prefix, id, delay_ms, attempts, value } => {
                let due = Due { at_ms: now_ms.saturating_add(delay_ms), attempts };
                writes.insert(due.key(&prefix, &id), Some(value))
            }
        };
    }
    Ok(writes)
}

fn add(value: Option<&[u8]>, by: i64) -> Result<Bytes, Error> {
    let before =
        match value {
            None => 0,
            Some(value) => i64::from_le_bytes(value.try_into().map_err(|_| {
                Error::Invalid(format!("adding to a value of {} bytes; a counter has eight", value.len()))
            })?),
        };
    Ok(Bytes::copy_from_slice(&before.wrapping_add(by).to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Txn;

    fn writes(txn: Txn, before: Option<i64>) -> Result<Writes, Error> {
        of_ops(txn.ops, 7, 1_000, |_| Ok(before.map(|value| Bytes::copy_from_slice(&value.to_le_bytes()))))
    }

    fn counter(value: i64) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&value.to_le_bytes()))
    }

    #[test]
    fn adds_see_the_store_and_what_the_transaction_did_before_them() {
        assert_eq!(writes(Txn::new().add("n", 2).add("n", 3), Some(10)).unwrap()[&b"n"[..]], counter(15));
        assert_eq!(writes(Txn::new().delete("n").add("n", 3), Some(10)).unwrap()[&b"n"[..]], counter(3));
        assert_eq!(writes(Txn::new().add("n", 1), Some(i64::MAX)).unwrap()[&b"n"[..]], counter(i64::MIN));
        assert_eq!(writes(Txn::new().add("n", 1), None).unwrap()[&b"n"[..]], counter(1));
    }

    #[test]
    fn the_last_operation_on_a_key_stands() {
        let writes = writes(Txn::new().put("a", "1").put("a", "2").put("b", "1").delete("b"), None).unwrap();
        assert_eq!(writes[&b"a"[..]], Some(Bytes::from("2")));
        assert_eq!(writes[&b"b"[..]], None);
    }

    #[test]
    fn a_numbered_key_carries_the_version_in_its_middle() {
        let writes = writes(Txn::new().put_numbered("p/", "/s", "v"), None).unwrap();
        assert_eq!(writes.keys().next().unwrap(), &b"p/\0\0\0\0\0\0\0\x07/s"[..]);
    }

    #[test]
    fn an_offered_key_carries_the_time_in_its_middle() {
        let writes = writes(Txn::new().offer("q/", "id", 24, "v").offer_again("q/", "id", u64::MAX, 2, ""), None);
        let keys: Vec<_> = writes.unwrap().into_keys().collect();
        assert_eq!(keys, [&b"q/\0\0\0\0\x04\0\0\0id"[..], b"q/\xff\xff\xff\xff\xff\xff\0\x02id"]);
    }
}
