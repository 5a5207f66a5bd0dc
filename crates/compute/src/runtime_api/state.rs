//! What a runtime may say when. Pure.
//!
//! ```text
//! Started ──init/error──► InitError
//!    └──next──► Ready ──(taken)──► Running(id) ──response|error──► ResponseSent ──next──► Ready
//! ```
//!
//! `next` in `Ready` is allowed: a runtime that lost its connection while it waited asks again. Names are those of
//! Lambda's own runtime API, since they appear in its error messages.

/// Where a runtime stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its process was started.
    Started,
    /// It reported that it cannot initialise.
    InitError,
    /// It waits for a call.
    Ready,
    /// It runs the call of this request id.
    Running(String),
    /// It has ended its call.
    ResponseSent,
}

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Not in this phase.
    Transition {
        /// The phase's name.
        from: &'static str,
        /// The name of the phase that it would lead to.
        to: &'static str,
    },
    /// Not the call that runs.
    RequestId,
}

impl Phase {
    fn name(&self) -> &'static str {
        match self {
            Self::Started => "RuntimeStarted",
            Self::InitError => "RuntimeInitError",
            Self::Ready => "RuntimeReady",
            Self::Running(_) => "RuntimeRunning",
            Self::ResponseSent => "RuntimeResponseSent",
        }
    }

    /// After `next`.
    pub(crate) fn next(&self) -> Result<Self, Refusal> {
        match self {
            Self::Started | Self::Ready | Self::ResponseSent => Ok(Self::Ready),
            Self::InitError | Self::Running(_) => {
                Err(Refusal::Transition { from: self.name(), to: Self::Ready.name() })
            }
        }
    }

    /// After `response` or `error` for a request.
    pub(crate) fn end(&self, request_id: &str) -> Result<Self, Refusal> {
        match self {
            Self::Running(running) if running == request_id => Ok(Self::ResponseSent),
            _ => Err(Refusal::RequestId),
        }
    }

    /// After `init/error`.
    pub(crate) fn init_error(&self) -> Result<Self, Refusal> {
        match self {
            Self::Started => Ok(Self::InitError),
            _ => Err(Refusal::Transition { from: self.name(), to: Self::InitError.name() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_round() {
        let running = Phase::Running("a".into());
        assert_eq!(Phase::Started.next(), Ok(Phase::Ready));
        assert_eq!(Phase::Ready.next(), Ok(Phase::Ready));
        assert_eq!(running.end("a"), Ok(Phase::ResponseSent));
        assert_eq!(Phase::ResponseSent.next(), Ok(Phase::Ready));
    }

    #[test]
    fn everything_else_is_refused() {
        let running = Phase::Running("a".into());
        assert_eq!(running.end("b"), Err(Refusal::RequestId));
        for phase in [Phase::Started, Phase::InitError, Phase::Ready, Phase::ResponseSent] {
            assert_eq!(phase.end("a"), Err(Refusal::RequestId), "{phase:?}");
        }
        assert_eq!(running.next(), Err(Refusal::Transition { from: "RuntimeRunning", to: "RuntimeReady" }));
        assert_eq!(Phase::InitError.next(), Err(Refusal::Transition { from: "RuntimeInitError", to: "RuntimeReady" }));
        for phase in [Phase::InitError, Phase::Ready, running, Phase::ResponseSent] {
            assert!(matches!(phase.init_error(), Err(Refusal::Transition { to: "RuntimeInitError", .. })));
        }
    }
}
