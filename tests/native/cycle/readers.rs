//! Two readers of one slot: two deployments, or an old instance that has not ended yet.

use std::time::Duration;

use pg_change_feed::error::Category;
use tokio::net::TcpStream;

use crate::support::feed::{PATIENCE, Reader, TestFeed};
use crate::support::history::read_sound_history;
use crate::support::replay::{Identity, assert_same, read_tables, replay};
use crate::support::server::{Version, open_socket};

on_each_version!(
    two_readers_of_one_slot_lose_and_duplicate_nothing,
    a_reader_notices_what_another_has_stored,
    a_reader_starts_over_if_another_has_stored_what_it_has_peeked,
    a_reader_stops_when_another_has_begun_a_new_epoch,
);

const ITEMS: &str = "CREATE TABLE items (id bigserial PRIMARY KEY, note text)";

/// Polls until `through` is stored, with a new connection whenever the other reader holds the slot.
/// Returns how many changes it stored and how often it had to reconnect.
async fn read_through(feed: &TestFeed, through: i64) -> (u64, u64) {
    let (mut stored, mut reconnects) = (0, 0);
    'connect: loop {
        let stream = open_socket(feed.url()).await;
        let mut reader: Reader<TcpStream> = match Reader::resume(stream, feed).await {
            Ok(reader) => reader,
            Err(error) => {
                assert_eq!(error.category(), Category::SlotInUse, "{error:?}");
                reconnects += 1;
                continue 'connect;
            }
        };
        while reader.cycle.checkpoint.last_id < through {
            match reader.poll().await {
                Ok(report) => {
                    stored += report.stored;
                    if report.advance_error.is_some() {
                        reconnects += 1;
                        continue 'connect;
                    }
                }
                Err(error) => {
                    assert_eq!(error.category(), Category::SlotInUse, "{error:?}");
                    reconnects += 1;
                    continue 'connect;
                }
            }
        }
        return (stored, reconnects);
    }
}

async fn two_readers_of_one_slot_lose_and_duplicate_nothing(version: Version) {
    let mut feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    feed.config.max_changes = 50;
    feed.config.slice_bytes = 1 << 10;
    let client = feed.client().await;
    let writing = async {
        for _ in 0..1_000 {
            let insert = "INSERT INTO items (note) SELECT 'n' FROM generate_series(1, 5)";
            client.batch_execute(insert).await.unwrap();
        }
    };
    let reading = Box::pin(async {
        tokio::join!(
            writing,
            read_through(&feed, 5_000),
            read_through(&feed, 5_000)
        )
    });
    let ((), first, second) = tokio::time::timeout(PATIENCE * 2, reading)
        .await
        .expect("the readers block each other");
    println!("(stored, reconnects): {first:?}, {second:?}");
    assert_eq!(first.0 + second.0, 5_000);
    assert!(first.0 > 0 && second.0 > 0, "only one of them read");
    let history = read_sound_history(&feed).await;
    let tables = [("items", Identity::Id)];
    assert_same(
        &replay(&history, &tables),
        &read_tables(&feed, &tables).await,
    );
}

/// Its own clients wait for those changes.
async fn a_reader_notices_what_another_has_stored(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let mut idle = feed.reader().await;
    assert!(idle.poll().await.unwrap().complete);
    feed.run("INSERT INTO items (note) VALUES ('one'), ('two')")
        .await;
    assert_eq!(feed.drain().await, 2);
    assert_eq!(idle.poll().await.unwrap().stored, 0);
    assert_eq!(idle.cycle.checkpoint.last_id, 2);
}

/// While the second waits for the lock, the first stores what the second has peeked.
async fn a_reader_starts_over_if_another_has_stored_what_it_has_peeked(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    feed.run("INSERT INTO items (note) VALUES ('one'), ('two')")
        .await;
    let client = feed.client().await;
    // In the place of the first reader: holds the lock while the second peeks.
    client
        .batch_execute("BEGIN; SELECT FROM replication_checkpoint FOR UPDATE")
        .await
        .unwrap();
    let mut second = feed.reader().await;
    let first = async {
        wait_for_a_lock_request(&feed).await;
        client
            .batch_execute(
                "INSERT INTO change_history (id, lsn, table_name, operation, data, xid, epoch) \
                 SELECT n, pg_current_wal_flush_lsn(), 'items', 'insert', '{}', 1, 1 \
                 FROM generate_series(1, 2) n; \
                 UPDATE replication_checkpoint SET last_id = 2, lsn = pg_current_wal_flush_lsn()",
            )
            .await
            .unwrap();
        // The next peek skips what is stored, but not the relation's description, which pgoutput
        // sends once in a peek: where the relation is first written to.
        feed.run("INSERT INTO items (note) VALUES ('three')").await;
        client.batch_execute("COMMIT").await.unwrap();
    };
    let ((), report) = tokio::join!(first, second.poll());
    assert_eq!(report.unwrap().stored, 1, "two are stored already");
    assert_eq!(second.cycle.checkpoint.last_id, 3);
    // The first has ended without advancing the slot, so the second has done it.
    let behind = "SELECT confirmed_flush_lsn < lsn FROM pg_replication_slots, \
                  replication_checkpoint WHERE slot_name = slot";
    assert_eq!(feed.value(behind).await, "f");
    feed.run("INSERT INTO items (note) VALUES ('four')").await;
    assert_eq!(second.drain().await.unwrap(), 1);
    let history = feed.value("SELECT count(*) FROM change_history").await;
    assert_eq!(history, "4");
}

async fn a_reader_stops_when_another_has_begun_a_new_epoch(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let mut reader = feed.reader().await;
    feed.run(
        "UPDATE replication_checkpoint SET epoch = epoch + 1; INSERT INTO items DEFAULT VALUES",
    )
    .await;
    let error = reader.poll().await.unwrap_err();
    assert_eq!(error.code(), "checkpoint_replaced");
    assert_eq!(feed.drain().await, 1);
    let epochs = "SELECT string_agg(epoch::text, ',') FROM change_history";
    assert_eq!(feed.value(epochs).await, "2");
}

/// Waits until some session waits for a lock in the feed's database.
async fn wait_for_a_lock_request(feed: &TestFeed) {
    let waits = "SELECT count(*) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting = async {
        while feed.value(waits).await == "0" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}
