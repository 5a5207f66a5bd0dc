//! The clients: each does one thing after another, chosen by the seed, until it is told to stop.
//!
//! | module         | does                                                                                     |
//! |----------------|------------------------------------------------------------------------------------------|
//! | `transactions` | reads points and ranges in several steps, then writes on condition; blind and relaxed ones |
//! | `rules`        | keeps sums, pairs and counts right that only serialisable transactions keep right          |
//! | `queues`       | offers, claims, settles, offers anew                                                      |
//! | `watchers`     | reads, waits for a change, reads again                                                    |

pub(crate) mod queues;
pub(crate) mod rules;
mod transactions;
pub(crate) mod watchers;

use std::rc::Rc;

use bytes::Bytes;
use store::{Error, Txn};

use crate::env::{Env, a_while};
use crate::tasks::pause;

/// One client.
pub(crate) async fn client(env: Rc<Env>) {
    while !env.stopping.get() {
        let done = match env.dice.below(100) {
            0..25 => transactions::read_modify_write(&env).await,
            25..40 => transactions::blind(&env).await,
            40..45 => transactions::look(&env).await,
            45..50 => transactions::invalid(&env).await,
            50..54 => transactions::trim(&env).await,
            54..62 => rules::transfer(&env).await,
            62..70 => rules::leave(&env).await,
            70..78 => rules::join(&env).await,
            78..85 => queues::offer(&env).await,
            _ => queues::work(&env).await,
        };
        match done {
            Ok(()) | Err(Error::Conflict | Error::TooOld) => {}
            Err(Error::DiskFull) => match delete_some(&env).await {
                Ok(()) | Err(Error::DiskFull) => {}
                Err(error) => env.violated(format!("what only deletes was refused: {error}")),
            },
            Err(error) => env.violated(format!("a client met {error}")),
        }
        a_while(&env).await;
        pause().await;
    }
}

/// Deletes something large: the way out of a full disk.
async fn delete_some(env: &Rc<Env>) -> Result<(), Error> {
    let from = env.dice.below(KEYS);
    let txn = (from..KEYS).fold(Txn::new(), |txn, number| txn.delete(key(number)));
    env.commit_unmarked(txn).await.map(drop)
}

/// How many keys the transactions share.
const KEYS: u64 = 24;

fn key(number: u64) -> Bytes {
    format!("k/{number:02}").into()
}

fn some_key(env: &Env) -> Bytes {
    key(env.dice.below(KEYS))
}

/// A value that no other is like.
fn value(env: &Env) -> Bytes {
    let length = *env.dice.pick(&[0, 10, 100, 100, 500, 1_200, 3_000, 6_000]);
    let mut value = format!("{}.", env.dice.below(u64::MAX)).into_bytes();
    value.resize(value.len().max(length), b'x');
    value.into()
}
