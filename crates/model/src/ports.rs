//! The ports: where crates of one level meet without knowing each other. At most eight.
//!
//! | port         | asks                                        | implemented by                | used by              |
//! |--------------|---------------------------------------------|-------------------------------|----------------------|
//! | `Invoker`    | run this invocation; accept this event      | compute; doubles in tests     | gateway, services    |
//! | `Catalog`    | what is this version; give me its package   | services/lambda; fixed lists  | compute              |
//! | `Sites`      | what answers under this id                  | services/lambda, /apigateway  | gateway              |
//! | `Authorizer` | whose key is this; make temporary keys      | services/iam; doubles         | gateway, compute     |
//! | `Meter`      | keep this usage record                      | services/usage; recorder      | compute              |
//! | `LogSink`    | keep these log lines                        | services/logs; recorder       | compute              |
//! | `EventTarget`| take this event for a resource of yours     | compute (functions); recorder | compute, services    |
//! | `EventSource`| lease, ack, nack records of a queue, stream | services/dynamodb; doubles    | compute, services    |

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Answered, CodeDigest, Credentials, Delivery, DeliveryError, EventRules, Floor, FloorState, FunctionRef,
    FunctionVersion, Invocation, InvokeError, LogBatch, MappingNews, Mappings, Outcome, Principal, ProgramState,
    Region, Role, Runtime, RuntimeUse, Shard, Site, SiteKey, SnapshotState, SourceError, SourceFacts, SourceRecord,
    Take, Taken, UsageRecord, WebAnswer, WebCall,
};

/// The only road to a running function.
#[async_trait]
pub trait Invoker: Send + Sync + 'static {
    /// Runs the function and waits for its end. A function's own failure is an `Outcome`, not an error.
    async fn invoke(&self, invocation: Invocation) -> Result<Outcome, InvokeError>;

    /// Runs the function and returns as soon as it begins to stream, or has ended without. A caller that drops the answer
    /// leaves the function to run to its end.
    async fn invoke_streaming(&self, invocation: Invocation) -> Result<Answered, InvokeError> {
        self.invoke(invocation).await.map(Answered::Whole)
    }

    /// Whether this reference means a web server now.
    async fn is_web_server(&self, _function: &FunctionRef) -> bool {
        false
    }

    /// Has a web server answer an HTTP request; returns as soon as it begins to. A caller that drops the answer ends the
    /// exchange: the server sees its connection close.
    async fn serve(&self, _call: WebCall) -> Result<WebAnswer, InvokeError> {
        Err(InvokeError::Unfit("The function is no web server."))
    }

    /// Accepts an event to be run later, at least once. When this returns, the event is on disk.
    async fn accept(&self, invocation: Invocation) -> Result<(), InvokeError>;

    /// Checks everything that `invoke` checks before it runs the function, and runs nothing.
    async fn dry_run(&self, function: &FunctionRef) -> Result<(), InvokeError>;

    /// What there is on this node of the environments that a version is to have always (`Catalog::floors`).
    fn floor(&self, _function: &FunctionRef, _version: &str) -> FloorState {
        FloorState::default()
    }

    /// How far this node is with the snapshot of a version that has SnapStart.
    fn snapshot(&self, _function: &FunctionRef, _version: &str) -> SnapshotState {
        SnapshotState::Open
    }

    /// The ARN of the version of a managed runtime that its functions run on here; the error says what is missing. Nothing: it
    /// is no managed one, or who is asked does not know.
    fn runtime_version(&self, _runtime: &Runtime, _region: &Region) -> Option<Result<String, String>> {
        None
    }

    /// Has the program of a package compiled. Returns at once.
    fn compile(&self, _code: &CodeDigest) {}

    /// How far this node is with the program of a package.
    fn program(&self, _code: &CodeDigest) -> ProgramState {
        ProgramState::Open
    }

    /// A function has other code or settings than before, or a version that is new: what its first start would have to do
    /// may be done ahead, and the snapshot of a version is taken. Returns at once and promises nothing.
    fn prepare(&self, _function: &FunctionRef) {}
}

/// What functions there are.
#[async_trait]
pub trait Catalog: Send + Sync + 'static {
    /// The version that a reference means now, aliases resolved. `NotFound` and `NotReady` are for the caller's eyes.
    async fn version(&self, function: &FunctionRef) -> Result<Arc<FunctionVersion>, InvokeError>;

    /// What holds now for events that were sent to this reference. A function or qualifier that is gone has no rules.
    async fn event_rules(&self, _function: &FunctionRef) -> Result<Arc<EventRules>, InvokeError> {
        Ok(Arc::default())
    }

    /// The zip of a code package.
    async fn package(&self, code: &CodeDigest) -> Result<Bytes, InvokeError>;

    /// Bytes of a package or of an image's layer, from `from` on, at most `most` of them; none at its end. For what may be too
    /// large for memory.
    async fn package_part(&self, code: &CodeDigest, from: u64, most: usize) -> Result<Bytes, InvokeError> {
        let whole = self.package(code).await?;
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(whole.len());
        Ok(whole.slice(from..whole.len().min(from.saturating_add(most))))
    }

    /// What the functions run on, as soon as it is other than `known`. A catalog that does not say never answers.
    async fn uses(&self, _known: &BTreeSet<RuntimeUse>) -> BTreeSet<RuntimeUse> {
        std::future::pending().await
    }

    /// Which versions are to have environments always, as soon as that is other than `known`. A catalog that does not say
    /// never answers.
    async fn floors(&self, _known: &BTreeSet<Floor>) -> BTreeSet<Floor> {
        std::future::pending().await
    }

    /// Which event source mappings there are, as soon as they are other than `known`. A catalog that does not say never
    /// answers.
    async fn mappings(&self, _known: &Mappings) -> Mappings {
        std::future::pending().await
    }

    /// Takes note of what a poller tells. False: not now, it is to be told again.
    async fn tell(&self, _news: MappingNews) -> bool {
        true
    }
}

