//! Tests of `sigv4`: against requests that botocore signed, and against itself.
//!
//! The fixture is made by `tests/vectors/make.py`; nothing of it is edited by hand.

use super::*;
use http::{HeaderName, HeaderValue, Request};
use proptest::prelude::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2026-01-02T03:04:05Z
const AT_MS: u64 = 1_767_323_045_000;

fn credentials() -> Credentials {
    Credentials {
        access_key: "AKIDEXAMPLE".into(),
        secret_key: SECRET.into(),
        session_token: None,
        expires_at_ms: None,
    }
}

fn vectors() -> Vec<(String, Parts, Vec<u8>)> {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../tests/vectors/botocore.json")).unwrap();
    let one = |vector: &serde_json::Value| {
        let text = |key: &str| vector[key].as_str().unwrap().to_owned();
        let mut request = Request::builder().method(text("method").as_str()).uri(text("target"));
        for (name, value) in vector["headers"].as_object().unwrap() {
            request = request.header(name, value.as_str().unwrap());
        }
        (text("name"), request.body(()).unwrap().into_parts().0, text("body").into_bytes())
    };
    vectors.as_array().unwrap().iter().map(one).collect()
}

fn check(parts: &Parts, body: &[u8], secret: &str, now_ms: u64) -> Result<(), Refusal> {
    let claim = claim(parts)?.ok_or(Refusal::Missing)?;
    verify(parts, body, &claim, secret, now_ms, &DerivedKeys::default())
}

#[test]
fn accepts_what_botocore_signs_and_nothing_near_it() {
    for (name, mut parts, body) in vectors() {
        assert_eq!(check(&parts, &body, SECRET, AT_MS), Ok(()), "{name}");
        assert_eq!(check(&parts, &body, "other", AT_MS), Err(Refusal::Mismatch), "{name}");
        if claim(&parts).unwrap().unwrap().scope.service != "s3" {
            assert_eq!(check(&parts, b"other", SECRET, AT_MS), Err(Refusal::Mismatch), "{name}");
        }
        parts.method = http::Method::PATCH;
        assert_eq!(check(&parts, &body, SECRET, AT_MS), Err(Refusal::Mismatch), "{name}");
    }
}

#[test]
fn headers_are_folded_as_signers_fold_them() {
    let request = Request::builder().header("x-amz-a", "a  b \t c").header("x-amz-a", "d").header("x-amz-b", "");
    let (parts, ()) = request.body(()).unwrap().into_parts();
    assert_eq!(canonical_header(&parts, "x-amz-a"), "a b c,d");
    assert_eq!(canonical_header(&parts, "x-amz-b"), "");
    assert_eq!(canonical_header(&parts, "x-amz-absent"), "");
}

#[test]
fn a_signature_has_its_window_of_time() {
    let (_, parts, body) = vectors().remove(0);
    let at = |now_ms| check(&parts, &body, SECRET, now_ms);
    assert_eq!(at(AT_MS + 299_000), Ok(()));
    assert_eq!(at(AT_MS - 299_000), Ok(()));
    assert_eq!(
        at(AT_MS + 301_000),
        Err(Refusal::Scope(
            "Signature expired: 20260102T030405Z is now earlier than 20260102T030406Z (20260102T030906Z - 5 min.)"
                .into()
        ))
    );
    assert!(
        matches!(at(AT_MS - 301_000), Err(Refusal::Scope(text)) if text.starts_with("Signature not yet current: 20260102T030405Z is still later than"))
    );
    let (_, presigned, _) = vectors().into_iter().find(|(name, ..)| name == "presigned").unwrap();
    assert_eq!(check(&presigned, b"", SECRET, AT_MS + 59_000), Ok(()));
    assert!(check(&presigned, b"", SECRET, AT_MS + 61_000).is_err());
}

