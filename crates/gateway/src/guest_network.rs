//! Placeholder.

/// Host of the endpoint that sandboxes are given.
pub const GUEST_HOST: &str = "169.254.100.1";
