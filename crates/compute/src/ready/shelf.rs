//! What is ready of one kind of guests, and what is missing.

use std::sync::Arc;
use std::time::Duration;

use model::FunctionVersion;
use tokio::time::Instant;

use super::Kind;
use super::boot::{Booted, Zygote};
use super::demand::Demand;

/// How long nothing is booted after it failed.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// How long no zygote of its own is tried for a function whose dependencies make none.
const OWN_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// How long no snapshot is tried after one failed; then the next use has it tried.
const SNAPSHOT_RETRY_AFTER: Duration = Duration::from_secs(600);

pub(super) struct Shelf {
    /// Whose dependencies its guests have loaded, or whose init they have run.
    pub(super) version: Option<Arc<FunctionVersion>>,
    pub(super) booted: Vec<Booted>,
    /// Whether somebody fills it.
    pub(super) filling: bool,
    pub(super) zygote: Option<Arc<Zygote>>,
    /// Whether another zygote is to be made for `version`.
    pub(super) changed: bool,
    pub(super) demand: Demand,
    /// When something was last taken, or a function of this kind was first seen.
    pub(super) used: Instant,
    /// Until when nothing is tried.
    failed_until: Option<Instant>,
}

/// What a shelf lacks.
pub(super) enum Missing {
    Zygote(Option<Arc<FunctionVersion>>),
    Guest(Option<Arc<Zygote>>),
}

impl Shelf {
    pub(super) fn new(version: Option<Arc<FunctionVersion>>) -> Self {
        Self {
            version,
            booted: Vec::new(),
            filling: false,
            zygote: None,
            changed: false,
            demand: Demand::default(),
            used: Instant::now(),
            failed_until: None,
        }
    }

    /// A function's init was long although its dependencies were loaded, or were about to be: its module may import others.
    pub(super) fn look_for_change(&mut self, version: &Arc<FunctionVersion>) {
        let is_other = self.version.as_ref().is_some_and(|known| known != version);
        if is_other && self.zygote.as_ref().is_some_and(|zygote| zygote.may_change()) {
            self.version = Some(version.clone());
            self.changed = true;
        }
    }

    /// Whether it has no zygote, or one that is to be replaced.
    fn lacks_zygote(&self) -> bool {
        self.changed || self.zygote.as_ref().is_none_or(|zygote| zygote.is_spent(self.used))
    }

    /// Whether it soon has no zygote that forks, or has none now.
    pub(super) fn runs_out(&self) -> bool {
        self.zygote.as_ref().is_none_or(|zygote| zygote.is_running_out())
    }

    /// What is to be made next, at most `max` guests ahead.
    pub(super) fn missing(&mut self, kind: &Kind, now_s: u64, max: usize) -> Option<Missing> {
        if self.failed_until.is_some_and(|until| Instant::now() < until || self.waits_for_use(kind, until)) {
            return None;
        }
        if kind.is_forked() && self.lacks_zygote() {
            return Some(Missing::Zygote(self.version.clone()));
        }
        (self.booted.len() < self.demand.wanted(now_s, max)).then(|| Missing::Guest(self.zygote.clone()))
    }

    /// A function's init is not run again and again for nobody.
    fn waits_for_use(&self, kind: &Kind, failed_until: Instant) -> bool {
        kind.snapshot.is_some() && self.used + SNAPSHOT_RETRY_AFTER < failed_until
    }

    /// Has nothing tried for a while.
    pub(super) fn failed(&mut self, kind: &Kind) {
        let retry_after = match (&kind.own, &kind.snapshot) {
            (_, Some(_)) => SNAPSHOT_RETRY_AFTER,
            (Some(_), None) => OWN_RETRY_AFTER,
            (None, None) => RETRY_AFTER,
        };
        self.failed_until = Some(Instant::now() + retry_after);
    }

    /// Whether something failed of late.
    pub(super) fn has_failed(&self) -> bool {
        self.failed_until.is_some()
    }
}
