//! Query and Scan: a page of items, filtered after it was read.
//!
//! Invariants
//!   1. A page reads at most `Limit` items and 1 MB of items, before the filter. Where an index leads to items of the table,
//!      these are what counts: nobody's page holds more.
//!   2. A page that ended by one of these has a LastEvaluatedKey, even if nothing follows.

use aws::Reply;
use serde::Serialize;
use serde_json::Value as Json;
use store::{Entry, Range, Snapshot};

use super::super::access::Access;
use super::super::capacity::Units;
use super::super::error::{Error, Result, invalid};
use super::super::expression::Scope;
use super::super::expression::condition::{self, Condition};
use super::super::expression::evaluate::holds;
use super::super::expression::key_condition;
use super::super::expression::path::Path;
use super::super::index::{self, Carried, Index, Projection};
use super::super::item;
use super::super::legacy;
use super::super::query::{self, PAGE_BYTES_MAX};
use super::super::throttle::Direction;
use super::super::value::{ITEM_BYTES_MAX, Item, item_from_json, item_size};
use super::items::{View, check_key_paths};
use super::request::{CAPACITY, CONDITIONAL, Request, Rule};
use super::{Place, Shared, consumed, decode};

const MEMBERS: &[&str] = &[
    "TableName",
    "IndexName",
    "Select",
    "AttributesToGet",
    "Limit",
    "ConsistentRead",
    "ConditionalOperator",
    "ExclusiveStartKey",
    "ReturnConsumedCapacity",
    "ProjectionExpression",
    "FilterExpression",
    "ExpressionAttributeNames",
    "ExpressionAttributeValues",
];
/// Most items that one read of the store brings.
const ROWS_MAX: usize = 1_000;
/// How much is read in the hope that it is all. The store reads so much at once, without a snapshot.
const SHORT_ROWS_MAX: usize = 120;
const SHORT_BYTES_MAX: usize = 60 * 1024;
/// What an answer with items begins with.
const HEAD: &[u8] = b"{\"Items\":[";
/// What `Select` may be.
const SELECT: &[&str] = &["SPECIFIC_ATTRIBUTES", "COUNT", "ALL_ATTRIBUTES", "ALL_PROJECTED_ATTRIBUTES"];
/// Most segments of a parallel scan.
const SEGMENTS_MAX: i64 = 1_000_000;

/// What Query and Scan have in common.
struct Common {
    limit: Option<usize>,
    filter: Option<Condition>,
    view: View,
    select: Select,
    consistent: bool,
    /// Whether partitions are read that the request names, and not everything.
    of_partition: bool,
}

/// Which attributes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Select {
    /// None: how many items.
    Count,
    /// All that an item has.
    All,
    /// What the view names, or all that the table or the index has.
    Given,
}

impl Common {
    /// Whether items are shown whole and all of them, as far as the page goes.
    fn is_plain(&self) -> bool {
        self.limit.is_none() && self.filter.is_none() && self.select != Select::Count && self.view.is_whole()
    }

    /// What is shown of an item, which is a whole one of the table where an index has led to it. Where nothing is said of
    /// what to show, that is what the index has, also if a filter has looked further.
    fn show(&self, access: &Access<'_>, item: Item, fetched: bool) -> Item {
        match access.index {
            Some(index) if fetched && self.select == Select::Given && self.view.is_whole() => {
                index.project(access.table, &item)
            }
            _ => self.view.show(item),
        }
    }

