//! Queues: entries that are offered, claimed under a lease, and settled; some are forgotten, and come back.

use std::rc::Rc;

use store::{Claim, Entry, Error, Txn};

use crate::env::{Env, QUEUES, a_while};

/// Offers one to three entries, of which some are due later.
pub(super) async fn offer(env: &Rc<Env>) -> Result<(), Error> {
    let queue = *env.dice.pick(&QUEUES);
    let mut txn = Txn::new();
    for _ in 0..=env.dice.below(3) {
        let id = env.dice.below(u64::MAX).to_be_bytes().to_vec();
        let delay_ms = *env.dice.pick(&[0, 0, 5, 300]);
        txn = txn.offer(queue, id, delay_ms, "work");
    }
    let txn = if env.dice.chance(20) { txn.relaxed() } else { txn };
    env.commit(txn).await.map(drop)
}

/// Claims some entries and settles most of them, which works only within the lease.
pub(super) async fn work(env: &Rc<Env>) -> Result<(), Error> {
    let queue = *env.dice.pick(&QUEUES);
    let claim = Claim::new(queue, 1 + env.dice.index(4), *env.dice.pick(&[1, 50, 400, 10_000]));
    let claims = env.claim(if env.dice.chance(30) { claim.relaxed() } else { claim }).await?;
    for claimed in &claims.entries {
        a_while(env).await;
        if env.dice.chance(75) {
            match env.commit(Txn::new().settle(claimed)).await {
                // The lease has ended, and another one has it.
                Ok(_) | Err(Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// In a whole state: all that was offered and not settled is in its queue, once.
pub(crate) fn check(env: &Env, state: &[Entry]) {
    let in_queues: Vec<&Entry> = state.iter().filter(|entry| entry.key.starts_with(b"q/")).collect();
    let leases = env.leases.borrow();
    let mut waiting = 0;
    for id in leases.waiting() {
        waiting += 1;
        if !in_queues.iter().any(|entry| entry.key.ends_with(id)) {
            env.violated(format!("{} was offered, not settled, and is lost", id.escape_ascii()));
        }
    }
    if in_queues.len() != waiting {
        env.violated(format!("{} entries are in queues, {waiting} should be", in_queues.len()));
    }
}
