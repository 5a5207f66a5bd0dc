//! HTTP APIs: routes and integrations, deployments by hand and by themselves, stages, refusals.

use model::http_api::{AuthKind, Integration, PayloadFormat};

use super::*;

async fn api(platform: &Platform) -> String {
    let api = platform.ok("v2.CreateApi", json!({"Name": "shop", "ProtocolType": "HTTP"})).await;
    text(&api["ApiId"]).to_owned()
}

async fn integration(platform: &Platform, id: &str) -> String {
    let input = json!({
        "ApiId": id, "IntegrationType": "AWS_PROXY", "IntegrationUri": uri(), "PayloadFormatVersion": "1.0",
        "TimeoutInMillis": 5_000,
    });
    text(&platform.ok("v2.CreateIntegration", input).await["IntegrationId"]).to_owned()
}

fn route(id: &str, key: &str, integration: &str) -> Value {
    json!({"ApiId": id, "RouteKey": key, "Target": format!("integrations/{integration}")})
}

async fn keys_of(platform: &Platform, id: &str, stage: &str) -> Vec<String> {
    let site = platform.http_site(id).await;
    let mut keys: Vec<_> = site.stages[stage].routes.iter().map(|route| route.route_key.clone()).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn a_quick_creation_serves_at_once() {
    let platform = Platform::new();
    let cors = json!({"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"], "MaxAge": 60});
    let input = json!({"Name": "q", "ProtocolType": "HTTP", "Target": FUNCTION, "CorsConfiguration": cors});
    let made = platform.ok("v2.CreateApi", input).await;
    let id = text(&made["ApiId"]).to_owned();
    assert_eq!(made["ApiEndpoint"], json!(format!("http://{id}.execute-api.us-east-1.localhost:4566")));
    assert_eq!(made["RouteSelectionExpression"], json!("$request.method $request.path"));
    assert_eq!(made["CorsConfiguration"], cors);
    let site = platform.http_site(&id).await;
    let route = &site.stages["$default"].routes[0];
    assert_eq!((route.route_key.as_str(), route.auth), ("$default", AuthKind::None));
    let Integration::Function { function, format, timeout_ms } = &route.integration else { panic!("no function") };
    assert_eq!((function.arn().as_str(), *format, *timeout_ms), (FUNCTION, PayloadFormat::V2, 30_000));
    assert_eq!(site.cors.as_ref().unwrap().max_age_s, Some(60));
    platform.ok("v2.DeleteCorsConfiguration", json!({"ApiId": id})).await;
    assert_eq!(platform.http_site(&id).await.cors, None);
    let stage = platform.ok("v2.GetStage", json!({"ApiId": id, "StageName": "$default"})).await;
    assert_eq!((&stage["AutoDeploy"], &stage["ApiGatewayManaged"]), (&json!(true), &json!(true)));
    platform.ok("v2.DeleteApi", json!({"ApiId": id})).await;
    assert_eq!(platform.keys().await, 0);
    let got = platform.fails("v2.GetApi", json!({"ApiId": id})).await;
    assert_eq!((got.0, got.1.as_str()), (404, "NotFoundException"));
    assert_eq!(got.2, format!("Invalid API identifier specified {id}"));
}

#[tokio::test]
async fn a_stage_that_deploys_by_itself_follows_every_change() {
    let platform = Platform::new();
    let id = api(&platform).await;
    let integration = integration(&platform, &id).await;
    let stage = json!({"ApiId": id, "StageName": "$default", "AutoDeploy": true, "StageVariables": {"v": "1"}});
    assert!(platform.ok("v2.CreateStage", stage).await["DeploymentId"].is_string());
    assert!(keys_of(&platform, &id, "$default").await.is_empty());
    let made = platform.ok("v2.CreateRoute", route(&id, "GET /pets/{id}", &integration)).await;
    platform.ok("v2.CreateRoute", route(&id, "$default", &integration)).await;
    assert_eq!(keys_of(&platform, &id, "$default").await, ["$default", "GET /pets/{id}"]);
    let site = platform.http_site(&id).await;
    assert_eq!(site.stages["$default"].variables["v"], "1");
    let Integration::Function { format, timeout_ms, .. } = &site.stages["$default"].routes[0].integration else {
        panic!("no function")
    };
    assert_eq!((*format, *timeout_ms), (PayloadFormat::V1, 5_000));

    let update =
        json!({"ApiId": id, "RouteId": made["RouteId"], "RouteKey": "POST /pets", "AuthorizationType": "AWS_IAM"});
    platform.ok("v2.UpdateRoute", update).await;
    assert_eq!(keys_of(&platform, &id, "$default").await, ["$default", "POST /pets"]);
    let update = json!({"ApiId": id, "IntegrationId": integration, "PayloadFormatVersion": "2.0"});
    platform.ok("v2.UpdateIntegration", update).await;
    let site = platform.http_site(&id).await;
    assert!(
        site.stages["$default"]
            .routes
            .iter()
            .all(|route| matches!(route.integration, Integration::Function { format: PayloadFormat::V2, .. }))
    );
    platform.ok("v2.DeleteRoute", json!({"ApiId": id, "RouteId": made["RouteId"]})).await;
    assert_eq!(keys_of(&platform, &id, "$default").await, ["$default"]);
    let deployments = platform.ok("v2.GetDeployments", json!({"ApiId": id})).await;
    assert_eq!(deployments["Items"].as_array().unwrap().len(), 1, "deployments that serve nothing are dropped");
    assert_eq!(deployments["Items"][0]["AutoDeployed"], json!(true));
}

