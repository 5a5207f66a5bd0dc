//! Statements and what they say.

use super::*;
use proptest::prelude::*;
use serde_json::json;

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";
/// 2026-03-01T12:00:00Z
const NOW_MS: u64 = 1_772_366_400_000;
const ROOT: Actor<'static> = Actor::Principal("111122223333", "arn:aws:iam::111122223333:root");

fn ask(statement: Value, actor: Actor<'_>, context: &[(&str, &str)]) -> Verdict {
    evaluate(&[statement], &request(actor, context))
}

fn request<'a>(actor: Actor<'a>, context: &'a [(&'a str, &'a str)]) -> Request<'a> {
    let circumstances = Circumstances { now_ms: NOW_MS, source_ip: Some(IpAddr::from([192, 0, 2, 7])), secure: true };
    Request { actor, action: "lambda:InvokeFunction", resource: ARN, context, circumstances }
}

fn allow(principal: Value, condition: Value) -> Value {
    let mut statement =
        json!({"Effect": "Allow", "Principal": principal, "Action": "lambda:InvokeFunction", "Resource": ARN});
    if !condition.is_null() {
        statement["Condition"] = condition;
    }
    statement
}

#[test]
fn principals_are_accounts_roles_services_or_everybody() {
    let session = Actor::Principal("111122223333", "arn:aws:sts::111122223333:assumed-role/r/s");
    for (principal, actor, allowed) in [
        (json!("*"), Actor::Anonymous, true),
        (json!({"AWS": "*"}), Actor::Anonymous, true),
        (json!({"AWS": "arn:aws:iam::111122223333:root"}), ROOT, true),
        (json!({"AWS": "111122223333"}), session, true),
        (json!({"AWS": ["444455556666", "111122223333"]}), ROOT, true),
        (json!({"AWS": "arn:aws:iam::111122223333:role/path/r"}), session, true),
        (json!({"AWS": "arn:aws:iam::111122223333:role/other"}), session, false),
        (json!({"AWS": "arn:aws:iam::444455556666:role/r"}), session, false),
        (json!({"AWS": "arn:aws:iam::444455556666:root"}), ROOT, false),
        (json!({"Service": "apigateway.amazonaws.com"}), Actor::Service("apigateway.amazonaws.com"), true),
        (json!({"Service": "apigateway.amazonaws.com"}), Actor::Service("s3.amazonaws.com"), false),
        (json!({"Service": "apigateway.amazonaws.com"}), Actor::Anonymous, false),
        (json!({"Federated": "x"}), ROOT, false),
    ] {
        let expected = if allowed { Verdict::Allowed } else { Verdict::Silent };
        assert_eq!(ask(allow(principal.clone(), Value::Null), actor, &[]), expected, "{principal}");
    }
}

