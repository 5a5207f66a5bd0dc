//! The platform's own interface below `/_dunlin/`: what the command line shows and the console will.
//!
//! | path                     | answers                                                    |
//! |--------------------------|------------------------------------------------------------|
//! | `GET /_dunlin/ps`        | running environments                                       |
//! | `GET /_dunlin/events`    | what became of asynchronous events, by function            |
//! | `GET /_dunlin/bill`      | sums per function from `from` to `to` (milliseconds)       |
//! | `GET /_dunlin/usage`     | single usage records of `function`, newest first           |
//! | `GET /_dunlin/runtimes`  | usable interpreters, what serves each runtime, packs       |
//! | `PUT`, `DELETE /_dunlin/runtimes/NAME` | takes a runtime pack (`packs.rs`), or takes it away |
//! | `/_dunlin/images…`       | images of the platform's own (`images.rs`)                 |
//! | `GET /_dunlin/network`   | functions' own connections: sums, and the last thousand    |
//! | `GET /_dunlin/walls`     | walls of the sandboxes                                     |
//! | `POST /_dunlin/backup/…` | what a backup copies (`operations/served.rs`)              |
//! | `POST /_dunlin/store/…`  | a check of what is stored (the same file)                  |
//! | `GET /_dunlin/code/…`    | a code package, by the expiring link that GetFunction gave |
//!
//! Invariant: in production every path but the code links asks for a signature of the root key; the links carry their
//! own.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use compute::Engine;
use gateway::{AdminDoor, GuestNetworkService};
use http::{Method, Request, Response, StatusCode};
use model::{AccountId, FunctionName, FunctionRef, Principal, Region, UsageRecord};
use sandbox::Wall;
use serde_json::{Value as Json, json};
use services::lambda::Functions;
use services::usage::Usage;
use tokio::sync::SetOnce;

use crate::doors::Door;
use crate::images;
use crate::operations::served::Served;
use crate::packs::{self, Packs};

/// Answers the platform's own calls.
pub struct Admin {
    /// Verifies.
    pub door: Arc<Door>,
    /// Environments.
    pub engine: Arc<Engine>,
    /// Sums and records.
    pub usage: Arc<Usage>,
    /// What is stored.
    pub store: Served,
    /// Packages behind links.
    pub functions: Arc<Functions>,
    /// The guests' network, once it is served.
    pub network: Arc<SetOnce<Arc<GuestNetworkService>>>,
    /// Walls, as the spawner found them.
    pub walls: Vec<Wall>,
    /// Usable interpreters and what each serves, as `/_dunlin/runtimes` shows them.
    pub interpreters: Json,
    /// Runtime packs.
    pub packs: Arc<Packs>,
}

/// An answer that is not the asked thing.
pub(crate) type Refusal = (StatusCode, String);

#[async_trait]
impl AdminDoor for Admin {
    async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let (parts, body) = request.into_parts();
        if let Some(code) = parts.uri.path().strip_prefix("/_dunlin/code/") {
            return self.package(code, parts.uri.query().unwrap_or("")).await;
        }
        if Served::answers(parts.uri.path()) {
            return self
                .served(&parts, &body)
                .await
                .unwrap_or_else(|(status, message)| json_response(status, &json!({"message": message})));
        }
        let answer = match self.door.admin_principal(&parts, &body).await {
            Ok(principal) if parts.uri.path().starts_with(images::PATH) => self.images(&parts, &principal, body).await,
            Ok(principal) => match parts.uri.path().strip_prefix("/_dunlin/runtimes/") {
                Some(name) => self.change_pack(&parts, &principal, name.to_owned(), body).await,
                None => self.answer(&parts, &principal).await,
            },
            Err(refusal) => Err((StatusCode::FORBIDDEN, refusal.to_string())),
        };
        match answer {
            Ok(document) => json_response(StatusCode::OK, &document),
            Err((status, message)) => json_response(status, &json!({"message": message})),
        }
    }
}

