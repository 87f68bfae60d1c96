//! Each change is stored once, in the order of the commits.

use std::time::Duration;

use pg_change_feed::lsn::Lsn;

use crate::support::feed::{PATIENCE, TestFeed};
use crate::support::history::read_sound_history;
use crate::support::server::{Version, copy_in};

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, note text)";

on_each_version!(
    of_two_interleaved_transactions_the_later_writer_may_commit_first,
    rows_of_one_copy_share_an_lsn_and_all_arrive,
    a_commit_may_end_where_the_next_transaction_begins,
    a_stored_transaction_is_not_stored_again_if_the_slot_lags_behind,
    different_defaults_of_the_role_change_nothing,
    a_write_that_fails_leaves_the_slot_where_it_was,
    transactions_larger_than_a_slice_are_stored_with_their_own_ends,
);

/// T1 writes first and commits last. Filtering rows by `WHERE lsn > last` would lose T1's first row
/// once T2 is stored, since that row was written before T2's commit.
async fn of_two_interleaved_transactions_the_later_writer_may_commit_first(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let (first, second) = (feed.client().await, feed.client().await);
    first
        .batch_execute("BEGIN; INSERT INTO items VALUES (1, 'T1')")
        .await
        .unwrap();
    second
        .batch_execute("BEGIN; INSERT INTO items VALUES (2, 'T2'); COMMIT")
        .await
        .unwrap();
    assert_eq!(feed.drain().await, 1, "only T2 has committed");
    first
        .batch_execute("INSERT INTO items VALUES (3, 'T1'); COMMIT")
        .await
        .unwrap();
    assert_eq!(feed.drain().await, 2, "all of T1, from its first row");

    let history = read_sound_history(&feed).await;
    let ids: Vec<_> = history.iter().map(|change| &change.data["id"]).collect();
    assert_eq!(ids, [2, 1, 3]);
    // What the wrong filter would have compared: T1's first row was written before T2's commit.
    let written = feed
        .client()
        .await
        .query_one(
            "SELECT count(*) FROM change_history a, change_history b \
             WHERE a.xid < b.xid AND a.lsn::pg_lsn > b.lsn::pg_lsn",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        written.get::<_, i64>(0),
        2,
        "the older transaction is the later one"
    );
}

async fn rows_of_one_copy_share_an_lsn_and_all_arrive(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let mut reader = feed.reader().await;
    // Small limits, so that the rows exceed a peek many times and are cut into many slices.
    reader.config.max_changes = 100;
    reader.config.slice_bytes = 4 << 10;
    let rows: String = (0..10_000).map(|id| format!("{id}\tcopied\n")).collect();
    let mut writer = feed.reader().await.connection;
    let copied = copy_in(&mut writer, "COPY items FROM STDIN", rows.as_bytes());
    assert_eq!(copied.await.unwrap(), 10_000);

    assert_eq!(reader.drain().await.unwrap(), 10_000);
    let history = read_sound_history(&feed).await;
    assert_eq!(history.len(), 10_000);
    for (id, change) in history.iter().enumerate() {
        assert_eq!(change.data["id"], id);
    }
}

/// If nobody else writes, there is nothing between the commit of one transaction and the first
/// record of the next. Their positions are equal, and the later one must not be mistaken for
/// stored.
async fn a_commit_may_end_where_the_next_transaction_begins(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let inserts: String = (0..200)
        .map(|id| format!("BEGIN; INSERT INTO items VALUES ({id}, ''); COMMIT;"))
        .collect();
    feed.run(&inserts).await;
    let peeked = feed
        .client()
        .await
        .query(
            "SELECT lsn::text, get_byte(data, 0) = 66 FROM pg_logical_slot_peek_binary_changes(\
             $1, NULL, NULL, 'proto_version', '1', 'publication_names', 'feed') \
             WHERE get_byte(data, 0) IN (66, 67)",
            &[&feed.config.slot],
        )
        .await
        .unwrap();
    let positions: Vec<(Lsn, bool)> = peeked
        .iter()
        .map(|row| (row.get::<_, &str>(0).parse().unwrap(), row.get(1)))
        .collect();
    let equal = positions
        .windows(2)
        .filter(|pair| !pair[0].1 && pair[1].1 && pair[0].0 == pair[1].0);
    assert!(equal.count() > 0, "no commit ended where the next began");

    // One transaction at a time, so that a cycle ends within every such pair.
    let mut reader = feed.reader().await;
    reader.config.max_changes = 1;
    assert_eq!(reader.drain().await.unwrap(), 200);
    assert_eq!(read_sound_history(&feed).await.len(), 200);
}

