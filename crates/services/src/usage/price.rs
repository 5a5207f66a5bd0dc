//! AWS list prices that the bill is made with. Pure.
//!
//! Source: Lambda's price list for us-east-1, x86, first tier, as of 2025. Sandboxes run on the host's architecture and
//! the record does not name one, so the x86 price holds for all.

/// Dollars per invocation: 0.20 per million.
pub const PER_REQUEST_USD: f64 = 0.20 / 1_000_000.0;
/// Dollars per GB-second.
pub const PER_GB_SECOND_USD: f64 = 0.000_016_666_7;

/// MiB-milliseconds in a GB-second.
pub(super) const MB_MS_PER_GB_S: f64 = 1_024_000.0;

/// What calls cost.
pub(super) fn cost_usd(requests: u64, mb_ms: u64) -> f64 {
    requests as f64 * PER_REQUEST_USD + mb_ms as f64 / MB_MS_PER_GB_S * PER_GB_SECOND_USD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_calls_of_128_mb_and_100_ms_cost_what_the_price_list_says() {
        // 1,000,000 requests = 0.20; 100,000 s * 0.125 GB = 12,500 GB-s = 0.2083.
        let cost = cost_usd(1_000_000, 1_000_000 * 100 * 128);
        assert!((cost - 0.408_333_75).abs() < 1e-9, "{cost}");
    }
}
