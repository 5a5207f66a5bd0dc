//! Accepted events: what holds for those of a function, and what is sent on when one has ended.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What holds for the events of one qualifier of a function. Nothing set: the platform's own settings, and nobody is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRules {
    /// Retries after an error of the function.
    pub retries_max: Option<u32>,
    /// Seconds after which an event is no longer tried.
    pub age_max_s: Option<u32>,
    /// The ARN that the record of an event goes to which the function has handled.
    pub on_success: Option<String>,
    /// The ARN that the record of an event goes to which is given up.
    pub on_failure: Option<String>,
}

/// How often each function was called by the chain of deliveries that an event stems from, by unqualified ARN.
pub type Lineage = BTreeMap<String, u32>;

/// What is told beside an event. Queues and topics have attributes of messages for it, other targets nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attribute {
    /// Of the data type `String`.
    Text(String),
    /// Of the data type `Number`.
    Number(u64),
}

/// Attributes by name.
pub type Attributes = BTreeMap<String, Attribute>;

/// One event on its way to a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The ARN of the resource.
    pub target: String,
    /// The event: JSON.
    pub event: Bytes,
    /// What is told beside it: of a dead letter why it is one. Most events have nothing.
    pub attributes: Attributes,
    /// `Root=1-…;Parent=…;Sampled=…` of what it stems from.
    pub trace_id: Option<String>,
    /// The chain that it stems from.
    pub lineage: Lineage,
}

/// Why an event could not be delivered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// It never can be: the resource is gone, or does not take it.
    #[error("{0}")]
    Refused(String),
    /// Not now; it is to be tried again.
    #[error("{0}")]
    Later(String),
}
