//! Expressions: what they mean, and how their mistakes are said.

use serde_json::Map;

use super::super::expression::evaluate::holds;
use super::super::expression::{Scope, condition, projection, update};
use super::super::update::apply;
use super::super::value::{Item, item_from_json, item_to_json};
use super::*;

type Outcome<T> = super::super::error::Result<T>;

fn object(json: &Json) -> Option<&Map<String, Json>> {
    json.as_object().filter(|map| !map.is_empty())
}

fn item(json: Json) -> Item {
    item_from_json(json.as_object().unwrap()).unwrap()
}

fn parse_condition(text: &str, names: &Json, values: &Json) -> Outcome<condition::Condition> {
    let mut scope = Scope::new(object(names), object(values))?;
    let tree = scope.parse("ConditionExpression", text, condition::parse)?;
    scope.finish()?;
    Ok(tree)
}

fn parse_update(text: &str, names: &Json, values: &Json) -> Outcome<update::Update> {
    let mut scope = Scope::new(object(names), object(values))?;
    let tree = scope.parse("UpdateExpression", text, update::parse)?;
    scope.finish()?;
    Ok(tree)
}

fn updated(text: &str, values: Json, before: Json) -> Outcome<Json> {
    let tree = parse_update(text, &json!({}), &values)?;
    apply(&tree, Some(&item(before)), &Item::new()).map(|after| item_to_json(&after))
}

fn message<T>(outcome: Outcome<T>) -> String {
    match outcome {
        Ok(_) => panic!("it must be refused"),
        Err(error) => error.to_string(),
    }
}

fn sample() -> Item {
    item(json!({
        "s": { "S": "hello" }, "n": { "N": "5" }, "b": { "B": "AQI=" }, "l": { "L": [{ "N": "1" }, { "S": "x" }] },
        "m": { "M": { "k": { "S": "v" }, "d": { "L": [{ "M": { "e": { "N": "7" } } }] } } },
        "ss": { "SS": ["a", "b"] }, "ns": { "NS": ["1", "2"] }, "t": { "BOOL": true }, "z": { "NULL": true },
    }))
}

#[test]
fn conditions_answer_as_documented() {
    let values = json!({
        ":s": { "S": "hello" }, ":he": { "S": "he" }, ":n": { "N": "5.0" }, ":four": { "N": "4" }, ":six": { "N": "6" },
        ":a": { "S": "a" }, ":x": { "S": "x" }, ":S": { "S": "S" }, ":M": { "S": "M" }, ":seven": { "N": "7" },
        ":set": { "SS": ["b", "a"] }, ":two": { "N": "2" },
    });
    let cases = [
        ("s = :s", true),
        ("s <> :s", false),
        ("n = :n", true),
        ("n > :four and n < :six", true),
        ("n >= :n AND n <= :n", true),
        ("s = :n", false),
        ("s <> :n", true),
        ("absent = :s", false),
        ("absent <> :s", true),
        ("absent < :s", false),
        ("n BETWEEN :four AND :six", true),
        ("n between :six and :seven", false),
        ("s IN (:a, :x, :s)", true),
        ("s in (:a)", false),
        ("attribute_exists(m.d[0].e)", true),
        ("attribute_exists(m.d[1])", false),
        ("attribute_not_exists(m.q)", true),
        ("attribute_type(s, :S)", true),
        ("attribute_type(m, :S)", false),
        ("attribute_type(m, :M)", true),
        ("begins_with(s, :he)", true),
        ("begins_with(n, :he)", false),
        ("contains(s, :he)", true),
        ("contains(ss, :a)", true),
        ("contains(ns, :two)", true),
        ("contains(l, :x)", true),
        ("contains(l, :a)", false),
        ("size(s) = :n", true),
        ("size(l) < :six AND size(m) = :two", true),
        ("size(n) = :n", false),
        ("m.d[0].e = :seven", true),
        ("ss = :set", true),
        ("NOT s = :s", false),
        ("not (s = :s) OR n = :n", true),
        ("s = :a AND s = :x OR n = :n", true),
        ("s = :a AND (s = :x OR n = :n)", false),
        ("NOT s = :a AND n = :n", true),
        ("NOT NOT n = :n", true),
        ("(n) = (:n)", true),
    ];
    for (text, expected) in cases {
        // Every value is used once more, so that none is unused.
        let used: Vec<&String> = values.as_object().unwrap().keys().filter(|key| mentions(text, key)).collect();
        let chosen: Map<String, Json> = used.iter().map(|key| ((*key).clone(), values[key.as_str()].clone())).collect();
        let tree = parse_condition(text, &json!({}), &Json::Object(chosen)).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(holds(&tree, &sample()), expected, "{text}");
    }
}

