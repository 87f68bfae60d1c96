//! Memory is bounded, whatever the size of a transaction or a row. The peaks are those of the whole
//! process, so these tests are a single one, in a binary of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

#[macro_use]
mod support;

use std::time::Instant;

use peak_alloc::PeakAlloc;
use support::feed::TestFeed;
use support::history::read_sound_history;
use support::server::Version;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, note text, body text, other text)";

#[tokio::test]
async fn neither_a_giant_transaction_nor_a_giant_row_needs_more_memory_than_a_few_slices() {
    for version in Version::ALL {
        a_drain_of_many_transactions(version).await;
        a_giant_transaction(version).await;
        a_giant_row(version).await;
    }
}

/// Drains the feed. Returns the peak of the memory that it used, in bytes.
async fn drain_measured(feed: &TestFeed) -> usize {
    let mut reader = feed.reader().await;
    let started = Instant::now();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let (mut stored, mut cycles, mut phases) = (0, 0, [0; 5]);
    loop {
        let report = reader.poll().await.unwrap();
        stored += report.stored;
        cycles += 1;
        let spent = report.phases;
        let spent = [
            spent.probe,
            spent.peek,
            spent.store,
            spent.commit,
            spent.advance,
        ];
        for (sum, spent) in phases.iter_mut().zip(spent) {
            *sum += spent;
        }
        if report.complete {
            break;
        }
    }
    let peak = MEMORY.peak_usage() - before;
    println!(
        "  {stored} changes in {cycles} cycles and {} ms (probe, peek, store, commit, advance: \
         {phases:?} ms), peak {} KiB",
        started.elapsed().as_millis(),
        peak >> 10,
    );
    peak
}

/// The time that it takes is printed but not checked.
async fn a_drain_of_many_transactions(version: Version) {
    println!("{version:?}, 100,000 inserts in 10,000 transactions");
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    feed.run(
        "DO $$ BEGIN FOR n IN 0..9999 LOOP \
         INSERT INTO items SELECT n * 10 + m, 'note', 'body' FROM generate_series(0, 9) m; \
         COMMIT; END LOOP; END $$",
    )
    .await;
    let peak = drain_measured(&feed).await;
    assert!(peak < 24 << 20, "{peak} bytes");
}

/// Its commit comes last, but each of its rows is stored with the end of that commit.
async fn a_giant_transaction(version: Version) {
    println!("{version:?}, one transaction of 200,000 rows in slices of 128 KiB");
    let mut feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    feed.config.slice_bytes = 128 << 10;
    feed.run(
        "INSERT INTO items SELECT n, 'note ' || n, repeat('body', 20) \
         FROM generate_series(1, 200000) n",
    )
    .await;
    let commit = format!(
        "SELECT lsn FROM pg_logical_slot_peek_binary_changes('{}', NULL, NULL, 'proto_version', \
         '1', 'publication_names', 'feed') WHERE get_byte(data, 0) = {}",
        feed.config.slot, b'C',
    );
    let commit = feed.value(&commit).await;
    let peak = drain_measured(&feed).await;
    assert!(peak < 8 << 20, "{peak} bytes");
    let sound = format!(
        "SELECT count(*) = 200000 AND min(id) = 1 AND max(id) = 200000 \
           AND count(DISTINCT data -> 'id') = 200000 \
           AND bool_and(id = (data ->> 'id')::int8 AND lsn = '{commit}') FROM change_history"
    );
    assert_eq!(feed.value(&sound).await, "t");
}

/// The server cuts the message: neither it nor the column ever arrives whole.
async fn a_giant_row(version: Version) {
    println!("{version:?}, rows of 200 MB and of 60 MB among small ones");
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    feed.run(
        "INSERT INTO items VALUES (1, 'before', 'small'); \
         INSERT INTO items VALUES (2, 'large', repeat('x', 200000000), 'after it'); \
         UPDATE items SET note = 'unchanged' WHERE id = 2; \
         INSERT INTO items SELECT n, repeat('y', 20000000), repeat('z', 20000000), \
           repeat('z', 20000000) FROM generate_series(3, 5) n; \
         INSERT INTO items VALUES (6, 'after', 'small')",
    )
    .await;
    let peak = drain_measured(&feed).await;
    assert!(peak < 64 << 20, "{peak} bytes");
    let history = read_sound_history(&feed).await;
    let received: Vec<_> = history
        .iter()
        .map(|change| {
            (
                change.data["id"].as_i64().unwrap(),
                change.omitted.join(","),
            )
        })
        .collect();
    assert_eq!(
        received,
        [
            (1, String::new()),
            (2, "body,other".into()),
            (2, String::new()),
            (3, "body,note,other".into()),
            (4, "body,note,other".into()),
            (5, "body,note,other".into()),
            (6, String::new()),
        ]
    );
    assert_eq!(history[1].data["note"], "large");
    assert_eq!(history[2].unchanged, ["body"]);
}
