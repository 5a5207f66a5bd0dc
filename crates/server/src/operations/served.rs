//! The server's side of `dunlin backup` and `dunlin doctor --store`, below the admin interface.
//!
//! Everything is asked by POST with a JSON document and answered in pages that fit in memory:
//!
//! | path                    | takes                      | answers                                             |
//! |-------------------------|----------------------------|-----------------------------------------------------|
//! | `/_dunlin/backup/begin` |                            | `session`, `version`                                |
//! | `/_dunlin/backup/keys`  | `session`, `after` (hex)   | a page of keys, as bytes (`store::transfer`)        |
//! | `/_dunlin/backup/blobs` | `session`, `after`         | `blobs`: name, bytes, digest; `more`                |
//! | `/_dunlin/backup/blob`  | `session`, `name`, `from`, `to` | content, as bytes; 404 if it is gone           |
//! | `/_dunlin/backup/end`   | `session`                  |                                                     |
//! | `/_dunlin/store/keys`   | `after` (hex)              | `check::KeyReport`                                  |
//! | `/_dunlin/store/blobs`  | `after`                    | `check::BlobReport`                                 |
//!
//! Invariants
//!   1. A backup reads one state, and a hold keeps the blobs of that state until it ends. The hold is taken first.
//!   2. There is one backup at a time. It ends when asked, when its client is silent for `SILENCE`, or after `LIFE_MS`:
//!      no client that went away keeps the log of the store growing.
//!   3. No sandbox gets an answer, whatever it signs with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Clock, Random};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use store::references::Holds;
use store::transfer::{Local, Source, check_finished};
use store::{Blobs, Error, Snapshot, Store};

use super::check;

/// Longest time that a backup may take.
const LIFE_MS: u64 = 6 * 60 * 60 * 1_000;
/// A backup that asks nothing for this long has ended.
const SILENCE: Duration = Duration::from_secs(60);
/// The hold of a backup. Each has its own: other nodes over the same database make backups too.
fn hold(session: &str) -> String {
    format!("backup-{session}")
}

/// A store and its blobs as they lie on the disk: encrypted, if they are.
#[derive(Clone)]
pub struct Kept {
    /// Keys.
    pub store: Arc<dyn Store>,
    /// Blobs.
    pub blobs: Arc<dyn Blobs>,
}

/// Answers about the store.
pub struct Served {
    kept: Kept,
    /// The store as its users see it: where holds are.
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    session: Arc<Mutex<Option<Session>>>,
    silence: Duration,
}

struct Session {
    id: String,
    snapshot: Arc<dyn Snapshot>,
    used: Instant,
}

/// What a question holds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Question {
    session: String,
    after: Option<String>,
    name: String,
    from: u64,
    to: u64,
}

/// Why there is no answer.
type Refusal = (StatusCode, String);

impl Served {
    /// Answers about what is `kept`, as it is kept; `store` is the same for those who use it.
    pub fn new(kept: Kept, store: Arc<dyn Store>, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { kept, store, clock, random, session: Arc::default(), silence: SILENCE }
    }

    /// Whether a path is one of ours.
    pub fn answers(path: &str) -> bool {
        path.starts_with("/_dunlin/backup/") || path.starts_with("/_dunlin/store/")
    }

