//! The API of roles and policies over a store in memory: limits, lists, and what is refused.

use aws::Service;
use base::ManualClock;
use serde_json::{Value, json};
use store::MemoryStore;

use crate::iam::{Iam, Roles};

const BASIC: &str = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole";

struct Bench(Iam);

impl Bench {
    fn new() -> Self {
        Self(Iam::new(Roles::new(MemoryStore::shared(), ManualClock::at_ms(1_000))))
    }

    async fn call(&self, operation: &'static str, input: Value) -> Result<Value, (u16, String, String)> {
        let answer = self.0.call(aws::testing::call(operation, input)).await;
        answer.map(|reply| reply.output).map_err(|error| (error.status, error.code, error.message))
    }

    async fn ok(&self, operation: &'static str, input: Value) -> Value {
        self.call(operation, input.clone()).await.unwrap_or_else(|error| panic!("{operation} {input}: {error:?}"))
    }

    async fn refused(&self, operation: &'static str, input: Value, (status, code, message): (u16, &str, &str)) {
        let error = self.call(operation, input.clone()).await.expect_err("the call must be refused");
        assert_eq!(error, (status, code.to_owned(), message.to_owned()), "{operation} {input}");
    }

    async fn role(&self, name: &str) -> Value {
        self.ok("CreateRole", role(name)).await
    }
}

fn trust() -> Value {
    json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ]})
}

fn role(name: &str) -> Value {
    json!({"RoleName": name, "AssumeRolePolicyDocument": trust().to_string()})
}

/// A policy of this many characters, with white space that does not count.
fn rights(size: usize) -> String {
    let text = |resource: &str| {
        json!({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": resource}})
            .to_string()
    };
    let shortest = text("arn:aws:s3:::").len();
    format!("\n {}  ", text(&format!("arn:aws:s3:::{}", "b".repeat(size - shortest))))
}

fn with(mut input: Value, member: &str, value: Value) -> Value {
    input[member] = value;
    input
}

fn names(list: &Value, member: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[member].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn ids_have_twenty_one_letters() {
    let bench = Bench::new();
    let role = bench.role("r").await;
    let policy = bench.ok("CreatePolicy", json!({"PolicyName": "p", "PolicyDocument": rights(200)})).await;
    for (id, prefix) in [(&role["Role"]["RoleId"], "AROA"), (&policy["Policy"]["PolicyId"], "ANPA")] {
        let id = id.as_str().unwrap();
        assert_eq!((id.len(), &id[..4]), (21, prefix));
    }
}

#[tokio::test]
async fn a_role_has_at_most_ten_policies() {
    let bench = Bench::new();
    bench.role("r").await;
    for number in 0..11 {
        let policy = json!({"PolicyName": format!("p{number}"), "PolicyDocument": rights(200)});
        let made = bench.ok("CreatePolicy", policy).await;
        let attach = json!({"RoleName": "r", "PolicyArn": made["Policy"]["Arn"]});
        if number < 10 {
            bench.ok("AttachRolePolicy", attach.clone()).await;
            bench.ok("AttachRolePolicy", attach).await;
        } else {
            let message = "Cannot exceed quota for PoliciesPerRole: 10";
            bench.refused("AttachRolePolicy", attach, (409, "LimitExceeded", message)).await;
        }
    }
}

#[tokio::test]
async fn documents_have_their_sizes_without_white_space() {
    let bench = Bench::new();
    bench.role("Role").await;
    let inline = |name: &str, size| json!({"RoleName": "role", "PolicyName": name, "PolicyDocument": rights(size)});
    bench.ok("PutRolePolicy", inline("a", 10_000)).await;
    bench.ok("PutRolePolicy", inline("a", 10_040)).await;
    bench.ok("PutRolePolicy", inline("b", 200)).await;
    let full = (409, "LimitExceeded", "Maximum policy size of 10240 bytes exceeded for role Role");
    bench.refused("PutRolePolicy", inline("b", 201), full).await;

    let policy = |name: &str, size| json!({"PolicyName": name, "PolicyDocument": rights(size)});
    let arn = bench.ok("CreatePolicy", policy("p", 6_144)).await["Policy"]["Arn"].clone();
    let full = (409, "LimitExceeded", "Cannot exceed quota for PolicySize: 6144");
    bench.refused("CreatePolicy", policy("q", 6_145), full).await;
    let version = |size| json!({"PolicyArn": arn, "PolicyDocument": rights(size)});
    bench.refused("CreatePolicyVersion", version(6_145), full).await;
    for _ in 1..5 {
        bench.ok("CreatePolicyVersion", version(200)).await;
    }
    assert_eq!(bench.call("CreatePolicyVersion", version(200)).await.unwrap_err().0, 409, "five versions");

    let long = |size: usize| {
        let shortest = with(trust(), "Id", json!("")).to_string().len();
        with(trust(), "Id", json!("i".repeat(size - shortest))).to_string()
    };
    let full = (409, "LimitExceeded", "Cannot exceed quota for ACLSizePerRole: 2048");
    let change = |size| json!({"RoleName": "role", "PolicyDocument": long(size)});
    bench.ok("UpdateAssumeRolePolicy", change(2_048)).await;
    bench.refused("UpdateAssumeRolePolicy", change(2_049), full).await;
    let other = with(role("other"), "AssumeRolePolicyDocument", json!(long(2_049)));
    bench.refused("CreateRole", other, full).await;
}

#[tokio::test]
async fn what_is_no_policy_is_refused_wherever_it_is_sent() {
    let bench = Bench::new();
    bench.role("r").await;
    let arn =
        bench.ok("CreatePolicy", json!({"PolicyName": "p", "PolicyDocument": rights(200)})).await["Policy"]["Arn"]
            .clone();
    let wrong = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "foo", "Resource": "*"}]});
    let said = "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.";
    for (operation, input) in [
        ("PutRolePolicy", json!({"RoleName": "r", "PolicyName": "x"})),
        ("CreatePolicy", json!({"PolicyName": "x"})),
        ("CreatePolicyVersion", json!({"PolicyArn": arn})),
    ] {
        let input = with(input, "PolicyDocument", json!(wrong.to_string()));
        bench.refused(operation, input, (400, "MalformedPolicyDocument", said)).await;
    }
    let mut untrusted = trust();
    untrusted["Statement"][0]["Condition"] = json!({"StringEquals": {"aws:PrincipalTag/a": "b"}});
    let said = "The policy cannot be taken: the condition key aws:PrincipalTag/a is not supported.";
    let refused = (400, "MalformedPolicyDocument", said);
    let input = with(role("x"), "AssumeRolePolicyDocument", json!(untrusted.to_string()));
    bench.refused("CreateRole", input, refused).await;
    let input = json!({"RoleName": "r", "PolicyDocument": untrusted.to_string()});
    bench.refused("UpdateAssumeRolePolicy", input, refused).await;
}

