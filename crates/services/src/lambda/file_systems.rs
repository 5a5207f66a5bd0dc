//! `FileSystemConfigs`: folders of the host that a function has below `/mnt`. Pure.
//!
//! An access point means the folder that the operator has given its name to; one that no operator has named is refused, when
//! a function asks for it and again when an environment starts.

use aws::{Call, Error};
use model::{AccessPoint, AccountId, FileSystem};
use serde_json::{Value, json};

use super::error;

/// What a call asks for; nothing if it does not speak of file systems.
pub(super) fn wanted(call: &Call, allowed: &[AccessPoint]) -> Result<Option<Option<FileSystem>>, Error> {
    let Some(configs) = call.input.get("FileSystemConfigs").and_then(Value::as_array) else { return Ok(None) };
    // The model allows one at most.
    let Some(config) = configs.first() else { return Ok(Some(None)) };
    let text = |member: &str| config.get(member).and_then(Value::as_str).unwrap_or_default();
    let (arn, path) = (text("Arn"), text("LocalMountPath"));
    if arn.split(':').nth(2) == Some("s3files") || config.get("S3FilesConfig").is_some_and(Value::is_object) {
        return Err(Error::not_implemented(format_args!("file systems of S3 ({arn})")));
    }
    let account: &AccountId = &call.principal.account;
    if !allowed.iter().any(|point| point.account == *account && point.is(arn)) {
        return Err(error::invalid(format!(
            "The access point {arn} is not there. Whoever operates this platform names folders that functions may have: --file-system fsap-…=/FOLDER"
        )));
    }
    let name = path.strip_prefix("/mnt/").filter(|name| !matches!(*name, "." | ".."));
    let name = name.ok_or_else(|| error::invalid(format!("{path} is no folder below /mnt.")))?;
    Ok(Some(Some(FileSystem { arn: arn.to_owned(), name: name.to_owned() })))
}

/// `FileSystemConfigs`.
pub(super) fn shown(file_system: &FileSystem) -> Value {
    json!([{"Arn": file_system.arn, "LocalMountPath": format!("/mnt/{}", file_system.name)}])
}