    /// Answers a question of the operator.
    ///
    /// # Errors
    /// What is refused, and why.
    pub async fn answer(&self, method: &Method, path: &str, body: &Bytes) -> Result<Response<Bytes>, Refusal> {
        if method != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, format!("{path} is asked with POST")));
        }
        let question: Question = match body.is_empty() {
            true => Question::default(),
            false => serde_json::from_slice(body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?,
        };
        match path {
            "/_dunlin/backup/begin" => Ok(document(&self.begin().await?)),
            "/_dunlin/backup/keys" => self.keys(&question).await,
            "/_dunlin/backup/blobs" => self.listed(&question).await,
            "/_dunlin/backup/blob" => self.blob(&question).await,
            "/_dunlin/backup/end" => self.end(&question).await,
            "/_dunlin/store/keys" => {
                let report = check::keys(&*self.kept.store, after_key(&question)?.as_ref()).await.map_err(failed)?;
                Ok(document(&json!(report)))
            }
            "/_dunlin/store/blobs" => {
                let report = check::blobs(&*self.kept.blobs, question.after.as_deref()).await.map_err(failed)?;
                Ok(document(&json!(report)))
            }
            "/_dunlin/store/pace" => {
                let stats = self.kept.store.stats().await.map_err(failed)?;
                Ok(document(&json!(check::PaceReport::of(stats))))
            }
            other => Err((StatusCode::NOT_FOUND, format!("there is no {other}"))),
        }
    }

    async fn begin(&self) -> Result<Json, Refusal> {
        if self.session.lock().is_some() {
            return Err((
                StatusCode::CONFLICT,
                format!("another backup is running; one whose client went away ends after {} s", SILENCE.as_secs()),
            ));
        }
        check_finished(&*self.kept.store).await.map_err(failed)?;
        let holds = Holds::new(model::prefixes::BLOBS.byte);
        let id = self.random.hex(16);
        holds.take(&*self.store, &hold(&id), self.clock.now_ms() + LIFE_MS).await.map_err(failed)?;
        let snapshot: Arc<dyn Snapshot> = match self.kept.store.long_snapshot(LIFE_MS).await {
            Ok(snapshot) => snapshot.into(),
            Err(error) => {
                holds.end(&*self.store, &hold(&id)).await.map_err(failed)?;
                return Err(failed(error));
            }
        };
        let version = snapshot.version();
        let new = Session { id: id.clone(), snapshot, used: Instant::now() };
        if self.session.lock().get_or_insert(new).id != id {
            holds.end(&*self.store, &hold(&id)).await.map_err(failed)?;
            return Err((StatusCode::CONFLICT, "another backup began in this moment".into()));
        }
        self.watch_silence(id.clone());
        Ok(json!({"session": id, "version": version}))
    }

    /// Ends the session when its client is silent.
    fn watch_silence(&self, id: String) {
        let (session, store) = (Arc::downgrade(&self.session), Arc::clone(&self.store));
        let silence = self.silence;
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(silence / 10).await;
                let Some(session) = session.upgrade() else { return };
                let silent = match &mut *session.lock() {
                    Some(current) if current.id == id => current.used.elapsed() >= silence,
                    _ => return,
                };
                if silent {
                    tracing::warn!("a backup was given up: its client has been silent");
                    session.lock().take();
                    let ended = Holds::new(model::prefixes::BLOBS.byte).end(&*store, &hold(&id)).await;
                    return ended.unwrap_or_else(|error| tracing::warn!(%error, "a hold is left to end by itself"));
                }
            }
        });
    }

    fn source(&self, question: &Question) -> Result<Local<'_>, Refusal> {
        let mut session = self.session.lock();
        let Some(session) = session.as_mut().filter(|session| session.id == question.session) else {
            return Err((StatusCode::GONE, "this backup has ended: begin anew".into()));
        };
        session.used = Instant::now();
        Ok(Local::of_snapshot(&*self.kept.store, &*self.kept.blobs, Arc::clone(&session.snapshot)))
    }

    async fn keys(&self, question: &Question) -> Result<Response<Bytes>, Refusal> {
        let page = self.source(question)?.keys(after_key(question)?.as_ref()).await.map_err(failed)?;
        Ok(content(page.encode().map_err(failed)?))
    }

    async fn listed(&self, question: &Question) -> Result<Response<Bytes>, Refusal> {
        let page = self.source(question)?.blobs(question.after.as_deref()).await.map_err(failed)?;
        let blobs = page.blobs.iter().map(|(name, info)| json!([name, info.bytes, hex::encode(info.digest)]));
        Ok(document(&json!({"blobs": blobs.collect::<Vec<_>>(), "more": page.more})))
    }

    async fn blob(&self, question: &Question) -> Result<Response<Bytes>, Refusal> {
        let Question { name, from, to, .. } = question;
        if to.saturating_sub(*from) > store::transfer::PIECE_BYTES {
            return Err((StatusCode::BAD_REQUEST, "the piece is too long".into()));
        }
        match self.source(question)?.blob(name, *from..*to).await.map_err(failed)? {
            Some(piece) => Ok(content(piece)),
            None => Err((StatusCode::NOT_FOUND, format!("the blob {name} is gone"))),
        }
    }

    async fn end(&self, question: &Question) -> Result<Response<Bytes>, Refusal> {
        self.source(question)?;
        self.session.lock().take();
        Holds::new(model::prefixes::BLOBS.byte).end(&*self.store, &hold(&question.session)).await.map_err(failed)?;
        Ok(document(&json!({})))
    }
}