#[tokio::test]
async fn tags_have_keys_without_case_and_fifty_are_enough() {
    let bench = Bench::new();
    let tag = |key: &str| json!({"Key": key, "Value": "v"});
    let twice = "Duplicate tag keys found. Please note that Tag keys are case insensitive.";
    let create = with(role("r"), "Tags", json!([tag("Team"), tag("team")]));
    bench.refused("CreateRole", create, (400, "InvalidInput", twice)).await;
    let policy = json!({"PolicyName": "p", "PolicyDocument": rights(200), "Tags": [tag("a"), tag("A")]});
    bench.refused("CreatePolicy", policy, (400, "InvalidInput", twice)).await;
    bench.role("r").await;
    let tags = |keys: Vec<String>| {
        let tags: Value = keys.iter().map(|key| tag(key)).collect();
        json!({"RoleName": "r", "Tags": tags})
    };
    let own = "aws: prefixed tag key names are not allowed for external use.";
    bench.refused("TagRole", tags(vec!["aws:x".into()]), (400, "InvalidInput", own)).await;
    bench.ok("TagRole", tags((0..49).map(|number| format!("k{number}")).chain(["Team".to_owned()]).collect())).await;
    bench.ok("TagRole", tags(vec!["TEAM".into()])).await;
    assert_eq!(bench.call("TagRole", tags(vec!["more".into()])).await.unwrap_err().0, 409);
    let listed = bench.ok("ListRoleTags", json!({"RoleName": "r"})).await;
    let keys = names(&listed["Tags"], "Key");
    assert!(keys.len() == 50 && keys.contains(&"TEAM".to_owned()) && !keys.contains(&"Team".to_owned()));
    bench.ok("UntagRole", json!({"RoleName": "r", "TagKeys": ["team"]})).await;
    assert_eq!(bench.ok("ListRoleTags", json!({"RoleName": "r"})).await["Tags"].as_array().unwrap().len(), 49);
}

#[tokio::test]
async fn paths_of_aws_are_nobodys_own() {
    let bench = Bench::new();
    for path in ["/aws-service-role/", "/aws-service-role/lambda.amazonaws.com/", "/aws-reserved/sso/"] {
        let error = bench.call("CreateRole", with(role("r"), "Path", json!(path))).await.unwrap_err();
        assert_eq!((error.0, error.1.as_str()), (400, "InvalidInput"), "{path}");
    }
    let listed = bench.ok("ListRoles", json!({"PathPrefix": "/aws-service-role/"})).await;
    assert_eq!(listed["Roles"], json!([]));
}

