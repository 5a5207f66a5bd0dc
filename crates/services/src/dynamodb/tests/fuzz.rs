//! Whatever clients send as expressions, statements and items, and whatever bytes lie in the store: readers end, in as many
//! steps as the text is long, and never with a panic or a stack that is too small.
//!
//! Texts are made of seeds by changing, cutting, doubling and mixing their bytes, the same ones in each run. `DUNLIN_FUZZ` is
//! the number of texts for each reader.

use base::Random;
use bytes::Bytes;

use super::super::expression::{Scope, condition, key_condition, projection, update};
use super::super::number::Number;
use super::super::value::{item_from_json, item_to_json};
use super::super::{history, item, partiql, steps, stream};
use super::*;

/// Steps that a reader may take for each byte, and besides.
const STEPS_PER_BYTE: usize = 64;
const STEPS_BESIDES: usize = 256;
/// As small a stack as any thread has that reads for clients.
const STACK_BYTES: usize = 2 * 1024 * 1024;

const EXPRESSIONS: &[&str] = &[
    "SET a.b[0] = if_not_exists(#n, :v) + :v, c = list_append(c, :l) REMOVE d, e[3] ADD n :v DELETE s :l",
    "(attribute_exists(a) AND NOT begins_with(#n, :v)) OR a.b BETWEEN :v AND :l OR size(c) IN (:v, :l)",
    "id = :v AND begins_with(at, :l)",
    "a, b.c[1].d, #n, e[0]",
    "contains(a, :v) AND attribute_type(b, :l) AND a <> b AND c >= :v",
];
const STATEMENTS: &[&str] = &[
    "SELECT a, b.c[1] FROM \"t\".\"i\" WHERE pk = 'x' AND sk BETWEEN 1 AND 2.5e3 OR size(a) > ? ORDER BY sk DESC",
    "INSERT INTO t VALUE {'a': [1, 'it''s', <<1, 2>>, {'b': null}], \"c\": true} -- done",
    "UPDATE t SET a.b[0] = a + ? SET c = list_append(c, [1]) REMOVE d WHERE pk = 'x' RETURNING ALL NEW *",
    "DELETE FROM t WHERE pk = ? AND NOT contains(a, 'b') AND c IS MISSING RETURNING ALL OLD *;",
    "EXISTS(SELECT * FROM t WHERE pk = 'x' AND a IN ['b', 'c'] /* all */)",
];
const ITEMS: &[&str] = &[
    r#"{"a":{"S":"x"},"b":{"N":"-1.5e-10"},"c":{"L":[{"M":{"d":{"B":"AQI="}}},{"NULL":true}]},"e":{"SS":["x","y"]}}"#,
    r#"{"a":{"NS":["1","2.50"]},"b":{"BS":["AQI=","Ag=="]},"c":{"BOOL":false},"d":{"M":{}},"e":{"L":[]}}"#,
];
/// What goes well with brackets that do not close and names that do not end.
const PIECES: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "<<",
    "a.",
    "a[0]",
    "NOT ",
    "AND ",
    "'",
    "\"",
    "--",
    "/*",
    ":v",
    "#n",
    "?",
    ",",
    "=",
    "size(",
    "{\"M\":{\"a\":",
    "{\"L\":[",
    "SET ",
    "1e9",
    "\u{1F426}",
    "\u{0}",
    "9",
];

fn rounds() -> usize {
    std::env::var("DUNLIN_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(3_000)
}

/// Runs on a thread with a small stack, which an overflow would end together with the tests.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).unwrap().join().unwrap();
}

/// Makes texts of seeds.
struct Mutator {
    random: Arc<dyn Random>,
}

impl Mutator {
    fn new(seed: u64) -> Self {
        Self { random: SeededRandom::new(seed) }
    }

