//! Trace headers (`X-Amzn-Trace-Id`): `Root=1-TIME-ID;Parent=ID;Sampled=0`, and what else services add.

use base::Random;

/// A header that begins a trace. Whether the trace is sampled is open.
pub fn begun(now_ms: u64, random: &dyn Random) -> String {
    format!("Root=1-{:08x}-{}", now_ms / 1_000, random.hex(12))
}

/// The value of a field. Names have their case.
pub fn field<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_begins_with_its_time() {
        let made = begun(1_583_349_317_135, &*base::SeededRandom::new(1));
        assert!(made.starts_with("Root=1-5e5ffe45-") && made.len() == "Root=1-".len() + 8 + 1 + 24, "{made}");
        assert_eq!(field(&made, "Root"), made.strip_prefix("Root="));
        assert_eq!((field("Root=a; Sampled=1", "Sampled"), field("Root=a", "Parent")), (Some("1"), None));
    }
}