    /// Checks what is asked of an index; returns whether it takes more than the index has. Along a partition nobody may
    /// filter by what the index lacks; a scan's filter finds it missing.
    fn check(&self, access: &Access<'_>) -> Result<bool> {
        let Some(index) = access.index else { return Ok(false) };
        let name = &index.name;
        let all = self.select == Select::All && index.projection != Projection::All;
        if all && !index.local {
            return invalid(format!(
                "One or more parameter values were invalid: Select type ALL_ATTRIBUTES is not supported for global \
                 secondary index {name} because its projection type is not ALL"
            ));
        }
        let shown = lacking(access, index, self.view.heads());
        if !shown.is_empty() && !index.local {
            return invalid(format!(
                "One or more parameter values were invalid: Global secondary index {name} does not project [{}]",
                shown.join(", ")
            ));
        }
        let filtered = filter_paths(self.filter.as_ref());
        let filtered = lacking(access, index, filtered.into_iter().map(Path::head).collect());
        if self.of_partition && !filtered.is_empty() {
            return invalid(format!(
                "One or more parameter values were invalid: Secondary index {name} does not project one or more filter \
                 attributes: [{}]",
                filtered.join(", ")
            ));
        }
        Ok(all || !shown.is_empty())
    }
}

/// Those of the attributes that an index does not have, each once.
fn lacking<'a>(access: &Access<'_>, index: &Index, heads: Vec<&'a str>) -> Vec<&'a str> {
    let mut lacking = Vec::new();
    for head in heads {
        if !index.projects(access.table, head) && !lacking.contains(&head) {
            lacking.push(head);
        }
    }
    lacking
}

fn limit(request: &Request) -> Result<Option<usize>> {
    Ok(request.number("Limit")?.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)))
}

/// The start key's values; some refusals carry a prefix and some do not, as DynamoDB has it.
fn start_key(request: &Request) -> Result<Option<Item>> {
    let Some(map) = request.map("ExclusiveStartKey")? else {
        return Ok(None);
    };
    let plain = ["contains duplicates", "number set", "numeric value", "significant digits", "number with magnitude"];
    match item_from_json(map) {
        Ok(item) => Ok(Some(item)),
        Err(Error::Validation(text)) if !plain.iter().any(|part| text.contains(part)) => {
            invalid(format!("The provided starting key is invalid: {text}"))
        }
        Err(error) => Err(error),
    }
}

/// Checks `Select` against the rest.
fn select(request: &Request, view: &View) -> Result<Select> {
    let select = request.text("Select")?;
    let member = if request.get("AttributesToGet").is_some() { "AttributesToGet" } else { "ProjectionExpression" };
    match select {
        Some("SPECIFIC_ATTRIBUTES") if !view.is_some() => invalid(
            "One or more parameter values were invalid: Must specify the AttributesToGet or ProjectionExpression when \
             choosing to get SPECIFIC_ATTRIBUTES",
        ),
        Some("COUNT") if view.is_some() => invalid(format!(
            "One or more parameter values were invalid: Cannot specify the {member} when choosing to get only the Count"
        )),
        Some(all @ ("ALL_ATTRIBUTES" | "ALL_PROJECTED_ATTRIBUTES")) if view.is_some() => invalid(format!(
            "One or more parameter values were invalid: Cannot specify the {member} when choosing to get {all}"
        )),
        Some("ALL_PROJECTED_ATTRIBUTES") if request.get("IndexName").is_none() => invalid(
            "One or more parameter values were invalid: ALL_PROJECTED_ATTRIBUTES can be used only when Querying using \
             an IndexName",
        ),
        Some("COUNT") => Ok(Select::Count),
        Some("ALL_ATTRIBUTES") => Ok(Select::All),
        _ => Ok(Select::Given),
    }
}

/// FilterExpression, or its legacy form.
fn read_filter(request: &Request, scope: &mut Scope, legacy: &str) -> Result<Option<Condition>> {
    match request.text("FilterExpression")? {
        Some(text) => scope.parse("FilterExpression", text, condition::parse).map(Some),
        None => request.legacy_filter(legacy),
    }
}

fn filter_paths(filter: Option<&Condition>) -> Vec<&Path> {
    let mut paths = Vec::new();
    if let Some(filter) = filter {
        condition::heads(filter, &mut paths);
    }
    paths
}

