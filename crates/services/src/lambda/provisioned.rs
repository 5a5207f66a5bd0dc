//! Provisioned concurrency and minimum environments: what they come to for each version. Pure.
//!
//! Not here: making the environments; the engine has them from the catalog as `Floor`s.
//!
//! Invariants
//!   1. What a configuration asks for is the sum of what its versions get, however its alias shares them.
//!   2. A function takes of its account what it has reserved; without that, what it has provisioned.

use std::collections::BTreeMap;

use aws::Error;
use model::{FloorState, MINIMUM_TAG};
use serde_json::{Value, json};

use super::record::{FunctionRecord, ProvisionedRecord, VersionId};
use super::versions::{Qualifier, Target};
use super::{error, view};

/// Most environments that the tag may ask for.
pub(super) const MINIMUM_MAX: u32 = 1_000;

/// The number of environments that the tag asks for, if its value is one.
pub(super) fn minimum(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number <= MINIMUM_MAX)
}

/// What a version is to have always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Environments.
    pub(super) environments: u32,
    /// Concurrency of the account: as many calls as are provisioned, unless the function has reserved its own.
    pub(super) set_aside: u32,
}

/// What each version is to have always.
pub(super) fn wanted(record: &FunctionRecord) -> BTreeMap<VersionId, Wanted> {
    let mut wanted: BTreeMap<VersionId, Wanted> = BTreeMap::new();
    let mut add = |(id, number): (VersionId, u32)| {
        if number > 0 {
            let wanted = wanted.entry(id).or_default();
            wanted.environments += number;
            if record.reserved_concurrency.is_none() {
                wanted.set_aside += number;
            }
        }
    };
    for (qualifier, config) in &record.provisioned {
        if let Some(target) = record.target_of(qualifier) {
            shares(config.requested, target).into_iter().for_each(&mut add);
        }
    }
    let minimum = record.tags.get(MINIMUM_TAG).and_then(|text| minimum(text));
    if let Some(minimum) = minimum.filter(|minimum| *minimum > 0) {
        wanted.entry(VersionId::Latest).or_default().environments += minimum;
    }
    wanted
}

/// Refuses environments ahead of calls where it is not known for which tenant they would be.
pub(super) fn check_tenants(record: &FunctionRecord) -> Result<(), Error> {
    if record.latest.settings.per_tenant && !wanted(record).is_empty() {
        return Err(error::invalid(format!(
            "Functions with tenant isolation have neither provisioned concurrency nor the tag {MINIMUM_TAG}: no environment can be made before its tenant is known."
        )));
    }
    Ok(())
}

/// What each version of a target gets of so many environments.
fn shares(number: u32, target: Target) -> Vec<(VersionId, u32)> {
    let Some((second, weight)) = target.second else { return vec![(target.first, number)] };
    // Weights are from 0 to 1, so the product is within the number.
    let of_second = (f64::from(number) * weight).round() as u32;
    vec![(target.first, number.saturating_sub(of_second)), (second, of_second.min(number))]
}

/// What a function has provisioned under all qualifiers.
pub(super) fn sum(record: &FunctionRecord) -> u64 {
    record.provisioned.values().map(|config| u64::from(config.requested)).sum()
}

/// What a function takes of its account's concurrency.
pub(super) fn taken(record: &FunctionRecord) -> u64 {
    record.reserved_concurrency.map_or_else(|| sum(record), u64::from)
}

/// Refuses a configuration under a qualifier whose versions cannot have one, or have one of their own.
pub(super) fn check_place(record: &FunctionRecord, qualifier: &str) -> Result<(), Error> {
    let target = record.target_of(qualifier);
    if target.is_some_and(|target| target.first == VersionId::Latest) {
        return Err(error::invalid(
            "Provisioned Concurrency Configs cannot be applied to unpublished function versions.",
        ));
    }
    let first = target.map(|target| target.first);
    let is_alias = record.aliases.contains_key(qualifier);
    let others = record.provisioned.keys().filter(|other| *other != qualifier);
    let same: Vec<&String> = others.filter(|other| record.target_of(other).map(|of| of.first) == first).collect();
    if is_alias && same.iter().any(|other| VersionId::parse(other).is_some()) {
        return Err(error::conflict(
            "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version",
        ));
    }
    if !is_alias && !same.is_empty() {
        return Err(error::conflict(
            "Version can't be used for Provisioned Concurrency configuration on an already Provisioned Alias",
        ));
    }
    Ok(())
}

/// The status of a configuration; `state` tells what there is of a version.
pub(super) fn shown(
    record: &FunctionRecord,
    qualifier: &str,
    config: &ProvisionedRecord,
    state: impl Fn(VersionId) -> FloorState,
) -> Value {
    let shares = record.target_of(qualifier).map(|target| shares(config.requested, target)).unwrap_or_default();
    let (mut there, mut failure) = (0, None);
    for (id, number) in shares.into_iter().filter(|(_, number)| *number > 0) {
        let state = state(id);
        there += state.environments.min(number);
        failure = failure.or(state.failure.filter(|_| state.environments < number));
    }
    let status = match &failure {
        _ if there >= config.requested => "READY",
        Some(_) => "FAILED",
        None => "IN_PROGRESS",
    };
    let mut shown = in_progress(config);
    shown["AvailableProvisionedConcurrentExecutions"] = json!(there);
    shown["AllocatedProvisionedConcurrentExecutions"] = json!(there);
    shown["Status"] = json!(status);
    shown["StatusReason"] = json!(failure);
    shown
}

/// The status of a configuration that was made just now.
pub(super) fn in_progress(config: &ProvisionedRecord) -> Value {
    json!({
        "RequestedProvisionedConcurrentExecutions": config.requested,
        "AvailableProvisionedConcurrentExecutions": 0,
        "AllocatedProvisionedConcurrentExecutions": 0,
        "Status": "IN_PROGRESS",
        "LastModified": view::time(config.modified_ms),
    })
}

/// Refuses a qualifier that means no published version.
pub(super) fn published(qualifier: Qualifier<'_>, otherwise: &str) -> Result<(), Error> {
    match qualifier {
        Qualifier::Version(VersionId::Latest) => Err(error::invalid(otherwise)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tag_is_a_number() {
        assert_eq!((minimum("0"), minimum("12"), minimum("1000")), (Some(0), Some(12), Some(1_000)));
        for wrong in ["", "-1", "1001", "two", "1.5"] {
            assert_eq!(minimum(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn shares_sum_up_and_follow_the_weight(number in 0u32..10_000, weight in 0.0f64..=1.0) {
            let target = Target { first: VersionId::Number(1), second: Some((VersionId::Number(2), weight)) };
            let shares = shares(number, target);
            prop_assert_eq!(shares.iter().map(|(_, number)| number).sum::<u32>(), number);
            prop_assert!((f64::from(shares[1].1) - f64::from(number) * weight).abs() <= 0.5);
        }
    }
}
