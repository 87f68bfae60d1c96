//! Tables of every kind through a slot: replica identities, TOAST, partitions, publications with
//! column lists and row filters, and tables that are altered.

use crate::support::server::Version;
use crate::support::slot_reader::{Captured, SlotReader};

/// Longer than a page and not compressible, so that it is TOASTed.
const LARGE: &str =
    "(SELECT string_agg(md5(i::text || $$salt$$), '') FROM generate_series(1, 200) i)";

fn stories(changes: &[Captured]) -> Vec<String> {
    changes.iter().map(Captured::story).collect()
}

async fn old_rows_have_the_columns_of_the_replica_identity(version: Version) {
    let setup = [
        "CREATE TABLE by_key (id int PRIMARY KEY, note text)",
        "CREATE TABLE by_index (id int PRIMARY KEY, a int NOT NULL, b text NOT NULL, note text)",
        "CREATE UNIQUE INDEX the_index ON by_index (b, a)",
        "ALTER TABLE by_index REPLICA IDENTITY USING INDEX the_index",
        "CREATE TABLE whole (id int PRIMARY KEY, note text)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "CREATE TABLE nothing (id int PRIMARY KEY, note text)",
        "ALTER TABLE nothing REPLICA IDENTITY NOTHING",
    ];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    let changes = reader
        .capture(&[
            "INSERT INTO by_key VALUES (1, 'a')",
            "UPDATE by_key SET note = 'b'",
            "UPDATE by_key SET id = 2",
            "DELETE FROM by_key",
            "INSERT INTO by_index VALUES (1, 10, 'x', 'a')",
            "UPDATE by_index SET note = NULL, id = 2",
            "UPDATE by_index SET a = 11",
            "DELETE FROM by_index",
            "INSERT INTO whole VALUES (1, NULL)",
            "UPDATE whole SET note = 'b'",
            "DELETE FROM whole",
            "INSERT INTO nothing VALUES (1, 'a')",
        ])
        .await;
    assert_eq!(
        stories(&changes),
        [
            r#"insert of by_key: {"id":1,"note":"a"}"#,
            r#"update of by_key: {"id":1,"note":"b"}"#,
            r#"update of by_key: {"id":2,"note":"b"} was {"id":1}"#,
            r#"delete of by_key: {"id":2}"#,
            r#"insert of by_index: {"a":10,"b":"x","id":1,"note":"a"}"#,
            r#"update of by_index: {"a":10,"b":"x","id":2,"note":null}"#,
            r#"update of by_index: {"a":11,"b":"x","id":2,"note":null} was {"a":10,"b":"x"}"#,
            r#"delete of by_index: {"a":11,"b":"x"}"#,
            r#"insert of whole: {"id":1,"note":null}"#,
            r#"update of whole: {"id":1,"note":"b"} was {"id":1,"note":null}"#,
            r#"delete of whole: {"id":1,"note":"b"}"#,
            r#"insert of nothing: {"id":1,"note":"a"}"#,
        ]
    );
}

async fn a_toasted_value_that_did_not_change_is_absent_and_named(version: Version) {
    let setup = [
        "CREATE TABLE t (id int PRIMARY KEY, body text, n int)",
        "CREATE TABLE whole (id int PRIMARY KEY, body text, n int)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
    ];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    for table in ["t", "whole"] {
        reader
            .run(&[
                &format!("INSERT INTO {table} VALUES (1, {LARGE}, 1)"),
                &format!("UPDATE {table} SET n = 2"),
                &format!("UPDATE {table} SET body = body || 'x'"),
                &format!("UPDATE {table} SET body = NULL"),
                &format!("UPDATE {table} SET body = {LARGE}"),
            ])
            .await;
    }
    let changes = reader.take().await;
    assert_eq!(changes.len(), 10);
    for (index, change) in changes.iter().enumerate() {
        let data: serde_json::Value = serde_json::from_str(&change.data).unwrap();
        let body = data.get("body");
        if index % 5 == 1 {
            assert_eq!(
                (body, change.unchanged.as_slice()),
                (None, &["body".to_owned()][..])
            );
        } else {
            assert!(change.unchanged.is_empty());
            let length = body.unwrap().as_str().map(str::len);
            assert_eq!(
                length,
                [Some(6400), None, Some(6401), None, Some(6400)][index % 5]
            );
        }
    }
    // Only the old row has it.
    let old: serde_json::Value = serde_json::from_str(changes[6].old.as_ref().unwrap()).unwrap();
    assert_eq!(old["body"].as_str().unwrap().len(), 6400);
}

