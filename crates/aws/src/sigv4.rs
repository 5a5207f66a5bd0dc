//! Signature Version 4: what a request claims, whether the claim holds, and how to sign one.
//!
//! Pure: time and secrets are arguments. Whose key it is and what that key may do is asked elsewhere (`auth`).
//!
//! Invariants
//!   1. The hash that a signature covers is that of the body that came; `x-amz-content-sha256` cannot replace it, except
//!      for S3, which defines unsigned payloads.
//!   2. A signature is accepted only within its window of time, and compared in constant time.
//!   3. `host`, the target and the date are always covered by the signature.
//!
//! Source: the Signature Version 4 chapter of the AWS reference, and botocore's behaviour for paths and queries.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, Mac};
use http::HeaderMap;
use http::request::Parts;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use model::Credentials;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// Most services allow five minutes either way.
const SKEW_MS: u64 = 5 * 60 * 1_000;
/// A presigned request lives for at most a week.
const EXPIRES_S_MAX: u64 = 604_800;
/// RFC 3986's unreserved characters stay as they are.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const PATH: &AsciiSet = &STRICT.remove(b'/');

/// Why a request is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No signature at all.
    #[error("Missing Authentication Token")]
    Missing,
    /// A signature that lacks something.
    #[error("{0}")]
    Incomplete(String),
    /// Nobody has that key.
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    /// The temporary key has ended.
    #[error("The security token included in the request is expired")]
    Expired,
    /// The signature is not that of this request.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access \
         Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
    /// The signature is too old, too young, or for another place.
    #[error("{0}")]
    Scope(String),
    /// The key is good, and somebody else's than the connection's.
    #[error("The credentials are not those of the function whose environment made this call")]
    Foreign,
}

/// `AKID/yyyymmdd/region/service/aws4_request`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// `yyyymmdd`
    pub date: String,
    /// Region.
    pub region: String,
    /// Signing name of the service.
    pub service: String,
}

impl Scope {
    fn text(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }
}

/// What a request says about its signature; nothing of it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key's id.
    pub access_key: String,
    /// Where and when the signature is good.
    pub scope: Scope,
    /// Lower-case header names, in the order that was signed.
    pub signed_headers: Vec<String>,
    /// Hexadecimal.
    pub signature: String,
    /// `X-Amz-Date` in its compact form; empty if the request has none that can be read.
    pub at: String,
    /// Temporary keys' token.
    pub session_token: Option<String>,
    /// Seconds, of a presigned request.
    pub expires_s: Option<u64>,
}

/// Reads the claim of a request; nothing if it carries no signature of this kind.
pub fn claim(parts: &Parts) -> Result<Option<Claim>, Refusal> {
    let authorization = parts.headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(text) = authorization.and_then(|text| text.strip_prefix(ALGORITHM)) {
        return claim_of_header(text, &parts.headers).map(Some);
    }
    let query = parts.uri.query().unwrap_or_default();
    if query.contains("X-Amz-Signature=") || query.contains("X-Amz-Credential=") {
        return claim_of_query(query).map(Some);
    }
    Ok(None)
}

fn claim_of_header(text: &str, headers: &HeaderMap) -> Result<Claim, Refusal> {
    let field = |name: &str| {
        let mut fields = text.rsplit(',').filter_map(|field| field.trim().split_once('='));
        fields.find(|(known, _)| *known == name).map(|(_, value)| value).ok_or_else(|| {
            Refusal::Incomplete(format!("Authorization header requires '{name}' parameter. Authorization={ALGORITHM}"))
        })
    };
    let (access_key, scope) = credential(field("Credential")?)?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let at = match header("x-amz-date") {
        Some(at) => at,
        None => header("date").and_then(|date| compact_date(&date)).unwrap_or_default(),
    };
    Ok(Claim {
        access_key,
        scope,
        signed_headers: field("SignedHeaders")?.split(';').map(str::to_owned).collect(),
        signature: field("Signature")?.to_owned(),
        at,
        session_token: header("x-amz-security-token"),
        expires_s: None,
    })
}

