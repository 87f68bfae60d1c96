//! The random workload: whatever is written, and however often the reader's connection breaks,
//! replaying the history results in the tables.

use std::time::Instant;

use futures_util::future::join_all;
use pg_change_feed::error::Category;
use pg_change_feed::polling::Expect;

use crate::support::cluster::Cluster;
use crate::support::faulty_stream::{Cut, Faults};
use crate::support::feed::TestFeed;
use crate::support::history::{Stored, read_sound_history};
use crate::support::random::Random;
use crate::support::replay::{assert_same, read_tables, replay};
use crate::support::server::Version;
use crate::support::workload::{SCHEMA, TABLES, Writer, Written};

on_each_version!(replaying_the_history_of_a_random_workload_results_in_the_tables);

const WRITERS: u64 = 6;
const TRANSACTIONS: u64 = 20_400;

async fn replaying_the_history_of_a_random_workload_results_in_the_tables(version: Version) {
    let seed = Random::seed();
    // A cluster of its own, so that checkpoints do not disturb other tests.
    let cluster = Cluster::start_with(version, &[("max_prepared_transactions", "50")]);
    let publication = "FOR TABLE accounts, documents, events, keyed";
    let url = cluster.url().parse().unwrap();
    let feed = TestFeed::in_database(url, SCHEMA, publication).await;
    let oracle = format!("{}_oracle", feed.config.slot);
    feed.run(&format!(
        "SELECT pg_create_logical_replication_slot('{oracle}', 'test_decoding')"
    ))
    .await;

    let started = Instant::now();
    let writer = |name| {
        let feed = &feed;
        async move {
            let writer = Writer::new(feed, seed, name).await;
            writer.write(feed, TRANSACTIONS / WRITERS).await
        }
    };
    let writing = async {
        let written = join_all((0..WRITERS).map(writer)).await;
        // The reader stops once it has reached this.
        feed.run("INSERT INTO keyed VALUES (0, 'the end')").await;
        written
    };
    let (written, broken) = tokio::join!(writing, read_to_the_end(&feed, seed));
    let written = Written {
        transactions: written.iter().map(|written| written.transactions).sum(),
        failed: written.iter().map(|written| written.failed).sum(),
    };
    let history = read_sound_history(&feed).await;
    println!(
        "{version:?}: {written:?}, {} changes in {:?}, the reader's connection broke {broken} times",
        history.len(),
        started.elapsed(),
    );
    assert!(written.transactions >= 20_000 && broken > 0);

    assert_same(
        &replay(&history, &TABLES),
        &read_tables(&feed, &TABLES).await,
    );
    assert_same_order(&history, &decode_independently(&feed, &oracle).await);
}

/// Reads with connections that break and with slices and peeks of many sizes, until the last change
/// is stored. Returns how many connections broke.
async fn read_to_the_end(feed: &TestFeed, seed: u64) -> u64 {
    let mut random = Random::new(!seed);
    let mut broken = 0;
    let end = "SELECT FROM change_history WHERE table_name = 'keyed' AND data -> 'id' = '0'";
    let client = feed.client().await;
    while client.query_opt(end, &[]).await.unwrap().is_none() {
        let limit = |random: &mut Random| {
            let most = 1 << random.pick(&[14, 18, 22, 26]);
            5_000 + random.below(most)
        };
        let faults = Faults {
            read_limit: limit(&mut random),
            write_limit: limit(&mut random),
            cut: random.pick(&[Cut::Close, Cut::Reset]),
            ..Faults::default()
        };
        let reading = async {
            let mut reader = feed.faulty_reader(faults).await?;
            if random.one_in(3) {
                reader.connector.refuse();
            }
            reader.config.max_changes = random.pick(&[500, 2_000, 10_000]);
            reader.config.slice_bytes = random.pick(&[2 << 10, 64 << 10, 2 << 20]);
            loop {
                let expect = random.pick(&[Expect::Nothing, Expect::Changes]);
                let report = reader.poll_expecting(expect).await?;
                if let Some(error) = report.advance_error {
                    return Err(error);
                }
                if report.idle || report.stored == 0 {
                    return Ok(());
                }
            }
        };
        if let Err(error) = reading.await {
            let category = error.category();
            let expected = matches!(category, Category::Connection | Category::SlotInUse);
            assert!(expected, "{faults:?}: {error}: {error:?}");
            broken += 1;
        }
    }
    broken
}

/// A change as another output plugin reports it: transaction, table, operation.
type Reported = (i64, String, String);

/// Decodes the same WAL with `test_decoding`.
async fn decode_independently(feed: &TestFeed, slot: &str) -> Vec<Reported> {
    const DECODE: &str = "\
SELECT xid::text::int8, left(data, 100) FROM pg_logical_slot_peek_changes($1, NULL, NULL, \
'skip-empty-xacts', '1') WHERE data LIKE 'table public.%' \
AND data NOT LIKE 'table public.change_history:%' \
AND data NOT LIKE 'table public.replication_checkpoint:%'";
    let rows = feed.client().await.query(DECODE, &[&slot]).await.unwrap();
    let mut reported = Vec::new();
    for row in &rows {
        // table public.a, public.b: TRUNCATE: (no-flags)
        let text: &str = row.get(1);
        let mut parts = text.strip_prefix("table ").unwrap().split(": ");
        let (tables, operation) = (parts.next().unwrap(), parts.next().unwrap());
        for table in tables.split(", ") {
            let table = table.strip_prefix("public.").unwrap();
            reported.push((row.get(0), table.to_owned(), operation.to_lowercase()));
        }
    }
    reported
}

fn assert_same_order(history: &[Stored], reported: &[Reported]) {
    for (change, expected) in history.iter().zip(reported) {
        let stored = (change.xid, change.table.clone(), change.operation.clone());
        assert_eq!(&stored, expected, "at id {}", change.id);
    }
    assert_eq!(history.len(), reported.len());
}
