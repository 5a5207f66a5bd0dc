//! The bundle of trusted certificates in the form that Java reads (JKS, version 2). Pure.
//!
//! Source: the format as `sun.security.provider.JavaKeyStore` of OpenJDK reads it. Java takes such a file for every type of
//! key store unless its `keystore.type.compat` was turned off.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The password that everybody has for a store of certificates. It protects nothing, as these are public; a reader that
/// has it checks the digest with it.
const PASSWORD: &str = "changeit";
const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
const SALT: &[u8] = b"Mighty Aphrodite";

/// The certificates of a PEM bundle as a trust store; what is no certificate is left out. The same for the same bundle.
pub fn java_trust_store(bundle: &str) -> Vec<u8> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(bundle.as_bytes()).filter_map(Result::ok).collect();
    let mut store = Vec::with_capacity(bundle.len());
    put_u32(MAGIC, &mut store);
    put_u32(VERSION, &mut store);
    put_u32(u32::try_from(certificates.len()).unwrap_or(u32::MAX), &mut store);
    for (index, certificate) in certificates.iter().enumerate() {
        put_u32(TRUSTED_CERTIFICATE, &mut store);
        put_text(&format!("certificate-{index}"), &mut store);
        // When it was added: nobody looks at it.
        store.extend_from_slice(&[0; 8]);
        put_text("X.509", &mut store);
        put_u32(u32::try_from(certificate.len()).unwrap_or(u32::MAX), &mut store);
        store.extend_from_slice(certificate);
    }
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    PASSWORD.encode_utf16().for_each(|unit| digest.update(&unit.to_be_bytes()));
    digest.update(SALT);
    digest.update(&store);
    store.extend_from_slice(digest.finish().as_ref());
    store
}

fn put_u32(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// A short ASCII text.
fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::system_roots;

    #[test]
    fn the_form_is_as_java_has_it() {
        let pem = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\nwords\n";
        let store = java_trust_store(pem);
        let expected = b"\xfe\xed\xfe\xed\0\0\0\x02\0\0\0\x01\0\0\0\x02\0\x0dcertificate-0\0\0\0\0\0\0\0\0\0\x05X.509\0\0\0\x03\x01\x02\x03";
        assert_eq!(&store[..store.len() - 20], expected);
        assert_eq!(java_trust_store(pem), store);
    }

    /// Java's own tool reads it and checks the digest, where the machine has one.
    #[test]
    fn java_reads_it() {
        let Ok(found) = std::process::Command::new("keytool").arg("-help").output() else { return };
        assert!(found.status.success() || !found.stderr.is_empty());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trust.jks");
        let roots = system_roots();
        let count = roots.matches("BEGIN CERTIFICATE").count();
        std::fs::write(&file, java_trust_store(&roots)).unwrap();
        let list = std::process::Command::new("keytool")
            .args(["-list", "-storepass", PASSWORD, "-keystore"])
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&list.stdout).into_owned();
        assert_eq!(text.matches("trustedCertEntry").count(), count, "{text}");
        assert!(count > 0);
    }
}