fn after_key(question: &Question) -> Result<Option<Bytes>, Refusal> {
    let after = question.after.as_ref().map(hex::decode).transpose();
    Ok(after.map_err(|_| (StatusCode::BAD_REQUEST, "after is to be hexadecimal".into()))?.map(Bytes::from))
}

fn failed(error: Error) -> Refusal {
    let status = match error {
        Error::Invalid(_) | Error::TooLarge(_) => StatusCode::BAD_REQUEST,
        Error::TooOld => StatusCode::GONE,
        Error::Busy => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.to_string())
}

fn content(bytes: Bytes) -> Response<Bytes> {
    typed(bytes, "application/octet-stream")
}

fn document(json: &Json) -> Response<Bytes> {
    typed(json.to_string().into(), "application/json")
}

fn typed(body: Bytes, kind: &'static str) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{SystemClock, SystemRandom};
    use store::transfer::KeyPage;
    use store::{MemoryBlobs, MemoryStore, Txn};

    fn served(store: Arc<dyn Store>) -> Served {
        let kept = Kept { store: store.clone(), blobs: MemoryBlobs::shared() };
        Served::new(kept, store, SystemClock::shared(), SystemRandom::shared())
    }

    async fn ask(served: &Served, path: &str, question: Json) -> Result<Bytes, Refusal> {
        let path = format!("/_dunlin/{path}");
        assert!(Served::answers(&path));
        let answer = served.answer(&Method::POST, &path, &question.to_string().into()).await?;
        Ok(answer.into_body())
    }

    #[tokio::test]
    async fn a_backup_sees_one_state_and_there_is_one_at_a_time() {
        let store = MemoryStore::shared();
        store.commit(Txn::new().put("k", "before")).await.unwrap();
        let served = served(store.clone());
        let begun: Json = serde_json::from_slice(&ask(&served, "backup/begin", json!({})).await.unwrap()).unwrap();
        let session = &begun["session"];
        assert_eq!(ask(&served, "backup/begin", json!({})).await.unwrap_err().0, StatusCode::CONFLICT);
        store.commit(Txn::new().put("k", "after")).await.unwrap();
        let page = ask(&served, "backup/keys", json!({"session": session})).await.unwrap();
        let page = KeyPage::decode(page).unwrap();
        assert!(page.entries.iter().any(|(key, value)| key == "k" && value == "before"));
        let holds = Holds::new(model::prefixes::BLOBS.byte);
        let now = SystemClock::shared().now_ms();
        assert!(holds.none(&*store.snapshot().await.unwrap(), now).await.unwrap().is_none(), "blobs are held");
        for (path, question, status) in [
            ("backup/keys", json!({"session": "other"}), StatusCode::GONE),
            ("backup/keys", json!({"session": session, "after": "no hex"}), StatusCode::BAD_REQUEST),
            ("backup/keys", json!({"session": 1}), StatusCode::BAD_REQUEST),
            ("backup/blob", json!({"session": session, "name": "none", "to": 1}), StatusCode::NOT_FOUND),
            ("backup/blob", json!({"session": session, "name": "../etc", "to": 1}), StatusCode::BAD_REQUEST),
            ("backup/blob", json!({"session": session, "name": "a", "to": u64::MAX}), StatusCode::BAD_REQUEST),
            ("backup/other", json!({}), StatusCode::NOT_FOUND),
        ] {
            assert_eq!(ask(&served, path, question.clone()).await.unwrap_err().0, status, "{path} {question}");
        }
        ask(&served, "backup/end", json!({"session": session})).await.unwrap();
        assert!(holds.none(&*store.snapshot().await.unwrap(), now).await.unwrap().is_some());
        assert_eq!(ask(&served, "backup/keys", json!({"session": session})).await.unwrap_err().0, StatusCode::GONE);
        ask(&served, "backup/begin", json!({})).await.unwrap();
    }

    #[tokio::test]
    async fn a_backup_whose_client_is_silent_ends() {
        let mut served = served(MemoryStore::shared());
        served.silence = Duration::from_millis(20);
        ask(&served, "backup/begin", json!({})).await.unwrap();
        let started = Instant::now();
        while ask(&served, "backup/begin", json!({})).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "it never ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
