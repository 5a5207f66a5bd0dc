//! The AWS front: tells AWS calls from other requests, and takes one from bytes to bytes.
//!
//! The road of a call: `identify` (which service) → `auth` (who) → `content` (the body, unpacked) → operation (path, target
//! or `Action`) → `decode` → `Service::call` → `encode`. Nothing here waits except for keys and for the service.
//!
//! Invariants
//!   1. Who calls is settled before anything of the body is looked at.
//!   2. An operation that does not exist is `UnknownOperationException`; one that exists and is not supported, or a
//!      service that is not there, is `NotImplementedException`. Neither is ever answered with success.

use std::collections::HashMap;
use std::sync::Arc;

use base::{Clock, Random};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{Method, Response};
use model::ports::Authorizer;
use model::{Body, CallerAddress};

use crate::apis::{self, Api, Protocol};
use crate::auth::{self, Authenticator, Caller, Mode};
use crate::content::{self, Unreadable};
use crate::decode::{self, Source};
use crate::encode::{self, Style};
use crate::model_table::{Io, Operation};
use crate::route::Routes;
use crate::service::{Call, Error, Service};
use crate::sigv4::{self, Claim, Refusal};

const MALFORMED: &str =
    "The body of the request is not what its header Content-Encoding says; gzip and deflate are known.";
const TOO_LARGE: &str = "The body of the request is larger than may be when it is unpacked.";

/// A request that is an AWS call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identified {
    /// Signing name of the service that it is for; one that is not there is answered all the same, loudly.
    pub service: String,
}

/// All services behind the AWS wire.
pub struct Dispatcher {
    services: HashMap<&'static str, Arc<dyn Service>>,
    authenticator: Authenticator,
    random: Arc<dyn Random>,
    /// Routes of the REST models, in the order of `apis::ALL`; empty for other protocols.
    routes: Vec<Option<Routes>>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("services", &self.services.keys()).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// A dispatcher over these services.
    pub fn new(
        services: Vec<Arc<dyn Service>>,
        authorizer: Arc<dyn Authorizer>,
        mode: Mode,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let routes =
            apis::ALL.iter().map(|api| (api.protocol == Protocol::RestJson).then(|| Routes::of(api.model))).collect();
        Self {
            services: services.into_iter().map(|service| (service.signing_name(), service)).collect(),
            authenticator: Authenticator::new(mode, authorizer, clock),
            random,
            routes,
        }
    }

    /// Checks signatures of requests that are no AWS calls, such as those of function URLs with `AWS_IAM`.
    pub fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    /// Whether a request is an AWS call, and for which service: by its signature, its target, its host, or its path.
    /// Requests to function URLs and API stages may be signed too: look at their hosts and paths first.
    pub fn identify(&self, parts: &Parts) -> Option<Identified> {
        self.identify_by(&sigv4::claim(parts), parts)
    }

    fn identify_by(&self, claim: &Result<Option<Claim>, Refusal>, parts: &Parts) -> Option<Identified> {
        if let Ok(Some(claim)) = claim {
            return Some(Identified { service: claim.scope.service.clone() });
        }
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let host = header(HOST.as_str()).or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
        let named = header("x-amz-target").and_then(apis::of_target).or_else(|| host.and_then(apis::of_host));
        if let Some(service) = named {
            return Some(Identified { service: service.into() });
        }
        let path = parts.uri.path();
        let by_path = apis::ALL.iter().zip(&self.routes).find(|(_, routes)| {
            let knows = |routes: &Routes| routes.knows(path) && routes.find(parts).is_some();
            routes.as_ref().is_some_and(knows)
        });
        by_path.map(|(api, _)| Identified { service: api.signing_name.into() })
    }

    /// Answers an AWS call. `endpoint` is `scheme://host[:port]` as the client addressed the platform.
    pub async fn handle(&self, parts: Parts, body: Bytes, endpoint: &str) -> Response<Body> {
        let request_id = self.random.uuid();
        let claim = sigv4::claim(&parts);
        let service = self.identify_by(&claim, &parts).map(|identified| identified.service).unwrap_or_default();
        let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
        let api = apis::of_request(&service, parts.uri.path(), target);
        let style = api.map_or_else(|| guessed_style(&service, &parts), |api| Style::from(api.protocol));
        // Both come before the question who calls, as they do on AWS.
        if apis::body_bytes_max(&service).is_some_and(|most| body.len() > most) {
            return encode::too_large(style, api, &request_id).map(Body::from);
        }
        if let Some(text) = health(&service, &parts) {
            return encode::health(style, api, text, &request_id).map(Body::from);
        }
        let request = Request { parts, body, endpoint, request_id: &request_id };
        match self.answer(&service, api, claim, request).await {
            Ok(response) => response,
            Err(error) => encode::error(style, api, error, &request_id).map(Body::from),
        }
    }

    async fn answer(
        &self,
        name: &str,
        api: Option<&'static Api>,
        claim: Result<Option<Claim>, Refusal>,
        request: Request<'_>,
    ) -> Result<Response<Body>, Error> {
        let caller = self.authenticator.caller_of(&request.parts, &request.body, name, claim).await;
        let caller = caller.map_err(|refusal| auth::refusal(api, &refusal))?;
        let Some(api) = api else {
            return Err(Error::not_implemented(format!("the service '{name}'")));
        };
        let request_id = request.request_id;
        let request = unpacked(api, request)?;
        let (operation, io, call) = self.decoded(api, request, caller)?;
        let Some(service) = self.services.get(api.signing_name) else {
            return Err(Error::not_implemented(format!("the service '{name}'")));
        };
        let reply = service.call(call).await?;
        Ok(encode::reply(api, operation, io, reply, request_id))
    }

