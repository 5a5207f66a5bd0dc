//! PutResourcePolicy, GetResourcePolicy, DeleteResourcePolicy: of tables and of streams.
//!
//! Invariant: the policy of a stream lies with the stream, which may outlive its table, and with the table's record while
//! it is that table's latest; both change in one commit.

use serde_json::{Value as Json, json};
use store::{Error as StoreError, Txn};

use super::super::error::{Error, Result, constraint};
use super::super::policy::{self, Policy};
use super::super::records;
use super::super::stream::Description;
use super::request::{Request, Rule, missing, table_name};
use super::{ATTEMPTS_MAX, Found, Place, Shared};

/// Says that there must be no policy yet.
const NO_POLICY: &str = "NO_POLICY";
const NAME_BYTES_MAX: usize = 1_283;

const REVISION: Rule<'static> = Rule::Length("ExpectedRevisionId", 1, 255);

/// A table, or a stream with its table if it still is that table's latest.
enum Subject {
    Table(Found),
    Stream(Box<Description>, u64, Option<Found>),
}

impl Subject {
    /// What a request names in `ResourceArn`.
    async fn named(shared: &Shared, place: &Place, request: &Request) -> Result<Self> {
        let arn = request.text("ResourceArn")?.ok_or_else(|| missing("ResourceArn"))?;
        if arn.is_empty() || arn.len() > NAME_BYTES_MAX {
            let bound = if arn.is_empty() { "greater than or equal to 1" } else { "less than or equal to 1283" };
            return Err(constraint(&json!(arn), "resourceArn", &format!("Member must have length {bound}")));
        }
        let not_found = || Error::NotFound(format!("Requested resource not found: {arn}"));
        let own = format!("arn:aws:dynamodb:{}:{}:table/", place.region, place.account);
        let Some(rest) = arn.strip_prefix(&own) else {
            return Err(Error::validation(format!("Invalid ResourceArn: {arn}")));
        };
        let subject = match rest.split_once('/') {
            None => {
                let name = table_name(rest, place)?;
                Self::Table(shared.find_table(place, name).await?.ok_or_else(not_found)?)
            }
            Some((table, what)) if what.starts_with("stream/") => {
                let (description, version) = records::find_versioned(shared, arn).await?.ok_or_else(not_found)?;
                let found = shared.find_table(place, table).await?.filter(|found| {
                    found.table.stream.as_ref().is_some_and(|stream| stream.number == description.stream.number)
                });
                Self::Stream(Box::new(description), version, found)
            }
            Some(_) => return Err(Error::validation(format!("Invalid ResourceArn: {arn}"))),
        };
        policy::check(subject.policy(), &place.caller, &place.account, place.operation, arn)?;
        Ok(subject)
    }

    fn policy(&self) -> Option<&Policy> {
        match self {
            Self::Table(found) => found.table.policy.as_ref(),
            Self::Stream(description, _, _) => description.stream.policy.as_ref(),
        }
    }

    /// Appends that it has this policy, or none.
    fn put(&self, policy: Option<Policy>) -> Result<Txn> {
        match self {
            Self::Table(found) => {
                let mut table = (*found.table).clone();
                table.policy = policy;
                found.put_record(Txn::new(), &table)
            }
            Self::Stream(description, version, found) => {
                let mut after = (**description).clone();
                after.stream.policy.clone_from(&policy);
                let txn = records::put_description(Txn::new(), &after, *version)?;
                let Some(found) = found else { return Ok(txn) };
                let mut table = (*found.table).clone();
                if let Some(stream) = &mut table.stream {
                    stream.policy = policy;
                }
                found.put_record(txn, &table)
            }
        }
    }
}

fn not_there() -> Error {
    Error::Refused("PolicyNotFoundException", "Resource-based policy not found for the provided ResourceArn".into())
}

/// Refuses to change another policy than the one that is expected.
fn check_revision(request: &Request, is: Option<&Policy>) -> Result<()> {
    match request.text("ExpectedRevisionId")? {
        None => Ok(()),
        Some(NO_POLICY) if is.is_none() => Ok(()),
        Some(expected) if is.is_some_and(|policy| policy.revision == expected) => Ok(()),
        Some(expected) => Err(Error::Refused(
            "PolicyNotFoundException",
            format!("The resource has no policy with the revision id {expected}"),
        )),
    }
}

/// `PutResourcePolicy`
pub(super) async fn put(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    let members = ["ResourceArn", "Policy", "ExpectedRevisionId", "ConfirmRemoveSelfResourceAccess"];
    request.only("PutResourcePolicy", &members)?;
    request.check(&[Rule::Required("ResourceArn"), Rule::Required("Policy"), REVISION])?;
    let text = request.text("Policy")?.unwrap_or_default();
    let confirmed = request.flag("ConfirmRemoveSelfResourceAccess")?.unwrap_or(false);
    for _ in 0..ATTEMPTS_MAX {
        let subject = Subject::named(shared, place, request).await?;
        let policy = Policy::read(text, shared.random.next_u64().to_string())?;
        check_revision(request, subject.policy())?;
        if let Some(is) = subject.policy().filter(|is| is.text == text) {
            return Ok(json!({ "RevisionId": is.revision }));
        }
        if !confirmed && policy.locks_out(&place.caller, request.text("ResourceArn")?.unwrap_or_default()) {
            return Err(Error::validation(
                "The policy would not let you change the policy of this resource any more. Confirm with \
                 ConfirmRemoveSelfResourceAccess that this is meant.",
            ));
        }
        let revision = policy.revision.clone();
        match shared.store.commit(subject.put(Some(policy))?).await {
            Ok(_) => return Ok(json!({ "RevisionId": revision })),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}

/// `GetResourcePolicy`
pub(super) async fn get(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("GetResourcePolicy", &["ResourceArn"])?;
    request.check(&[Rule::Required("ResourceArn")])?;
    let subject = Subject::named(shared, place, request).await?;
    let policy = subject.policy().ok_or_else(not_there)?;
    Ok(json!({ "Policy": policy.text, "RevisionId": policy.revision }))
}

/// `DeleteResourcePolicy`
pub(super) async fn delete(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DeleteResourcePolicy", &["ResourceArn", "ExpectedRevisionId"])?;
    request.check(&[Rule::Required("ResourceArn"), REVISION])?;
    for _ in 0..ATTEMPTS_MAX {
        let subject = Subject::named(shared, place, request).await?;
        check_revision(request, subject.policy())?;
        let Some(is) = subject.policy() else { return Ok(json!({ "RevisionId": "" })) };
        let revision = is.revision.clone();
        match shared.store.commit(subject.put(None)?).await {
            Ok(_) => return Ok(json!({ "RevisionId": revision })),
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}
