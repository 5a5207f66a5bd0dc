//! The functions that there are: what the engine starts environments from, and what the front door routes to.
//!
//! Invariants
//!   1. Once a change is answered, no later look-up sees what was before it: every own write empties the cache before
//!      it returns, and writes of other nodes empty it through the store's watch.
//!   2. A look-up that is remembered reads nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use base::{Cache, Clock, Random};
use bytes::Bytes;
use model::policy::{self, Actor, Circumstances, Verdict};
use model::{
    AccessPoint, AccountId, CodeDigest, EventRules, Floor, FunctionRef, FunctionUrl, FunctionVersion, InvokeError,
    MappingNews, Mappings, RuntimeUse, Site, SiteKey,
    ports::{Catalog, Sites},
};
use serde_json::Value;
use store::references::References;
use store::{Blobs, Store, Txn};

use super::image::Arrivals;
use super::record::{FunctionRecord, LATEST, UrlOwner};
use super::storage::Bounds;
use super::uses::Uses;
use super::versions::Resolved;
use super::{ATTEMPTS, decoded, encoded, error, event_config, keys, packages};

/// Answers remembered at most; beyond that they are read again.
const REMEMBERED_MAX: usize = 50_000;

/// What an operator decides about functions.
#[derive(Debug, Clone)]
pub struct Config {
    /// The domain under which function URLs get their host names: `localhost`.
    pub url_suffix: String,
    /// Concurrent invocations of an account in a region: what can be reserved, and what account settings show.
    pub account_concurrency: u32,
    /// `x86_64` or `arm64`: what programs of a package's own are built for.
    pub architecture: &'static str,
    /// Access points of folders that functions may have.
    pub access_points: Vec<AccessPoint>,
    /// Bytes of code that an account may keep in a region.
    pub code_bytes_max: u64,
}

/// Source: Lambda quotas, 75 GB of functions and layers.
const CODE_BYTES_MAX: u64 = 80_530_636_800;

impl Default for Config {
    fn default() -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
        Self {
            url_suffix: "localhost".into(),
            account_concurrency: 1_000,
            architecture,
            access_points: Vec::new(),
            code_bytes_max: CODE_BYTES_MAX,
        }
    }
}

/// The registry of functions, shared by the API (`LambdaService`), the engine and the front door.
pub struct Functions {
    pub(super) store: Arc<dyn Store>,
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    /// Who owns the bytes of packages.
    pub(super) references: References,
    pub(super) config: Config,
    pub(super) link_secret: OnceLock<Arc<[u8]>>,
    /// Layers of images on their way here.
    pub(super) arrivals: Arc<Arrivals>,
    versions: Cache<FunctionRef, Resolved>,
    event_rules: Cache<FunctionRef, Arc<EventRules>>,
    urls: Cache<String, Arc<FunctionUrl>>,
    policies: Cache<FunctionRef, Arc<[Value]>>,
    pub(super) uses: Uses,
    /// What accounts keep at most.
    pub(super) bounds: Bounds,
}

impl Functions {
    /// The functions in this store. Spawn `run` beside it.
    pub fn new(
        store: Arc<dyn Store>,
        blobs: Arc<dyn Blobs>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        config: Config,
    ) -> Arc<Self> {
        let references = References::new(
            Arc::clone(&store),
            Arc::clone(&blobs),
            Arc::clone(&clock),
            Arc::clone(&random),
            (model::prefixes::BLOBS.byte, packages::UPLOADS),
            packages::UPLOAD_MS,
        );
        let arrivals = Arrivals::new(references.clone(), Arc::clone(&blobs), Arc::clone(&clock), Arc::clone(&random));
        Arc::new(Self {
            arrivals,
            references,
            store,
            blobs,
            clock,
            random,
            config,
            link_secret: OnceLock::new(),
            versions: Cache::new(REMEMBERED_MAX),
            event_rules: Cache::new(REMEMBERED_MAX),
            urls: Cache::new(REMEMBERED_MAX),
            policies: Cache::new(REMEMBERED_MAX),
            uses: Uses::new(),
            bounds: Bounds::default(),
        })
    }

