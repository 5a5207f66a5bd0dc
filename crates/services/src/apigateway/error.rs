//! What goes wrong in the `apigateway` service, and the code, status and words that AWS has for it.

use aws::{Call, Error};

/// A part that is not there.
pub(super) fn not_found(message: impl Into<String>) -> Error {
    Error::new(404, "NotFoundException", message)
}

/// A request that cannot be done as it is.
pub(super) fn bad_request(message: impl Into<String>) -> Error {
    Error::new(400, "BadRequestException", message)
}

/// Something of that name exists, or something else still needs it.
pub(super) fn conflict(message: impl Into<String>) -> Error {
    Error::new(409, "ConflictException", message)
}

/// No such API of this account and region. REST APIs name the account with it, HTTP APIs do not.
pub(super) fn no_such_api(call: &Call, id: &str) -> Error {
    match call.operation.starts_with("v2.") {
        true => not_found(format!("Invalid API identifier specified {id}")),
        false => not_found(format!("Invalid API identifier specified {}:{id}", call.principal.account)),
    }
}

/// A part of an API that is not there: `Invalid Resource identifier specified`.
pub(super) fn no_such(part: &str) -> Error {
    not_found(format!("Invalid {part} identifier specified"))
}

/// A failure of the store. A full disk and too much work are for the caller's eyes; the rest is the platform's.
pub(super) fn store(error: store::Error) -> Error {
    match error {
        store::Error::Busy | store::Error::Conflict | store::Error::TooOld => {
            Error::new(429, "TooManyRequestsException", "Too Many Requests")
        }
        store::Error::TooLarge(what) => bad_request(format!("The API is too large: {what}")),
        store::Error::DiskFull => Error::new(507, "ServiceUnavailableException", error.to_string()),
        other => Error::internal(other),
    }
}