impl Admin {
    async fn served(&self, parts: &http::request::Parts, body: &Bytes) -> Result<Response<Bytes>, Refusal> {
        // In `dev` any key is taken: what lies in the store is no function's business there either.
        if parts.extensions.get::<Arc<gateway::GuestIdentity>>().is_some() {
            return Err((StatusCode::FORBIDDEN, "this is not for functions".into()));
        }
        let principal = self.door.admin_principal(parts, body).await;
        operator(&principal.map_err(|refusal| (StatusCode::FORBIDDEN, refusal.to_string()))?)?;
        let path = parts.uri.path();
        if path == "/_dunlin/backup/begin" {
            // Calls that are over, but not yet in the store, belong to the backup.
            self.usage.fold().await.map_err(failed)?;
        }
        self.store.answer(&parts.method, path, body).await
    }

    async fn answer(&self, parts: &http::request::Parts, principal: &Principal) -> Result<Json, Refusal> {
        operator(principal)?;
        if parts.method != Method::GET {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "this interface is read with GET".into()));
        }
        let query = parts.uri.query().unwrap_or("");
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| {
                pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
            })
        };
        let number = |name: &str, default: u64| match parameter(name) {
            Some(text) => {
                text.parse::<u64>().map_err(|_| (StatusCode::BAD_REQUEST, format!("{name} must be a number")))
            }
            None => Ok(default),
        };
        match parts.uri.path() {
            "/_dunlin/ps" => Ok(json!({"environments": self.environments()})),
            "/_dunlin/events" => self.events().await,
            "/_dunlin/runtimes" => {
                let mut shown = self.interpreters.clone();
                shown["packs"] = self.packs.list().map_err(failed)?;
                Ok(shown)
            }
            "/_dunlin/network" => Ok(self.traffic(parameter("function").as_deref())),
            "/_dunlin/walls" => Ok(json!({"walls": self.walls})),
            "/_dunlin/bill" => self.bill(number("from", 0)?, number("to", u64::MAX)?).await,
            "/_dunlin/usage" => {
                let function = parameter("function");
                self.records(function.as_deref(), number("limit", 1_000)?).await
            }
            other => Err((
                StatusCode::NOT_FOUND,
                format!(
                    "there is no {other}; there are ps, events, bill, usage, network, runtimes, images and walls below /_dunlin/"
                ),
            )),
        }
    }
}

impl Admin {
    async fn images(&self, parts: &http::request::Parts, principal: &Principal, body: Bytes) -> Result<Json, Refusal> {
        // In `dev` any key is taken: which images there are is no function's business there either.
        if parts.extensions.get::<Arc<gateway::GuestIdentity>>().is_some() {
            return Err((StatusCode::FORBIDDEN, "this is not for functions".into()));
        }
        operator(principal)?;
        images::answer(&self.functions, parts, body).await
    }

    async fn change_pack(
        &self,
        parts: &http::request::Parts,
        principal: &Principal,
        name: String,
        zip: Bytes,
    ) -> Result<Json, Refusal> {
        // In `dev` any key is taken: what all functions run on is no function's business there either.
        if parts.extensions.get::<Arc<gateway::GuestIdentity>>().is_some() {
            return Err((StatusCode::FORBIDDEN, "this is not for functions".into()));
        }
        operator(principal)?;
        let (packs, method) = (self.packs.clone(), parts.method.clone());
        let work = tokio::task::spawn_blocking(move || match method {
            Method::PUT => packs.put(&name, &zip).map(|()| true),
            Method::DELETE => packs.remove(&name),
            _ => Err(packs::Error::Content("it is changed with PUT and DELETE".into())),
        });
        match work.await.map_err(failed)? {
            Ok(true) => Ok(json!({})),
            Ok(false) => Err((StatusCode::NOT_FOUND, "this runtime pack is not installed".into())),
            Err(error @ packs::Error::Io(_)) => Err(failed(error)),
            Err(error) => Err((StatusCode::BAD_REQUEST, error.to_string())),
        }
    }

    fn environments(&self) -> Vec<Json> {
        let shown = |info: compute::EnvironmentInfo| {
            json!({
                "id": info.id, "function": info.function.name.as_str(), "arn": info.function.arn(), "version": info.version,
                "state": format!("{:?}", info.state).to_lowercase(), "ageMs": info.age_ms, "memoryMb": info.memory_mb, "memoryBytes": info.memory_bytes,
                "calls": info.served, "initMs": info.init_ms, "frozen": info.frozen, "tenant": info.tenant,
            })
        };
        self.engine.environments().into_iter().map(shown).collect()
    }

