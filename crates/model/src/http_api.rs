//! HTTP fronts of functions: function URLs, REST APIs (v1) and HTTP APIs (v2), as the front door needs them.
//!
//! Control-plane services own the stored form and hand out these read-only views; the front door routes with them
//! and never sees a service. Behaviour follows API Gateway; see the router in `gateway`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::{self, Actor, Circumstances, Verdict};
use crate::{AccountId, FunctionRef, Principal, Region};

/// What a host name or path names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SiteKey {
    /// The 32-character id of a function URL.
    FunctionUrl(String),
    /// The 10-character id of a REST or HTTP API.
    Api(String),
}

/// What answers there.
#[derive(Debug, Clone)]
pub enum Site {
    /// A function URL.
    FunctionUrl(Arc<FunctionUrl>),
    /// A REST API.
    Rest(Arc<RestApi>),
    /// An HTTP API.
    Http(Arc<HttpApi>),
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthKind {
    /// Everyone.
    None,
    /// Signed requests.
    AwsIam,
}

/// Cross-origin settings of function URLs and HTTP APIs. An empty list allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// `Access-Control-Allow-Credentials`.
    pub allow_credentials: bool,
    /// Header names, or `*`.
    pub allow_headers: Vec<String>,
    /// Methods, or `*`.
    pub allow_methods: Vec<String>,
    /// Origins, `*`, or `scheme://*`.
    pub allow_origins: Vec<String>,
    /// Header names, or `*`.
    pub expose_headers: Vec<String>,
    /// Seconds, if set.
    pub max_age_s: Option<u32>,
}

/// A function URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionUrl {
    /// The 32-character id.
    pub id: String,
    /// The function, with the alias if there is one.
    pub function: FunctionRef,
    /// Who may call.
    pub auth: AuthKind,
    /// Whether the answer streams (`RESPONSE_STREAM`).
    pub streaming: bool,
    /// Cross-origin settings, if any.
    pub cors: Option<Cors>,
    /// The statements of the function's policy.
    pub policy: Vec<Value>,
}

impl FunctionUrl {
    /// Whether this caller may call, or anybody where the URL asks for no signature. Within the function's own account
    /// the policy need not allow it, for what principals may do by themselves is not limited yet.
    pub fn lets(&self, caller: Option<&Principal>, circumstances: Circumstances) -> bool {
        let is_own = caller.is_some_and(|caller| caller.account == self.function.account);
        if self.policy.is_empty() {
            return is_own;
        }
        let (actor, auth) = match caller {
            Some(caller) => (Actor::Principal(caller.account.as_str(), &caller.arn), "AWS_IAM"),
            None => (Actor::Anonymous, "NONE"),
        };
        let request = policy::Request {
            actor,
            action: "lambda:InvokeFunctionUrl",
            resource: &self.function.arn(),
            context: &[("lambda:functionurlauthtype", auth), ("lambda:invokedviafunctionurl", "true")],
            circumstances,
        };
        match policy::evaluate(&self.policy, &request) {
            Verdict::Allowed => true,
            Verdict::Denied => false,
            Verdict::Silent => is_own,
        }
    }
}

/// Version of the event document that a function gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PayloadFormat {
    /// REST proxy format, `"version": "1.0"` in HTTP APIs.
    V1,
    /// HTTP API format.
    V2,
}

/// What serves a matched route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Integration {
    /// `AWS_PROXY` to a function.
    Function {
        /// The function.
        function: FunctionRef,
        /// The event document's version.
        format: PayloadFormat,
        /// Milliseconds before the API gives up.
        timeout_ms: u64,
    },
    /// `MOCK` of a REST API, as CORS preflights use it: a fixed answer.
    Mock {
        /// Status.
        status: u16,
        /// Headers.
        headers: BTreeMap<String, String>,
        /// Body.
        body: String,
    },
}

/// One method of a REST resource at deployment time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestMethod {
    /// `/pets/{id}`
    pub resource_path: String,
    /// The resource's id.
    pub resource_id: String,
    /// `GET`, …, or `ANY`.
    pub http_method: String,
    /// Who may call.
    pub auth: AuthKind,
    /// What serves it.
    pub integration: Integration,
}

/// A deployed stage of a REST API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestStage {
    /// Its name, the first path segment.
    pub name: String,
    /// The deployment that it serves.
    pub deployment_id: String,
    /// Stage variables.
    pub variables: BTreeMap<String, String>,
    /// The methods of that deployment.
    pub methods: Vec<RestMethod>,
}

/// A REST API (v1) with its stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestApi {
    /// The 10-character id.
    pub id: String,
    /// Owner.
    pub account: AccountId,
    /// Region.
    pub region: Region,
    /// Media types that are passed as base64.
    pub binary_media_types: Vec<String>,
    /// Stages by name.
    pub stages: BTreeMap<String, RestStage>,
}

/// One route of an HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpRoute {
    /// `GET /pets/{id}`, `ANY /{proxy+}`, or `$default`.
    pub route_key: String,
    /// Who may call.
    pub auth: AuthKind,
    /// What serves it.
    pub integration: Integration,
}

/// A stage of an HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpStage {
    /// `$default`, or a name that is the first path segment.
    pub name: String,
    /// Stage variables.
    pub variables: BTreeMap<String, String>,
    /// The routes that are deployed there.
    pub routes: Vec<HttpRoute>,
}

/// An HTTP API (v2) with its stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpApi {
    /// The 10-character id.
    pub id: String,
    /// Owner.
    pub account: AccountId,
    /// Region.
    pub region: Region,
    /// Cross-origin settings, if any.
    pub cors: Option<Cors>,
    /// Stages by name.
    pub stages: BTreeMap<String, HttpStage>,
}
