//! Policies in their effect: who may call a URL, invoke from another account, or call for an API.

use model::ports::Sites;
use model::{Principal, Site, SiteKey};

use super::*;

const OTHER: &str = "111122223333";
const ROUTE: &str = "arn:aws:execute-api:us-east-1:000000000000:abc/live/GET/pets";

async fn url(platform: &Platform, name: &str, auth: &str) -> SiteKey {
    let made = platform.ok("CreateFunctionUrlConfig", json!({"FunctionName": name, "AuthType": auth})).await;
    let text = made["FunctionUrl"].as_str().unwrap().strip_prefix("http://").unwrap();
    SiteKey::FunctionUrl(text.split('.').next().unwrap().to_owned())
}

async fn lets(platform: &Platform, key: &SiteKey, caller: Option<&Principal>) -> bool {
    let Some(Site::FunctionUrl(url)) = platform.functions.site(key).await else { panic!("no site") };
    url.lets(caller, model::policy::Circumstances::default())
}

fn root(account: &str) -> Principal {
    Principal {
        account: AccountId::parse(account).unwrap(),
        arn: format!("arn:aws:iam::{account}:root"),
        user_id: account.into(),
        access_key: account.into(),
    }
}

fn permission(name: &str, sid: &str, action: &str, principal: &str) -> Value {
    json!({"FunctionName": name, "StatementId": sid, "Action": action, "Principal": principal})
}

async fn invoke_from(platform: &Platform, account: &str, name: &str) -> Result<Reply, Error> {
    *platform.invoker.answer.lock() = Some(Ok(Outcome {
        payload: Bytes::from_static(b"{}"),
        error: None,
        content_type: None,
        executed_version: "$LATEST".into(),
        log_tail: None,
    }));
    let arn = reference(name).arn();
    platform.service.call(Call { principal: root(account), ..call("Invoke", json!({"FunctionName": arn})) }).await
}

#[tokio::test]
async fn a_url_without_signatures_is_open_only_while_its_own_policy_says_so() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.publish("f", "two").await;
    platform.ok("CreateAlias", json!({"FunctionName": "f", "Name": "live", "FunctionVersion": "1"})).await;
    let (plain, alias) = (url(&platform, "f", "NONE").await, url(&platform, "f:live", "NONE").await);
    let mut public = permission("f", "public", "lambda:InvokeFunctionUrl", "*");
    public["FunctionUrlAuthType"] = json!("NONE");
    assert!(!lets(&platform, &plain, None).await);
    platform.ok("AddPermission", public.clone()).await;
    assert!(lets(&platform, &plain, None).await);
    assert!(!lets(&platform, &alias, None).await, "an alias has a policy of its own");
    platform.ok("AddPermission", with(public.clone(), "Qualifier", json!("live"))).await;
    assert!(lets(&platform, &alias, None).await);
    platform.ok("RemovePermission", json!({"FunctionName": "f", "StatementId": "public"})).await;
    assert!(!lets(&platform, &plain, None).await);
    // What opens signed calls opens no others, and a right to invoke is none to call the URL.
    platform.ok("AddPermission", with(public, "FunctionUrlAuthType", json!("AWS_IAM"))).await;
    platform.ok("AddPermission", permission("f", "invoke", "lambda:InvokeFunction", "*")).await;
    assert!(!lets(&platform, &plain, None).await);
}

#[tokio::test]
async fn a_url_with_signatures_takes_its_own_account_and_who_the_policy_names() {
    let platform = Platform::new();
    platform.create("f").await;
    let key = url(&platform, "f", "AWS_IAM").await;
    let (own, other) = (root(AccountId::DEFAULT), root(OTHER));
    assert!(lets(&platform, &key, Some(&own)).await && !lets(&platform, &key, Some(&other)).await);
    let mut named = permission("f", "other", "lambda:InvokeFunctionUrl", OTHER);
    named["FunctionUrlAuthType"] = json!("AWS_IAM");
    platform.ok("AddPermission", named).await;
    assert!(lets(&platform, &key, Some(&own)).await && lets(&platform, &key, Some(&other)).await);
    assert!(!lets(&platform, &key, Some(&root("444455556666"))).await);
}

