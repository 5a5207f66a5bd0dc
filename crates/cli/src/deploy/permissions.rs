//! What the project's functions let others do: everybody call their URLs, and API Gateway call them for the project's routes.
//!
//! Each permission is one statement of a function's policy under an id of its own. Others are not the project's.

use anyhow::Result;
use http::Method;
use serde_json::{Value as Json, json};

use super::project::Project;
use crate::client::{Client, found};

/// The statement that lets everybody call a URL; the name is the one that the AWS console gives it.
pub const PUBLIC_URL: &str = "FunctionURLAllowPublicAccess";

/// `FUNCTION` or `FUNCTION:ALIAS` as the path of its policy.
fn path(target: &str) -> String {
    let (name, alias) = target.split_once(':').map_or((target, None), |(name, alias)| (name, Some(alias)));
    let qualifier = alias.map_or(String::new(), |alias| format!("?Qualifier={alias}"));
    format!("/2015-03-31/functions/{name}/policy{qualifier}")
}

/// Whether the policy of a function, or of an alias of it, has the statement of this id.
pub fn has(client: &Client, project: &Project, target: &str, id: &str) -> Result<bool> {
    let policy = found(client.rest("lambda", &project.region, Method::GET, &path(target), None))?;
    let document: Json = policy
        .and_then(|policy| serde_json::from_str(policy["Policy"].as_str().unwrap_or_default()).ok())
        .unwrap_or(Json::Null);
    Ok(document["Statement"].as_array().into_iter().flatten().any(|statement| statement["Sid"] == id))
}

/// Adds a statement that is missing.
fn permit(client: &Client, project: &Project, target: &str, id: &str, mut statement: Json) -> Result<()> {
    if !has(client, project, target, id)? {
        statement["StatementId"] = json!(id);
        client.rest("lambda", &project.region, Method::POST, &path(target), Some(&statement))?;
    }
    Ok(())
}

/// Lets everybody call the URL of a function.
pub fn permit_url(client: &Client, project: &Project, target: &str) -> Result<()> {
    let statement = json!({"Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE"});
    permit(client, project, target, PUBLIC_URL, statement)
}

/// The statement of an API.
fn of_api(api: &str) -> String {
    format!("dunlin-api-{api}")
}

/// Whether an API may call each of these functions.
pub fn may_call<'a>(
    client: &Client,
    project: &Project,
    api: &str,
    targets: impl Iterator<Item = &'a String>,
) -> Result<bool> {
    for target in targets {
        if !has(client, project, target, &of_api(api))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lets an API call these functions.
pub fn permit_api<'a>(
    client: &Client,
    project: &Project,
    account: &str,
    api: &str,
    targets: impl Iterator<Item = &'a String>,
) -> Result<()> {
    for target in targets {
        let source = format!("arn:aws:execute-api:{}:{account}:{api}/*", project.region);
        let statement =
            json!({"Action": "lambda:InvokeFunction", "Principal": "apigateway.amazonaws.com", "SourceArn": source});
        permit(client, project, target, &of_api(api), statement)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_has_a_policy_of_its_own() {
        assert_eq!(path("f"), "/2015-03-31/functions/f/policy");
        assert_eq!(path("f:live"), "/2015-03-31/functions/f/policy?Qualifier=live");
    }
}
