//! The loop around an optimistic transaction: read, decide, commit; if another commit came first, again.

use std::future::Future;

use crate::contract::{Error, Snapshot, Store, Txn, Version};

/// Most times that `transact` reads and decides anew before it gives the conflict to its caller.
const ATTEMPTS: usize = 32;

/// Reads through a snapshot, decides by `decide`, and commits what it decided, until no other commit comes between.
///
/// `decide` is called once per attempt; it puts an expectation into its transaction for each thing that it read, and
/// returns beside it what the caller wants to know. Its own errors end the loop; so does `Error::Busy` and the like.
/// After 32 attempts the conflict is the caller's: whatever collides that often needs another key layout.
///
/// ```
/// # async fn example(store: &dyn store::Store) -> Result<(), store::Error> {
/// use store::{Error, Txn, transact};
/// let (_, taken) = transact(store, |snapshot| async move {
///     let seat = snapshot.get(b"seat/1").await?;
///     let free = seat.is_none();
///     let txn = Txn::new().expect_unchanged("seat/1", seat.as_ref());
///     Ok::<_, Error>((if free { txn.put("seat/1", "me") } else { txn }, free))
/// })
/// .await?;
/// # let _: bool = taken; Ok(())
/// # }
/// ```
pub async fn transact<T, E, F, Fut>(store: &dyn Store, mut decide: F) -> Result<(Version, T), E>
where
    E: From<Error>,
    F: FnMut(Box<dyn Snapshot>) -> Fut,
    Fut: Future<Output = Result<(Txn, T), E>>,
{
    let mut attempt = 1;
    loop {
        let (txn, outcome) = decide(store.snapshot().await?).await?;
        match store.commit(txn).await {
            Ok(version) => return Ok((version, outcome)),
            Err(Error::Conflict | Error::TooOld) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error.into()),
        }
    }
}
