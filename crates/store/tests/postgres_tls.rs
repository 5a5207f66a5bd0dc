//! The way to PostgreSQL under TLS, with a real server and an authority that the test makes.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use base::SystemRandom;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use store::{PostgresConfig, Store, Txn, postgres};

mod support;

const PATIENCE: Duration = Duration::from_secs(10);

/// A server that takes TLS alone, with a certificate for `db.test`, and passwords by SCRAM.
struct Secure {
    server: support::Server,
    port: u16,
    folder: tempfile::TempDir,
}

impl Secure {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = authority.self_signed(&authority_key).unwrap();
        let leaf = CertificateParams::new(vec!["db.test".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::from_params(&authority, &authority_key)).unwrap();
        fs::write(folder.path().join("root.pem"), root.pem()).unwrap();
        let other = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("other.pem"), other.pem()).unwrap();
        let port = support::free_port();
        let settings =
            "listen_addresses = '127.0.0.1'\nssl = on\nssl_cert_file = 'leaf.pem'\nssl_key_file = 'leaf.key'";
        let server = support::Server::start_with(settings, port, |data: &Path| {
            fs::write(data.join("leaf.pem"), leaf.pem()).unwrap();
            fs::write(data.join("leaf.key"), key.serialize_pem()).unwrap();
            fs::set_permissions(data.join("leaf.key"), fs::Permissions::from_mode(0o600)).unwrap();
            let rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
            fs::write(data.join("pg_hba.conf"), rules).unwrap();
        });
        Self { server, port, folder }
    }

    /// Opens a store; the client is told that `host` is the server.
    async fn open(&self, host: &str, settings: &str) -> Result<postgres::Postgres, String> {
        let root = self.folder.path().join("root.pem");
        let other = self.folder.path().join("other.pem");
        let settings = settings.replace("ROOT", root.to_str().unwrap()).replace("OTHER", other.to_str().unwrap());
        let url = format!(
            "host={host} hostaddr=127.0.0.1 port={} user=dunlin password=hush dbname=postgres {settings}",
            self.port
        );
        let opened = postgres::open(PostgresConfig::new(url, SystemRandom::shared())).await;
        opened.map_err(|error| error.to_string())
    }
}

/// Waits until the store has its connections, and all of them are encrypted. The server counts one that is just coming, or
/// going, for a moment without.
async fn wait_until_safe(admin: &tokio_postgres::Client, settings: &str) {
    let ours = "SELECT count(*) FILTER (WHERE NOT ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                WHERE application_name = 'dunlin'";
    let begin = Instant::now();
    loop {
        let row = admin.query_one(ours, &[]).await.unwrap();
        let (open, all) = (row.get::<_, i64>(0), row.get::<_, i64>(1));
        if open == 0 && all >= 2 {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{settings}: {open} of {all} connections are not encrypted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_as_safe_as_its_address_says() {
    let secure = Secure::start();
    let (admin, connection) = tokio_postgres::connect(&secure.server.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    admin.batch_execute("ALTER USER dunlin PASSWORD 'hush'").await.unwrap();
    for (host, settings) in [
        ("db.test", "sslmode=verify-full sslrootcert=ROOT"),
        ("elsewhere.test", "sslmode=verify-ca sslrootcert=ROOT"),
        ("elsewhere.test", "sslmode=require sslrootcert=ROOT"),
        ("elsewhere.test", "sslmode=require"),
        ("elsewhere.test", "sslmode=require channel_binding=require"),
        ("db.test", ""),
    ] {
        let store = secure.open(host, settings).await.unwrap_or_else(|error| panic!("{host} {settings}: {error}"));
        store.commit(Txn::new().put("k", "v")).await.unwrap();
        wait_until_safe(&admin, settings).await;
        store.close().await.unwrap();
    }
    for (host, settings, why) in [
        ("elsewhere.test", "sslmode=verify-full sslrootcert=ROOT", "not valid for name"),
        ("db.test", "sslmode=verify-full sslrootcert=OTHER", "invalid peer certificate"),
        ("db.test", "sslmode=require sslrootcert=OTHER", "invalid peer certificate"),
        ("db.test", "sslmode=verify-full", "sslrootcert"),
        ("db.test", "sslmode=verify-full sslrootcert=/nowhere.pem", "/nowhere.pem"),
        ("db.test", "sslmode=disable", "pg_hba.conf"),
        ("db.test", "sslmode=require password=wrong", "password authentication failed"),
    ] {
        let refused = secure.open(host, settings).await.err().unwrap_or_default();
        assert!(refused.contains(why), "{host} {settings}: {refused}");
        assert!(!refused.contains("hush") && !refused.contains("wrong"), "the password is told: {refused}");
    }
}
