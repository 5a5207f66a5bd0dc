//! TagResource, UntagResource, ListTags: of functions and of code signing configurations. Those of event source mappings are in
//! `mappings`.

use std::collections::BTreeMap;

use aws::{Call, Error, Reply};
use model::{AccountId, EGRESS_TAG, Egress, FunctionRef, MINIMUM_TAG, Region};
use serde_json::{Value, json};

use crate::lambda::code_signing::{self, CodeSigningRef};
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

/// What can have tags.
enum Tagged {
    Function(FunctionRef),
    CodeSigning(CodeSigningRef),
}

impl Tagged {
    fn of_call(call: &Call) -> Result<Self, Error> {
        let arn = call.text("Resource").unwrap_or_default();
        let own = |account: &AccountId, region: &Region| *account == call.principal.account && *region == call.region;
        if let Some(config) = CodeSigningRef::parse_arn(arn) {
            let here = own(&config.account, &config.region);
            return if here { Ok(Self::CodeSigning(config)) } else { Err(code_signing::missing(arn)) };
        }
        let Some(function) = FunctionRef::parse_arn(arn) else {
            if arn.starts_with("arn:") {
                return Err(Error::not_implemented(format_args!(
                    "tags of {arn}: functions, event source mappings and code signing configurations have tags"
                )));
            }
            return Err(error::constraint(arn, "resource", "Member must be the ARN of a function"));
        };
        if function.qualifier.is_some() {
            return Err(error::invalid(
                "Tags on function aliases and versions are not supported. Please specify a function ARN.",
            ));
        }
        if own(&function.account, &function.region) {
            return Ok(Self::Function(function));
        }
        Err(error::function_not_found(arn))
    }

    async fn tags(&self, functions: &Functions) -> Result<BTreeMap<String, String>, Error> {
        match self {
            Self::Function(function) => Ok(functions.existing(function).await?.tags),
            Self::CodeSigning(config) => {
                let record = functions.code_signing(config).await?;
                Ok(record.ok_or_else(|| code_signing::missing(&config.arn()))?.tags)
            }
        }
    }

    async fn change(
        &self,
        functions: &Functions,
        mut decide: impl FnMut(&mut BTreeMap<String, String>) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        match self {
            Self::Function(function) => {
                functions
                    .change(function, |record, _| {
                        decide(&mut record.tags)?;
                        provisioned::check_tenants(record)
                    })
                    .await
            }
            Self::CodeSigning(config) => functions.change_code_signing(config, |record| decide(&mut record.tags)).await,
        }
    }
}

/// TagResource.
pub(in crate::lambda) async fn add(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Resource", "Tags"])?;
    let tagged = Tagged::of_call(call)?;
    let tags = checked(call.input.get("Tags"))?;
    if tags.is_empty() {
        return Err(error::invalid("An error occurred and the request cannot be processed: Tags must not be empty."));
    }
    tagged
        .change(functions, |own| {
            own.extend(tags.clone());
            limited(own.clone()).map(|_| ())
        })
        .await?;
    Ok(Reply::empty())
}

/// UntagResource.
pub(in crate::lambda) async fn remove(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Resource", "TagKeys"])?;
    let tagged = Tagged::of_call(call)?;
    let keys: Vec<&str> = call.input["TagKeys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    tagged
        .change(functions, |own| {
            own.retain(|key, _| !keys.contains(&key.as_str()));
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}

/// ListTags.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["Resource"])?;
    Ok(Reply::of(json!({"Tags": Tagged::of_call(call)?.tags(functions).await?})))
}
