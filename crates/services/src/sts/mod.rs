//! The Security Token Service, as far as identity goes.
//!
//! Operations: GetCallerIdentity. Temporary keys of functions are made by `iam`, without a call.
//! Not here: AssumeRole and its kin; they answer `NotImplementedException`.
//!
//! Invariant: the answer is the principal that the wire verified, nothing else is looked up.

use async_trait::async_trait;
use aws::{Call, Error, Reply, Service};
use serde_json::json;

/// The service.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sts;

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
            other => Err(Error::not_implemented(format!("the operation '{other}' of 'sts'"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_who_calls() {
        let reply = Sts.call(aws::testing::call("GetCallerIdentity", json!({}))).await.unwrap();
        assert_eq!(reply.output["Arn"], "arn:aws:iam::000000000000:root");
        assert_eq!(reply.output["Account"], "000000000000");
        let error = Sts.call(aws::testing::call("AssumeRole", json!({}))).await.unwrap_err();
        assert_eq!((error.status, error.code.as_str()), (501, "NotImplementedException"));
    }
}
