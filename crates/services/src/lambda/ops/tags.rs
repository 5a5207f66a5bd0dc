//! TagResource, UntagResource, ListTags: of functions. Those of event source mappings are in `mappings`.

use std::collections::BTreeMap;

use aws::{Call, Error, Reply};
use model::{EGRESS_TAG, Egress, FunctionRef, MINIMUM_TAG};
use serde_json::{Value, json};

use crate::lambda::{Functions, error, provisioned};

/// Most tags of a function. Source: Lambda's documentation of tags.
const TAGS_MAX: usize = 50;

/// Tags that a call brings.
pub(super) fn checked(value: Option<&Value>) -> Result<BTreeMap<String, String>, Error> {
    let tags = super::create::text_map(value);
    if tags.keys().any(|key| key.to_ascii_lowercase().starts_with("aws:")) {
        return Err(error::invalid("Tag keys starting with aws: are reserved for system use."));
    }
    if let Some(Err(wrong)) = tags.get(EGRESS_TAG).map(|text| text.parse::<Egress>()) {
        return Err(error::invalid(format!("The tag {EGRESS_TAG} is public, none or a list of HOST:PORT: {wrong}")));
    }
    if let Some(text) = tags.get(MINIMUM_TAG).filter(|text| provisioned::minimum(text).is_none()) {
        return Err(error::invalid(format!(
            "The tag {MINIMUM_TAG} is a number of environments up to {}: {text}",
            provisioned::MINIMUM_MAX
        )));
    }
    limited(tags)
}

pub(super) fn limited(tags: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    if tags.len() > TAGS_MAX {
        return Err(error::invalid(format!("Number of tags exceeds resource tag limit. (limit {TAGS_MAX})")));
    }
    Ok(tags)
}

fn function_of(call: &Call) -> Result<FunctionRef, Error> {
    let arn = call.text("Resource").unwrap_or_default();
    let Some(function) = FunctionRef::parse_arn(arn) else {
        if arn.starts_with("arn:") {
            return Err(Error::not_implemented(format_args!(
                "tags of {arn}: only functions and event source mappings have tags"
            )));
        }
        return Err(error::constraint(arn, "resource", "Member must be the ARN of a function"));
    };
    if function.qualifier.is_some() {
        return Err(error::invalid(
            "Tags on function aliases and versions are not supported. Please specify a function ARN.",
        ));
    }
    if function.account != call.principal.account || function.region != call.region {
        return Err(error::function_not_found(arn));
    }
    Ok(function)
}

/// TagResource.
pub(in crate::lambda) async fn add(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Resource", "Tags"])?;
    let function = function_of(call)?;
    let tags = checked(call.input.get("Tags"))?;
    if tags.is_empty() {
        return Err(error::invalid("An error occurred and the request cannot be processed: Tags must not be empty."));
    }
    functions
        .change(&function, |record, _| {
            record.tags.extend(tags.clone());
            limited(record.tags.clone()).map(|_| ())
        })
        .await?;
    Ok(Reply::empty())
}

/// UntagResource.
pub(in crate::lambda) async fn remove(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Resource", "TagKeys"])?;
    let function = function_of(call)?;
    let keys: Vec<&str> = call.input["TagKeys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    functions
        .change(&function, |record, _| {
            record.tags.retain(|key, _| !keys.contains(&key.as_str()));
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}

/// ListTags.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Resource"])?;
    let record = functions.existing(&function_of(call)?).await?;
    Ok(Reply::of(json!({"Tags": record.tags})))
}
