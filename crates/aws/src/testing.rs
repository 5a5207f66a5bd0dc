//! What tests of services need: calls as the wire would hand them over, and keys that everybody has.
//!
//! For tests only; nothing in the program uses it.

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use model::ports::{Authorizer, KnownKey};
use model::{AccountId, Credentials, Principal, Region};
use serde_json::Value;

use crate::service::Call;

/// The root of the default account.
pub fn principal() -> Principal {
    let account = AccountId::default();
    Principal {
        arn: format!("arn:aws:iam::{account}:root"),
        user_id: account.to_string(),
        account,
        access_key: "test".into(),
    }
}

/// A call of the default account in the default region.
pub fn call(operation: &'static str, input: Value) -> Call {
    Call {
        operation,
        input,
        payload: Bytes::new(),
        principal: principal(),
        region: Region::default(),
        source_ip: None,
        headers: HeaderMap::new(),
        endpoint: "http://localhost:4566".into(),
        request_id: "00000000-0000-4000-8000-000000000000".into(),
    }
}

/// Everybody is the root of the default account, with the secret `secret`.
#[derive(Debug, Clone, Copy)]
pub struct AnyKey;

#[async_trait]
impl Authorizer for AnyKey {
    async fn key(&self, access_key: &str, session_token: Option<&str>) -> Option<KnownKey> {
        let credentials = Credentials {
            access_key: access_key.into(),
            secret_key: "secret".into(),
            session_token: session_token.map(str::to_owned),
            expires_at_ms: None,
        };
        (access_key != "unknown").then(|| KnownKey { credentials, principal: principal() })
    }

    async fn issue(&self, _: &str, _: &str, _: u64) -> Credentials {
        Credentials {
            access_key: "ASIATEST".into(),
            secret_key: "secret".into(),
            session_token: Some("token".into()),
            expires_at_ms: None,
        }
    }
}