/// `Query`
pub(super) async fn query(shared: &Shared, place: &Place, request: &Request) -> Result<Reply> {
    let own = ["KeyConditionExpression", "KeyConditions", "QueryFilter", "ScanIndexForward"];
    request.only("Query", &[MEMBERS, &own].concat())?;
    let limits = Rule::Within("Limit", 1, i64::MAX);
    request.check(&[
        Rule::Filled("AttributesToGet"),
        Rule::Required("TableName"),
        Rule::Name("IndexName"),
        Rule::OneOf("Select", SELECT),
        limits,
        CONDITIONAL,
        Rule::Legacy("QueryFilter"),
        Rule::Legacy("KeyConditions"),
        CAPACITY,
    ])?;
    let name = request.table_name(place)?;
    let limit = limit(request)?;
    request.check_expressions(&["ProjectionExpression", "FilterExpression", "KeyConditionExpression"])?;
    let start = start_key(request)?;
    let text = request.text("KeyConditionExpression")?;
    let legacy = match request.map("KeyConditions")? {
        Some(map) => legacy::key_conditions(map)?,
        None if text.is_none() => {
            return invalid(
                "Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.",
            );
        }
        None => Vec::new(),
    };
    let mut scope = request.scope()?;
    let key_condition = text.map(|text| scope.parse("KeyConditionExpression", text, condition::parse)).transpose()?;
    let filter = read_filter(request, &mut scope, "QueryFilter")?;
    let view = View::of(request, &mut scope)?;
    scope.finish()?;
    let tests = key_condition.as_ref().map_or(Ok(legacy), key_condition::read)?;
    let select = select(request, &view)?;
    let consistent = request.flag("ConsistentRead")?.unwrap_or(false);
    let forward = request.flag("ScanIndexForward")?.unwrap_or(true);

    let found = shared.table(place, name).await?;
    let access = Access::new(&found.table, request.text("IndexName")?, consistent)?;
    let start = start.as_ref().map(|start| Ok::<_, Error>((start, access.start(start)?))).transpose()?;
    let plan = query::plan(&access, &tests)?;
    let mut range = if forward { plan.clone() } else { plan.clone().reversed() };
    if let Some((start, key)) = start {
        query::check_start(&access, &plan, &tests, start, &key)?;
        range = range.beyond(key);
    }
    view.check(&found.table)?;
    let paths = filter_paths(filter.as_ref());
    if let Some(path) = paths.iter().find(|path| access.is_key(path.head())) {
        let head = path.head();
        let member = if request.get("QueryFilter").is_some() { "QueryFilter" } else { "Filter Expression" };
        return invalid(format!("{member} can only contain non-primary key attributes: Primary key attribute: {head}"));
    }
    let common = Common { limit, filter, view, select, consistent, of_partition: true };
    let fetches = common.check(&access)?;
    check_key_paths(&found.table, filter_paths(common.filter.as_ref()))?;
    Ok(page(shared, request, &access, vec![range], &common, fetches).await?.reply())
}

/// The segment of a parallel scan: which, and of how many.
fn segment(request: &Request) -> Result<Option<(u64, u64)>> {
    let (segment, total) = (request.number("Segment")?, request.number("TotalSegments")?);
    match (segment, total) {
        (None, None) => Ok(None),
        (Some(_), None) => invalid(
            "The TotalSegments parameter is required but was not present in the request when Segment parameter is \
             present",
        ),
        (None, Some(_)) => invalid(
            "The Segment parameter is required but was not present in the request when parameter TotalSegments is \
             present",
        ),
        (Some(segment), Some(total)) if segment >= total => invalid(format!(
            "The Segment parameter is zero-based and must be less than parameter TotalSegments: Segment: {segment} is \
             not less than TotalSegments: {total}"
        )),
        (Some(segment), Some(total)) => Ok(Some((segment.unsigned_abs(), total.unsigned_abs()))),
    }
}

