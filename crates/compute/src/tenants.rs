//! Tenants: a function that isolates them runs each call in an environment that no other tenant ever had. Pure.
//!
//! What keeps them apart is the pool: it belongs to one function, version and tenant (`fleet`).

use std::sync::Arc;

use model::{FunctionVersion, InvokeError};

const WANTED: &str =
    "The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again.";
const UNWANTED: &str = "The invoked function is not enabled with tenancy configuration. Remove the tenant ID from your \
                        request and try again.";

/// Refuses a call that lacks a tenant which its function needs, or names one that it does not know.
pub(crate) fn check(version: &FunctionVersion, tenant: Option<&str>) -> Result<(), InvokeError> {
    match (version.per_tenant, tenant) {
        (true, None) => Err(InvokeError::Unfit(WANTED)),
        (false, Some(_)) => Err(InvokeError::Unfit(UNWANTED)),
        _ => Ok(()),
    }
}

/// The version as the tenant of a call has it.
pub(crate) fn bound(version: Arc<FunctionVersion>, tenant: Option<&str>) -> Result<Arc<FunctionVersion>, InvokeError> {
    check(&version, tenant)?;
    Ok(match tenant {
        None => version,
        Some(tenant) => Arc::new(FunctionVersion { tenant: Some(tenant.to_owned()), ..(*version).clone() }),
    })
}
