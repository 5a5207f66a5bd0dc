//! Expressions and statements of the model as clients write them.

use serde_json::{Map, Value as Json, json};

use super::expressions::{Change, Condition, Operand, Path, Step, Term, Update};
use super::values::{Value, item_sent, plain};

/// Names that expressions cannot have in them, and one that they could.
const NAMED: [&str; 4] = ["at", "b", "name", "rank"];

/// Writes one request's expressions, or one statement.
pub(super) struct Writer {
    is_statement: bool,
    /// Whether a statement has its values in it, as far as it can.
    literal: bool,
    names: Map<String, Json>,
    values: Vec<Json>,
}

impl Writer {
    pub(super) fn of_expressions() -> Self {
        Self { is_statement: false, literal: false, names: Map::new(), values: Vec::new() }
    }

    pub(super) fn of_statement(literal: bool) -> Self {
        Self { is_statement: true, literal, ..Self::of_expressions() }
    }

    /// Adds what the expressions need to a request.
    pub(super) fn add_to(self, input: &mut Json) {
        if !self.names.is_empty() {
            input["ExpressionAttributeNames"] = Json::Object(self.names);
        }
        if !self.values.is_empty() {
            let values = self.values.into_iter().enumerate().map(|(at, value)| (format!(":v{at}"), value));
            input["ExpressionAttributeValues"] = Json::Object(values.collect());
        }
    }

    /// The members of a statement in a request.
    pub(super) fn statement(self, text: String) -> Json {
        let mut input = json!({ "Statement": text });
        if !self.values.is_empty() {
            input["Parameters"] = json!(self.values);
        }
        input
    }

    pub(super) fn name(&mut self, name: &str) -> String {
        if self.is_statement {
            return format!("\"{name}\"");
        }
        if !NAMED.contains(&name) {
            return name.to_owned();
        }
        self.names.insert(format!("#{name}"), json!(name));
        format!("#{name}")
    }

    pub(super) fn value(&mut self, value: &Value) -> String {
        if self.literal
            && let Some(text) = literal(value)
        {
            return text;
        }
        self.values.push(value.sent());
        if self.is_statement { "?".to_owned() } else { format!(":v{}", self.values.len() - 1) }
    }

    pub(super) fn path(&mut self, path: &Path) -> String {
        let mut text = self.name(path.head);
        for step in &path.steps {
            match step {
                Step::Name(name) => text = format!("{text}.{}", self.name(name)),
                Step::Index(index) => text = format!("{text}[{index}]"),
            }
        }
        text
    }

    pub(super) fn paths(&mut self, paths: &[Path]) -> String {
        paths.iter().map(|path| self.path(path)).collect::<Vec<_>>().join(", ")
    }

    fn operand(&mut self, operand: &Operand) -> String {
        match operand {
            Operand::Path(path) => self.path(path),
            Operand::Value(value) => self.value(value),
            Operand::Size(path) => format!("size({})", self.path(path)),
        }
    }

    pub(super) fn condition(&mut self, condition: &Condition) -> String {
        match condition {
            Condition::Compare(operator, a, b) => format!("{} {operator} {}", self.operand(a), self.operand(b)),
            Condition::Between(a, low, high) => {
                format!("{} BETWEEN {} AND {}", self.operand(a), self.operand(low), self.operand(high))
            }
            Condition::In(a, choices) => {
                let a = self.operand(a);
                let choices: Vec<_> = choices.iter().map(|choice| self.operand(choice)).collect();
                format!("{a} IN ({})", choices.join(", "))
            }
            Condition::Exists(path) => format!("attribute_exists({})", self.path(path)),
            Condition::Missing(path) if self.is_statement => format!("{} IS MISSING", self.path(path)),
            Condition::Missing(path) => format!("attribute_not_exists({})", self.path(path)),
            Condition::HasType(path, kind) => {
                format!("attribute_type({}, {})", self.path(path), self.value(&Value::S(kind)))
            }
            Condition::Begins(path, start) => format!("begins_with({}, {})", self.path(path), self.operand(start)),
            Condition::Contains(path, part) => format!("contains({}, {})", self.path(path), self.operand(part)),
            Condition::And(parts) => self.joined(parts, " AND "),
            Condition::Or(parts) => self.joined(parts, " OR "),
            Condition::Not(inner) => format!("NOT {}", self.wrapped(inner)),
        }
    }

