//! Types that are created, altered and dropped before the slot is read, and values that `jsonb` or the
//! row limit does not allow.

use crate::support::server::Version;
use crate::support::slot_reader::{Captured, SlotReader};
use pg_change_feed::changes::MAX_JSON_DEPTH;
use pg_change_feed::postgres::Param;
use serde_json::{Value, json};

fn data(change: &Captured) -> Value {
    serde_json::from_str(&change.data).unwrap()
}

async fn types_created_after_the_slot_are_looked_up_once(version: Version) {
    let mut reader = SlotReader::start(version, &[], "FOR ALL TABLES").await;
    reader
        .run(&[
            "CREATE TYPE mood AS ENUM ('sad', 'ok')",
            "CREATE DOMAIN positive AS int CHECK (value > 0)",
            "CREATE DOMAIN positives AS positive[]",
            "CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[], p positive, ps positives)",
            "INSERT INTO t VALUES (1, 'ok', '{sad,NULL}', 7, '{8,9}')",
        ])
        .await;
    let expected = json!({"id": 1, "m": "ok", "ms": ["sad", null], "p": 7, "ps": [8, 9]});
    assert_eq!(
        reader.take().await.iter().map(data).collect::<Vec<_>>(),
        [expected]
    );
    assert_eq!(reader.lookups, 1);

    reader.run(&["UPDATE t SET m = 'sad'"]).await;
    assert_eq!(data(&reader.take().await[0])["m"], "sad");
    assert_eq!(reader.lookups, 1);
}

async fn a_composite_is_looked_up_again_for_each_peek(version: Version) {
    let setup = [
        "CREATE TYPE size AS (width int, height int)",
        "CREATE TABLE t (id int PRIMARY KEY, size size, sizes size[])",
    ];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    reader
        .run(&["INSERT INTO t VALUES (1, (2, 3), ARRAY[(4, 5)::size])"])
        .await;
    let expected =
        json!({"id": 1, "size": {"width": 2, "height": 3}, "sizes": [{"width": 4, "height": 5}]});
    assert_eq!(data(&reader.take().await[0]), expected);

    reader
        .run(&[
            "ALTER TYPE size RENAME ATTRIBUTE height TO depth",
            "UPDATE t SET sizes = NULL",
        ])
        .await;
    let expected = json!({"id": 1, "size": {"width": 2, "depth": 3}, "sizes": null});
    assert_eq!(data(&reader.take().await[0]), expected);
    assert_eq!(reader.lookups, 2);
}

/// The text has the attributes of the time of the change, the catalogue those of today.
async fn a_composite_with_more_attributes_than_when_it_was_written_is_text(version: Version) {
    let setup = [
        "CREATE TYPE size AS (width int, height int)",
        "CREATE TABLE t (id int PRIMARY KEY, size size)",
    ];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    let changes = reader
        .capture(&[
            "INSERT INTO t VALUES (1, (2, 3))",
            "ALTER TYPE size ADD ATTRIBUTE depth int",
            "INSERT INTO t VALUES (2, (2, 3, 4))",
        ])
        .await;
    assert_eq!(data(&changes[0]), json!({"id": 1, "size": "(2,3)"}));
    assert_eq!(changes[0].as_text, ["size"]);
    assert_eq!(
        data(&changes[1])["size"],
        json!({"width": 2, "height": 3, "depth": 4})
    );
    assert!(changes[1].as_text.is_empty());
}

async fn a_type_that_was_dropped_before_its_values_are_read_is_text(version: Version) {
    let setup = [
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[])",
    ];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    let changes = reader
        .capture(&[
            "INSERT INTO t VALUES (1, 'ok', '{ok,sad}')",
            "DROP TYPE mood CASCADE",
            "INSERT INTO t VALUES (2)",
        ])
        .await;
    assert_eq!(
        data(&changes[0]),
        json!({"id": 1, "m": "ok", "ms": "{ok,sad}"})
    );
    assert_eq!(changes[0].as_text, ["m", "ms"]);
    assert_eq!(data(&changes[1]), json!({"id": 2}));
}

