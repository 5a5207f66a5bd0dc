//! Which AWS host names the platform answers for inside a sandbox. Pure.
//!
//! Only names of service endpoints: a database, cache or registry that a user owns at AWS has a name below
//! `amazonaws.com` too, and connections to it pass through untouched.

use crate::route;

/// Labels of endpoints that the platform answers. A service among them that is not there yet is answered loudly, so
/// that neither data nor temporary credentials of the platform leave for AWS.
pub const ENDPOINTS: &[&str] = &[
    "apigateway",
    "application-autoscaling",
    "ce",
    "cloudformation",
    "cognito-idp",
    "ddb",
    "dynamodb",
    "email",
    "events",
    "execute-api",
    "firehose",
    "iam",
    "kinesis",
    "kms",
    "lambda",
    "logs",
    "monitoring",
    "pipes",
    "queue",
    "resource-groups",
    "s3",
    "scheduler",
    "schemas",
    "secretsmanager",
    "sns",
    "sqs",
    "ssm",
    "states",
    "sts",
    "tagging",
    "xray",
];

/// Whether a name (lower case, without the last dot) is answered by the platform.
pub fn is_served(name: &str) -> bool {
    if route::site_of_host(name).is_some() {
        return true;
    }
    let below =
        [".amazonaws.com.cn", ".amazonaws.com", ".api.aws"].iter().find_map(|domain| name.strip_suffix(*domain));
    let Some(labels) = below else { return false };
    let mut labels: Vec<&str> = labels.split('.').filter(|label| *label != "dualstack" && *label != "vpce").collect();
    // `SERVICE.REGION`, `REGION.queue`, and `SERVICE` alone.
    if labels.len() > 1 && labels.last().is_some_and(|label| is_region(label)) {
        labels.pop();
    }
    labels.last().is_some_and(|label| is_endpoint(label))
}

fn is_endpoint(label: &str) -> bool {
    let label = label.strip_suffix("-fips").unwrap_or(label);
    let label = label.strip_prefix("sync-").unwrap_or(label);
    let legacy_s3 = label.strip_prefix("s3-").is_some_and(is_region);
    legacy_s3 || ENDPOINTS.contains(&label)
}

/// `us-east-1`, `us-gov-west-1`
fn is_region(label: &str) -> bool {
    let mut parts = label.rsplit('-');
    let number = parts.next().is_some_and(|part| part.len() == 1 && part.as_bytes()[0].is_ascii_digit());
    let words: Vec<&str> = parts.collect();
    number && (2..=3).contains(&words.len()) && words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_endpoints_are_served_and_users_hosts_are_not() {
        for name in [
            "dynamodb.us-east-1.amazonaws.com",
            "streams.dynamodb.us-east-1.amazonaws.com",
            "123456789012.ddb.us-east-1.amazonaws.com",
            "sts.amazonaws.com",
            "lambda.us-gov-west-1.amazonaws.com",
            "lambda.eu-west-1.api.aws",
            "bucket.with.dots.s3.us-east-1.amazonaws.com",
            "bucket.s3.dualstack.eu-west-1.amazonaws.com",
            "bucket.s3.amazonaws.com",
            "s3-us-west-2.amazonaws.com",
            "us-east-1.queue.amazonaws.com",
            "sync-states.us-east-1.amazonaws.com",
            "sqs-fips.us-east-1.amazonaws.com",
            "sqs.cn-north-1.amazonaws.com.cn",
            "a1.execute-api.us-east-1.amazonaws.com",
            "a1.lambda-url.us-east-1.on.aws",
            "a1.lambda-url.us-east-1.localhost",
        ] {
            assert!(is_served(name), "{name}");
        }
        for name in [
            "amazonaws.com",
            "db.abc.us-east-1.rds.amazonaws.com",
            "cache.abc.use1.cache.amazonaws.com",
            "123.dkr.ecr.us-east-1.amazonaws.com",
            "lambda.us-east-1.rds.amazonaws.com",
            "dynamodb.us-east-1.amazonaws.com.evil.example",
            "dynamodb.us-east-1.example.com",
            "example.com",
            "aws.amazon.com",
            "localhost",
            "",
        ] {
            assert!(!is_served(name), "{name}");
        }
    }
}
