//! Keys: the root key of a production server, any key in development, and temporary keys of roles. Beside them roles and
//! policies, with their API (`Iam`).
//!
//! Not here: users and groups, which answer `NotImplementedException`; and what a principal may do: for now a verified
//! principal acts freely within its account.
//!
//! Invariants
//!   1. Secrets are in files of mode 0600 in the data folder and nowhere else: not in the store, not in a log.
//!   2. A temporary key needs no record: its token says whose it is and until when, under a MAC that only this data
//!      folder can make, and its secret follows from the token. It is good after a restart, on every node that shares
//!      the secret, and ends by itself.
//!   3. Comparisons of secrets and MACs take constant time.
//!
//! Start reading at `Keys`; files are in `files`, tokens in `token`. Of roles, start at `roles`.

mod api;
mod document;
mod error;
mod files;
mod keys;
mod ops;
mod provided;
mod record;
mod roles;
mod token;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use base::{Clock, Random};
use model::ports::{Authorizer, KnownKey, RoleError};
use model::{AccountId, Credentials, Principal, Role};

pub use api::{ACCEPTED_WITHOUT_EFFECT, Iam};
pub use files::{Error, ROOT_KEY_FILE, SESSION_SECRET_FILE, root_key};
pub use roles::Roles;
use token::{Session, Tokens};

/// All keys of one server.
pub struct Keys {
    /// Absent in development, where every key is known.
    root: Option<Credentials>,
    tokens: Tokens,
    /// Absent where nobody asks for roles.
    roles: Option<Arc<Roles>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("any_key", &self.root.is_none()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Development: every key is known. One of twelve digits is an account's, all others are the default account's.
    pub fn dev(folder: &Path, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self, Error> {
        let tokens = Tokens::new(files::session_secret(folder, &*random)?);
        Ok(Self { root: None, tokens, roles: None, clock, random })
    }

    /// Production: the root key, made at the first start, and what is issued to functions.
    pub fn up(folder: &Path, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self, Error> {
        let root = root_key(folder, &*random)?;
        let tokens = Tokens::new(files::session_secret(folder, &*random)?);
        Ok(Self { root: Some(root), tokens, roles: None, clock, random })
    }

    /// The same keys, with roles.
    #[must_use]
    pub fn with_roles(self, roles: Arc<Roles>) -> Self {
        Self { roles: Some(roles), ..self }
    }

    fn of_session(&self, access_key: &str, token: &str) -> Option<KnownKey> {
        let session = self.tokens.open(token).filter(|session| session.expires_at_ms > self.clock.now_ms())?;
        let credentials = self.tokens.credentials(&session, token);
        (credentials.access_key == access_key).then(|| {
            let principal = role_principal(&session, access_key);
            KnownKey { credentials, principal }
        })
    }
}

#[async_trait]
impl Authorizer for Keys {
    async fn key(&self, access_key: &str, session_token: Option<&str>) -> Option<KnownKey> {
        let session = session_token.and_then(|token| self.of_session(access_key, token));
        match (&self.root, session_token) {
            (Some(root), None) => (root.access_key == access_key).then(|| KnownKey {
                credentials: root.clone(),
                principal: root_principal(AccountId::default(), access_key),
            }),
            (Some(_), Some(_)) => session,
            (None, _) => Some(session.unwrap_or_else(|| any_key(access_key, session_token))),
        }
    }

    async fn has_ended(&self, access_key: &str, session_token: Option<&str>) -> bool {
        let Some((token, session)) = session_token.and_then(|token| Some((token, self.tokens.open(token)?))) else {
            return false;
        };
        session.expires_at_ms <= self.clock.now_ms()
            && self.tokens.credentials(&session, token).access_key == access_key
    }

    async fn issue(&self, role_arn: &str, session_name: &str, ttl_s: u64) -> Credentials {
        let session = Session {
            role_arn: role_arn.to_owned(),
            session_name: session_name.to_owned(),
            expires_at_ms: self.clock.now_ms().saturating_add(ttl_s.saturating_mul(1_000)),
            nonce: self.random.next_u64(),
        };
        let token = self.tokens.seal(&session);
        self.tokens.credentials(&session, &token)
    }

    async fn role(&self, arn: &str) -> Result<Option<Role>, RoleError> {
        match &self.roles {
            Some(roles) => roles.find(arn).await.map_err(|error| RoleError(error.to_string())),
            None => Ok(None),
        }
    }
}

fn any_key(access_key: &str, session_token: Option<&str>) -> KnownKey {
    let account = AccountId::parse(access_key).unwrap_or_default();
    let credentials = Credentials {
        access_key: access_key.to_owned(),
        secret_key: String::new(),
        session_token: session_token.map(str::to_owned),
        expires_at_ms: None,
    };
    KnownKey { credentials, principal: root_principal(account, access_key) }
}

fn root_principal(account: AccountId, access_key: &str) -> Principal {
    Principal {
        arn: format!("arn:aws:iam::{account}:root"),
        user_id: account.to_string(),
        account,
        access_key: access_key.to_owned(),
    }
}

fn account_of(role_arn: &str) -> AccountId {
    role_arn.split(':').nth(4).and_then(AccountId::parse).unwrap_or_default()
}

/// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`, with the role's name without its path, as AWS has it.
pub fn session_arn(role_arn: &str, session_name: &str) -> String {
    let role = role_arn.rsplit('/').next().unwrap_or(role_arn);
    format!("arn:aws:sts::{}:assumed-role/{role}/{session_name}", account_of(role_arn))
}

fn role_principal(session: &Session, access_key: &str) -> Principal {
    let account = account_of(&session.role_arn);
    if session.role_arn.ends_with(":root") {
        return root_principal(account, access_key);
    }
    Principal {
        arn: session_arn(&session.role_arn, &session.session_name),
        user_id: format!("{}:{}", token::id("AROA", &session.role_arn), session.session_name),
        account,
        access_key: access_key.to_owned(),
    }
}

#[cfg(test)]
mod tests;
