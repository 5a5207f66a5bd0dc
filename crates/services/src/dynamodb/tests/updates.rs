//! Update expressions beside a model of what they mean: any actions on any item end in the same item, or are refused by both.
//!
//! The model looks at one action after the other. Lists have slots there: an element that is taken away leaves an empty
//! slot, and what lies beyond the end waits under its index, until all is done.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::expression::path::PathTree;
use super::super::expression::{Scope, update};
use super::super::number::Number;
use super::super::value::{AttributeValue, Item, item_from_json};
use super::*;

/// What the model has of an item.
#[derive(Debug, Clone)]
enum Node {
    Leaf(AttributeValue),
    Map(BTreeMap<String, Node>),
    List { slots: Vec<Option<Node>>, beyond: BTreeMap<usize, Node> },
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Name(&'static str),
    At(usize),
}

impl Node {
    fn of(value: &AttributeValue) -> Self {
        match value {
            AttributeValue::M(map) => {
                Self::Map(map.iter().map(|(name, value)| (name.clone(), Self::of(value))).collect())
            }
            AttributeValue::L(list) => {
                Self::List { slots: list.iter().map(|value| Some(Self::of(value))).collect(), beyond: BTreeMap::new() }
            }
            other => Self::Leaf(other.clone()),
        }
    }

    fn value(self) -> AttributeValue {
        match self {
            Self::Leaf(value) => value,
            Self::Map(map) => AttributeValue::M(map.into_iter().map(|(name, node)| (name, node.value())).collect()),
            Self::List { slots, beyond } => {
                AttributeValue::L(slots.into_iter().flatten().chain(beyond.into_values()).map(Self::value).collect())
            }
        }
    }

    /// Puts or takes away; nothing if there is no such place.
    fn change(&mut self, path: &[Part], value: Option<&AttributeValue>) -> Option<()> {
        let (first, rest) = path.split_first()?;
        match (self, first) {
            (Self::Map(map), Part::Name(name)) if rest.is_empty() => {
                match value {
                    Some(value) => map.insert((*name).into(), Self::of(value)),
                    None => map.remove(*name),
                };
                Some(())
            }
            (Self::Map(map), Part::Name(name)) => map.get_mut(*name)?.change(rest, value),
            (Self::List { slots, beyond }, Part::At(at)) if rest.is_empty() => {
                match (slots.get_mut(*at), value) {
                    (Some(slot), value) => *slot = value.map(Self::of),
                    (None, Some(value)) => {
                        beyond.insert(*at, Self::of(value));
                    }
                    (None, None) => {}
                }
                Some(())
            }
            (Self::List { slots, .. }, Part::At(at)) => slots.get_mut(*at)?.as_mut()?.change(rest, value),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
enum Action {
    /// `path = :value`
    Set(usize, usize),
    /// `path = other`
    Copy(usize, usize),
    /// `path = if_not_exists(other, :value)`
    SetMissing(usize, usize, usize),
    /// `path = list_append(other, :list)`
    Append(usize, usize),
    /// `path = other + :one`
    Plus(usize, usize),
    Remove(usize),
    /// A number or a set.
    Add(usize, usize),
    Delete(usize, usize),
}

/// Targets and what is read.
const PATHS: &[&[Part]] = {
    use Part::{At, Name};
    &[
        &[Name("l"), At(0)],
        &[Name("l"), At(1)],
        &[Name("l"), At(2)],
        &[Name("l"), At(3)],
        &[Name("l"), At(4)],
        &[Name("l"), At(9)],
        &[Name("l"), At(1), At(0)],
        &[Name("l"), At(1), At(1)],
        &[Name("l"), At(1), At(7)],
        &[Name("l"), At(0), Name("a")],
        &[Name("l"), At(3), Name("a")],
        &[Name("l")],
        &[Name("m")],
        &[Name("m"), Name("a")],
        &[Name("m"), Name("b")],
        &[Name("m"), Name("l"), At(0)],
        &[Name("m"), Name("l"), At(1)],
        &[Name("n")],
        &[Name("s")],
        &[Name("x")],
        &[Name("x"), Name("a")],
    ]
};

fn shown(path: &[Part]) -> String {
    let mut text = String::new();
    for part in path {
        match part {
            Part::Name(name) if text.is_empty() => text.push_str(name),
            Part::Name(name) => text.push_str(&format!(".{name}")),
            Part::At(at) => text.push_str(&format!("[{at}]")),
        }
    }
    text
}

fn find<'a>(item: &'a Item, path: &[Part]) -> Option<&'a AttributeValue> {
    let (Part::Name(head), rest) = path.split_first()? else { return None };
    let mut value = item.get(*head)?;
    for part in rest {
        value = match (part, value) {
            (Part::Name(name), AttributeValue::M(map)) => map.get(*name)?,
            (Part::At(at), AttributeValue::L(list)) => list.get(*at)?,
            _ => return None,
        };
    }
    Some(value)
}

/// What actions write and what items are made of.
fn values() -> Json {
    json!({
        ":v0": { "N": "1" }, ":v1": { "S": "text" }, ":v2": { "SS": ["p"] }, ":v3": { "SS": ["p", "q"] },
        ":v4": { "L": [{ "N": "7" }, { "SS": ["p"] }] }, ":v5": { "M": { "a": { "N": "2" } } }, ":v6": { "NULL": true },
    })
}

const VALUES: usize = 7;

fn value(number: usize) -> AttributeValue {
    AttributeValue::from_json(&values()[format!(":v{}", number % VALUES)]).unwrap()
}

/// What an action writes; nothing where it is refused, and nothing inside where it takes away.
fn written(before: &Item, action: &Action) -> Option<Option<AttributeValue>> {
    let at = |path: usize| find(before, PATHS[path]);
    let one = Number::parse("1").ok()?;
    Some(match *action {
        Action::Set(_, number) => Some(value(number)),
        Action::Copy(_, other) => Some(at(other)?.clone()),
        Action::SetMissing(_, other, number) => Some(at(other).cloned().unwrap_or_else(|| value(number))),
        Action::Append(_, other) => match (at(other)?, value(4)) {
            (AttributeValue::L(list), AttributeValue::L(more)) => {
                Some(AttributeValue::L([&list[..], &more[..]].concat()))
            }
            _ => return None,
        },
        Action::Plus(_, other) => match at(other)? {
            AttributeValue::N(number) => Some(AttributeValue::N(number.add(one).ok()?)),
            _ => return None,
        },
        Action::Remove(_) => None,
        Action::Add(path, number) => match (at(path), value(number)) {
            (None, value) => Some(value),
            (Some(AttributeValue::N(a)), AttributeValue::N(b)) => Some(AttributeValue::N(a.add(b).ok()?)),
            (Some(AttributeValue::Ss(a)), AttributeValue::Ss(b)) => {
                Some(AttributeValue::Ss(a.union(&b).cloned().collect()))
            }
            _ => return None,
        },
        Action::Delete(path, number) => match (at(path), value(number)) {
            (None, _) => None,
            (Some(AttributeValue::Ss(a)), AttributeValue::Ss(b)) => Some(a.difference(&b).cloned().collect())
                .filter(|set: &std::collections::BTreeSet<_>| !set.is_empty())
                .map(AttributeValue::Ss),
            _ => return None,
        },
    })
}

impl Action {
    fn target(&self) -> usize {
        match *self {
            Self::Set(path, _)
            | Self::Copy(path, _)
            | Self::SetMissing(path, ..)
            | Self::Append(path, _)
            | Self::Plus(path, _)
            | Self::Remove(path)
            | Self::Add(path, _)
            | Self::Delete(path, _) => path,
        }
    }