fn mentions(text: &str, key: &str) -> bool {
    text.match_indices(key)
        .any(|(at, _)| !text[at + key.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
}

#[test]
fn mistakes_of_conditions_are_said_in_dynamodbs_words() {
    let names = json!({});
    let v = json!({ ":a": { "N": "1" } });
    let two = json!({ ":a": { "N": "2" }, ":b": { "N": "1" } });
    let cases = [
        ("", &v, "The expression can not be empty;"),
        ("a = ", &v, "Syntax error; token: \"<EOF>\", near: \"=\""),
        ("a x b", &v, "Syntax error; token: \"x\", near: \"a x b\""),
        ("a = :a)", &v, "Syntax error; token: \")\", near: \":a)\""),
        ("a", &v, "Syntax error; token: \"<EOF>\", near: \"a\""),
        ("name = :a", &v, "Attribute name is a reserved keyword; reserved keyword: name"),
        ("#n = :a", &v, "An expression attribute name used in the document path is not defined; attribute name: #n"),
        ("a = :b", &v, "An expression attribute value used in expression is not defined; attribute value: :b"),
        ("((a = :a))", &v, "The expression has redundant parentheses;"),
        ("foo(a) AND a = :a", &v, "Invalid function name; function: foo"),
        ("size(a)", &v, "The function is not allowed to be used this way in an expression; function: size"),
        (
            "attribute_exists(a) = :a",
            &v,
            "The function is not allowed to be used this way in an expression; function: attribute_exists",
        ),
        (
            "contains(a)",
            &v,
            "Incorrect number of operands for operator or function; operator or function: contains, number of operands: 1",
        ),
        (
            "attribute_exists(:a)",
            &v,
            "Operator or function requires a document path; operator or function: attribute_exists",
        ),
        (
            "begins_with(a, :a)",
            &v,
            "Incorrect operand type for operator or function; operator or function: begins_with, operand type: N",
        ),
        (
            "a = a",
            &v,
            "The first operand must be distinct from the remaining operands for this operator or function; operator: =, \
             first operand: [a]",
        ),
        (
            "a BETWEEN :a AND :b",
            &two,
            "The BETWEEN operator requires upper bound to be greater than or equal to lower bound; lower bound operand: \
             AttributeValue: {N:2}, upper bound operand: AttributeValue: {N:1}",
        ),
    ];
    for (text, values, expected) in cases {
        let found = message(parse_condition(text, &names, values));
        assert_eq!(found, format!("Invalid ConditionExpression: {expected}"), "{text}");
    }
    let unused = message(parse_condition("a = :a", &json!({ "#n": "x", "#m": "y" }), &v));
    assert_eq!(unused, "Value provided in ExpressionAttributeNames unused in expressions: keys: {#m, #n}");
    let unused = message(parse_condition("a = :a", &names, &two));
    assert_eq!(unused, "Value provided in ExpressionAttributeValues unused in expressions: keys: {:b}");
    let wrong = message(parse_condition("a = :a", &json!({ "n": "x" }), &v));
    assert_eq!(wrong, "ExpressionAttributeNames contains invalid key: Syntax error; key: \"n\"");
    let wrong = message(parse_condition("a = :a", &names, &json!({ ":a": { "N": "x" } })));
    assert_eq!(
        wrong,
        "ExpressionAttributeValues contains invalid value: The parameter cannot be converted to a numeric value: x for \
         key :a"
    );
}

#[test]
fn updates_change_items_as_documented() {
    let v = |values: Json| values;
    let cases = [
        ("SET a = :v", v(json!({ ":v": { "N": "1" } })), json!({}), json!({ "a": { "N": "1" } })),
        (
            "set a = a + :v, b = a - :v",
            json!({ ":v": { "N": "1.5" } }),
            json!({ "a": { "N": "2" } }),
            json!({ "a": { "N": "3.5" }, "b": { "N": "0.5" } }),
        ),
        (
            "SET a = b, b = a",
            json!({}),
            json!({ "a": { "N": "1" }, "b": { "N": "2" } }),
            json!({ "a": { "N": "2" }, "b": { "N": "1" } }),
        ),
        (
            "SET l = list_append(l, :v)",
            json!({ ":v": { "L": [{ "N": "2" }] } }),
            json!({ "l": { "L": [{ "N": "1" }] } }),
            json!({ "l": { "L": [{ "N": "1" }, { "N": "2" }] } }),
        ),
        (
            "SET l = list_append(if_not_exists(l, :e), :v)",
            json!({ ":v": { "L": [{ "N": "2" }] }, ":e": { "L": [] } }),
            json!({}),
            json!({ "l": { "L": [{ "N": "2" }] } }),
        ),
        (
            "SET l[5] = :b, l[9] = :a, l[0] = :z",
            json!({ ":a": { "S": "a" }, ":b": { "S": "b" }, ":z": { "S": "z" } }),
            json!({ "l": { "L": [{ "N": "1" }, { "N": "2" }] } }),
            json!({ "l": { "L": [{ "S": "z" }, { "N": "2" }, { "S": "b" }, { "S": "a" }] } }),
        ),
        (
            "REMOVE l[0], l[2], x, l[9]",
            json!({}),
            json!({ "l": { "L": [{ "N": "0" }, { "N": "1" }, { "N": "2" }] }, "x": { "S": "" } }),
            json!({ "l": { "L": [{ "N": "1" }] } }),
        ),
        (
            "ADD n :n, s :s SET m.x = :n DELETE d :s",
            json!({ ":n": { "N": "2" }, ":s": { "SS": ["a", "b"] } }),
            json!({ "m": { "M": {} }, "s": { "SS": ["a", "c"] }, "d": { "SS": ["b"] } }),
            json!({ "m": { "M": { "x": { "N": "2" } } }, "n": { "N": "2" }, "s": { "SS": ["a", "b", "c"] } }),
        ),
        (
            "DELETE d :s",
            json!({ ":s": { "NS": ["1"] } }),
            json!({ "d": { "NS": ["1.0", "2"] } }),
            json!({ "d": { "NS": ["2"] } }),
        ),
        ("SET a = (:v)", json!({ ":v": { "N": "1" } }), json!({}), json!({ "a": { "N": "1" } })),
        (
            "SET a = (b + :v)",
            json!({ ":v": { "N": "1" } }),
            json!({ "b": { "N": "1" } }),
            json!({ "a": { "N": "2" }, "b": { "N": "1" } }),
        ),
    ];
    for (text, values, before, after) in cases {
        assert_eq!(updated(text, values, before).unwrap_or_else(|e| panic!("{text}: {e}")), after, "{text}");
    }
}

#[test]
fn updates_that_cannot_be_done_are_refused() {
    let invalid_path = "The document path provided in the update expression is invalid for update";
    let wrong_type = "An operand in the update expression has an incorrect data type";
    let absent = "The provided expression refers to an attribute that does not exist in the item";
    let n = json!({ ":n": { "N": "1" } });
    let cases = [
        ("SET a.b = :n", n.clone(), invalid_path),
        ("SET s[0] = :n", n.clone(), invalid_path),
        ("SET a = b", json!({}), absent),
        ("SET a = s + :n", n.clone(), wrong_type),
        ("ADD s :n", n.clone(), wrong_type),
        ("DELETE s :x", json!({ ":x": { "SS": ["a"] } }), wrong_type),
        ("SET a = list_append(s, :l)", json!({ ":l": { "L": [] } }), wrong_type),
        (
            "SET big = :b, huge = :b",
            json!({ ":b": { "S": "x".repeat(300_000) } }),
            "Item size to update has exceeded the maximum allowed size",
        ),
        (
            "SET a = :big + :one",
            json!({ ":big": { "N": "1e37" }, ":one": { "N": "0.1" } }),
            "Attempting to store more than 38 significant digits in a Number",
        ),
        ("SET a = ", n.clone(), "Invalid UpdateExpression: Syntax error; token: \"<EOF>\", near: \"=\""),
        ("SET a = :n, ", n.clone(), "Invalid UpdateExpression: Syntax error; token: \"<EOF>\", near: \",\""),
        ("PUT a = :n", n.clone(), "Invalid UpdateExpression: Syntax error; token: \"PUT\", near: \"PUT a\""),
        (
            "SET a = :n SET b = :n",
            n.clone(),
            "Invalid UpdateExpression: The \"SET\" section can only be used once in an update expression;",
        ),
        (
            "SET a = :n REMOVE a.b",
            n.clone(),
            "Invalid UpdateExpression: Two document paths overlap with each other; must remove or rewrite one of these \
             paths; path one: [a], path two: [a, b]",
        ),
        (
            "SET a.b = :n, a[0] = :n",
            n.clone(),
            "Invalid UpdateExpression: Two document paths conflict with each other; must remove or rewrite one of these \
             paths; path one: [a, b], path two: [a, [0]]",
        ),
        (
            "SET a = b + :s",
            json!({ ":s": { "S": "" } }),
            "Invalid UpdateExpression: Incorrect operand type for operator or function; operator or function: +, operand \
             type: S",
        ),
        (
            "DELETE a :s",
            json!({ ":s": { "S": "" } }),
            "Invalid UpdateExpression: Incorrect operand type for operator or function; operator: DELETE, operand type: \
             STRING, typeSet: ALLOWED_FOR_ADD_OPERAND",
        ),
        ("SET a = foo(:n)", n.clone(), "Invalid UpdateExpression: Invalid function name; function: foo"),
        (
            "SET a = if_not_exists(:n, :n)",
            n.clone(),
            "Invalid UpdateExpression: Operator or function requires a document path; operator or function: if_not_exists",
        ),
    ];
    for (text, values, expected) in cases {
        assert_eq!(message(updated(text, values, json!({ "s": { "S": "" } }))), expected, "{text}");
    }
}

#[tokio::test]
async fn key_attributes_stay_as_they_are() {
    let bench = Bench::with_items().await;
    let update = |text: &str| {
        json!({
            "TableName": "items", "Key": { "id": { "S": "a" } }, "UpdateExpression": text,
            "ExpressionAttributeValues": { ":v": { "S": "b" } },
        })
    };
    let part =
        "One or more parameter values were invalid: Cannot update attribute id. This attribute is part of the key";
    bench.invalid("UpdateItem", update("SET id = :v"), part).await;
    let scalar = "Key attributes must be scalars; list random access '[]' and map lookup '.' are not allowed: Key: id";
    bench.invalid("UpdateItem", update("SET id.x = :v"), scalar).await;
    let without = json!({ "TableName": "items", "Key": { "id": { "S": "a" } }, "ExpressionAttributeValues": {} });
    let message = "ExpressionAttributeValues can only be specified when using expressions: UpdateExpression and \
                   ConditionExpression are null";
    bench.invalid("UpdateItem", without, message).await;
    let mixed = json!({
        "TableName": "items", "Key": { "id": { "S": "a" } }, "AttributesToGet": ["a"], "ProjectionExpression": "a",
    });
    let message = "Can not use both expression and non-expression parameters in the same request: Non-expression \
                   parameters: {AttributesToGet} Expression parameters: {ProjectionExpression}";
    bench.invalid("GetItem", mixed, message).await;
}

#[test]
fn long_and_deep_expressions_end_in_a_refusal() {
    let values = json!({ ":a": { "N": "1" } });
    let nothing = json!({});
    let long = "a".repeat(4_097);
    let expected =
        "Invalid ConditionExpression: Expression size has exceeded the maximum allowed size; expression size: 4097";
    assert_eq!(message(parse_condition(&long, &nothing, &values)), expected);
    for text in ["(".repeat(4_000), "NOT ".repeat(1_000), "size(".repeat(800), "a = :a AND ".repeat(350)] {
        assert!(message(parse_condition(&text, &nothing, &values)).starts_with("Invalid"), "{}", &text[..20]);
    }
    for text in [format!("SET a = {}", "(".repeat(4_000)), format!("SET a = {}", "list_append(".repeat(300))] {
        assert!(message(parse_update(&text, &nothing, &values)).starts_with("Invalid"));
    }
    let many = vec!["a = :a"; 301].join(" OR ");
    let expected = "Invalid ConditionExpression: The expression contains too many operators; operator count: 301";
    assert_eq!(message(parse_condition(&many, &nothing, &values)), expected);
    // Neither parentheses nor actions are operators.
    let sets = (0..310).map(|number| format!("a{number}=:a")).collect::<Vec<_>>().join(",");
    parse_update(&format!("SET {sets}"), &nothing, &values).unwrap();
    let sums = (0..301).map(|number| format!("a{number}=b+:a")).collect::<Vec<_>>().join(",");
    let expected = "Invalid UpdateExpression: The expression contains too many operators; operator count: 301";
    assert_eq!(message(parse_update(&format!("SET {sums}"), &nothing, &values)), expected);
    let within = format!("a IN ({})", vec![":a"; 101].join(", "));
    assert!(message(parse_condition(&within, &nothing, &values)).contains("too many operands"));
}

#[test]
fn as_deep_as_operators_go_is_read_and_evaluated_on_a_small_stack() {
    let work = || {
        let values = json!({ ":a": { "N": "1" } });
        let nested = |depth: usize| format!("n < :a {}{}", "OR (n < :a ".repeat(depth), ")".repeat(depth));
        let deep = parse_condition(&nested(149), &json!({}), &values).unwrap();
        assert!(!holds(&deep, &sample()));
        let words = "Invalid ConditionExpression: The expression contains too many operators; operator count: 301";
        assert_eq!(message(parse_condition(&nested(250), &json!({}), &values)), words);
        for (count, expected) in [(70, false), (299, true)] {
            let not = parse_condition(&format!("{}n = :a", "NOT ".repeat(count)), &json!({}), &values).unwrap();
            assert_eq!(holds(&not, &sample()), expected, "{count}");
        }
    };
    std::thread::Builder::new().stack_size(1024 * 1024).spawn(work).unwrap().join().unwrap();
}

#[test]
fn functions_stand_only_where_they_may() {
    let values = json!({ ":a": { "L": [] } });
    let words = |kind: &str, function: &str| {
        format!(
            "Invalid {kind}: The function is not allowed to be used this way in an expression; function: {function}"
        )
    };
    for text in ["if_not_exists(a, :a)", "list_append(a, :a) = :a"] {
        let function = text.split('(').next().unwrap();
        let expected = words("ConditionExpression", function);
        assert_eq!(message(parse_condition(text, &json!({}), &values)), expected);
    }
    for text in ["list_append(list_append(:a, a), :a)", "list_append(a, list_append(:a, :a))"] {
        let expected = words("UpdateExpression", "list_append");
        assert_eq!(message(parse_update(&format!("SET a = {text}"), &json!({}), &values)), expected);
    }
    let defaults = "SET a = list_append(if_not_exists(a, :a), if_not_exists(b, if_not_exists(c, :a)))";
    parse_update(defaults, &json!({}), &values).unwrap();
}

#[test]
fn an_index_that_no_list_has_is_refused() {
    let read = |text: &str| Scope::new(None, None).unwrap().parse("ProjectionExpression", text, projection::parse);
    read("a[999999]").unwrap();
    let expected =
        "Invalid ProjectionExpression: List index is not within the allowable range; index: [99999999999999]";
    assert_eq!(read("a[99999999999999]").unwrap_err().to_string(), expected);
}

#[test]
fn texts_are_as_long_as_they_have_units_of_utf_16() {
    let values = json!({ ":n": { "N": "4" } });
    let long = parse_condition("size(t) = :n", &json!({}), &values).unwrap();
    assert!(holds(&long, &item(json!({ "t": { "S": "\u{e9}\u{20ac}\u{1d11e}" } }))));
}

mod noise {
    use super::*;
    use proptest::prelude::*;

    fn words() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "a",
            "#n",
            ":v",
            "(",
            ")",
            "[0]",
            ".",
            ",",
            "=",
            "<>",
            "AND",
            "or",
            "NOT",
            "IN",
            "BETWEEN",
            "SET",
            "REMOVE",
            "ADD",
            "DELETE",
            "+",
            "-",
            "size(",
            "contains(",
            "attribute_exists(",
            "list_append(",
            "if_not_exists(",
            "é",
            "\u{0}",
            "9",
            "#",
            ":",
        ]);
        prop::collection::vec(word, 0..30).prop_map(|words| words.join(" "))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn no_text_makes_a_parser_panic(text in prop_oneof![words(), ".{0,80}"]) {
            let names = json!({ "#n": "n" });
            let values = json!({ ":v": { "N": "1" } });
            if let Ok(tree) = parse_condition(&text, &names, &values) {
                holds(&tree, &sample());
            }
            if let Ok(tree) = parse_update(&text, &names, &values) {
                let _ = apply(&tree, Some(&sample()), &Item::new());
            }
            let mut scope = Scope::default();
            if let Ok(tree) = scope.parse("ProjectionExpression", &text, projection::parse) {
                tree.tree.project(&sample());
            }
        }
    }
}
