//! What can go wrong in a table call, and the AWS code of each.
//!
//! Messages are made where the decision is made, since DynamoDB's texts carry details; the status and code stand here.

use serde_json::{Value as Json, json};

use super::throttle::{self, Shortage};
use super::value::{Item, item_to_json};

/// What table code returns.
pub(super) type Result<T, E = Error> = std::result::Result<T, E>;

const IN_CONFLICT: &str = "Transaction is ongoing for the item";

/// A refusal or a fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The request makes no sense.
    #[error("{0}")]
    Validation(String),
    /// A member of the wrong JSON type.
    #[error("{0}")]
    Serialization(String),
    /// No such table.
    #[error("{0}")]
    NotFound(String),
    /// No such table, in the words of backups.
    #[error("{0}")]
    TableNotFound(String),
    /// The table exists already or is busy.
    #[error("{0}")]
    InUse(String),
    /// More at once than a table may have.
    #[error("{0}")]
    LimitExceeded(String),
    /// There is no capacity left for the call.
    #[error("{}", throttle::message(.0))]
    Throttled(Vec<Shortage>),
    /// A refusal of operations on backups or policies, by its code.
    #[error("{1}")]
    Refused(&'static str, String),
    /// What was asked for has been removed.
    #[error("{0}")]
    Trimmed(String),
    /// An iterator that was not used in time.
    #[error("{0}")]
    ExpiredIterator(String),
    /// A condition does not hold; carries the item where the caller asked for it.
    #[error("The conditional request failed")]
    ConditionFailed(Option<Box<Item>>),
    /// A transaction was not done; for each of its parts why, or nothing where it is not to blame.
    #[error("Transaction cancelled, please refer cancellation reasons for specific reasons [{}]", codes(.0))]
    Cancelled(Vec<Option<Reason>>),
    /// An item is where a statement would insert one.
    #[error("Duplicate primary key exists in table")]
    Duplicate,
    /// A client's token stands for another request.
    #[error("The client token was used within the last ten minutes for a request with other parameters")]
    TokenReused,
    /// Something DynamoDB has and Dunlin lacks.
    #[error("{0}")]
    NotImplemented(String),
    /// A record changes faster than this call can decide.
    #[error("What the call changes is changed by others faster than it could write it; try again")]
    Contended,
    /// The same of an item that a single write means.
    #[error("{IN_CONFLICT}")]
    InConflict,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What the store holds cannot be read.
    #[error("a stored {0} cannot be read")]
    Corrupt(&'static str),
}

/// Why a part of a transaction stands in its way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reason {
    /// `ConditionalCheckFailed` and the like.
    pub(super) code: &'static str,
    /// What an error of a single call would say.
    pub(super) message: String,
    /// The item as it is, where the caller asked for it.
    pub(super) item: Option<Box<Item>>,
}

impl Reason {
    /// The item is changed by others faster than the transaction can decide.
    pub(super) fn conflict() -> Self {
        Self { code: "TransactionConflict", message: IN_CONFLICT.into(), item: None }
    }

    fn to_json(&self) -> Json {
        let mut json = json!({ "Code": self.code, "Message": self.message });
        if let Some(item) = &self.item {
            json["Item"] = item_to_json(item);
        }
        json
    }
}

fn codes(reasons: &[Option<Reason>]) -> String {
    let code = |reason: &Option<Reason>| reason.as_ref().map_or("None", |reason| reason.code);
    reasons.iter().map(code).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// A refusal of the request.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::Validation(message.into())
    }

    /// A member of the wrong JSON type.
    pub(super) fn serialization(message: impl Into<String>) -> Self {
        Self::Serialization(message.into())
    }

    /// Data operations name no table in this message.
    pub(super) fn table_not_found() -> Self {
        Self::NotFound("Requested resource not found".into())
    }
}

/// A `ValidationException`.
pub(super) fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::validation(message))
}

impl From<Error> for aws::Error {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Validation(_) => Self::new(400, "ValidationException", text),
            Error::Serialization(_) => Self::new(400, "SerializationException", text),
            Error::NotFound(_) => Self::new(400, "ResourceNotFoundException", text),
            Error::TableNotFound(_) => Self::new(400, "TableNotFoundException", text),
            Error::InUse(_) => Self::new(400, "ResourceInUseException", text),
            Error::Trimmed(_) => Self::new(400, "TrimmedDataAccessException", text),
            Error::ExpiredIterator(_) => Self::new(400, "ExpiredIteratorException", text),
            Error::LimitExceeded(_) => Self::new(400, "LimitExceededException", text),
            Error::Refused(code, _) => Self::new(400, code, text),
            Error::Throttled(short) => throttled(&short, text),
            Error::ConditionFailed(item) => {
                let refusal = Self::new(400, "ConditionalCheckFailedException", text);
                match item {
                    Some(item) => refusal.with("Item", item_to_json(&item)),
                    None => refusal,
                }
            }
            Error::Cancelled(reasons) => {
                let none = || json!({ "Code": "None" });
                let reasons = reasons.iter().map(|reason| reason.as_ref().map_or_else(none, Reason::to_json));
                let reasons = Json::Array(reasons.collect());
                Self::new(400, "TransactionCanceledException", text).with("CancellationReasons", reasons)
            }
            Error::Duplicate => Self::new(400, "DuplicateItemException", text),
            Error::TokenReused => Self::new(400, "IdempotentParameterMismatchException", text),
            Error::NotImplemented(what) => Self::not_implemented(what),
            Error::InConflict => Self::new(400, "TransactionConflictException", text),
            Error::Contended => Self::new(500, "InternalServerError", text),
            Error::Store(store::Error::Busy) => Self::new(
                400,
                "ThrottlingException",
                "The store has more writes waiting than it holds; try again with exponential backoff.",
            ),
            Error::Store(store::Error::DiskFull) => Self::new(500, "InternalServerError", text),
            Error::Store(_) | Error::Corrupt(_) => Self { code: "InternalServerError".into(), ..Self::internal(text) },
        }
    }
}

/// The two errors that say that there is no capacity; each names what is short.
fn throttled(short: &[Shortage], text: String) -> aws::Error {
    let reasons = short.iter().map(|short| json!({ "reason": short.reason, "resource": short.resource }));
    let reasons = Json::Array(reasons.collect());
    if short.iter().any(|short| short.provisioned) {
        return aws::Error::new(400, "ProvisionedThroughputExceededException", text).with("ThrottlingReasons", reasons);
    }
    aws::Error::new(400, "ThrottlingException", text).with("throttlingReasons", reasons)
}

/// What is wrong with one member: a part of `constraints`.
pub(super) fn broken(value: &Json, member: &str, rule: &str) -> String {
    let shown = match value {
        Json::Null => "null".to_owned(),
        Json::String(text) => format!("'{text}'"),
        other => format!("'{other}'"),
    };
    format!("Value {shown} at '{member}' failed to satisfy constraint: {rule}")
}

/// The `N validation errors detected` form.
pub(super) fn constraints(broken: &[String]) -> Error {
    let errors = if broken.len() == 1 { "error" } else { "errors" };
    Error::validation(format!("{} validation {errors} detected: {}", broken.len(), broken.join("; ")))
}

/// The same for one member.
pub(super) fn constraint(value: &Json, member: &str, rule: &str) -> Error {
    constraints(&[broken(value, member, rule)])
}