/// What answers HTTP under an id.
#[async_trait]
pub trait Sites: Send + Sync + 'static {
    /// The site, or nothing if the id is not known.
    async fn site(&self, key: &SiteKey) -> Option<Site>;

    /// Whether a function's policy lets a service call it on behalf of a resource: `apigateway.amazonaws.com` for a route.
    /// Who has no functions objects to nothing.
    async fn lets(&self, _function: &FunctionRef, _service: &str, _source_arn: &str) -> bool {
        true
    }
}

/// What the owner of an access key is and knows.
#[derive(Debug, Clone)]
pub struct KnownKey {
    /// The secret that signatures must have been made with, and the token if the key is temporary.
    pub credentials: Credentials,
    /// Whose key it is.
    pub principal: Principal,
}

/// Whose key is this, and temporary keys for functions.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// The owner of an access key; nothing if there is no such key or it has ended. A temporary key is known by its
    /// session token, which the caller sends along.
    async fn key(&self, access_key: &str, session_token: Option<&str>) -> Option<KnownKey>;

    /// Whether a key that is not known now was good once and has ended, so that a refusal can say so.
    async fn has_ended(&self, _access_key: &str, _session_token: Option<&str>) -> bool {
        false
    }

    /// Credentials of a role for one environment or session, valid for `ttl_s` seconds; or of an account's root, if its ARN is
    /// given.
    async fn issue(&self, role_arn: &str, session_name: &str, ttl_s: u64) -> Credentials;

    /// The role of an ARN, if there is one. Who keeps no roles knows none.
    ///
    /// # Errors
    /// When roles cannot be read.
    async fn role(&self, _arn: &str) -> Result<Option<Role>, RoleError> {
        Ok(None)
    }
}

/// Roles cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("roles cannot be read: {0}")]
pub struct RoleError(pub String);

/// A usage record could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("the usage record could not be kept: {0}")]
pub struct MeterError(pub String);

/// Keeps usage records.
pub trait Meter: Send + Sync + 'static {
    /// Keeps one record such that it survives the death of this process. Called before the answer leaves; takes
    /// microseconds and never waits for a disk.
    fn record(&self, record: UsageRecord) -> Result<(), MeterError>;
}

/// Keeps log lines.
#[async_trait]
pub trait LogSink: Send + Sync + 'static {
    /// Takes the batch; waits while the sink is behind, so that no line is dropped. Lines of one stream keep their order.
    async fn append(&self, batch: LogBatch);
}

/// Takes events for the resources of one service: functions, queues, topics, buses.
#[async_trait]
pub trait EventTarget: Send + Sync + 'static {
    /// The service as ARNs name it: `lambda`, `sqs`.
    fn service(&self) -> &'static str;

    /// Most bytes of one event.
    fn event_bytes_max(&self) -> usize;

    /// Whether there is a resource of this ARN that takes events.
    async fn has(&self, arn: &str) -> bool;

    /// Delivers one event. When this returns, the event is on disk. It may come again, so that none is lost.
    async fn deliver(&self, delivery: Delivery) -> Result<(), DeliveryError>;
}

/// The target among `targets` that takes events for the service of this ARN.
pub fn target_of<'a>(targets: &'a [Arc<dyn EventTarget>], arn: &str) -> Option<&'a Arc<dyn EventTarget>> {
    let service = arn.split(':').nth(2)?;
    targets.iter().find(|target| target.service() == service)
}

/// Gives the records of one service's queues or streams to pollers.
///
/// A queue keeps track of its messages: what was taken comes again unless it is acknowledged. A stream keeps track of
/// nobody: its readers keep their positions, so that it has nothing to acknowledge.
#[async_trait]
pub trait EventSource: Send + Sync + 'static {
    /// The service as ARNs name it: `sqs`, `kinesis`, `dynamodb`.
    fn service(&self) -> &'static str;

    /// What the source of this ARN is; nothing if there is none.
    async fn describe(&self, arn: &str) -> Result<Option<SourceFacts>, SourceError>;

    /// The shards that a stream has now, those that have ended included.
    async fn shards(&self, _arn: &str) -> Result<Vec<Shard>, SourceError> {
        Ok(Vec::new())
    }

    /// Takes records; waits for the first as long as it is asked to. Where none are asked for, it says where the position is.
    /// Who drops the answer before it is there has taken nothing for longer than a lease.
    async fn lease(&self, take: &Take) -> Result<Taken, SourceError>;

    /// These messages are handled: they never come again. Those whose lease has ended may.
    async fn ack(&self, _arn: &str, _records: &[SourceRecord]) -> Result<(), SourceError> {
        Ok(())
    }

    /// These messages are given back: they come again after so many milliseconds. What is neither acknowledged nor given
    /// back comes again when its lease ends.
    async fn nack(&self, _arn: &str, _records: &[SourceRecord], _delay_ms: u64) -> Result<(), SourceError> {
        Ok(())
    }
}

/// The source among `sources` that the service of this ARN has.
pub fn source_of<'a>(sources: &'a [Arc<dyn EventSource>], arn: &str) -> Option<&'a Arc<dyn EventSource>> {
    let service = arn.split(':').nth(2)?;
    sources.iter().find(|source| source.service() == service)
}
