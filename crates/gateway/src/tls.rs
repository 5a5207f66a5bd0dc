//! TLS on a listener: with the operator's certificate, or with leaves of the authority inside sandboxes.
//!
//! Not here: the authority itself; which names are served (`names`).
//!
//! Invariant: inside a sandbox, a name that is not served gets no certificate, so that the handshake fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;
use crate::names;

/// The operator's TLS files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{path} cannot be read: {error}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// There is no certificate in the file.
    #[error("{0} holds no certificate; it must be PEM, the server's certificate first, then intermediate ones")]
    NoCertificate(PathBuf),
    /// There is no private key in the file.
    #[error("{0} holds no private key; it must be PEM, without a passphrase")]
    NoKey(PathBuf),
    /// The two do not fit.
    #[error("the certificate in {certificate} and the key in {key} cannot be used together: {error}")]
    Unfit {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        error: rustls::Error,
    },
}

/// An acceptor with the operator's PEM files.
pub fn load(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| Error::Unreadable { path: path.to_owned(), error });
    let chain: Result<Vec<_>, _> = rustls_pemfile::certs(&mut read(certificate)?.as_slice()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| Error::NoCertificate(certificate.into()))?;
    let secret = rustls_pemfile::private_key(&mut read(key)?.as_slice()).ok().flatten();
    let secret = secret.ok_or_else(|| Error::NoKey(key.into()))?;
    let unfit = |error| Error::Unfit { certificate: certificate.into(), key: key.into(), error };
    let config = builder().map_err(unfit)?.with_no_client_auth().with_single_cert(chain, secret).map_err(unfit)?;
    Ok(acceptor(config))
}

/// An acceptor for sandboxes, with a leaf of the authority for each served name.
pub fn of_authority(authority: Arc<Authority>) -> Result<TlsAcceptor, rustls::Error> {
    Ok(acceptor(builder()?.with_no_client_auth().with_cert_resolver(Arc::new(Leaves(authority)))))
}

fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, rustls::Error> {
    // Named here, so that no other crate's choice of a process-wide provider matters.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

fn acceptor(mut config: ServerConfig) -> TlsAcceptor {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[derive(Debug)]
struct Leaves(Arc<Authority>);

impl ResolvesServerCert for Leaves {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        if !names::is_served(&name) {
            return None;
        }
        self.0.leaf(&name).inspect_err(|error| tracing::error!(%error, name, "no certificate")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let made = rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap();
        std::fs::write(path("cert"), made.cert.pem()).unwrap();
        std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("other"), other.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("empty"), "").unwrap();
        let load = |certificate: &str, key: &str| load(&path(certificate), &path(key)).err().map(|e| e.to_string());
        assert_eq!(load("cert", "key"), None);
        for (certificate, key, words) in [
            ("missing", "key", "missing cannot be read"),
            ("cert", "missing", "missing cannot be read"),
            ("empty", "key", "holds no certificate"),
            ("cert", "empty", "holds no private key"),
            ("cert", "other", "cannot be used together"),
        ] {
            let error = load(certificate, key).unwrap();
            assert!(error.contains(words), "{error}");
        }
    }
}
