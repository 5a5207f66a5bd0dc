//! Every key of the `lambda` service. Nobody else builds one.
//!
//! | tag | parts                         | value                                                       |
//! |-----|-------------------------------|-------------------------------------------------------------|
//! | `f` | account, region, name         | `FunctionRecord`: all that belongs to a function but `v`    |
//! | `v` | account, region, name, number | `VersionRecord`: a published version                        |
//! | `u` | function URL id               | `UrlOwner`: whose URL it is                                 |
//! | `p` | package digest                | `PackageRecord`: where its bytes are, its users             |
//! | `d` | due time, blob name           | `Doomed`: a package that may end from then on               |
//! | `l` | account, region, layer        | `LayerRecord`: the number of its next version               |
//! | `m` | account, region, layer, number | `LayerVersionRecord`: a version of a layer                 |
//! | `c` | account, region, id           | `CodeSigningRecord`: a code signing configuration           |
//! | `g` | account, region, id, name     | nothing: this function has that configuration               |
//! | `s` |                               | 32 random bytes that sign package links                     |
//! | `e` | account, region, UUID         | `MappingRecord`: an event source mapping                    |
//! | `q` | account, region, source ARN, function ARN | the UUID of the mapping of both                 |
//! | `i` | image, tag                    | `PushedImage`: an image of the platform's own               |
//! | `r` | account, region, UUID         | how the last batch of a mapping has ended, in words         |

use bytes::Bytes;
use model::{AccountId, CodeDigest, FunctionName, FunctionRef, Region};
use store::keys::{Key, Parts};

use super::code_signing::CodeSigningRef;
use super::layer::{LayerRef, LayerVersionRef};
use super::mapping::MappingRef;

fn under(tag: u8) -> Key {
    Key::new(model::prefixes::LAMBDA.byte).tag(tag)
}

/// What the keys of records with environment variables start with: functions and their published versions.
pub fn secret_records() -> [Bytes; 2] {
    [b'f', b'v'].map(|tag| under(tag).done())
}

/// The function's own record.
pub(super) fn function(function: &FunctionRef) -> Bytes {
    under(b'f').text(function.account.as_str()).text(function.region.as_str()).text(function.name.as_str()).done()
}

/// What the keys of all functions of one account and region start with.
pub(super) fn functions(account: &str, region: &str) -> Bytes {
    under(b'f').text(account).text(region).done()
}

/// What the keys of all functions of one account start with.
pub(super) fn functions_of(account: &str) -> Bytes {
    under(b'f').text(account).done()
}

/// The account of a function's key.
pub(super) fn account_of(key: &[u8]) -> Option<AccountId> {
    function_of(key).map(|function| function.account)
}

/// The function of its key.
pub(super) fn function_of(key: &[u8]) -> Option<FunctionRef> {
    let mut parts = Parts::of(key);
    let own = parts.byte()? == model::prefixes::LAMBDA.byte && parts.byte()? == b'f';
    let function = FunctionRef {
        account: AccountId::parse(&parts.text()?)?,
        region: Region::parse(&parts.text()?)?,
        name: FunctionName::parse(&parts.text()?)?,
        qualifier: None,
    };
    own.then_some(function)
}

/// A published version of a function.
pub(super) fn version(function: &FunctionRef, number: u64) -> Bytes {
    versions_key(function).number(number).done()
}

/// What the keys of all published versions of a function start with.
pub(super) fn versions(function: &FunctionRef) -> Bytes {
    versions_key(function).done()
}

/// What the keys of all published versions of one account and region start with.
pub(super) fn versions_of(account: &str, region: &str) -> Bytes {
    under(b'v').text(account).text(region).done()
}

fn versions_key(function: &FunctionRef) -> Key {
    under(b'v').text(function.account.as_str()).text(function.region.as_str()).text(function.name.as_str())
}

/// The number at the end of a published version's key.
pub(super) fn number_of(key: &[u8]) -> Option<u64> {
    beyond_texts(b'v', 3, key)?.number()
}

/// What follows the first texts of a key with this tag.
fn beyond_texts(tag: u8, texts: usize, key: &[u8]) -> Option<Parts<'_>> {
    let mut parts = Parts::of(key);
    let own = parts.byte()? == model::prefixes::LAMBDA.byte && parts.byte()? == tag;
    (0..texts).try_for_each(|_| parts.text().map(drop))?;
    own.then_some(parts)
}

/// The owner of a function URL.
pub(super) fn url(id: &str) -> Bytes {
    under(b'u').text(id).done()
}

/// A code package.
pub(super) fn package(code: &CodeDigest) -> Bytes {
    under(b'p').text(code.as_str()).done()
}

/// All code packages.
pub(super) fn packages() -> Bytes {
    under(b'p').done()
}

/// The package with this blob ends at `due_ms`.
pub(super) fn doomed(due_ms: u64, blob: &str) -> Bytes {
    under(b'd').number(due_ms).text(blob).done()
}

