//! Whether a role is one for functions, and of whose account. Pure.

use model::policy::{self, Actor, Verdict};
use model::{AccountId, Role};

/// Whether the role's trust policy lets Lambda assume it.
pub(super) fn is_for_functions(role: &Role) -> bool {
    let request = policy::Request {
        actor: Actor::Service("lambda.amazonaws.com"),
        action: "sts:AssumeRole",
        resource: &role.arn,
        context: &[],
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
    fn a_role_for_functions_names_lambda() {
        let of = |service: &str| Role {
            arn: "arn:aws:iam::000000000000:role/r".into(),
            trust: vec![json!({"Effect": "Allow", "Principal": {"Service": [service]}, "Action": "sts:AssumeRole"})],
            max_session_s: 3_600,
        };
        assert!(is_for_functions(&of("lambda.amazonaws.com")));
        assert!(!is_for_functions(&of("ec2.amazonaws.com")));
    }
}
