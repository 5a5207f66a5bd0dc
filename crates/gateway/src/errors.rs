//! Error answers of the fronts, in the shapes of AWS. Pure.
//!
//! Function URLs, HTTP APIs and REST APIs each say the same things with other words, statuses and headers; the tables
//! here are the only place that knows them. Source: API Gateway's gateway responses, Lambda's function URLs.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

/// What went wrong on the way to or from a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No such site, route or method.
    NoRoute,
    /// No such stage of a REST API.
    NoStage,
    /// Nobody signed.
    NotSigned,
    /// The signature is wrong. AWS's code and words.
    BadSignature(String, String),
    /// The caller may not.
    Forbidden,
    /// The request is too large.
    TooLarge,
    /// The request's body did not arrive.
    BadRequest,
    /// A configured limit is reached.
    Throttled,
    /// The function failed, or its answer breaks the rules.
    Function,
    /// The integration took too long.
    Timeout,
    /// The host has no room now.
    Busy,
    /// The function cannot be run, or the platform failed.
    Platform,
}

/// A JSON (or plain) answer.
pub fn answer(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `{"KEY": "MESSAGE"}` with AWS's error type in the header.
pub fn message(status: u16, key: &str, text: &str, error_type: Option<&str>) -> Response<Bytes> {
    let mut response = answer(status, "application/json", serde_json::json!({ key: text }).to_string());
    if let Some(value) = error_type.and_then(|error_type| HeaderValue::from_str(error_type).ok()) {
        response.headers_mut().insert("x-amzn-errortype", value);
    }
    response
}

fn busy(mut response: Response<Bytes>, fault: &Fault) -> Response<Bytes> {
    if *fault == Fault::Busy {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The answer of a function URL.
pub fn of_function_url(fault: &Fault) -> Response<Bytes> {
    let forbidden = |text: &str| message(403, "Message", text, Some("AccessDeniedException"));
    let response = match fault {
        Fault::NoRoute | Fault::NoStage => {
            let mut response = answer(403, "application/json", &br#"{"Message":null}"#[..]);
            response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static("AccessDeniedException"));
            response
        }
        Fault::NotSigned | Fault::Forbidden => forbidden("Forbidden"),
        Fault::BadSignature(code, text) => message(403, "message", text, Some(code)),
        Fault::TooLarge => message(413, "Message", "Request Entity Too Large", Some("RequestTooLargeException")),
        Fault::BadRequest => message(400, "Message", "Bad Request", Some("BadRequestException")),
        Fault::Throttled => message(429, "Message", "Rate Exceeded.", Some("TooManyRequestsException")),
        Fault::Timeout => message(504, "Message", "Gateway Timeout", None),
        Fault::Busy => message(503, "Message", "Service Unavailable", Some("ServiceUnavailableException")),
        Fault::Function | Fault::Platform => answer(502, "application/json", &b"Internal Server Error"[..]),
    };
    busy(response, fault)
}

/// The answer of an HTTP API.
pub fn of_http_api(fault: &Fault) -> Response<Bytes> {
    let (status, text) = match fault {
        Fault::NoRoute | Fault::NoStage => (404, "Not Found"),
        Fault::NotSigned | Fault::Forbidden | Fault::BadSignature(..) => (403, "Forbidden"),
        Fault::TooLarge => (413, "Request Entity Too Large"),
        Fault::BadRequest => (400, "Bad Request"),
        Fault::Throttled => (429, "Too Many Requests"),
        Fault::Timeout | Fault::Busy => (503, "Service Unavailable"),
        Fault::Function | Fault::Platform => (500, "Internal Server Error"),
    };
    busy(message(status, "message", text, None), fault)
}

/// The answer of a REST API.
pub fn of_rest_api(fault: &Fault) -> Response<Bytes> {
    let (status, text, error_type) = match fault {
        Fault::NoRoute | Fault::NotSigned => {
            (403, "Missing Authentication Token", "MissingAuthenticationTokenException")
        }
        Fault::NoStage => (403, "Forbidden", "ForbiddenException"),
        Fault::BadSignature(code, text) => (403, text.as_str(), code.as_str()),
        Fault::Forbidden => {
            let text = "User is not authorized to access this resource";
            return message(403, "Message", text, Some("AccessDeniedException"));
        }
        Fault::TooLarge => (413, "Request Too Long", "RequestTooLargeException"),
        Fault::BadRequest => (400, "Bad Request", "BadRequestException"),
        Fault::Throttled => (429, "Too Many Requests", "TooManyRequestsException"),
        Fault::Timeout => (504, "Endpoint request timed out", "InternalServerErrorException"),
        Fault::Busy => (503, "Service Unavailable", "ServiceUnavailableException"),
        Fault::Function => (502, "Internal server error", "InternalServerErrorException"),
        Fault::Platform => (500, "Internal server error", "InternalServerErrorException"),
    };
    busy(message(status, "message", text, Some(error_type)), fault)
}

/// What this port serves, for a request that fits nothing.
pub fn not_served() -> Response<Bytes> {
    const TEXT: &str = "Nothing is served here.\n\nThis port serves:\n  \
        AWS calls, signed or with an X-Amz-Target header (set AWS_ENDPOINT_URL to this address)\n  \
        function URLs    http://ID.lambda-url.REGION.localhost:PORT/  or  /_dunlin/url/ID/\n  \
        APIs             http://ID.execute-api.REGION.localhost:PORT/STAGE/  or  /_dunlin/api/ID/STAGE/\n  \
        health           /_dunlin/health\n";
    answer(404, "text/plain; charset=utf-8", TEXT)
}

/// A request that the browser rules refuse.
pub fn refused(refusal: crate::browser::Refusal) -> Response<Bytes> {
    let body = serde_json::json!({ "__type": refusal.code(), "message": refusal.message() }).to_string();
    let mut response = answer(refusal.status(), "application/json", body);
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(refusal.code()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_front_has_its_own_words() {
        let shown = |response: Response<Bytes>| {
            let error_type = response.headers().get("x-amzn-errortype").map_or("-", |value| value.to_str().unwrap());
            format!("{} {} {error_type}", response.status().as_u16(), String::from_utf8_lossy(response.body()))
        };
        let internal = "InternalServerErrorException";
        for (got, wanted) in [
            (of_function_url(&Fault::NoRoute), r#"403 {"Message":null} AccessDeniedException"#.to_owned()),
            (of_function_url(&Fault::Function), "502 Internal Server Error -".to_owned()),
            (of_function_url(&Fault::Forbidden), r#"403 {"Message":"Forbidden"} AccessDeniedException"#.to_owned()),
            (of_http_api(&Fault::NoRoute), r#"404 {"message":"Not Found"} -"#.to_owned()),
            (of_http_api(&Fault::Function), r#"500 {"message":"Internal Server Error"} -"#.to_owned()),
            (of_http_api(&Fault::Timeout), r#"503 {"message":"Service Unavailable"} -"#.to_owned()),
            (of_http_api(&Fault::Throttled), r#"429 {"message":"Too Many Requests"} -"#.to_owned()),
            (of_http_api(&Fault::TooLarge), r#"413 {"message":"Request Entity Too Large"} -"#.to_owned()),
            (
                of_rest_api(&Fault::NoRoute),
                r#"403 {"message":"Missing Authentication Token"} MissingAuthenticationTokenException"#.to_owned(),
            ),
            (of_rest_api(&Fault::Function), format!(r#"502 {{"message":"Internal server error"}} {internal}"#)),
            (of_rest_api(&Fault::Timeout), format!(r#"504 {{"message":"Endpoint request timed out"}} {internal}"#)),
            (
                of_rest_api(&Fault::TooLarge),
                r#"413 {"message":"Request Too Long"} RequestTooLargeException"#.to_owned(),
            ),
        ] {
            assert_eq!(shown(got), wanted);
        }
        assert_eq!(of_rest_api(&Fault::Busy).headers()[RETRY_AFTER], "1");
    }
}
