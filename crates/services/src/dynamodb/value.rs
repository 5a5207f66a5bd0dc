//! Attribute values: the ten types, their JSON, their checks, their sizes, their order.
//!
//! Not here: how an item lies in the store (`item`), what an expression does with values (`expression`).
//!
//! Invariants
//!   1. A value that was read from JSON is valid: numbers in range, sets neither empty nor with duplicates, nesting at most 32.
//!   2. Statements and updates can nest values anew: `check_item` is asked before any item is written, so that whatever is
//!      stored can be read again.
//!   3. Nesting is counted as `AttributeValue::depth` does, everywhere.
//!   4. Messages of refusals and their order are DynamoDB's.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value as Json};

use super::error::{Error, Result, invalid};
use super::number::Number;

/// Deepest nesting of lists and maps.
pub(super) const DEPTH_MAX: usize = 32;
/// Most bytes of an item: names and values.
pub(super) const ITEM_BYTES_MAX: usize = 409_600;
/// Most bytes of an attribute's name.
pub(super) const NAME_BYTES_MAX: usize = 65_535;

const PARAMETERS: &str = "One or more parameter values were invalid: ";

/// An item, or any map of named values.
pub(super) type Item = BTreeMap<String, AttributeValue>;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AttributeValue {
    /// String.
    S(String),
    /// Number.
    N(Number),
    /// Binary.
    B(Vec<u8>),
    /// String set.
    Ss(BTreeSet<String>),
    /// Number set.
    Ns(BTreeSet<Number>),
    /// Binary set.
    Bs(BTreeSet<Vec<u8>>),
    /// Boolean.
    Bool(bool),
    /// Null.
    Null,
    /// List.
    L(Vec<AttributeValue>),
    /// Map.
    M(Item),
}

impl AttributeValue {
    /// `S`, `N`, … as in JSON.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::S(_) => "S",
            Self::N(_) => "N",
            Self::B(_) => "B",
            Self::Ss(_) => "SS",
            Self::Ns(_) => "NS",
            Self::Bs(_) => "BS",
            Self::Bool(_) => "BOOL",
            Self::Null => "NULL",
            Self::L(_) => "L",
            Self::M(_) => "M",
        }
    }

    /// Reads and checks DynamoDB's JSON form.
    pub(super) fn from_json(json: &Json) -> Result<Self> {
        read(json, 0)
    }

    /// DynamoDB's JSON form.
    pub(super) fn to_json(&self) -> Json {
        // Maps with names for keys always serialise.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Bytes that count towards an item's size.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::S(text) => text.len(),
            Self::N(number) => number.size(),
            Self::B(bytes) => bytes.len(),
            Self::Ss(set) => set.iter().map(String::len).sum(),
            Self::Ns(set) => set.iter().map(Number::size).sum(),
            Self::Bs(set) => set.iter().map(Vec::len).sum(),
            Self::Bool(_) | Self::Null => 1,
            Self::L(list) => 3 + list.iter().map(|value| 1 + value.size()).sum::<usize>(),
            Self::M(map) => 3 + map.iter().map(|(name, value)| 1 + name.len() + value.size()).sum::<usize>(),
        }
    }

    /// Order of two values of one scalar type that has an order (S, N, B); nothing otherwise.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::S(a), Self::S(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Self::N(a), Self::N(b)) => Some(a.cmp(b)),
            (Self::B(a), Self::B(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// How deep lists and maps nest: a scalar is 0.
    pub(super) fn depth(&self) -> usize {
        match self {
            Self::L(list) => 1 + list.iter().map(Self::depth).max().unwrap_or(0),
            Self::M(map) => 1 + map.values().map(Self::depth).max().unwrap_or(0),
            _ => 0,
        }
    }
}

/// DynamoDB's JSON form.
impl Serialize for AttributeValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        let name = self.type_name();
        match self {
            Self::S(text) => map.serialize_entry(name, text),
            Self::N(number) => map.serialize_entry(name, number),
            Self::B(bytes) => map.serialize_entry(name, &BASE64.encode(bytes)),
            Self::Ss(set) => map.serialize_entry(name, set),
            Self::Ns(set) => map.serialize_entry(name, set),
            Self::Bs(set) => {
                map.serialize_entry(name, &set.iter().map(|bytes| BASE64.encode(bytes)).collect::<Vec<_>>())
            }
            Self::Bool(flag) => map.serialize_entry(name, flag),
            Self::Null => map.serialize_entry(name, &true),
            Self::L(list) => map.serialize_entry(name, list),
            Self::M(item) => map.serialize_entry(name, item),
        }?;
        map.end()
    }
}

/// An item's size in bytes: names and values.
pub(super) fn item_size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value.size()).sum()
}

/// Reads a map of attribute values.
pub(super) fn item_from_json(json: &Map<String, Json>) -> Result<Item> {
    json.iter().map(|(name, value)| Ok((checked_name(name)?, AttributeValue::from_json(value)?))).collect()
}

/// Refuses an item that nests too deep or has a name that none may have.
pub(super) fn check_item(item: &Item) -> Result<()> {
    check_map(item, 0)
}

fn check_map(map: &Item, depth: usize) -> Result<()> {
    map.iter().try_for_each(|(name, value)| check_name(name).and_then(|()| check_value(value, depth)))
}

