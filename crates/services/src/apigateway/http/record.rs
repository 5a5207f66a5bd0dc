//! What the store keeps of HTTP APIs, under the member names of the public model, so that records are answers too.

use std::collections::BTreeMap;

use aws::Error;
use model::http_api;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apigateway::document::{Document, Frozen, PartMap, decoded, encoded, put_records, records};
use crate::apigateway::keys::part;

type Texts = BTreeMap<String, String>;

/// An HTTP API itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::apigateway) struct Api {
    #[serde(rename = "account")]
    pub(in crate::apigateway) account: String,
    #[serde(rename = "region")]
    pub(in crate::apigateway) region: String,
    pub(in crate::apigateway) api_id: String,
    pub(super) name: String,
    pub(super) protocol_type: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) version: Option<String>,
    pub(super) created_date: u64,
    pub(super) route_selection_expression: String,
    pub(super) api_key_selection_expression: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(in crate::apigateway) cors_configuration: Option<Cors>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) tags: Texts,
    pub(super) disable_execute_api_endpoint: bool,
    pub(super) ip_address_type: String,
}

/// Cross-origin settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(in crate::apigateway) struct Cors {
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_credentials: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_headers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_methods: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) allow_origins: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    expose_headers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<i64>,
}

impl Cors {
    /// As the front door applies them.
    pub(in crate::apigateway) fn into_model(self) -> http_api::Cors {
        http_api::Cors {
            allow_credentials: self.allow_credentials.unwrap_or(false),
            allow_headers: self.allow_headers,
            allow_methods: self.allow_methods,
            allow_origins: self.allow_origins,
            expose_headers: self.expose_headers,
            // -1 switches the header off.
            max_age_s: self.max_age.and_then(|age| u32::try_from(age).ok()),
        }
    }

    /// Whether credentials are allowed to every origin, which browsers refuse and AWS does too.
    pub(super) fn is_contradiction(&self) -> bool {
        self.allow_credentials == Some(true) && self.allow_origins.iter().any(|origin| origin == "*")
    }
}

/// What serves routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Integration {
    pub(super) integration_id: String,
    pub(super) integration_type: String,
    pub(super) integration_uri: String,
    pub(super) integration_method: String,
    pub(super) connection_type: String,
    pub(super) payload_format_version: String,
    pub(super) timeout_in_millis: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) api_gateway_managed: Option<bool>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Route {
    pub(super) route_id: String,
    pub(super) route_key: String,
    pub(super) authorization_type: String,
    pub(super) api_key_required: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) operation_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) api_gateway_managed: Option<bool>,
}

/// A deployment, without what it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Deployment {
    pub(super) deployment_id: String,
    pub(super) auto_deployed: bool,
    pub(super) created_date: u64,
    pub(super) deployment_status: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) description: Option<String>,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(in crate::apigateway) struct Stage {
    pub(in crate::apigateway) stage_name: String,
    pub(super) auto_deploy: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(in crate::apigateway) deployment_id: Option<String>,
    pub(in crate::apigateway) stage_variables: Texts,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) tags: Texts,
    pub(super) default_route_settings: Value,
    pub(super) route_settings: Value,
    pub(super) created_date: u64,
    pub(super) last_updated_date: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) last_deployment_status_message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) api_gateway_managed: Option<bool>,
}

/// An HTTP API as a whole.
#[derive(Debug, Clone)]
pub(in crate::apigateway) struct Http {
    pub(super) api: Api,
    pub(super) integrations: BTreeMap<String, Integration>,
    pub(super) routes: BTreeMap<String, Route>,
    pub(super) deployments: BTreeMap<String, Deployment>,
    pub(super) stages: BTreeMap<String, Stage>,
    pub(super) frozen: Frozen,
}

impl Document for Http {
    const KIND: u8 = part::HTTP_API;

    fn from_parts(parts: &PartMap) -> Result<Option<Self>, Error> {
        let Some(api) = parts.get(&(Self::KIND, String::new())) else { return Ok(None) };
        Ok(Some(Self {
            api: decoded(api)?,
            integrations: records(parts, part::INTEGRATION)?,
            routes: records(parts, part::ROUTE)?,
            deployments: records(parts, part::DEPLOYMENT)?,
            stages: records(parts, part::STAGE)?,
            frozen: Frozen::default(),
        }))
    }

    fn to_parts(&self) -> Result<PartMap, Error> {
        let mut parts = PartMap::new();
        parts.insert((Self::KIND, String::new()), encoded(&self.api)?);
        put_records(&mut parts, part::INTEGRATION, &self.integrations)?;
        put_records(&mut parts, part::ROUTE, &self.routes)?;
        put_records(&mut parts, part::DEPLOYMENT, &self.deployments)?;
        put_records(&mut parts, part::STAGE, &self.stages)?;
        Ok(parts)
    }

    fn owner(&self) -> (&str, &str) {
        (&self.api.account, &self.api.region)
    }

    fn frozen(&self) -> &Frozen {
        &self.frozen
    }

    fn deployment_ids(&self) -> Vec<String> {
        self.deployments.keys().cloned().collect()
    }
}
