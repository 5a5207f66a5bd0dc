//! UpdateTimeToLive and DescribeTimeToLive.
//!
//! Invariant: turning expiry on or off starts, in the same commit, a pass over the table's items (`passes`), and until
//! it has ended nothing about the expiry can be changed.

use serde_json::{Value as Json, json};
use store::{Error as StoreError, Txn};

use super::super::error::{Error, Result, broken, constraint, constraints, invalid};
use super::super::keys;
use super::super::table::Table;
use super::super::ttl::{Phase, Ttl};
use super::request::{Request, Rule, wrong_type};
use super::tables::{named, ready};
use super::{ATTEMPTS_MAX, Place, Shared};

/// Most bytes of the attribute's name.
const NAME_BYTES_MAX: usize = 255;

/// `Enabled` and `AttributeName`
fn specification(request: &Request) -> Result<(bool, &str)> {
    let map = request.required_map("TimeToLiveSpecification")?;
    let given = |name: &str| map.get(name).filter(|member| !member.is_null());
    let (enabled, name) = (given("Enabled"), given("AttributeName"));
    let missing = [("attributeName", name), ("enabled", enabled)].into_iter().filter(|(_, member)| member.is_none());
    let place = |name: &str| format!("timeToLiveSpecification.{name}");
    let wrong: Vec<_> = missing.map(|(name, _)| broken(&Json::Null, &place(name), "Member must not be null")).collect();
    let (Some(enabled), Some(name)) = (enabled, name) else {
        return Err(constraints(&wrong));
    };
    let (enabled, name) = (enabled.as_bool().ok_or_else(wrong_type)?, name.as_str().ok_or_else(wrong_type)?);
    let bound = match name.len() {
        0 => "greater than or equal to 1".to_owned(),
        count if count > NAME_BYTES_MAX => format!("less than or equal to {NAME_BYTES_MAX}"),
        _ => return Ok((enabled, name)),
    };
    Err(constraint(&json!(name), &place("attributeName"), &format!("Member must have length {bound}")))
}

/// The expiry after the change, if it can be made.
fn change(table: &Table, enabled: bool, attribute: &str) -> Result<Ttl> {
    match &table.ttl {
        Some(ttl) if ttl.phase != Phase::Enabled => {
            invalid("Time to live has been modified multiple times within a fixed interval")
        }
        Some(ttl) if ttl.attribute != attribute => {
            let current = &ttl.attribute;
            invalid(format!("TimeToLive is active on a different AttributeName: current AttributeName is {current}"))
        }
        Some(_) if enabled => invalid("TimeToLive is already enabled"),
        None if !enabled => invalid("TimeToLive is already disabled"),
        _ => {
            let phase = if enabled { Phase::Enabling } else { Phase::Disabling };
            Ok(Ttl { attribute: attribute.into(), phase })
        }
    }
}

/// `UpdateTimeToLive`
pub(super) async fn update(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("UpdateTimeToLive", &["TableName", "TimeToLiveSpecification"])?;
    request.check(&[Rule::Required("TableName"), Rule::Required("TimeToLiveSpecification")])?;
    let (enabled, attribute) = specification(request)?;
    let name = request.table_name(place)?;
    for _ in 0..ATTEMPTS_MAX {
        let found = ready(shared, place, name).await?;
        let mut table = (*found.table).clone();
        table.ttl = Some(change(&table, enabled, attribute)?);
        let txn = found
            .put_record(Txn::new(), &table)?
            .put(keys::owner(table.generation), found.key.clone())
            .put(keys::pass(table.generation), Vec::new());
        match shared.store.commit(txn).await {
            Ok(_) => {
                let specification = json!({ "Enabled": enabled, "AttributeName": attribute });
                return Ok(json!({ "TimeToLiveSpecification": specification }));
            }
            Err(StoreError::Conflict | StoreError::TooOld) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Contended)
}

/// `DescribeTimeToLive`
pub(super) async fn describe(shared: &Shared, place: &Place, request: &Request) -> Result<Json> {
    request.only("DescribeTimeToLive", &["TableName"])?;
    let found = named(shared, place, request.table_name(place)?).await?;
    let description = match &found.table.ttl {
        None => json!({ "TimeToLiveStatus": "DISABLED" }),
        Some(ttl) => json!({ "TimeToLiveStatus": ttl.phase.status(), "AttributeName": ttl.attribute }),
    };
    Ok(json!({ "TimeToLiveDescription": description }))
}
