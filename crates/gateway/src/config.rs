//! What an operator can set about the front door, with the defaults of a local cloud.

use std::time::Duration;

/// Bytes of a request to a function URL. Source: Lambda's limit of a synchronous payload, 6 MB.
pub const FUNCTION_URL_BODY_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Bytes of a request to a function URL of a web server, which gets it as it comes: as much as a streamed answer may have.
pub const WEB_BODY_BYTES_MAX: u64 = 200 * 1024 * 1024;
/// Bytes of a request to an API. Source: API Gateway's quota.
pub const API_BODY_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Bytes of an event, body and envelope together. Source: Lambda's answer to a larger one names this number.
pub const EVENT_BYTES_MAX: usize = 6_291_556;

/// Settings of the front door.
#[derive(Debug, Clone)]
pub struct Config {
    /// Domains (with their subdomains) and addresses that name this platform, beside loopback and AWS names.
    pub domains: Vec<String>,
    /// Origins whose pages may call the control plane, as `https://console.example`.
    pub allowed_origins: Vec<String>,
    /// Whether a proxy in front sets `X-Forwarded-For` and `X-Forwarded-Proto`, and is to be believed.
    pub behind_proxy: bool,
    /// Most connections at once; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Most bytes of a control-plane request. Source: a 50 MB package as base64 in CreateFunction.
    pub control_body_bytes_max: usize,
    /// Most bytes of a request's head.
    pub header_bytes_max: usize,
    /// Longest wait for a whole request head, also on an idle connection.
    pub header_timeout: Duration,
    /// Longest silence within a request's body.
    pub body_timeout: Duration,
    /// Port of the public listener, so that guests reach `*.localhost:PORT` names too.
    pub port: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            allowed_origins: Vec::new(),
            behind_proxy: false,
            connections_max: 8_192,
            control_body_bytes_max: 70 * 1024 * 1024,
            header_bytes_max: 64 * 1024,
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            port: 4566,
        }
    }
}
