//! AddPermission, GetPolicy, RemovePermission. Policies are per qualifier.

use aws::{Call, Error, Reply};
use model::FunctionRef;
use serde_json::json;

use crate::lambda::record::{FunctionRecord, LATEST, VersionId};
use crate::lambda::versions::Qualifier;
use crate::lambda::{Functions, alias, error, name, policy};

const ADD: &[&str] = &[
    "FunctionName",
    "Qualifier",
    "StatementId",
    "Action",
    "Principal",
    "SourceArn",
    "SourceAccount",
    "EventSourceToken",
    "FunctionUrlAuthType",
    "InvokedViaFunctionUrl",
    "PrincipalOrgID",
    "RevisionId",
];

/// A function, and the qualifier that its policy is kept under.
pub(super) struct Subject {
    pub(super) function: FunctionRef,
    pub(super) qualifier: String,
    /// `RevisionId` that a published version was made with.
    published_with: Option<String>,
}

impl Subject {
    async fn of_call(functions: &Functions, call: &Call) -> Result<Self, Error> {
        Self::of(functions, name::of_call(call)?).await
    }

    pub(super) async fn of(functions: &Functions, function: FunctionRef) -> Result<Self, Error> {
        let qualifier = function.qualifier.clone().unwrap_or_default();
        let published_with = match Qualifier::of(&function) {
            // What a version was made with does not change; whether it is there is decided with the function's record.
            Qualifier::Version(VersionId::Number(_)) => {
                functions.found(&function).await.ok().map(|found| found.version.revision_id)
            }
            _ => None,
        };
        Ok(Self { function, qualifier, published_with })
    }

    /// Refuses a qualifier that names nothing.
    pub(super) fn check_there(&self, record: &FunctionRecord) -> Result<(), Error> {
        match Qualifier::of(&self.function) {
            Qualifier::Alias(name) if !record.aliases.contains_key(name) => Err(alias::not_found(&self.function.arn())),
            _ if record.target(&self.function).is_none() => Err(error::function_not_found(&self.function.arn())),
            _ => Ok(()),
        }
    }

    /// The present `RevisionId`.
    pub(super) fn revision<'a>(&'a self, record: &'a FunctionRecord) -> &'a str {
        let own = match Qualifier::of(&self.function) {
            Qualifier::Version(VersionId::Number(number)) => {
                record.version_revisions.get(&number).or(self.published_with.as_ref())
            }
            Qualifier::Alias(name) => record.aliases.get(name).map(|alias| &alias.revision_id),
            _ => None,
        };
        own.unwrap_or(&record.latest.revision_id)
    }

    pub(super) fn check_revision(&self, call: &Call, record: &FunctionRecord, read_with: &str) -> Result<(), Error> {
        match call.text("RevisionId") {
            Some(revision) if revision != self.revision(record) => Err(error::stale_revision(read_with)),
            _ => Ok(()),
        }
    }

    /// Another `RevisionId`, since the policy is another one.
    pub(super) fn revise(&self, record: &mut FunctionRecord, revision: String) {
        match Qualifier::of(&self.function) {
            Qualifier::Version(VersionId::Number(number)) => {
                record.version_revisions.insert(number, revision);
            }
            Qualifier::Alias(name) => {
                if let Some(alias) = record.aliases.get_mut(name) {
                    alias.revision_id = revision;
                }
            }
            _ => record.latest.revision_id = revision,
        }
    }
}

/// AddPermission.
pub(in crate::lambda) async fn add(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(ADD)?;
    let subject = Subject::of_call(functions, call).await?;
    if subject.qualifier == LATEST {
        return Err(error::invalid("We currently do not support adding policies for $LATEST."));
    }
    let statement = policy::statement(call, &subject.function)?;
    let sid = call.text("StatementId").unwrap_or_default();
    functions
        .change(&subject.function, |record, _| {
            subject.check_there(record)?;
            subject.check_revision(call, record, "GetPolicy")?;
            let statements = record.policies.entry(subject.qualifier.clone()).or_default();
            if statements.iter().any(|statement| policy::has_sid(statement, sid)) {
                return Err(policy::sid_exists(sid));
            }
            statements.push(statement.clone());
            policy::document(statements)?;
            subject.revise(record, functions.random.uuid());
            Ok(())
        })
        .await?;
    Ok(Reply::of(json!({"Statement": statement.to_string()})))
}

/// GetPolicy.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let subject = Subject::of_call(functions, call).await?;
    let record = functions.record(&subject.function).await?.ok_or_else(error::no_such_resource)?;
    let statements = record.policies.get(&subject.qualifier).ok_or_else(error::no_such_resource)?;
    Ok(Reply::of(json!({"Policy": policy::document(statements)?, "RevisionId": subject.revision(&record)})))
}

/// RemovePermission.
pub(in crate::lambda) async fn remove(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier", "StatementId", "RevisionId"])?;
    let subject = Subject::of_call(functions, call).await?;
    let sid = call.text("StatementId").unwrap_or_default();
    functions
        .change(&subject.function, |record, _| {
            subject.check_there(record)?;
            subject.check_revision(call, record, "GetPolicy")?;
            let Some(statements) = record.policies.get_mut(&subject.qualifier) else {
                return Err(error::not_found("No policy is associated with the given resource."));
            };
            let before = statements.len();
            statements.retain(|statement| !policy::has_sid(statement, sid));
            if statements.len() == before {
                return Err(policy::no_statement(sid));
            }
            if statements.is_empty() {
                record.policies.remove(&subject.qualifier);
            }
            subject.revise(record, functions.random.uuid());
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}
