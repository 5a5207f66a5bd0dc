//! Statements, and what all their parts share: walking over tokens, paths, parameters.

use std::sync::Arc;

use super::super::error::{Error, Result, invalid};
use super::super::expression::Mistake;
use super::super::expression::path::{Path, STEPS_MAX, Step};
use super::super::expression::update::{Expression, Update};
use super::super::value::{AttributeValue, Item};
use super::lexer::{Kind, Token, tokens};
use super::{Returning, Select, Statement, malformed};

/// Deepest nesting of parentheses and functions; keeps recursion far from the end of a small stack.
const DEPTH_MAX: usize = 64;
/// Words that are no names unless they stand in quotes.
const KEY_WORDS: [&str; 31] = [
    "ALL",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "DELETE",
    "DESC",
    "ELSE",
    "END",
    "EXISTS",
    "FROM",
    "GROUP",
    "HAVING",
    "IN",
    "INNER",
    "INSERT",
    "INTO",
    "IS",
    "LIKE",
    "MISSING",
    "NOT",
    "OR",
    "ORDER",
    "RETURNING",
    "SELECT",
    "SET",
    "UPDATE",
    "VALUE",
    "WHERE",
];

/// Reads one statement; `parameters` stand for its `?` in their order.
pub(in super::super) fn parse(text: &str, parameters: Vec<AttributeValue>) -> Result<Statement> {
    let given = parameters.len();
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0, parameters: &parameters, used: 0 };
    let statement = parser.statement()?;
    parser.take_symbol(";");
    if *parser.peek() != Kind::End {
        return Err(malformed("Unexpected token after expression"));
    }
    if parser.used != given {
        return Err(parameter_count());
    }
    Ok(statement)
}

fn parameter_count() -> Error {
    Error::validation("Number of parameters in request and statement don't match.")
}

/// Walks over the tokens of one statement.
pub(super) struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    parameters: &'a [AttributeValue],
    used: usize,
}

