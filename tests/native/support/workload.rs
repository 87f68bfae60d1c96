//! Random writers: several in parallel, on several tables, with every kind of statement that makes
//! changes.
//!
//! A seed determines what each writer does; how they interleave is up to the server. If writers
//! conflict, a transaction fails and is rolled back, which is part of the test.

use std::collections::VecDeque;
use std::fmt::Write as _;

use pg_change_feed::postgres::Connection;
use tokio::net::TcpStream;

use super::feed::TestFeed;
use super::random::Random;
use super::replay::Identity;
use super::server::{connect, copy_in};

/// The tables that are written, and how their rows are identified.
pub const TABLES: [(&str, Identity); 4] = [
    ("accounts", Identity::Id),
    ("documents", Identity::Id),
    ("events", Identity::Row),
    ("keyed", Identity::Id),
];

/// Creates them. Bodies of documents are stored out of line and uncompressed, so that an update of
/// another column leaves them unchanged in the WAL.
pub const SCHEMA: &str = "\
CREATE SEQUENCE ids; \
CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance int, tags text[], meta jsonb); \
CREATE TABLE documents (id bigint PRIMARY KEY, title text, body text); \
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL; \
CREATE TABLE events (kind text, payload jsonb, body text); \
ALTER TABLE events ALTER COLUMN body SET STORAGE EXTERNAL; \
ALTER TABLE events REPLICA IDENTITY FULL; \
CREATE TABLE keyed (id bigint PRIMARY KEY, note text)";

/// The maximum number of transactions that one writer leaves prepared. Like any open transaction,
/// they hold back the position where decoding begins.
const MAX_PREPARED: usize = 1;

/// What writers have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Transactions that were run to their end: committed, rolled back or prepared.
    pub transactions: u64,
    /// Transactions that failed, mostly by waiting for each other.
    pub failed: u64,
}

/// One writer.
pub struct Writer {
    name: u64,
    random: Random,
    client: tokio_postgres::Client,
    copier: Connection<TcpStream>,
    database: String,
    copied: u64,
    prepared: VecDeque<String>,
    next_prepared: u64,
    written: Written,
}

impl Writer {
    /// Connects writer `name`.
    pub async fn new(feed: &TestFeed, seed: u64, name: u64) -> Self {
        let client = feed.client().await;
        // Writers often wait for each other, and a prepared transaction holds its locks.
        let settings = "SET deadlock_timeout = '10ms'; SET lock_timeout = '100ms'";
        client.batch_execute(settings).await.unwrap();
        Self {
            name,
            random: Random::new(seed.wrapping_add(name.wrapping_mul(0x5851_F42D_4C95_7F2D))),
            client,
            copier: copier(feed).await,
            database: feed.url().login.database.clone(),
            copied: 0,
            prepared: VecDeque::new(),
            next_prepared: 0,
            written: Written::default(),
        }
    }

    /// Runs at least `transactions` transactions, and leaves none prepared.
    pub async fn write(mut self, feed: &TestFeed, transactions: u64) -> Written {
        while self.written.transactions < transactions {
            if self.random.one_in(40) {
                self.copy(feed).await;
            } else if self.random.one_in(12) {
                self.prepare_or_finish().await;
            } else if self.random.one_in(100) {
                // Writes a snapshot of the running transactions to the WAL, from which decoding can
                // begin. Without one each peek decodes again what was read long ago.
                self.client.batch_execute("CHECKPOINT").await.unwrap();
            } else {
                self.several().await;
            }
        }
        while let Some(prepared) = self.prepared.pop_front() {
            self.finish_prepared(&prepared).await;
        }
        self.written
    }

    /// Several transactions in one round trip.
    async fn several(&mut self) {
        let count = 1 + self.random.below(8);
        let sql: Vec<String> = (0..count).map(|_| self.transaction()).collect();
        self.run(&sql.concat(), count).await;
    }

    /// Runs `sql`. After a failure the rest of it has not been run. Returns whether all was run.
    async fn run(&mut self, sql: &str, transactions: u64) -> bool {
        let done = self.client.batch_execute(sql).await;
        if let Err(error) = &done {
            let code = error.code().unwrap_or_else(|| panic!("{error}")).code();
            // Deadlock, lock timeout, or a column that another writer has just altered.
            let expected = matches!(code, "40P01" | "55P03" | "42703" | "42701");
            assert!(expected, "{error}: {error:?} in {sql}");
            self.client.batch_execute("ROLLBACK").await.unwrap();
            self.written.failed += 1;
        } else {
            self.written.transactions += transactions;
        }
        done.is_ok()
    }

    fn transaction(&mut self) -> String {
        let mut sql = String::from("BEGIN;");
        for _ in 0..=self.random.below(4) {
            if self.random.one_in(5) {
                let inner = self.statement();
                let end = self.random.pick(&["ROLLBACK TO", "RELEASE"]);
                write!(sql, "SAVEPOINT s;{inner}{end} s;").unwrap();
            } else {
                sql.push_str(&self.statement());
            }
        }
        let end = if self.random.one_in(12) {
            "ROLLBACK;"
        } else {
            "COMMIT;"
        };
        sql + end
    }

