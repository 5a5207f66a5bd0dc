//! Tags of tables: TagResource, UntagResource, ListTagsOfResource.
//!
//! Tags are kept and answered; nothing else reads them.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::super::error::{Error, Result, invalid};
use super::request::{Request, missing, table_name, wrong_type};
use super::tables::{change_record, named};
use super::{Place, Shared};

/// Most tags of a table.
const TAGS_MAX: usize = 50;

/// The member `Tags`, if it is there.
pub(super) fn read(request: &Request) -> Result<Option<BTreeMap<String, String>>> {
    let Some(list) = request.list("Tags")? else {
        return Ok(None);
    };
    let text = |tag: &Json, name: &str| tag.get(name).and_then(Json::as_str).map(str::to_owned);
    let mut tags = BTreeMap::new();
    for tag in list {
        let key = text(tag, "Key").ok_or_else(|| missing("Key"))?;
        let value = text(tag, "Value").ok_or_else(|| missing("Value"))?;
        tags.insert(key, value);
    }
    check(&tags)?;
    Ok(Some(tags))
}

fn check(tags: &BTreeMap<String, String>) -> Result<()> {
    if tags.len() > TAGS_MAX {
        return invalid("One or more parameter values were invalid: Too many tags: at most 50 are allowed");
    }
    Ok(())
}

fn resource<'a>(request: &'a Request, place: &Place) -> Result<&'a str> {
    let arn = request.text("ResourceArn")?.ok_or_else(|| missing("ResourceArn"))?;
    if !arn.starts_with("arn:") {
        return invalid(format!("Invalid TableArn: Invalid ResourceArn provided as input {arn}"));
    }
    table_name(arn, place)
}

/// `TagResource`
pub(super) async fn tag(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("TagResource", &["ResourceArn", "Tags"])?;
    let name = resource(request, place)?;
    let tags = read(request)?.ok_or_else(|| missing("Tags"))?;
    change_record(shared, place, name, |table| {
        table.tags.extend(tags.clone());
        check(&table.tags)
    })
    .await?;
    Ok(json!({}))
}

/// `UntagResource`
pub(super) async fn untag(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("UntagResource", &["ResourceArn", "TagKeys"])?;
    let name = resource(request, place)?;
    let list = request.list("TagKeys")?.ok_or_else(|| missing("TagKeys"))?;
    let keys = list.iter().map(|key| key.as_str().ok_or_else(wrong_type)).collect::<Result<Vec<_>, Error>>()?;
    change_record(shared, place, name, |table| {
        table.tags.retain(|key, _| !keys.contains(&key.as_str()));
        Ok(())
    })
    .await?;
    Ok(json!({}))
}

/// `ListTagsOfResource`
pub(super) async fn list(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("ListTagsOfResource", &["ResourceArn", "NextToken"])?;
    let found = named(shared, place, resource(request, place)?).await?;
    let tags: Vec<Json> = found.table.tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
    Ok(json!({ "Tags": tags }))
}