#[test]
fn malformed_authorizations_are_told_what_they_lack() {
    let with = |authorization: &str| {
        let request = Request::builder().uri("/").header("authorization", authorization).body(()).unwrap();
        claim(&request.into_parts().0)
    };
    assert_eq!(with("Bearer x"), Ok(None));
    for (text, words) in [
        ("AWS4-HMAC-SHA256 SignedHeaders=host, Signature=x", "'Credential' parameter"),
        ("AWS4-HMAC-SHA256 Credential=a/20260102/r/s/aws4_request, Signature=x", "'SignedHeaders' parameter"),
        ("AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=x", "exactly 5 slash-delimited elements"),
        ("AWS4-HMAC-SHA256 Credential=a/20260102/r/s/other, SignedHeaders=host, Signature=x", "valid terminator"),
    ] {
        assert!(with(text).unwrap_err().to_string().contains(words), "{text}");
    }
}

#[test]
fn a_signature_must_cover_host_and_target_and_the_day_of_its_scope() {
    let (_, parts, body) = vectors().into_iter().find(|(name, ..)| name == "session token").unwrap();
    let edit = |from: &str, to: &str| {
        let mut parts = parts.clone();
        let text = parts.headers["authorization"].to_str().unwrap().replace(from, to);
        parts.headers.insert("authorization", text.parse().unwrap());
        check(&parts, &body, SECRET, AT_MS).unwrap_err().to_string()
    };
    assert!(edit(";x-amz-target", "").contains("'x-amz-target' must be a 'SignedHeader'"));
    assert!(edit("host;", "").contains("'Host' or ':authority' must be"));
    assert!(edit("/20260102/", "/20260101/").contains("Date in Credential scope does not match"));
}

#[test]
fn a_declared_body_hash_must_be_that_of_the_body() {
    let mut parts = Request::builder().method("POST").uri("http://h/").body(()).unwrap().into_parts().0;
    parts.headers.insert("x-amz-content-sha256", HeaderValue::from_static("UNSIGNED-PAYLOAD"));
    let signing = Signing { credentials: &credentials(), region: "us-east-1", service: "lambda", now_ms: AT_MS };
    sign(&mut parts, b"x", signing).unwrap();
    assert_eq!(check(&parts, b"x", SECRET, AT_MS), Err(Refusal::Mismatch));
}

proptest! {
    #[test]
    fn what_is_signed_verifies_and_one_flipped_bit_does_not(
        path in "(/[a-zA-Z0-9%._~-]{0,8}){1,4}", query in "([a-z]{1,3}=[a-zA-Z0-9~._-]{0,4}&?){0,4}",
        header in "[ -~]{0,20}", mut body: Vec<u8>, bit in 0usize..4096,
    ) {
        let uri = format!("http://localhost:4566{path}?{query}");
        let Ok(request) = Request::builder().method("PUT").uri(uri).body(()) else { return Ok(()) };
        let mut parts = request.into_parts().0;
        parts.headers.insert(HeaderName::from_static("x-amz-meta"), HeaderValue::from_str(&header).unwrap());
        let signing = Signing { credentials: &credentials(), region: "eu-west-1", service: "sts", now_ms: AT_MS };
        sign(&mut parts, &body, signing).unwrap();
        prop_assert_eq!(check(&parts, &body, SECRET, AT_MS), Ok(()));
        if body.is_empty() {
            body.push(0);
        } else {
            let at = bit % (body.len() * 8);
            body[at / 8] ^= 1 << (at % 8);
        }
        prop_assert_eq!(check(&parts, &body, SECRET, AT_MS), Err(Refusal::Mismatch));
    }

    #[test]
    fn noise_never_panics(authorization in "\\PC{0,80}", query in "[ -~]{0,80}") {
        let uri = format!("/?X-Amz-Signature={}", utf8_percent_encode(&query, STRICT));
        let request = Request::builder().uri(uri).header("x-amz-date", "x");
        if let Ok(request) = request.header("authorization", format!("{ALGORITHM}{authorization}").as_bytes()).body(()) {
            let _ = check(&request.into_parts().0, b"", SECRET, AT_MS);
        }
    }
}