fn claim_of_query(query: &str) -> Result<Claim, Refusal> {
    let fields: HashMap<String, String> =
        query_pairs(query).into_iter().filter(|(name, _)| name.starts_with("X-Amz-")).collect();
    let field = |name: &str| {
        let missing = || Refusal::Incomplete(format!("AWS query-string parameters must include '{name}'."));
        fields.get(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    };
    if field("X-Amz-Algorithm")? != ALGORITHM {
        return Err(Refusal::Incomplete(format!("X-Amz-Algorithm must be {ALGORITHM}.")));
    }
    let (access_key, scope) = credential(field("X-Amz-Credential")?)?;
    let expires = match fields.get("X-Amz-Expires") {
        Some(text) => text.parse().ok().filter(|seconds| (1..=EXPIRES_S_MAX).contains(seconds)),
        // Query signatures without an end are good for the usual window.
        None => Some(SKEW_MS / 1_000),
    };
    Ok(Claim {
        access_key,
        scope,
        signed_headers: field("X-Amz-SignedHeaders")?.split(';').map(str::to_owned).collect(),
        signature: field("X-Amz-Signature")?.clone(),
        at: field("X-Amz-Date")?.clone(),
        session_token: fields.get("X-Amz-Security-Token").cloned(),
        expires_s: Some(expires.ok_or_else(|| {
            Refusal::Incomplete(format!("X-Amz-Expires must be between 1 and {EXPIRES_S_MAX} seconds."))
        })?),
    })
}

fn credential(text: &str) -> Result<(String, Scope), Refusal> {
    let wrong = || {
        Refusal::Incomplete(format!(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{text}'"
        ))
    };
    // From the right: an access key of a local cloud may be anything, with slashes too.
    let mut parts = text.rsplitn(5, '/');
    let mut next = || parts.next().filter(|part| !part.is_empty()).ok_or_else(wrong);
    let terminator = next()?;
    let (service, region, date, access_key) = (next()?, next()?, next()?, next()?);
    if terminator != "aws4_request" {
        return Err(Refusal::Scope("Credential should be scoped with a valid terminator: 'aws4_request'.".into()));
    }
    let scope = Scope { date: date.into(), region: region.into(), service: service.into() };
    Ok((access_key.to_owned(), scope))
}

/// The compact form of an RFC 2822 date.
fn compact_date(text: &str) -> Option<String> {
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(date_text(u64::try_from(at.as_millisecond()).ok()?))
}

/// `yyyymmddThhmmssZ`
pub fn date_text(now_ms: u64) -> String {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(now_ms).unwrap_or(i64::MAX)).unwrap_or_default();
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn date_ms(text: &str) -> Option<u64> {
    if text.len() != 16 {
        return None;
    }
    let at = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?.to_zoned(TimeZone::UTC).ok()?;
    u64::try_from(at.timestamp().as_millisecond()).ok()
}

/// Keys derived from a secret, a day, a region and a service; bounded, since callers choose all but the secret.
#[derive(Debug, Default)]
pub struct DerivedKeys {
    known: Mutex<HashMap<String, [u8; 32]>>,
}

impl DerivedKeys {
    const MOST: usize = 1_024;

    fn get(&self, secret: &str, scope: &Scope) -> [u8; 32] {
        let name = format!("{secret}\0{}", scope.text());
        if let Some(key) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return *key;
        }
        let key = derive(secret, scope);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(name, key);
        key
    }
}

fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length; the error exists for other algorithms.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC takes keys of any length") };
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn derive(secret: &str, scope: &Scope) -> [u8; 32] {
    let date = hmac(format!("AWS4{secret}").as_bytes(), scope.date.as_bytes());
    let region = hmac(&date, scope.region.as_bytes());
    let service = hmac(&region, scope.service.as_bytes());
    hmac(&service, b"aws4_request")
}

