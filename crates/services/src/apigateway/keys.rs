//! Every key of the `apigateway` service. Nobody else builds one.
//!
//! | tag | parts                         | value                                                       |
//! |-----|-------------------------------|-------------------------------------------------------------|
//! | `l` | account, region, kind, API id | empty: the list of an account's APIs; kind is `r` or `h`    |
//! | `p` | API id, kind of part, name    | one part of an API: itself, a resource, a route, a stage, … |
//! | `z` | API id, deployment id         | what that deployment serves, as it was frozen               |
//!
//! API ids are unique over all accounts: they are host names.

use bytes::Bytes;
use store::keys::{Key, Parts};

/// Kinds of parts. One API never has parts of both kinds of API.
pub(super) mod part {
    /// A REST API itself.
    pub(in crate::apigateway) const REST_API: u8 = b'a';
    /// An HTTP API itself.
    pub(in crate::apigateway) const HTTP_API: u8 = b'b';
    /// A deployment, without what it serves.
    pub(in crate::apigateway) const DEPLOYMENT: u8 = b'd';
    /// An integration of an HTTP API.
    pub(in crate::apigateway) const INTEGRATION: u8 = b'i';
    /// A resource of a REST API with its methods.
    pub(in crate::apigateway) const RESOURCE: u8 = b'r';
    /// A stage.
    pub(in crate::apigateway) const STAGE: u8 = b's';
    /// A route of an HTTP API.
    pub(in crate::apigateway) const ROUTE: u8 = b't';
}

fn under(tag: u8) -> Key {
    Key::new(model::prefixes::APIGATEWAY.byte).tag(tag)
}

/// What the list of an account's APIs of one kind starts with.
pub(super) fn list(account: &str, region: &str, kind: u8) -> Bytes {
    under(b'l').text(account).text(region).tag(kind).done()
}

/// An entry of that list.
pub(super) fn listed(account: &str, region: &str, kind: u8, id: &str) -> Bytes {
    under(b'l').text(account).text(region).tag(kind).text(id).done()
}

/// The API id at the end of a list's key.
pub(super) fn listed_id(key: &[u8]) -> Option<String> {
    let mut parts = Parts::of(key);
    parts.byte()?;
    parts.byte()?;
    parts.text()?;
    parts.text()?;
    parts.byte()?;
    parts.text()
}

/// What all parts of an API start with.
pub(super) fn parts(api: &str) -> Bytes {
    under(b'p').text(api).done()
}

/// What all parts of one kind start with.
pub(super) fn parts_of(api: &str, kind: u8) -> Bytes {
    under(b'p').text(api).tag(kind).done()
}

/// One part of an API.
pub(super) fn part(api: &str, kind: u8, name: &str) -> Bytes {
    under(b'p').text(api).tag(kind).text(name).done()
}

/// The kind and name of a part.
pub(super) fn part_name(key: &[u8]) -> Option<(u8, String)> {
    let mut parts = Parts::of(key);
    parts.byte()?;
    parts.byte()?;
    parts.text()?;
    Some((parts.byte()?, parts.text()?))
}

/// What a deployment serves.
pub(super) fn frozen(api: &str, deployment: &str) -> Bytes {
    under(b'z').text(api).text(deployment).done()
}

/// Everything that answers to the front door depend on.
pub(super) fn watched() -> Bytes {
    under(b'p').done()
}
