//! Numbers, keys and the stored form of items: property tests.

use std::collections::BTreeSet;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use proptest::prelude::*;

use super::super::item::{decode, encode, write_json};
use super::super::keys;
use super::super::number::{Number, NumberError};
use super::super::value::{AttributeValue, Item, item_size, item_to_json};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        (any::<bool>(), "[0-9]{1,38}", -130i32..88).prop_map(|(negative, digits, exponent)| {
            format!("{}{digits}e{exponent}", if negative { "-" } else { "" })
        }),
        "-?[0-9]{1,5}(\\.[0-9]{0,5})?",
        "[-+]?[0-9.eE+-]{0,8}",
    ]
}

fn number() -> impl Strategy<Value = Number> {
    text().prop_filter_map("a number", |text| Number::parse(&text).ok())
}

pub(super) fn value() -> impl Strategy<Value = AttributeValue> {
    let leaf = prop_oneof![
        ".{0,8}".prop_map(AttributeValue::S),
        number().prop_map(AttributeValue::N),
        prop::collection::vec(any::<u8>(), 0..8).prop_map(AttributeValue::B),
        prop::collection::btree_set(".{0,4}", 1..4).prop_map(AttributeValue::Ss),
        prop::collection::btree_set(number(), 1..4).prop_map(AttributeValue::Ns),
        prop::collection::btree_set(prop::collection::vec(any::<u8>(), 0..4), 1..4).prop_map(AttributeValue::Bs),
        any::<bool>().prop_map(AttributeValue::Bool),
        Just(AttributeValue::Null),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(AttributeValue::L),
            prop::collection::btree_map(".{1,4}", inner, 0..4).prop_map(AttributeValue::M),
        ]
    })
}

fn item() -> impl Strategy<Value = Item> {
    prop::collection::btree_map(".{1,6}", value(), 0..5)
}

proptest! {
    #[test]
    fn a_number_keeps_its_value_and_prints_plainly(text in text()) {
        if let Ok(number) = Number::parse(&text) {
            let printed = number.to_string();
            prop_assert_eq!(BigDecimal::from_str(&printed).unwrap(), BigDecimal::from_str(&text).unwrap());
            prop_assert!(!printed.contains(['e', 'E', '+']));
            prop_assert_eq!(Number::parse(&printed), Ok(number));
            prop_assert_eq!(number.to_decimal(), BigDecimal::from_str(&text).unwrap());
        }
    }

    #[test]
    fn encoded_numbers_sort_as_their_values(a in number(), b in number(), tail: Vec<u8>) {
        let encoded = |number: Number| { let mut out = Vec::new(); number.encode(&mut out); out };
        let order = a.to_decimal().cmp(&b.to_decimal());
        prop_assert_eq!(a.cmp(&b), order);
        prop_assert_eq!(encoded(a).cmp(&encoded(b)), order);
        let mut bytes = encoded(a);
        bytes.extend(&tail);
        prop_assert_eq!(Number::decode(&bytes), Some((a, &tail[..])));
    }

    #[test]
    fn sums_are_exact_or_refused(a in number(), b in number()) {
        let exact = a.to_decimal() + b.to_decimal();
        match a.add(b) {
            Ok(sum) => prop_assert_eq!(sum.to_decimal(), exact),
            Err(NumberError::Digits) => prop_assert!(exact.normalized().digits() > 38),
            Err(_) => {}
        }
        if let (Ok(sum), Ok(back)) = (a.add(b), a.add(b).and_then(|sum| sum.subtract(b))) {
            prop_assert_eq!(back, a, "{} - {}", sum, b);
        }
    }

    #[test]
    fn an_item_comes_back_from_its_stored_form(item in item()) {
        prop_assert_eq!(decode(&encode(&item)), Some(item));
    }

    #[test]
    fn an_item_is_written_as_json_at_once(item in item(), before: Vec<u8>) {
        let mut out = before.clone();
        prop_assert_eq!(write_json(&encode(&item), &mut out), Some(item_size(&item)));
        let (first, text) = out.split_at(before.len());
        prop_assert_eq!(first, &before);
        let expected = item_to_json(&item).to_string();
        prop_assert_eq!(text, expected.as_bytes());
        prop_assert_eq!(text, serde_json::to_vec(&item).unwrap());
    }

    #[test]
    fn a_value_comes_back_from_json(value in value()) {
        prop_assert_eq!(AttributeValue::from_json(&value.to_json()).unwrap(), value);
    }

    #[test]
    fn damaged_items_are_told_from_whole_ones(item in item(), at: prop::sample::Index, flip in 1u8..) {
        let mut bytes = encode(&item);
        let at = at.index(bytes.len());
        let _ = decode(&bytes[..at]).inspect(|_| panic!("a part was taken for the whole"));
        prop_assert_eq!(write_json(&bytes[..at], &mut Vec::new()), None);
        bytes[at] ^= flip;
        prop_assert_eq!(write_json(&bytes, &mut Vec::new()).is_some(), decode(&bytes).is_some());
    }

    #[test]
    fn noise_is_no_item_and_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(write_json(&noise, &mut Vec::new()).is_some(), decode(&noise).is_some());
        let _ = Number::decode(&noise);
    }

    #[test]
    fn keys_of_partitions_never_mix(a: Vec<u8>, b: Vec<u8>, x: Vec<u8>, y: Vec<u8>) {
        let (pa, pb) = (keys::partition(7, &a), keys::partition(7, &b));
        prop_assert_eq!(pa == pb, a == b);
        if a != b {
            prop_assert!(!keys::item(&pb, Some(&y)).starts_with(&pa));
        }
        prop_assert_eq!(keys::item(&pa, Some(&x)).cmp(&keys::item(&pa, Some(&y))), x.cmp(&y));
    }

    #[test]
    fn every_key_lies_in_one_segment(partition: Vec<u8>, segments in 1u64..50) {
        let key = keys::item(&keys::partition(7, &partition), None);
        let holding = (0..segments).filter(|segment| keys::segment(7, *segment, segments).contains(&key)).count();
        prop_assert_eq!(holding, 1);
    }
}

