//! The stream of a table: what CreateTable and UpdateTable ask for, and how it is switched on and off.
//!
//! Pure. A stream's description lies beside the table's record, as it outlives the table, and changes in the same commits.

use serde_json::Value as Json;
use store::Txn;

use super::super::error::{Error, Result, broken, invalid};
use super::super::keys;
use super::super::stream::{self, Description, Stream, View};
use super::super::table::Table;
use super::request::{Request, wrong_type};
use super::write::put_record;

const PARAMETERS: &str = "One or more parameter values were invalid: ";

/// What a stream needs that is switched on.
pub(super) struct SwitchedOn {
    pub(super) view: View,
    pub(super) number: u64,
    /// A commit before its first record.
    pub(super) opened: u64,
    pub(super) now_ms: u64,
}

impl SwitchedOn {
    /// The stream; `last` is the one that the table had before.
    pub(super) fn stream(&self, last: Option<&Stream>) -> Stream {
        Stream::new(self.number, self.view, self.now_ms, self.opened, last)
    }
}

/// What is wrong with `StreamSpecification` on its own.
pub(super) fn broken_members(request: &Request) -> Result<Vec<String>> {
    let mut out = Vec::new();
    let Some(members) = request.map("StreamSpecification")? else { return Ok(out) };
    if members.get("StreamEnabled").is_none_or(Json::is_null) {
        out.push(broken(&Json::Null, "streamSpecification.streamEnabled", "Member must not be null"));
    }
    if let Some(view) = members.get("StreamViewType").filter(|view| !view.is_null())
        && view.as_str().and_then(View::parse).is_none()
    {
        let rule = format!("Member must satisfy enum value set: [{}]", View::NAMES.join(", "));
        out.push(broken(view, "streamSpecification.streamViewType", &rule));
    }
    Ok(out)
}

/// Whether it is to be on, and the view that is named.
fn members(request: &Request) -> Result<Option<(bool, Option<View>)>> {
    let Some(members) = request.map("StreamSpecification")? else { return Ok(None) };
    let enabled = members.get("StreamEnabled").and_then(Json::as_bool).ok_or_else(wrong_type)?;
    Ok(Some((enabled, members.get("StreamViewType").and_then(Json::as_str).and_then(View::parse))))
}

/// The view of the stream that CreateTable asks for, if it asks for one.
pub(super) fn of_creation(request: &Request) -> Result<Option<View>> {
    match members(request)? {
        Some((true, None)) => {
            invalid(format!("{PARAMETERS}Table is being created with a stream enabled, UpdateViewType is required"))
        }
        Some((false, Some(_))) => invalid(format!(
            "{PARAMETERS}Table is being created with a stream disabled, UpdateViewType should not be specified"
        )),
        Some((true, view)) => Ok(view),
        Some((false, None)) | None => Ok(None),
    }
}

/// What UpdateTable asks for, if it speaks of the stream: on with this view, or off.
pub(super) fn of_update(request: &Request) -> Result<Option<Option<View>>> {
    match members(request)? {
        Some((true, None)) => {
            invalid(format!("{PARAMETERS}If stream is being enabled then UpdateViewType is required"))
        }
        Some((false, Some(_))) => {
            invalid(format!("{PARAMETERS}If stream is being disabled, then UpdateViewType must not be specified"))
        }
        Some((_, view)) => Ok(Some(view)),
        None => Ok(None),
    }
}

/// Writes what is known of a stream without its table.
pub(super) fn described(txn: Txn, table: &Table, stream: &Stream, closed_at_ms: Option<u64>) -> Result<Txn> {
    let description = serde_json::to_vec(&Description::of(table, stream, closed_at_ms));
    let description = description.map_err(|_| Error::Corrupt("description of a stream"))?;
    Ok(txn.put(keys::stream(&table.account, &table.region, &table.name, &stream.label), description))
}

/// Switches a new stream of the table on.
pub(super) fn enable(txn: Txn, table: &mut Table, on: &SwitchedOn) -> Result<Txn> {
    if table.stream.as_ref().is_some_and(|stream| stream.enabled) {
        return invalid(format!("Table already has an enabled stream: TableName: {}", table.name));
    }
    let stream = on.stream(table.stream.as_ref());
    let txn = described(txn, table, &stream, None)?;
    table.stream = Some(stream);
    Ok(txn)
}

/// Switches the table's stream off. Its last record says so, which wakes who waits for one.
pub(super) fn disable(txn: Txn, table: &mut Table, now_ms: u64) -> Result<Txn> {
    let Some(mut stream) = table.stream.clone().filter(|stream| stream.enabled) else {
        return invalid(format!("Table has no stream to disable: TableName: {}", table.name));
    };
    stream.enabled = false;
    let txn = described(txn, table, &stream, Some(now_ms))?;
    let txn = put_record(txn, stream.number, stream::end(now_ms));
    table.stream = Some(stream);
    Ok(txn)
}
