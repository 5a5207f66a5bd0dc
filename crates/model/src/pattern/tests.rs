//! What matches and what does not, rule by rule; and that patterns and documents of any kind keep what the rules say.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pattern(value: &Value) -> Pattern {
    Pattern::parse(&value.to_string()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

fn check(pattern: Value, matching: &[Value], others: &[Value]) {
    let read = self::pattern(&pattern);
    for document in matching {
        assert!(read.matches(document), "{pattern} does not match {document}");
    }
    for document in others {
        assert!(!read.matches(document), "{pattern} matches {document}");
    }
}

/// A pattern of one rule for the key `a`, and values of `a` that match and that do not.
fn check_rule(rule: Value, matching: &[Value], others: &[Value]) {
    let of = |values: &[Value]| values.iter().map(|value| json!({"a": value})).collect::<Vec<_>>();
    check(json!({"a": [rule]}), &of(matching), &of(others));
}

#[test]
fn all_keys_must_match_and_one_of_a_list() {
    let wanted = json!({"a": ["x", "y"], "b": {"c": [1]}});
    check(
        wanted,
        &[json!({"a": "x", "b": {"c": 1}, "d": 0}), json!({"a": ["q", "y"], "b": {"c": [2, 1.0]}})],
        &[
            json!({"a": "x"}),
            json!({"a": "z", "b": {"c": 1}}),
            json!({"a": "x", "b": {"c": "1"}}),
            json!({}),
            json!([]),
        ],
    );
    check(
        json!({"a": {"b": [1], "c": [2]}}),
        &[json!({"a": [{"b": 0}, {"b": 1, "c": 2}]})],
        &[json!({"a": [{"b": 1}, {"c": 2}]})],
    );
    check(json!({}), &[json!({}), json!({"a": 1})], &[]);
}

#[test]
fn values_are_compared_by_type() {
    check_rule(json!("1"), &[json!("1")], &[json!(1), json!("1 "), json!({"1": 1})]);
    check_rule(json!(300), &[json!(300), json!(300.0), json!(3.0e2)], &[json!("300"), json!(301)]);
    check_rule(json!(true), &[json!(true)], &[json!(false), json!("true"), json!(1)]);
    check_rule(json!(null), &[Value::Null, json!([1, null])], &[json!(""), json!(0), json!([])]);
    check_rule(json!(""), &[json!("")], &[Value::Null, json!(" ")]);
    check(json!({"a": [null]}), &[], &[json!({})]);
    check(json!({"A": [1]}), &[], &[json!({"a": 1})]);
}

#[test]
fn texts_are_matched_by_their_parts() {
    check_rule(json!({"prefix": "ab"}), &[json!("ab"), json!("abc")], &[json!("a"), json!("Abc"), json!(1)]);
    check_rule(json!({"prefix": {"equals-ignore-case": "aB"}}), &[json!("Abc")], &[json!("b")]);
    check_rule(json!({"suffix": ".png"}), &[json!("x.png")], &[json!("png"), json!("x.PNG")]);
    check_rule(json!({"suffix": {"equals-ignore-case": ".png"}}), &[json!("x.PNG")], &[json!("x")]);
    check_rule(json!({"equals-ignore-case": "aBc"}), &[json!("AbC")], &[json!("abcd")]);
    check_rule(json!({"wildcard": "a*b"}), &[json!("ab"), json!("axxb"), json!("abb")], &[json!("a"), json!("abc")]);
    check_rule(json!({"wildcard": "*/x/*.p?"}), &[json!("a/x/b.p?")], &[json!("a/x/b.pn"), json!("x/b.p?")]);
    check_rule(json!({"wildcard": r"a\*\\*"}), &[json!(r"a*\z")], &[json!(r"axx\z")]);
    check_rule(json!({"wildcard": "ab*ab"}), &[json!("abab")], &[json!("ab"), json!("aba")]);
    check_rule(json!({"wildcard": "*"}), &[json!(""), json!("x")], &[json!(1)]);
}

#[test]
fn anything_but_wants_something_else_that_is_there() {
    check_rule(json!({"anything-but": "x"}), &[json!("y"), json!(1), Value::Null], &[json!("x"), json!({"x": 1})]);
    check_rule(json!({"anything-but": [1, 2]}), &[json!(3), json!("1")], &[json!(2.0)]);
    check_rule(json!({"anything-but": {"prefix": ["a", "b"]}}), &[json!("c")], &[json!("ax"), json!("bx")]);
    check_rule(json!({"anything-but": {"suffix": "x"}}), &[json!("xa")], &[json!("ax")]);
    check_rule(json!({"anything-but": {"equals-ignore-case": ["A"]}}), &[json!("b")], &[json!("a")]);
    check_rule(json!({"anything-but": {"wildcard": "a*"}}), &[json!("b")], &[json!("ab")]);
    check(json!({"a": [{"anything-but": "x"}]}), &[], &[json!({})]);
}

#[test]
fn numbers_lie_within_bounds() {
    check_rule(json!({"numeric": ["=", 5]}), &[json!(5), json!(5.0)], &[json!(6), json!("5")]);
    check_rule(json!({"numeric": [">", 0, "<=", 5]}), &[json!(0.1), json!(5)], &[json!(0), json!(5.1)]);
    check_rule(json!({"numeric": ["<", -1]}), &[json!(-2)], &[json!(-1), Value::Null]);
    check_rule(json!({"numeric": [">=", 3]}), &[json!(3), json!(1e12)], &[json!(2.999)]);
}

#[test]
fn addresses_lie_within_networks() {
    check_rule(json!({"cidr": "10.0.0.0/24"}), &[json!("10.0.0.255")], &[json!("10.0.1.0"), json!("x"), json!("::1")]);
    check_rule(json!({"cidr": "0.0.0.0/0"}), &[json!("1.2.3.4")], &[json!("::1")]);
    check_rule(json!({"cidr": "2001:db8::/32"}), &[json!("2001:db8::1")], &[json!("2001:db9::1")]);
    check_rule(json!({"cidr": "::/0"}), &[json!("2001:db8::1")], &[json!("1.2.3.4")]);
}

#[test]
fn exists_speaks_of_leaves() {
    check_rule(json!({"exists": true}), &[json!(1), Value::Null, json!("")], &[json!({"b": 1}), json!([])]);
    check(json!({"a": [{"exists": false}]}), &[json!({}), json!({"a": {"b": 1}})], &[json!({"a": null})]);
    check(json!({"a": {"b": [{"exists": false}]}}), &[json!({}), json!({"a": 1})], &[json!({"a": {"b": 1}})]);
    check(json!({"a": [{"exists": false}, "x"]}), &[json!({}), json!({"a": "x"})], &[json!({"a": "y"})]);
}

#[test]
fn alternatives_stand_beside_keys() {
    let wanted = json!({"s": ["x"], "$or": [{"a": [1]}, {"b": {"c": [2]}}]});
    check(
        wanted,
        &[json!({"s": "x", "a": 1}), json!({"s": "x", "b": {"c": 2}})],
        &[json!({"a": 1}), json!({"s": "x"}), json!({"s": "x", "a": 2})],
    );
    check(json!({"d": {"$or": [{"a": [1]}, {"a": [2]}]}}), &[json!({"d": {"a": 2}})], &[json!({"d": {"a": 3}})]);
    // With one object alone it is a key like any other.
    check(json!({"$or": [{"prefix": "x"}]}), &[json!({"$or": "xy"})], &[json!({})]);
}

#[test]
fn what_is_no_pattern_is_refused_with_its_reason() {
    for (text, reason) in [
        ("{", "Filter is not valid JSON"),
        ("[1]", "Filter is not an object"),
        (r#"{"a": "x"}"#, "\"a\" must be an object or an array"),
        (r#"{"a": []}"#, "Empty arrays are not allowed"),
        (r#"{"a": [{"prefix": "x", "suffix": "y"}]}"#, "Only one key allowed in match expression"),
        (r#"{"a": [[1]]}"#, "Match value must be String, number, true, false, or null"),
        (r#"{"a": [{"like": "x"}]}"#, "Unrecognized match type like"),
        (r#"{"a": [{"prefix": 1}]}"#, "prefix match pattern must be a string"),
        (r#"{"a": [{"wildcard": "a**"}]}"#, "Consecutive wildcard characters"),
        (r#"{"a": [{"anything-but": {"cidr": "x"}}]}"#, "Unsupported anything-but pattern: cidr"),
        (r#"{"a": [{"exists": "x"}]}"#, "exists match pattern must be either true or false."),
        (r#"{"a": [{"numeric": 1}]}"#, "Value of numeric must be an array."),
        (r#"{"a": [{"numeric": ["~", 1]}]}"#, "Unrecognized numeric range operator: ~"),
        (r#"{"a": [{"numeric": [">", "1"]}]}"#, "Value of > must be numeric"),
        (r#"{"a": [{"numeric": ["="]}]}"#, "Value of equals must be numeric"),
        (r#"{"a": [{"numeric": [">", 5, "<", 5]}]}"#, "Bottom must be less than top"),
        (r#"{"a": [{"numeric": ["=", 1, "=", 2]}]}"#, "Too many elements in numeric expression"),
    ] {
        assert_eq!(Pattern::parse(text), Err(NotAPattern(reason.into())), "{text}");
    }
    for text in [
        r#"{"a": [{"anything-but": null}]}"#,
        r#"{"a": [{"anything-but": ["x", 1]}]}"#,
        r#"{"a": [{"cidr": "10.0.0.0"}]}"#,
        r#"{"a": [{"cidr": "10.0.0.0/33"}]}"#,
        r#"{"a": [{"numeric": ["<", 1, ">", 0]}]}"#,
        r#"{"a": [{"wildcard": "\\x"}]}"#,
    ] {
        assert!(Pattern::parse(text).is_err(), "{text}");
    }
}

#[test]
fn it_is_known_what_a_pattern_wants_of_a_key() {
    let of = |value: Value, key: &str| pattern(&value).wants_object(key);
    assert_eq!(of(json!({"body": {"a": [1]}}), "body"), Some(true));
    assert_eq!(of(json!({"body": ["x"], "b": {}}), "body"), Some(false));
    assert_eq!(of(json!({"messageAttributes": {"body": ["x"]}}), "body"), None);
    assert_eq!(of(json!({"$or": [{"x": [1]}, {"body": {"a": [1]}}]}), "body"), Some(true));
}

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..3).prop_map(Value::from),
        "[abx]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// The pattern that a document fulfils leaf by leaf; nothing if it has no leaf.
fn exactly(document: &Value) -> Option<Value> {
    match document {
        Value::Object(members) => {
            let fields = members.iter().filter_map(|(key, value)| Some((key.clone(), exactly(value)?)));
            Some(Value::Object(fields.collect()))
        }
        Value::Array(elements) => elements.iter().find_map(exactly),
        leaf => Some(json!([leaf])),
    }
}

proptest! {
    #[test]
    fn a_document_matches_what_it_says_itself(document in document()) {
        let document = json!({"k": document});
        let wanted = exactly(&document).unwrap_or_default();
        prop_assert!(pattern(&wanted).matches(&document), "{} {}", wanted, document);
    }

    #[test]
    fn a_further_key_never_widens(a in document(), b in document(), c in document()) {
        let (one, other) = (exactly(&json!({"a": a})).unwrap_or_default(), exactly(&json!({"b": b})).unwrap_or_default());
        let mut both = one.clone();
        both.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        for document in [json!({"a": a, "b": b}), json!({"a": c, "b": b}), json!({"a": a, "b": c})] {
            let each = pattern(&one).matches(&document) && pattern(&other).matches(&document);
            prop_assert_eq!(pattern(&both).matches(&document), each);
        }
    }

    #[test]
    fn noise_never_panics(text: String, document in document()) {
        if let Ok(read) = Pattern::parse(&text) {
            read.matches(&document);
        }
        for name in ["prefix", "suffix", "wildcard", "anything-but", "numeric", "cidr", "equals-ignore-case"] {
            if let Ok(read) = Pattern::parse(&json!({"a": [{name: document}]}).to_string()) {
                read.matches(&json!({"a": text}));
            }
        }
    }
}
