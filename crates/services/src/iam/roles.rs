//! Roles and policies in the store, as their operations and the platform's other parts need them.
//!
//! Invariants
//!   1. A name is given once at a time: of two concurrent creations exactly one succeeds.
//!   2. A policy that is attached is there: it goes only when nothing has it, and comes to a role only while it is there.

use std::sync::Arc;

use aws::Error;
use base::Clock;
use bytes::Bytes;
use model::Role;
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Entry, Range, Store, Txn};

use super::record::{PolicyRecord, RoleRecord};
use super::{document, error, keys};

/// How often a change is tried against others of the same record.
pub(super) const ATTEMPTS: usize = 64;

/// The roles and policies of all accounts.
pub struct Roles {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Roles {
    /// The roles in this store.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { store, clock })
    }

    /// The role of an ARN, if there is one.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn find(&self, arn: &str) -> Result<Option<Role>, Error> {
        let Some((account, name)) = named(arn) else { return Ok(None) };
        let Some((record, _)) = self.role(account, name).await? else { return Ok(None) };
        // The path is a part of the ARN.
        if record.arn(account) != arn {
            return Ok(None);
        }
        Ok(Some(Role {
            arn: arn.to_owned(),
            trust: document::kept(&record.trust)?,
            max_session_s: record.max_session_s,
        }))
    }

    /// A role by its name.
    pub(super) async fn role(&self, account: &str, name: &str) -> Result<Option<(RoleRecord, Entry)>, Error> {
        self.read(keys::role(account, name)).await
    }

    /// A role that must be there.
    pub(super) async fn existing_role(&self, account: &str, name: &str) -> Result<(RoleRecord, Entry), Error> {
        self.role(account, name).await?.ok_or_else(|| error::no_role(name))
    }

    /// A policy by its name.
    pub(super) async fn policy(&self, account: &str, name: &str) -> Result<Option<(PolicyRecord, Entry)>, Error> {
        self.read(keys::policy(account, name)).await
    }

    async fn read<T: DeserializeOwned>(&self, key: Bytes) -> Result<Option<(T, Entry)>, Error> {
        let Some(entry) = self.store.get(&key).await.map_err(error::store)? else { return Ok(None) };
        let record = serde_json::from_slice(&entry.value).map_err(Error::internal)?;
        Ok(Some((record, entry)))
    }

    /// Changes a role that must be there. `decide` may add to the transaction, and runs again when another change came first.
    pub(super) async fn change_role<T>(
        &self,
        account: &str,
        name: &str,
        decide: impl Fn(&mut RoleRecord, Txn) -> Result<(T, Txn), Error> + Send,
    ) -> Result<T, Error> {
        for _ in 0..ATTEMPTS {
            let (mut record, entry) = self.existing_role(account, name).await?;
            let (result, txn) = decide(&mut record, Txn::new().expect_version(entry.key.clone(), entry.version))?;
            if self.committed(txn.put(entry.key, written(&record)?)).await? {
                return Ok(result);
            }
        }
        Err(error::store(store::Error::Conflict))
    }

    /// Changes a policy that must be there.
    pub(super) async fn change_policy<T>(
        &self,
        account: &str,
        arn: &str,
        name: &str,
        decide: impl Fn(&mut PolicyRecord) -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        for _ in 0..ATTEMPTS {
            let found = self.policy(account, name).await?.filter(|(record, _)| record.arn(account) == arn);
            let (mut record, entry) = found.ok_or_else(|| no_policy(arn))?;
            let result = decide(&mut record)?;
            let txn = Txn::new().expect_version(entry.key.clone(), entry.version);
            if self.committed(txn.put(entry.key, written(&record)?)).await? {
                return Ok(result);
            }
        }
        Err(error::store(store::Error::Conflict))
    }

    /// To how many roles a policy is attached.
    pub(super) async fn attachments(&self, account: &str, arn: &str) -> Result<usize, Error> {
        let page = self.store.range(&Range::prefix(keys::attachments(account, arn))).await.map_err(error::store)?;
        Ok(page.entries.len())
    }

    /// Whether the transaction was written; if not, another came first.
    pub(super) async fn committed(&self, txn: Txn) -> Result<bool, Error> {
        match self.store.commit(txn).await {
            Ok(_) => Ok(true),
            Err(store::Error::Conflict | store::Error::TooOld) => Ok(false),
            Err(other) => Err(error::store(other)),
        }
    }
}

/// No policy has this ARN.
pub(super) fn no_policy(arn: &str) -> Error {
    error::missing(format!("Policy {arn} was not found."))
}

/// A record as the store keeps it.
pub(super) fn written<T: Serialize>(record: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(record).map(Bytes::from).map_err(Error::internal)
}

/// Account and name of a role's ARN.
fn named(arn: &str) -> Option<(&str, &str)> {
    let (account, path) = arn.strip_prefix("arn:aws:iam::")?.split_once(":role/")?;
    Some((account, path.rsplit('/').next()?))
}
