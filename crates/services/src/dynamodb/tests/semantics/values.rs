//! Values of the model, of each type that tables have, and how they come about.
//!
//! Nothing here knows the service's own values: numbers are whole thousandths, and a text of JSON is all that both sides share.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

/// Named values.
pub(super) type Item = BTreeMap<&'static str, Value>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    S(&'static str),
    /// In thousandths.
    N(i64),
    B(Vec<u8>),
    Ss(BTreeSet<&'static str>),
    Ns(BTreeSet<i64>),
    Bs(BTreeSet<Vec<u8>>),
    Bool(bool),
    Null,
    L(Vec<Value>),
    M(Item),
}

/// A number as the service answers it.
pub(super) fn plain(thousandths: i64) -> String {
    let (whole, rest) = (thousandths.abs() / 1_000, thousandths.abs() % 1_000);
    let sign = if thousandths < 0 { "-" } else { "" };
    if rest == 0 {
        return format!("{sign}{whole}");
    }
    let digits = format!("{rest:03}");
    format!("{sign}{whole}.{}", digits.trim_end_matches('0'))
}

/// The same as nobody answers it but everybody may send it.
fn odd(thousandths: i64) -> String {
    let (whole, rest) = (thousandths.abs() / 1_000, thousandths.abs() % 1_000);
    let sign = if thousandths < 0 { "-" } else { "" };
    if whole % 2 == 0 { format!("{thousandths}E-3") } else { format!("{sign}0{whole}.{rest:03}00") }
}

fn number_size(thousandths: i64) -> usize {
    let (whole, rest) = (thousandths.abs() / 1_000, format!("{:03}", thousandths.abs() % 1_000));
    let (whole, rest) = (whole.to_string(), rest.trim_end_matches('0'));
    let (whole, rest) = match (whole.as_str(), rest) {
        ("0", rest) => ("", rest.trim_start_matches('0')),
        (whole, "") => (whole.trim_end_matches('0'), ""),
        both => both,
    };
    whole.len().div_ceil(2) + rest.len().div_ceil(2) + 1 + usize::from(thousandths < 0)
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
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

    /// Bytes that count towards an item's size.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::S(text) => text.len(),
            Self::N(number) => number_size(*number),
            Self::B(bytes) => bytes.len(),
            Self::Ss(set) => set.iter().map(|text| text.len()).sum(),
            Self::Ns(set) => set.iter().map(|number| number_size(*number)).sum(),
            Self::Bs(set) => set.iter().map(Vec::len).sum(),
            Self::Bool(_) | Self::Null => 1,
            Self::L(list) => 3 + list.iter().map(|one| 1 + one.bytes()).sum::<usize>(),
            Self::M(map) => 3 + map.len() + item_bytes(map),
        }
    }

    /// What `size()` says.
    pub(super) fn length(&self) -> Option<usize> {
        match self {
            Self::S(text) => Some(text.encode_utf16().count()),
            Self::B(bytes) => Some(bytes.len()),
            Self::Ss(set) => Some(set.len()),
            Self::Ns(set) => Some(set.len()),
            Self::Bs(set) => Some(set.len()),
            Self::L(list) => Some(list.len()),
            Self::M(map) => Some(map.len()),
            Self::N(_) | Self::Bool(_) | Self::Null => None,
        }
    }

    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::S(a), Self::S(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Self::N(a), Self::N(b)) => Some(a.cmp(b)),
            (Self::B(a), Self::B(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.order(self).is_some()
    }

    /// As the service answers it.
    pub(super) fn json(&self) -> Json {
        self.written(plain)
    }

    /// As a client may send it.
    pub(super) fn sent(&self) -> Json {
        self.written(odd)
    }

    fn written(&self, number: fn(i64) -> String) -> Json {
        let binary = |bytes: &Vec<u8>| BASE64.encode(bytes);
        match self {
            Self::S(text) => json!({ "S": text }),
            Self::N(one) => json!({ "N": number(*one) }),
            Self::B(bytes) => json!({ "B": binary(bytes) }),
            Self::Ss(set) => json!({ "SS": set }),
            Self::Ns(set) => json!({ "NS": set.iter().map(|one| number(*one)).collect::<Vec<_>>() }),
            Self::Bs(set) => json!({ "BS": set.iter().map(binary).collect::<Vec<_>>() }),
            Self::Bool(flag) => json!({ "BOOL": flag }),
            Self::Null => json!({ "NULL": true }),
            Self::L(list) => json!({ "L": list.iter().map(|one| one.written(number)).collect::<Vec<_>>() }),
            Self::M(map) => {
                let members = map.iter().map(|(name, value)| ((*name).to_owned(), value.written(number)));
                json!({ "M": members.collect::<Map<_, _>>() })
            }
        }
    }
}

pub(super) fn item_bytes(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value.bytes()).sum()
}

pub(super) fn item_json(item: &Item) -> Json {
    Value::M(item.clone()).json()["M"].clone()
}

