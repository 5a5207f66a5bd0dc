//! The operations, one file per group: each validates, decides with the pure files beside, and commits once.
//!
//! Start reading at `create`; `update` and `delete` follow its steps.

pub(super) mod aliases;
pub(super) mod code_signing;
pub(super) mod concurrency;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod event_config;
pub(super) mod invoke;
pub(super) mod invoke_stream;
pub(super) mod layer_permissions;
pub(super) mod layers;
pub(super) mod mappings;
pub(super) mod permissions;
pub(super) mod provisioned;
pub(super) mod read;
pub(super) mod recursion;
pub(super) mod resource_policy;
pub(super) mod runtime_management;
pub(super) mod tags;
pub(super) mod update;
pub(super) mod urls;
pub(super) mod versions;

use aws::{Call, Error};
use serde_json::Value;

use super::image::Code;
use super::{Functions, error, packages};

/// The code that a call brings for a function; `is_image` says which kind it has to be.
async fn code_of(functions: &Functions, code: &Value, is_image: bool) -> Result<Code, Error> {
    let text = |member: &str| code.get(member).and_then(Value::as_str).filter(|text| !text.is_empty());
    let of_zips = ["ZipFile", "S3Bucket", "S3Key", "S3ObjectVersion", "S3ObjectStorageMode", "SourceKMSKeyArn"];
    let other = of_zips.into_iter().find(|member| text(member).is_some());
    match (is_image, text("ImageUri"), other) {
        (true, Some(uri), None) => functions.image(uri).await.map(Code::Image),
        (true, Some(_), Some(other)) => {
            Err(error::invalid(format!("Please do not provide {other} beside ImageUri when packageType is Image.")))
        }
        (true, None, _) => Err(error::invalid("Please provide ImageUri when packageType is Image.")),
        (false, Some(_), _) => {
            Err(error::invalid("Please do not provide ImageUri when packageType is Zip; packageType Image takes it."))
        }
        (false, None, _) => packages::checked(inline_zip(code)?).await.map(Code::Zip),
    }
}

/// Refuses a package that is not sent inline.
fn inline_zip(code: &Value) -> Result<&str, Error> {
    let text = |member: &str| code.get(member).and_then(Value::as_str).filter(|text| !text.is_empty());
    for member in ["S3Bucket", "S3Key", "S3ObjectVersion"] {
        if text(member).is_some() {
            return Err(Error::not_implemented(format_args!("code from a bucket ({member}); send it as ZipFile")));
        }
    }
    for member in ["S3ObjectStorageMode", "SourceKMSKeyArn"] {
        if text(member).is_some() {
            return Err(Error::not_implemented(format_args!("the parameter {member}")));
        }
    }
    text("ZipFile").ok_or_else(|| error::invalid("Please provide a source for function code."))
}

/// `MaxItems` bounded by `most`.
fn page_size(call: &Call, most: usize) -> usize {
    let wanted = call.number("MaxItems").and_then(|number| usize::try_from(number).ok()).unwrap_or(most);
    wanted.clamp(1, most)
}

/// One page of a sorted list, `most` items at most, and the marker of the next page.
fn page<T>(items: Vec<(String, T)>, call: &Call, most: usize) -> (Vec<T>, Option<String>) {
    let start = call.text("Marker").unwrap_or_default();
    let mut rest = items.into_iter().filter(|(key, _)| key.as_str() >= start);
    let shown: Vec<T> = rest.by_ref().take(page_size(call, most)).map(|(_, item)| item).collect();
    (shown, rest.next().map(|(key, _)| key))
}

fn bad_marker(marker: &str) -> Error {
    error::invalid(format!("The Marker {marker} is not one that a list answered."))
}
