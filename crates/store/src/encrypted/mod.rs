//! Encryption at rest: a layer over any store and any blobs.
//!
//! | in clear                                       | encrypted (AES-256-GCM)      |
//! |------------------------------------------------|------------------------------|
//! | keys, since their order is what a store is for | every value                  |
//! | names and lengths of blobs                     | every chunk of every blob    |
//! | lengths of values, versions, when what changed | the data keys (`keyring`)    |
//!
//! Values and chunks are encrypted with a *data key*, which the store keeps wrapped by a *master key* that it never
//! sees on its own disk: a file or a command gives it at each start. A new master key wraps the data keys anew and adds
//! one; what older ones encrypted is read for ever.
//!
//! Invariants
//!   1. A value is bound to its key, and a chunk to its blob's name, its place and whether it is the last: none of them
//!      is accepted elsewhere. A numbered value is bound to its key without the number, which is not known beforehand.
//!   2. No nonce comes twice under one cipher key: each value and each blob has a key of its own, made from the data
//!      key and 96 random bits or more; a value adds a random nonce, a chunk its number.
//!   3. With a wrong key nothing is opened, and a store in clear is not mixed with encrypted values.
//!
//! Where nobody gives a key, the same sealing keeps some records from whoever has the store's files and nothing else
//! (`records`).
//!
//! Costs: 45 bytes a value (47 where numbered), 16 bytes for 64 KiB of a blob. Adding to a counter reads it first, and
//! transactions that add to the same counter go one after another: each waits for the flush of the one before.

mod blobs;
mod keyring;
mod records;
mod sealing;
mod store;

pub use self::blobs::EncryptedBlobs;
pub use self::keyring::{KeyRing, MasterKey, check_clear};
pub use self::records::{Records, is_sealed_record};
pub use self::store::EncryptedStore;