pub(super) fn item_sent(item: &Item) -> Json {
    Value::M(item.clone()).sent()["M"].clone()
}

/// The same with the members of sets in one order, since they have none.
pub(super) fn canonical(json: &Json) -> Json {
    match json {
        Json::Array(list) => Json::Array(list.iter().map(canonical).collect()),
        Json::Object(members) => {
            let member = |(name, member): (&String, &Json)| {
                let mut member = canonical(member);
                if let ("SS" | "NS" | "BS", Json::Array(set)) = (name.as_str(), &mut member) {
                    set.sort_by_key(|one| one.as_str().unwrap().to_owned());
                }
                (name.clone(), member)
            };
            Json::Object(members.iter().map(member).collect())
        }
        other => other.clone(),
    }
}

/// Attributes that may have any value.
pub(super) const NAMES: [&str; 5] = ["a", "b", "l", "m", "name"];
/// What maps have.
pub(super) const MEMBERS: [&str; 3] = ["x", "y", "name"];

pub(super) fn text() -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(vec!["a", "ab", "b", "", "ß", "𝄞", "it's"])
}

pub(super) fn number() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![6 => (-1i64..=3).prop_map(|whole| whole * 1_000), 1 => -2_500i64..2_500, 1 => -99_999i64..99_999]
}

pub(super) fn binary() -> impl Strategy<Value = Vec<u8>> + Clone {
    prop::collection::vec(0u8..3, 0..3)
}

/// One that has an order.
pub(super) fn ordered() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![
        2 => text().prop_map(Value::S),
        3 => number().prop_map(Value::N),
        1 => binary().prop_map(Value::B),
    ]
}

pub(super) fn set() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![
        prop::collection::btree_set(text(), 1..4).prop_map(Value::Ss),
        prop::collection::btree_set(number(), 1..4).prop_map(Value::Ns),
        prop::collection::btree_set(binary(), 1..4).prop_map(Value::Bs),
    ]
}

pub(super) fn list_of(of: impl Strategy<Value = Value> + Clone) -> impl Strategy<Value = Value> + Clone {
    prop_oneof![1 => Just(0usize..1), 8 => Just(2..4)]
        .prop_flat_map(move |length| prop::collection::vec(of.clone(), length))
        .prop_map(Value::L)
}

pub(super) fn map_of(of: impl Strategy<Value = Value> + Clone) -> impl Strategy<Value = Value> + Clone {
    prop::collection::btree_map(prop::sample::select(&MEMBERS[..]), of, 0..6).prop_map(Value::M)
}

fn leaf() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![5 => ordered(), 1 => any::<bool>().prop_map(Value::Bool), 1 => Just(Value::Null), 2 => set()]
}

fn nested() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![3 => leaf(), 1 => list_of(leaf()), 1 => map_of(leaf())]
}

pub(super) fn value() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![4 => leaf(), 2 => list_of(nested()), 2 => map_of(nested())]
}

/// What an item has besides its keys: a list, a map and what indexes want are mostly there, and mostly fit.
pub(super) fn content() -> impl Strategy<Value = Item> {
    let maybe = |often: f64, one: BoxedStrategy<Value>| prop::option::weighted(often, one);
    let kind = prop_oneof![40 => kind().prop_map(Value::S), 1 => Just(Value::S("")), 1 => Just(Value::N(1_000))];
    let rank = prop_oneof![40 => rank().prop_map(Value::N), 1 => Just(Value::Null)];
    let list = prop_oneof![9 => list_of(nested()), 1 => value()];
    let map = prop_oneof![9 => map_of(nested()), 1 => value()];
    (
        maybe(0.7, prop_oneof![1 => number().prop_map(Value::N), 1 => value()].boxed()),
        maybe(0.5, prop_oneof![1 => set(), 1 => value()].boxed()),
        maybe(0.9, list.boxed()),
        maybe(0.9, map.boxed()),
        maybe(0.5, value().boxed()),
        maybe(0.8, kind.boxed()),
        maybe(0.8, rank.boxed()),
    )
        .prop_map(|(a, b, l, m, name, kind, rank)| {
            let names = NAMES.into_iter().chain(["kind", "rank"]);
            let values = [a, b, l, m, name, kind, rank];
            names.zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
        })
}

/// A hash key of the tables.
pub(super) fn id() -> impl Strategy<Value = &'static str> + Clone {
    prop_oneof![4 => Just("p"), 2 => Just("q"), 1 => Just("qq")]
}

/// A sort key of the table that has one.
pub(super) fn at() -> impl Strategy<Value = i64> + Clone {
    prop::sample::select(vec![-10_000i64, -1_500, 0, 2_000])
}

/// A key of indexes.
pub(super) fn kind() -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(vec!["k", "kk"])
}

/// Another one.
pub(super) fn rank() -> impl Strategy<Value = i64> + Clone {
    prop::sample::select(vec![-2_000i64, 0, 500])
}
