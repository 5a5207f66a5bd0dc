//! The certificate authority of one data directory, for names that the platform answers inside sandboxes.
//!
//! The key lies in `authority.key` (0600), the certificate in `authority.pem`. Leaves exist in memory only: one key for
//! all of them, one certificate per name, valid for a day.
//!
//! Invariants
//!   1. The certificate can vouch for `CONSTRAINED_TO` and nothing else, not even if its key were stolen; addresses are
//!      excluded.
//!   2. It is never installed on the host: guests get it in a bundle that is mounted for them.
//!   3. A key that does not fit its certificate is an error, never silently replaced: guests may hold the old one.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::Clock;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// Domains that a certificate of this authority can be for.
pub const CONSTRAINED_TO: &[&str] = &["amazonaws.com", "amazonaws.com.cn", "api.aws", "on.aws", "localhost"];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
const LEAF_LIFE: Duration = DAY;
/// Most leaves that are kept; bucket names make their number unbounded.
const LEAVES_MAX: usize = 1_024;

/// Seconds since the epoch, in a type of a crate that only `rcgen` names.
macro_rules! at {
    ($seconds:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($seconds)
    };
}

/// The authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{0} is damaged or does not fit its key; remove authority.key and authority.pem to make a new authority")]
    Damaged(PathBuf),
    /// A certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Making(String),
}

struct Leaf {
    key: Arc<CertifiedKey>,
    renew_at_s: u64,
}

/// A loaded authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
    leaf_key: KeyPair,
    leaves: Mutex<HashMap<String, Leaf>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority of a folder; made if the folder has none.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let (key_path, pem_path) = (folder.join("authority.key"), folder.join("authority.pem"));
        let key = match read(&key_path)? {
            Some(text) => KeyPair::from_pem(&text).map_err(|_| Error::Damaged(key_path.clone()))?,
            None => {
                let key = KeyPair::generate().map_err(|error| making(&error))?;
                write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
                key
            }
        };
        let params = authority_params(&key, clock.now_ms() / 1_000);
        let pem = match read(&pem_path)? {
            Some(pem) => pem,
            None => {
                let pem = params.self_signed(&key).map_err(|error| making(&error))?.pem();
                write(&pem_path, pem.as_bytes(), 0o644)?;
                pem
            }
        };
        let der = rustls_pemfile::certs(&mut pem.as_bytes()).next().and_then(Result::ok);
        let der = der.ok_or_else(|| Error::Damaged(pem_path.clone()))?;
        let public = key.public_key_raw();
        if !der.windows(public.len()).any(|window| window == public) {
            return Err(Error::Damaged(pem_path));
        }
        let leaf_key = KeyPair::generate().map_err(|error| making(&error))?;
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, pem, der, leaf_key, leaves: Mutex::new(HashMap::new()), clock })
    }

    /// The authority's certificate.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// What a guest trusts: the system's roots and this authority.
    pub fn bundle(&self, system_roots: &str) -> String {
        let mut bundle = String::with_capacity(system_roots.len() + self.pem.len() + 1);
        bundle.push_str(system_roots);
        if !system_roots.is_empty() && !system_roots.ends_with('\n') {
            bundle.push('\n');
        }
        bundle.push_str(&self.pem);
        bundle
    }

    /// The key and certificate for a name, made when they are first asked for.
    pub fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, Error> {
        let now_s = self.clock.now_ms() / 1_000;
        let mut leaves = self.leaves.lock();
        if let Some(leaf) = leaves.get(name).filter(|leaf| now_s < leaf.renew_at_s) {
            return Ok(leaf.key.clone());
        }
        if leaves.len() >= LEAVES_MAX {
            leaves.clear();
        }
        let key = Arc::new(self.make_leaf(name, now_s)?);
        let renew_at_s = now_s + LEAF_LIFE.as_secs() / 2;
        leaves.insert(name.to_owned(), Leaf { key: key.clone(), renew_at_s });
        Ok(key)
    }

    fn make_leaf(&self, name: &str, now_s: u64) -> Result<CertifiedKey, Error> {
        let mut params = CertificateParams::default();
        let san = name.to_owned().try_into().map_err(|error| making(&error))?;
        params.subject_alt_names = vec![SanType::DnsName(san)];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Dunlin");
        // An hour back: the clock of whoever verifies may be slow.
        params.not_before = at!(now_s.saturating_sub(3_600));
        params.not_after = at!(now_s + LEAF_LIFE.as_secs());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&self.leaf_key, &self.issuer).map_err(|error| making(&error))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| making(&error))?;
        Ok(CertifiedKey::new(vec![certificate.der().clone(), self.der.clone()], key))
    }
}

