//! What goes wrong with roles and policies, in IAM's codes and words.

use aws::Error;

/// There is no such thing.
pub(super) fn missing(message: impl Into<String>) -> Error {
    Error::new(404, "NoSuchEntity", message)
}

/// No role has this name.
pub(super) fn no_role(name: &str) -> Error {
    missing(format!("The role with name {name} cannot be found."))
}

/// It is there already.
pub(super) fn exists(message: impl Into<String>) -> Error {
    Error::new(409, "EntityAlreadyExists", message)
}

/// It cannot go while others need it.
pub(super) fn in_use(message: impl Into<String>) -> Error {
    Error::new(409, "DeleteConflict", message)
}

/// A document that is no policy.
pub(super) fn malformed(message: impl Into<String>) -> Error {
    Error::new(400, "MalformedPolicyDocument", message)
}

/// A value that is refused.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(400, "ValidationError", message)
}

/// A value that has the right form and is refused all the same.
pub(super) fn refused(message: impl Into<String>) -> Error {
    Error::new(400, "InvalidInput", message)
}

/// Too many of them.
pub(super) fn limit(message: impl Into<String>) -> Error {
    Error::new(409, "LimitExceeded", message)
}

/// A failure of the store.
pub(super) fn store(error: store::Error) -> Error {
    match error {
        store::Error::Busy | store::Error::Conflict | store::Error::TooOld => {
            Error::new(409, "ConcurrentModification", "Too many changes at once; try again.")
        }
        store::Error::DiskFull => Error::new(507, "ServiceFailure", error.to_string()),
        other => Error::internal(other),
    }
}
