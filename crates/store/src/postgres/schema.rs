//! The tables of a store in PostgreSQL, and how they come to be.
//!
//! | table     | columns                                     | holds                                                        |
//! |-----------|---------------------------------------------|--------------------------------------------------------------|
//! | `kv`      | `k`, `v`, `ver`                             | the entries                                                  |
//! | `meta`    | `one`, `format`, `version`                  | one row: the format, and the last commit                     |
//! | `batches` | `first`, `last`, `node`, `number`, `at`, `keys`, `versions`, `present` | what was written by the batches of the last minute |
//! | `fences`  | `node`, `number`, `at`                      | up to which number batches of a node are not written any more |
//!
//! Every writer holds one lock of the server from before it looks until its transaction ends (`lock_of`). The function
//! `merge` is the quick way of a batch (`merge`): it compares what was supposed, writes, and tells what others wrote.
//!
//! Those of blobs (`blobs`, `chunks`, `uploads`) are described where they are used: `crate::blobs::postgres`.
//!
//! All lie in a schema of their own, so that a database may hold several stores and other things.
//!
//! Invariants
//!   1. Tables are made and changed under an advisory lock: of nodes that start together one does it.
//!   2. A table that is there is not changed: the statement would wait for nodes that use it, and they for what it has.
//!   3. A store of a newer format is never opened.

use tokio_postgres::Client;

use super::session::{Fault, fault};

/// The newest format that this code knows. Changes with the meaning of anything in the tables.
const FORMAT: i32 = 1;
/// All tables, and how each is made; `{}` stands for the schema. Values are kept as they are: what is large is often compressed
/// already, and commits wait for this.
const TABLES: &[(&str, &str)] = &[
    (
        "kv",
        "CREATE TABLE {}.kv (k bytea PRIMARY KEY, v bytea NOT NULL, ver bigint NOT NULL)
             WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);
         ALTER TABLE {}.kv ALTER v SET STORAGE EXTERNAL;",
    ),
    (
        "meta",
        "CREATE TABLE {}.meta (one boolean PRIMARY KEY DEFAULT true CHECK (one),
             format integer NOT NULL, version bigint NOT NULL) WITH (fillfactor = 10);",
    ),
    (
        "batches",
        "CREATE TABLE {}.batches (first bigint PRIMARY KEY, last bigint NOT NULL, node text NOT NULL,
             number bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(), keys bytea[] NOT NULL,
             versions bigint[] NOT NULL, present boolean[] NOT NULL);
         ALTER TABLE {}.batches ALTER keys SET STORAGE EXTERNAL, ALTER versions SET STORAGE EXTERNAL,
             ALTER present SET STORAGE EXTERNAL;",
    ),
    (
        "fences",
        "CREATE TABLE {}.fences (node text PRIMARY KEY, number bigint NOT NULL,
             at timestamptz NOT NULL DEFAULT clock_timestamp());",
    ),
    (
        "blobs",
        "CREATE TABLE {}.blobs (name text COLLATE \"C\" PRIMARY KEY, id text NOT NULL, trailer bytea NOT NULL);",
    ),
    (
        "chunks",
        "CREATE TABLE {}.chunks (id text COLLATE \"C\", number bigint, content bytea NOT NULL, PRIMARY KEY (id, number));
         ALTER TABLE {}.chunks ALTER content SET STORAGE EXTERNAL;",
    ),
    (
        "uploads",
        "CREATE TABLE {}.uploads (id text COLLATE \"C\" PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());",
    ),
];
/// Taken while tables are made ("dunlin", store).
const LOCK: i64 = 0x6475_6e6c_696e_0001;

/// The number of the lock that every writer of a schema takes.
pub(super) fn lock_of(schema: &str) -> i64 {
    let digest = blake3::derive_key("dunlin 2026-11 lock of a PostgreSQL store", schema.as_bytes());
    i64::from_le_bytes(*digest.first_chunk().unwrap_or(&[0; 8]))
}

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

/// Makes what is missing. The lock goes with the session, if this fails.
pub(super) async fn prepare(client: &Client, schema: &str) -> Result<(), Fault> {
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(fault)?;
    let missing = missing(client, schema).await?;
    if !missing.is_empty() {
        let all = format!("BEGIN; CREATE SCHEMA IF NOT EXISTS {schema}; {missing} COMMIT");
        client.batch_execute(&all).await.map_err(fault)?;
    }
    check_format(client, schema).await?;
    client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await.map_err(fault)?;
    Ok(())
}

/// The statements that make the tables that are not there, the row of `meta` and the function.
async fn missing(client: &Client, schema: &str) -> Result<String, Fault> {
    let names: Vec<String> = TABLES.iter().map(|(table, _)| format!("{schema}.{table}")).collect();
    let merge_1 = format!("{schema}.merge_1");
    let sql = "SELECT to_regproc($2::text) IS NULL, ARRAY(SELECT to_regclass(name) IS NULL
                   FROM unnest($1::text[]) WITH ORDINALITY AS t(name, number) ORDER BY number)";
    let row = client.query_one(sql, &[&names, &merge_1]).await.map_err(fault)?;
    let (no_function, no_table): (bool, Vec<bool>) = (row.get(0), row.get(1));
    let mut statements = String::new();
    for ((table, made), _) in TABLES.iter().zip(no_table).filter(|(_, is_missing)| *is_missing) {
        statements.push_str(&made.replace("{}", schema));
        if *table == "meta" {
            statements.push_str(&format!("INSERT INTO {schema}.meta (format, version) VALUES ({FORMAT}, 0);"));
        }
    }
    if no_function {
        statements.push_str(&merge(schema));
    }
    Ok(statements)
}

