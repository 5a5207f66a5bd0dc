//! How tables are paid for: what requests ask for, how a table changes, and what an account may have in all.
//!
//! Invariant: sums over an account are looked at before a table is made or changed, not in its commit: calls that come
//! at once may pass the limit together.

use serde_json::{Value as Json, json};

use super::super::error::{Error, Result, invalid};
use super::super::keys;
use super::super::table::{Billing, Table};
use super::super::throughput::{self, ACCOUNT_UNITS_MAX, OnDemand, TABLE_UNITS_MAX, UnitsChanged};
use super::request::Request;
use super::{Place, Shared};

const PARAMETERS: &str = "One or more parameter values were invalid: ";
/// Most capacity units of each kind that make sense at all.
const UNITS_MAX: i64 = 1_000_000_000_000;

fn units_without_mode() -> Error {
    Error::validation(format!(
        "{PARAMETERS}Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST"
    ))
}

/// The billing that two members of a request ask for, checked against each other.
pub(super) fn read(request: &Request, mode: &str, units: &str, now_ms: u64) -> Result<Billing> {
    let throughput = request.map(units)?;
    if request.text(mode)? == Some("PAY_PER_REQUEST") {
        if throughput.is_some() {
            return Err(units_without_mode());
        }
        return Ok(Billing::PayPerRequest { since_ms: now_ms });
    }
    let unit = |name: &str| throughput.and_then(|throughput| throughput.get(name)).and_then(Json::as_i64);
    let (Some(read), Some(write)) = (unit("ReadCapacityUnits"), unit("WriteCapacityUnits")) else {
        return invalid(format!(
            "{PARAMETERS}ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is \
             PROVISIONED"
        ));
    };
    let both = [("ReadCapacityUnits", read), ("WriteCapacityUnits", write)];
    if let Some((name, units)) = both.iter().find(|(_, units)| *units > UNITS_MAX) {
        return invalid(format!("Given value {units} for {name} is out of bounds"));
    }
    let (read, write) = (read.unsigned_abs(), write.unsigned_abs());
    throughput::check_units((read, write))?;
    Ok(Billing::Provisioned { read, write })
}

/// The greatest throughput that a member of a request asks for, of a table that is paid for so.
pub(super) fn on_demand(request: &Request, member: &str, billing: &Billing) -> Result<OnDemand> {
    match request.get(member) {
        None => Ok(OnDemand::default()),
        Some(_) if matches!(billing, Billing::Provisioned { .. }) => throughput::not_on_demand(),
        Some(most) => Ok(OnDemand::default().changed(OnDemand::read(most, "table")?)),
    }
}

/// What UpdateTable asks for.
pub(super) struct Asked {
    billing: Option<Billing>,
    most: Option<(Option<i64>, Option<i64>)>,
    /// Whether the mode is left as it is.
    keeps_mode: bool,
}

/// Reads what UpdateTable asks for.
pub(super) fn asked_of_update(request: &Request, now_ms: u64) -> Result<Asked> {
    let (mode, units) = ("BillingMode", "ProvisionedThroughput");
    if request.text(mode)? == Some("PROVISIONED") && request.get(units).is_none() {
        return invalid(format!("{PARAMETERS}ProvisionedThroughput must be specified when BillingMode is PROVISIONED"));
    }
    let pays = request.get(mode).is_some() || request.get(units).is_some();
    Ok(Asked {
        billing: if pays { Some(read(request, mode, units, now_ms)?) } else { None },
        most: request.get("OnDemandThroughput").map(|most| OnDemand::read(most, "table")).transpose()?,
        keeps_mode: request.get(mode).is_none(),
    })
}

impl Asked {
    /// Whether it changes how the table is paid for.
    pub(super) fn bills(&self) -> bool {
        self.billing.is_some()
    }

    /// Whether the table is then paid for by request.
    pub(super) fn pays_per_request(&self, table: &Table) -> bool {
        matches!(self.billing.as_ref().unwrap_or(&table.billing), Billing::PayPerRequest { .. })
    }

    /// Gives a table what is asked for; its global indexes follow.
    pub(super) fn apply(&self, table: &mut Table, now_ms: u64) -> Result<()> {
        if let Some(billing) = &self.billing {
            self.change_billing(table, billing, now_ms)?;
        }
        if let Some(most) = self.most {
            if matches!(table.billing, Billing::Provisioned { .. }) {
                return throughput::not_on_demand();
            }
            table.on_demand = table.on_demand.changed(most);
        }
        Ok(())
    }