/// Everything that is due up to and including `now_ms`: from the first key to the last, as a start and an end.
pub(super) fn doomed_until(now_ms: u64) -> (Bytes, Bytes) {
    (under(b'd').done(), under(b'd').number(now_ms.saturating_add(1)).done())
}

/// A layer.
pub(super) fn layer(layer: &LayerRef) -> Bytes {
    of_layer(b'l', layer).done()
}

/// What the keys of all layers of one account and region start with.
pub(super) fn layers(account: &str, region: &str) -> Bytes {
    under(b'l').text(account).text(region).done()
}

/// The name of the layer of a layer's key.
pub(super) fn layer_name_of(key: &[u8]) -> Option<String> {
    beyond_texts(b'l', 2, key)?.text()
}

/// A version of a layer.
pub(super) fn layer_version(version: &LayerVersionRef) -> Bytes {
    of_layer(b'm', &version.layer).number(version.number).done()
}

/// What the keys of all versions of a layer start with.
pub(super) fn layer_versions(layer: &LayerRef) -> Bytes {
    of_layer(b'm', layer).done()
}

/// What the keys of all versions of layers of one account and region start with.
pub(super) fn layer_versions_of(account: &str, region: &str) -> Bytes {
    under(b'm').text(account).text(region).done()
}

/// The number at the end of a layer version's key.
pub(super) fn layer_number_of(key: &[u8]) -> Option<u64> {
    beyond_texts(b'm', 3, key)?.number()
}

fn of_layer(tag: u8, layer: &LayerRef) -> Key {
    under(tag).text(layer.account.as_str()).text(layer.region.as_str()).text(&layer.name)
}

/// An event source mapping.
pub(super) fn mapping(mapping: &MappingRef) -> Bytes {
    of_mapping(b'e', mapping).text(&mapping.uuid).done()
}

/// All event source mappings.
pub(super) fn mappings() -> Bytes {
    under(b'e').done()
}

/// What the keys of all event source mappings of one account and region start with.
pub(super) fn mappings_of(account: &str, region: &str) -> Bytes {
    under(b'e').text(account).text(region).done()
}

/// The event source mapping of its key.
pub(super) fn mapping_of(key: &[u8]) -> Option<MappingRef> {
    let mut parts = beyond_texts(b'e', 0, key)?;
    let (account, region) = (AccountId::parse(&parts.text()?)?, Region::parse(&parts.text()?)?);
    Some(MappingRef { account, region, uuid: parts.text()? })
}

/// The mapping of a source and a function.
pub(super) fn mapping_pair(mapping: &MappingRef, source: &str, function: &FunctionRef) -> Bytes {
    of_mapping(b'q', mapping).text(source).text(&function.arn()).done()
}

/// How the last batch of a mapping has ended.
pub(super) fn mapping_result(mapping: &MappingRef) -> Bytes {
    of_mapping(b'r', mapping).text(&mapping.uuid).done()
}

fn of_mapping(tag: u8, mapping: &MappingRef) -> Key {
    under(tag).text(mapping.account.as_str()).text(mapping.region.as_str())
}

/// A code signing configuration.
pub(super) fn code_signing(config: &CodeSigningRef) -> Bytes {
    of_code_signing(b'c', config).done()
}

/// What the keys of all code signing configurations of one account and region start with.
pub(super) fn code_signings(account: &str, region: &str) -> Bytes {
    under(b'c').text(account).text(region).done()
}

/// The id of a code signing configuration's key.
pub(super) fn code_signing_id_of(key: &[u8]) -> Option<String> {
    beyond_texts(b'c', 2, key)?.text()
}

/// This function has that code signing configuration.
pub(super) fn code_signing_user(config: &CodeSigningRef, function: &FunctionName) -> Bytes {
    of_code_signing(b'g', config).text(function.as_str()).done()
}

/// What the keys of all functions with a code signing configuration start with.
pub(super) fn code_signing_users(config: &CodeSigningRef) -> Bytes {
    of_code_signing(b'g', config).done()
}

/// The function's name in the key that says what it has.
pub(super) fn code_signing_user_of(key: &[u8]) -> Option<String> {
    beyond_texts(b'g', 3, key)?.text()
}

fn of_code_signing(tag: u8, config: &CodeSigningRef) -> Key {
    under(tag).text(config.account.as_str()).text(config.region.as_str()).text(&config.id)
}

/// An image of the platform's own.
pub(super) fn image(name: &str, tag: &str) -> Bytes {
    under(b'i').text(name).text(tag).done()
}

/// All images of the platform's own.
pub(super) fn images() -> Bytes {
    under(b'i').done()
}

/// Name and tag of an image's key.
pub(super) fn image_of(key: &[u8]) -> Option<(String, String)> {
    let mut parts = beyond_texts(b'i', 0, key)?;
    Some((parts.text()?, parts.text()?))
}

/// The secret that signs package links.
pub(super) fn link_secret() -> Bytes {
    under(b's').done()
}

/// Everything that answers of the catalog depend on.
pub(super) fn watched() -> Bytes {
    under(b'f').done()
}