    fn decoded(
        &self,
        api: &'static Api,
        request: Request<'_>,
        caller: Caller,
    ) -> Result<(&'static Operation, &'static Io, Call), Error> {
        let Request { parts, body, endpoint, request_id } = request;
        let (operation, input, payload) = match api.protocol {
            Protocol::RestJson => {
                let index = apis::ALL.iter().position(|known| std::ptr::eq(*known, api)).unwrap_or_default();
                let found = self.routes[index].as_ref().and_then(|routes| routes.find(&parts));
                let (operation, path) = found.ok_or_else(|| unknown_operation(404))?;
                let query = parts.uri.query().unwrap_or_default();
                let source = Source { path: &path, query, headers: &parts.headers, body: &body };
                let (input, payload) = decode::rest(api, supported(api, operation)?, &source)?;
                (operation, input, payload)
            }
            Protocol::Json(_) => {
                let operation = of_target(api, &parts)?;
                (operation, decode::json(api, supported(api, operation)?, &body)?, Bytes::new())
            }
            Protocol::Query => {
                let query = parts.uri.query().unwrap_or_default().as_bytes();
                let fields: Vec<(String, String)> = form_urlencoded::parse(query)
                    .into_owned()
                    .chain(form_urlencoded::parse(&body).into_owned())
                    .collect();
                let operation = of_action(api, &fields)?;
                (operation, decode::form(api, supported(api, operation)?, &fields)?, Bytes::new())
            }
        };
        let call = Call {
            operation: operation.name,
            input,
            payload,
            principal: caller.principal,
            region: caller.region,
            source_ip: parts.extensions.get::<CallerAddress>().map(|address| address.0),
            headers: parts.headers,
            endpoint: endpoint.to_owned(),
            request_id: request_id.to_owned(),
        };
        Ok((operation, supported(api, operation)?, call))
    }
}

struct Request<'a> {
    parts: Parts,
    body: Bytes,
    endpoint: &'a str,
    request_id: &'a str,
}

/// The request with its body as it was before its client compressed it. Not of REST models: there a body may be somebody's
/// payload, and whose it is not is no JSON then.
fn unpacked<'a>(api: &Api, request: Request<'a>) -> Result<Request<'a>, Error> {
    if api.protocol == Protocol::RestJson {
        return Ok(request);
    }
    let unreadable = |why| match why {
        Unreadable::TooLarge => Error::new(413, "RequestEntityTooLargeException", TOO_LARGE),
        // DynamoDB's code for it, although it is not the server's fault.
        Unreadable::Malformed => Error::new(500, "InternalServerError", MALFORMED),
    };
    let body = content::unpacked(&request.parts.headers, request.body).map_err(unreadable)?;
    Ok(Request { body, ..request })
}

/// What is said to whoever looks at a service's root.
fn health(service: &str, parts: &Parts) -> Option<String> {
    let looks = parts.method == Method::GET && parts.uri.path() == "/" && !parts.headers.contains_key("x-amz-target");
    let host = parts.headers.get(HOST).and_then(|value| value.to_str().ok()).filter(|_| looks)?;
    apis::health(service, host)
}

fn supported(api: &Api, operation: &'static Operation) -> Result<&'static Io, Error> {
    let what = || Error::not_implemented(format!("the operation '{}' of '{}'", operation.name, api.signing_name));
    operation.io.ok_or_else(what)
}

fn unknown_operation(status: u16) -> Error {
    Error::new(status, "UnknownOperationException", "The requested operation is not recognized by the service.")
}

fn of_target(api: &Api, parts: &Parts) -> Result<&'static Operation, Error> {
    let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some((prefix, name)) = target.split_once('.') else { return Err(unknown_operation(400)) };
    if prefix != api.model.target_prefix {
        return Err(match apis::of_target(target) {
            Some(_) => Error::not_implemented(format!("the target '{target}'")),
            None => unknown_operation(400),
        });
    }
    api.model.operation(name).ok_or_else(|| unknown_operation(400))
}

fn of_action(api: &Api, fields: &[(String, String)]) -> Result<&'static Operation, Error> {
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let Some(action) = field("Action") else {
        return Err(Error::new(400, "MissingAction", "The request must contain the parameter Action."));
    };
    let version = field("Version").unwrap_or_default();
    let wrong = || Error::new(400, "InvalidAction", format!("Could not find operation {action} for version {version}"));
    if version != api.model.version {
        return Err(wrong());
    }
    api.model.operation(action).ok_or_else(wrong)
}

/// How a client of an unknown service reads errors, as far as its request tells.
fn guessed_style(service: &str, parts: &Parts) -> Style {
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if service == "s3" {
        Style::S3
    } else if content_type.starts_with("application/x-amz-json-1.0") {
        Style::Json("1.0")
    } else if parts.headers.contains_key("x-amz-target") {
        Style::Json("1.1")
    } else if content_type.starts_with("application/x-www-form-urlencoded") {
        Style::Query
    } else {
        Style::RestJson
    }
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
