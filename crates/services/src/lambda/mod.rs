//! The `lambda` service: functions, their code, layers and configuration, their URLs and policies, and the Invoke operation.
//!
//! Operations: Create/Get/List/Update/DeleteFunction, GetFunctionConfiguration, UpdateFunctionCode,
//! UpdateFunctionConfiguration, versions, aliases, layers with their policies, Invoke, InvokeWithResponseStream, function URLs,
//! AddPermission, GetPolicy, RemovePermission, reserved and provisioned concurrency, event invoke configurations, event source
//! mappings, tags, GetAccountSettings. Every other operation, and every parameter that is not honoured, is refused loudly;
//! `ACCEPTED_WITHOUT_EFFECT` lists the few that are taken and do nothing.
//!
//! Not here: running anything (that is behind `Invoker`).
//!
//! Invariants
//!   1. A name is created once: of two concurrent creations exactly one succeeds.
//!   2. A refused or failed call leaves nothing behind, neither record nor bytes.
//!   3. An update that is answered is what every later invocation runs.
//!   4. What a published version runs, and with which configuration, never changes.
//!   5. Who calls from outside a function's account, or without a signature, needs a statement of the function's policy; and
//!      no statement may deny it to whoever calls. What callers may do by themselves is not looked at.
//!
//! Start reading at `catalog` (the shared registry), then `ops`.

mod alias;
mod catalog;
mod code_signing;
mod dead_letters;
mod error;
mod event_config;
mod file_systems;
mod image;
mod keys;
mod layer;
mod layers;
mod mapping;
mod mapping_list;
mod mapping_settings;
mod marker;
mod name;
mod ops;
mod packages;
mod policy;
mod programs;
mod provisioned;
mod record;
mod role;
mod runtime_version;
mod settings;
mod snapshots;
mod storage;
mod uses;
mod versions;
mod view;
mod vpc;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use aws::{Call, Error, Reply, Service};
use bytes::Bytes;
use model::FunctionRef;
use model::ports::{Authorizer, EventSource, EventTarget, Invoker};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use catalog::{Config, Functions};
pub use image::{PushError, ShownImage};
pub use keys::secret_records;

/// How often a change is tried against others of the same record.
const ATTEMPTS: usize = 64;

/// What is taken and stored but changes nothing: operation, parameter, and why. The compatibility matrix shows it.
pub const ACCEPTED_WITHOUT_EFFECT: &[(&str, &str, &str)] = &[
    (
        "CreateFunction",
        "TracingConfig",
        "Active decides which traces are sampled, as functions, reports and called services see it; no segments are recorded",
    ),
    (
        "UpdateFunctionConfiguration",
        "TracingConfig",
        "Active decides which traces are sampled, as functions, reports and called services see it; no segments are recorded",
    ),
    ("CreateFunction", "Architectures", "managed runtimes use the host's interpreter whatever the architecture"),
    ("UpdateFunctionCode", "Architectures", "managed runtimes use the host's interpreter whatever the architecture"),
    (
        "CreateFunction",
        "VpcConfig.SubnetIds, SecurityGroupIds",
        "any are taken; that there are some closes the internet",
    ),
    (
        "UpdateFunctionConfiguration",
        "VpcConfig.SubnetIds, SecurityGroupIds",
        "any are taken; that there are some closes the internet",
    ),
    ("CreateFunction", "VpcConfig.Ipv6AllowedForDualStack", "stored and shown; there are no subnets"),
    ("UpdateFunctionConfiguration", "VpcConfig.Ipv6AllowedForDualStack", "stored and shown; there are no subnets"),
    ("CreateFunction", "Role", "a role that is not there is taken; what a role may do is not evaluated yet"),
    (
        "UpdateFunctionConfiguration",
        "Role",
        "a role that is not there is taken; what a role may do is not evaluated yet",
    ),
    ("ListFunctions", "MasterRegion", "there are no replicated functions"),
    (
        "AddLayerVersionPermission",
        "OrganizationId",
        "stored and shown; no account belongs to an organization, so it lets nobody",
    ),
    ("CreateEventSourceMapping", "MetricsConfig", "stored and shown; there are no metrics of mappings yet"),
    ("UpdateEventSourceMapping", "MetricsConfig", "stored and shown; there are no metrics of mappings yet"),
    (
        "PutRuntimeManagementConfig",
        "UpdateRuntimeOn, RuntimeVersionArn",
        "stored and shown; functions run on the interpreter that the host's operator has installed",
    ),
    ("AddPermission", "PrincipalOrgID", "stored and shown; no account belongs to an organization, so it lets nobody"),
    ("AddPermission", "EventSourceToken", "stored and shown; no caller here brings a token, so it lets nobody"),
];