/// `to_jsonb` calls the cast, which only the server can do.
async fn a_type_with_a_cast_to_json_is_text(version: Version) {
    let setup = [
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        "CREATE FUNCTION as_json(mood) RETURNS json LANGUAGE sql AS 'SELECT json_build_object($1::text, 1)'",
        "CREATE CAST (mood AS json) WITH FUNCTION as_json(mood)",
        "CREATE TABLE t (id int PRIMARY KEY, m mood)",
    ];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    let changes = reader.capture(&["INSERT INTO t VALUES (1, 'ok')"]).await;
    assert_eq!(data(&changes[0]), json!({"id": 1, "m": "ok"}));
    assert_eq!(changes[0].as_text, ["m"]);
    // Otherwise this test would no longer test a difference.
    let rows = reader
        .connection
        .query("SELECT to_jsonb(t) FROM t", &[])
        .await
        .unwrap();
    let oracle: Value = serde_json::from_str(rows[0].get(0).unwrap()).unwrap();
    assert_eq!(oracle, json!({"id": 1, "m": {"ok": 1}}));
}

async fn a_char_that_is_not_utf8_does_not_stop_the_feed(version: Version) {
    let setup = ["CREATE TABLE t (id int PRIMARY KEY, c \"char\", cs \"char\"[])"];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    let insert = "INSERT INTO t VALUES (1, (-23)::\"char\", ARRAY[(-23)::\"char\"])";
    reader.run(&[insert]).await;
    let expected = json!({"id": 1, "c": "\\351", "cs": ["\\351"]});
    assert_eq!(data(&reader.take().await[0]), expected);
}

async fn documents_are_embedded_up_to_a_depth_that_jsonb_accepts(version: Version) {
    let setup = ["CREATE TABLE t (id int PRIMARY KEY, document json)"];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    let depths = [MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1];
    for (id, depth) in (1..).zip(depths) {
        let document = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        let params = [Param::Int4(id), Param::Text(&document)];
        let insert = "INSERT INTO t VALUES ($1, $2::text::json)";
        reader.connection.execute(insert, &params).await.unwrap();
    }
    let changes = reader.take().await;
    assert!(changes[0].as_text.is_empty());
    assert!(
        changes[0]
            .data
            .starts_with(r#"{"id":1,"document":{"a":{"a":"#)
    );
    assert_eq!(changes[1].as_text, ["document"]);
    assert!(
        changes[1]
            .data
            .starts_with(r#"{"id":2,"document":"{\"a\":{\"a\":"#)
    );
    for change in &changes {
        let params = [Param::Text(&change.data)];
        let sql = "SELECT $1::jsonb";
        reader.connection.query(sql, &params).await.unwrap();
    }
}

async fn a_row_that_is_too_large_arrives_with_the_columns_that_fit(version: Version) {
    let setup = ["CREATE TABLE t (id int PRIMARY KEY, a text, b text, c text, d int)"];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    reader.message_cap = 2_000;
    reader.limits.max_row_bytes = 1_000;
    let changes = reader
        .capture(&[
            // Every byte becomes six, and the two longest do not fit.
            "INSERT INTO t VALUES (1, repeat(chr(1), 150), repeat(chr(2), 160), 'c', 4)",
            // The message is cut inside b; a is whole, but too long.
            "INSERT INTO t VALUES (2, repeat('a', 1500), repeat('b', 1500), 'c', 4)",
            "INSERT INTO t VALUES (3, 'a', 'b', 'c', 4)",
        ])
        .await;
    assert_eq!(data(&changes[0])["a"], "\u{1}".repeat(150));
    assert_eq!(changes[0].omitted, ["b"]);
    assert_eq!(changes[1].story(), r#"insert of t: {"id":2}"#);
    assert_eq!(changes[1].omitted, ["a", "b", "c", "d"]);
    assert_eq!(
        changes[2].story(),
        r#"insert of t: {"a":"a","b":"b","c":"c","d":4,"id":3}"#
    );
}

on_each_version!(
    types_created_after_the_slot_are_looked_up_once,
    a_composite_is_looked_up_again_for_each_peek,
    a_composite_with_more_attributes_than_when_it_was_written_is_text,
    a_type_that_was_dropped_before_its_values_are_read_is_text,
    a_type_with_a_cast_to_json_is_text,
    a_char_that_is_not_utf8_does_not_stop_the_feed,
    documents_are_embedded_up_to_a_depth_that_jsonb_accepts,
    a_row_that_is_too_large_arrives_with_the_columns_that_fit,
);
