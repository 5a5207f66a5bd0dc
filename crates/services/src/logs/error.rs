//! What can go wrong, in CloudWatch Logs' words.
//!
//! Every error that a caller can cause is status 400 here, as it is there.

/// Why the service did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such group.
    #[error("The specified log group does not exist.")]
    NoGroup,
    /// No such stream.
    #[error("The specified log stream does not exist.")]
    NoStream,
    /// The group is there.
    #[error("The specified log group already exists")]
    GroupExists,
    /// The stream is there.
    #[error("The specified log stream already exists")]
    StreamExists,
    /// A parameter that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Something of AWS that is not done here.
    #[error("{0}")]
    Unsupported(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What was stored cannot be read.
    #[error("stored logs are damaged: {0}")]
    Damaged(String),
}

impl From<Error> for aws::Error {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::NoGroup | Error::NoStream => Self::new(400, "ResourceNotFoundException", text),
            Error::GroupExists | Error::StreamExists => Self::new(400, "ResourceAlreadyExistsException", text),
            Error::Invalid(_) => Self::new(400, "InvalidParameterException", text),
            Error::Unsupported(what) => Self::not_implemented(what),
            Error::Store(store::Error::Busy) => Self::new(503, "ServiceUnavailableException", text),
            Error::Store(store::Error::Conflict | store::Error::TooOld) => Self::new(
                400,
                "OperationAbortedException",
                "Multiple concurrent requests to update the same resource were in conflict.",
            ),
            Error::Store(_) | Error::Damaged(_) => Self::internal(text),
        }
    }
}
