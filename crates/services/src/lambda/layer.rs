//! Which layers and versions of layers a caller means, and what a function may list of them. Pure.
//!
//! A layer is named by its name or its ARN; a version of one by its ARN with the number, or by name and number.

use aws::{Call, Error};
use model::policy::{self, Actor, Circumstances, Verdict};
use model::{AccountId, Region};
use serde_json::{Value, json};

use super::error;

/// Most layers of a function. Source: Lambda quotas.
const LAYERS_MAX: usize = 5;
/// Most characters of a name. Source: the service model.
const NAME_MAX: usize = 140;
const NAME_RULE: &str = "Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:\\d{12}:layer:[a-zA-Z0-9-_]{1,140}|[a-zA-Z0-9-_]{1,140})";
const VERSION_RULE: &str = "Member must satisfy constraint: [Member must have length less than or equal to 2048, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:\\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+]";

/// A layer: all of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerRef {
    pub(super) account: AccountId,
    pub(super) region: Region,
    pub(super) name: String,
}

/// One version of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerVersionRef {
    pub(super) layer: LayerRef,
    pub(super) number: u64,
}

impl LayerRef {
    /// `LayerArn`
    pub(super) fn arn(&self) -> String {
        format!("arn:aws:lambda:{}:{}:layer:{}", self.region, self.account, self.name)
    }

    /// The version with this number.
    pub(super) fn version(self, number: u64) -> LayerVersionRef {
        LayerVersionRef { layer: self, number }
    }

    /// A layer's ARN, and the number that follows it if one does.
    fn parse_arn(arn: &str) -> Option<(Self, Option<u64>)> {
        let parts: Vec<&str> = arn.split(':').collect();
        let (&["arn", partition, "lambda", region, account, "layer", name], rest) = parts.split_first_chunk::<7>()?
        else {
            return None;
        };
        let number = match rest {
            [] => None,
            [digits] if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        let (region, account) = (Region::parse(region)?, AccountId::parse(account)?);
        let valid = partition.starts_with("aws") && is_name(name);
        valid.then(|| (Self { account, region, name: name.to_owned() }, number))
    }
}

impl LayerVersionRef {
    /// `LayerVersionArn`
    pub(super) fn arn(&self) -> String {
        format!("{}:{}", self.layer.arn(), self.number)
    }

