//! Produces a stream with every kind of message on a real server, and reads and writes the fixtures.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use tokio_postgres::{Client, NoTls};

/// How pgoutput writes values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// By output functions, as the feed requests.
    Text,
    /// By send functions, with the option `binary`.
    Binary,
}

/// Several relations, every replica identity, types that are not built in, TOAST.
const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('calm', 'ärgerlich');
    CREATE TYPE point_of_interest AS (name text, mood mood);
    CREATE DOMAIN age AS int CHECK (VALUE >= 0);
    CREATE SCHEMA \"Sales\";
    CREATE TABLE keyed (
        id int PRIMARY KEY, name varchar(10), note text, mood mood, poi point_of_interest, age age
    );
    ALTER TABLE keyed ALTER COLUMN note SET STORAGE EXTERNAL;
    CREATE TABLE \"Sales\".\"Größe\" (a int, b text);
    ALTER TABLE \"Sales\".\"Größe\" REPLICA IDENTITY FULL;
    CREATE TABLE indexed (id int NOT NULL, code text NOT NULL, n numeric(10, 2));
    CREATE UNIQUE INDEX indexed_code ON indexed (code);
    ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_code;
    CREATE TABLE nothing (at timestamptz);
    ALTER TABLE nothing REPLICA IDENTITY NOTHING;
    CREATE TABLE no_columns ();
    CREATE TABLE parent (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
    CREATE TABLE child (parent int REFERENCES parent, PRIMARY KEY (parent));
    CREATE PUBLICATION recorded FOR ALL TABLES;
";

/// One transaction each.
const TRANSACTIONS: &[&str] = &[
    "INSERT INTO keyed VALUES (1, 'eins', repeat('toast', 600), 'calm', ROW('pub', 'calm'), 5);
     INSERT INTO keyed VALUES (2, NULL, '', 'ärgerlich', NULL, 0);",
    "UPDATE keyed SET name = 'one' WHERE id = 1;
     UPDATE keyed SET id = 3, note = NULL WHERE id = 2;
     UPDATE keyed SET id = 4 WHERE id = 1;
     DELETE FROM keyed WHERE id = 3;",
    "INSERT INTO \"Sales\".\"Größe\" VALUES (1, 'x'), (NULL, 'zwei'), (3, NULL);
     UPDATE \"Sales\".\"Größe\" SET b = 'größer' WHERE a = 1;
     DELETE FROM \"Sales\".\"Größe\" WHERE a IS NULL;",
    "INSERT INTO indexed VALUES (1, 'a', 1.5), (2, 'b', 'NaN');
     UPDATE indexed SET code = 'c' WHERE id = 1;
     UPDATE indexed SET n = NULL WHERE id = 2;
     DELETE FROM indexed WHERE code = 'c';",
    "INSERT INTO nothing VALUES ('infinity'), ('0044-03-15 BC');
     INSERT INTO no_columns DEFAULT VALUES;",
    "ALTER TABLE keyed ADD COLUMN later jsonb, DROP COLUMN age;
     INSERT INTO keyed (id, later) VALUES (9, '{\"a\": [1, null]}');
     ALTER TABLE keyed RENAME TO renamed;
     UPDATE renamed SET name = 'neun' WHERE id = 9;",
    "INSERT INTO parent DEFAULT VALUES; INSERT INTO child VALUES (1);",
    "TRUNCATE \"Sales\".\"Größe\", nothing;",
    "TRUNCATE parent RESTART IDENTITY CASCADE;",
    "SELECT pg_logical_emit_message(true, 'app', 'in a transaction')",
    "SELECT pg_logical_emit_message(false, 'äpp', '\\x00ff'::bytea);
     INSERT INTO parent DEFAULT VALUES;",
    "SELECT pg_replication_origin_xact_setup('0/ABC', '2026-01-02 03:04:05.678901+00');
     INSERT INTO parent DEFAULT VALUES;",
];

/// Returns the messages that the server of that major version sends for [`TRANSACTIONS`].
///
/// Uses a database and a temporary slot, which are dropped afterwards.
pub async fn record(version: u32, format: Format) -> Vec<Vec<u8>> {
    let variable = format!("TEST_POSTGRES_{version}");
    let url = env::var(&variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run npm test, which starts Postgres"));
    let server: tokio_postgres::Config = url.parse().unwrap();
    let name = format!("pgoutput_{format:?}_{}", std::process::id()).to_lowercase();
    let admin = connect(&server).await;
    admin
        .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        .await
        .unwrap();
    admin
        .batch_execute(&format!("CREATE DATABASE {name}"))
        .await
        .unwrap();

    let mut own = server.clone();
    own.dbname(&name);
    let client = connect(&own).await;
    let stream = write_and_peek(&client, &name, format).await;
    let release = [
        "SELECT pg_replication_origin_session_reset()".to_owned(),
        format!("SELECT pg_replication_origin_drop('{name}')"),
        format!("SELECT pg_drop_replication_slot('{name}')"),
    ];
    client.batch_execute(&release.join(";")).await.unwrap();
    drop(client);
    admin
        .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
        .await
        .unwrap();
    stream
}

async fn write_and_peek(client: &Client, name: &str, format: Format) -> Vec<Vec<u8>> {
    client.batch_execute(SCHEMA).await.unwrap();
    let slot = "SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)";
    client.execute(slot, &[&name]).await.unwrap();
    client
        .execute("SELECT pg_replication_origin_create($1)", &[&name])
        .await
        .unwrap();
    for transaction in TRANSACTIONS {
        if transaction.contains("pg_replication_origin_xact_setup") {
            let setup = "SELECT pg_replication_origin_session_setup($1)";
            client.execute(setup, &[&name]).await.unwrap();
        }
        client
            .batch_execute(&format!("BEGIN; {transaction}; COMMIT"))
            .await
            .unwrap();
    }
    let peek = "SELECT data FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL,
        'proto_version', '1', 'publication_names', 'recorded', 'messages', 'true', 'binary', $2)";
    let binary = if format == Format::Binary {
        "true"
    } else {
        "false"
    };
    let rows = client.query(peek, &[&name, &binary]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn connect(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The file with the recording of that version and format.
pub fn fixture_path(version: u32, format: Format) -> PathBuf {
    let file = format!("pgoutput_{version}_{format:?}.hex").to_lowercase();
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(file)
}

/// Reads one message per line, in hexadecimal; `#` starts a comment.
pub fn read_fixture(path: &Path) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let digits: Vec<u32> = line
                .chars()
                .map(|digit| digit.to_digit(16).expect("a hexadecimal digit"))
                .collect();
            digits
                .chunks(2)
                .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
                .collect()
        })
        .collect()
}

/// Writes a file for [`read_fixture`].
pub fn write_fixture(path: &Path, version: u32, format: Format, stream: &[Vec<u8>]) {
    let mut text = format!(
        "# What pgoutput of PostgreSQL {version} sent (values as {format:?}), one message a line.\n\
         # Made by the test record_the_fixtures of tests/native/pgoutput_streams.rs.\n"
    );
    for message in stream {
        for byte in message {
            write!(text, "{byte:02x}").unwrap();
        }
        text.push('\n');
    }
    fs::write(path, text).unwrap();
}
