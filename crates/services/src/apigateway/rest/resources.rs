//! Create/Get/DeleteResource and GetResources: the tree of paths.

use std::collections::BTreeMap;

use aws::{Call, Error, Reply};
use serde_json::{Value, json};

use super::limit;
use super::record::{Resource, Rest};
use crate::apigateway::{Apis, error, page, required, text_list};

const ID_LENGTH: usize = 6;

/// A resource as an answer. Its methods are shown whole only where the call embeds them.
fn view(resource: &Resource, call: &Call) -> Result<Value, Error> {
    let mut value = serde_json::to_value(resource).map_err(Error::internal)?;
    let embedded = text_list(call.input.get("embed")).iter().any(|member| member == "methods");
    if !embedded && let Some(methods) = value.get_mut("resourceMethods").and_then(Value::as_object_mut) {
        methods.values_mut().for_each(|method| *method = json!({}));
    }
    Ok(value)
}

/// CreateResource.
pub(super) async fn create(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    call.honours(&["restApiId", "parentId", "pathPart"])?;
    let (parent_id, path_part) = (required(call, "parentId"), required(call, "pathPart"));
    let resource = apis
        .change(call, required(call, "restApiId"), |document: &mut Rest| {
            let path = path_below(document, parent_id, path_part)?;
            let resource = Resource {
                id: apis.fresh_id(ID_LENGTH, &document.resources),
                parent_id: Some(parent_id.to_owned()),
                path_part: Some(path_part.to_owned()),
                path,
                resource_methods: BTreeMap::new(),
            };
            document.resources.insert(resource.id.clone(), resource.clone());
            Ok(resource)
        })
        .await?;
    Ok(Reply::of(view(&resource, call)?))
}

/// The path of a new part below a resource, if the tree's rules allow it.
fn path_below(document: &Rest, parent_id: &str, path_part: &str) -> Result<String, Error> {
    let parent = document.resources.get(parent_id).ok_or_else(|| error::no_such("Resource"))?;
    if !is_path_part(path_part) {
        return Err(error::bad_request(
            "Resource's path part only allow a-zA-Z0-9._-: or a valid greedy path variable and curly braces at the beginning and the end.",
        ));
    }
    if parent.path_part.as_deref().is_some_and(|part| part.ends_with("+}")) {
        return Err(error::bad_request(format!(
            "Cannot create a child of a resource with a greedy path variable: {}",
            parent.path
        )));
    }
    for sibling in document.resources.values().filter(|sibling| sibling.parent_id.as_deref() == Some(parent_id)) {
        let part = sibling.path_part.as_deref().unwrap_or_default();
        if part == path_part {
            return Err(error::conflict(format!(
                "Another resource with the same parent already has this name: {path_part}"
            )));
        }
        if part.starts_with('{') && path_part.starts_with('{') {
            return Err(error::bad_request(format!(
                "A sibling ({}) of this resource already has a variable path part -- only one is allowed",
                sibling.id
            )));
        }
    }
    Ok(format!("{}/{path_part}", parent.path.trim_end_matches('/')))
}

fn is_path_part(text: &str) -> bool {
    let plain = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'~' | b','))
    };
    match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').is_some_and(|name| plain(name.strip_suffix('+').unwrap_or(name))),
        None => plain(text),
    }
}

/// GetResource.
pub(super) async fn get(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let document: Rest = apis.read(call, required(call, "restApiId")).await?;
    let resource = document.resources.get(required(call, "resourceId")).ok_or_else(|| error::no_such("Resource"))?;
    Ok(Reply::of(view(resource, call)?))
}

/// GetResources, in the order of their ids.
pub(super) async fn list(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let document: Rest = apis.read(call, required(call, "restApiId")).await?;
    let (items, position) = page(document.resources.into_iter().collect(), call.text("position"), limit(call, 25));
    let items: Vec<Value> = items.iter().map(|resource| view(resource, call)).collect::<Result<_, _>>()?;
    Ok(Reply::of(json!({"items": items, "position": position})))
}

/// DeleteResource, with everything below it.
pub(super) async fn delete(apis: &Apis, call: &Call) -> Result<Reply, Error> {
    let id = required(call, "resourceId");
    apis.change(call, required(call, "restApiId"), |document: &mut Rest| {
        let resource = document.resources.get(id).ok_or_else(|| error::no_such("Resource"))?;
        if resource.parent_id.is_none() {
            return Err(error::bad_request(
                "Invalid Resource identifier specified: the root resource cannot be deleted",
            ));
        }
        let below = format!("{}/", resource.path);
        document.resources.retain(|kept, resource| kept != id && !resource.path.starts_with(&below));
        Ok(())
    })
    .await?;
    Ok(Reply::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_parts_are_plain_or_variables() {
        for good in ["pets", "v1.0", "a-b_c:d", "{id}", "{proxy+}"] {
            assert!(is_path_part(good), "{good}");
        }
        for bad in ["", "a/b", "{id", "id}", "{}", "{+}", "a{b}", "a b", "{a+b}"] {
            assert!(!is_path_part(bad), "{bad}");
        }
    }
}
