//! Groups and streams: their records, and the operations that make, change and remove them.
//!
//! A record is changed only under the expectation that it is as it was read.

use aws::{Call, Reply};
use model::{AccountId, Region};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::{Entry, Snapshot, Txn, transact};

use super::{Error, Logs, keys};

/// The days that PutRetentionPolicy takes. Source: its API reference.
const RETENTION_DAYS: &[u64] =
    &[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// A group's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    pub(super) id: u64,
    pub(super) created_ms: u64,
    pub(super) retention_days: Option<u32>,
}

/// A stream's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) created_ms: u64,
    /// First and last timestamps, once there are events.
    pub(super) events_ms: Option<(u64, u64)>,
    pub(super) ingested_ms: Option<u64>,
}

/// The first byte of every stored value: another one means another form of what follows.
const FORMAT: u8 = 1;

pub(super) fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, Error> {
    match entry.value.split_first() {
        Some((&FORMAT, value)) => postcard::from_bytes(value).map_err(|error| Error::Damaged(error.to_string())),
        _ => Err(Error::Damaged("a value of an unknown format".into())),
    }
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_extend(value, vec![FORMAT]).map_err(|error| Error::Damaged(error.to_string()))
}

/// A text member, or nothing.
pub(super) fn text<'a>(call: &'a Call, member: &str) -> Option<&'a str> {
    call.input.get(member).and_then(Value::as_str)
}

/// A number member, or nothing.
pub(super) fn number(call: &Call, member: &str) -> Option<u64> {
    call.input.get(member).and_then(Value::as_u64)
}

