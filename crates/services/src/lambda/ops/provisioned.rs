//! Put/Get/Delete/ListProvisionedConcurrencyConfig(s).
//!
//! A configuration is kept with the function; the engine follows and makes the environments. What there is of them is
//! asked of the engine of this node.

use aws::{Call, Error, Reply};
use model::ports::Invoker;
use model::{FloorState, FunctionRef};
use serde_json::json;

use super::concurrency::{self, UNRESERVED_LEAST};
use crate::lambda::record::{FunctionRecord, ProvisionedRecord, VersionId};
use crate::lambda::versions::Qualifier;
use crate::lambda::{Functions, alias, error, name, provisioned};

/// Most configurations of one page. Source: the service model.
const PAGE_MAX: usize = 50;

/// What a call means: the function without a qualifier, and the qualifier.
struct Place {
    function: FunctionRef,
    qualifier: String,
}

impl Place {
    fn of_call(call: &Call, otherwise: &str) -> Result<Self, Error> {
        let mut function = name::of_call(call)?;
        provisioned::published(Qualifier::of(&function), otherwise)?;
        let qualifier = function.qualifier.take().unwrap_or_default();
        Ok(Self { function, qualifier })
    }

    /// Refuses a qualifier that names nothing.
    fn check_there(&self, record: &FunctionRecord) -> Result<(), Error> {
        if record.target_of(&self.qualifier).is_some() {
            return Ok(());
        }
        let arn = alias::arn(&self.function, &self.qualifier);
        let is_version = VersionId::parse(&self.qualifier).is_some();
        Err(if is_version { error::function_not_found(&arn) } else { alias::not_found(&arn) })
    }
}

/// PutProvisionedConcurrencyConfig.
pub(in crate::lambda) async fn put(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier", "ProvisionedConcurrentExecutions"])?;
    let place =
        Place::of_call(call, "Provisioned Concurrency Configs cannot be applied to unpublished function versions.")?;
    let wanted = call.number("ProvisionedConcurrentExecutions").unwrap_or_default();
    let config = concurrency::change(functions, &place.function, |record, account| {
        place.check_there(record)?;
        provisioned::check_place(record, &place.qualifier)?;
        // An alias that has a configuration may get weights afterwards: a deployment shifts its calls so.
        if record.target_of(&place.qualifier).is_some_and(|target| target.second.is_some()) {
            return Err(error::invalid("Alias with weights can not be used with Provisioned Concurrency"));
        }
        let present = record.provisioned.get(&place.qualifier).map_or(0, |config| u64::from(config.requested));
        let all = (provisioned::sum(record) - present).saturating_add(wanted);
        let fits = u32::try_from(wanted).ok();
        match (record.reserved_concurrency, fits) {
            (Some(reserved), _) if all > u64::from(reserved) => Err(error::invalid(
                "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function",
            )),
            (None, _) if wanted > u64::from(account.limit) => Err(error::invalid(format!(
                "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [{}].",
                account.limit
            ))),
            (None, _) if !account.allows(all) => Err(error::invalid(format!(
                "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [{UNRESERVED_LEAST}]."
            ))),
            (_, None) => Err(error::invalid("ProvisionedConcurrentExecutions is too large.")),
            (_, Some(requested)) => {
                let config = ProvisionedRecord { requested, modified_ms: functions.clock.now_ms() };
                record.provisioned.insert(place.qualifier.clone(), config);
                provisioned::check_tenants(record)?;
                Ok(config)
            }
        }
    })
    .await?;
    Ok(Reply::of(provisioned::in_progress(&config)))
}

/// GetProvisionedConcurrencyConfig.
pub(in crate::lambda) async fn get(functions: &Functions, invoker: &dyn Invoker, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let place = Place::of_call(call, "The function resource provided must be an alias or a published version.")?;
    let record = functions.existing(&place.function).await?;
    place.check_there(&record)?;
    let config = record.provisioned.get(&place.qualifier).ok_or_else(|| {
        let message = "No Provisioned Concurrency Config found for this function";
        Error::new(404, "ProvisionedConcurrencyConfigNotFoundException", message).with("Type", "User")
    })?;
    Ok(Reply::of(provisioned::shown(&record, &place.qualifier, config, state(invoker, &place.function))))
}

fn state<'a>(invoker: &'a dyn Invoker, function: &'a FunctionRef) -> impl Fn(VersionId) -> FloorState + 'a {
    move |id| invoker.floor(function, &id.to_string())
}

/// DeleteProvisionedConcurrencyConfig. One that does not exist counts as deleted.
pub(in crate::lambda) async fn delete(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let place = Place::of_call(call, "The function resource provided must be an alias or a published version.")?;
    functions
        .change(&place.function, |record, _| {
            place.check_there(record)?;
            record.provisioned.remove(&place.qualifier);
            Ok(())
        })
        .await?;
    Ok(Reply::empty())
}

/// ListProvisionedConcurrencyConfigs.
pub(in crate::lambda) async fn list(functions: &Functions, invoker: &dyn Invoker, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Marker", "MaxItems"])?;
    let function = name::unqualified(call)?;
    let record = functions.existing(&function).await?;
    let listed = record.provisioned.iter().map(|(qualifier, config)| {
        let mut shown = provisioned::shown(&record, qualifier, config, state(invoker, &function));
        shown["FunctionArn"] = json!(alias::arn(&function, qualifier));
        (qualifier.clone(), shown)
    });
    let (configs, next) = super::page(listed.collect(), call, PAGE_MAX);
    Ok(Reply::of(json!({"ProvisionedConcurrencyConfigs": configs, "NextMarker": next})))
}