#[tokio::test]
async fn a_policy_of_aws_is_taken_by_its_name_if_it_is_one() {
    let bench = Bench::new();
    bench.role("r").await;
    let attach = |arn: &str| json!({"RoleName": "r", "PolicyArn": arn});
    bench.ok("AttachRolePolicy", attach(BASIC)).await;
    for wrong in [
        "arn:aws:iam::aws:policy/AWSLambdaBasicExecutionRole",
        "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRol",
        "arn:aws:iam::000000000000:policy/none",
    ] {
        let message = format!("Policy {wrong} does not exist or is not attachable.");
        bench.refused("AttachRolePolicy", attach(wrong), (404, "NoSuchEntity", &message)).await;
    }
    let got = bench.ok("GetPolicy", json!({"PolicyArn": BASIC})).await;
    assert_eq!(
        (&got["Policy"]["PolicyName"], &got["Policy"]["AttachmentCount"]),
        (&json!("AWSLambdaBasicExecutionRole"), &json!(1))
    );
    let version = json!({"PolicyArn": BASIC, "VersionId": "v1"});
    assert_eq!(bench.call("GetPolicyVersion", version).await.unwrap_err().1, "NotImplementedException");
}

#[tokio::test]
async fn all_policies_are_listed_page_by_page() {
    let bench = Bench::new();
    bench.role("r").await;
    for name in ["b", "a", "c"] {
        bench.ok("CreatePolicy", json!({"PolicyName": name, "PolicyDocument": rights(200)})).await;
    }
    bench.ok("AttachRolePolicy", json!({"RoleName": "r", "PolicyArn": BASIC})).await;
    let list = async |more: Value| {
        let (mut found, mut marker) = (Vec::new(), Value::Null);
        loop {
            let mut input = more.clone();
            if !marker.is_null() {
                input["Marker"] = marker;
            }
            let page = bench.ok("ListPolicies", input).await;
            found.extend(names(&page["Policies"], "PolicyName"));
            assert_eq!(page["IsTruncated"] == true, !page["Marker"].is_null());
            marker = page["Marker"].clone();
            if marker.is_null() {
                return found;
            }
        }
    };
    assert_eq!(list(json!({"Scope": "Local", "MaxItems": 2})).await, ["a", "b", "c"]);
    let all = list(json!({})).await;
    assert_eq!(all[..3], ["a", "b", "c"]);
    assert_eq!(list(json!({"Scope": "All", "MaxItems": 2})).await, all);
    assert_eq!(list(json!({"Scope": "AWS", "MaxItems": 7})).await, all[3..]);
    assert_eq!(list(json!({"OnlyAttached": true, "MaxItems": 1})).await, ["AWSLambdaBasicExecutionRole"]);
    let of_service = list(json!({"PathPrefix": "/service-role/"})).await;
    assert!(of_service.contains(&"AWSLambdaRole".to_owned()) && !of_service.contains(&"a".to_owned()));
}

#[tokio::test]
async fn a_marker_that_no_list_answered_is_refused() {
    let bench = Bench::new();
    let policy = bench.ok("CreatePolicy", json!({"PolicyName": "p", "PolicyDocument": rights(200)})).await;
    for name in ["r1", "r2"] {
        bench.role(name).await;
    }
    let arn = &policy["Policy"]["Arn"];
    for (operation, input) in [
        ("ListRoles", json!({})),
        ("ListPolicies", json!({})),
        ("ListAttachedRolePolicies", json!({"RoleName": "r1"})),
        ("ListRolePolicies", json!({"RoleName": "r1"})),
        ("ListRoleTags", json!({"RoleName": "r1"})),
        ("ListInstanceProfilesForRole", json!({"RoleName": "r1"})),
        ("ListPolicyVersions", json!({"PolicyArn": arn})),
    ] {
        let input = with(input, "Marker", json!("r2"));
        bench.refused(operation, input, (400, "ValidationError", "Invalid Marker.")).await;
    }
    let first = bench.ok("ListRoles", json!({"MaxItems": 1})).await;
    let second = bench.ok("ListRoles", json!({"MaxItems": 1, "Marker": first["Marker"]})).await;
    assert_eq!((names(&second["Roles"], "RoleName"), &second["Marker"]), (vec!["r2".to_owned()], &Value::Null));
    // One of another list is none of this.
    let other = json!({"Marker": first["Marker"]});
    assert_eq!(bench.call("ListPolicies", other).await.unwrap_err().0, 400);
    // A page goes on where it was, though what it stood at is gone.
    for name in ["a", "b", "c"] {
        bench.ok("PutRolePolicy", json!({"RoleName": "r1", "PolicyName": name, "PolicyDocument": rights(200)})).await;
    }
    let page = bench.ok("ListRolePolicies", json!({"RoleName": "r1", "MaxItems": 1})).await;
    bench.ok("DeleteRolePolicy", json!({"RoleName": "r1", "PolicyName": "a"})).await;
    let rest = bench.ok("ListRolePolicies", json!({"RoleName": "r1", "Marker": page["Marker"]})).await;
    assert_eq!(rest["PolicyNames"], json!(["b", "c"]));
}
