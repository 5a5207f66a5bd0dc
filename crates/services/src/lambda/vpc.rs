//! `VpcConfig`: the network that a function is said to be in, and what follows for its own connections. Pure.
//!
//! No service here has networks, so every subnet and every security group is taken, and one account has one VPC in a region.
//! What a private network means to a function holds: it reaches the platform's services and nothing else, as in a subnet
//! without a NAT gateway, unless its tag `dunlin:egress` says more.

use aws::Error;
use model::{Egress, FunctionRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error;

/// What a function's `VpcConfig` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VpcRecord {
    /// `SubnetIds`
    pub(super) subnets: Vec<String>,
    /// `SecurityGroupIds`
    pub(super) security_groups: Vec<String>,
    /// `Ipv6AllowedForDualStack`
    pub(super) ipv6: bool,
}

impl VpcRecord {
    /// What a call asks for; what it does not name stays.
    pub(super) fn over(config: &Value, before: Option<&Self>) -> Result<Self, Error> {
        let before = before.cloned().unwrap_or_default();
        let list = |member: &str, before: Vec<String>| match config.get(member).and_then(Value::as_array) {
            Some(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            None => before,
        };
        let next = Self {
            subnets: list("SubnetIds", before.subnets),
            security_groups: list("SecurityGroupIds", before.security_groups),
            ipv6: config.get("Ipv6AllowedForDualStack").and_then(Value::as_bool).unwrap_or(before.ipv6),
        };
        if next.subnets.is_empty() != next.security_groups.is_empty() {
            return Err(error::invalid(
                "VpcConfig needs at least one of SubnetIds and one of SecurityGroupIds, or none of both.",
            ));
        }
        Ok(next)
    }

    /// Whether the function is in a network.
    fn is_attached(&self) -> bool {
        !self.subnets.is_empty()
    }

    /// `VpcConfigResponse`.
    pub(super) fn shown(&self, function: &FunctionRef) -> Value {
        json!({
            "SubnetIds": self.subnets,
            "SecurityGroupIds": self.security_groups,
            "VpcId": if self.is_attached() { vpc_id(function) } else { String::new() },
            "Ipv6AllowedForDualStack": self.ipv6,
        })
    }
}

/// Where a function's connections go that does not say so itself.
pub(super) fn egress(vpc: Option<&VpcRecord>) -> Egress {
    let is_private = vpc.is_some_and(VpcRecord::is_attached);
    Egress { public: !is_private, targets: Vec::new() }
}

/// The one VPC of an account in a region.
fn vpc_id(function: &FunctionRef) -> String {
    let digest = Sha256::digest(format!("{} {}", function.account, function.region));
    format!("vpc-{}", &hex::encode(digest)[..17])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_network_leads_nowhere() {
        let config = json!({"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]});
        let vpc = VpcRecord::over(&config, None).unwrap();
        assert_eq!(egress(Some(&vpc)).to_string(), "none");
        let outside = VpcRecord::over(&json!({"SubnetIds": [], "SecurityGroupIds": []}), Some(&vpc)).unwrap();
        assert_eq!((egress(Some(&outside)), egress(None)), (Egress::default(), Egress::default()));
        let more = VpcRecord::over(&json!({"Ipv6AllowedForDualStack": true}), Some(&vpc)).unwrap();
        assert_eq!((more.subnets, more.ipv6), (vpc.subnets.clone(), true));
        for half in [json!({"SubnetIds": ["subnet-1"]}), json!({"SecurityGroupIds": ["sg-1"]})] {
            assert!(VpcRecord::over(&half, None).is_err());
        }
        assert!(VpcRecord::over(&json!({"SubnetIds": []}), Some(&vpc)).is_err());
    }
}
