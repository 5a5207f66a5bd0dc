//! Statements as text: what they mean, what they are refused for, and that no text does harm.

use proptest::prelude::*;

use super::super::expression::condition::Condition;
use super::super::number::Number;
use super::super::value::{AttributeValue, Item};
use super::{Statement, parse, plan};

const MALFORMED: &str = "Statement wasn't well formed, can't be processed: ";

fn refusal(text: &str) -> String {
    match parse(text, Vec::new()) {
        Ok(statement) => panic!("{text} is {statement:?}"),
        Err(error) => error.to_string(),
    }
}

fn condition(text: &str) -> Condition {
    match parse(&format!("SELECT * FROM t WHERE {text}"), Vec::new()) {
        Ok(Statement::Select(select)) => select.condition.unwrap(),
        other => panic!("{text}: {other:?}"),
    }
}

fn item(text: &str) -> Item {
    match parse(&format!("INSERT INTO t VALUE {text}"), Vec::new()) {
        Ok(Statement::Insert { item, .. }) => item,
        other => panic!("{text}: {other:?}"),
    }
}

fn number(text: &str) -> AttributeValue {
    AttributeValue::N(Number::parse(text).unwrap())
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

#[test]
fn literals_are_values() {
    let found = item(
        "{'s': 'it''s', 'n': -1.5e-3, 'plus': +2, 'yes': TRUE, 'no': false, 'nothing': null, 'l': [1, 'a', []], \
         'm': {'x': {}}, 'ss': <<'a','b'>>, 'ns': <<1, 2.50>>}",
    );
    let expected = [
        ("s", text("it's")),
        ("n", number("-0.0015")),
        ("plus", number("2")),
        ("yes", AttributeValue::Bool(true)),
        ("no", AttributeValue::Bool(false)),
        ("nothing", AttributeValue::Null),
        ("l", AttributeValue::L(vec![number("1"), text("a"), AttributeValue::L(Vec::new())])),
        ("m", AttributeValue::M(Item::from([("x".into(), AttributeValue::M(Item::new()))]))),
        ("ss", AttributeValue::Ss(["a".into(), "b".into()].into())),
        ("ns", AttributeValue::Ns([Number::parse("1").unwrap(), Number::parse("2.5").unwrap()].into())),
    ];
    assert_eq!(found, expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
}

#[test]
fn parameters_take_their_places_in_order() {
    let parameters = vec![text("a"), number("1"), text("b")];
    let statement = parse("UPDATE t SET x = ?, y = y + ? WHERE pk = ?", parameters).unwrap();
    let Statement::Update { update, condition, .. } = statement else { panic!("an update") };
    assert_eq!(update.set.len(), 2);
    let value = plan::choices(condition.as_ref(), "pk").unwrap();
    assert_eq!(*value[0], text("b"));
    let message = "Number of parameters in request and statement don't match.";
    assert_eq!(parse("SELECT * FROM t WHERE a = ?", Vec::new()).unwrap_err().to_string(), message);
    assert_eq!(parse("SELECT * FROM t WHERE a = '?'", vec![text("a")]).unwrap_err().to_string(), message);
}

#[test]
fn words_are_read_in_any_case_and_comments_are_not_read() {
    let statement = parse(
        "select \"a b\", c.d[0].e -- the rest is not read ' \n from /* nor ; this */ \"T-1\".\"i\" where x is not missing;",
        Vec::new(),
    );
    let Ok(Statement::Select(select)) = statement else { panic!("{statement:?}") };
    assert_eq!((select.table.as_str(), select.index.as_deref()), ("T-1", Some("i")));
    let paths: Vec<_> = select.paths.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["[a b]", "[c, d, [0], e]"]);
}

#[test]
fn operators_bind_as_in_expressions() {
    assert_eq!(condition("a = 1 OR b = 2 AND NOT c = 3"), condition("(a = 1) OR ((b = 2) AND (NOT (c = 3)))"));
    assert_eq!(condition("a != 1"), condition("a <> 1"));
    assert_eq!(condition("a IN ['x']"), condition("a = 'x'"));
    assert_eq!(condition("a NOT IN ('x', 'y')"), condition("NOT a IN ['x', 'y']"));
    assert_eq!(condition("a NOT BETWEEN 1 AND 2 AND b = 1"), condition("NOT (a BETWEEN 1 AND 2) AND b = 1"));
    assert_eq!(condition("a IS MISSING"), condition("attribute_not_exists(a)"));
    assert_eq!(condition("a IS NOT NULL"), condition("NOT attribute_type(a, 'NULL')"));
    assert_eq!(condition("a IS BOOL OR b IS string"), condition("attribute_type(a, 'BOOL') OR attribute_type(b, 'S')"));
    assert_eq!(condition("begins_with(a, 'x') = true AND b = 1"), condition("begins_with(a, 'x') AND b = 1"));
    assert_eq!(condition("attribute_exists(a) = FALSE"), condition("NOT attribute_exists(a)"));
}

#[test]
fn malformed_statements_are_refused_in_known_words() {
    let cases = [
        ("SLECT * FROM t", "Expected data manipulation"),
        ("", "Expected data manipulation"),
        ("SELECT * FROM t WHERE pk = 1 foo", "Unexpected token after expression"),
        ("SELECT * FROM t WHERE pk = 1 e5", "Unexpected token after expression"),
        ("SELECT * FROM t WHERE pk = 1)", "Unexpected token after expression"),
        ("INSERT INTO t VALUE {'pk': 1} foo", "Unexpected token after expression"),
        ("INSERT INTO t x VALUE {'pk': 1}", "Unexpected token after expression"),
        ("UPDATE t SET a = 9 WHERE pk = 1 foo", "Unexpected token after expression"),
        ("DELETE FROM t WHERE pk = 1 ORDER BY pk", "Unexpected token after expression"),
        ("SELECT * FROM t ORDER BY pk WHERE pk = 1", "Unexpected token after expression"),
        ("FROM t SET c = 1 WHERE pk = 'a'", "Unexpected token after expression"),
        ("SELECT * FROM t WHERE pk = 1e2147483648", ""),
        ("SELECT * FROM t WHERE pk = 1.5e-2147483647", ""),
        ("SELECT * FROM t WHERE pk = 1 # note", ""),
        ("SELECT * FROM t WHERE pk = 1 /* note", ""),
        ("SELECT * FROM t WHERE pk = 'open", ""),
        ("SELECT * FROM t WHERE", "Unexpected term"),
        ("SELECT * FROM t WHERE;", "Unexpected term"),
        ("UPDATE t SET a = 1 WHERE", "Unexpected term"),
        ("SELECT * FROM t WHERE NOT", "Unexpected term"),
        ("SELECT * FROM t WHERE (", "Unexpected term"),
        ("SELECT * FROM t WHERE pk = 'a' AND", "Missing right-hand side expression of infix operator"),
        ("SELECT * FROM t WHERE ORDER BY pk", "Unexpected keyword"),
        ("SELECT * FROM t WHERE x IS FOO", "Expected type name"),
        ("SELECT * FROM t WHERE IS NULL", "Unexpected operator"),
        ("SELECT * FROM t WHERE pk = LIKE", "Unexpected operator"),
        ("SELECT * FROM t WHERE attribute_exists(a) = 1", "Unexpected term"),
        ("DELETE FROM", "Expected identifier for simple path"),
        ("DELETE FROM WHERE pk = 'a'", "Expected identifier for simple path"),
        ("SELECT * FROM", "Unexpected term"),
        ("SELECT * FROM t WHERE attribute_exists(m.inner)", "Invalid path dot component"),
    ];
    for (statement, why) in cases {
        assert_eq!(refusal(statement), format!("{MALFORMED}{why}"), "{statement}");
    }
}

#[test]
fn other_refusals_have_words_of_their_own() {
    let overflow = "Number overflow. Attempting to store a number with magnitude larger than supported range";
    let cases = [
        ("SELECT * FROM t a WHERE pk = 'x'", "Aliasing is not supported".to_owned()),
        ("SELECT * FROM t AS a WHERE pk = 'x'", "Aliasing is not supported".into()),
        ("DELETE FROM t a WHERE pk = 'x'", "Aliasing is not supported".into()),
        ("SELECT * FROM t WHERE pk = 1e126", format!("{overflow} under root")),
        ("INSERT INTO t VALUE {'pk': 1e126}", format!("{overflow} under root")),
        ("INSERT INTO t VALUE {'pk': 1, 'm': {'x': 1e126}}", format!("{overflow} under root.x")),
        ("INSERT INTO t VALUE {'pk': 1, 'l': [1, 1e126]}", format!("{overflow} under root[1]")),
        ("INSERT INTO t VALUE {'s': <<>>}", "Empty bags are not supported".into()),
        ("INSERT INTO t VALUE {'s': <<1, 'a'>>}", "Unsupported data type in Bag. DynamoDB only supports either numbers or strings in bags".into()),
        ("INSERT INTO t VALUE {'s': <<'a', 'a'>>}", "One or more parameter values were invalid: Input collection [a, a] contains duplicates.".into()),
        ("SELECT attribute_exists(a) FROM t", "Unexpected path component at 1:8:16".into()),
        ("SELECT COUNT(*) FROM t", "Unexpected path component at 1:8:5".into()),
        ("SELECT * FROM t.\"i\".\"x\" WHERE a = 1", "A path may contain at most 2 components in the FROM clause".into()),
        ("SELECT * FROM t.\"\"", "Path component cannot be an empty string".into()),
        ("SELECT * FROM t WHERE\n EXISTS(a)", "Unrecognized function: exists at 2:2:6".into()),
        ("SELECT * FROM t WHERE attribute_exists('a')", "Operator or function requires a document path; operator or function: attribute_exists".into()),
        ("SELECT * FROM t WHERE attribute_exists(a, b)", "Incorrect number of operands for operator or function; operator or function: attribute_exists, number of operands: 2".into()),
        ("SELECT * FROM t WHERE attribute_exists()", "Incorrect number of operands for operator or function; operator or function: attribute_exists, number of operands: 0".into()),
        ("SELECT * FROM t WHERE attribute_type(a, 'X')", "Invalid attribute type name found; type: X, valid types: {N,BS,L,B,NULL,M,S,SS,NS,BOOL}".into()),
        ("UPDATE t SET b = set_add(a, <<'x'>>) WHERE pk = 1", "The first argument to SET_ADD must equal the assignment value at 1:18:7".into()),
        ("UPDATE t SET a = set_add(<<'a'>>, <<'x'>>) WHERE pk = 1", "The first argument to SET_ADD must equal the assignment value at 1:18:7".into()),
        ("UPDATE t SET a = set_add(a, 'x') WHERE pk = 1", "The second argument to SET_ADD must be a value with type SET at 1:26:1".into()),
        ("UPDATE t SET a = set_delete(a) WHERE pk = 1", "SET_DELETE must have exactly two arguments at 1:18:10".into()),
        ("DELETE FROM t WHERE pk = 1 RETURNING ALL NEW *", "Invalid returning clause: RETURNING ALL NEW *. Only RETURNING ALL OLD * is allowed in DELETE statements.".into()),
    ];
    for (statement, message) in cases {
        assert_eq!(refusal(statement), message, "{statement}");
    }
}

#[test]
fn nesting_is_limited_and_reported() {
    let deep = |open: &str, close: &str, count: usize| format!("{}{}", open.repeat(count), close.repeat(count));
    for count in [65, 2_000] {
        let nested = format!("SELECT * FROM t WHERE {}", deep("(", ")", count).replacen(")", "a = 1)", 1));
        assert!(refusal(&nested).contains("nested more than 64 levels"), "{count}");
        let nots = format!("SELECT * FROM t WHERE {} a = 1", "NOT ".repeat(count));
        assert!(refusal(&nots).contains("nested more than 64 levels"), "{count}");
        let list = format!("INSERT INTO t VALUE {{'a': {}}}", deep("[", "]", count));
        assert_eq!(refusal(&list), "Nesting Levels have exceeded supported limits");
        let appends = format!("UPDATE t SET a = {} WHERE pk = 1", "list_append(a, ".repeat(count));
        assert!(refusal(&appends).contains("nested more than 64 levels"), "{count}");
    }
}

const PIECES: [&str; 60] = [
    "SELECT",
    "*",
    "FROM",
    "t",
    "\"T\"",
    ".",
    "\"i\"",
    "WHERE",
    "pk",
    "=",
    "'a'",
    "AND",
    "OR",
    "NOT",
    "(",
    ")",
    "IN",
    "[",
    "]",
    ",",
    "BETWEEN",
    "1",
    "-1.5e3",
    "IS",
    "MISSING",
    "NULL",
    "INSERT",
    "INTO",
    "VALUE",
    "{",
    "}",
    ":",
    "<<",
    ">>",
    "?",
    "UPDATE",
    "SET",
    "REMOVE",
    "+",
    "-",
    "list_append",
    "set_add",
    "begins_with",
    "contains",
    "size",
    "attribute_type",
    "DELETE",
    "RETURNING",
    "ALL",
    "MODIFIED",
    "OLD",
    "NEW",
    "ORDER",
    "BY",
    "DESC",
    "EXISTS",
    ";",
    "--",
    "/*",
    "'",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,300}") {
        let _ = parse(&text, Vec::new());
    }

    #[test]
    fn any_row_of_words_is_read_or_refused(
        pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60),
        spaced: bool,
    ) {
        let text = pieces.join(if spaced { " " } else { "" });
        let _ = parse(&text, vec![AttributeValue::Null; 3]);
        let _ = parse(&format!("SELECT * FROM t WHERE {text}"), vec![AttributeValue::Null; 3]);
        let _ = parse(&format!("UPDATE t SET {text}"), Vec::new());
        let _ = parse(&format!("INSERT INTO t VALUE {{{text}"), Vec::new());
    }

    #[test]
    fn a_text_comes_back_from_its_literal(value in ".{0,40}", name in "[^\"]{1,20}") {
        let found = item(&format!("{{'v': '{}'}}", value.replace('\'', "''")));
        prop_assert_eq!(&found["v"], &AttributeValue::S(value));
        let statement = parse(&format!("SELECT \"{name}\" FROM t"), Vec::new());
        let Ok(Statement::Select(select)) = statement else { panic!("{statement:?}") };
        prop_assert_eq!(select.paths.unwrap()[0].head().to_owned(), name);
    }
}

/// The time that a statement takes grows with its length and no faster.
#[test]
fn long_statements_take_no_longer_than_their_length() {
    let started = std::time::Instant::now();
    for piece in ["(", "NOT ", "a.", "[", "{'a':", "<<", "a AND ", "a = 1 AND ", "'", "\"", "/*", "-", "? ", "size("] {
        let text = format!("SELECT * FROM t WHERE {}", piece.repeat(8_192 / piece.len()));
        let _ = parse(&text, Vec::new());
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}