    fn below(&self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % bound.max(1) as u64).unwrap()
    }

    /// A part of `bytes`: where it begins and ends.
    fn part(&self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        start..start + self.below(bytes.len() - start + 1)
    }

    fn change(&self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        let [byte, ..] = self.random.next_u64().to_le_bytes();
        let here = at.min(bytes.len().saturating_sub(1));
        match self.below(7) {
            0 if !bytes.is_empty() => bytes[here] = byte,
            1 if !bytes.is_empty() => bytes[here] ^= 1 << (byte % 8),
            2 => {
                let part = self.part(bytes);
                bytes.drain(part);
            }
            3 => {
                let part = bytes[self.part(bytes)].to_vec();
                let times = 1 + self.below(4);
                bytes.splice(at..at, part.repeat(times));
            }
            4 => {
                let part = other[self.part(other)].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let piece = PIECES[self.below(PIECES.len())];
                let times = 1 + self.below(if self.below(10) == 0 { 4_000 } else { 4 });
                bytes.splice(at..at, piece.repeat(times).into_bytes());
            }
            _ => bytes.insert(at, byte),
        }
        bytes.truncate(16 * 1024);
    }

    /// A text made of one of `seeds`.
    fn bytes(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut bytes, &seeds[self.below(seeds.len())]);
        }
        bytes
    }

    fn text(&self, seeds: &[&str]) -> String {
        let seeds: Vec<_> = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
        String::from_utf8_lossy(&self.bytes(&seeds)).into_owned()
    }
}

/// Reads a text as each kind of expression.
fn read_expressions(text: &str) {
    let names = json!({ "#n": "name" });
    let values = json!({ ":v": { "N": "1" }, ":l": { "L": [{ "S": "x" }] } });
    let scope = || Scope::new(names.as_object(), values.as_object()).unwrap();
    let _ = scope().parse("UpdateExpression", text, update::parse);
    let _ = scope().parse("ProjectionExpression", text, projection::parse);
    if let Ok(condition) = scope().parse("ConditionExpression", text, condition::parse) {
        let _ = key_condition::read(&condition);
    }
}

fn read_statement(text: &str) {
    let _ = partiql::parse(text, Vec::new());
    let _ = partiql::parse(text, vec![super::super::value::AttributeValue::Null; 2]);
}

fn check_steps(text: &str, read: fn(&str)) {
    let taken = steps::of(|| read(text));
    let most = STEPS_PER_BYTE * text.len() + STEPS_BESIDES;
    assert!(taken <= most, "{taken} steps for {} bytes: {:?}", text.len(), &text.chars().take(200).collect::<String>());
}

#[test]
fn mutated_expressions_are_read_or_refused() {
    on_a_small_stack(|| {
        let mutator = Mutator::new(1);
        for _ in 0..rounds() {
            check_steps(&mutator.text(EXPRESSIONS), read_expressions);
        }
    });
}

#[test]
fn mutated_statements_are_read_or_refused() {
    on_a_small_stack(|| {
        let mutator = Mutator::new(2);
        for _ in 0..rounds() {
            check_steps(&mutator.text(STATEMENTS), read_statement);
        }
    });
}

/// Twice the text is twice the steps, whatever is repeated in it.
#[test]
fn what_is_repeated_takes_steps_in_proportion() {
    on_a_small_stack(|| {
        let ends = [
            "SET ",
            "REMOVE ",
            "(",
            "a = :v AND ",
            "a, ",
            "UPDATE t SET ",
            "SELECT ",
            "SELECT * FROM t WHERE ",
            "INSERT INTO t VALUE ",
        ];
        for (read, bytes) in [(read_expressions as fn(&str), 4_096), (read_statement, 8_192)] {
            for start in ends {
                for piece in PIECES.iter().chain(&[
                    "a = 1, ",
                    "a = :v AND ",
                    "a.b, ",
                    "a[0].",
                    "a, ",
                    "a1.b2.",
                    "REMOVE a ",
                    "-- x\n",
                    "''",
                ]) {
                    let text = |bytes: usize| format!("{start}{}", piece.repeat((bytes - start.len()) / piece.len()));
                    let (half, whole) = (text(bytes / 2), text(bytes));
                    let (half, whole) = (steps::of(|| read(&half)), steps::of(|| read(&whole)));
                    assert!(whole <= 2 * half + half / 2 + STEPS_BESIDES, "{start}{piece}: {half} and then {whole}");
                }
            }
        }
    });
}

