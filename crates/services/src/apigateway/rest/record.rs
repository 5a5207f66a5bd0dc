//! What the store keeps of REST APIs, under the member names of the public model, so that records are answers too.

use std::collections::BTreeMap;

use aws::Error;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apigateway::document::{Document, Frozen, PartMap, decoded, encoded, put_records, records};
use crate::apigateway::keys::part;

/// A map that is left out where it is empty.
type Texts = BTreeMap<String, String>;

/// A REST API itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::apigateway) struct Api {
    pub(in crate::apigateway) account: String,
    pub(in crate::apigateway) region: String,
    pub(in crate::apigateway) id: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) description: Option<String>,
    pub(super) created_date: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) version: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(in crate::apigateway) binary_media_types: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) minimum_compression_size: Option<u64>,
    pub(super) api_key_source: String,
    pub(super) endpoint_configuration: Value,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) tags: Texts,
    pub(super) disable_execute_api_endpoint: bool,
    pub(super) root_resource_id: String,
}

/// A resource with its methods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Resource {
    pub(super) id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) parent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) path_part: Option<String>,
    pub(super) path: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) resource_methods: BTreeMap<String, Method>,
}

/// A method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Method {
    pub(super) http_method: String,
    pub(super) authorization_type: String,
    pub(super) api_key_required: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) operation_name: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) request_parameters: BTreeMap<String, bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) request_models: Texts,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) method_responses: BTreeMap<String, MethodResponse>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) method_integration: Option<Integration>,
}

/// What a method declares of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MethodResponse {
    pub(super) status_code: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) response_parameters: BTreeMap<String, bool>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) response_models: Texts,
}

/// What serves a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Integration {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) http_method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) connection_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) request_parameters: Texts,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) request_templates: Texts,
    pub(super) passthrough_behavior: String,
    pub(super) timeout_in_millis: u64,
    pub(super) cache_namespace: String,
    pub(super) cache_key_parameters: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) integration_responses: BTreeMap<String, IntegrationResponse>,
}

/// What a fixed integration answers with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IntegrationResponse {
    pub(super) status_code: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) selection_pattern: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) response_parameters: Texts,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) response_templates: Texts,
}

/// A deployment, without what it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Deployment {
    pub(super) id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) description: Option<String>,
    pub(super) created_date: u64,
    pub(super) api_summary: Value,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::apigateway) struct Stage {
    pub(in crate::apigateway) deployment_id: String,
    pub(in crate::apigateway) stage_name: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) description: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(in crate::apigateway) variables: Texts,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(super) tags: Texts,
    pub(super) cache_cluster_enabled: bool,
    pub(super) cache_cluster_status: String,
    pub(super) method_settings: Value,
    pub(super) tracing_enabled: bool,
    pub(super) created_date: u64,
    pub(super) last_updated_date: u64,
}

/// A REST API as a whole.
#[derive(Debug, Clone)]
pub(in crate::apigateway) struct Rest {
    pub(super) api: Api,
    pub(super) resources: BTreeMap<String, Resource>,
    pub(super) deployments: BTreeMap<String, Deployment>,
    pub(super) stages: BTreeMap<String, Stage>,
    pub(super) frozen: Frozen,
}

impl Document for Rest {
    const KIND: u8 = part::REST_API;

    fn from_parts(parts: &PartMap) -> Result<Option<Self>, Error> {
        let Some(api) = parts.get(&(Self::KIND, String::new())) else { return Ok(None) };
        Ok(Some(Self {
            api: decoded(api)?,
            resources: records(parts, part::RESOURCE)?,
            deployments: records(parts, part::DEPLOYMENT)?,
            stages: records(parts, part::STAGE)?,
            frozen: Frozen::default(),
        }))
    }

    fn to_parts(&self) -> Result<PartMap, Error> {
        let mut parts = PartMap::new();
        parts.insert((Self::KIND, String::new()), encoded(&self.api)?);
        put_records(&mut parts, part::RESOURCE, &self.resources)?;
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
