//! What goes wrong in the `lambda` service, and the code, status and words that AWS has for it.
//!
//! Messages follow the public behaviour of the Lambda API; clients match on several of them.

use aws::Error;
use model::{InvokeError, ThrottleReason};

/// The caller is wrong, in these words.
pub(super) fn user(status: u16, code: &str, message: impl Into<String>) -> Error {
    Error::new(status, code, message).with("Type", "User")
}

/// A value that Lambda refuses beyond the model's constraints.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    user(400, "InvalidParameterValueException", message)
}

/// A request that breaks a constraint of the model, found only once its parts are known.
pub(super) fn constraint(value: &str, member: &str, rule: &str) -> Error {
    Error::new(
        400,
        "ValidationException",
        format!("1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {rule}"),
    )
}

/// No such function or version.
pub(super) fn function_not_found(arn: &str) -> Error {
    not_found(format!("Function not found: {arn}"))
}

/// Something else is not there.
pub(super) fn not_found(message: impl Into<String>) -> Error {
    user(404, "ResourceNotFoundException", message)
}

/// What GetPolicy and others say about a part that a function does not have.
pub(super) fn no_such_resource() -> Error {
    not_found("The resource you requested does not exist.")
}

/// It exists, or its state forbids the call.
pub(super) fn conflict(message: impl Into<String>) -> Error {
    user(409, "ResourceConflictException", message)
}

/// A change of the same thing is under way.
pub(super) fn in_use(message: impl Into<String>) -> Error {
    user(400, "ResourceInUseException", message)
}

/// `RevisionId` is not the current one. `read_with` names the operations that tell the current one.
pub(super) fn stale_revision(read_with: &str) -> Error {
    user(
        412,
        "PreconditionFailedException",
        format!(
            "The Revision Id provided does not match the latest Revision Id. Call the {read_with} API to retrieve the latest Revision Id"
        ),
    )
}

/// Too many bytes.
pub(super) fn too_large(message: impl Into<String>) -> Error {
    user(413, "RequestEntityTooLargeException", message)
}

/// The request is not what Invoke takes.
pub(super) fn bad_content(message: impl Into<String>) -> Error {
    user(400, "InvalidRequestContentException", message)
}

/// The caller may not do this.
pub(super) fn denied(message: impl Into<String>) -> Error {
    Error::new(403, "AccessDeniedException", message)
}

/// A failure of the store. A full disk and too much work are for the caller's eyes; the rest is the platform's.
pub(super) fn store(error: store::Error) -> Error {
    match error {
        store::Error::Busy | store::Error::Conflict | store::Error::TooOld => {
            Error::new(429, "TooManyRequestsException", "Too many changes at once; try again.")
                .with("Reason", "CallerRateLimitExceeded")
                .with("Type", "User")
        }
        store::Error::DiskFull => Error::new(507, "ServiceException", error.to_string()).with("Type", "Server"),
        other => Error::internal(other),
    }
}

/// How Invoke answers for a call that did not run.
pub(super) fn invoke(error: InvokeError) -> Error {
    let message = error.to_string();
    match error {
        InvokeError::NotFound(_) => not_found(message),
        InvokeError::Throttled(reason) => throttled(reason, message),
        InvokeError::PayloadTooLarge { .. } => too_large(message),
        InvokeError::PayloadNotJson(_) => bad_content(message),
        InvokeError::Recursive(_) => user(400, "RecursiveInvocationException", message),
        InvokeError::Unfit(_) => invalid(message),
        InvokeError::NotReady(_) => conflict(message),
        InvokeError::NoCapacity(_) => {
            let mut error = Error::new(503, "ServiceUnavailableException", message).with("Type", "Server");
            error.headers.push(("retry-after", "1".into()));
            error
        }
        InvokeError::Internal(detail) => Error::internal(detail),
    }
}

fn throttled(reason: ThrottleReason, message: String) -> Error {
    let mut error = user(429, "TooManyRequestsException", message).with("Reason", reason.as_str());
    error.headers.push(("retry-after", "1".into()));
    error
}