/// `Scan`
pub(super) async fn scan(shared: &Shared, place: &Place, request: &Request) -> Result<Reply> {
    request.only("Scan", &[MEMBERS, &["ScanFilter", "Segment", "TotalSegments"]].concat())?;
    request.check(&[
        Rule::Filled("AttributesToGet"),
        Rule::Required("TableName"),
        Rule::Name("IndexName"),
        Rule::OneOf("Select", SELECT),
        Rule::Within("Limit", 1, i64::MAX),
        Rule::Within("Segment", 0, SEGMENTS_MAX - 1),
        Rule::Within("TotalSegments", 1, SEGMENTS_MAX),
        CONDITIONAL,
        Rule::Legacy("ScanFilter"),
        CAPACITY,
    ])?;
    let name = request.table_name(place)?;
    let limit = limit(request)?;
    request.check_expressions(&["ProjectionExpression", "FilterExpression"])?;
    let start = start_key(request)?;
    let segment = segment(request)?;
    let mut scope = request.scope()?;
    let filter = read_filter(request, &mut scope, "ScanFilter")?;
    let view = View::of(request, &mut scope)?;
    scope.finish()?;
    let select = select(request, &view)?;
    let consistent = request.flag("ConsistentRead")?.unwrap_or(false);

    let found = shared.table(place, name).await?;
    let access = Access::new(&found.table, request.text("IndexName")?, consistent)?;
    let common = Common { limit, filter, view, select, consistent, of_partition: false };
    let fetches = common.check(&access)?;
    let mut range = access.whole(segment);
    if let Some(start) = &start {
        let key = access.start_of_scan(start)?;
        if let Some((segment, total)) = segment.filter(|_| !range.contains(&key)) {
            return invalid(format!(
                "The provided starting key is invalid: Invalid ExclusiveStartKey. Please use ExclusiveStartKey with \
                 correct Segment. TotalSegments: {total} Segment: {segment}"
            ));
        }
        range = range.beyond(key);
    }
    common.view.check(&found.table)?;
    check_key_paths(&found.table, filter_paths(common.filter.as_ref()))?;
    Ok(page(shared, request, &access, vec![range], &common, fetches).await?.reply())
}

/// What a page has read so far.
#[derive(Default)]
struct Progress {
    /// The answer as far as it is written: `HEAD`, and what is shown of the items, with commas between them.
    text: Vec<u8>,
    count: usize,
    scanned: usize,
    bytes: usize,
    /// Bytes that end the page: of the items, or of those that an index led to in their place.
    held: usize,
    last: Option<Item>,
    /// Whether a limit ended the page.
    cut: bool,
    /// Sizes of items that an index led to.
    fetched: Vec<usize>,
}

/// One item as the page reads it.
struct Row {
    /// What the filter and the view see.
    item: Item,
    /// Bytes of what was read of the table or the index.
    size: usize,
    /// Bytes of what was read of the table besides an index.
    fetched: Option<usize>,
}

impl Progress {
    /// Takes one item; returns whether the page is over.
    fn take(&mut self, access: &Access<'_>, common: &Common, row: Row) -> bool {
        let Row { item, size, fetched } = row;
        let held = fetched.unwrap_or(size);
        if self.scanned > 0 && self.held + held > PAGE_BYTES_MAX {
            self.cut = true;
            return true;
        }
        self.held += held;
        self.bytes += size;
        self.scanned += 1;
        self.fetched.extend(fetched);
        self.cut = common.limit.is_some_and(|limit| self.scanned >= limit);
        // Nobody asks where any other item was.
        if self.cut || self.held + ITEM_BYTES_MAX > PAGE_BYTES_MAX {
            self.last = Some(access.position(&item));
        }
        if common.filter.as_ref().is_none_or(|filter| holds(filter, &item)) {
            self.count += 1;
            if common.select != Select::Count {
                self.part();
                // Memory takes every byte, and maps with names for keys always serialise.
                let _ = serde_json::to_writer(&mut self.text, &common.show(access, item, fetched.is_some()));
            }
        }
        self.cut
    }

    /// Begins what is shown of the next item.
    fn part(&mut self) {
        if self.text.is_empty() {
            self.text.extend_from_slice(HEAD);
        } else {
            self.text.push(b',');
        }
    }