/// The API of functions.
pub struct LambdaService {
    functions: Arc<Functions>,
    invoker: Arc<dyn Invoker>,
    targets: Vec<Arc<dyn EventTarget>>,
    sources: Vec<Arc<dyn EventSource>>,
    /// Who knows roles; absent where nobody does.
    roles: Option<Arc<dyn Authorizer>>,
}

impl LambdaService {
    /// The API over these functions; `invoker` runs them, `targets` take the records of their events, `sources` have what
    /// can be mapped to them.
    pub fn new(
        functions: Arc<Functions>,
        invoker: Arc<dyn Invoker>,
        targets: Vec<Arc<dyn EventTarget>>,
        sources: Vec<Arc<dyn EventSource>>,
    ) -> Self {
        Self { functions, invoker, targets, sources, roles: None }
    }

    fn ends(&self) -> ops::mappings::Ends<'_> {
        ops::mappings::Ends { sources: &self.sources, targets: &self.targets }
    }

    /// The same API, which refuses functions whose role does not let Lambda have it.
    #[must_use]
    pub fn with_roles(self, roles: Arc<dyn Authorizer>) -> Self {
        Self { roles: Some(roles), ..self }
    }

    /// Refuses a role of another account, and one that is there and that Lambda cannot assume. One that is not there is taken,
    /// as made-up ones always were: nothing depends on it while what roles may do is not evaluated.
    async fn check_role(&self, call: &Call) -> Result<(), Error> {
        let Some(arn) = call.text("Role") else { return Ok(()) };
        if !role::is_within(&call.principal.account, arn) {
            return Err(error::denied("Cross-account pass role is not allowed.").with("Type", "User"));
        }
        let Some(roles) = &self.roles else { return Ok(()) };
        match roles.role(arn).await.map_err(Error::internal)? {
            Some(role) if !role::is_for_function(&role, &name::unqualified(call)?, self.functions.clock.now_ms()) => {
                Err(error::invalid("The role defined for the function cannot be assumed by Lambda."))
            }
            _ => Ok(()),
        }
    }

    /// The operations that say who may do what with functions, and with what they may run.
    async fn governed(&self, call: &Call) -> Result<Reply, Error> {
        let functions = &*self.functions;
        match call.operation {
            "CreateCodeSigningConfig" => ops::code_signing::create(functions, call).await,
            "GetCodeSigningConfig" => ops::code_signing::get(functions, call).await,
            "UpdateCodeSigningConfig" => ops::code_signing::update(functions, call).await,
            "DeleteCodeSigningConfig" => ops::code_signing::delete(functions, call).await,
            "ListCodeSigningConfigs" => ops::code_signing::list(functions, call).await,
            "ListFunctionsByCodeSigningConfig" => ops::code_signing::functions_of(functions, call).await,
            "PutFunctionCodeSigningConfig" => ops::code_signing::put(functions, call).await,
            "GetFunctionCodeSigningConfig" => ops::code_signing::of_function(functions, call).await,
            "DeleteFunctionCodeSigningConfig" => ops::code_signing::remove(functions, call).await,
            "PutResourcePolicy" => ops::resource_policy::put(functions, call).await,
            "GetResourcePolicy" => ops::resource_policy::get(functions, call).await,
            "DeleteResourcePolicy" => ops::resource_policy::delete(functions, call).await,
            "PutFunctionRecursionConfig" => ops::recursion::put(functions, call).await,
            "GetFunctionRecursionConfig" => ops::recursion::get(functions, call).await,
            "PutRuntimeManagementConfig" => ops::runtime_management::put(functions, call).await,
            "GetRuntimeManagementConfig" => ops::runtime_management::get(functions, call).await,
            other => Err(Error::not_implemented(format_args!("the Lambda operation {other}"))),
        }
    }

    /// A function has other code or settings, if that went well: its first start may be prepared.
    fn deployed(&self, call: &Call, done: Result<Reply, Error>) -> Result<Reply, Error> {
        if let (Ok(_), Ok(function)) = (&done, name::of_call(call)) {
            self.invoker.prepare(&function);
        }
        self.as_here(call, done, true)
    }

    /// An answer that tells what this node knows of its version: what it runs on, and how far its program and its snapshot are, if
    /// it is to have one. Of a version that may be new these are made.
    fn as_here(&self, call: &Call, mut done: Result<Reply, Error>, is_new: bool) -> Result<Reply, Error> {
        if let Ok(reply) = &mut done
            && let Some((code, configuration)) = programs::taken_from(&mut reply.output)
        {
            if is_new {
                self.invoker.compile(&code);
            }
            programs::show(configuration, self.invoker.program(&code));
        }
        if let Ok(reply) = &mut done
            && let Some((runtime, configuration)) = runtime_version::runtime_in(&mut reply.output)
            && let Some(found) = self.invoker.runtime_version(&runtime, &call.region)
        {
            runtime_version::show(configuration, found);
        }
        if let (Ok(reply), Ok(function)) = (&mut done, name::of_call(call))
            && let Some((function, version, configuration)) = snapshots::version_in(&mut reply.output, &function)
        {
            if is_new {
                self.invoker.prepare(&FunctionRef { qualifier: Some(version.clone()), ..function.clone() });
            }
            snapshots::show(configuration, self.invoker.snapshot(&function, &version));
        }
        done
    }
}

