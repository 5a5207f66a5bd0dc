//! Tags of tables: TagResource, UntagResource, ListTagsOfResource.
//!
//! Tags are kept and answered; nothing else reads them.

use std::collections::BTreeMap;

use aws::Reply;
use serde_json::{Value as Json, json};

use super::super::error::{Error, Result, broken, constraint, invalid};
use super::request::{Request, missing, report, table_name, wrong_type};
use super::tables::{change_record, named};
use super::{Place, Shared};

const PARAMETERS: &str = "One or more parameter values were invalid: ";
/// Most tags of a table.
const TAGS_MAX: usize = 50;
/// Most characters of a tag's key and of its value.
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;
/// What keys of tags begin with that only AWS gives.
const RESERVED: &str = "aws:";

/// The member `Tags`, if it is there.
pub(super) fn read(request: &Request) -> Result<Option<BTreeMap<String, String>>> {
    let Some(list) = request.list("Tags")? else {
        return Ok(None);
    };
    let mut wrong = Vec::new();
    for (number, tag) in (1..).zip(list) {
        check_key(tag.get("Key"), &format!("tags.{number}.member.key"), &mut wrong);
        check_text(tag.get("Value"), &format!("tags.{number}.member.value"), 0, VALUE_CHARS_MAX, &mut wrong);
    }
    report(wrong)?;
    let text = |tag: &Json, name: &str| tag.get(name).and_then(Json::as_str).map(str::to_owned).ok_or_else(wrong_type);
    let mut tags = BTreeMap::new();
    for tag in list {
        let key = text(tag, "Key")?;
        if key.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED)) {
            return invalid(format!(
                "{PARAMETERS}Keys of tags must not begin with {RESERVED}, which is reserved: {key}"
            ));
        }
        if tags.insert(key.clone(), text(tag, "Value")?).is_some() {
            return invalid(format!("{PARAMETERS}Duplicate tag key: {key}"));
        }
    }
    check_count(&tags)?;
    Ok(Some(tags))
}

fn check_key(key: Option<&Json>, at: &str, out: &mut Vec<String>) {
    check_text(key, at, 1, KEY_CHARS_MAX, out);
}

/// A text of a tag as a constraint sees it.
fn check_text(json: Option<&Json>, at: &str, min: usize, max: usize, out: &mut Vec<String>) {
    let Some(json) = json.filter(|json| !json.is_null()) else {
        return out.push(broken(&Json::Null, at, "Member must not be null"));
    };
    let length = json.as_str().unwrap_or_default().chars().count();
    if length < min {
        out.push(broken(json, at, &format!("Member must have length greater than or equal to {min}")));
    } else if length > max {
        out.push(broken(json, at, &format!("Member must have length less than or equal to {max}")));
    }
    let allowed = |c: char| c.is_alphanumeric() || c.is_whitespace() || "+-=._:/@".contains(c);
    if !json.as_str().unwrap_or_default().chars().all(allowed) {
        out.push(broken(json, at, "Member must have letters, digits, whitespace and + - = . _ : / @ only"));
    }
}

fn check_count(tags: &BTreeMap<String, String>) -> Result<()> {
    if tags.len() > TAGS_MAX {
        return invalid(format!("{PARAMETERS}Too many tags: at most {TAGS_MAX} are allowed"));
    }
    Ok(())
}

fn resource<'a>(request: &'a Request, place: &Place) -> Result<&'a str> {
    let arn = request.text("ResourceArn")?.ok_or_else(|| missing("ResourceArn"))?;
    if !arn.starts_with("arn:") {
        return invalid(format!("Invalid TableArn: Invalid ResourceArn provided as input {arn}"));
    }
    if arn.contains("/index/") {
        return invalid(format!("Invalid TableArn: Invalid ResourceArn provided as input {arn}"));
    }
    table_name(arn, place)
}

/// `TagResource`
pub(super) async fn tag(shared: &Shared, place: &Place, request: &Request) -> Result<Reply> {
    request.only("TagResource", &["ResourceArn", "Tags"])?;
    let name = resource(request, place)?;
    let tags = read(request)?.ok_or_else(|| constraint(&Json::Null, "tags", "Member must not be null"))?;
    if tags.is_empty() {
        return invalid("Atleast one Tag needs to be provided as Input.");
    }
    change_record(shared, place, name, |table| {
        table.tags.extend(tags.clone());
        check_count(&table.tags)
    })
    .await?;
    Ok(Reply::text(Vec::new()))
}

/// `UntagResource`
pub(super) async fn untag(shared: &Shared, place: &Place, request: &Request) -> Result<Reply> {
    request.only("UntagResource", &["ResourceArn", "TagKeys"])?;
    let name = resource(request, place)?;
    let list = request.list("TagKeys")?.ok_or_else(|| constraint(&Json::Null, "tagKeys", "Member must not be null"))?;
    let mut wrong = Vec::new();
    for (number, key) in (1..).zip(list) {
        check_key(Some(key), &format!("tagKeys.{number}.member"), &mut wrong);
    }
    report(wrong)?;
    if list.is_empty() {
        return invalid("Atleast one Tag Key needs to be provided as Input.");
    }
    let keys = list.iter().map(|key| key.as_str().ok_or_else(wrong_type)).collect::<Result<Vec<_>, Error>>()?;
    change_record(shared, place, name, |table| {
        table.tags.retain(|key, _| !keys.contains(&key.as_str()));
        Ok(())
    })
    .await?;
    Ok(Reply::text(Vec::new()))
}

/// `ListTagsOfResource`
pub(super) async fn list(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("ListTagsOfResource", &["ResourceArn", "NextToken"])?;
    let found = named(shared, place, resource(request, place)?).await?;
    let tags: Vec<Json> = found.table.tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
    Ok(json!({ "Tags": tags }))
}