const PARTITIONED: [&str; 5] = [
    "CREATE TABLE logs (id int, day int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE logs_1 PARTITION OF logs FOR VALUES FROM (0) TO (10)",
    // The same columns in another order.
    "CREATE TABLE logs_2 (note text, day int NOT NULL, id int NOT NULL, PRIMARY KEY (id, day))",
    "ALTER TABLE logs ATTACH PARTITION logs_2 FOR VALUES FROM (10) TO (20)",
    "CREATE SCHEMA other",
];

const PARTITIONED_CHANGES: [&str; 4] = [
    "INSERT INTO logs VALUES (1, 5, 'a'), (2, 15, 'b')",
    "UPDATE logs SET note = 'c' WHERE id = 2",
    "UPDATE logs SET day = 16 WHERE id = 1",
    "TRUNCATE logs",
];

async fn changes_of_partitions_are_published_under_their_own_names(version: Version) {
    let mut reader = SlotReader::start(version, &PARTITIONED, "FOR TABLE logs").await;
    let changes = reader.capture(&PARTITIONED_CHANGES).await;
    assert_eq!(
        stories(&changes),
        [
            r#"insert of logs_1: {"id":1,"day":5,"note":"a"}"#,
            r#"insert of logs_2: {"id":2,"day":15,"note":"b"}"#,
            r#"update of logs_2: {"id":2,"day":15,"note":"c"}"#,
            r#"delete of logs_1: {"id":1,"day":5}"#,
            r#"insert of logs_2: {"id":1,"day":16,"note":"a"}"#,
            "truncate of logs_1: {}",
            "truncate of logs_2: {}",
        ]
    );
}

async fn changes_of_partitions_are_published_under_the_name_of_the_root(version: Version) {
    let published = "FOR TABLE logs WITH (publish_via_partition_root = true)";
    let mut reader = SlotReader::start(version, &PARTITIONED, published).await;
    let changes = reader.capture(&PARTITIONED_CHANGES).await;
    assert_eq!(
        stories(&changes),
        [
            r#"insert of logs: {"id":1,"day":5,"note":"a"}"#,
            r#"insert of logs: {"id":2,"day":15,"note":"b"}"#,
            r#"update of logs: {"id":2,"day":15,"note":"c"}"#,
            r#"delete of logs: {"id":1,"day":5}"#,
            r#"insert of logs: {"id":1,"day":16,"note":"a"}"#,
            "truncate of logs: {}",
        ]
    );
}

async fn column_lists_and_row_filters_of_the_publication_apply(version: Version) {
    let setup = ["CREATE TABLE t (id int PRIMARY KEY, secret text, shown text, n int)"];
    let published = "FOR TABLE t (id, shown) WHERE (id > 10)";
    let mut reader = SlotReader::start(version, &setup, published).await;
    let changes = reader
        .capture(&[
            "INSERT INTO t VALUES (1, 's', 'hidden', 1), (11, 's', 'a', 1)",
            "UPDATE t SET shown = 'b'",
            "UPDATE t SET id = 12 WHERE id = 1",
            "UPDATE t SET id = 2 WHERE id = 11",
            "DELETE FROM t",
        ])
        .await;
    assert_eq!(
        stories(&changes),
        [
            r#"insert of t: {"id":11,"shown":"a"}"#,
            r#"update of t: {"id":11,"shown":"b"}"#,
            // One row starts to match the filter, the other no longer matches.
            r#"insert of t: {"id":12,"shown":"b"}"#,
            r#"delete of t: {"id":11}"#,
            r#"delete of t: {"id":12}"#,
        ]
    );
}

async fn each_row_has_the_columns_that_its_table_had_at_the_time(version: Version) {
    let setup = ["CREATE TABLE t (id int PRIMARY KEY, a text)"];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    let changes = reader
        .capture(&[
            "INSERT INTO t VALUES (1, 'x')",
            "ALTER TABLE t ADD b int DEFAULT 7",
            "INSERT INTO t VALUES (2, 'y', 8)",
            "BEGIN",
            "INSERT INTO t VALUES (3, 'z', 9)",
            "ALTER TABLE t DROP a",
            "INSERT INTO t VALUES (4, 10)",
            "ALTER TABLE t ALTER b TYPE text, ADD c bool",
            "INSERT INTO t VALUES (5, '11', true)",
            "ALTER TABLE t RENAME b TO \"B b\"",
            "UPDATE t SET id = 6 WHERE id = 5",
            "COMMIT",
            "UPDATE t SET c = false WHERE id = 1",
        ])
        .await;
    let changes: Vec<_> = changes
        .iter()
        .filter(|change| change.table == "t")
        .collect();
    assert_eq!(
        changes
            .iter()
            .map(|change| change.story())
            .collect::<Vec<_>>(),
        [
            r#"insert of t: {"a":"x","id":1}"#,
            r#"insert of t: {"a":"y","b":8,"id":2}"#,
            r#"insert of t: {"a":"z","b":9,"id":3}"#,
            r#"insert of t: {"b":10,"id":4}"#,
            r#"insert of t: {"b":"11","c":true,"id":5}"#,
            r#"update of t: {"c":true,"id":6,"B b":"11"} was {"id":5}"#,
            r#"update of t: {"c":false,"id":1,"B b":"7"}"#,
        ]
    );
    let same_transaction = changes[2..6]
        .iter()
        .all(|change| (change.xid, change.lsn) == (changes[2].xid, changes[2].lsn));
    assert!(same_transaction && changes[6].lsn > changes[2].lsn);
}

