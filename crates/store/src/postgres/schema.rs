//! The tables of a store in PostgreSQL, and how they come to be.
//!
//! | table     | columns                                     | holds                                                        |
//! |-----------|---------------------------------------------|--------------------------------------------------------------|
//! | `kv`      | `k`, `v`, `ver`                             | the entries                                                  |
//! | `meta`    | `one`, `format`, `version`                  | one row: the format, and the last commit; every writer locks it |
//! | `batches` | `first`, `last`, `node`, `at`, `keys`, `versions`, `present` | what was written by the batches of the last minute |
//!
//! Those of blobs (`blobs`, `chunks`, `uploads`) are described where they are used: `crate::blobs::postgres`.
//!
//! All lie in a schema of their own, so that a database may hold several stores and other things.
//!
//! Invariants
//!   1. Tables are made and changed under an advisory lock: of nodes that start together one does it.
//!   2. A store of a newer format is never opened.

use tokio_postgres::Client;

use super::session::{Fault, fault};

/// The newest format that this code knows. Changes with the meaning of anything in the tables.
const FORMAT: i32 = 1;
/// Taken while tables are made ("dunlin", store).
const LOCK: i64 = 0x6475_6e6c_696e_0001;

/// Names of a schema: they are written into statements as they are.
pub(super) fn check_name(name: &str) -> Result<(), Fault> {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if begins && name.len() <= 63 && bytes.all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
        return Ok(());
    }
    Err(Fault::Broken(format!(
        "{name:?} cannot name a schema: use lower-case letters, digits and _, beginning with a letter"
    )))
}

/// Makes the tables where there are none.
pub(super) async fn prepare(client: &Client, schema: &str) -> Result<(), Fault> {
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(fault)?;
    let prepared = create(client, schema).await;
    client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await.map_err(fault)?;
    prepared
}

async fn create(client: &Client, schema: &str) -> Result<(), Fault> {
    // Values are kept as they are: what is large is often compressed already, and commits wait for this.
    client
        .batch_execute(&format!(
            "BEGIN;
             CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE IF NOT EXISTS {schema}.kv (k bytea PRIMARY KEY, v bytea NOT NULL, ver bigint NOT NULL)
                 WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
             ALTER TABLE {schema}.kv ALTER v SET STORAGE EXTERNAL;
             CREATE TABLE IF NOT EXISTS {schema}.meta (one boolean PRIMARY KEY DEFAULT true CHECK (one),
                 format integer NOT NULL, version bigint NOT NULL) WITH (fillfactor = 10);
             INSERT INTO {schema}.meta (format, version) VALUES ({FORMAT}, 0) ON CONFLICT DO NOTHING;
             CREATE TABLE IF NOT EXISTS {schema}.batches (first bigint PRIMARY KEY, last bigint NOT NULL, node text NOT NULL,
                 at timestamptz NOT NULL DEFAULT clock_timestamp(), keys bytea[] NOT NULL, versions bigint[] NOT NULL,
                 present boolean[] NOT NULL);
             CREATE TABLE IF NOT EXISTS {schema}.blobs (name text COLLATE \"C\" PRIMARY KEY, id text NOT NULL,
                 trailer bytea NOT NULL);
             CREATE TABLE IF NOT EXISTS {schema}.chunks (id text COLLATE \"C\", number bigint, content bytea NOT NULL,
                 PRIMARY KEY (id, number));
             ALTER TABLE {schema}.chunks ALTER content SET STORAGE EXTERNAL;
             CREATE TABLE IF NOT EXISTS {schema}.uploads (id text COLLATE \"C\" PRIMARY KEY,
                 at timestamptz NOT NULL DEFAULT now());
             COMMIT"
        ))
        .await
        .map_err(fault)?;
    let row = client.query_one(&format!("SELECT format FROM {schema}.meta"), &[]).await.map_err(fault)?;
    let found: i32 = row.get(0);
    if found > FORMAT {
        let words =
            format!("the store has format {found}, but this release knows formats up to {FORMAT}: use a newer release");
        return Err(Fault::Broken(words));
    }
    Ok(())
}