    /// Makes room for items, which in JSON are some longer than they are stored.
    fn expect(&mut self, entries: &[Entry]) {
        let stored: usize = entries.iter().map(|entry| entry.value.len()).sum();
        self.text.reserve(HEAD.len() + stored + stored / 4);
    }

    /// Takes an item as the table stores it, if nothing is asked of it but to be shown, and no limit is near.
    fn take_entry(&mut self, common: &Common, entry: &Entry) -> Result<bool> {
        if !common.is_plain() || self.held + 2 * ITEM_BYTES_MAX > PAGE_BYTES_MAX {
            return Ok(false);
        }
        self.part();
        let bytes = item::write_json(&entry.value, &mut self.text).ok_or(Error::Corrupt("item"))?;
        self.bytes += bytes;
        self.held += bytes;
        self.scanned += 1;
        self.count += 1;
        Ok(true)
    }

    fn units(&self, access: &Access<'_>, consistent: bool) -> Units {
        match access.index {
            None => Units::of_read(self.bytes, consistent),
            Some(index) => Units::of_index_read(index, self.bytes, &self.fetched, consistent),
        }
    }
}

/// What an entry of the store shows; nothing where an index outlives the items of a deleted table for a moment.
async fn row(snapshot: &dyn Snapshot, access: &Access<'_>, entry: &Entry, fetches: bool) -> Result<Option<Row>> {
    let Some(index) = access.index else {
        let item = decode(entry)?;
        return Ok(Some(Row { size: item_size(&item), item, fetched: None }));
    };
    let (projected, key) = match index::decode(&entry.value).ok_or(Error::Corrupt("index entry"))? {
        Carried::Attributes(item) if !fetches => {
            return Ok(Some(Row { size: item_size(&item), item, fetched: None }));
        }
        Carried::Attributes(item) => {
            let key = access.table.key_of_request(&access.table.key_of(&item))?.store;
            (Some(item), key)
        }
        Carried::Item(key) => (None, key),
    };
    let Some(entry) = snapshot.get(&key).await? else { return Ok(None) };
    Ok(Some(fetched_row(access, index, projected, decode(&entry)?, fetches)))
}

/// The row of an item that an index led to.
fn fetched_row(access: &Access<'_>, index: &Index, projected: Option<Item>, whole: Item, fetches: bool) -> Row {
    let projected = projected.unwrap_or_else(|| index.project(access.table, &whole));
    let size = item_size(&projected);
    if fetches {
        let fetched = Some(item_size(&whole));
        return Row { item: whole, size, fetched };
    }
    Row { item: projected, size, fetched: None }
}

/// Reads one range, as far as the page goes.
async fn read_range(
    snapshot: &dyn Snapshot,
    access: &Access<'_>,
    mut range: Range,
    common: &Common,
    fetches: bool,
    progress: &mut Progress,
) -> Result<()> {
    let plain = access.index.is_none();
    loop {
        let rows = common.limit.map_or(ROWS_MAX, |limit| (limit - progress.scanned).min(ROWS_MAX));
        let read = snapshot.range(&range.clone().rows(rows).bytes(PAGE_BYTES_MAX)).await?;
        let last_key = read.entries.last().map(|entry| entry.key.clone());
        for entry in &read.entries {
            if plain && progress.take_entry(common, entry)? {
                continue;
            }
            let Some(row) = row(snapshot, access, entry, fetches).await? else { continue };
            if progress.take(access, common, row) {
                break;
            }
        }
        match last_key {
            Some(key) if read.more && !progress.cut => range = range.beyond(key),
            _ => return Ok(()),
        }
    }
}

/// What a statement reads, whose whole condition is its filter.
pub(super) struct Page {
    pub(super) limit: Option<usize>,
    pub(super) filter: Option<Condition>,
    pub(super) view: View,
    pub(super) consistent: bool,
    /// Whether its condition names the partitions that are read.
    pub(super) of_partition: bool,
}