impl Parser<'_> {
    pub(super) fn peek(&self) -> &Kind {
        self.peek_at(0)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> &Kind {
        #[cfg(test)]
        super::super::steps::count(1);
        self.tokens.get(self.at + ahead).map_or(&Kind::End, |token| &token.kind)
    }

    pub(super) fn skip(&mut self) {
        self.at += 1;
    }

    pub(super) fn take(&mut self) -> Kind {
        let kind = self.peek().clone();
        self.skip();
        kind
    }

    /// `line:column:length` of the token here.
    pub(super) fn place(&self) -> String {
        self.tokens.get(self.at).map_or_else(String::new, Token::place)
    }

    pub(super) fn take_symbol(&mut self, symbol: &str) -> bool {
        let here = matches!(self.peek(), Kind::Symbol(found) if *found == symbol);
        self.at += usize::from(here);
        here
    }

    fn at_word(&self, word: &str) -> bool {
        matches!(self.peek(), Kind::Word(found) if found.eq_ignore_ascii_case(word))
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let here = self.at_word(word);
        self.at += usize::from(here);
        here
    }

    pub(super) fn expect(&mut self, symbol: &'static str) -> Result<()> {
        if self.take_symbol(symbol) { Ok(()) } else { Err(self.unexpected()) }
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// The refusal of what stands here.
    pub(super) fn unexpected(&self) -> Error {
        malformed(match self.peek() {
            Kind::Word(word) if ["IS", "LIKE", "IN", "BETWEEN"].iter().any(|one| one.eq_ignore_ascii_case(word)) => {
                "Unexpected operator"
            }
            Kind::Word(word) if is_key_word(word) => "Unexpected keyword",
            _ => "Unexpected term",
        })
    }

    /// Reads something one level deeper.
    pub(super) fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(malformed(&format!("It is nested more than {DEPTH_MAX} levels deep")));
        }
        let read = read(self);
        self.depth -= 1;
        read
    }

    /// The next parameter, whose `?` was taken.
    pub(super) fn parameter(&mut self) -> Result<AttributeValue> {
        let parameter = self.parameters.get(self.used).cloned().ok_or_else(parameter_count)?;
        self.used += 1;
        Ok(parameter)
    }

    fn name(&mut self) -> Result<String> {
        match self.peek().clone() {
            Kind::Word(name) if !is_key_word(&name) => {
                self.skip();
                Ok(name)
            }
            Kind::Quoted(name) => {
                self.skip();
                Ok(name)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// `a.b[0]."c"`, without names that no attribute has.
    pub(super) fn path(&mut self) -> Result<Path> {
        let path = self.any_path()?;
        let nameless = path.0.iter().any(|step| matches!(step, Step::Name(name) if name.is_empty()));
        if nameless {
            return invalid("One or more parameter values were invalid: Attribute names must not be empty");
        }
        Ok(path)
    }

    fn any_path(&mut self) -> Result<Path> {
        let mut steps = vec![Step::Name(self.name()?)];
        loop {
            if self.take_symbol(".") {
                match self.name() {
                    Ok(name) => steps.push(Step::Name(name)),
                    Err(_) => return Err(malformed("Invalid path dot component")),
                }
            } else if self.take_symbol("[") {
                match self.take() {
                    Kind::Number(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                        // An index that no list reaches means the same as the largest one.
                        steps.push(Step::Index(digits.parse().unwrap_or(usize::MAX)));
                    }
                    Kind::Text(name) => steps.push(Step::Name(name)),
                    _ => return Err(malformed("Invalid path component")),
                }
                self.expect("]")?;
            } else if steps.len() > STEPS_MAX {
                return invalid("Nesting Levels have exceeded supported limits");
            } else {
                return Ok(Path(steps));
            }
        }
    }

    fn statement(&mut self) -> Result<Statement> {
        if self.take_word("SELECT") {
            return Ok(Statement::Select(self.select()?));
        }
        if self.take_word("INSERT") {
            return self.insert();
        }
        if self.take_word("UPDATE") {
            return self.update();
        }
        if self.take_word("DELETE") {
            return self.delete();
        }
        if self.take_word("FROM") {
            return self.update_from();
        }
        if self.at_word("EXISTS") && *self.peek_at(1) == Kind::Symbol("(") {
            self.at += 2;
            self.expect_word("SELECT")?;
            let select = self.select()?;
            self.expect(")")?;
            return Ok(Statement::Exists(select));
        }
        Err(malformed("Expected data manipulation"))
    }

    /// A table, refused with `missing` if there is none.
    fn table(&mut self, missing: &str) -> Result<String> {
        self.name().map_err(|_| malformed(missing))
    }

    fn no_alias(&self) -> Result<()> {
        let alias = match self.peek() {
            Kind::Word(word) => word.eq_ignore_ascii_case("AS") || !is_key_word(word) && !is_clause(word),
            Kind::Quoted(_) => true,
            _ => false,
        };
        if alias { invalid("Aliasing is not supported") } else { Ok(()) }
    }

    fn select(&mut self) -> Result<Select> {
        let paths = if self.take_symbol("*") { None } else { Some(self.projection()?) };
        self.expect_word("FROM")?;
        let table = self.table("Unexpected term")?;
        let index = if self.take_symbol(".") { Some(self.table("Invalid path dot component")?) } else { None };
        if *self.peek() == Kind::Symbol(".") {
            return invalid("A path may contain at most 2 components in the FROM clause");
        }
        if table.is_empty() || index.as_ref().is_some_and(String::is_empty) {
            return invalid("Path component cannot be an empty string");
        }
        self.no_alias()?;
        let condition = self.filter()?;
        Ok(Select { table, index, paths, condition, order: self.order()? })
    }

    fn projection(&mut self) -> Result<Vec<Path>> {
        let mut paths = Vec::new();
        loop {
            let place = self.place();
            let function = *self.peek_at(1) == Kind::Symbol("(") && matches!(self.peek(), Kind::Word(_));
            if function || self.at_value() {
                return invalid(format!("Unexpected path component at {place}"));
            }
            paths.push(self.path()?);
            if !self.take_symbol(",") {
                return Ok(paths);
            }
        }
    }

    fn filter(&mut self) -> Result<Option<super::super::expression::condition::Condition>> {
        if self.take_word("WHERE") { self.condition().map(Some) } else { Ok(None) }
    }

    fn order(&mut self) -> Result<Vec<(String, bool)>> {
        let mut order = Vec::new();
        if !self.take_word("ORDER") {
            return Ok(order);
        }
        self.expect_word("BY")?;
        loop {
            let name = self.name()?;
            let descending = self.take_word("DESC");
            if !descending {
                self.take_word("ASC");
            }
            order.push((name, descending));
            if !self.take_symbol(",") {
                return Ok(order);
            }
        }
    }

    fn insert(&mut self) -> Result<Statement> {
        self.expect_word("INTO")?;
        let table = self.table("Expected identifier for simple path")?;
        if !self.take_word("VALUE") {
            return Err(malformed("Unexpected token after expression"));
        }
        Ok(Statement::Insert { table, item: checked(self.item()?)? })
    }

    fn update(&mut self) -> Result<Statement> {
        let table = self.table("Expected identifier for simple path")?;
        self.no_alias()?;
        let update = self.changes()?;
        let condition = self.filter()?;
        let returning = self.returning()?;
        Ok(Statement::Update { table, update, condition, returning })
    }

    /// `FROM table WHERE … SET …`: an update with its condition first.
    fn update_from(&mut self) -> Result<Statement> {
        let table = self.table("Unexpected term")?;
        self.no_alias()?;
        let condition = self.filter()?;
        let update = self.changes()?;
        let returning = self.returning()?;
        Ok(Statement::Update { table, update, condition, returning })
    }

    fn delete(&mut self) -> Result<Statement> {
        self.expect_word("FROM")?;
        let table = self.table("Expected identifier for simple path")?;
        self.no_alias()?;
        let condition = self.filter()?;
        let returning = self.returning()?;
        if let Some(Returning { all, new }) = returning
            && (new || !all)
        {
            let (what, which) = (if all { "ALL" } else { "MODIFIED" }, if new { "NEW" } else { "OLD" });
            return invalid(format!(
                "Invalid returning clause: RETURNING {what} {which} *. Only RETURNING ALL OLD * is allowed in DELETE statements."
            ));
        }
        Ok(Statement::Delete { table, condition, returning })
    }

    fn returning(&mut self) -> Result<Option<Returning>> {
        if !self.take_word("RETURNING") {
            return Ok(None);
        }
        let all = self.take_word("ALL");
        if !all {
            self.expect_word("MODIFIED")?;
        }
        let new = self.take_word("NEW");
        if !new {
            self.expect_word("OLD")?;
        }
        self.expect("*")?;
        Ok(Some(Returning { all, new }))
    }

    /// `SET path = value, … REMOVE path, …`, at least one of them.
    fn changes(&mut self) -> Result<Update> {
        let mut update = Update::default();
        let mut any = false;
        loop {
            let set = self.take_word("SET");
            if !set && !self.take_word("REMOVE") {
                return if any { Ok(update) } else { Err(self.unexpected()) };
            }
            any = true;
            loop {
                let path = self.path()?;
                if let Err((kind, earlier)) = update.targets.insert(&path) {
                    let what = if kind == Mistake::Overlap { "overlap" } else { "conflict" };
                    return invalid(format!(
                        "Two document paths {what} with each other; must remove or rewrite one of these paths; \
                         path one: {earlier}, path two: {path}"
                    ));
                }
                if set {
                    self.expect("=")?;
                    self.assign(path, &mut update)?;
                } else {
                    update.remove.push(path);
                }
                if !self.take_symbol(",") {
                    break;
                }
            }
        }
    }

    fn assign(&mut self, path: Path, update: &mut Update) -> Result<()> {
        if let (Kind::Word(name), Kind::Symbol("(")) = (self.peek(), self.peek_at(1)) {
            let upper = name.to_uppercase();
            if matches!(upper.as_str(), "SET_ADD" | "SET_DELETE") {
                let set = self.set_function(&upper, &path)?;
                let list = if upper == "SET_ADD" { &mut update.add } else { &mut update.delete };
                list.push((path, set));
                return Ok(());
            }
        }
        let first = self.term()?;
        let plus = self.take_symbol("+");
        let expression = if plus || self.take_symbol("-") {
            let (first, second) = (Box::new(first), Box::new(self.term()?));
            if plus { Expression::Plus(first, second) } else { Expression::Minus(first, second) }
        } else {
            first
        };
        update.set.push((path, expression));
        Ok(())
    }

    /// `set_add(path, <<…>>)` or `set_delete(path, <<…>>)` of the path that is assigned to.
    fn set_function(&mut self, name: &str, target: &Path) -> Result<Arc<AttributeValue>> {
        let place = self.place();
        self.at += 2;
        let first_place = self.place();
        let first = if self.at_value() {
            self.value()?;
            None
        } else {
            Some(self.path()?)
        };
        let mut more = Vec::new();
        while self.take_symbol(",") {
            more.push(self.value()?);
        }
        self.expect(")")?;
        if more.len() != 1 {
            return invalid(format!("{name} must have exactly two arguments at {place}"));
        }
        if first.as_ref() != Some(target) {
            return invalid(format!("The first argument to {name} must equal the assignment value at {place}"));
        }
        match more.pop() {
            Some(set @ (AttributeValue::Ss(_) | AttributeValue::Ns(_) | AttributeValue::Bs(_))) => Ok(Arc::new(set)),
            _ => invalid(format!("The second argument to {name} must be a value with type SET at {first_place}")),
        }
    }

    /// What can be assigned: a value, a path, `list_append(a, b)`, `if_not_exists(path, a)`.
    fn term(&mut self) -> Result<Expression> {
        if self.at_value() {
            return Ok(Expression::Value(Arc::new(self.value()?)));
        }
        let (Kind::Word(name), Kind::Symbol("(")) = (self.peek().clone(), self.peek_at(1)) else {
            return Ok(Expression::Path(self.path()?));
        };
        let place = self.place();
        self.at += 2;
        let (first, second) = self.deeper(|parser| {
            let first = parser.term()?;
            parser.expect(",")?;
            Ok((first, parser.term()?))
        })?;
        self.expect(")")?;
        match (name.to_lowercase().as_str(), first) {
            ("list_append", first) => Ok(Expression::ListAppend(Box::new(first), Box::new(second))),
            ("if_not_exists", Expression::Path(path)) => Ok(Expression::IfNotExists(path, Box::new(second))),
            ("if_not_exists", _) => {
                invalid("Operator or function requires a document path; operator or function: if_not_exists")
            }
            (name, _) => invalid(format!("Unrecognized function: {name} at {place}")),
        }
    }
}

fn is_key_word(word: &str) -> bool {
    KEY_WORDS.iter().any(|one| one.eq_ignore_ascii_case(word))
}

/// Whether a word begins what follows a table, though it can also be a name.
fn is_clause(word: &str) -> bool {
    word.eq_ignore_ascii_case("REMOVE")
}

/// An item as a statement may write it.
fn checked(item: Item) -> Result<Item> {
    if super::super::value::item_size(&item) > super::super::value::ITEM_BYTES_MAX {
        return invalid("Item size has exceeded the maximum allowed size");
    }
    Ok(item)
}
