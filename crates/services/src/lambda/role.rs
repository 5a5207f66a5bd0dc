//! Whether a role is one for functions. Pure.

use model::Role;
use model::policy::{self, Actor, Verdict};

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