async fn check_format(client: &Client, schema: &str) -> Result<(), Fault> {
    let row = client.query_one(&format!("SELECT format FROM {schema}.meta"), &[]).await.map_err(fault)?;
    let found: i32 = row.get(0);
    if found > FORMAT {
        let words =
            format!("the store has format {found}, but this release knows formats up to {FORMAT}: use a newer release");
        return Err(Fault::Broken(words));
    }
    Ok(())
}

/// The function that commits a batch in one statement. One that does otherwise gets another number, since nodes of an
/// earlier release may still call this one.
///
/// It answers with the batches of others that the node has not seen, and last with a row without keys: the commit that
/// the batch follows, the last one now (the same if nothing was written), and in place of versions the time.
/// Keys are compared by `held`: a version, 0 for no entry, -1 for any.
fn merge(schema: &str) -> String {
    let lock = lock_of(schema);
    format!(
        "CREATE OR REPLACE FUNCTION {schema}.merge_1(in_seen bigint, in_node text, in_number bigint, in_count bigint,
             in_keys bytea[], in_held bigint[], in_starts bytea[], in_ends bytea[], in_since bigint[],
             in_put bytea[], in_values bytea[], in_versions bigint[], in_places integer[], in_gone bytea[],
             in_noted bytea[], in_noted_versions bigint[], in_noted_places integer[], in_present boolean[])
         RETURNS TABLE (out_first bigint, out_last bigint, out_keys bytea[], out_versions bigint[], out_present boolean[])
         LANGUAGE plpgsql AS $merge$
         DECLARE
             base bigint;
             now_ms bigint;
             holds boolean;
         BEGIN
             PERFORM pg_advisory_xact_lock({lock});
             -- From here on each statement sees what all others have committed, and none commits before this one.
             SELECT m.version, (extract(epoch FROM clock_timestamp()) * 1000)::bigint INTO STRICT base, now_ms
                 FROM {schema}.meta AS m WHERE m.one;
             RETURN QUERY SELECT b.first, b.last, b.keys, b.versions, b.present FROM {schema}.batches AS b
                 WHERE b.first > in_seen ORDER BY b.first;
             holds := NOT EXISTS (
                 SELECT FROM unnest(in_keys, in_held) AS e(k, ver) LEFT JOIN {schema}.kv AS t ON t.k = e.k
                 WHERE CASE e.ver WHEN -1 THEN t.k IS NULL ELSE coalesce(t.ver, 0) <> e.ver END);
             IF holds AND cardinality(in_starts) > 0 THEN
                 -- What was written so long ago that its row is gone is not known to have left the ranges alone.
                 holds := (base = in_seen OR EXISTS (SELECT FROM {schema}.batches AS b WHERE b.first = in_seen + 1))
                     AND NOT EXISTS (
                         SELECT FROM {schema}.batches AS b, unnest(b.keys, b.versions) AS w(k, ver),
                             unnest(in_starts, in_ends, in_since) AS r(s, e, ver)
                         WHERE b.first > in_seen AND w.ver > r.ver AND w.k >= r.s AND w.k < r.e);
             END IF;
             IF holds THEN
                 holds := NOT EXISTS (SELECT FROM {schema}.fences AS f WHERE f.node = in_node AND f.number >= in_number);
             END IF;
             IF holds THEN
                 INSERT INTO {schema}.kv AS t (k, v, ver)
                     SELECT CASE p.place WHEN 0 THEN p.k ELSE overlay(p.k PLACING int8send(base + p.ver) FROM p.place FOR 8) END,
                         p.v, base + p.ver
                     FROM unnest(in_put, in_values, in_versions, in_places) AS p(k, v, ver, place)
                     ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v, ver = EXCLUDED.ver;
                 IF cardinality(in_gone) > 0 THEN
                     DELETE FROM {schema}.kv AS t WHERE t.k = ANY (in_gone);
                 END IF;
                 UPDATE {schema}.meta AS m SET version = base + in_count WHERE m.one;
                 INSERT INTO {schema}.batches (first, last, node, number, keys, versions, present)
                     SELECT base + 1, base + in_count, in_node, in_number,
                         coalesce(array_agg(CASE n.place WHEN 0 THEN n.k
                             ELSE overlay(n.k PLACING int8send(base + n.ver) FROM n.place FOR 8) END ORDER BY n.at), '{{}}'),
                         coalesce(array_agg(base + n.ver ORDER BY n.at), '{{}}'), in_present
                     FROM unnest(in_noted, in_noted_versions, in_noted_places) WITH ORDINALITY AS n(k, ver, place, at);
             END IF;
             RETURN QUERY SELECT base, CASE WHEN holds THEN base + in_count ELSE base END, NULL::bytea[], ARRAY[now_ms], NULL::boolean[];
         END
         $merge$;"
    )
}
