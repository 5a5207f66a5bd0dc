//! A request's members: read, checked on their own, refused by name where nothing here knows them.
//!
//! Invariant: a member that is null counts as not sent.

use serde_json::{Map, Value as Json};

use super::super::error::{Error, Result, broken, constraint, constraints, invalid};
use super::super::expression::Scope;
use super::super::expression::condition::Condition;
use super::super::legacy;
use super::super::value::{Item, check_name};
use super::Place;

/// Members of the old ways to say what expressions say.
const LEGACY: &[&str] = &[
    "AttributesToGet",
    "AttributeUpdates",
    "Expected",
    "QueryFilter",
    "ScanFilter",
    "ConditionalOperator",
    "KeyConditions",
];
/// `ConditionalOperator`, which says how legacy conditions go together.
pub(super) const CONDITIONAL: Rule<'static> = Rule::OneOf("ConditionalOperator", &["OR", "AND"]);

/// Most mistakes that one refusal names.
const REPORTED_MAX: usize = 10;

/// What a member must be on its own.
pub(super) enum Rule<'a> {
    /// There.
    Required(&'a str),
    /// One of these texts, if it is there.
    OneOf(&'a str, &'a [&'a str]),
    /// A legacy member whose parts name operators or actions, if it is there.
    Legacy(&'a str),
    /// Not empty, if it is there: a list.
    Filled(&'a str),
    /// A number from the first to the second bound, if it is there.
    Within(&'a str, i64, i64),
    /// A text of so many characters, if it is there.
    Length(&'a str, usize, usize),
    /// A name that a table or an index can have, if it is there.
    Name(&'a str),
}

/// `ReturnConsumedCapacity`, which most operations have.
pub(super) const CAPACITY: Rule<'static> = Rule::OneOf("ReturnConsumedCapacity", &["INDEXES", "TOTAL", "NONE"]);

/// What an empty list or map that must not be empty breaks.
pub(super) const AT_LEAST_ONE: &str = "Member must have length greater than or equal to 1";

/// The input of one call.
pub(super) struct Request {
    members: Map<String, Json>,
}

impl Request {
    pub(super) fn new(input: Json) -> Result<Self> {
        match input {
            Json::Object(mut members) => {
                members.retain(|_, member| !member.is_null());
                Ok(Self { members })
            }
            Json::Null => Ok(Self { members: Map::new() }),
            _ => Err(Error::serialization("Unexpected field type")),
        }
    }

    /// The members as they came.
    pub(super) fn into_members(self) -> Map<String, Json> {
        self.members
    }

    /// The members by name.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.members.iter().map(|(name, member)| (name.as_str(), member))
    }

    /// Refuses members other than these: DynamoDB has them, Dunlin does not.
    pub(super) fn only(&self, operation: &str, known: &[&str]) -> Result<()> {
        match self.members.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(Error::NotImplemented(format!("the member {name} of {operation}"))),
            None => Ok(()),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Json> {
        self.members.get(name)
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.get(name).map(|member| member.as_str().ok_or_else(wrong_type)).transpose()
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.get(name).map(|member| member.as_bool().ok_or_else(wrong_type)).transpose()
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<i64>> {
        self.get(name).map(|member| member.as_i64().ok_or_else(wrong_type)).transpose()
    }

    pub(super) fn map(&self, name: &str) -> Result<Option<&Map<String, Json>>> {
        self.get(name).map(|member| member.as_object().ok_or_else(wrong_type)).transpose()
    }

    pub(super) fn list(&self, name: &str) -> Result<Option<&Vec<Json>>> {
        self.get(name).map(|member| member.as_array().ok_or_else(wrong_type)).transpose()
    }

    /// A member that must be there.
    pub(super) fn required_map(&self, name: &str) -> Result<&Map<String, Json>> {
        self.map(name)?.ok_or_else(|| missing(name))
    }

    /// Checks members on their own, and reports all that are wrong at once.
    pub(super) fn check(&self, rules: &[Rule<'_>]) -> Result<()> {
        report(self.broken(rules)?)
    }

    /// What is wrong with members on their own.
    pub(super) fn broken(&self, rules: &[Rule<'_>]) -> Result<Vec<String>> {
        self.broken_in("", rules)
    }

    /// The same of a part of a request, before whose members stands `place`.
    pub(super) fn broken_in(&self, place: &str, rules: &[Rule<'_>]) -> Result<Vec<String>> {
        let at = |name: &str| format!("{place}{}", lower_first(name));
        let mut wrong = Vec::new();
        for rule in rules {
            match *rule {
                Rule::Required(name) if self.get(name).is_none() => {
                    wrong.push(broken(&Json::Null, &at(name), "Member must not be null"));
                }
                Rule::Required(_) => {}
                Rule::OneOf(name, choices) => {
                    if let Some(text) = self.text(name)?
                        && !choices.contains(&text)
                    {
                        let rule = format!("Member must satisfy enum value set: [{}]", choices.join(", "));
                        wrong.push(broken(&Json::from(text), &at(name), &rule));
                    }
                }
                Rule::Legacy(name) => {
                    let map = self.map(name)?;
                    wrong.extend(map.into_iter().flat_map(|map| legacy::broken_members(&at(name), map)));
                }
                Rule::Filled(name) => {
                    if self.list(name)?.is_some_and(Vec::is_empty) {
                        wrong.push(broken(&Json::Array(Vec::new()), &at(name), AT_LEAST_ONE));
                    }
                }
                Rule::Length(name, low, high) => {
                    if let Some(text) = self.text(name)?
                        && let Some(rule) = length_rule(text.chars().count(), low, high)
                    {
                        wrong.push(broken(&Json::from(text), &at(name), &rule));
                    }
                }
                Rule::Name(name) => {
                    let text = self.text(name)?;
                    wrong.extend(text.into_iter().flat_map(|text| broken_name(text, &at(name))));
                }
                Rule::Within(name, low, high) => {
                    let Some(number) = self.number(name)? else { continue };
                    let bound = match number {
                        number if number < low => format!("greater than or equal to {low}"),
                        number if number > high => format!("less than or equal to {high}"),
                        _ => continue,
                    };
                    let rule = format!("Member must have value {bound}");
                    wrong.push(broken(&Json::from(number), &at(name), &rule));
                }
            }
        }
        Ok(wrong)
    }

    /// Refuses a `TableName` of a length that none has. It is told alone, before all that is wrong besides.
    pub(super) fn check_table_name(&self) -> Result<()> {
        let name = self.get("TableName").and_then(Json::as_str);
        name.filter(|name| !name.starts_with("arn:")).map_or(Ok(()), check_length)
    }

    /// `TableName`, which may be the table's ARN.
    pub(super) fn table_name(&self, place: &Place) -> Result<&str> {
        table_name(self.text("TableName")?.ok_or_else(|| missing("TableName"))?, place)
    }

    /// `TableName` as it came: answers name tables as requests do.
    pub(super) fn given_table(&self) -> Result<&str> {
        Ok(self.text("TableName")?.unwrap_or_default())
    }

    /// A map of attribute values that must be there.
    pub(super) fn item(&self, name: &str) -> Result<Item> {
        super::super::value::item_from_json(self.required_map(name)?)
    }

    /// Refuses expressions beside their legacy forms, and placeholders without an expression.
    pub(super) fn check_expressions(&self, expressions: &[&str]) -> Result<()> {
        let used: Vec<&str> = expressions.iter().copied().filter(|name| self.get(name).is_some()).collect();
        // Key conditions may stand beside expressions of other kinds.
        let alone = self.get("KeyConditionExpression").is_none();
        let counts = |name: &&str| self.get(name).is_some() && !(alone && *name == "KeyConditions");
        let legacy: Vec<&str> = LEGACY.iter().copied().filter(counts).collect();
        if !used.is_empty() && !legacy.is_empty() {
            return invalid(format!(
                "Can not use both expression and non-expression parameters in the same request: Non-expression \
                 parameters: {{{}}} Expression parameters: {{{}}}",
                legacy.join(", "),
                used.join(", ")
            ));
        }
        self.check_conditional_operator()?;
        if self.get("ExpressionAttributeNames").is_some() && used.is_empty() {
            return invalid("ExpressionAttributeNames can only be specified when using expressions");
        }
        let with_values: Vec<&str> = expressions.iter().copied().filter(|n| *n != "ProjectionExpression").collect();
        let no_values_used = with_values.iter().all(|name| self.get(name).is_none());
        if !with_values.is_empty() && no_values_used && self.get("ExpressionAttributeValues").is_some() {
            let verb = if with_values.len() > 1 { "are" } else { "is" };
            return invalid(format!(
                "ExpressionAttributeValues can only be specified when using expressions: {} {verb} null",
                with_values.join(" and ")
            ));
        }
        Ok(())
    }

    fn check_conditional_operator(&self) -> Result<()> {
        if self.get("ConditionalOperator").is_none() {
            return Ok(());
        }
        let mut conditions = 0;
        for name in ["Expected", "QueryFilter", "ScanFilter"] {
            conditions += self.map(name)?.map_or(0, Map::len);
        }
        match conditions {
            0 => invalid("ConditionalOperator cannot be used without Filter or Expected"),
            1 => invalid("ConditionalOperator can only be used when Filter or Expected has two or more elements"),
            _ => Ok(()),
        }
    }

    /// QueryFilter or ScanFilter.
    pub(super) fn legacy_filter(&self, name: &str) -> Result<Option<Condition>> {
        let operator = self.text("ConditionalOperator")?;
        self.map(name)?.map_or(Ok(None), |map| legacy::filter(map, operator))
    }

    /// Expected.
    pub(super) fn expected(&self) -> Result<Option<Condition>> {
        let operator = self.text("ConditionalOperator")?;
        self.map("Expected")?.map_or(Ok(None), |map| legacy::expected(map, operator))
    }

    /// The placeholders.
    pub(super) fn scope(&self) -> Result<Scope> {
        Scope::new(self.map("ExpressionAttributeNames")?, self.map("ExpressionAttributeValues")?)
    }

    /// `AttributesToGet`: names of top-level attributes.
    pub(super) fn attributes_to_get(&self) -> Result<Option<Vec<String>>> {
        let Some(list) = self.list("AttributesToGet")? else {
            return Ok(None);
        };
        let mut names = Vec::with_capacity(list.len());
        for name in list {
            let name = name.as_str().ok_or_else(wrong_type)?.to_owned();
            check_name(&name)?;
            if names.contains(&name) {
                return invalid(format!(
                    "One or more parameter values were invalid: Duplicate value in attribute name: {name}"
                ));
            }
            names.push(name);
        }
        Ok(Some(names))
    }
}

/// What a length breaks, if anything.
pub(super) fn length_rule(length: usize, low: usize, high: usize) -> Option<String> {
    let bound = match length {
        length if length < low => format!("greater than or equal to {low}"),
        length if length > high => format!("less than or equal to {high}"),
        _ => return None,
    };
    Some(format!("Member must have length {bound}"))
}

/// What is wrong with the name of a table, an index or a backup.
pub(super) fn broken_name(name: &str, member: &str) -> Vec<String> {
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    let pattern = (!fits).then(|| "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+".to_owned());
    let rules = pattern.into_iter().chain(length_rule(name.len(), 3, 255));
    rules.map(|rule| broken(&Json::from(name), member, &rule)).collect()
}

/// Refuses if anything is wrong.
pub(super) fn report(mut wrong: Vec<String>) -> Result<()> {
    wrong.truncate(REPORTED_MAX);
    if wrong.is_empty() { Ok(()) } else { Err(constraints(&wrong)) }
}

/// A table's name, also from its ARN.
pub(super) fn table_name<'a>(text: &'a str, place: &Place) -> Result<&'a str> {
    let name = match text.strip_prefix("arn:") {
        None => text,
        Some(_) => {
            let own = format!("arn:aws:dynamodb:{}:{}:table/", place.region, place.account);
            text.strip_prefix(&own).filter(|name| !name.contains('/')).ok_or_else(Error::table_not_found)?
        }
    };
    check_length(name)?;
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
        Ok(name)
    } else {
        let rule = "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+";
        Err(constraint(&Json::from(text), "tableName", rule))
    }
}

/// Refuses a name of a length that no table has.
fn check_length(name: &str) -> Result<()> {
    let bound = match name.len() {
        0 => "greater than or equal to 1",
        1..3 => "greater than or equal to 3",
        256.. => "less than or equal to 255",
        _ => return Ok(()),
    };
    Err(constraint(&Json::from(name), "tableName", &format!("Member must have length {bound}")))
}

/// A member that is not there and must be.
pub(super) fn missing(name: &str) -> Error {
    constraint(&Json::Null, &lower_first(name), "Member must not be null")
}

/// A member of another JSON type than it should have.
pub(super) fn wrong_type() -> Error {
    Error::serialization("Unexpected field type")
}

/// A member's name as messages about constraints have it.
pub(super) fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