/// The system's roots, from where distributions keep them; empty where there are none.
pub fn system_roots() -> String {
    const PLACES: &[&str] = &[
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    PLACES.iter().find_map(|place| fs::read_to_string(place).ok()).unwrap_or_default()
}

fn authority_params(key: &KeyPair, now_s: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    // The name must follow from the key alone: issuing needs it again after a restart.
    let id: String = params.key_identifier(key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Dunlin authority {id}"));
    params.not_before = at!(now_s.saturating_sub(DAY.as_secs()));
    params.not_after = at!(now_s + AUTHORITY_LIFE.as_secs());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let names = CONSTRAINED_TO.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned()));
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: names.collect(),
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    params
}

fn making(error: &dyn std::fmt::Display) -> Error {
    Error::Making(error.to_string())
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::File { path: path.to_owned(), error }),
    }
}

/// Writes a file whole or not at all.
fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    let write = || {
        // What a crash left over may have other permissions.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        match path.parent() {
            Some(folder) => fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|error| Error::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::ManualClock;
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};

    const NOW_MS: u64 = 1_700_000_000_000;

    fn verify(authority: &Authority, name: &str, at_s: u64) -> bool {
        let leaf = authority.leaf(name).unwrap();
        let mut roots = RootCertStore::empty();
        for certificate in rustls_pemfile::certs(&mut authority.bundle("").as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(at_s));
        verifier.verify_server_cert(&leaf.cert[0], &leaf.cert[1..], &server, &[], now).is_ok()
    }

    #[test]
    fn leaves_are_trusted_for_served_names_only() {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at_ms(NOW_MS);
        let authority = Authority::open(folder.path(), clock.clone()).unwrap();
        let now_s = NOW_MS / 1_000;
        for name in ["dynamodb.us-east-1.amazonaws.com", "a.lambda-url.us-east-1.on.aws", "x.localhost"] {
            assert!(verify(&authority, name, now_s), "{name}");
            assert!(!verify(&authority, name, now_s + 2 * DAY.as_secs()), "{name}: too old");
        }
        for name in ["example.com", "amazonaws.com.evil.example", "127.0.0.1"] {
            assert!(!verify(&authority, name, now_s), "{name}");
        }
        let first = authority.leaf("sts.amazonaws.com").unwrap();
        assert!(Arc::ptr_eq(&first, &authority.leaf("sts.amazonaws.com").unwrap()));
        clock.advance(LEAF_LIFE);
        assert!(!Arc::ptr_eq(&first, &authority.leaf("sts.amazonaws.com").unwrap()));
        assert!(verify(&authority, "sts.amazonaws.com", now_s + LEAF_LIFE.as_secs()));
    }

    #[test]
    fn the_authority_survives_a_restart_and_keeps_its_key_secret() {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at_ms(NOW_MS);
        let first = Authority::open(folder.path(), clock.clone()).unwrap();
        let mode = fs::metadata(folder.path().join("authority.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        clock.advance(DAY);
        let second = Authority::open(folder.path(), clock).unwrap();
        assert_eq!(first.certificate_pem(), second.certificate_pem());
        assert!(verify(&second, "sts.amazonaws.com", NOW_MS / 1_000 + DAY.as_secs()));
        assert_eq!(second.bundle("roots"), format!("roots\n{}", second.certificate_pem()));
    }

    #[test]
    fn a_key_that_does_not_fit_is_an_error() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let clock = ManualClock::at_ms(NOW_MS);
        for folder in [&one, &two] {
            Authority::open(folder.path(), clock.clone()).unwrap();
        }
        fs::copy(one.path().join("authority.key"), two.path().join("authority.key")).unwrap();
        assert!(matches!(Authority::open(two.path(), clock.clone()), Err(Error::Damaged(_))));
        fs::write(one.path().join("authority.key"), "no key").unwrap();
        assert!(matches!(Authority::open(one.path(), clock), Err(Error::Damaged(_))));
    }
}
