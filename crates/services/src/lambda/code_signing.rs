//! Code signing configurations: which signing profiles a function's packages must come from, and what becomes of others. Pure.
//!
//! There is no signing service here, so every package is unsigned: a configuration whose policy is `Enforce` refuses every
//! deployment, one whose policy is `Warn` lets it pass. Nothing is ever taken for signed.
//!
//! A configuration is in use while its functions have an entry of their own under it (`keys`, tag `g`), which is written in
//! the transaction that changes the function.

use aws::{Call, Error};
use model::{AccountId, Region};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{error, view};

/// What CreateCodeSigningConfig made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CodeSigningRecord {
    /// `Description`
    pub(super) description: Option<String>,
    /// `AllowedPublishers.SigningProfileVersionArns`
    pub(super) profiles: Vec<String>,
    /// `UntrustedArtifactOnDeployment` is `Enforce`.
    pub(super) enforces: bool,
    /// Tags.
    #[serde(default)]
    pub(super) tags: std::collections::BTreeMap<String, String>,
    /// Milliseconds since the epoch.
    pub(super) modified_ms: u64,
}

/// One configuration, by its ARN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CodeSigningRef {
    pub(super) account: AccountId,
    pub(super) region: Region,
    /// `csc-` and 17 letters or digits.
    pub(super) id: String,
}

impl CodeSigningRef {
    /// `CodeSigningConfigArn`
    pub(super) fn arn(&self) -> String {
        format!("arn:aws:lambda:{}:{}:code-signing-config:{}", self.region, self.account, self.id)
    }

    /// The configuration that an ARN names, or nothing if it is no such ARN.
    pub(super) fn parse_arn(arn: &str) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        let &["arn", partition, "lambda", region, account, "code-signing-config", id] = parts.as_slice() else {
            return None;
        };
        let of_id = id.strip_prefix("csc-").filter(|rest| !rest.is_empty() && !rest.contains('/'))?;
        let own = partition.starts_with("aws") && of_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let (account, region) = (AccountId::parse(account)?, Region::parse(region)?);
        own.then(|| Self { account, region, id: id.to_owned() })
    }

    /// The configuration that a call names in `CodeSigningConfigArn`, if it can be one of the caller's.
    pub(super) fn of_call(call: &Call) -> Option<Self> {
        let named = Self::parse_arn(call.text("CodeSigningConfigArn")?)?;
        (named.account == call.principal.account && named.region == call.region).then_some(named)
    }
}

/// A new configuration as the call describes it.
pub(super) fn created(call: &Call, now_ms: u64) -> CodeSigningRecord {
    let blank = CodeSigningRecord {
        description: None,
        profiles: Vec::new(),
        enforces: false,
        tags: std::collections::BTreeMap::new(),
        modified_ms: now_ms,
    };
    updated(&blank, call, now_ms)
}

/// A configuration with what the call says in place of what was there.
pub(super) fn updated(before: &CodeSigningRecord, call: &Call, now_ms: u64) -> CodeSigningRecord {
    let mut after = CodeSigningRecord { modified_ms: now_ms, ..before.clone() };
    if let Some(description) = call.text("Description") {
        after.description = Some(description.to_owned());
    }
    let profiles = call.input.pointer("/AllowedPublishers/SigningProfileVersionArns").and_then(Value::as_array);
    if let Some(profiles) = profiles {
        after.profiles = profiles.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    }
    let policy = call.input.pointer("/CodeSigningPolicies/UntrustedArtifactOnDeployment").and_then(Value::as_str);
    if let Some(policy) = policy {
        after.enforces = policy == "Enforce";
    }
    after
}

/// `CodeSigningConfig`.
pub(super) fn shown(config: &CodeSigningRef, record: &CodeSigningRecord) -> Value {
    json!({
        "CodeSigningConfigId": config.id,
        "CodeSigningConfigArn": config.arn(),
        "Description": record.description,
        "AllowedPublishers": {"SigningProfileVersionArns": record.profiles},
        "CodeSigningPolicies": {"UntrustedArtifactOnDeployment": if record.enforces { "Enforce" } else { "Warn" }},
        "LastModified": view::time(record.modified_ms),
    })
}

/// Refuses a deployment of code under this configuration, if its policy does.
pub(super) fn check_deployment(record: &CodeSigningRecord) -> Result<(), Error> {
    if !record.enforces {
        return Ok(());
    }
    Err(error::user(
        400,
        "CodeVerificationFailedException",
        "The code signature failed one or more of the validation checks for signature mismatch or expiry, and the code \
         signing policy is set to ENFORCE. Lambda blocks the deployment. (Dunlin has no signing service: no code here is \
         signed.)",
    ))
}

/// An operation on configurations names one that is not there.
pub(super) fn missing(arn: &str) -> Error {
    error::not_found(format!("The Lambda code signing configuration {arn} can not be found."))
}

/// A function is to have a configuration that is not there.
pub(super) fn missing_for_function(arn: &str) -> Error {
    error::user(
        404,
        "CodeSigningConfigNotFoundException",
        format!(
            "The code signing configuration cannot be found. Check that the provided configuration is not deleted: {arn}."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_arn_names_a_configuration() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-0123456789abcdefg";
        assert_eq!(CodeSigningRef::parse_arn(arn).unwrap().arn(), arn);
        for wrong in [
            "",
            "arn:aws:lambda:us-east-1:000000000000:code-signing-config:0123",
            "arn:aws:lambda:us-east-1:000000000000:function:csc-0123456789abcdefg",
            "arn:aws:lambda:us-east-1:0:code-signing-config:csc-0123456789abcdefg",
        ] {
            assert_eq!(CodeSigningRef::parse_arn(wrong), None, "{wrong}");
        }
    }
}
