//! REST APIs: the tree and its rules, frozen deployments, stages, refusals.

use model::http_api::{AuthKind, Integration, PayloadFormat};

use super::*;

/// An API with its root resource.
async fn api(platform: &Platform) -> (String, String) {
    let api = platform.ok("CreateRestApi", json!({"name": "shop"})).await;
    (text(&api["id"]).to_owned(), text(&api["rootResourceId"]).to_owned())
}

/// A method of a resource that a function serves.
async fn proxy(platform: &Platform, api: &str, resource: &str, verb: &str) {
    let at = json!({"restApiId": api, "resourceId": resource, "httpMethod": verb});
    let mut method = at.clone();
    method["authorizationType"] = json!("NONE");
    platform.ok("PutMethod", method).await;
    let mut integration = at;
    integration["type"] = json!("AWS_PROXY");
    integration["integrationHttpMethod"] = json!("POST");
    integration["uri"] = json!(uri());
    platform.ok("PutIntegration", integration).await;
}

#[tokio::test]
async fn an_api_is_created_changed_listed_and_removed_whole() {
    let platform = Platform::new();
    let made = platform
        .ok(
            "CreateRestApi",
            json!({
                "name": "shop", "description": "d", "binaryMediaTypes": ["image/png"], "tags": {"a": "b"},
                "endpointConfiguration": {"types": ["REGIONAL"]},
            }),
        )
        .await;
    let id = text(&made["id"]).to_owned();
    assert_eq!((id.len(), text(&made["rootResourceId"]).len()), (10, 10));
    assert_eq!((&made["createdDate"], &made["apiKeySource"]), (&json!(1_704_164_645), &json!("HEADER")));
    assert_eq!(made["endpointConfiguration"]["types"], json!(["REGIONAL"]));
    assert_eq!(made.get("account"), None);
    assert_eq!(platform.ok("GetRestApi", json!({"restApiId": id})).await, made);
    let patched = platform
        .ok(
            "UpdateRestApi",
            json!({"restApiId": id, "patchOperations": [
                {"op": "replace", "path": "/name", "value": "store"},
                {"op": "add", "path": "/binaryMediaTypes/*~1*"},
                {"op": "remove", "path": "/binaryMediaTypes/image~1png"},
            ]}),
        )
        .await;
    assert_eq!((&patched["name"], &patched["binaryMediaTypes"]), (&json!("store"), &json!(["*/*"])));
    let patch = json!({"restApiId": id, "patchOperations": [{"op": "replace", "path": "/policy", "value": "{}"}]});
    assert_eq!(platform.fails("UpdateRestApi", patch).await.0, 501);

    let resource = json!({"restApiId": id, "parentId": made["rootResourceId"], "pathPart": "x"});
    platform.ok("CreateResource", resource).await;
    proxy(&platform, &id, text(&made["rootResourceId"]), "GET").await;
    platform.ok("CreateDeployment", json!({"restApiId": id, "stageName": "dev"})).await;
    assert_eq!(platform.rest_site(&id).await.binary_media_types, ["*/*"]);
    platform.ok("DeleteRestApi", json!({"restApiId": id})).await;
    assert_eq!(platform.keys().await, 0, "nothing is left behind");
    assert!(platform.apis.site(&SiteKey::Api(id.clone())).await.is_none());
    for operation in ["GetRestApi", "DeleteRestApi", "GetResources", "GetStages", "CreateDeployment"] {
        let got = platform.fails(operation, json!({"restApiId": id})).await;
        assert_eq!((got.0, got.1.as_str()), (404, "NotFoundException"));
        assert_eq!(got.2, format!("Invalid API identifier specified 000000000000:{id}"));
    }
}

#[tokio::test]
async fn apis_are_listed_in_pages_and_by_owner() {
    let platform = Platform::new();
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(api(&platform).await.0);
    }
    platform.ok("v2.CreateApi", json!({"Name": "other", "ProtocolType": "HTTP"})).await;
    ids.sort();
    let (mut seen, mut input) = (Vec::new(), json!({"limit": 3}));
    loop {
        let page = platform.ok("GetRestApis", input.clone()).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| text(&item["id"]).to_owned()));
        match page["position"].as_str() {
            Some(position) => input["position"] = json!(position),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    let mut elsewhere = call("GetRestApi", json!({"restApiId": ids[0]}));
    elsewhere.region = Region::parse("eu-west-1").unwrap();
    assert_eq!(platform.service.call(elsewhere).await.unwrap_err().status, 404);
    assert_eq!(platform.fails("v2.GetApi", json!({"ApiId": ids[0]})).await.0, 404, "a REST API is no HTTP API");
}