#[async_trait]
impl Service for LambdaService {
    fn signing_name(&self) -> &'static str {
        "lambda"
    }

    async fn call(&self, mut call: Call) -> Result<Reply, Error> {
        marker::open(&mut call)?;
        let operation = call.operation;
        let mut reply = self.operate(call).await?;
        marker::seal(operation, &mut reply.output);
        Ok(reply)
    }
}

impl LambdaService {
    async fn operate(&self, call: Call) -> Result<Reply, Error> {
        let functions = &*self.functions;
        if matches!(call.operation, "CreateFunction" | "UpdateFunctionConfiguration") {
            self.check_role(&call).await?;
        }
        match call.operation {
            "CreateFunction" => self.deployed(&call, ops::create::run(functions, &self.targets, &call).await),
            "GetFunction" => self.as_here(&call, ops::read::get(functions, &call).await, false),
            "GetFunctionConfiguration" => self.as_here(&call, ops::read::configuration(functions, &call).await, false),
            "ListFunctions" => ops::read::list(functions, &call).await,
            "PublishVersion" => self.as_here(&call, ops::versions::publish(functions, &call).await, true),
            "ListVersionsByFunction" => ops::versions::list(functions, &call).await,
            "CreateAlias" => ops::aliases::create(functions, &call).await,
            "GetAlias" => ops::aliases::get(functions, &call).await,
            "UpdateAlias" => ops::aliases::update(functions, &call).await,
            "DeleteAlias" => ops::aliases::delete(functions, &call).await,
            "ListAliases" => ops::aliases::list(functions, &call).await,
            "GetAccountSettings" => ops::read::account(functions, &call).await,
            "UpdateFunctionCode" => self.deployed(&call, ops::update::code(functions, &call).await),
            "UpdateFunctionConfiguration" => {
                self.deployed(&call, ops::update::configuration(functions, &self.targets, &call).await)
            }
            "DeleteFunction" => ops::delete::run(functions, &call).await,
            "Invoke" => ops::invoke::run(functions, &*self.invoker, call).await,
            "InvokeAsync" => ops::invoke::asynchronously(functions, &*self.invoker, call).await,
            "InvokeWithResponseStream" => ops::invoke_stream::run(functions, &*self.invoker, call).await,
            "CreateFunctionUrlConfig" => ops::urls::create(functions, &call).await,
            "GetFunctionUrlConfig" => ops::urls::get(functions, &call).await,
            "UpdateFunctionUrlConfig" => ops::urls::update(functions, &call).await,
            "DeleteFunctionUrlConfig" => ops::urls::delete(functions, &call).await,
            "ListFunctionUrlConfigs" => ops::urls::list(functions, &call).await,
            "AddPermission" => ops::permissions::add(functions, &call).await,
            "GetPolicy" => ops::permissions::get(functions, &call).await,
            "RemovePermission" => ops::permissions::remove(functions, &call).await,
            "PublishLayerVersion" => ops::layers::publish(functions, &call).await,
            "GetLayerVersion" => ops::layers::get(functions, &call).await,
            "GetLayerVersionByArn" => ops::layers::by_arn(functions, &call).await,
            "ListLayers" => ops::layers::list(functions, &call).await,
            "ListLayerVersions" => ops::layers::versions(functions, &call).await,
            "DeleteLayerVersion" => ops::layers::delete(functions, &call).await,
            "AddLayerVersionPermission" => ops::layer_permissions::add(functions, &call).await,
            "GetLayerVersionPolicy" => ops::layer_permissions::get(functions, &call).await,
            "RemoveLayerVersionPermission" => ops::layer_permissions::remove(functions, &call).await,
            "PutFunctionConcurrency" => ops::concurrency::put(functions, &call).await,
            "GetFunctionConcurrency" => ops::concurrency::get(functions, &call).await,
            "DeleteFunctionConcurrency" => ops::concurrency::delete(functions, &call).await,
            "PutProvisionedConcurrencyConfig" => ops::provisioned::put(functions, &call).await,
            "GetProvisionedConcurrencyConfig" => ops::provisioned::get(functions, &*self.invoker, &call).await,
            "DeleteProvisionedConcurrencyConfig" => ops::provisioned::delete(functions, &call).await,
            "ListProvisionedConcurrencyConfigs" => ops::provisioned::list(functions, &*self.invoker, &call).await,
            "PutFunctionEventInvokeConfig" => ops::event_config::put(functions, &self.targets, &call).await,
            "UpdateFunctionEventInvokeConfig" => ops::event_config::update(functions, &self.targets, &call).await,
            "GetFunctionEventInvokeConfig" => ops::event_config::get(functions, &call).await,
            "DeleteFunctionEventInvokeConfig" => ops::event_config::delete(functions, &call).await,
            "ListFunctionEventInvokeConfigs" => ops::event_config::list(functions, &call).await,
            "CreateEventSourceMapping" => ops::mappings::create(functions, self.ends(), &call).await,
            "GetEventSourceMapping" => ops::mappings::get(functions, &call).await,
            "UpdateEventSourceMapping" => ops::mappings::update(functions, self.ends(), &call).await,
            "DeleteEventSourceMapping" => ops::mappings::delete(functions, &call).await,
            "ListEventSourceMappings" => ops::mappings::list(functions, &call).await,
            "TagResource" | "UntagResource" | "ListTags" if let Some(mapping) = ops::mappings::tagged(&call) => {
                ops::mappings::tags(functions, &call, &mapping).await
            }
            "TagResource" => ops::tags::add(functions, &call).await,
            "UntagResource" => ops::tags::remove(functions, &call).await,
            "ListTags" => ops::tags::list(functions, &call).await,
            _ => self.governed(&call).await,
        }
    }
}

/// A record as the store keeps it.
fn encoded<T: Serialize>(record: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(record).map(Bytes::from).map_err(Error::internal)
}

/// A record as the store kept it.
fn decoded<T: DeserializeOwned>(value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(Error::internal)
}
