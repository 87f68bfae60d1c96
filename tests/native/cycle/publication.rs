//! A publication that was missing when changes were written: they cannot be read, and that is said.

use std::time::Instant;

use pg_change_feed::error::{Category, Error};

use crate::support::feed::{PATIENCE, TestFeed};
use crate::support::history::read_sound_history;
use crate::support::server::Version;

on_each_version!(
    changes_written_without_the_publication_stop_the_feed_instead_of_being_left_out,
    a_slot_that_is_gone_is_told_from_a_publication_that_is_gone,
    a_slot_that_was_invalidated_is_lost,
);

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, note text)";

/// PostgreSQL 18 leaves them out with a warning; before, decoding fails. Both are the same error.
async fn changes_written_without_the_publication_stop_the_feed_instead_of_being_left_out(
    version: Version,
) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    feed.run("INSERT INTO items VALUES (1, 'seen')").await;
    let mut reader = feed.reader().await;
    assert_eq!(reader.drain().await.unwrap(), 1);
    feed.run("DROP PUBLICATION feed; INSERT INTO items VALUES (2, 'in the gap')")
        .await;
    let positions = "SELECT lsn || ' ' || confirmed_flush_lsn FROM replication_checkpoint, \
                     pg_replication_slots WHERE slot_name = slot";
    let before = feed.value(positions).await;

    let error = reader.poll().await.unwrap_err();
    assert_eq!(error.category(), Category::PublicationMissing);
    assert_eq!(error.code(), "publication_missing");

    feed.run("CREATE PUBLICATION feed FOR TABLE items; INSERT INTO items VALUES (3, 'after')")
        .await;
    for setting in ["warning", "error"] {
        // Whatever the role's level of messages is: the warning is all there is to see.
        let database = &feed.url().login.database;
        feed.run(&format!(
            "ALTER DATABASE {database} SET client_min_messages = {setting}"
        ))
        .await;
        let error = refusal(&feed).await;
        assert_eq!(error.category(), Category::PublicationMissing);
        assert_eq!(error.code(), "publication_gap");
    }
    assert_eq!(feed.value(positions).await, before);
    assert_eq!(read_sound_history(&feed).await.len(), 1);
}

/// What a new reader is told. Before PostgreSQL 18 the one before it was told the same by an error
/// of the server, which sends it before it lets go of the slot.
async fn refusal(feed: &TestFeed) -> Error {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = feed.reader().await.poll().await.unwrap_err();
        if error.category() != Category::SlotInUse {
            return error;
        }
        assert!(Instant::now() < deadline, "{error}");
    }
}

async fn a_slot_that_is_gone_is_told_from_a_publication_that_is_gone(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let mut reader = feed.reader().await;
    let slot = &feed.config.slot;
    feed.run(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await;
    feed.run("INSERT INTO items VALUES (1, 'one')").await;
    let error = reader.poll().await.unwrap_err();
    assert_eq!(error.category(), Category::SlotMissing);
    assert_eq!(error.sqlstate(), Some("42704"));
}

/// Here the slot lost its WAL to `max_slot_wal_keep_size`.
async fn a_slot_that_was_invalidated_is_lost(version: Version) {
    use crate::support::cluster::Cluster;
    let settings = [
        ("max_slot_wal_keep_size", "1MB"),
        ("min_wal_size", "32MB"),
        ("max_wal_size", "32MB"),
    ];
    let cluster = Cluster::start_with(version, &settings);
    let url = cluster.url().parse().unwrap();
    let feed = TestFeed::in_database(url, ITEMS, "FOR TABLE items").await;
    let mut reader = feed.reader().await;
    for _ in 0..6 {
        feed.run("SELECT pg_logical_emit_message(false, 'x', repeat('x', 10000000)); SELECT pg_switch_wal(); CHECKPOINT")
            .await;
    }
    let status = "SELECT wal_status FROM pg_replication_slots";
    assert_eq!(feed.value(status).await, "lost");
    let error = reader.poll().await.unwrap_err();
    assert_eq!(error.category(), Category::SlotLost, "{error:?}");
}