/// Checks that `claim`, read from this request, was made with `secret`, for this body, now.
pub fn verify(
    parts: &Parts,
    body: &[u8],
    claim: &Claim,
    secret: &str,
    now_ms: u64,
    keys: &DerivedKeys,
) -> Result<(), Refusal> {
    check_time(claim, now_ms)?;
    check_coverage(parts, claim)?;
    let payload = payload_hash(parts, body, claim)?;
    let canonical = canonical_request(parts, claim, &payload);
    let key = keys.get(secret, &claim.scope);
    let expected = hex::encode(hmac(&key, string_to_sign(&claim.at, &claim.scope, &canonical).as_bytes()));
    if bool::from(expected.as_bytes().ct_eq(claim.signature.as_bytes())) { Ok(()) } else { Err(Refusal::Mismatch) }
}

fn check_time(claim: &Claim, now_ms: u64) -> Result<(), Refusal> {
    let Some(at_ms) = date_ms(&claim.at) else {
        return Err(Refusal::Incomplete(
            "Date must be in ISO-8601 'basic format'. Authorization header requires existence of either a 'X-Amz-Date' \
             or a 'Date' header."
                .into(),
        ));
    };
    if !claim.at.starts_with(&claim.scope.date) {
        return Err(Refusal::Scope(format!(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{}' != '{}', \
             from '{}'.",
            claim.scope.date,
            &claim.at[..8],
            claim.at
        )));
    }
    let now = date_text(now_ms);
    let life_ms = claim.expires_s.map_or(SKEW_MS, |seconds| seconds * 1_000);
    if at_ms + life_ms < now_ms {
        let border = date_text(now_ms - life_ms);
        let text = format!("Signature expired: {} is now earlier than {border} ({now} - {}.)", claim.at, span(life_ms));
        return Err(Refusal::Scope(text));
    }
    if at_ms > now_ms + SKEW_MS {
        let border = date_text(now_ms + SKEW_MS);
        let text = format!("Signature not yet current: {} is still later than {border} ({now} + 5 min.)", claim.at);
        return Err(Refusal::Scope(text));
    }
    Ok(())
}

fn span(ms: u64) -> String {
    if ms.is_multiple_of(60_000) { format!("{} min", ms / 60_000) } else { format!("{} sec", ms / 1_000) }
}

fn check_coverage(parts: &Parts, claim: &Claim) -> Result<(), Refusal> {
    let signed = |name: &str| claim.signed_headers.iter().any(|header| header == name);
    if !signed("host") && !signed(":authority") {
        return Err(Refusal::Scope("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.".into()));
    }
    for name in ["x-amz-target", "x-amz-date"] {
        if parts.headers.contains_key(name) && !signed(name) {
            return Err(Refusal::Scope(format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.")));
        }
    }
    Ok(())
}

fn payload_hash<'a>(parts: &'a Parts, body: &[u8], claim: &Claim) -> Result<Cow<'a, str>, Refusal> {
    let declared = parts.headers.get("x-amz-content-sha256").and_then(|value| value.to_str().ok());
    if claim.scope.service == "s3" {
        match declared {
            Some(streaming) if streaming.starts_with("STREAMING-") => {
                return Err(Refusal::Incomplete(format!("The payload signing {streaming} is not supported.")));
            }
            Some(UNSIGNED_PAYLOAD) => return Ok(Cow::Borrowed(UNSIGNED_PAYLOAD)),
            None if claim.expires_s.is_some() => return Ok(Cow::Borrowed(UNSIGNED_PAYLOAD)),
            _ => {}
        }
    }
    let actual = hex::encode(Sha256::digest(body));
    match declared {
        Some(declared) if !declared.eq_ignore_ascii_case(&actual) => Err(Refusal::Mismatch),
        _ => Ok(Cow::Owned(actual)),
    }
}

fn string_to_sign(at: &str, scope: &Scope, canonical: &str) -> String {
    format!("{ALGORITHM}\n{at}\n{}\n{}", scope.text(), hex::encode(Sha256::digest(canonical.as_bytes())))
}

