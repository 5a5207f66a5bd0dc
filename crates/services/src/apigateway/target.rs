//! Which function an integration means. Pure.
//!
//! Forms: a function's ARN, and `arn:aws:apigateway:REGION:lambda:path/2015-03-31/functions/ARN/invocations`.

use aws::Error;
use model::FunctionRef;

use super::error;

/// The function of an integration's URI.
pub(super) fn function_of(uri: &str) -> Result<FunctionRef, Error> {
    if uri.contains("${") {
        return Err(Error::not_implemented("stage variables in the URI of an integration"));
    }
    if let Some(function) = FunctionRef::parse_arn(uri) {
        return Ok(function);
    }
    let path = uri.split_once(":lambda:path/").filter(|(head, _)| head.starts_with("arn:aws")).map(|(_, path)| path);
    let Some(path) = path else {
        if uri.starts_with("arn:aws") && uri.contains(":apigateway:") {
            return Err(Error::not_implemented(format_args!("the integration {uri}: only functions can be invoked")));
        }
        return Err(error::bad_request("AWS ARN for integration must contain path or action"));
    };
    let arn = path.split_once("/functions/").and_then(|(_, rest)| rest.strip_suffix("/invocations"));
    arn.and_then(FunctionRef::parse_arn).ok_or_else(|| error::bad_request("Invalid function ARN or invalid uri"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_name_the_function() {
        let arn = "arn:aws:lambda:us-east-1:000000000000:function:f:live";
        let long = format!("arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{arn}/invocations");
        assert_eq!(function_of(arn).unwrap().arn(), arn);
        assert_eq!(function_of(&long).unwrap().arn(), arn);
    }

    #[test]
    fn what_is_no_function_is_refused() {
        for (uri, status) in [
            ("", 400),
            ("https://example.org", 400),
            ("arn:aws:apigateway:us-east-1:sqs:path/1/q", 501),
            ("arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/f/invocations", 400),
            ("arn:aws:lambda:us-east-1:000000000000:function:${stageVariables.f}", 501),
        ] {
            assert_eq!(function_of(uri).unwrap_err().status, status, "{uri}");
        }
    }
}