/// As after a crash between COMMIT and the advance.
async fn a_stored_transaction_is_not_stored_again_if_the_slot_lags_behind(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let mut before = feed.reader().await;
    let slot = &feed.config.slot;
    let copy =
        |from: &str, to: &str| format!("SELECT pg_copy_logical_replication_slot('{from}', '{to}')");
    let behind = format!("{slot}_behind");
    feed.run(&copy(slot, &behind)).await;
    feed.run("INSERT INTO items SELECT n, '' FROM generate_series(1, 500) n")
        .await;
    assert_eq!(feed.drain().await, 500);
    feed.run(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await;
    feed.run(&copy(&behind, slot)).await;
    feed.run("INSERT INTO items VALUES (501, 'more')").await;

    // It knows the first checkpoint, and its peeks are full of what is already stored.
    before.config.max_changes = 100;
    assert_eq!(before.drain().await.unwrap(), 1);
    assert_eq!(read_sound_history(&feed).await.len(), 501);
}

/// A role, a database or a server may have other defaults. Each of these would break the cycle, or
/// the guarantee that nothing is consumed before it is durably stored.
async fn different_defaults_of_the_role_change_nothing(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let database = &feed.url().login.database;
    let settings = [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "default_transaction_deferrable = on",
        "synchronous_commit = off",
        "client_min_messages = error",
        "DateStyle = 'German'",
        "TimeZone = 'Asia/Tokyo'",
        "cursor_tuple_fraction = 1",
        "enable_material = off",
        "jit_above_cost = 0",
    ];
    let alter = |setting| format!("ALTER DATABASE {database} SET {setting};");
    feed.run(&settings.map(alter).concat()).await;
    // Without waiting for the disk the row would be decoded only later.
    feed.run(
        "BEGIN READ WRITE; SET LOCAL synchronous_commit = on; \
         INSERT INTO items VALUES (1, 'one'); COMMIT",
    )
    .await;
    assert_eq!(feed.drain().await, 1);
    assert_eq!(read_sound_history(&feed).await.len(), 1);
}

/// The write, the COMMIT and the advance are sent together: if the first fails, the last must do
/// nothing.
async fn a_write_that_fails_leaves_the_slot_where_it_was(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    feed.run("ALTER TABLE change_history ADD CONSTRAINT refusal CHECK (table_name <> 'items')")
        .await;
    feed.run("INSERT INTO items VALUES (1, 'kept')").await;
    let mut reader = feed.reader().await;
    let slot = &feed.config.slot;
    let confirmed =
        format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
    let before = feed.value(&confirmed).await;
    let error = reader.poll().await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("23514"), "{error:?}");
    drop(reader);
    // Until the session has ended, the server may still execute what was sent.
    let sessions = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name = 'pg-change-feed'";
    let gone = async {
        while feed.value(sessions).await != "0" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert_eq!(feed.value(&confirmed).await, before);
    feed.run("ALTER TABLE change_history DROP CONSTRAINT refusal")
        .await;
    assert_eq!(feed.drain().await, 1);
}

/// Their commits are found by scanning ahead, past the rows of other transactions.
async fn transactions_larger_than_a_slice_are_stored_with_their_own_ends(version: Version) {
    for allows_second_connection in [true, false] {
        let mut feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
        feed.config.slice_bytes = 32 << 10;
        feed.allows_second_connection = allows_second_connection;
        let mut written = 0;
        for rows in [1, 3_000, 1, 2, 20_000, 700, 5_000] {
            let (first, last) = (written + 1, written + rows);
            feed.run(&format!(
                "INSERT INTO items SELECT n, 'some text' FROM generate_series({first}, {last}) n"
            ))
            .await;
            written = last;
        }
        let slot = &feed.config.slot;
        let ends = feed
            .value(&format!(
                "SELECT string_agg(xid || ' ' || lsn, ', ' ORDER BY lsn) \
                 FROM pg_logical_slot_peek_binary_changes('{slot}', NULL, NULL, 'proto_version', \
                 '1', 'publication_names', 'feed') WHERE get_byte(data, 0) = {}",
                b'C'
            ))
            .await;
        assert_eq!(feed.drain().await, written);

        let mut stored: Vec<_> = read_sound_history(&feed)
            .await
            .iter()
            .map(|change| format!("{} {}", change.xid, change.lsn))
            .collect();
        stored.dedup();
        assert_eq!(stored.join(", "), ends);
    }
}
