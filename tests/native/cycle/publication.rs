//! Changes that were written while the publication was missing cannot be read, which is an error.

use std::time::Instant;

use pg_change_feed::error::{Category, Error};

use crate::support::feed::{PATIENCE, TestFeed};
use crate::support::history::read_sound_history;
use crate::support::server::Version;

on_each_version!(
    changes_written_without_the_publication_stop_the_feed_instead_of_being_skipped,
    a_missing_slot_is_distinguished_from_a_missing_publication,
    an_invalidated_slot_is_lost,
);

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, note text)";

/// PostgreSQL 18 skips them with a warning; before, decoding fails. Both result in the same error.
async fn changes_written_without_the_publication_stop_the_feed_instead_of_being_skipped(
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
        // The warning must arrive whatever the role's level of messages is.
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

/// The error that a new reader gets. Before PostgreSQL 18, the server reports it to the previous
/// reader before it releases the slot, so the slot may still be in use.
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

async fn a_missing_slot_is_distinguished_from_a_missing_publication(version: Version) {
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

/// The slot loses its WAL to `max_slot_wal_keep_size`.
async fn an_invalidated_slot_is_lost(version: Version) {
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