#[test]
fn conditions_must_all_hold() {
    let api = "arn:aws:execute-api:us-east-1:000000000000:abc/live/GET/pets";
    let context = [("aws:sourcearn", api), ("aws:sourceaccount", "000000000000")];
    for (condition, holds) in [
        (json!({"ArnLike": {"AWS:SourceArn": "arn:aws:execute-api:us-east-1:000000000000:abc/*/*/pets"}}), true),
        (json!({"ArnLike": {"AWS:SourceArn": "arn:aws:execute-api:us-east-1:000000000000:other/*"}}), false),
        (json!({"ArnLike": {"AWS:SourceArn": "arn:*:abc/*"}}), false),
        (json!({"StringEquals": {"AWS:SourceAccount": "000000000000"}}), true),
        (json!({"StringEquals": {"AWS:SourceAccount": ["1", "000000000000"]}}), true),
        (json!({"StringNotEquals": {"AWS:SourceAccount": "000000000000"}}), false),
        (json!({"StringEquals": {"aws:PrincipalOrgID": "o-1"}}), false),
        (json!({"StringEqualsIfExists": {"aws:PrincipalOrgID": "o-1"}}), true),
        (json!({"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}), true),
        (json!({"Null": {"aws:PrincipalOrgID": "true"}}), true),
        (json!({"Bool": {"lambda:InvokedViaFunctionUrl": true}}), false),
        (json!({"DateLessThan": {"aws:CurrentTime": "x"}}), false),
    ] {
        let verdict = ask(allow(json!("*"), condition.clone()), Actor::Anonymous, &context);
        assert_eq!(verdict == Verdict::Allowed, holds, "{condition}");
        let mut statement = allow(json!("*"), condition);
        statement["Effect"] = json!("Deny");
        let unknown = problem(&statement).is_some();
        assert_eq!(ask(statement, Actor::Anonymous, &context) == Verdict::Denied, holds || unknown);
    }
}

#[test]
fn a_denial_wins_and_what_is_not_known_grants_nothing() {
    let mut deny = allow(json!("*"), Value::Null);
    deny["Effect"] = json!("Deny");
    assert_eq!(evaluate(&[allow(json!("*"), Value::Null), deny], &request(ROOT, &[])), Verdict::Denied);
    let mut odd = allow(json!("*"), Value::Null);
    odd["NotAction"] = json!("x");
    assert!(problem(&odd).is_some());
    assert_eq!(ask(odd, ROOT, &[]), Verdict::Silent);
    for action in ["lambda:*", "LAMBDA:invokefunction", "*"] {
        let mut statement = allow(json!("*"), Value::Null);
        statement["Action"] = json!([action]);
        assert_eq!(ask(statement, ROOT, &[]), Verdict::Allowed, "{action}");
    }
    for resource in [json!("arn:aws:lambda:us-east-1:000000000000:function:g"), json!(format!("{ARN}:live"))] {
        let mut statement = allow(json!("*"), Value::Null);
        statement["Resource"] = resource;
        assert_eq!(ask(statement, ROOT, &[]), Verdict::Silent);
    }
}

#[test]
fn every_operator_is_evaluated() {
    let session = Actor::Principal("111122223333", "arn:aws:sts::111122223333:assumed-role/r/s");
    for (condition, holds) in [
        (json!({"DateGreaterThan": {"aws:CurrentTime": "2026-03-01T11:59:59Z"}}), true),
        (json!({"DateGreaterThan": {"aws:CurrentTime": "2026-03-01T12:00:00Z"}}), false),
        (json!({"DateGreaterThanEquals": {"aws:CurrentTime": "2026-03-01T13:00+01:00"}}), true),
        (json!({"DateLessThan": {"aws:CurrentTime": "2026-03-02"}}), true),
        (json!({"DateLessThanEquals": {"aws:CurrentTime": "2026-03"}}), false),
        (json!({"DateLessThan": {"aws:EpochTime": "2027"}}), true),
        (json!({"DateEquals": {"aws:EpochTime": 1_772_366_400}}), true),
        (json!({"DateNotEquals": {"aws:CurrentTime": "1772366400"}}), false),
        (json!({"NumericLessThan": {"aws:EpochTime": "1772366401"}}), true),
        (json!({"NumericGreaterThanEquals": {"aws:EpochTime": 1_772_366_401}}), false),
        (json!({"NumericNotEquals": {"aws:EpochTime": ["1", "2"]}}), true),
        (json!({"IpAddress": {"aws:SourceIp": ["10.0.0.0/8", "192.0.2.0/24"]}}), true),
        (json!({"IpAddress": {"aws:SourceIp": "192.0.2.8/29"}}), false),
        (json!({"IpAddress": {"aws:SourceIp": "::/0"}}), false),
        (json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}), true),
        (json!({"NotIpAddress": {"aws:SourceIp": "192.0.2.7"}}), false),
        (json!({"NotIpAddress": {"aws:VpcSourceIp": "10.0.0.0/8"}}), true),
        (json!({"IpAddressIfExists": {"aws:VpcSourceIp": "10.0.0.0/8"}}), true),
        (json!({"Bool": {"aws:SecureTransport": "TRUE"}}), true),
        (json!({"Bool": {"aws:PrincipalIsAWSService": true}}), false),
        (json!({"Bool": {"aws:MultiFactorAuthPresent": "false"}}), true),
        (json!({"Null": {"aws:SourceIp": "true"}}), false),
        (json!({"Null": {"aws:SourceIp": false}}), true),
        (json!({"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::111122223333:role/r"}}), true),
        (json!({"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/r*"}}), false),
        (json!({"StringEquals": {"aws:PrincipalAccount": "111122223333", "aws:PrincipalType": "AssumedRole"}}), true),
        (json!({"StringNotEqualsIgnoreCase": {"aws:PrincipalType": "assumedrole"}}), false),
        (json!({"ForAnyValue:StringLike": {"aws:PrincipalOrgPaths": "o-1/*"}}), false),
        (json!({"ForAllValues:StringLike": {"aws:PrincipalOrgPaths": "o-1/*"}}), true),
        (json!({"ForAllValues:StringEquals": {"aws:PrincipalAccount": ["1", "111122223333"]}}), true),
        (json!({"ForAnyValue:StringNotEquals": {"aws:PrincipalOrgPaths": "o-1"}}), false),
        (json!({"ForAnyValue:StringEqualsIfExists": {"aws:PrincipalOrgPaths": "o-1"}}), true),
    ] {
        for effect in ["Allow", "Deny"] {
            let mut statement = allow(json!("*"), condition.clone());
            statement["Effect"] = json!(effect);
            assert_eq!(problem(&statement), None);
            let expected = match (holds, effect) {
                (false, _) => Verdict::Silent,
                (true, "Allow") => Verdict::Allowed,
                _ => Verdict::Denied,
            };
            assert_eq!(ask(statement, session, &[]), expected, "{effect} {condition}");
        }
    }
}