    /// Accounts that own functions, `most` of them at most.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn accounts(&self, most: usize) -> Result<Vec<AccountId>, store::Error> {
        let mut range = store::Range { rows: 1, ..store::Range::prefix(keys::watched()) };
        let mut accounts = Vec::new();
        while accounts.len() < most {
            let page = self.store.range(&range).await?;
            let Some(account) = page.entries.first().and_then(|entry| keys::account_of(&entry.key)) else { break };
            // On to the next account, whatever this one has.
            let after = store::Range::prefix(keys::functions_of(account.as_str())).end;
            let std::ops::Bound::Excluded(start) = after else { break };
            range.start = std::ops::Bound::Included(start);
            accounts.push(account);
        }
        Ok(accounts)
    }

    /// Forgets what is remembered; the next look-ups read.
    pub(super) fn forget(&self) {
        self.versions.clear();
        self.event_rules.clear();
        self.urls.clear();
        self.policies.clear();
    }

    /// The record of a function, if there is one.
    pub(super) async fn record(&self, function: &FunctionRef) -> Result<Option<FunctionRecord>, aws::Error> {
        let entry = self.store.get(&keys::function(function)).await.map_err(error::store)?;
        entry.map(|entry| decoded(&entry.value)).transpose()
    }

    /// The record of a function that must be there, whatever qualifier the reference has.
    pub(super) async fn existing(&self, function: &FunctionRef) -> Result<FunctionRecord, aws::Error> {
        self.record(function).await?.ok_or_else(|| error::function_not_found(&function.arn()))
    }

    /// Changes a function's record, whatever qualifier the reference has. `decide` changes the record and may add to the transaction; it runs again when
    /// another change came first. A record that stays as it is is not written.
    pub(super) async fn change<T: Send>(
        &self,
        function: &FunctionRef,
        mut decide: impl FnMut(&mut FunctionRecord, &mut Txn) -> Result<T, aws::Error> + Send,
    ) -> Result<T, aws::Error> {
        let key = keys::function(function);
        for _ in 0..ATTEMPTS {
            let entry = self.store.get(&key).await.map_err(error::store)?;
            let entry = entry.ok_or_else(|| error::function_not_found(&function.arn()))?;
            let before: FunctionRecord = decoded(&entry.value)?;
            let mut after = before.clone();
            let mut txn = Txn::new().expect_version(key.clone(), entry.version);
            let result = decide(&mut after, &mut txn)?;
            if after != before {
                txn = txn.put(key.clone(), encoded(&after)?);
            }
            if txn.ops.is_empty() || self.committed(txn).await? {
                return Ok(result);
            }
        }
        Err(error::store(store::Error::Conflict))
    }

    /// Commits and forgets. False: another commit came first, decide again.
    pub(super) async fn committed(&self, txn: Txn) -> Result<bool, aws::Error> {
        match self.store.commit(txn).await {
            Ok(_) => {
                self.forget();
                Ok(true)
            }
            Err(store::Error::Conflict | store::Error::TooOld) => Ok(false),
            Err(other) => {
                // Whether it happened is not known: what is remembered may be old.
                self.forget();
                Err(error::store(other))
            }
        }
    }

    /// What the policy of a function says of a wish. A function that is not there has none.
    pub(super) async fn verdict(
        &self,
        function: &FunctionRef,
        actor: Actor<'_>,
        action: &str,
        (context, circumstances): (&[(&str, &str)], Circumstances),
    ) -> Result<Verdict, aws::Error> {
        let qualifier = function.qualifier.clone().filter(|qualifier| qualifier != LATEST);
        let function = FunctionRef { qualifier, ..function.clone() };
        let statements = match self.policies.get(&function) {
            Some(statements) => statements,
            None => {
                let ticket = self.policies.ticket();
                let record = self.record(&function).await?;
                let of = function.qualifier.as_deref().unwrap_or_default();
                let statements: Arc<[Value]> =
                    record.and_then(|mut record| record.policies.remove(of)).unwrap_or_default().into();
                self.policies.keep(ticket, function.clone(), statements.clone());
                statements
            }
        };
        if statements.is_empty() {
            return Ok(Verdict::Silent);
        }
        let resource = &function.arn();
        Ok(policy::evaluate(&statements, &policy::Request { actor, action, resource, context, circumstances }))
    }

    /// The versions that a reference leads to, read if they are not remembered.
    pub(super) async fn remembered(&self, function: &FunctionRef) -> Result<Resolved, InvokeError> {
        if let Some(resolved) = self.versions.get(function) {
            return Ok(resolved);
        }
        let ticket = self.versions.ticket();
        let resolved = self.resolved(function).await.map_err(|problem| InvokeError::Internal(problem.to_string()))?;
        let resolved = resolved.ok_or_else(|| InvokeError::NotFound(function.arn()))?;
        self.versions.keep(ticket, function.clone(), resolved.clone());
        Ok(resolved)
    }

    async fn read_url(&self, id: &str) -> Result<Option<Arc<FunctionUrl>>, aws::Error> {
        let Some(entry) = self.store.get(&keys::url(id)).await.map_err(error::store)? else { return Ok(None) };
        let owner: UrlOwner = decoded(&entry.value)?;
        let Some(record) = self.record(&owner.function).await? else { return Ok(None) };
        let qualifier = owner.function.qualifier.clone().unwrap_or_default();
        let Some(url) = record.urls.get(&qualifier).filter(|url| url.id == id) else { return Ok(None) };
        let policy = record.policies.get(&qualifier).cloned().unwrap_or_default();
        Ok(Some(Arc::new(FunctionUrl {
            id: url.id.clone(),
            function: owner.function,
            auth: url.auth,
            streaming: url.streaming,
            cors: url.cors.clone(),
            policy,
        })))
    }
}

