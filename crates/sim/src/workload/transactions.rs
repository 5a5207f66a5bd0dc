//! Transactions of every shape over a few keys, so that they meet.

use std::ops::Bound;
use std::rc::Rc;

use store::{Error, Expect, Range, Txn};

use super::{KEYS, key, some_key, value};
use crate::env::{Env, MARKS, a_while};

/// Reads in a snapshot, in several steps, and writes on condition that nothing of it has changed.
pub(super) async fn read_modify_write(env: &Rc<Env>) -> Result<(), Error> {
    let snapshot = env.snapshot().await?;
    let mut txn = Txn::new();
    for _ in 0..=env.dice.below(4) {
        if env.dice.chance(60) {
            let key = some_key(env);
            let entry = snapshot.get(&key).await?;
            txn = match env.dice.below(5) {
                0 if entry.is_some() => {
                    txn.expects.push(Expect::Present(key));
                    txn
                }
                _ => txn.expect_unchanged(key, entry.as_ref()),
            };
        } else {
            let range = some_range(env);
            let page = snapshot.range(&range).await?;
            // Who read a part expects that part.
            let read = match page.entries.last().filter(|_| page.more) {
                None => range,
                Some(last) if range.reverse => Range { start: Bound::Included(last.key.clone()), ..range },
                Some(last) => Range { end: Bound::Included(last.key.clone()), ..range },
            };
            txn = txn.expect_range(read, snapshot.version());
        }
        a_while(env).await;
    }
    drop(snapshot);
    let txn = if env.dice.chance(20) { txn.relaxed() } else { txn };
    env.commit(some_writes(env, txn)).await.map(drop)
}

fn some_range(env: &Env) -> Range {
    let (a, b) = (env.dice.below(KEYS), env.dice.below(KEYS));
    let range = match env.dice.below(6) {
        0 => Range::prefix("k/"),
        1 => Range::prefix("k/").beyond(key(a)),
        2 => Range::between(key(a), key(b)),
        3 => Range::prefix("s/"),
        4 => Range::prefix(""),
        _ => Range::between(key(a.min(b)), key(a.max(b))),
    };
    let range = if env.dice.chance(30) { range.reversed() } else { range };
    let range = if env.dice.chance(40) { range.rows(env.dice.index(6)) } else { range };
    if env.dice.chance(20) { range.bytes(env.dice.index(4_000)) } else { range }
}

fn some_writes(env: &Env, mut txn: Txn) -> Txn {
    for _ in 0..=env.dice.below(4) {
        txn = match env.dice.below(10) {
            0..5 => txn.put(some_key(env), value(env)),
            5..7 => txn.delete(some_key(env)),
            7..9 => txn.add(format!("n/{}", env.dice.below(3)), env.dice.index(100) as i64 - 50),
            _ => txn.put_numbered("s/", format!("/{}", env.dice.below(4)), value(env)),
        };
    }
    txn
}

/// Writes whatever is there; sometimes without waiting, sometimes nothing at all.
pub(super) async fn blind(env: &Rc<Env>) -> Result<(), Error> {
    let txn = match env.dice.below(12) {
        0 => Txn::new(),
        _ => some_writes(env, Txn::new()),
    };
    let txn = if env.dice.chance(50) { txn.relaxed() } else { txn };
    if env.dice.chance(10) {
        env.abandon(txn);
        return Ok(());
    }
    env.commit(txn).await.map(drop)
}

/// Reads the current state.
pub(super) async fn look(env: &Rc<Env>) -> Result<(), Error> {
    env.get(&some_key(env)).await?;
    env.range(&some_range(env)).await.map(drop)
}

/// Adds to what may be a text: that must be refused, or have its counter, and never be half done.
pub(super) async fn invalid(env: &Rc<Env>) -> Result<(), Error> {
    match env.commit(Txn::new().put(some_key(env), value(env)).add(some_key(env), 1)).await {
        Err(Error::Invalid(_)) => Ok(()),
        other => other.map(drop),
    }
}

/// Forgets the first entries of a stream, page by page, and some marks of commits whose clients know.
pub(super) async fn trim(env: &Rc<Env>) -> Result<(), Error> {
    let snapshot = env.snapshot().await?;
    let stream = snapshot.range(&Range::prefix("s/").rows(env.dice.index(8))).await?;
    let marks = snapshot.range(&Range::prefix(MARKS).rows(env.dice.index(12))).await?;
    let txn = stream.entries.iter().chain(&marks.entries).fold(Txn::new(), |txn, entry| txn.delete(entry.key.clone()));
    env.commit(txn).await.map(drop)
}
