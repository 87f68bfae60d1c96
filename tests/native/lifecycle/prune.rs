//! Pruning removes the oldest changes only, and never one that is still needed.

use std::time::Duration;

use pg_change_feed::config::HistoryRetention;
use pg_change_feed::history::{self, HistoryBounds, Pruned};

use crate::support::feed::TestFeed;
use crate::support::server::{Version, connect};

on_each_version!(
    with_max_rows_the_newest_are_kept,
    with_max_age_the_recent_are_kept_without_a_gap,
    with_both_limits_whatever_exceeds_either_is_removed,
    nothing_from_the_floor_on_is_removed,
    a_long_history_is_pruned_in_batches,
    if_nothing_is_to_be_removed_no_statement_is_sent,
    a_database_that_is_read_only_by_default_is_pruned,
);

const ROWS: HistoryRetention = HistoryRetention {
    max_age: None,
    max_rows: Some(10),
};
const HOUR: HistoryRetention = HistoryRetention {
    max_age: Some(Duration::from_hours(1)),
    max_rows: None,
};

/// A history of `count` changes, of which the first `old` were stored two hours ago.
async fn history_of(version: Version, count: u32, old: u32) -> TestFeed {
    let items = "CREATE TABLE items (id int PRIMARY KEY)";
    let feed = TestFeed::create(version, items, "FOR TABLE items").await;
    feed.run(&format!(
        "INSERT INTO change_history (id, lsn, table_name, operation, data, created_at, epoch) \
         SELECT n, '0/1', 'items', 'insert', '{{}}', \
         now() - CASE WHEN n <= {old} THEN interval '2 hours' ELSE interval '0' END, 1 \
         FROM generate_series(1, {count}) n"
    ))
    .await;
    feed
}

/// Prunes until nothing is left to prune. Returns the batches.
async fn prune(feed: &TestFeed, retention: HistoryRetention, floor: Option<i64>) -> Vec<Pruned> {
    let mut connection = connect(feed.url()).await;
    let mut batches = Vec::new();
    loop {
        let bounds = history::read_bounds(&mut connection).await.unwrap();
        let bounds = bounds.unwrap();
        let pruned = history::prune(&mut connection, bounds, retention, floor).await;
        batches.push(pruned.unwrap());
        if batches.last().is_some_and(|pruned| !pruned.more) {
            return batches;
        }
    }
}

async fn kept(feed: &TestFeed) -> String {
    let ids = "SELECT min(id) || ' to ' || max(id) || ', ' || count(*) FROM change_history";
    feed.value(ids).await
}

async fn with_max_rows_the_newest_are_kept(version: Version) {
    let feed = history_of(version, 30, 30).await;
    let batches = prune(&feed, ROWS, None).await;
    let removed = Pruned {
        rows: 20,
        oldest: 21,
        more: false,
    };
    assert_eq!(batches, [removed]);
    assert_eq!(kept(&feed).await, "21 to 30, 10");
}

async fn with_max_age_the_recent_are_kept_without_a_gap(version: Version) {
    let feed = history_of(version, 30, 12).await;
    // As if the clock had been set back: an old change among recent ones.
    feed.run("UPDATE change_history SET created_at = now() - interval '3 hours' WHERE id = 20")
        .await;
    prune(&feed, HOUR, None).await;
    assert_eq!(kept(&feed).await, "13 to 30, 18");
}

async fn with_both_limits_whatever_exceeds_either_is_removed(version: Version) {
    for (old, expected) in [(5, "21 to 30, 10"), (25, "26 to 30, 5")] {
        let feed = history_of(version, 30, old).await;
        let both = HistoryRetention {
            max_rows: ROWS.max_rows,
            ..HOUR
        };
        prune(&feed, both, None).await;
        assert_eq!(kept(&feed).await, expected);
    }
}

async fn nothing_from_the_floor_on_is_removed(version: Version) {
    let feed = history_of(version, 30, 30).await;
    prune(&feed, ROWS, Some(8)).await;
    assert_eq!(kept(&feed).await, "8 to 30, 23");
    prune(&feed, HOUR, Some(8)).await;
    assert_eq!(kept(&feed).await, "8 to 30, 23");
    prune(&feed, HOUR, Some(1)).await;
    assert_eq!(kept(&feed).await, "8 to 30, 23");
}

async fn a_long_history_is_pruned_in_batches(version: Version) {
    let feed = history_of(version, 12_000, 12_000).await;
    let batches = prune(&feed, ROWS, None).await;
    let rows: Vec<u64> = batches.iter().map(|batch| batch.rows).collect();
    assert_eq!(rows, [5_000, 5_000, 1_990]);
    assert_eq!(kept(&feed).await, "11991 to 12000, 10");
}

async fn if_nothing_is_to_be_removed_no_statement_is_sent(version: Version) {
    let feed = history_of(version, 10, 0).await;
    let mut connection = connect(feed.url()).await;
    let bounds = history::read_bounds(&mut connection)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((bounds.oldest, bounds.newest), (1, 10));
    // From now on a statement would fail.
    feed.run("ALTER TABLE change_history RENAME TO elsewhere")
        .await;
    let both = HistoryRetention {
        max_rows: ROWS.max_rows,
        ..HOUR
    };
    for (retention, floor) in [(both, None), (HistoryRetention::default(), None)] {
        let pruned = history::prune(&mut connection, bounds, retention, floor).await;
        assert_eq!(pruned.unwrap().rows, 0);
    }
    let all_needed = HistoryBounds {
        newest: 1_000,
        ..bounds
    };
    let pruned = history::prune(&mut connection, all_needed, both, Some(1)).await;
    assert_eq!(pruned.unwrap().rows, 0);
    feed.run("ALTER TABLE elsewhere RENAME TO change_history")
        .await;
}

/// Providers make it so near a full disk, which pruning makes room on.
async fn a_database_that_is_read_only_by_default_is_pruned(version: Version) {
    let feed = history_of(version, 30, 30).await;
    let database = &feed.url().login.database;
    feed.run(&format!(
        "ALTER DATABASE {database} SET default_transaction_read_only = on"
    ))
    .await;
    prune(&feed, ROWS, None).await;
    assert_eq!(kept(&feed).await, "21 to 30, 10");
}