async fn a_table_that_is_renamed_moved_dropped_or_recreated_is_not_confused(version: Version) {
    let setup = [
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE SCHEMA \"Ünder.score\"",
    ];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    let changes = reader
        .capture(&[
            "INSERT INTO t VALUES (1)",
            "ALTER TABLE t RENAME TO \"T \"\"quoted\"\" ä\"",
            "INSERT INTO \"T \"\"quoted\"\" ä\" VALUES (2)",
            "ALTER TABLE \"T \"\"quoted\"\" ä\" SET SCHEMA \"Ünder.score\"",
            "INSERT INTO \"Ünder.score\".\"T \"\"quoted\"\" ä\" VALUES (3)",
            "DROP TABLE \"Ünder.score\".\"T \"\"quoted\"\" ä\"",
            "CREATE TABLE t (name text PRIMARY KEY, id text)",
            "INSERT INTO t VALUES ('n', 'one')",
        ])
        .await;
    assert_eq!(
        stories(&changes),
        [
            r#"insert of t: {"id":1}"#,
            r#"insert of "T ""quoted"" ä": {"id":2}"#,
            r#"insert of "Ünder.score"."T ""quoted"" ä": {"id":3}"#,
            r#"insert of t: {"id":"one","name":"n"}"#,
        ]
    );
}

async fn identity_columns_are_captured_and_generated_columns_if_published(version: Version) {
    let setup = ["CREATE TABLE t (
        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        serial bigserial,
        n int,
        twice int GENERATED ALWAYS AS (n * 2) STORED)"];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    let changes = reader
        .capture(&[
            "INSERT INTO t (n) VALUES (21)",
            "UPDATE t SET n = 4",
            "DELETE FROM t",
        ])
        .await;
    assert_eq!(
        stories(&changes),
        [
            r#"insert of t: {"n":21,"id":1,"serial":1}"#,
            r#"update of t: {"n":4,"id":1,"serial":1}"#,
            r#"delete of t: {"id":1}"#,
        ]
    );
    if version != Version::V18 {
        return; // Before 18, publications cannot publish generated columns.
    }
    let changes = reader
        .capture(&[
            "ALTER PUBLICATION feed SET (publish_generated_columns = stored)",
            "INSERT INTO t (n) VALUES (21)",
        ])
        .await;
    assert_eq!(
        stories(&changes),
        [r#"insert of t: {"n":21,"id":2,"twice":42,"serial":2}"#]
    );
}

async fn a_truncate_of_several_tables_is_one_change_for_each(version: Version) {
    let setup = [
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)",
        "CREATE SCHEMA other",
        "CREATE TABLE other.t (id int PRIMARY KEY)",
    ];
    let mut reader = SlotReader::start(version, &setup, "FOR ALL TABLES").await;
    reader
        .run(&["TRUNCATE parent, other.t RESTART IDENTITY CASCADE"])
        .await;
    let mut stories = stories(&reader.take().await);
    stories.sort();
    assert_eq!(
        stories,
        [
            "truncate of child: {}",
            "truncate of other.t: {}",
            "truncate of parent: {}"
        ]
    );
}

on_each_version!(
    old_rows_have_the_columns_of_the_replica_identity,
    a_toasted_value_that_did_not_change_is_absent_and_named,
    changes_of_partitions_are_published_under_their_own_names,
    changes_of_partitions_are_published_under_the_name_of_the_root,
    column_lists_and_row_filters_of_the_publication_apply,
    each_row_has_the_columns_that_its_table_had_at_the_time,
    a_table_that_is_renamed_moved_dropped_or_recreated_is_not_confused,
    identity_columns_are_captured_and_generated_columns_if_published,
    a_truncate_of_several_tables_is_one_change_for_each,
);
