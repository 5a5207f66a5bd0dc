//! The Security Token Service: who calls, and temporary keys.
//!
//! Operations: GetCallerIdentity, AssumeRole, GetSessionToken. Temporary keys of functions are made by `iam`, without a call.
//! Not here: federation; it answers `NotImplementedException`.
//!
//! Invariants
//!   1. GetCallerIdentity answers the principal that the wire verified, nothing else is looked up.
//!   2. A role is assumed only as its trust policy says: another account's callers need to be named there, or their account;
//!      within the account, too.

use std::sync::Arc;

use async_trait::async_trait;
use aws::{Call, Error, Reply, Service};
use base::Clock;
use jiff::Timestamp;
use model::policy::{self, Actor, Verdict};
use model::ports::Authorizer;
use model::{Credentials, Role};
use serde_json::{Value, json};

/// How long the keys of AssumeRole last where the call does not say, seconds.
const ROLE_SESSION_S: u64 = 3_600;
/// How long the keys of GetSessionToken last where the call does not say, and at most for the root of an account, seconds.
const ROOT_SESSION_S: u64 = 3_600;

/// The service.
pub struct Sts {
    authorizer: Arc<dyn Authorizer>,
    clock: Arc<dyn Clock>,
}

impl Sts {
    /// The service over these keys and roles.
    pub fn new(authorizer: Arc<dyn Authorizer>, clock: Arc<dyn Clock>) -> Self {
        Self { authorizer, clock }
    }

