//! Behaviour of the `apigateway` service on a store in memory: what is said, and what the front door then serves.
//!
//! `rest` covers REST APIs, `http_apis` HTTP APIs. Start at `Platform`.

mod http_apis;
mod rest;

use std::sync::Arc;

use aws::{Call, Error, Reply, Service};
use base::{ManualClock, SeededRandom};
use bytes::Bytes;
use model::ports::Sites;
use model::{AccountId, HttpApi, Principal, Region, RestApi, Site, SiteKey};
use serde_json::{Value, json};
use store::{MemoryStore, Range, Store};

use super::{ApiGatewayService, Apis};

const FUNCTION: &str = "arn:aws:lambda:us-east-1:000000000000:function:f";

struct Platform {
    store: Arc<dyn Store>,
    apis: Arc<Apis>,
    service: Arc<ApiGatewayService>,
}

impl Platform {
    fn new() -> Self {
        let store = MemoryStore::shared();
        let apis = Apis::new(store.clone(), ManualClock::at_ms(1_704_164_645_678), SeededRandom::new(1), "localhost");
        Self { store, service: Arc::new(ApiGatewayService::new(apis.clone())), apis }
    }

    async fn call(&self, operation: &'static str, input: Value) -> Result<Reply, Error> {
        self.service.call(call(operation, input)).await
    }

    async fn ok(&self, operation: &'static str, input: Value) -> Value {
        self.call(operation, input).await.unwrap_or_else(|error| panic!("{operation}: {error}")).output
    }

    async fn fails(&self, operation: &'static str, input: Value) -> (u16, String, String) {
        let error = self.call(operation, input).await.expect_err(operation);
        (error.status, error.code, error.message)
    }

    async fn rest_site(&self, id: &str) -> Arc<RestApi> {
        match self.apis.site(&SiteKey::Api(id.to_owned())).await {
            Some(Site::Rest(site)) => site,
            other => panic!("no REST API: {other:?}"),
        }
    }

    async fn http_site(&self, id: &str) -> Arc<HttpApi> {
        match self.apis.site(&SiteKey::Api(id.to_owned())).await {
            Some(Site::Http(site)) => site,
            other => panic!("no HTTP API: {other:?}"),
        }
    }

    async fn keys(&self) -> usize {
        self.store.range(&Range::prefix("")).await.unwrap().entries.len()
    }
}

fn call(operation: &'static str, input: Value) -> Call {
    Call {
        operation,
        input,
        payload: Bytes::new(),
        principal: Principal {
            account: AccountId::default(),
            arn: "arn:aws:iam::000000000000:root".into(),
            user_id: "000000000000".into(),
            access_key: "test".into(),
        },
        region: Region::default(),
        source_ip: None,
        headers: http::HeaderMap::new(),
        endpoint: "http://127.0.0.1:4566".into(),
        request_id: "7f3a0000-0000-4000-8000-000000000000".into(),
    }
}

fn uri() -> String {
    format!("arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{FUNCTION}/invocations")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
