//! A slot and a publication that belong to one test, read with the crate's own parts: what the poll
//! cycle does, without storing.

use pg_change_feed::changes::{
    Assembler, ChangeBatch, FeedTables, Limits, Outcome, SESSION_SETTINGS, TypeCatalog, TypeRow,
};
use pg_change_feed::lsn::Lsn;
use pg_change_feed::pgoutput::{decode, decode_prefix};
use pg_change_feed::postgres::{ArrayParam, Connection, Element, Param};
use tokio::net::TcpStream;

use super::server::{Database, Version};

const SLOT_OPTIONS: &str = "'proto_version', '1', 'publication_names', 'feed'";

/// A database with the publication `feed` and a slot. Dropping it removes both.
pub struct SlotReader {
    database: Database,
    slot: String,
    /// The session that reads the slot.
    pub connection: Connection<TcpStream>,
    /// The types that are known so far.
    pub types: TypeCatalog,
    /// How often types were looked up.
    pub lookups: usize,
    /// The maximum size of a change's JSON.
    pub limits: Limits,
    /// The maximum number of bytes that are read of a message.
    pub message_cap: usize,
}

/// A change, copied from its batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Captured {
    pub table: String,
    pub operation: &'static str,
    /// JSON.
    pub data: String,
    /// JSON.
    pub old: Option<String>,
    pub unchanged: Vec<String>,
    pub omitted: Vec<String>,
    pub as_text: Vec<String>,
    pub xid: u32,
    pub lsn: Lsn,
}

impl Captured {
    /// What happened, in one line: `update of orders: {"id":1} was {"id":2}`.
    pub fn story(&self) -> String {
        let Self {
            table,
            operation,
            data,
            ..
        } = self;
        let old = self.old.as_ref();
        let old = old.map_or_else(String::new, |old| format!(" was {old}"));
        format!("{operation} of {table}: {data}{old}")
    }
}

impl SlotReader {
    /// Creates a database, runs `setup` in it, and creates the publication `feed` and the slot.
    /// `published` is what follows the name in `CREATE PUBLICATION`, such as `FOR ALL TABLES`.
    pub async fn start(version: Version, setup: &[&str], published: &str) -> Self {
        let database = Database::create(version).await;
        let mut connection = database.connect().await;
        for sql in setup {
            connection.execute(sql, &[]).await.unwrap();
        }
        let publication = format!("CREATE PUBLICATION feed {published}");
        connection.execute(&publication, &[]).await.unwrap();
        // What the setup has set for the database or the role applies from the next session on.
        connection.close().await;
        let mut connection = database.connect().await;
        for (name, value) in SESSION_SETTINGS {
            let params = [Param::Text(name), Param::Text(value)];
            let sql = "SELECT set_config($1, $2, false)";
            connection.query(sql, &params).await.unwrap();
        }
        let slot = database.url().login.database;
        let sql = "SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput')";
        connection.query(sql, &[Param::Text(&slot)]).await.unwrap();
        Self {
            database,
            slot,
            connection,
            types: TypeCatalog::default(),
            lookups: 0,
            limits: Limits {
                max_row_bytes: 8 << 20,
            },
            message_cap: 8 << 20,
        }
    }

    /// Runs statements one by one.
    pub async fn run(&mut self, statements: &[&str]) {
        for sql in statements {
            let done = self.connection.execute(sql, &[]).await;
            done.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    /// Runs statements one by one, and returns what was committed.
    pub async fn capture(&mut self, statements: &[&str]) -> Vec<Captured> {
        self.run(statements).await;
        self.take().await
    }

    /// Another session in the same database.
    pub async fn connect(&self) -> Connection<TcpStream> {
        self.database.connect().await
    }

    /// Returns everything committed since the last call, and advances the slot past it.
    pub async fn take(&mut self) -> Vec<Captured> {
        let batch = self.take_batch().await;
        let captured = batch.changes().iter().map(|change| {
            let text = |json: &[u8]| String::from_utf8(json.to_vec()).unwrap();
            let names =
                |names: &[std::rc::Rc<str>]| names.iter().map(ToString::to_string).collect();
            Captured {
                table: change.relation.qualified().to_owned(),
                operation: change.operation.as_str(),
                data: text(batch.data(change)),
                old: batch.old(change).map(text),
                unchanged: names(&change.unchanged),
                omitted: names(&change.omitted),
                as_text: names(&change.as_text),
                xid: change.xid,
                lsn: change.lsn,
            }
        });
        captured.collect()
    }

    /// As [`Self::take`], but returns the batch itself.
    pub async fn take_batch(&mut self) -> ChangeBatch {
        let messages = self.peek().await;
        let mut assembler = Assembler::new(Lsn::INVALID, FeedTables::default(), self.limits);
        self.types.begin_peek();
        let mut batch = ChangeBatch::default();
        let mut end = Lsn::INVALID;
        for (data, full) in &messages {
            let message = if data.len() == *full {
                decode(data).unwrap()
            } else {
                decode_prefix(data, *full).unwrap()
            };
            loop {
                match assembler.accept(&message, &self.types, &mut batch).unwrap() {
                    Outcome::MissingTypes(oids) => self.learn(&oids).await,
                    Outcome::Committed(lsn) => break end = lsn,
                    Outcome::Nothing | Outcome::Changes(_) => break,
                }
            }
        }
        if end != Lsn::INVALID {
            let sql = "SELECT end_lsn FROM pg_replication_slot_advance($1, $2)";
            let params = [Param::Text(&self.slot), Param::Lsn(end)];
            self.connection.query(sql, &params).await.unwrap();
        }
        batch
    }

    /// The messages, cut at `message_cap`, with their full lengths.
    async fn peek(&mut self) -> Vec<(Vec<u8>, usize)> {
        let sql = format!(
            "SELECT substr(data, 1, $2), length(data)
            FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, {SLOT_OPTIONS})"
        );
        let cap = i32::try_from(self.message_cap).unwrap();
        let params = [Param::Text(&self.slot), Param::Int4(cap)];
        self.connection.queue(&sql, &params).unwrap();
        self.connection.send().await.unwrap();
        let mut messages = Vec::new();
        while let Some(row) = self.connection.next_row().await.unwrap() {
            let (data, full) = (row.get::<&[u8]>(0).unwrap(), row.get::<i32>(1).unwrap());
            messages.push((data.to_vec(), usize::try_from(full).unwrap()));
        }
        messages
    }

    async fn learn(&mut self, oids: &[u32]) {
        self.lookups += 1;
        let mut wanted = ArrayParam::new(Element::Int8);
        for &oid in oids {
            wanted.push_i64(oid.into());
        }
        let params = [Param::Array(&wanted)];
        let rows = self
            .connection
            .query(TypeCatalog::LOOKUP_SQL, &params)
            .await;
        let rows = rows.unwrap();
        let rows = rows.iter().map(|row| TypeRow {
            oid: row.get(0).unwrap(),
            kind: row.get(1).unwrap(),
            part: row.get(2).unwrap(),
            detail: row.get(3).unwrap(),
        });
        self.types.add(oids, rows);
    }
}