    /// Its section, and how it is written there.
    fn text(&self) -> (&'static str, String) {
        let path = shown(PATHS[self.target()]);
        let other = |other: usize| shown(PATHS[other]);
        match *self {
            Self::Set(_, number) => ("SET", format!("{path} = :v{number}")),
            Self::Copy(_, from) => ("SET", format!("{path} = {}", other(from))),
            Self::SetMissing(_, from, number) => {
                ("SET", format!("{path} = if_not_exists({}, :v{number})", other(from)))
            }
            Self::Append(_, from) => ("SET", format!("{path} = list_append({}, :v4)", other(from))),
            Self::Plus(_, from) => ("SET", format!("{path} = {} + :v0", other(from))),
            Self::Remove(_) => ("REMOVE", path),
            Self::Add(_, number) => ("ADD", format!("{path} :v{number}")),
            Self::Delete(_, number) => ("DELETE", format!("{path} :v{number}")),
        }
    }
}

fn action() -> impl Strategy<Value = Action> {
    let (path, any) = (0..PATHS.len(), 0..VALUES);
    prop_oneof![
        (path.clone(), any.clone()).prop_map(|(path, value)| Action::Set(path, value)),
        (path.clone(), path.clone()).prop_map(|(path, other)| Action::Copy(path, other)),
        (path.clone(), path.clone(), any).prop_map(|(path, other, value)| Action::SetMissing(path, other, value)),
        (path.clone(), path.clone()).prop_map(|(path, other)| Action::Append(path, other)),
        (path.clone(), path.clone()).prop_map(|(path, other)| Action::Plus(path, other)),
        path.clone().prop_map(Action::Remove),
        (path.clone(), prop_oneof![Just(0usize), Just(2), Just(3)]).prop_map(|(path, value)| Action::Add(path, value)),
        (path, 2usize..4).prop_map(|(path, value)| Action::Delete(path, value)),
    ]
}

fn some() -> impl Strategy<Value = Option<AttributeValue>> {
    proptest::option::weighted(0.8, (0..VALUES).prop_map(value))
}

/// Items that have something at most of the paths.
fn item() -> impl Strategy<Value = Item> {
    let list = proptest::option::weighted(0.9, proptest::collection::vec((0..VALUES).prop_map(value), 0..5));
    (list, some(), some(), some(), some(), some()).prop_map(|(list, n, s, x, a, l)| {
        let mut item = Item::from([("id".to_owned(), AttributeValue::S("a".into()))]);
        let inner = [("a", a), ("l", l)].into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        item.insert("m".into(), AttributeValue::M(inner.collect()));
        let outer = [("l", list.map(AttributeValue::L)), ("n", n), ("s", s), ("x", x)].into_iter();
        item.extend(outer.filter_map(|(name, value)| Some((name.to_owned(), value?))));
        item
    })
}

fn expression(actions: &[Action]) -> String {
    let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for action in actions {
        let (section, text) = action.text();
        sections.entry(section).or_default().push(text);
    }
    sections.iter().map(|(section, texts)| format!("{section} {}", texts.join(", "))).collect::<Vec<_>>().join(" ")
}

fn applied(text: &str, before: &Item) -> Result<Item, String> {
    let used: serde_json::Map<String, Json> =
        values().as_object().unwrap().clone().into_iter().filter(|(name, _)| text.contains(name.as_str())).collect();
    let mut scope = Scope::new(None, Some(&used).filter(|used| !used.is_empty())).unwrap();
    let update = scope.parse("UpdateExpression", text, update::parse).unwrap_or_else(|error| panic!("{text}: {error}"));
    super::super::update::apply(&update, Some(before), before).map_err(|error| error.to_string())
}

fn modelled(actions: &[Action], before: &Item) -> Option<Item> {
    let mut node = Node::of(&AttributeValue::M(before.clone()));
    for action in actions {
        node.change(PATHS[action.target()], written(before, action)?.as_ref())?;
    }
    match node.value() {
        AttributeValue::M(item) => Some(item),
        _ => None,
    }
}

/// Those whose targets neither overlap nor conflict with one before.
fn compatible(actions: Vec<Action>) -> Vec<Action> {
    use super::super::expression::path::{Path, Step};
    let mut tree = PathTree::default();
    let path = |action: &Action| {
        let steps = PATHS[action.target()].iter().map(|part| match part {
            Part::Name(name) => Step::Name((*name).into()),
            Part::At(at) => Step::Index(*at),
        });
        Path(steps.collect())
    };
    actions.into_iter().filter(|action| tree.insert(&path(action)).is_ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn updates_do_what_the_model_does(before in item(), actions in proptest::collection::vec(action(), 1..6)) {
        let actions = compatible(actions);
        let text = expression(&actions);
        let (found, expected) = (applied(&text, &before), modelled(&actions, &before));
        prop_assert_eq!(found.as_ref().ok(), expected.as_ref(), "{} of {:?}: {:?}", text, before, found);
    }
}

#[test]
fn indexes_mean_the_list_before_the_update() {
    let cases = [
        // Sets that become empty.
        ("DELETE l[0] :v2, l[1] :v3", r#"[{"SS":["p"]},{"SS":["p","q"]},{"SS":["p","z"]}]"#, r#"[{"SS":["p","z"]}]"#),
        ("DELETE l[0] :v2 REMOVE l[1]", r#"[{"SS":["p"]},{"N":"1"},{"N":"2"}]"#, r#"[{"N":"2"}]"#),
        // What is not there is neither taken away nor counted, whatever is appended.
        ("SET l[9] = :v0 REMOVE l[2]", r#"[{"N":"5"},{"N":"6"}]"#, r#"[{"N":"5"},{"N":"6"},{"N":"1"}]"#),
        ("SET l[9] = :v1 ADD l[2] :v0", r#"[{"N":"5"},{"N":"6"}]"#, r#"[{"N":"5"},{"N":"6"},{"N":"1"},{"S":"text"}]"#),
        ("SET l[9] = :v1 REMOVE l[0]", r#"[{"N":"5"},{"N":"6"}]"#, r#"[{"N":"6"},{"S":"text"}]"#),
    ];
    for (text, before, after) in cases {
        let item = |list: &str| {
            let json = json!({ "l": { "L": serde_json::from_str::<Json>(list).unwrap() } });
            item_from_json(json.as_object().unwrap()).unwrap()
        };
        assert_eq!(applied(text, &item(before)), Ok(item(after)), "{text}");
    }
    let list = item_from_json(json!({ "l": { "L": [] } }).as_object().unwrap()).unwrap();
    let wrong = "The document path provided in the update expression is invalid for update";
    assert_eq!(applied("SET l[9] = :v5 ADD l[0].a :v0", &list), Err(wrong.into()));
}