#[tokio::test]
async fn a_stage_deployed_by_hand_stays_until_it_is_deployed_again() {
    let platform = Platform::new();
    let id = api(&platform).await;
    let integration = integration(&platform, &id).await;
    platform.ok("v2.CreateStage", json!({"ApiId": id, "StageName": "prod"})).await;
    platform.ok("v2.CreateRoute", route(&id, "ANY /{proxy+}", &integration)).await;
    assert!(keys_of(&platform, &id, "prod").await.is_empty());
    let first = platform.ok("v2.CreateDeployment", json!({"ApiId": id, "StageName": "prod"})).await;
    assert_eq!(first["DeploymentStatus"], json!("DEPLOYED"));
    assert_eq!(keys_of(&platform, &id, "prod").await, ["ANY /{proxy+}"]);
    platform.ok("v2.CreateRoute", route(&id, "GET /x", &integration)).await;
    assert_eq!(keys_of(&platform, &id, "prod").await, ["ANY /{proxy+}"]);
    let got = platform.fails("v2.DeleteDeployment", json!({"ApiId": id, "DeploymentId": first["DeploymentId"]})).await;
    assert_eq!(got.0, 400);
    platform.ok("v2.UpdateStage", json!({"ApiId": id, "StageName": "prod", "AutoDeploy": true})).await;
    assert_eq!(keys_of(&platform, &id, "prod").await.len(), 2);
    platform.ok("v2.DeleteDeployment", json!({"ApiId": id, "DeploymentId": first["DeploymentId"]})).await;
    let got = platform.fails("v2.CreateDeployment", json!({"ApiId": id, "StageName": "prod"})).await;
    assert_eq!(got.2, "A stage with AutoDeploy cannot be deployed by hand");
    platform.ok("v2.DeleteStage", json!({"ApiId": id, "StageName": "prod"})).await;
    assert!(platform.http_site(&id).await.stages.is_empty());
}

#[tokio::test]
async fn what_cannot_be_served_is_refused() {
    let platform = Platform::new();
    let id = api(&platform).await;
    let integration = integration(&platform, &id).await;
    platform.ok("v2.CreateRoute", route(&id, "GET /x", &integration)).await;
    let got = platform.fails("v2.CreateRoute", route(&id, "GET /x", &integration)).await;
    assert_eq!((got.0, got.2.as_str()), (409, "Route with key GET /x already exists for this API"));
    assert_eq!(platform.fails("v2.CreateRoute", route(&id, "GET /y/", &integration)).await.0, 400);
    assert_eq!(platform.fails("v2.CreateRoute", route(&id, "GET /y", "absent")).await.0, 400);
    let mut guarded = route(&id, "GET /z", &integration);
    guarded["AuthorizationType"] = json!("JWT");
    assert_eq!(platform.fails("v2.CreateRoute", guarded).await.0, 501);
    let got = platform.fails("v2.DeleteIntegration", json!({"ApiId": id, "IntegrationId": integration})).await;
    assert_eq!((got.0, got.1.as_str()), (409, "ConflictException"));
    for (member, value, status) in [
        ("IntegrationType", json!("HTTP_PROXY"), 501),
        ("IntegrationUri", json!("https://example.org"), 400),
        ("PayloadFormatVersion", json!("3.0"), 400),
        ("TimeoutInMillis", json!(30_001), 400),
        ("RequestParameters", json!({"overwrite:path": "/x"}), 501),
        ("CredentialsArn", json!("arn:aws:iam::000000000000:role/r"), 501),
        ("ConnectionType", json!("VPC_LINK"), 501),
    ] {
        let mut wrong = json!({"ApiId": id, "IntegrationType": "AWS_PROXY", "IntegrationUri": FUNCTION});
        wrong[member] = value;
        assert_eq!(platform.fails("v2.CreateIntegration", wrong).await.0, status, "{member}");
    }
    let throttled = json!({"ApiId": id, "StageName": "s", "DefaultRouteSettings": {"ThrottlingRateLimit": 5.0}});
    assert_eq!(platform.fails("v2.CreateStage", throttled).await.0, 501);
    assert_eq!(platform.fails("v2.CreateApi", json!({"Name": "w", "ProtocolType": "WEBSOCKET"})).await.0, 501);
    let cors = json!({"AllowOrigins": ["*"], "AllowCredentials": true});
    let open = json!({"Name": "w", "ProtocolType": "HTTP", "CorsConfiguration": cors});
    assert_eq!(platform.fails("v2.CreateApi", open).await.0, 400);
    assert_eq!(platform.fails("v2.CreateAuthorizer", json!({"ApiId": id})).await.0, 501);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let platform = Platform::new();
    let id = api(&platform).await;
    let integration = integration(&platform, &id).await;
    for number in 0..5 {
        platform.ok("v2.CreateRoute", route(&id, &format!("GET /{number}"), &integration)).await;
    }
    let (mut seen, mut input) = (0, json!({"ApiId": id, "MaxResults": "2"}));
    loop {
        let page = platform.ok("v2.GetRoutes", input.clone()).await;
        seen += page["Items"].as_array().unwrap().len();
        match page["NextToken"].as_str() {
            Some(token) => input["NextToken"] = json!(token),
            None => break,
        }
    }
    assert_eq!(seen, 5);
    api(&platform).await;
    let first = platform.ok("v2.GetApis", json!({"MaxResults": "1"})).await;
    let second = platform.ok("v2.GetApis", json!({"MaxResults": "1", "NextToken": first["NextToken"]})).await;
    assert_ne!(first["Items"][0]["ApiId"], second["Items"][0]["ApiId"]);
    assert_eq!(second["NextToken"], Value::Null);
}
