//! The connection breaks, at every point there is.

use std::collections::HashSet;
use std::ops::Range;

use pg_change_feed::error::Category;

use crate::support::cluster::Cluster;
use crate::support::faulty_stream::{Cut, Faults, FaultyStream};
use crate::support::feed::{Reader, TestFeed};
use crate::support::history::read_sound_history;
use crate::support::server::{Version, open_socket};

on_each_version!(
    cut_after_any_byte_of_a_small_cycle_nothing_is_lost_or_doubled,
    cut_after_thousands_of_bytes_of_a_large_cycle_nothing_is_lost_or_doubled,
    a_socket_that_moves_one_byte_at_a_time_carries_a_cycle,
    an_answer_to_commit_that_is_lost_loses_and_doubles_nothing,
);

const ITEMS: &str = "CREATE TABLE items (id bigserial PRIMARY KEY, note text)";

/// A feed on a cluster of its own: each peek decodes what anybody has written lately, which on a
/// busy server is most of the time.
async fn feed_on(cluster: &Cluster) -> TestFeed {
    let url = cluster.url().parse().unwrap();
    TestFeed::in_database(url, ITEMS, "FOR TABLE items").await
}

/// What one cycle reads and writes, from after the login and the resuming.
struct Traffic {
    read: Range<u64>,
    written: Range<u64>,
}

impl Traffic {
    /// Measures one cycle over `count` new rows.
    async fn measure(feed: &TestFeed, count: u64) -> Self {
        write(&feed.client().await, count).await;
        let stream = FaultyStream::new(open_socket(feed.url()).await, Faults::default());
        let traffic = stream.traffic();
        let mut reader = Reader::resume(stream, feed).await.unwrap();
        let before = (traffic.read(), traffic.written());
        assert_eq!(reader.poll().await.unwrap().stored, count);
        Self {
            read: before.0..traffic.read(),
            written: before.1..traffic.written(),
        }
    }

    /// Every `step`th place where the cycle can be cut, from the `first` on, in both directions.
    fn cuts(&self, first: usize, step: usize) -> Vec<Faults> {
        let places = |range: &Range<u64>| range.clone().skip(first).step_by(step).enumerate();
        let faults = |nth| Faults {
            cut: [Cut::Close, Cut::Reset][nth % 2],
            ..Faults::default()
        };
        let reads = places(&self.read).map(|(nth, read_limit)| Faults {
            read_limit,
            ..faults(nth)
        });
        let writes = places(&self.written).map(|(nth, write_limit)| Faults {
            write_limit,
            ..faults(nth)
        });
        reads.chain(writes).collect()
    }
}

/// `CUT_EVERY_BYTE=1` cuts at every byte of a small cycle and at thousands of a large one, which
/// takes some ten minutes; without it a sample does.
fn thorough() -> bool {
    std::env::var("CUT_EVERY_BYTE").is_ok_and(|value| value == "1")
}

async fn write(client: &tokio_postgres::Client, count: u64) {
    let insert =
        format!("INSERT INTO items (note) SELECT repeat('x', 30) FROM generate_series(1, {count})");
    client.batch_execute(&insert).await.unwrap();
}

/// Cuts a cycle at each of `cuts`, each time over `count` new rows, and then reads on.
async fn cut_and_read_on(feed: &TestFeed, cuts: &[Faults], count: u64) {
    let client = feed.client().await;
    let mut expected = read_sound_history(feed).await.len() as u64;
    let (mut broken, mut whole) = (0, None);
    for (nth, &faults) in cuts.iter().enumerate() {
        if nth % 20 == 0 {
            // Its snapshot of running transactions lets peeks begin later in the WAL.
            client.batch_execute("CHECKPOINT").await.unwrap();
        }
        write(&client, count).await;
        expected += count;
        let cut = async { feed.faulty_reader(faults).await?.poll().await };
        let error = match cut.await {
            Err(error) => Some(error),
            // Only the advance is left to fail without the cycle failing.
            Ok(report) => report.advance_error,
        };
        if let Some(error) = error {
            let category = error.category();
            assert!(
                matches!(category, Category::Connection | Category::SlotInUse),
                "{faults:?}: {error:?}"
            );
            broken += 1;
        }
        let last_id = feed.drain_among_others(&mut whole).await;
        assert_eq!(last_id.cast_unsigned(), expected, "{faults:?}");
    }
    assert!(
        broken * 10 >= cuts.len() * 9,
        "only {broken} of {} cuts broke a cycle",
        cuts.len()
    );
    let history = read_sound_history(feed).await;
    let ids: HashSet<i64> = history
        .iter()
        .map(|change| change.data["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids.len() as u64, expected, "a change is there twice");
    assert_eq!(history.len() as u64, expected);
}

async fn cut_after_any_byte_of_a_small_cycle_nothing_is_lost_or_doubled(version: Version) {
    let cluster = Cluster::start(version);
    let feed = feed_on(&cluster).await;
    let traffic = Traffic::measure(&feed, 1).await;
    let step = if thorough() { 1 } else { 6 };
    // Each run takes other bytes, so that they come to all of them.
    let first = std::process::id() as usize % step;
    let cuts = traffic.cuts(first, step);
    println!("{} cuts, every {step} bytes from {first}", cuts.len());
    cut_and_read_on(&feed, &cuts, 1).await;
}

async fn cut_after_thousands_of_bytes_of_a_large_cycle_nothing_is_lost_or_doubled(
    version: Version,
) {
    let cluster = Cluster::start(version);
    let mut feed = feed_on(&cluster).await;
    // Some ten slices.
    feed.feed.slice_bytes = 512;
    let traffic = Traffic::measure(&feed, 80).await;
    let all = traffic.cuts(0, 1).len();
    let cuts = traffic.cuts(0, all / if thorough() { 4_000 } else { 300 });
    println!("{} cuts in {all} bytes", cuts.len());
    cut_and_read_on(&feed, &cuts, 80).await;
}

async fn a_socket_that_moves_one_byte_at_a_time_carries_a_cycle(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    write(&feed.client().await, 100).await;
    let faults = Faults {
        chunk: 1,
        ..Faults::default()
    };
    let mut reader = feed.faulty_reader(faults).await.unwrap();
    assert_eq!(reader.drain().await.unwrap(), 100);
    assert_eq!(read_sound_history(&feed).await.len(), 100);
}

/// The one moment at which the reader cannot know what happened: it asks the database.
async fn an_answer_to_commit_that_is_lost_loses_and_doubles_nothing(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let traffic = Traffic::measure(&feed, 1).await;
    let client = feed.client().await;
    let stored = "SELECT last_id::text FROM replication_checkpoint";
    // Backwards from the end of the cycle: past the advance's answer comes the commit's.
    for read_limit in traffic.read.rev() {
        let before: i64 = feed.value(stored).await.parse().unwrap();
        write(&client, 1).await;
        let faults = Faults {
            read_limit,
            ..Faults::default()
        };
        let failed = async { feed.faulty_reader(faults).await?.poll().await };
        let failed = failed.await.is_err();
        let after: i64 = feed.value(stored).await.parse().unwrap();
        assert_eq!(feed.drain_among_others(&mut None).await, before + 1);
        if failed && after > before {
            read_sound_history(&feed).await;
            return;
        }
    }
    panic!("no cut hit the answer to a commit");
}