fn check_value(value: &AttributeValue, depth: usize) -> Result<()> {
    match value {
        AttributeValue::L(_) | AttributeValue::M(_) if depth >= DEPTH_MAX => Err(too_deep()),
        AttributeValue::L(list) => list.iter().try_for_each(|value| check_value(value, depth + 1)),
        AttributeValue::M(map) => check_map(map, depth + 1),
        _ => Ok(()),
    }
}

/// The refusal of nesting beyond `DEPTH_MAX`.
pub(super) fn too_deep() -> Error {
    Error::validation("Nesting Levels have exceeded supported limits")
}

/// Writes a map of attribute values.
pub(super) fn item_to_json(item: &Item) -> Json {
    Json::Object(item.iter().map(|(name, value)| (name.clone(), value.to_json())).collect())
}

/// Refuses a name that no attribute may have.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return invalid(format!("{PARAMETERS}Empty attribute name"));
    }
    if name.len() > NAME_BYTES_MAX {
        return invalid(format!("{PARAMETERS}Attribute names must have 1 to {NAME_BYTES_MAX} bytes"));
    }
    Ok(())
}

fn checked_name(name: &str) -> Result<String> {
    check_name(name).map(|()| name.into())
}

fn read(json: &Json, depth: usize) -> Result<AttributeValue> {
    let Some(members) = json.as_object() else {
        return Err(Error::serialization("Unexpected field type"));
    };
    // A member that is null is one that was not sent.
    let mut found = None;
    let mut count = 0;
    for (name, member) in members.iter().filter(|(_, member)| !member.is_null()) {
        let value = read_member(name, member, depth)?;
        count += 1;
        found = Some(value);
    }
    match found {
        None => invalid("Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"),
        Some(_) if count > 1 => invalid(
            "Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes",
        ),
        Some(value) => Ok(value),
    }
}

fn read_member(name: &str, member: &Json, depth: usize) -> Result<AttributeValue> {
    let text = || member.as_str().ok_or_else(|| Error::serialization("Unexpected field type"));
    if matches!(name, "L" | "M") && depth >= DEPTH_MAX {
        return Err(too_deep());
    }
    match name {
        "S" => Ok(AttributeValue::S(text()?.into())),
        "N" => Ok(AttributeValue::N(read_number(text()?)?)),
        "B" => Ok(AttributeValue::B(read_binary(text()?)?)),
        "SS" => read_string_set(member),
        "NS" => read_number_set(member),
        "BS" => read_binary_set(member),
        "BOOL" => {
            let flag = member.as_bool().ok_or_else(|| Error::serialization("Unexpected field type"))?;
            Ok(AttributeValue::Bool(flag))
        }
        "NULL" => match member.as_bool() {
            Some(true) => Ok(AttributeValue::Null),
            Some(false) => invalid(format!("{PARAMETERS}Null attribute value types must have the value of true")),
            None => Err(Error::serialization("Unexpected field type")),
        },
        "L" => {
            let list = member.as_array().ok_or_else(|| Error::serialization("Unexpected field type"))?;
            Ok(AttributeValue::L(list.iter().map(|value| read(value, depth + 1)).collect::<Result<_>>()?))
        }
        "M" => {
            let map = member.as_object().ok_or_else(|| Error::serialization("Unexpected field type"))?;
            let pairs = map.iter().map(|(name, value)| Ok((checked_name(name)?, read(value, depth + 1)?)));
            Ok(AttributeValue::M(pairs.collect::<Result<_>>()?))
        }
        _ => invalid("Supplied AttributeValue is empty, must contain exactly one of the supported datatypes"),
    }
}

fn read_number(text: &str) -> Result<Number> {
    Number::parse(text).map_err(|error| Error::validation(error.to_string()))
}

fn read_binary(text: &str) -> Result<Vec<u8>> {
    BASE64.decode(text).map_err(|_| Error::serialization("Invalid base64 in a binary value"))
}

fn texts(member: &Json) -> Result<Vec<&str>> {
    let list = member.as_array().ok_or_else(|| Error::serialization("Unexpected field type"))?;
    list.iter().map(|text| text.as_str().ok_or_else(|| Error::serialization("Unexpected field type"))).collect()
}

fn read_string_set(member: &Json) -> Result<AttributeValue> {
    let list = texts(member)?;
    if list.is_empty() {
        return invalid(format!("{PARAMETERS}An string set  may not be empty"));
    }
    let set: BTreeSet<String> = list.iter().map(|text| (*text).into()).collect();
    if set.len() < list.len() {
        return invalid(format!("{PARAMETERS}Input collection [{}] contains duplicates.", list.join(", ")));
    }
    Ok(AttributeValue::Ss(set))
}

fn read_number_set(member: &Json) -> Result<AttributeValue> {
    let list = texts(member)?;
    if list.is_empty() {
        return invalid(format!("{PARAMETERS}An number set  may not be empty"));
    }
    let set = list.iter().map(|text| read_number(text)).collect::<Result<BTreeSet<Number>>>()?;
    if set.len() < list.len() {
        return invalid("Input collection contains duplicates");
    }
    Ok(AttributeValue::Ns(set))
}

fn read_binary_set(member: &Json) -> Result<AttributeValue> {
    let list = texts(member)?;
    if list.is_empty() {
        return invalid(format!("{PARAMETERS}Binary sets should not be empty"));
    }
    let set = list.iter().map(|text| read_binary(text)).collect::<Result<BTreeSet<Vec<u8>>>>()?;
    if set.len() < list.len() {
        let all = list.join(", ");
        return invalid(format!("{PARAMETERS}Input collection [{all}]of type BS contains duplicates."));
    }
    Ok(AttributeValue::Bs(set))
}
