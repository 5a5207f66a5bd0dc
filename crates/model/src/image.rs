//! Container images as the data plane sees them: which layers make the root, and what is run in it.

use serde::{Deserialize, Serialize};

use crate::CodeDigest;

/// What a version that is a container image is started from, overrides applied. Its `FunctionVersion::code` is the digest of
/// the manifest and names the root that the layers make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCode {
    /// The layers, the lowest first, each by the digest of its blob.
    pub layers: Vec<CodeDigest>,
    /// Program and arguments; the first without a slash is looked for where `PATH` says.
    pub line: Vec<String>,
    /// Where it begins.
    pub folder: String,
    /// The image's own variables, the first to be replaced.
    pub environment: Vec<(String, String)>,
}