fn canonical_request(parts: &Parts, claim: &Claim, payload: &str) -> String {
    let mut text = format!(
        "{}\n{}\n{}\n",
        parts.method,
        canonical_path(parts.uri.path(), &claim.scope.service),
        canonical_query(parts.uri.query().unwrap_or_default()),
    );
    for name in &claim.signed_headers {
        let _ = writeln!(text, "{name}:{}", canonical_header(parts, name));
    }
    let _ = write!(text, "\n{}\n{payload}", claim.signed_headers.join(";"));
    text
}

fn canonical_path(path: &str, service: &str) -> String {
    if service == "s3" {
        let decoded: Cow<'_, [u8]> = percent_decode_str(path).into();
        return percent_encoding::percent_encode(&decoded, PATH).to_string();
    }
    utf8_percent_encode(&without_dots(path), PATH).to_string()
}

/// Dot segments and doubled slashes resolved, as AWS's services do before they compare signatures.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            other => kept.push(other),
        }
    }
    let last = if path.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    format!("/{}{last}", kept.join("/"))
}

fn query_pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

fn canonical_query(query: &str) -> String {
    let encode = |text: &str| -> String {
        let decoded: Cow<'_, [u8]> = percent_decode_str(text).into();
        percent_encoding::percent_encode(&decoded, STRICT).to_string()
    };
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| *name != "X-Amz-Signature")
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

fn canonical_header(parts: &Parts, name: &str) -> String {
    let values: Vec<String> = parts
        .headers
        .get_all(name)
        .iter()
        .map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes());
            // Signers fold tabs like spaces.
            text.split([' ', '\t']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
        })
        .collect();
    // HTTP/2 has the host in its target.
    if values.is_empty() && matches!(name, "host" | ":authority") {
        return parts.uri.authority().map(ToString::to_string).unwrap_or_default();
    }
    values.join(",")
}

/// Where and for whom a request is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signing<'a> {
    /// The key pair.
    pub credentials: &'a Credentials,
    /// Region.
    pub region: &'a str,
    /// Signing name of the service.
    pub service: &'a str,
    /// Milliseconds since the epoch.
    pub now_ms: u64,
}

/// Adds date, token and `Authorization` headers. The URI must be absolute or `host` already set; headers that are
/// added later are not covered.
pub fn sign(parts: &mut Parts, body: &[u8], signing: Signing<'_>) -> Result<(), http::header::InvalidHeaderValue> {
    let at = date_text(signing.now_ms);
    if !parts.headers.contains_key("host") {
        let host = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
        parts.headers.insert("host", host.parse()?);
    }
    parts.headers.insert("x-amz-date", at.parse()?);
    if let Some(token) = &signing.credentials.session_token {
        parts.headers.insert("x-amz-security-token", token.parse()?);
    }
    let payload = hex::encode(Sha256::digest(body));
    if signing.service == "s3" {
        parts.headers.insert("x-amz-content-sha256", payload.parse()?);
    }
    let signed = |name: &&str| *name == "host" || *name == "content-type" || name.starts_with("x-amz-");
    let mut names: Vec<String> =
        parts.headers.keys().map(|name| name.as_str()).filter(signed).map(Into::into).collect();
    names.sort();
    let scope = Scope { date: at[..8].to_owned(), region: signing.region.into(), service: signing.service.into() };
    let claim = Claim {
        access_key: signing.credentials.access_key.clone(),
        scope,
        signed_headers: names,
        signature: String::new(),
        at,
        session_token: None,
        expires_s: None,
    };
    let canonical = canonical_request(parts, &claim, &payload);
    let key = derive(&signing.credentials.secret_key, &claim.scope);
    let signature = hex::encode(hmac(&key, string_to_sign(&claim.at, &claim.scope, &canonical).as_bytes()));
    let authorization = format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={signature}",
        claim.access_key,
        claim.scope.text(),
        claim.signed_headers.join(";"),
    );
    parts.headers.insert(http::header::AUTHORIZATION, authorization.parse()?);
    Ok(())
}

#[cfg(test)]
#[path = "sigv4_tests.rs"]
mod tests;
