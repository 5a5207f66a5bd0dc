//! Calls of the platform's tables in a run's name: DynamoDB's own interface, over the run's way out and signed with its keys,
//! as its own code could send them.
//!
//! Invariant: this module opens no socket, and knows no way that the program itself has not.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::line::Line;
use crate::program::{CallKeys, Outside};

/// What the tables answered instead of doing it, or why they did not answer.
#[derive(Debug)]
pub(super) struct Failure {
    /// As DynamoDB names it: `ResourceNotFoundException`. Empty if there was no answer.
    pub(super) code: String,
    pub(super) message: String,
    /// The rest of the answer.
    pub(super) body: Value,
}

impl Failure {
    fn unanswered(why: impl ToString) -> Self {
        Self { code: String::new(), message: why.to_string(), body: Value::Null }
    }

    /// Whether a condition did not hold.
    pub(super) fn is_condition(&self) -> bool {
        self.code == "ConditionalCheckFailedException"
    }
}

/// One run's line to the tables; opened with its first call.
pub(super) struct Tables {
    outside: Arc<dyn Outside>,
    keys: Option<Arc<CallKeys>>,
    line: Option<Line>,
}

impl Tables {
    pub(super) fn new(outside: Arc<dyn Outside>, keys: Option<Arc<CallKeys>>) -> Self {
        Self { outside, keys, line: None }
    }

    /// Has an operation done; its answer.
    ///
    /// # Errors
    /// It was refused, or there was no answer.
    pub(super) async fn call(&mut self, operation: &str, body: &Value) -> Result<Value, Failure> {
        let Some(keys) = &self.keys else {
            return Err(Failure::unanswered("the function has no credentials"));
        };
        let host = format!("dynamodb.{}.amazonaws.com", keys.region);
        let text = Bytes::from(body.to_string());
        let request = Request::builder()
            .method(Method::POST)
            .uri("/")
            .header("host", &host)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("DynamoDB_20120810.{operation}"));
        let (mut parts, ()) = request.body(()).map_err(Failure::unanswered)?.into_parts();
        self.outside.sign(&mut parts, &text, keys, "dynamodb").map_err(Failure::unanswered)?;
        let line = match self.line.take().filter(Line::is_open) {
            Some(line) => line,
            None => Line::open(&*self.outside, &host, 80, false).await.map_err(Failure::unanswered)?,
        };
        let asked = self.line.insert(line).ask(Request::from_parts(parts, Full::new(text))).await;
        let answer = asked.map_err(Failure::unanswered)?;
        let status = answer.status();
        let text = answer.into_body().collect().await.map_err(Failure::unanswered)?.to_bytes();
        let body: Value = serde_json::from_slice(&text).map_err(Failure::unanswered)?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let said = |name: &str| body[name].as_str().unwrap_or_default();
        let code = said("__type").rsplit('#').next().unwrap_or_default().to_owned();
        let message = if said("message").is_empty() { said("Message") } else { said("message") }.to_owned();
        Err(Failure { code, message, body })
    }
}
