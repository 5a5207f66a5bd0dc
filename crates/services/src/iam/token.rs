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
            access_key: format!("ASIA{}", key_letters(&derive("access"))),
            secret_key,
            session_token: Some(token.to_owned()),
            expires_at_ms: Some(session.expires_at_ms),
        }
    }
}

/// The id of what has an ARN, always the same for one ARN: the prefix of its kind and seventeen letters.
pub(super) fn id(prefix: &str, arn: &str) -> String {
    format!("{prefix}{}", &letters(&Sha256::digest(arn))[..17])
}

/// The sixteen letters of an access key.
pub(super) fn key_letters(bytes: &[u8]) -> String {
    letters(&bytes[..bytes.len().min(16)])
}

/// For each byte one of base 32's letters and digits, as AWS's identifiers have them.
fn letters(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_twenty_one_letters_and_keys_twenty() {
        let arn = "arn:aws:iam::123456789012:role/r";
        let id = id("AROA", arn);
        assert_eq!((id.len(), &id[..4]), (21, "AROA"));
        assert_eq!(id, super::id("AROA", arn));
        assert_eq!(key_letters(&[7; 32]).len(), 16);
    }
}
