//! Whether a role is one for functions, and of whose account. Pure.

use model::policy::{self, Actor, Circumstances, Verdict};
use model::{AccountId, FunctionRef, Role};

/// Whether the role's trust policy lets Lambda assume it for a function, which is where the wish comes from.
pub(super) fn is_for_function(role: &Role, function: &FunctionRef, now_ms: u64) -> bool {
    let source = function.arn();
    let request = policy::Request {
        actor: Actor::Service("lambda.amazonaws.com"),
        action: "sts:AssumeRole",
        resource: &role.arn,
        context: &[("aws:sourcearn", &source), ("aws:sourceaccount", function.account.as_str())],
        circumstances: Circumstances { now_ms, source_ip: None, secure: true },
    };
    policy::evaluate(&role.trust, &request) == Verdict::Allowed
}

/// Whether the ARN of a role is one of the account's own.
pub(super) fn is_within(account: &AccountId, arn: &str) -> bool {
    arn.split(':').nth(4) == Some(account.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_role_belongs_to_the_account_of_its_arn() {
        let within = |arn: &str| is_within(&AccountId::default(), arn);
        assert!(within("arn:aws:iam::000000000000:role/r") && within("arn:aws:iam::000000000000:role/path/r"));
        assert!(!within("arn:aws:iam::111122223333:role/r") && !within("arn:aws:iam:::role/r") && !within("r"));
    }

    #[test]
    fn a_role_for_functions_names_lambda_under_conditions_that_hold_for_the_function() {
        let of = |service: &str| Role {
            arn: "arn:aws:iam::000000000000:role/r".into(),
            trust: vec![json!({"Effect": "Allow", "Principal": {"Service": [service]}, "Action": "sts:AssumeRole"})],
            max_session_s: 3_600,
        };
        let function: FunctionRef = FunctionRef::parse_arn("arn:aws:lambda:us-east-1:000000000000:function:f").unwrap();
        let ask = |role: &Role| is_for_function(role, &function, 1_000);
        assert!(ask(&of("lambda.amazonaws.com")));
        assert!(!ask(&of("ec2.amazonaws.com")));
        for (condition, holds) in [
            (json!({"StringEquals": {"aws:SourceAccount": "000000000000"}}), true),
            (json!({"ArnLike": {"aws:SourceArn": "arn:aws:lambda:*:000000000000:function:f*"}}), true),
            (json!({"ArnLike": {"aws:SourceArn": "arn:aws:lambda:*:000000000000:function:g"}}), false),
            (json!({"DateLessThan": {"aws:CurrentTime": "1970-01-02"}}), true),
            (json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}), false),
        ] {
            let mut role = of("lambda.amazonaws.com");
            role.trust[0]["Condition"] = condition.clone();
            assert_eq!(ask(&role), holds, "{condition}");
        }
    }
}