#[tokio::test]
async fn the_tree_of_resources_keeps_its_rules() {
    let platform = Platform::new();
    let (id, root) = api(&platform).await;
    let create = |parent: &str, part: &str| json!({"restApiId": id, "parentId": parent, "pathPart": part});
    let pets = platform.ok("CreateResource", create(&root, "pets")).await;
    assert_eq!((&pets["path"], &pets["parentId"]), (&json!("/pets"), &json!(root)));
    let pet = platform.ok("CreateResource", create(text(&pets["id"]), "{id}")).await;
    assert_eq!(pet["path"], json!("/pets/{id}"));
    let greedy = platform.ok("CreateResource", create(text(&pet["id"]), "{proxy+}")).await;
    for (parent, part, status, code, message) in [
        (
            root.as_str(),
            "pets",
            409,
            "ConflictException",
            "Another resource with the same parent already has this name: pets",
        ),
        (text(&pets["id"]), "{other}", 400, "BadRequestException", "A sibling ("),
        (text(&greedy["id"]), "x", 400, "BadRequestException", "Cannot create a child of a resource with a greedy"),
        (root.as_str(), "a/b", 400, "BadRequestException", "Resource's path part only allow"),
        ("absent", "x", 404, "NotFoundException", "Invalid Resource identifier specified"),
    ] {
        let got = platform.fails("CreateResource", create(parent, part)).await;
        assert_eq!((got.0, got.1.as_str()), (status, code), "{part}");
        assert!(got.2.starts_with(message), "{got:?}");
    }
    let list = platform.ok("GetResources", json!({"restApiId": id, "limit": 500})).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 4);
    let first = platform.ok("GetResources", json!({"restApiId": id, "limit": 3})).await;
    let rest = platform.ok("GetResources", json!({"restApiId": id, "position": first["position"]})).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    platform.ok("DeleteResource", json!({"restApiId": id, "resourceId": pets["id"]})).await;
    let list = platform.ok("GetResources", json!({"restApiId": id})).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "what is below goes too");
    assert_eq!(platform.fails("DeleteResource", json!({"restApiId": id, "resourceId": root})).await.0, 400);
}