#[test]
fn the_ends_of_the_range_are_exact() {
    let most = format!("{}E+88", "9".repeat(38));
    assert!(Number::parse(&most).is_ok());
    assert_eq!(Number::parse("1E126"), Err(NumberError::Overflow));
    assert!(Number::parse("1E-130").is_ok() && Number::parse("-1E-130").is_ok());
    assert_eq!(Number::parse("9E-131"), Err(NumberError::Underflow));
    assert_eq!(Number::parse(&"9".repeat(39)), Err(NumberError::Digits));
    assert_eq!(Number::parse(&format!("{}.0", "0".repeat(60))), Ok(Number::ZERO));
    assert_eq!(Number::parse("-0").unwrap().to_string(), "0");
    assert_eq!(Number::parse("1e99999999999999999999"), Err(NumberError::Overflow));
    assert_eq!(Number::parse("1e-99999999999999999999"), Err(NumberError::Underflow));
    let one = Number::from_u64(1);
    let nines = Number::parse(&"9".repeat(38)).unwrap();
    assert_eq!(nines.add(one).unwrap().to_string(), format!("1{}", "0".repeat(38)));
    let ten = Number::parse("1E38").unwrap();
    assert_eq!(ten.subtract(one).unwrap(), nines);
    for wrong in ["", "-", ".", "1.2.3", "1e", "0x1", " 1", "1 ", "NaN", "Infinity", "١"] {
        assert!(Number::parse(wrong).is_err(), "{wrong}");
    }
    for right in ["1.", ".5", "+1", "1e+2", "001"] {
        assert!(Number::parse(right).is_ok(), "{right}");
    }
}

#[test]
fn a_number_has_a_byte_for_each_two_digits_before_and_after_its_point() {
    for (text, size) in [
        ("0", 1),
        ("1", 2),
        ("12", 2),
        ("123", 3),
        ("1234", 3),
        ("12345678901234567890123456789012345678", 20),
        ("0042", 2),
        ("100", 2),
        ("1010", 3),
        ("0.0000001", 2),
        ("1E125", 2),
        ("1E-100", 2),
        ("1.5", 3),
        ("1.200", 3),
        ("1.234", 4),
        ("3.14159", 5),
        ("123456", 4),
        ("-1", 3),
        ("-1.5", 4),
    ] {
        assert_eq!(Number::parse(text).unwrap().size(), size, "{text}");
    }
}

#[test]
fn sets_of_numbers_hold_each_value_once() {
    let set: BTreeSet<Number> = ["1", "1.0", "1e0"].iter().map(|text| Number::parse(text).unwrap()).collect();
    assert_eq!(set.len(), 1);
}