    fn change_billing(&self, table: &mut Table, billing: &Billing, now_ms: u64) -> Result<()> {
        let since_ms = match table.billing {
            Billing::PayPerRequest { since_ms } => Some(since_ms),
            Billing::Provisioned { .. } => None,
        };
        let paid_per_request = since_ms.is_some();
        if self.keeps_mode && paid_per_request {
            return Err(units_without_mode());
        }
        match (&table.billing, billing) {
            (Billing::Provisioned { read, write }, Billing::Provisioned { read: new_read, write: new_write }) => {
                let (old, new) = ((*read, *write), (*new_read, *new_write));
                throughput::check_changes("table", old, new)?;
                table.units_changed = table.units_changed.change(old, new, now_ms)?;
            }
            // Where it is paid so already, it stays so since then.
            (Billing::PayPerRequest { .. }, Billing::PayPerRequest { .. }) => return Ok(()),
            _ => table.units_changed = UnitsChanged::default(),
        }
        table.paid_per_request_ms = since_ms.or(table.paid_per_request_ms);
        table.billing = billing.clone();
        let globals = table.indexes.iter_mut().filter(|index| !index.local);
        match billing {
            Billing::PayPerRequest { .. } => globals.for_each(|index| index.throughput = None),
            Billing::Provisioned { .. } if paid_per_request => {
                table.on_demand = OnDemand::default();
                let mut without = Vec::new();
                for index in globals {
                    index.on_demand = OnDemand::default();
                    if index.throughput.is_none() {
                        without.push(index.name.as_str());
                    }
                }
                if !without.is_empty() {
                    return invalid(format!(
                        "{PARAMETERS}ProvisionedThroughput must be specified for index: {}",
                        without.join(",")
                    ));
                }
            }
            Billing::Provisioned { .. } => {}
        }
        Ok(())
    }
}

/// Units of a table with all its indexes.
fn units_of(table: &Table) -> (u64, u64) {
    let Billing::Provisioned { read, write } = table.billing else { return (0, 0) };
    let indexes = table.indexes.iter().filter_map(|index| index.throughput);
    indexes.fold((read, write), |sum, units| (sum.0 + units.0, sum.1 + units.1))
}

/// Refuses a table that would be one too many of its account, or whose units would be; `name` is that of the table as it
/// is, if it is there already.
pub(super) async fn check_account(shared: &Shared, place: &Place, name: Option<&str>, after: &Table) -> Result<()> {
    let wanted = units_of(after);
    let raises = wanted != (0, 0);
    if name.is_some() && !raises {
        return Ok(());
    }
    let (mut count, mut sum) = (0, wanted);
    let mut range = keys::tables(&place.account, &place.region).rows(1_000);
    loop {
        let page = shared.store.range(&range).await?;
        for entry in &page.entries {
            let table = shared.decoded(entry)?;
            count += 1;
            if Some(table.name.as_str()) != name {
                let units = units_of(&table);
                sum = (sum.0 + units.0, sum.1 + units.1);
            }
        }
        match page.entries.last() {
            Some(last) if page.more => range = range.beyond(last.key.clone()),
            _ => break,
        }
    }
    let most = shared.config.tables_max;
    if name.is_none() && count >= most {
        let words = format!("Subscriber limit exceeded: There is a limit of {most} tables per subscriber");
        return Err(Error::LimitExceeded(words));
    }
    if raises && (sum.0 > ACCOUNT_UNITS_MAX || sum.1 > ACCOUNT_UNITS_MAX) {
        return Err(Error::LimitExceeded(format!(
            "Subscriber limit exceeded: the tables and indexes of an account have at most {ACCOUNT_UNITS_MAX} read and \
             {ACCOUNT_UNITS_MAX} write capacity units in a region; with this one there would be {} and {}",
            sum.0, sum.1
        )));
    }
    Ok(())
}

/// `DescribeLimits`
pub(super) fn limits() -> Json {
    json!({
        "AccountMaxReadCapacityUnits": ACCOUNT_UNITS_MAX,
        "AccountMaxWriteCapacityUnits": ACCOUNT_UNITS_MAX,
        "TableMaxReadCapacityUnits": TABLE_UNITS_MAX,
        "TableMaxWriteCapacityUnits": TABLE_UNITS_MAX,
    })
}
