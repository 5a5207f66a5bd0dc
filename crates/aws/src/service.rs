//! What a service is to the wire: a name, a model, and one function.
//!
//! Names that services may rely on
//!   1. `Call::operation` is the operation's name in the public model: `CreateFunction`, `PutItem`, `GetCallerIdentity`.
//!      API Gateway's two models share the signing name `apigateway` and some operation names, so one service gets
//!      both, and every operation of the second model is prefixed: `GetStage` is of REST APIs, `v2.GetStage` of HTTP APIs.
//!   2. `Call::input` is always an object. Members are under their *model* names at every depth, whatever they are called
//!      on the wire: `FunctionName` (Lambda, path), `restApiId` (API Gateway v1, path), `ApiId` (v2, path).
//!      Members that were not sent are absent; JSON `null` counts as not sent. Unknown members are dropped.
//!      Path parts are percent-decoded; query lists (`tagKeys`) are arrays; numbers and booleans of query and header are
//!      JSON numbers and booleans.
//!   3. `Reply::output` uses model names too (`ApiId`, `items`, `RoutingConfig`): the wire renames, places members that
//!      belong in headers or the status there, and leaves out members that are `null`. Timestamps are numbers of
//!      seconds; the wire writes them in the format of the model. Members that the model lacks are written as they are.
//!   4. Presence, type, length, range, pattern and enumeration are checked before a service is called, with two
//!      exceptions: DynamoDB gets its input with types checked only, because its own constraint messages differ; and
//!      Lambda's `Runtime` is not held against the enumeration, because its message differs.
//!   5. `Call::payload` is set for `Invoke` and `InvokeWithResponseStream` only. It is never parsed on the way.

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use model::policy::Circumstances;
use model::{Body, Principal, Region};
use serde::Serialize;
use serde_json::Value;

/// One decoded call: validated against the service's model, every member under its model name wherever it travelled
/// (body, path, query or header).
#[derive(Debug, Clone)]
pub struct Call {
    /// `CreateFunction`
    pub operation: &'static str,
    /// Members of the input shape as JSON. Blobs are base64 text, timestamps numbers of seconds.
    pub input: Value,
    /// The blob payload of operations that have one (`Invoke`); empty otherwise.
    pub payload: Bytes,
    /// Who calls. Its account is where the call acts.
    pub principal: Principal,
    /// From the signature's scope.
    pub region: Region,
    /// The address that the call comes from, where it is known.
    pub source_ip: Option<std::net::IpAddr>,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// `scheme://host[:port]` as the client addressed the platform, for URLs in answers.
    pub endpoint: String,
    /// UUID that names this call in the answer.
    pub request_id: String,
}

impl Call {
    /// When and from where the call comes, as policies want to know it.
    pub fn circumstances(&self, now_ms: u64) -> Circumstances {
        Circumstances { now_ms, source_ip: self.source_ip, secure: self.endpoint.starts_with("https:") }
    }

    /// A text member, if it was sent.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.input.get(member)?.as_str()
    }

    /// A whole number that is not negative, if it was sent.
    pub fn number(&self, member: &str) -> Option<u64> {
        self.input.get(member)?.as_u64()
    }

    /// A boolean member; one that was not sent is false.
    pub fn flag(&self, member: &str) -> bool {
        self.input.get(member).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Refuses loudly every member that carries a value and is not in `honoured`: what an operation does not know, it
    /// must not pass over. `null`, `false`, and texts, lists and objects without content carry none.
    pub fn honours(&self, honoured: &[&str]) -> Result<(), Error> {
        let members = self.input.as_object().into_iter().flatten();
        for (member, value) in members {
            if !honoured.contains(&member.as_str()) && carries_something(value) {
                return Err(Error::not_implemented(format_args!("the parameter {member} of {}", self.operation)));
            }
        }
        Ok(())
    }
}

/// Whether a member says anything beyond the absence of a setting.
fn carries_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) | Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => members.values().any(carries_something),
    }
}

/// A successful answer.
#[derive(Debug, Default)]
pub struct Reply {
    /// Members of the output shape; those that the model places in headers or the status travel there.
    pub output: Value,
    /// The blob or event stream that is the whole body, of operations that have one; or the whole output, written.
    pub payload: Option<Body>,
    /// A status other than the model's, where AWS answers so.
    pub status: Option<u16>,
    /// Headers beyond the model's.
    pub headers: Vec<(&'static str, String)>,
}

impl Reply {
    /// An answer with this output.
    pub fn of(output: Value) -> Self {
        Self { output, ..Self::default() }
    }

    /// An answer whose output a service of a JSON protocol has written itself, as it may be large. No member of it may
    /// belong into a header.
    pub fn text(output: Vec<u8>) -> Self {
        Self { payload: Some(Body::Whole(output.into())), ..Self::default() }
    }

    /// The same, written here.
    pub fn written(output: &impl Serialize) -> Self {
        // Maps with names for keys always serialise, and memory takes every byte.
        Self::text(serde_json::to_vec(output).unwrap_or_default())
    }

    /// An answer without members.
    pub fn empty() -> Self {
        Self { output: Value::Object(serde_json::Map::new()), ..Self::default() }
    }
}

/// An error in AWS's words. The protocol decides how it is written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// HTTP status.
    pub status: u16,
    /// `ResourceNotFoundException`
    pub code: String,
    /// For people.
    pub message: String,
    /// Members of the error shape beyond the message (`Reason`, `Type`, `CancellationReasons`, `Item`).
    pub fields: serde_json::Map<String, Value>,
    /// Headers such as `Retry-After`.
    pub headers: Vec<(&'static str, String)>,
}

impl Error {
    /// An error of this status, code and message.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.into(), message: message.into(), fields: serde_json::Map::new(), headers: Vec::new() }
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.into(), value.into());
        self
    }

    /// A thing of AWS that the platform does not do: said loudly, never passed over.
    pub fn not_implemented(what: impl std::fmt::Display) -> Self {
        Self::new(501, "NotImplementedException", format!("Dunlin does not support {what}."))
    }

    /// A fault of the platform. `detail` goes to the platform's log, not to the caller.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        tracing::error!(%detail, "a service call failed inside the platform");
        Self::new(
            500,
            "InternalFailure",
            "The request processing has failed because of an internal fault of the platform; its log says more.",
        )
    }
}

/// One AWS-compatible service.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// The name in a signature's scope: `lambda`, `dynamodb`, `apigateway`, `sts`, `logs`.
    fn signing_name(&self) -> &'static str;

    /// Does the call. Operations that the model has and the service lacks answer `Error::not_implemented`.
    async fn call(&self, call: Call) -> Result<Reply, Error>;
}