    /// Counts since this server started, by the names that CloudWatch has for them, and what waits now.
    async fn events(&self) -> Result<Json, Refusal> {
        let found = self.engine.events().await.map_err(failed)?;
        let shown = |events: &compute::FunctionEvents| {
            let counts = &events.counts;
            let mean_ms = counts.age_sum_ms.checked_div(counts.begun);
            json!({
                "function": events.function.name.as_str(), "arn": events.function.arn(),
                "asyncEventsReceived": counts.received, "asyncEventAge": {"tries": counts.begun, "meanMs": mean_ms, "maxMs": counts.age_max_ms},
                "asyncEventsDropped": counts.dropped, "destinationDeliveryFailures": counts.undelivered,
                "waiting": events.waiting, "running": events.running, "oldestMs": events.oldest_ms,
            })
        };
        Ok(json!({"functions": found.functions.iter().map(shown).collect::<Vec<_>>(), "more": found.more}))
    }

    fn traffic(&self, function: Option<&str>) -> Json {
        let Some(network) = self.network.get() else { return json!({"functions": {}, "connections": []}) };
        let wanted = |arn: &str| function.is_none_or(|name| arn.rsplit(':').next() == Some(name));
        let (mut sums, mut last) = (network.traffic().sums(), network.traffic().last());
        sums.retain(|arn, _| wanted(arn));
        last.retain(|connection| wanted(&connection.function));
        json!({"functions": sums, "connections": last})
    }

    async fn bill(&self, from_ms: u64, to_ms: u64) -> Result<Json, Refusal> {
        let sums = self.usage.bill(from_ms, to_ms).await.map_err(failed)?;
        let total: f64 = sums.iter().map(|sum| sum.cost_usd).sum();
        let shown = |sum: &services::usage::Bill| {
            json!({
                "function": sum.function.name.as_str(), "arn": sum.function.arn(), "requests": sum.requests, "errors": sum.errors,
                "billedMs": sum.billed_ms, "gbSeconds": sum.gb_seconds, "cpuUs": sum.cpu_us, "costUsd": sum.cost_usd,
            })
        };
        Ok(
            json!({"from": from_ms, "to": to_ms, "totalUsd": total, "functions": sums.iter().map(shown).collect::<Vec<_>>()}),
        )
    }

    async fn records(&self, function: Option<&str>, limit: u64) -> Result<Json, Refusal> {
        let count = self.usage.count().await.map_err(failed)?;
        let Some(name) = function else { return Ok(json!({"count": count})) };
        let parsed = FunctionRef::parse_arn(name).or_else(|| {
            Some(FunctionRef {
                account: AccountId::default(),
                region: Region::default(),
                name: FunctionName::parse(name)?,
                qualifier: None,
            })
        });
        let Some(function) = parsed else {
            return Err((StatusCode::BAD_REQUEST, format!("{name:?} is no function name or ARN")));
        };
        let records =
            self.usage.records(&function, usize::try_from(limit).unwrap_or(usize::MAX)).await.map_err(failed)?;
        let shown = |record: &UsageRecord| {
            json!({
                "requestId": record.request_id.0, "version": record.version, "trigger": record.trigger, "startedAtMs": record.started_at_ms,
                "durationUs": record.duration_us, "initUs": record.init_us, "billedMs": record.billed_ms, "memoryMb": record.memory_mb,
                "memoryPeakBytes": record.memory_peak_bytes, "cpuUs": record.cpu_us, "ending": record.ending,
            })
        };
        Ok(json!({"count": count, "records": records.iter().map(shown).collect::<Vec<_>>()}))
    }

    async fn package(&self, code: &str, query: &str) -> Response<Bytes> {
        match self.functions.package_by_link(code, query).await {
            Ok(Some(zip)) => {
                let mut response = Response::new(zip);
                response
                    .headers_mut()
                    .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/zip"));
                response
            }
            Ok(None) => json_response(
                StatusCode::FORBIDDEN,
                &json!({"message": "this link has ended or was never given out; ask GetFunction for a new one"}),
            ),
            Err(error) => {
                let (status, message) = failed(error);
                json_response(status, &json!({"message": message}))
            }
        }
    }
}

fn operator(principal: &Principal) -> Result<(), Refusal> {
    if principal.arn.ends_with(":root") {
        return Ok(());
    }
    Err((StatusCode::FORBIDDEN, format!("{} is not the operator", principal.arn)))
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, "an admin call failed");
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn json_response(status: StatusCode, document: &Json) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(document.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
