//! What the front door routes with: stages with what their deployments froze, remembered until something changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws::Error;
use model::http_api::{HttpStage, RestStage};
use model::ports::Sites;
use model::{AccountId, HttpApi, Region, RestApi, Site, SiteKey};
use serde::de::DeserializeOwned;
use store::{Range, Snapshot};

use super::document::decoded;
use super::keys::part;
use super::{Apis, error, http, keys, rest};

impl Apis {
    /// Forgets what is remembered; the next look-ups read.
    pub(super) fn forget(&self) {
        self.sites.clear();
    }

    /// Follows other nodes' changes until the store closes. Drop the future to stop sooner.
    pub async fn run(self: Arc<Self>) {
        let mut watch = self.store.watch(&keys::watched());
        loop {
            watch.changed().await;
            self.forget();
            if matches!(self.store.snapshot().await, Err(store::Error::Closed)) {
                return;
            }
        }
    }

    async fn read_site(&self, id: &str) -> Result<Option<Site>, Error> {
        let snapshot = self.store.snapshot().await.map_err(error::store)?;
        let snapshot = &*snapshot;
        if let Some(entry) = snapshot.get(&keys::part(id, part::REST_API, "")).await.map_err(error::store)? {
            return rest_site(snapshot, decoded(&entry.value)?).await.map(Some);
        }
        if let Some(entry) = snapshot.get(&keys::part(id, part::HTTP_API, "")).await.map_err(error::store)? {
            return http_site(snapshot, decoded(&entry.value)?).await.map(Some);
        }
        Ok(None)
    }
}

#[async_trait]
impl Sites for Apis {
    async fn site(&self, key: &SiteKey) -> Option<Site> {
        let SiteKey::Api(id) = key else { return None };
        if let Some(site) = self.sites.get(id) {
            return Some(site);
        }
        let ticket = self.sites.ticket();
        let site = self.read_site(id).await.ok()??;
        self.sites.keep(ticket, id.clone(), site.clone());
        Some(site)
    }
}

async fn stages<T: DeserializeOwned>(snapshot: &dyn Snapshot, id: &str) -> Result<Vec<T>, Error> {
    let range = Range::prefix(keys::parts_of(id, part::STAGE));
    let page = snapshot.range(&range).await.map_err(error::store)?;
    page.entries.iter().map(|entry| decoded(&entry.value)).collect()
}

async fn frozen<T: DeserializeOwned>(snapshot: &dyn Snapshot, id: &str, deployment: &str) -> Result<Vec<T>, Error> {
    match snapshot.get(&keys::frozen(id, deployment)).await.map_err(error::store)? {
        Some(entry) => decoded(&entry.value),
        None => Ok(Vec::new()),
    }
}

fn owner(account: &str, region: &str) -> Result<(AccountId, Region), Error> {
    let owner = AccountId::parse(account).zip(Region::parse(region));
    owner.ok_or_else(|| Error::internal("an API has no owner"))
}

async fn rest_site(snapshot: &dyn Snapshot, api: rest::record::Api) -> Result<Site, Error> {
    let mut served = BTreeMap::new();
    for stage in stages::<rest::record::Stage>(snapshot, &api.id).await? {
        let methods = frozen(snapshot, &api.id, &stage.deployment_id).await?;
        let view = RestStage {
            name: stage.stage_name.clone(),
            deployment_id: stage.deployment_id,
            variables: stage.variables,
            methods,
        };
        served.insert(stage.stage_name, view);
    }
    let (account, region) = owner(&api.account, &api.region)?;
    let binary_media_types = api.binary_media_types;
    Ok(Site::Rest(Arc::new(RestApi { id: api.id, account, region, binary_media_types, stages: served })))
}

async fn http_site(snapshot: &dyn Snapshot, api: http::record::Api) -> Result<Site, Error> {
    let mut served = BTreeMap::new();
    for stage in stages::<http::record::Stage>(snapshot, &api.api_id).await? {
        let routes = match &stage.deployment_id {
            Some(deployment) => frozen(snapshot, &api.api_id, deployment).await?,
            None => Vec::new(),
        };
        let view = HttpStage { name: stage.stage_name.clone(), variables: stage.stage_variables, routes };
        served.insert(stage.stage_name, view);
    }
    let (account, region) = owner(&api.account, &api.region)?;
    let cors = api.cors_configuration.map(http::record::Cors::into_model);
    Ok(Site::Http(Arc::new(HttpApi { id: api.api_id, account, region, cors, stages: served })))
}
