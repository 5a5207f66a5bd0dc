//! Session tokens: who, until when, and a MAC. Pure.
//!
//! | part    | bytes                                          |
//! |---------|------------------------------------------------|
//! | session | postcard of `Session`                          |
//! | MAC     | 32 bytes, HMAC-SHA256 of the session           |
//!
//! as base64. Access key and secret are HMACs of the token, so that no secret travels in it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use model::Credentials;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAC_BYTES: usize = 32;
/// The largest token that is looked at.
const TOKEN_BYTES_MAX: usize = 4_096;

/// Whom a temporary key stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    pub(super) role_arn: String,
    pub(super) session_name: String,
    pub(super) expires_at_ms: u64,
    /// Makes two sessions of one role and moment differ.
    pub(super) nonce: u64,
}

/// Makes and opens tokens.
pub(super) struct Tokens {
    secret: [u8; 32],
}

impl Tokens {
    pub(super) fn new(secret: [u8; 32]) -> Self {
        Self { secret }
    }

    fn mac(&self, purpose: &str, content: &[u8]) -> Hmac<Sha256> {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.secret) else {
            unreachable!("HMAC takes keys of any length")
        };
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(content);
        mac
    }

    pub(super) fn seal(&self, session: &Session) -> String {
        let Ok(mut bytes) = postcard::to_allocvec(session) else { unreachable!("texts and numbers can be written") };
        let mac = self.mac("session", &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac);
        STANDARD.encode(bytes)
    }

    /// The session of a token that this secret made.
    pub(super) fn open(&self, token: &str) -> Option<Session> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let bytes = STANDARD.decode(token).ok()?;
        let (session, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        self.mac("session", session).verify_slice(mac).ok()?;
        postcard::from_bytes(session).ok()
    }

    /// The key pair that belongs to a token.
    pub(super) fn credentials(&self, session: &Session, token: &str) -> Credentials {
        let derive = |purpose: &str| self.mac(purpose, token.as_bytes()).finalize().into_bytes();
        let secret_key = STANDARD.encode(derive("secret"))[..40].to_owned();
        Credentials {
            access_key: format!("ASIA{}", letters(&derive("access"))),
            secret_key,
            session_token: Some(token.to_owned()),
            expires_at_ms: Some(session.expires_at_ms),
        }
    }
}

/// The id of a role, always the same for one ARN.
pub(super) fn role_id(role_arn: &str) -> String {
    format!("AROA{}", letters(&Sha256::digest(role_arn)))
}

/// Sixteen of base 32's letters and digits, as AWS's identifiers have them.
pub(super) fn letters(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    bytes.iter().take(16).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}