/// A page of what lies in these ranges, one after the other.
pub(super) async fn read(
    shared: &Shared,
    request: &Request,
    access: &Access<'_>,
    ranges: Vec<Range>,
    of: Page,
) -> Result<Answer> {
    let Page { limit, filter, view, consistent, of_partition } = of;
    let common = Common { limit, filter, view, select: Select::Given, consistent, of_partition };
    let fetches = common.check(access)?;
    common.view.check(access.table)?;
    check_key_paths(access.table, filter_paths(common.filter.as_ref()))?;
    page(shared, request, access, ranges, &common, fetches).await
}

/// What Query and Scan answer.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Answer {
    /// What the answer begins with: `HEAD`, and the items with commas between them; none where only their count is asked for.
    #[serde(skip)]
    text: Option<Vec<u8>>,
    count: usize,
    scanned_count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_evaluated_key: Option<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) consumed_capacity: Option<Json>,
}

impl Answer {
    /// The items as a document.
    pub(super) fn items(&self) -> Result<Json> {
        let items = self.text.as_deref().and_then(|text| text.get(HEAD.len()..)).unwrap_or_default();
        serde_json::from_slice(&[b"[", items, b"]"].concat()).map_err(|_| Error::Corrupt("page"))
    }

    /// The whole, written; the items are written already.
    fn reply(self) -> Reply {
        let rest = serde_json::to_vec(&self).unwrap_or_default();
        Reply::text(match self.text {
            Some(mut text) => {
                if text.is_empty() {
                    text.extend_from_slice(HEAD);
                }
                text.extend_from_slice(b"],");
                text.extend_from_slice(rest.get(1..).unwrap_or_default());
                text
            }
            None => rest,
        })
    }
}

/// The whole page, where that is what one look at the store shows: most queries read few items, and a snapshot costs more
/// than these. Nothing where there is more to read.
async fn short_page(
    shared: &Shared,
    access: &Access<'_>,
    ranges: &[Range],
    common: &Common,
) -> Result<Option<Progress>> {
    let ([range], None) = (ranges, access.index) else { return Ok(None) };
    let rows = common.limit.unwrap_or(if common.of_partition { SHORT_ROWS_MAX } else { usize::MAX });
    if rows > SHORT_ROWS_MAX {
        return Ok(None);
    }
    let read = shared.store.range(&range.clone().rows(rows).bytes(SHORT_BYTES_MAX)).await?;
    let mut progress = Progress::default();
    if common.select != Select::Count {
        progress.expect(&read.entries);
    }
    for entry in &read.entries {
        if progress.take_entry(common, entry)? {
            continue;
        }
        let item = decode(entry)?;
        if progress.take(access, common, Row { size: item_size(&item), item, fetched: None }) {
            break;
        }
    }
    Ok((progress.cut || !read.more).then_some(progress))
}

async fn page(
    shared: &Shared,
    request: &Request,
    access: &Access<'_>,
    ranges: Vec<Range>,
    common: &Common,
    fetches: bool,
) -> Result<Answer> {
    shared.admit(access.table, access.index, Direction::Read)?;
    let ranges = &ranges;
    let read = |snapshot: Box<dyn Snapshot>| async move {
        let mut progress = Progress::default();
        for range in ranges {
            if !progress.cut {
                read_range(&*snapshot, access, range.clone(), common, fetches, &mut progress).await?;
            }
        }
        Ok(progress)
    };
    let progress = match short_page(shared, access, ranges, common).await? {
        Some(progress) => progress,
        None => shared.on_snapshot(read).await?,
    };
    let units = progress.units(access, common.consistent);
    shared.pay(access.table, &units, Direction::Read);
    Ok(Answer {
        text: (common.select != Select::Count).then_some(progress.text),
        count: progress.count,
        scanned_count: progress.scanned,
        last_evaluated_key: progress.last.filter(|_| progress.cut),
        consumed_capacity: consumed(request, request.text("TableName")?.unwrap_or(&access.table.name), &units)?,
    })
}
