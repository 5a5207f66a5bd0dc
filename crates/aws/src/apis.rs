//! The services that the wire knows: which model, which protocol, and where a service's own words differ.
//!
//! Hand-written beside the generated tables: what the public models do not say. Static data and look-ups only.

use crate::generated;
use crate::model_table::{Model, Operation};

/// How a service writes requests and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// REST paths and JSON bodies.
    RestJson,
    /// `X-Amz-Target` and JSON of this version.
    Json(&'static str),
    /// Form fields in, XML out.
    Query,
}

/// Who checks lengths, ranges, patterns and enumerations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Constraints {
    /// The wire, with this error code.
    Checked(&'static str),
    /// The service: only types are checked here.
    Service,
}

/// One service model with its manners.
#[derive(Debug)]
pub(crate) struct Api {
    /// Name in signature scopes.
    pub(crate) signing_name: &'static str,
    /// First label of the service's host names.
    pub(crate) host: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) model: &'static Model,
    pub(crate) constraints: Constraints,
    /// Code for a body that is no JSON.
    pub(crate) bad_json: &'static str,
    /// Before the codes of the service's own errors in `__type`.
    pub(crate) error_namespace: &'static str,
    /// Status of refused signatures.
    pub(crate) refusal_status: u16,
}

const SERIALIZATION: &str = "SerializationException";

/// REST APIs; shares its signing name with `APIGATEWAY_V2`.
pub(crate) static APIGATEWAY: Api = Api {
    signing_name: "apigateway",
    host: "apigateway",
    protocol: Protocol::RestJson,
    model: &generated::apigateway::MODEL,
    constraints: Constraints::Checked("ValidationException"),
    bad_json: SERIALIZATION,
    error_namespace: "",
    refusal_status: 403,
};

/// HTTP APIs.
pub(crate) static APIGATEWAY_V2: Api = Api {
    signing_name: "apigateway",
    host: "apigateway",
    protocol: Protocol::RestJson,
    model: &generated::apigatewayv2::MODEL,
    constraints: Constraints::Checked("BadRequestException"),
    bad_json: "BadRequestException",
    error_namespace: "",
    refusal_status: 403,
};

static DYNAMODB: Api = Api {
    signing_name: "dynamodb",
    host: "dynamodb",
    protocol: Protocol::Json("1.0"),
    model: &generated::dynamodb::MODEL,
    constraints: Constraints::Service,
    bad_json: SERIALIZATION,
    error_namespace: "com.amazonaws.dynamodb.v20120810#",
    refusal_status: 400,
};

/// Shares its signing name, and the service behind it, with `DYNAMODB`.
static DYNAMODB_STREAMS: Api = Api {
    signing_name: "dynamodb",
    host: "streams.dynamodb",
    protocol: Protocol::Json("1.0"),
    model: &generated::dynamodbstreams::MODEL,
    constraints: Constraints::Service,
    bad_json: SERIALIZATION,
    error_namespace: "com.amazonaws.dynamodb.v20120810#",
    refusal_status: 400,
};

static IAM: Api = Api {
    signing_name: "iam",
    host: "iam",
    protocol: Protocol::Query,
    model: &generated::iam::MODEL,
    constraints: Constraints::Checked("ValidationError"),
    bad_json: SERIALIZATION,
    error_namespace: "",
    refusal_status: 403,
};

static LAMBDA: Api = Api {
    signing_name: "lambda",
    host: "lambda",
    protocol: Protocol::RestJson,
    model: &generated::lambda::MODEL,
    constraints: Constraints::Checked("ValidationException"),
    bad_json: "InvalidRequestContentException",
    error_namespace: "",
    refusal_status: 403,
};

static LOGS: Api = Api {
    signing_name: "logs",
    host: "logs",
    protocol: Protocol::Json("1.1"),
    model: &generated::logs::MODEL,
    constraints: Constraints::Checked("InvalidParameterException"),
    bad_json: SERIALIZATION,
    error_namespace: "",
    refusal_status: 400,
};

static STS: Api = Api {
    signing_name: "sts",
    host: "sts",
    protocol: Protocol::Query,
    model: &generated::sts::MODEL,
    constraints: Constraints::Checked("ValidationError"),
    bad_json: SERIALIZATION,
    error_namespace: "",
    refusal_status: 403,
};

/// Every model.
pub(crate) static ALL: &[&Api] =
    &[&APIGATEWAY, &APIGATEWAY_V2, &DYNAMODB, &DYNAMODB_STREAMS, &IAM, &LAMBDA, &LOGS, &STS];

/// The model that serves a path under a signing name.
pub(crate) fn of(signing_name: &str, path: &str) -> Option<&'static Api> {
    if signing_name == APIGATEWAY.signing_name && path.starts_with("/v2/") {
        return Some(&APIGATEWAY_V2);
    }
    ALL.iter().copied().find(|api| api.signing_name == signing_name)
}

/// The model that serves a request under a signing name: by its path, or by its `X-Amz-Target` where models share a name.
pub(crate) fn of_request(signing_name: &str, path: &str, target: Option<&str>) -> Option<&'static Api> {
    let prefix = target.and_then(|target| target.split_once('.')).map(|(prefix, _)| prefix);
    let meant = |api: &&Api| api.signing_name == signing_name && prefix == Some(api.model.target_prefix);
    ALL.iter().copied().find(meant).or_else(|| of(signing_name, path))
}

/// The signing name that an AWS host name means: `dynamodb.us-east-1.amazonaws.com`, `sts.amazonaws.com`.
pub(crate) fn of_host(host: &str) -> Option<&'static str> {
    let host = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let name = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    let meant = |api: &&&Api| name.strip_prefix(api.host).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    ALL.iter().find(meant).map(|api| api.signing_name)
}

/// Most bytes of a request's body, of services that have their own limit.
pub(crate) fn body_bytes_max(service: &str) -> Option<usize> {
    (service == DYNAMODB.signing_name).then_some(16 * 1024 * 1024)
}

/// What a service says of its health where it is looked at by its root, in words that its name stands in.
pub(crate) fn health(service: &str, host: &str) -> Option<String> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    (service == DYNAMODB.signing_name && of_host(host) == Some(service)).then(|| format!("healthy: {name} "))
}

/// The signing name that a value of `X-Amz-Target` means.
pub(crate) fn of_target(target: &str) -> Option<&'static str> {
    let prefix = target.split_once('.')?.0;
    ALL.iter().find(|api| api.model.target_prefix == prefix).map(|api| api.signing_name)
}

/// Every operation of every model that the wire knows, as (service, operation): `apigateway`, `apigatewayv2`,
/// `dynamodb`, `dynamodbstreams`, `iam`, `lambda`, `logs`, `sts`. For the compatibility matrix.
pub fn catalogue() -> impl Iterator<Item = (&'static str, &'static Operation)> {
    ALL.iter().flat_map(|api| {
        let is = |other: &'static Api| std::ptr::eq(*api, other);
        let service = match api.signing_name {
            _ if is(&APIGATEWAY_V2) => "apigatewayv2",
            _ if is(&DYNAMODB_STREAMS) => "dynamodbstreams",
            name => name,
        };
        api.model.operations.iter().map(move |operation| (service, operation))
    })
}