    fn statement(&mut self) -> String {
        if self.random.one_in(600) {
            return self.definition();
        }
        if self.random.one_in(600) {
            let tables = self
                .random
                .pick(&["accounts", "documents, keyed", "events"]);
            return format!("TRUNCATE {tables};");
        }
        let number = self.random.below(1_000_000);
        let (few, part) = (1 + number % 4, number % 53);
        match self.random.below(12) {
            0 | 1 => format!(
                "INSERT INTO accounts (id, owner, balance, tags, meta) SELECT nextval('ids'), \
                 'o{number}', {number}, ARRAY['a', NULL, '{number}'], '{{\"n\": [{number}, null]}}' \
                 FROM generate_series(1, {few});"
            ),
            2 => format!("UPDATE accounts SET balance = {number} WHERE id % 53 = {part};"),
            3 => format!("DELETE FROM accounts WHERE id % 53 = {part};"),
            4 => format!(
                "INSERT INTO documents SELECT nextval('ids'), 't{number}', \
                 repeat(md5('{number}'), 70) FROM generate_series(1, {few});"
            ),
            5 => format!("UPDATE documents SET title = 't{number}' WHERE id % 53 = {part};"),
            6 => format!(
                "UPDATE documents SET body = repeat(md5('{number}'), 71) WHERE id % 53 = {part};"
            ),
            7 => format!("DELETE FROM documents WHERE id % 53 = {part};"),
            8 => format!(
                "INSERT INTO events SELECT 'k{part}', '{{\"n\": {number}}}', \
                 CASE WHEN {number} % 3 = 0 THEN repeat(md5('{number}'), 70) END \
                 FROM generate_series(1, {few});"
            ),
            9 => format!("UPDATE events SET payload = '{number}' WHERE kind = 'k{part}';"),
            10 => format!("DELETE FROM events WHERE kind = 'k{part}';"),
            _ => format!(
                "INSERT INTO keyed SELECT nextval('ids'), 'n{number}'; \
                 UPDATE keyed SET id = nextval('ids') WHERE id % 53 = {part}; \
                 DELETE FROM keyed WHERE id % 53 = {};",
                number % 47
            ),
        }
    }

    /// Writes every row again, since a feed of changes does not report definitions.
    fn definition(&mut self) -> String {
        let number = self.random.below(3);
        let alter = match self.random.below(4) {
            0 | 1 => format!("ADD COLUMN IF NOT EXISTS extra_{number} text DEFAULT 'new'"),
            2 => format!("DROP COLUMN IF EXISTS extra_{number}"),
            _ => format!(
                "RENAME COLUMN extra_{number} TO extra_{}",
                self.random.below(3)
            ),
        };
        format!("ALTER TABLE accounts {alter}; UPDATE accounts SET balance = balance;")
    }

    /// Copies rows, which all have the same LSN.
    async fn copy(&mut self, feed: &TestFeed) {
        let mut rows = String::new();
        for _ in 0..=self.random.below(50) {
            self.copied += 1;
            let id = (self.name + 1) * 1_000_000_000 + self.copied;
            writeln!(rows, "{id}\tcopied by {}", self.name).unwrap();
        }
        let copied = copy_in(&mut self.copier, "COPY keyed FROM STDIN", rows.as_bytes());
        match copied.await {
            Ok(_) => self.written.transactions += 1,
            Err(error) => {
                let state = error.sqlstate().unwrap_or_else(|| panic!("{error}"));
                assert!(matches!(state.as_str(), "40P01" | "55P03"), "{error}");
                self.written.failed += 1;
                self.copier = copier(feed).await;
            }
        }
    }

    /// Prepares a transaction, or ends one that was prepared earlier. It only inserts, so it locks
    /// no row that others need.
    async fn prepare_or_finish(&mut self) {
        if self.prepared.len() == MAX_PREPARED || self.random.one_in(2) {
            if let Some(prepared) = self.prepared.pop_front() {
                self.finish_prepared(&prepared).await;
            }
            return;
        }
        self.next_prepared += 1;
        // Prepared transactions are named within the cluster.
        let prepared = format!("{} {} {}", self.database, self.name, self.next_prepared);
        let few = 1 + self.random.below(3);
        let sql = format!(
            "BEGIN; INSERT INTO keyed SELECT nextval('ids'), '{prepared}' \
             FROM generate_series(1, {few}); PREPARE TRANSACTION '{prepared}';"
        );
        if self.run(&sql, 1).await {
            self.prepared.push_back(prepared);
        }
    }

    async fn finish_prepared(&mut self, prepared: &str) {
        let end = if self.random.one_in(4) {
            "ROLLBACK"
        } else {
            "COMMIT"
        };
        let sql = format!("{end} PREPARED '{prepared}'");
        assert!(self.run(&sql, 0).await);
    }
}

async fn copier(feed: &TestFeed) -> Connection<TcpStream> {
    let mut copier = connect(feed.url()).await;
    let settings = "SET lock_timeout = '100ms'";
    copier.execute(settings, &[]).await.unwrap();
    copier
}