#[test]
fn what_is_named_not_to_be_meant_is_left_out() {
    let session = Actor::Principal("111122223333", "arn:aws:sts::111122223333:assumed-role/r/s");
    let mut other = allow(json!("*"), Value::Null);
    other.as_object_mut().unwrap().remove("Action");
    for (named, verdict) in [("lambda:Get*", Verdict::Allowed), ("lambda:Invoke*", Verdict::Silent)] {
        other["NotAction"] = json!([named]);
        assert_eq!((problem(&other), ask(other.clone(), ROOT, &[])), (None, verdict));
    }
    let mut elsewhere = allow(json!("*"), Value::Null);
    elsewhere.as_object_mut().unwrap().remove("Resource");
    elsewhere["NotResource"] = json!(ARN);
    assert_eq!((problem(&elsewhere), ask(elsewhere, ROOT, &[])), (None, Verdict::Silent));

    let (root, role) = ("arn:aws:iam::111122223333:root", "arn:aws:iam::111122223333:role/r");
    let itself = "arn:aws:sts::111122223333:assumed-role/r/s";
    for (names, actor, left_out) in [
        (json!({"AWS": root}), ROOT, true),
        (json!({"AWS": "444455556666"}), ROOT, false),
        (json!({"AWS": [root, role]}), session, false),
        (json!({"AWS": [root, role, itself]}), session, true),
        (json!({"Service": "s3.amazonaws.com"}), Actor::Service("s3.amazonaws.com"), true),
        (json!({"Service": "s3.amazonaws.com"}), session, false),
    ] {
        let mut statement = json!({"Effect": "Deny", "NotPrincipal": names, "Action": "*"});
        assert_eq!(problem(&statement), None);
        let expected = if left_out { Verdict::Silent } else { Verdict::Denied };
        assert_eq!(ask(statement.clone(), actor, &[]), expected, "{names}");
        statement["Effect"] = json!("Allow");
        assert!(problem(&statement).is_some());
        assert_eq!(ask(statement, actor, &[]), Verdict::Silent);
    }
}

#[test]
fn what_cannot_be_evaluated_is_told() {
    let condition = |condition: Value| allow(json!("*"), condition);
    let with = |element: &str, value: Value| {
        let mut statement = allow(json!("*"), Value::Null);
        statement[element] = value;
        statement
    };
    for (statement, said) in [
        (condition(json!({"StringEquls": {"aws:SourceIp": "x"}})), "operator StringEquls"),
        (condition(json!({"NullIfExists": {"aws:SourceIp": "true"}})), "operator NullIfExists"),
        (condition(json!({"BinaryEquals": {"aws:SourceIp": "QQ=="}})), "operator BinaryEquals"),
        (condition(json!({"ForSome:StringEquals": {"aws:SourceIp": "x"}})), "operator ForSome:StringEquals"),
        (condition(json!({"StringEquals": {"aws:PrincipalTag/team": "x"}})), "key aws:PrincipalTag/team"),
        (condition(json!({"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": "x"}})), "key dynamodb:LeadingKeys"),
        (condition(json!({"StringEquals": {}})), "no key"),
        (condition(json!({"StringEquals": {"aws:SourceIp": []}})), "no value"),
        (condition(json!({"StringEquals": {"aws:SourceIp": {}}})), "no text"),
        (condition(json!({"StringEquals": {"sts:RoleSessionName": "${aws:username}"}})), "policy variable"),
        (condition(json!({"DateLessThan": {"aws:CurrentTime": "soon"}})), "soon is no value"),
        (condition(json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/33"}})), "10.0.0.0/33 is no value"),
        (condition(json!({"NumericEquals": {"aws:EpochTime": "NaN"}})), "NaN is no value"),
        (condition(json!({"Bool": {"aws:SecureTransport": "yes"}})), "yes is no value"),
        (condition(json!("x")), "is an object"),
        (with("Principal", json!({"Foo": "x"})), "kind Foo"),
        (with("Principal", json!("x")), "a principal is"),
        (with("Principal", Value::Null), "no Principal"),
        (with("Action", json!([])), "the Action"),
        (with("Resource", json!("arn:aws:s3:::${aws:username}")), "policy variable"),
        (with("NotResource", json!("x")), "Resource and NotResource"),
        (with("Foo", json!("x")), "element Foo"),
    ] {
        let problem = problem(&statement).unwrap_or_default();
        assert!(problem.contains(said), "{statement}: {problem}");
        // What slipped in all the same grants nothing.
        if statement["Condition"].as_object().is_some_and(|all| all.values().all(|keys| keys != &json!({}))) {
            assert_eq!(ask(statement, ROOT, &[]), Verdict::Silent, "{said}");
        }
    }
    let federated = json!({"Effect": "Allow", "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/x"},
        "Action": "sts:AssumeRoleWithWebIdentity", "Condition": {"StringEquals": {"x:aud": "sts.amazonaws.com"}}});
    assert_eq!(problem(&federated), None);
}

proptest! {
    #[test]
    fn stars_fit_what_they_leave_out(before in "[a-c]{0,5}", middle in "[a-c]{0,5}", after in "[a-c]{0,5}") {
        let text = format!("{before}{middle}{after}");
        let patterns = [format!("{before}*{after}"), format!("*{middle}*"), text.clone(), "?".repeat(text.len())];
        for pattern in &patterns {
            prop_assert!(like(pattern, &text), "{} {}", pattern, text);
        }
        for pattern in [format!("{text}d"), format!("{text}?")] {
            prop_assert!(!like(&pattern, &text), "{} {}", pattern, text);
        }
    }
}