    fn parse_arn(arn: &str) -> Option<Self> {
        let (layer, number) = LayerRef::parse_arn(arn)?;
        number.map(|number| layer.version(number))
    }
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(fits)
}

/// The layer that a call names in `LayerName`.
pub(super) fn of_call(call: &Call) -> Result<LayerRef, Error> {
    let text = call.text("LayerName").unwrap_or_default();
    if is_name(text) {
        let (account, region) = (call.principal.account.clone(), call.region.clone());
        return Ok(LayerRef { account, region, name: text.to_owned() });
    }
    match LayerRef::parse_arn(text) {
        Some((layer, None)) => here(call, layer),
        _ => Err(error::constraint(text, "layerName", NAME_RULE)),
    }
}

/// The same, for what only the layer's own account may do.
pub(super) fn own(call: &Call) -> Result<LayerRef, Error> {
    let layer = of_call(call)?;
    if layer.account == call.principal.account { Ok(layer) } else { Err(denied(call, call.operation, &layer.arn())) }
}

fn here(call: &Call, layer: LayerRef) -> Result<LayerRef, Error> {
    if layer.region == call.region {
        return Ok(layer);
    }
    Err(error::not_found(format!(
        "Layers from '{}' are not reachable in this region ('{}')",
        layer.region, call.region
    )))
}

/// The version that a call names in `VersionNumber`, of this layer.
pub(super) fn numbered(call: &Call, layer: LayerRef) -> Result<LayerVersionRef, Error> {
    match call.number("VersionNumber").filter(|number| *number > 0) {
        Some(number) => Ok(layer.version(number)),
        None => Err(error::invalid("Layer Version Cannot be less than 1.")),
    }
}

/// The version that a call names in `Arn`.
pub(super) fn of_arn(call: &Call) -> Result<LayerVersionRef, Error> {
    let text = call.text("Arn").unwrap_or_default();
    let version = LayerVersionRef::parse_arn(text).ok_or_else(|| error::constraint(text, "arn", VERSION_RULE))?;
    Ok(here(call, version.layer)?.version(version.number))
}

/// What a call says about the layers of a function; nothing if it says nothing.
pub(super) fn wanted(call: &Call) -> Result<Option<Vec<LayerVersionRef>>, Error> {
    let Some(listed) = call.input.get("Layers").and_then(Value::as_array) else { return Ok(None) };
    if listed.len() > LAYERS_MAX {
        return Err(error::invalid(format!("Cannot reference more than {LAYERS_MAX} layers.")));
    }
    let mut wanted: Vec<LayerVersionRef> = Vec::new();
    for arn in listed.iter().map(|text| text.as_str().unwrap_or_default()) {
        if arn.contains(":lambda:::awslayer:") {
            return Err(Error::not_implemented(format_args!("layers that AWS provides ({arn})")));
        }
        let version = LayerVersionRef::parse_arn(arn);
        let version = version.ok_or_else(|| error::constraint(&format!("[{arn}]"), "layers", VERSION_RULE))?;
        if version.layer.region != call.region {
            return Err(error::invalid(format!(
                "Layers are not in the same region as the function. Layers are expected to be in region {}.",
                call.region
            )));
        }
        if let Some(other) = wanted.iter().find(|other| other.layer == version.layer) {
            return Err(error::invalid(format!(
                "Two different versions of the same layer are not allowed to be referenced in the same function. {} and {} are versions of the same layer.",
                other.arn(),
                version.arn()
            )));
        }
        wanted.push(version);
    }
    Ok(Some(wanted))
}

/// The statement that AddLayerVersionPermission asks for.
pub(super) fn statement(call: &Call, version: &LayerVersionRef) -> Value {
    let text = |member: &str| call.text(member).unwrap_or_default();
    let principal = match text("Principal") {
        "*" => json!("*"),
        account if AccountId::parse(account).is_some() => json!({"AWS": format!("arn:aws:iam::{account}:root")}),
        arn => json!({"AWS": arn}),
    };
    let mut statement = json!({
        "Sid": text("StatementId"),
        "Effect": "Allow",
        "Principal": principal,
        "Action": text("Action"),
        "Resource": version.arn(),
    });
    if let Some(organization) = call.text("OrganizationId") {
        statement["Condition"] = json!({"StringEquals": {"aws:PrincipalOrgID": organization}});
    }
    statement
}

/// Whether the policy of a layer version lets an account have it. No account here belongs to an organization, so a
/// statement for one lets nobody.
pub(super) fn allows(statements: &[Value], account: &AccountId, version: &LayerVersionRef) -> bool {
    let root = format!("arn:aws:iam::{account}:root");
    let request = policy::Request {
        actor: Actor::Principal(account.as_str(), &root),
        action: "lambda:GetLayerVersion",
        resource: &version.arn(),
        context: &[],
        circumstances: Circumstances::default(),
    };
    policy::evaluate(statements, &request) == Verdict::Allowed
}

/// The caller's account is not the layer's, and no policy lets it.
pub(super) fn denied(call: &Call, action: &str, arn: &str) -> Error {
    error::denied(format!(
        "User: {} is not authorized to perform: lambda:{action} on resource: {arn} because no resource-based policy allows the lambda:{action} action",
        call.principal.arn
    ))
}

/// A version that a call needs is not there.
pub(super) fn absent(version: &LayerVersionRef) -> String {
    format!("Layer version {} does not exist.", version.arn())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_are_read() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:layer:a_b-1";
        let (layer, number) = LayerRef::parse_arn(arn).unwrap();
        assert_eq!((layer.arn().as_str(), number), (arn, None));
        let version = LayerVersionRef::parse_arn(&format!("{arn}:12")).unwrap();
        assert_eq!((version.arn(), version.number), (format!("{arn}:12"), 12));
        for wrong in [
            "",
            "a",
            arn,
            "arn:aws:lambda:us-east-1:000000000000:layer::1",
            "arn:aws:lambda:us-east-1:000000000000:function:f:1",
            "arn:aws:lambda:us-east-1:0:layer:a:1",
            "arn:aws:lambda:us-east-1:000000000000:layer:a:x",
            "arn:aws:lambda:us-east-1:000000000000:layer:a:-1",
            "arn:aws:lambda:us-east-1:000000000000:layer:a:1:2",
            "arn:aws:lambda:us-east-1:000000000000:layer:a/b:1",
        ] {
            assert_eq!(LayerVersionRef::parse_arn(wrong), None, "{wrong}");
        }
        assert!(is_name(&"x".repeat(140)) && !is_name(&"x".repeat(141)));
    }

    #[test]
    fn a_policy_lets_whom_it_names() {
        let one = AccountId::parse("123456789012").unwrap();
        let version = LayerVersionRef::parse_arn("arn:aws:lambda:us-east-1:000000000000:layer:a:1").unwrap();
        let other =
            json!({"Effect": "Allow", "Action": "lambda:GetLayerVersion", "Principal": {"AWS": "arn:aws:iam::9:root"}});
        let lets = |statement: Value| {
            let mut whole = json!({"Effect": "Allow", "Action": "lambda:GetLayerVersion", "Resource": version.arn()});
            whole.as_object_mut().unwrap().extend(statement.as_object().unwrap().clone());
            allows(&[other.clone(), whole], &one, &version)
        };
        assert!(lets(json!({"Principal": "*"})));
        assert!(lets(json!({"Principal": {"AWS": "arn:aws:iam::123456789012:root"}})));
        assert!(!lets(json!({"Principal": {"AWS": "arn:aws:iam::123456789013:root"}})));
        let organization = json!({"StringEquals": {"aws:PrincipalOrgID": "o-aaaaaaaaaa"}});
        assert!(!lets(json!({"Principal": "*", "Condition": organization})));
        assert!(!allows(&[], &one, &version));
    }
}