#[tokio::test]
async fn a_permission_for_calls_through_a_url_is_none_for_others() {
    let platform = Platform::new();
    platform.create("f").await;
    let through = with(permission("f", "url", "lambda:InvokeFunction", OTHER), "InvokedViaFunctionUrl", json!(true));
    let added = platform.ok("AddPermission", through).await;
    let statement: Value = serde_json::from_str(added["Statement"].as_str().unwrap()).unwrap();
    assert_eq!(statement["Condition"], json!({"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}));
    assert_eq!(invoke_from(&platform, OTHER, "f").await.unwrap_err().status, 403, "not through a URL");
    // Through one it counts, for those of the URL's own action.
    let key = url(&platform, "f", "AWS_IAM").await;
    assert!(!lets(&platform, &key, Some(&root(OTHER))).await);
    let of_url = permission("f", "call", "lambda:InvokeFunctionUrl", OTHER);
    platform.ok("AddPermission", with(of_url, "InvokedViaFunctionUrl", json!(true))).await;
    assert!(lets(&platform, &key, Some(&root(OTHER))).await);
    // Said to be none, it is no condition.
    let plain = with(permission("f", "any", "lambda:InvokeFunction", OTHER), "InvokedViaFunctionUrl", json!(false));
    let added = platform.ok("AddPermission", plain).await;
    assert!(!added["Statement"].as_str().unwrap().contains("Condition"));
    assert!(invoke_from(&platform, OTHER, "f").await.is_ok());
}

#[tokio::test]
async fn another_account_invokes_what_a_policy_lets_it() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.publish("f", "two").await;
    let denied = invoke_from(&platform, OTHER, "f").await.unwrap_err();
    assert_eq!((denied.status, denied.code.as_str()), (403, "AccessDeniedException"));
    assert!(denied.message.ends_with("because no resource-based policy allows the lambda:InvokeFunction action"));
    platform.ok("AddPermission", permission("f", "other", "lambda:InvokeFunction", OTHER)).await;
    invoke_from(&platform, OTHER, "f").await.unwrap();
    invoke_from(&platform, OTHER, "f:$LATEST").await.unwrap();
    assert_eq!(
        invoke_from(&platform, OTHER, "f:1").await.unwrap_err().status,
        403,
        "a version has a policy of its own"
    );
    assert_eq!(invoke_from(&platform, "444455556666", "f").await.unwrap_err().status, 403);
    assert_eq!(invoke_from(&platform, OTHER, "none").await.unwrap_err().status, 403, "nobody learns what there is");
    // Only the invocation: the function is still another account's.
    let input = json!({"FunctionName": reference("f").arn()});
    let get = Call { principal: root(OTHER), ..call("GetFunction", input) };
    assert_eq!(platform.service.call(get).await.unwrap_err().status, 403);
    platform.ok("RemovePermission", json!({"FunctionName": "f", "StatementId": "other"})).await;
    assert_eq!(invoke_from(&platform, OTHER, "f").await.unwrap_err().status, 403);
}

#[tokio::test]
async fn an_api_calls_only_what_lets_its_routes() {
    let platform = Platform::new();
    platform.create("f").await;
    let (function, gateway) = (reference("f"), "apigateway.amazonaws.com");
    assert!(!platform.functions.lets(&function, gateway, ROUTE).await);
    let mut of_api = permission("f", "api", "lambda:InvokeFunction", gateway);
    of_api["SourceArn"] = json!("arn:aws:execute-api:us-east-1:000000000000:abc/*/GET/*");
    platform.ok("AddPermission", of_api).await;
    assert!(platform.functions.lets(&function, gateway, ROUTE).await);
    assert!(!platform.functions.lets(&function, gateway, &ROUTE.replace("GET", "PUT")).await);
    assert!(!platform.functions.lets(&function, gateway, &ROUTE.replace(":abc/", ":xyz/")).await);
    assert!(!platform.functions.lets(&function, "s3.amazonaws.com", ROUTE).await);
    let mut of_account = permission("f", "account", "lambda:InvokeFunction", "s3.amazonaws.com");
    of_account["SourceAccount"] = json!(OTHER);
    platform.ok("AddPermission", of_account).await;
    assert!(!platform.functions.lets(&function, "s3.amazonaws.com", ROUTE).await);
    assert!(platform.functions.lets(&function, "s3.amazonaws.com", &ROUTE.replace("000000000000", OTHER)).await);
}

#[tokio::test]
async fn a_policy_is_put_whole_and_its_denials_hold_for_everybody() {
    let platform = Platform::new();
    platform.create("f").await;
    platform.ok("AddPermission", permission("f", "other", "lambda:InvokeFunction", OTHER)).await;
    let arn = reference("f").arn();
    let of = |mut input: Value| {
        input["ResourceArn"] = json!(arn);
        input
    };
    let got = platform.ok("GetResourcePolicy", of(json!({}))).await;
    assert_eq!(got["Policy"], platform.ok("GetPolicy", json!({"FunctionName": "f"})).await["Policy"]);

    let statement = |effect: &str, principal: Value| json!({"Effect": effect, "Principal": principal, "Action": "lambda:*", "Resource": arn});
    let document = json!({"Version": "2012-10-17", "Statement": [
        statement("Allow", json!("*")), statement("Deny", json!({"AWS": "444455556666"})),
    ]});
    let stale = with(of(json!({"Policy": document.to_string()})), "RevisionId", json!("other"));
    assert_eq!(platform.fails("PutResourcePolicy", stale).await.1, "PreconditionFailedException");
    let put = with(of(json!({"Policy": document.to_string()})), "RevisionId", got["RevisionId"].clone());
    let put = platform.ok("PutResourcePolicy", put).await;
    let shown: Value = serde_json::from_str(put["Policy"].as_str().unwrap()).unwrap();
    assert_eq!(shown["Statement"], document["Statement"], "what was there is gone");
    invoke_from(&platform, OTHER, "f").await.unwrap();
    assert_eq!(invoke_from(&platform, "444455556666", "f").await.unwrap_err().status, 403);

    let closed = json!({"Statement": [statement("Deny", json!("*"))]});
    platform.ok("PutResourcePolicy", of(json!({"Policy": closed.to_string()}))).await;
    let denied = invoke_from(&platform, AccountId::DEFAULT, "f").await.unwrap_err();
    assert!(denied.message.ends_with("with an explicit deny in a resource-based policy"), "{}", denied.message);
    // Conditions of time and place hold for some calls and not for others.
    let mut near = statement("Allow", json!({"AWS": OTHER}));
    near["Condition"] = json!({
        "IpAddress": {"aws:SourceIp": "192.0.2.0/24"},
        "DateGreaterThan": {"aws:CurrentTime": "1970-01-01T00:00:00Z"},
    });
    let near = json!({"Statement": [near]});
    platform.ok("PutResourcePolicy", of(json!({"Policy": near.to_string()}))).await;
    for (address, status) in [([192, 0, 2, 1], 200), ([198, 51, 100, 1], 403)] {
        let named = json!({"FunctionName": reference("f").arn()});
        let call = Call { principal: root(OTHER), source_ip: Some(address.into()), ..call("Invoke", named) };
        let answered = platform.service.call(call).await;
        assert_eq!(answered.map_or_else(|error| error.status, |_| 200), status, "{address:?}");
    }
    platform.ok("DeleteResourcePolicy", of(json!({}))).await;
    invoke_from(&platform, AccountId::DEFAULT, "f").await.unwrap();
    assert_eq!(platform.fails("GetResourcePolicy", of(json!({}))).await.0, 404);
    for wrong in [
        "no json".to_owned(),
        "{}".to_owned(),
        json!({"Statement": []}).to_string(),
        json!({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "y", "NotAction": "x"}}).to_string(),
        json!({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*", "Condition": {"DateEquals": {}}}})
            .to_string(),
        json!({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*",
            "Condition": {"StringEquals": {"aws:PrincipalTag/a": "b"}}}})
        .to_string(),
    ] {
        let refused = platform.fails("PutResourcePolicy", of(json!({"Policy": wrong}))).await;
        assert_eq!((refused.0, refused.1.as_str()), (400, "InvalidParameterValueException"), "{wrong}");
    }
}