    async fn assume_role(&self, call: &Call) -> Result<Reply, Error> {
        call.honours(&["RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId"])?;
        let (arn, session) =
            (call.text("RoleArn").unwrap_or_default(), call.text("RoleSessionName").unwrap_or_default());
        let role = self.authorizer.role(arn).await.map_err(Error::internal)?;
        // Of a role that is not there, nobody learns that it is not.
        let Some(role) = role.filter(|role| may_assume(role, call, self.clock.now_ms())) else {
            return Err(Error::new(
                403,
                "AccessDenied",
                format!("User: {} is not authorized to perform: sts:AssumeRole on resource: {arn}", call.principal.arn),
            ));
        };
        let seconds = call.number("DurationSeconds").unwrap_or(ROLE_SESSION_S);
        if seconds > role.max_session_s {
            return Err(Error::new(
                400,
                "ValidationError",
                "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            ));
        }
        let credentials = self.authorizer.issue(arn, session, seconds).await;
        let known = self.authorizer.key(&credentials.access_key, credentials.session_token.as_deref()).await;
        let user = known.ok_or_else(|| Error::internal("a key that was just made is not known"))?.principal;
        Ok(Reply::of(json!({
            "Credentials": shown(&credentials),
            "AssumedRoleUser": {"AssumedRoleId": user.user_id, "Arn": user.arn},
        })))
    }

    async fn session_token(&self, call: &Call) -> Result<Reply, Error> {
        call.honours(&["DurationSeconds"])?;
        // Temporary keys begin with these letters, whosever they are.
        if !call.principal.arn.ends_with(":root") || call.principal.access_key.starts_with("ASIA") {
            return Err(Error::new(403, "AccessDenied", "Cannot call GetSessionToken with session credentials"));
        }
        let seconds = call.number("DurationSeconds").unwrap_or(ROOT_SESSION_S).min(ROOT_SESSION_S);
        let credentials = self.authorizer.issue(&call.principal.arn, "", seconds).await;
        Ok(Reply::of(json!({"Credentials": shown(&credentials)})))
    }
}

/// Whether a role's trust policy lets the caller have it.
fn may_assume(role: &Role, call: &Call, now_ms: u64) -> bool {
    let (account, arn) = (call.principal.account.as_str(), call.principal.arn.as_str());
    let mut context = Vec::new();
    context.extend(call.text("ExternalId").map(|id| ("sts:externalid", id)));
    context.extend(call.text("RoleSessionName").map(|name| ("sts:rolesessionname", name)));
    let request = policy::Request {
        actor: Actor::Principal(account, arn),
        action: "sts:AssumeRole",
        resource: &role.arn,
        context: &context,
        circumstances: call.circumstances(now_ms),
    };
    policy::evaluate(&role.trust, &request) == Verdict::Allowed
}

/// `Credentials`
fn shown(credentials: &Credentials) -> Value {
    let ends = credentials.expires_at_ms.and_then(|ms| i64::try_from(ms).ok());
    let ends = ends.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    json!({
        "AccessKeyId": credentials.access_key,
        "SecretAccessKey": credentials.secret_key,
        "SessionToken": credentials.session_token,
        "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })
}

#[async_trait]
impl Service for Sts {
    fn signing_name(&self) -> &'static str {
        "sts"
    }

    async fn call(&self, call: Call) -> Result<Reply, Error> {
        match call.operation {
            "GetCallerIdentity" => {
                let principal = &call.principal;
                let output = json!({
                    "Arn": principal.arn,
                    "UserId": principal.user_id,
                    "Account": principal.account.as_str(),
                });
                Ok(Reply::of(output))
            }
            "AssumeRole" => self.assume_role(&call).await,
            "GetSessionToken" => self.session_token(&call).await,
            other => Err(Error::not_implemented(format!("the operation '{other}' of 'sts'"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::ManualClock;
    use model::ports::{KnownKey, RoleError};
    use model::{AccountId, Principal};

    const ROLE: &str = "arn:aws:iam::000000000000:role/r";

    /// One role that everybody of the account may assume who knows a word, and one under a condition.
    struct One(Value);

    #[async_trait]
    impl Authorizer for One {
        async fn key(&self, access_key: &str, _: Option<&str>) -> Option<KnownKey> {
            let principal = Principal {
                account: AccountId::default(),
                arn: "arn:aws:sts::000000000000:assumed-role/r/s1".into(),
                user_id: "AROA:s1".into(),
                access_key: access_key.to_owned(),
            };
            Some(KnownKey { credentials: self.issue(ROLE, "s1", 1).await, principal })
        }

        async fn issue(&self, role_arn: &str, session_name: &str, ttl_s: u64) -> Credentials {
            Credentials {
                access_key: format!("{role_arn} {session_name} {ttl_s}"),
                secret_key: "secret".into(),
                session_token: Some("token".into()),
                expires_at_ms: Some(ttl_s * 1_000),
            }
        }

        async fn role(&self, arn: &str) -> Result<Option<Role>, RoleError> {
            let trust = json!({
                "Effect": "Allow", "Action": "sts:AssumeRole",
                "Principal": {"AWS": "arn:aws:iam::000000000000:root"},
                "Condition": self.0,
            });
            Ok((arn == ROLE).then(|| Role { arn: arn.to_owned(), trust: vec![trust], max_session_s: 7_200 }))
        }
    }

    async fn ask(operation: &'static str, input: Value) -> Result<Value, Error> {
        ask_under(json!({"StringEquals": {"sts:ExternalId": "word"}}), aws::testing::call(operation, input)).await
    }

    async fn ask_under(condition: Value, call: Call) -> Result<Value, Error> {
        let sts = Sts::new(Arc::new(One(condition)), ManualClock::at_ms(1_772_366_400_000));
        sts.call(call).await.map(|reply| reply.output)
    }

    #[tokio::test]
    async fn conditions_of_time_place_and_caller_are_evaluated() {
        for (condition, holds) in [
            (json!({"DateLessThan": {"aws:CurrentTime": "2026-03-01T12:00:01Z"}}), true),
            (json!({"DateLessThan": {"aws:CurrentTime": "2026-03-01T12:00:00Z"}}), false),
            (json!({"NumericGreaterThan": {"aws:EpochTime": 1_772_366_399}}), true),
            (json!({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}), true),
            (json!({"NotIpAddress": {"aws:SourceIp": "192.0.2.0/24"}}), false),
            (json!({"ArnEquals": {"aws:PrincipalArn": "arn:aws:iam::000000000000:root"}}), true),
            (json!({"StringEquals": {"aws:PrincipalAccount": "000000000000"}}), true),
            (json!({"StringLike": {"sts:RoleSessionName": "s?"}}), true),
            (json!({"Bool": {"aws:SecureTransport": "true"}}), false),
            (json!({"Null": {"sts:ExternalId": "true"}}), true),
            (json!({"ForAnyValue:StringEquals": {"aws:PrincipalArn": ["a", "b"]}}), false),
        ] {
            let input = json!({"RoleArn": ROLE, "RoleSessionName": "s1"});
            let call = Call { source_ip: Some([192, 0, 2, 1].into()), ..aws::testing::call("AssumeRole", input) };
            assert_eq!(ask_under(condition.clone(), call).await.is_ok(), holds, "{condition}");
        }
    }

    #[tokio::test]
    async fn says_who_calls() {
        let output = ask("GetCallerIdentity", json!({})).await.unwrap();
        assert_eq!(output["Arn"], "arn:aws:iam::000000000000:root");
        assert_eq!(output["Account"], "000000000000");
        let error = ask("GetFederationToken", json!({})).await.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (501, "NotImplementedException"));
    }

    #[tokio::test]
    async fn a_role_is_assumed_as_its_trust_policy_says() {
        let input = json!({"RoleArn": ROLE, "RoleSessionName": "s1", "ExternalId": "word", "DurationSeconds": 900});
        let output = ask("AssumeRole", input.clone()).await.unwrap();
        assert_eq!(output["Credentials"]["AccessKeyId"], json!(format!("{ROLE} s1 900")));
        assert_eq!(output["Credentials"]["Expiration"], "1970-01-01T00:15:00Z");
        assert_eq!(output["AssumedRoleUser"]["Arn"], "arn:aws:sts::000000000000:assumed-role/r/s1");
        for (member, value, code) in [
            ("ExternalId", json!("other"), "AccessDenied"),
            ("RoleArn", json!("arn:aws:iam::000000000000:role/none"), "AccessDenied"),
            ("DurationSeconds", json!(7_201), "ValidationError"),
            ("Policy", json!("{}"), "NotImplementedException"),
        ] {
            let mut input = input.clone();
            input[member] = value;
            assert_eq!(ask("AssumeRole", input).await.unwrap_err().code, code, "{member}");
        }
    }

    #[tokio::test]
    async fn the_root_of_an_account_has_session_keys() {
        let output = ask("GetSessionToken", json!({"DurationSeconds": 7_200})).await.unwrap();
        assert_eq!(output["Credentials"]["AccessKeyId"], "arn:aws:iam::000000000000:root  3600");
    }
}