/// Refuses members that the platform would have to ignore.
pub(super) fn refuse(call: &Call, members: &[&str]) -> Result<(), Error> {
    match members.iter().find(|member| call.input.get(**member).is_some_and(|value| !is_nothing(value))) {
        Some(member) => Err(Error::Unsupported(format!("the parameter '{member}' of {}", call.operation))),
        None => Ok(()),
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// The group that a call names, by name or by identifier (name or ARN).
pub(super) fn group_name(call: &Call) -> Result<&str, Error> {
    let named = text(call, "logGroupName").or_else(|| text(call, "logGroupIdentifier"));
    let named = named.ok_or_else(|| Error::Invalid("Either logGroupName or logGroupIdentifier is required.".into()))?;
    match named.strip_prefix("arn:") {
        None => Ok(named),
        Some(rest) => {
            let name = rest.splitn(6, ':').nth(5).ok_or_else(|| Error::Invalid(format!("Invalid ARN: {named}")))?;
            Ok(name.strip_suffix(":*").unwrap_or(name))
        }
    }
}

/// `arn:aws:logs:REGION:ACCOUNT:log-group:NAME`
pub(super) fn group_arn(account: &AccountId, region: &Region, name: &str) -> String {
    format!("arn:aws:logs:{region}:{account}:log-group:{name}")
}

pub(super) async fn find_group(snapshot: &dyn Snapshot, call: &Call) -> Result<(Entry, Group), Error> {
    let key = keys::group(&call.principal.account, &call.region, group_name(call)?);
    let entry = snapshot.get(&key).await?.ok_or(Error::NoGroup)?;
    let group = decode(&entry)?;
    Ok((entry, group))
}

pub(super) async fn find_stream(snapshot: &dyn Snapshot, group: &Group, name: &str) -> Result<(Entry, Stream), Error> {
    let entry = snapshot.get(&keys::stream(group.id, name)).await?.ok_or(Error::NoStream)?;
    let stream = decode(&entry)?;
    Ok((entry, stream))
}

impl Logs {
    pub(super) fn new_group(&self) -> Group {
        Group { id: self.random.next_u64(), created_ms: self.clock.now_ms(), retention_days: None }
    }

    pub(super) fn new_stream(&self) -> Stream {
        Stream { id: self.random.next_u64(), created_ms: self.clock.now_ms(), events_ms: None, ingested_ms: None }
    }

    pub(super) async fn create_log_group(&self, call: &Call) -> Result<Reply, Error> {
        refuse(call, &["kmsKeyId", "tags", "deletionProtectionEnabled"])?;
        if text(call, "logGroupClass").is_some_and(|class| class != "STANDARD") {
            return Err(Error::Unsupported("log group classes other than STANDARD".into()));
        }
        let key = keys::group(&call.principal.account, &call.region, group_name(call)?);
        let txn = Txn::new().expect_absent(key.clone()).put(key, encode(&self.new_group())?);
        match self.store.commit(txn).await {
            Ok(_) => Ok(Reply::empty()),
            Err(store::Error::Conflict) => Err(Error::GroupExists),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn create_log_stream(&self, call: &Call) -> Result<Reply, Error> {
        let name = text(call, "logStreamName").unwrap_or_default();
        transact(&*self.store, |snapshot| async move {
            let (entry, group) = find_group(&*snapshot, call).await?;
            let key = keys::stream(group.id, name);
            if snapshot.get(&key).await?.is_some() {
                return Err(Error::StreamExists);
            }
            let txn = Txn::new().expect_version(entry.key, entry.version).expect_absent(key.clone());
            Ok((txn.put(key, encode(&self.new_stream())?), ()))
        })
        .await?;
        Ok(Reply::empty())
    }

    /// Removes the group's record; its streams and chunks are out of reach from then on and removed by the worker.
    pub(super) async fn delete_log_group(&self, call: &Call) -> Result<Reply, Error> {
        self.flush().await?;
        transact(&*self.store, |snapshot| async move {
            let (entry, group) = find_group(&*snapshot, call).await?;
            let txn = Txn::new().expect_version(entry.key.clone(), entry.version).delete(entry.key);
            Ok::<_, Error>((txn.put(keys::dead_group(group.id), ""), ()))
        })
        .await?;
        self.writer.wake();
        Ok(Reply::empty())
    }

    pub(super) async fn delete_log_stream(&self, call: &Call) -> Result<Reply, Error> {
        self.flush().await?;
        let name = text(call, "logStreamName").unwrap_or_default();
        let (group, stream) = transact(&*self.store, |snapshot| async move {
            let (_, group) = find_group(&*snapshot, call).await?;
            let (entry, stream) = find_stream(&*snapshot, &group, name).await?;
            let txn = Txn::new().expect_version(entry.key.clone(), entry.version).delete(entry.key);
            Ok::<_, Error>((txn.put(keys::dead_stream(group.id, stream.id), ""), (group.id, stream.id)))
        })
        .await?
        .1;
        // Unlike a group's, a deleted stream's events would still be found by FilterLogEvents.
        self.remove_stream(group, stream).await?;
        Ok(Reply::empty())
    }

    pub(super) async fn put_retention_policy(&self, call: &Call) -> Result<Reply, Error> {
        let days = number(call, "retentionInDays").unwrap_or_default();
        if !RETENTION_DAYS.contains(&days) {
            let known: Vec<String> = RETENTION_DAYS.iter().map(ToString::to_string).collect();
            let known = known.join(", ");
            return Err(Error::Invalid(format!(
                "1 validation error detected: Value '{days}' at 'retentionInDays' failed to satisfy constraint: Member must satisfy enum value set: [{known}]"
            )));
        }
        self.set_retention(call, u32::try_from(days).ok()).await
    }

    pub(super) async fn delete_retention_policy(&self, call: &Call) -> Result<Reply, Error> {
        self.set_retention(call, None).await
    }

    async fn set_retention(&self, call: &Call, days: Option<u32>) -> Result<Reply, Error> {
        transact(&*self.store, |snapshot| async move {
            let (entry, group) = find_group(&*snapshot, call).await?;
            let group = Group { retention_days: days, ..group };
            let txn = Txn::new().expect_version(entry.key.clone(), entry.version);
            Ok::<_, Error>((txn.put(entry.key, encode(&group)?), ()))
        })
        .await?;
        Ok(Reply::empty())
    }
}