#[tokio::test]
async fn of_concurrent_resources_on_one_path_exactly_one_is_made() {
    let platform = Platform::new();
    let (id, root) = api(&platform).await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..16 {
        let (service, part) = (platform.service.clone(), format!("p{}", number % 4));
        let input = json!({"restApiId": id, "parentId": root, "pathPart": part});
        tasks.spawn(async move { service.call(call("CreateResource", input)).await.is_ok() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|made| *made).count(), 4);
}

#[tokio::test]
async fn a_stage_serves_what_its_deployment_froze() {
    let platform = Platform::new();
    let (id, root) = api(&platform).await;
    let got = platform.fails("CreateDeployment", json!({"restApiId": id, "stageName": "dev"})).await;
    assert_eq!(got.2, "The REST API doesn't contain any methods");
    proxy(&platform, &id, &root, "ANY").await;
    let input = json!({"restApiId": id, "stageName": "dev", "variables": {"v": "1"}, "stageDescription": "s"});
    let first = platform.ok("CreateDeployment", input).await;
    let site = platform.rest_site(&id).await;
    let stage = &site.stages["dev"];
    assert_eq!((stage.deployment_id.as_str(), stage.variables["v"].as_str()), (text(&first["id"]), "1"));
    let method = &stage.methods[0];
    assert_eq!((method.resource_path.as_str(), method.http_method.as_str(), method.auth), ("/", "ANY", AuthKind::None));
    assert_eq!(method.resource_id, root);
    let Integration::Function { function, format, timeout_ms } = &method.integration else { panic!("no function") };
    assert_eq!((function.arn().as_str(), *format, *timeout_ms), (FUNCTION, PayloadFormat::V1, 29_000));

    let pets = platform.ok("CreateResource", json!({"restApiId": id, "parentId": root, "pathPart": "pets"})).await;
    proxy(&platform, &id, text(&pets["id"]), "GET").await;
    assert_eq!(platform.rest_site(&id).await.stages["dev"].methods.len(), 1, "not deployed yet");
    let second = platform.ok("CreateDeployment", json!({"restApiId": id, "stageName": "dev"})).await;
    let site = platform.rest_site(&id).await;
    assert_eq!((site.stages["dev"].methods.len(), site.stages["dev"].variables.len()), (2, 1));

    let back = json!({"restApiId": id, "stageName": "dev", "patchOperations": [
        {"op": "replace", "path": "/deploymentId", "value": first["id"]},
        {"op": "replace", "path": "/variables/w", "value": "2"}, {"op": "remove", "path": "/variables/v"},
    ]});
    let stage = platform.ok("UpdateStage", back).await;
    assert_eq!((&stage["deploymentId"], &stage["variables"]), (&first["id"], &json!({"w": "2"})));
    assert_eq!(platform.rest_site(&id).await.stages["dev"].methods.len(), 1);
    let settings = json!({"restApiId": id, "stageName": "dev", "patchOperations": [
        {"op": "replace", "path": "/*/*/throttling/rateLimit", "value": "1"},
    ]});
    assert_eq!(platform.fails("UpdateStage", settings).await.0, 501);

    let got = platform.fails("DeleteDeployment", json!({"restApiId": id, "deploymentId": first["id"]})).await;
    assert_eq!(got.2, "Active stages pointing to this deployment must be moved or deleted");
    platform.ok("DeleteDeployment", json!({"restApiId": id, "deploymentId": second["id"]})).await;
    let list = platform.ok("GetDeployments", json!({"restApiId": id})).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    platform.ok("DeleteStage", json!({"restApiId": id, "stageName": "dev"})).await;
    assert!(platform.rest_site(&id).await.stages.is_empty());
    let got = platform.fails("GetStage", json!({"restApiId": id, "stageName": "dev"})).await;
    assert_eq!((got.0, got.2.as_str()), (404, "Invalid stage identifier specified"));
}

#[tokio::test]
async fn stages_are_made_by_themselves_too() {
    let platform = Platform::new();
    let (id, root) = api(&platform).await;
    proxy(&platform, &id, &root, "GET").await;
    let deployment = platform.ok("CreateDeployment", json!({"restApiId": id})).await;
    let input =
        json!({"restApiId": id, "stageName": "prod", "deploymentId": deployment["id"], "variables": {"a": "b"}});
    let stage = platform.ok("CreateStage", input.clone()).await;
    assert_eq!(platform.ok("GetStage", json!({"restApiId": id, "stageName": "prod"})).await, stage);
    assert_eq!(platform.ok("GetStages", json!({"restApiId": id})).await, json!({"item": [stage]}));
    assert_eq!(platform.fails("CreateStage", input.clone()).await.2, "Stage already exists");
    for (member, value, status) in [
        ("deploymentId", json!("absent"), 404),
        ("stageName", json!("a b"), 400),
        ("cacheClusterEnabled", json!(true), 501),
        ("canarySettings", json!({"percentTraffic": 1}), 501),
    ] {
        let mut wrong = input.clone();
        wrong["stageName"] = json!("other");
        wrong[member] = value;
        assert_eq!(platform.fails("CreateStage", wrong).await.0, status, "{member}");
    }
    assert_eq!(platform.rest_site(&id).await.stages["prod"].methods.len(), 1);
}

#[tokio::test]
async fn a_preflight_is_served_as_a_fixed_answer() {
    let platform = Platform::new();
    let (id, root) = api(&platform).await;
    let at = |more: Value| {
        let mut input = json!({"restApiId": id, "resourceId": root, "httpMethod": "OPTIONS"});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    };
    platform.ok("PutMethod", at(json!({"authorizationType": "NONE"}))).await;
    let template = json!({"type": "MOCK", "requestTemplates": {"application/json": "{statusCode:200}"}});
    platform.ok("PutIntegration", at(template)).await;
    let header = "method.response.header.Access-Control-Allow-Origin";
    platform.ok("PutMethodResponse", at(json!({"statusCode": "200", "responseParameters": {header: true}}))).await;
    let response = json!({"statusCode": "200", "responseParameters": {header: "'*'"}, "responseTemplates": {"application/json": ""}});
    platform.ok("PutIntegrationResponse", at(response)).await;
    let vtl = json!({"statusCode": "200", "responseTemplates": {"application/json": "#set($x = 1)"}});
    assert_eq!(platform.fails("PutIntegrationResponse", at(vtl)).await.0, 501);
    platform.ok("CreateDeployment", json!({"restApiId": id, "stageName": "dev"})).await;
    let site = platform.rest_site(&id).await;
    let Integration::Mock { status, headers, body } = &site.stages["dev"].methods[0].integration else {
        panic!("not a mock")
    };
    assert_eq!((*status, headers["Access-Control-Allow-Origin"].as_str(), body.as_str()), (200, "*", ""));
    let method = platform.ok("GetMethod", at(json!({}))).await;
    assert_eq!(method["methodResponses"]["200"]["responseParameters"], json!({header: true}));
    assert_eq!(
        method["methodIntegration"]["integrationResponses"]["200"]["responseParameters"],
        json!({header: "'*'"})
    );
    let resource = platform.ok("GetResource", json!({"restApiId": id, "resourceId": root})).await;
    assert_eq!(resource["resourceMethods"], json!({"OPTIONS": {}}));
    let embedded = json!({"restApiId": id, "resourceId": root, "embed": ["methods"]});
    assert_eq!(platform.ok("GetResource", embedded).await["resourceMethods"]["OPTIONS"], method);
}

#[tokio::test]
async fn methods_and_integrations_refuse_what_they_cannot_serve() {
    let platform = Platform::new();
    let (id, root) = api(&platform).await;
    let method = json!({"restApiId": id, "resourceId": root, "httpMethod": "GET", "authorizationType": "AWS_IAM"});
    for (member, value, status) in [
        ("authorizationType", json!("CUSTOM"), 501),
        ("apiKeyRequired", json!(true), 501),
        ("requestValidatorId", json!("v"), 501),
        ("httpMethod", json!("BREW"), 400),
        ("resourceId", json!("absent"), 404),
    ] {
        let mut wrong = method.clone();
        wrong[member] = value;
        assert_eq!(platform.fails("PutMethod", wrong).await.0, status, "{member}");
    }
    platform.ok("PutMethod", method.clone()).await;
    assert_eq!(platform.fails("PutMethod", method.clone()).await.2, "Method already exists for this resource");
    let got = platform.fails("CreateDeployment", json!({"restApiId": id})).await;
    assert_eq!(got.2, "No integration defined for method");
    let mut integration = method;
    integration.as_object_mut().unwrap().remove("authorizationType");
    let got = platform.fails("GetIntegration", integration.clone()).await;
    assert_eq!(got.2, "Invalid Integration identifier specified");
    integration["type"] = json!("AWS_PROXY");
    integration["integrationHttpMethod"] = json!("POST");
    integration["uri"] = json!(uri());
    for (member, value, status) in [
        ("type", json!("HTTP_PROXY"), 501),
        ("connectionType", json!("VPC_LINK"), 501),
        ("credentials", json!("arn:aws:iam::000000000000:role/r"), 501),
        ("uri", json!("https://example.org"), 400),
        ("integrationHttpMethod", Value::Null, 400),
        ("timeoutInMillis", json!(29_001), 400),
        ("httpMethod", json!("POST"), 404),
    ] {
        let mut wrong = integration.clone();
        wrong[member] = value;
        assert_eq!(platform.fails("PutIntegration", wrong).await.0, status, "{member}");
    }
    platform.ok("PutIntegration", integration.clone()).await;
    assert_eq!(platform.ok("GetIntegration", integration.clone()).await["timeoutInMillis"], json!(29_000));
    platform.ok("CreateDeployment", json!({"restApiId": id, "stageName": "dev"})).await;
    assert_eq!(platform.rest_site(&id).await.stages["dev"].methods[0].auth, AuthKind::AwsIam);
    platform.ok("DeleteIntegration", integration.clone()).await;
    platform.ok("DeleteMethod", integration.clone()).await;
    assert_eq!(platform.fails("GetMethod", integration).await.2, "Invalid Method identifier specified");
    for operation in ["CreateAuthorizer", "CreateApiKey", "ImportRestApi", "CreateUsagePlan"] {
        let got = platform.fails(operation, json!({"restApiId": id})).await;
        assert_eq!((got.0, got.1.as_str()), (501, "NotImplementedException"));
    }
    let private = json!({"name": "x", "endpointConfiguration": {"types": ["PRIVATE"]}});
    assert_eq!(platform.fails("CreateRestApi", private).await.0, 501);
    assert_eq!(platform.fails("CreateRestApi", json!({"name": "x", "policy": "{}"})).await.0, 501);
}