#[async_trait]
impl Catalog for Functions {
    async fn version(&self, function: &FunctionRef) -> Result<Arc<FunctionVersion>, InvokeError> {
        Ok(self.remembered(function).await?.choose(|| self.random.next_u64()))
    }

    async fn event_rules(&self, function: &FunctionRef) -> Result<Arc<EventRules>, InvokeError> {
        if let Some(rules) = self.event_rules.get(function) {
            return Ok(rules);
        }
        let ticket = self.event_rules.ticket();
        let record = self.record(function).await.map_err(|problem| InvokeError::Internal(problem.to_string()))?;
        let config = record.and_then(|mut record| record.event_configs.remove(event_config::qualifier(function)));
        let rules = Arc::new(config.map(|config| config.rules).unwrap_or_default());
        self.event_rules.keep(ticket, function.clone(), rules.clone());
        Ok(rules)
    }

    async fn package(&self, code: &CodeDigest) -> Result<Bytes, InvokeError> {
        match self.package_bytes(code).await {
            Ok(Some(zip)) => Ok(zip),
            Ok(None) => Err(InvokeError::NotReady(format!("The code package {code} is no longer there."))),
            Err(problem) => Err(InvokeError::Internal(problem.to_string())),
        }
    }

    async fn package_part(&self, code: &CodeDigest, from: u64, most: usize) -> Result<Bytes, InvokeError> {
        match self.package_range(code, from, most).await {
            Ok(Some(part)) => Ok(part),
            Ok(None) => Err(InvokeError::NotReady(format!("The image's layer {code} is no longer there."))),
            Err(problem) => Err(InvokeError::Internal(problem.to_string())),
        }
    }

    async fn uses(&self, known: &BTreeSet<RuntimeUse>) -> BTreeSet<RuntimeUse> {
        self.uses.other_than(known).await
    }

    async fn floors(&self, known: &BTreeSet<Floor>) -> BTreeSet<Floor> {
        self.uses.floors_other_than(known).await
    }

    async fn mappings(&self, known: &Mappings) -> Mappings {
        self.mappings_other_than(known).await
    }

    async fn tell(&self, news: MappingNews) -> bool {
        let heard = self.heard(news).await;
        if let Err(problem) = &heard {
            tracing::warn!(%problem, "what a poller has told could not be kept");
        }
        heard.is_ok()
    }
}

#[async_trait]
impl Sites for Functions {
    async fn site(&self, key: &SiteKey) -> Option<Site> {
        let SiteKey::FunctionUrl(id) = key else { return None };
        if let Some(url) = self.urls.get(id) {
            return Some(Site::FunctionUrl(url));
        }
        let ticket = self.urls.ticket();
        let url = self.read_url(id).await.ok()??;
        self.urls.keep(ticket, id.clone(), url.clone());
        Some(Site::FunctionUrl(url))
    }

    async fn lets(&self, function: &FunctionRef, service: &str, source_arn: &str) -> bool {
        let account = source_arn.split(':').nth(4).unwrap_or_default();
        let context = [("aws:sourcearn", source_arn), ("aws:sourceaccount", account)];
        let circumstances = Circumstances { now_ms: self.clock.now_ms(), source_ip: None, secure: true };
        let seen: (&[(&str, &str)], _) = (&context, circumstances);
        match self.verdict(function, Actor::Service(service), "lambda:InvokeFunction", seen).await {
            Ok(verdict) => verdict == Verdict::Allowed,
            Err(problem) => {
                tracing::warn!(function = %function.arn(), %problem, "the policy of a function cannot be read");
                false
            }
        }
    }
}
