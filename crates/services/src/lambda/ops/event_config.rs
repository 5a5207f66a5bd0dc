//! Put/Update/Get/Delete/ListFunctionEventInvokeConfig(s).

use std::sync::Arc;

use aws::{Call, Error, Reply};
use model::ports::EventTarget;
use model::{EventRules, FunctionRef};
use serde_json::{Value, json};

use crate::lambda::event_config::{self, EventConfigRecord, Wanted, qualifier, shown};
use crate::lambda::record::FunctionRecord;
use crate::lambda::{Functions, error, name};

/// Most configurations of one page. Source: the service model.
const PAGE_MAX: usize = 50;
const HONOURED: &[&str] =
    &["FunctionName", "Qualifier", "MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig"];

/// PutFunctionEventInvokeConfig: what is not said is not kept.
pub(in crate::lambda) async fn put(
    functions: &Functions,
    targets: &[Arc<dyn EventTarget>],
    call: &Call,
) -> Result<Reply, Error> {
    set(functions, targets, call, |wanted, _| Some(wanted.alone())).await
}

/// UpdateFunctionEventInvokeConfig: what is not said stays.
pub(in crate::lambda) async fn update(
    functions: &Functions,
    targets: &[Arc<dyn EventTarget>],
    call: &Call,
) -> Result<Reply, Error> {
    set(functions, targets, call, |wanted, before| before.map(|before| wanted.over(&before.rules))).await
}

/// Sets what `decide` says; where that is nothing, there is nothing to change.
async fn set(
    functions: &Functions,
    targets: &[Arc<dyn EventTarget>],
    call: &Call,
    decide: impl Fn(&Wanted, Option<&EventConfigRecord>) -> Option<EventRules> + Send + Sync,
) -> Result<Reply, Error> {
    call.honours(HONOURED)?;
    let function = name::of_call(call)?;
    let wanted = Wanted::of(call)?;
    let decided = |record: &FunctionRecord| {
        record.target(&function).ok_or_else(no_function)?;
        decide(&wanted, record.event_configs.get(qualifier(&function))).ok_or_else(|| none(&function))
    };
    decided(&functions.record(&function).await?.ok_or_else(no_function)?)?;
    wanted.check(&function, targets).await?;
    let config = functions
        .change(&function, |record, _| {
            let config = EventConfigRecord { rules: decided(record)?, modified_ms: functions.clock.now_ms() };
            record.event_configs.insert(qualifier(&function).to_owned(), config.clone());
            Ok(config)
        })
        .await?;
    Ok(Reply::of(shown_of(&function, &config)))
}

/// GetFunctionEventInvokeConfig.
pub(in crate::lambda) async fn get(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let function = name::of_call(call)?;
    let record = functions.record(&function).await?;
    let config = record.as_ref().and_then(|record| record.event_configs.get(qualifier(&function)));
    Ok(Reply::of(shown_of(&function, config.ok_or_else(|| none(&function))?)))
}

/// DeleteFunctionEventInvokeConfig.
pub(in crate::lambda) async fn delete(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Qualifier"])?;
    let function = name::of_call(call)?;
    functions.record(&function).await?.ok_or_else(|| none(&function))?;
    functions
        .change(&function, |record, _| match record.event_configs.remove(qualifier(&function)) {
            Some(_) => Ok(()),
            None => Err(none(&function)),
        })
        .await?;
    Ok(Reply::empty())
}

/// ListFunctionEventInvokeConfigs.
pub(in crate::lambda) async fn list(functions: &Functions, call: &Call) -> Result<Reply, Error> {
    call.honours(&["FunctionName", "Marker", "MaxItems"])?;
    let function = name::unqualified(call)?;
    let record = functions.record(&function).await?.ok_or_else(no_function)?;
    let listed = record.event_configs.iter();
    let listed = listed.map(|(qualifier, config)| (qualifier.clone(), shown(&function, qualifier, config))).collect();
    let (configs, next) = super::page(listed, call, PAGE_MAX);
    Ok(Reply::of(json!({"FunctionEventInvokeConfigs": configs, "NextMarker": next})))
}

fn shown_of(function: &FunctionRef, config: &EventConfigRecord) -> Value {
    shown(function, qualifier(function), config)
}

fn no_function() -> Error {
    error::not_found("The function doesn't exist.")
}

fn none(function: &FunctionRef) -> Error {
    let arn = crate::lambda::alias::arn(function, event_config::qualifier(function));
    error::not_found(format!("The function {arn} doesn't have an EventInvokeConfig"))
}