    fn joined(&mut self, parts: &[Condition], word: &str) -> String {
        parts.iter().map(|part| self.wrapped(part)).collect::<Vec<_>>().join(word)
    }

    /// With parentheses where they are needed.
    pub(super) fn wrapped(&mut self, condition: &Condition) -> String {
        let text = self.condition(condition);
        match condition {
            Condition::And(_) | Condition::Or(_) | Condition::Not(_) => format!("({text})"),
            _ => text,
        }
    }

    fn term(&mut self, term: &Term) -> String {
        match term {
            Term::Path(path) => self.path(path),
            Term::Value(value) => self.value(value),
            Term::IfNotExists(path, other) => format!("if_not_exists({}, {})", self.path(path), self.term(other)),
            Term::Append(a, b) => format!("list_append({}, {})", self.term(a), self.term(b)),
            Term::Plus(a, b) => format!("{} + {}", self.term(a), self.term(b)),
            Term::Minus(a, b) => format!("{} - {}", self.term(a), self.term(b)),
        }
    }

    pub(super) fn update(&mut self, update: &Update) -> String {
        let mut sections: [(&str, Vec<String>); 4] =
            [("ADD", vec![]), ("SET", vec![]), ("REMOVE", vec![]), ("DELETE", vec![])];
        for change in update {
            let path = self.path(change.path());
            let (section, text) = match change {
                Change::Set(_, term) => (1, format!("{path} = {}", self.term(term))),
                Change::Remove(_) => (2, path),
                Change::Add(_, value) => (0, format!("{path} {}", self.value(value))),
                Change::Delete(_, value) => (3, format!("{path} {}", self.value(value))),
            };
            sections[section].1.push(text);
        }
        let some = sections.iter().filter(|(_, actions)| !actions.is_empty());
        some.map(|(word, actions)| format!("{word} {}", actions.join(", "))).collect::<Vec<_>>().join(" ")
    }

    /// The same as a statement says it. Numbers are not added so.
    pub(super) fn changes(&mut self, update: &Update) -> String {
        let clause = |change: &Change| {
            let path = self.path(change.path());
            match change {
                Change::Set(_, term) => format!("SET {path} = {}", self.term(term)),
                Change::Remove(_) => format!("REMOVE {path}"),
                Change::Add(_, value) => {
                    let again = self.path(change.path());
                    format!("SET {path} = set_add({again}, {})", self.value(value))
                }
                Change::Delete(_, value) => {
                    let again = self.path(change.path());
                    format!("SET {path} = set_delete({again}, {})", self.value(value))
                }
            }
        };
        update.iter().map(clause).collect::<Vec<_>>().join(" ")
    }

    /// A whole item in a statement.
    pub(super) fn item(&mut self, item: &super::values::Item) -> String {
        if self.literal {
            let members: Vec<_> = item.iter().map(|(name, value)| format!("'{name}': {}", self.value(value))).collect();
            return format!("{{{}}}", members.join(", "));
        }
        self.values.push(json!({ "M": item_sent(item) }));
        "?".to_owned()
    }
}

fn literal(value: &Value) -> Option<String> {
    let text = |text: &&str| format!("'{}'", text.replace('\'', "''"));
    let joined = |all: Vec<String>| all.join(", ");
    Some(match value {
        Value::S(one) => text(one),
        Value::N(number) if *number >= 0 => plain(*number),
        Value::Bool(flag) => flag.to_string(),
        Value::Null => "NULL".to_owned(),
        Value::Ss(set) => format!("<<{}>>", joined(set.iter().map(text).collect())),
        Value::Ns(set) => format!("<<{}>>", joined(set.iter().map(|number| plain(*number)).collect())),
        Value::L(list) => format!("[{}]", joined(list.iter().map(literal).collect::<Option<_>>()?)),
        Value::M(map) => {
            let member = |(name, value): (&&str, &Value)| Some(format!("'{name}': {}", literal(value)?));
            format!("{{{}}}", joined(map.iter().map(member).collect::<Option<_>>()?))
        }
        Value::N(_) | Value::B(_) | Value::Bs(_) => return None,
    })
}