/// Trees of paths are walked by recursion: no statement may have a path as deep as its text is long.
#[test]
fn the_deepest_paths_are_done_and_deeper_ones_refused() {
    on_a_small_stack(|| {
        let item = item_from_json(json!({ "a": { "M": { "a": { "L": [] } } } }).as_object().unwrap()).unwrap();
        for step in [".a", "[0]"] {
            let path = |steps: usize| format!("a{}", step.repeat(steps));
            let scope = || Scope::new(None, json!({ ":v": { "N": "1" } }).as_object()).unwrap();
            let update = |steps| scope().parse("UpdateExpression", &format!("SET {} = :v", path(steps)), update::parse);
            let view = |steps| scope().parse("ProjectionExpression", &path(steps), projection::parse);
            let statement =
                |steps| partiql::parse(&format!("UPDATE t SET {} = 1 WHERE id = 'a'", path(steps)), Vec::new());
            let deepest = update(31).unwrap();
            assert!(super::super::update::apply(&deepest, Some(&item), &item).is_err());
            assert!(view(31).unwrap().tree.project(&item).is_empty());
            assert!(statement(31).is_ok());
            for steps in [32, 1_000] {
                let count = steps + 1;
                let words = format!("The document path has too many nesting levels; nesting levels: {count}");
                assert_eq!(update(steps).unwrap_err().to_string(), format!("Invalid UpdateExpression: {words}"));
                assert_eq!(view(steps).unwrap_err().to_string(), format!("Invalid ProjectionExpression: {words}"));
                assert_eq!(statement(steps).unwrap_err().to_string(), "Nesting Levels have exceeded supported limits");
            }
            assert!(partiql::parse(&format!("SELECT {} FROM t", path(2_600)), Vec::new()).is_err());
        }
    });
}

#[test]
fn mutated_items_are_read_or_refused_and_come_back() {
    on_a_small_stack(|| {
        let mutator = Mutator::new(3);
        for _ in 0..rounds() {
            let text = mutator.text(ITEMS);
            let Ok(Json::Object(members)) = serde_json::from_str(&text) else { continue };
            if let Ok(found) = item_from_json(&members) {
                let stored = item::encode(&found);
                assert_eq!(item::decode(&stored).as_ref(), Some(&found), "{text}");
                let again = item_to_json(&found);
                assert_eq!(item_from_json(again.as_object().unwrap()).ok(), Some(found), "{text}");
            }
        }
    });
}

#[test]
fn mutated_bytes_of_the_store_are_items_and_records_or_nothing() {
    on_a_small_stack(|| {
        let mutator = Mutator::new(4);
        let items = ITEMS.iter().map(|text| {
            let json: Json = serde_json::from_str(text).unwrap();
            item_from_json(json.as_object().unwrap()).unwrap()
        });
        let items: Vec<_> = items.collect();
        let mut seeds: Vec<Vec<u8>> = items.iter().map(item::encode).collect();
        let view = stream::View::NewAndOldImages;
        seeds.extend(stream::change(view, false, 7, &items[0], Some(&items[0]), Some(&items[1])));
        for _ in 0..rounds() {
            let bytes = mutator.bytes(&seeds);
            let mut written = Vec::new();
            let size = item::write_json(&bytes, &mut written);
            let found = item::decode(&bytes);
            assert_eq!(size.is_some(), found.is_some(), "{bytes:?}");
            if let Some(found) = found {
                assert!(serde_json::from_slice::<Json>(&written).unwrap().is_object());
                assert_eq!(item::decode(&item::encode(&found)), Some(found));
            }
            let _ = (stream::decode(&bytes), history::decode(&Bytes::from(bytes)));
        }
    });
}

#[test]
fn mutated_numbers_are_read_or_refused_and_come_back() {
    let mutator = Mutator::new(5);
    let seeds = ["-1.5e-10", "12345678901234567890123456789012345678", "9.99E+125", "1E-130", "0.000", "+7"];
    for _ in 0..rounds() {
        let text = mutator.text(&seeds);
        if let Ok(number) = Number::parse(&text) {
            assert_eq!(Number::parse(&number.to_string()), Ok(number), "{text}");
        }
    }
}
