//! The shared nouns of Dunlin, and the ports where crates meet.
//!
//! Invariants
//!   1. No I/O and no wire format: `serde` derives exist for storage by whoever stores.
//!   2. A type is here because two crates use it; a port because it has two implementations.
//!   3. Budget: 4,200 lines.

pub mod egress;
pub mod event;
pub mod event_source;
pub mod file_system;
pub mod function;
pub mod http_api;
pub mod identity;
pub mod image;
pub mod invocation;
pub mod log;
pub mod pattern;
pub mod policy;
pub mod ports;
pub mod prefixes;
pub mod runtime;
pub mod stream;
pub mod trace;
pub mod usage;
pub mod web;

pub use egress::{EGRESS_TAG, Egress, NotATarget, OpenTarget};
pub use event::{Attribute, Attributes, Delivery, DeliveryError, EventRules, Lineage};
pub use event_source::{
    Content, Mapping, MappingNews, Mappings, Position, Shard, SourceError, SourceFacts, SourceKind, SourceRecord, Take,
    Taken, Wanted,
};
pub use file_system::{AccessPoint, FileSystem, NotAnAccessPoint};
pub use function::{
    CodeDigest, Floor, FloorState, FunctionArn, FunctionName, FunctionRef, FunctionVersion, MINIMUM_TAG, ProgramState,
    RuntimeUse, SnapshotState,
};
pub use http_api::{FunctionUrl, HttpApi, RestApi, Site, SiteKey};
pub use identity::{AccountId, CallerAddress, Credentials, Principal, Region, Role};
pub use image::ImageCode;
pub use invocation::{
    FunctionError, Invocation, InvocationKind, InvokeError, Outcome, RequestId, ThrottleReason, Trigger,
};
pub use log::{ApplicationLevel, JsonLog, LogBatch, LogEvent, SystemLevel};
pub use pattern::Pattern;
pub use runtime::{Family, Runtime};
pub use stream::{Answered, Body, BrokenOff, Chunks, Piece, Pieces, StreamedAnswer};
pub use usage::{Ending, UsageRecord};
pub use web::{WebAnswer, WebCall, WebServer};
