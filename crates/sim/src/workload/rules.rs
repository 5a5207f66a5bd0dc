//! Rules over several keys that hold after every commit, if and only if transactions that read what they rely on are
//! serialisable: a sum that transfers keep (lost updates), a pair of which one stays (write skew), a group of limited
//! size (phantoms). Checked in every snapshot that reads them, and in what a recovery finds.

use std::rc::Rc;

use bytes::Bytes;
use store::{Entry, Error, Range, Txn};

use crate::env::{Env, a_while};

const ACCOUNTS: u64 = 4;
const BALANCE: i64 = 1_000;
const PAIRS: u64 = 2;
const MEMBERS_MAX: usize = 3;

fn account(number: u64) -> Bytes {
    format!("bank/{number}").into()
}

/// An account that was never used has its first balance.
fn balance(entry: Option<&Entry>) -> i64 {
    entry.and_then(|entry| entry.value[..].try_into().ok().map(i64::from_le_bytes)).unwrap_or(BALANCE)
}

/// Moves something from one account to another.
pub(super) async fn transfer(env: &Rc<Env>) -> Result<(), Error> {
    let (from, to) = (env.dice.below(ACCOUNTS), env.dice.below(ACCOUNTS));
    let snapshot = env.snapshot().await?;
    let (source, target) = (snapshot.get(&account(from)).await?, snapshot.get(&account(to)).await?);
    a_while(env).await;
    if from == to {
        let all = snapshot.range(&Range::prefix("bank/")).await?;
        check_bank(env, &all.entries);
        return Ok(());
    }
    drop(snapshot);
    let by = env.dice.index(100) as i64;
    let money = |entry: Option<&Entry>, by: i64| (balance(entry) + by).to_le_bytes().to_vec();
    let txn = Txn::new()
        .expect_unchanged(account(from), source.as_ref())
        .expect_unchanged(account(to), target.as_ref())
        .put(account(from), money(source.as_ref(), -by))
        .put(account(to), money(target.as_ref(), by));
    env.commit(txn).await.map(drop)
}

fn check_bank(env: &Env, entries: &[Entry]) {
    let used: i64 = entries.iter().map(|entry| balance(Some(entry))).sum();
    let sum = used + BALANCE * (ACCOUNTS as i64 - entries.len() as i64);
    if sum != BALANCE * ACCOUNTS as i64 {
        env.violated(format!("the accounts sum up to {sum}"));
    }
}

fn place(pair: u64, side: u64) -> Bytes {
    format!("pair/{pair}/{side}").into()
}

/// Of each pair at least one stays: leaves only if the other is there, else comes back. Not there is written down.
pub(super) async fn leave(env: &Rc<Env>) -> Result<(), Error> {
    let (pair, side) = (env.dice.below(PAIRS), env.dice.below(2));
    let snapshot = env.snapshot().await?;
    let (own, other) = (snapshot.get(&place(pair, side)).await?, snapshot.get(&place(pair, 1 - side)).await?);
    check_pair(env, own.as_ref(), other.as_ref());
    a_while(env).await;
    drop(snapshot);
    // What was read and is not written is expected too: that is what write skew would break.
    let txn = Txn::new().expect_unchanged(place(pair, 1 - side), other.as_ref());
    let txn = match (&own, &other) {
        (None, None) => txn.expect_absent(place(pair, side)).put(place(pair, side), "gone"),
        (Some(own), _) => txn.expect_version(own.key.clone(), own.version).delete(own.key.clone()),
        (None, Some(_)) => txn,
    };
    env.commit(txn).await.map(drop)
}

fn check_pair(env: &Env, one: Option<&Entry>, other: Option<&Entry>) {
    if one.is_some() && other.is_some() {
        env.violated("both of a pair are gone");
    }
}

/// Joins a group while it has room; else makes room.
pub(super) async fn join(env: &Rc<Env>) -> Result<(), Error> {
    let snapshot = env.snapshot().await?;
    let members = snapshot.range(&Range::prefix("group/")).await?.entries;
    let version = snapshot.version();
    check_group(env, members.len());
    a_while(env).await;
    drop(snapshot);
    let txn = Txn::new().expect_range(Range::prefix("group/"), version);
    let txn = match members.first() {
        Some(first) if members.len() >= MEMBERS_MAX => txn.delete(first.key.clone()),
        _ => txn.put_numbered("group/", "", ""),
    };
    env.commit(txn).await.map(drop)
}

fn check_group(env: &Env, members: usize) {
    if members > MEMBERS_MAX {
        env.violated(format!("a group of {members}"));
    }
}

/// All of them, in a whole state.
pub(crate) fn check(env: &Env, state: &[Entry]) {
    let under = |prefix: &str| -> Vec<Entry> {
        state.iter().filter(|entry| entry.key.starts_with(prefix.as_bytes())).cloned().collect()
    };
    check_bank(env, &under("bank/"));
    for pair in 0..PAIRS {
        let gone = under(&format!("pair/{pair}/"));
        check_pair(env, gone.first(), gone.get(1));
    }
    check_group(env, under("group/").len());
}
