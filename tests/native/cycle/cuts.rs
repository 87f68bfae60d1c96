//! The connection breaks at every possible point.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Instant;

use futures_util::future::join_all;
use pg_change_feed::error::Category;
use pg_change_feed::postgres::DatabaseUrl;

use crate::support::cluster::Cluster;
use crate::support::faulty_stream::{Cut, Faults, FaultyStream};
use crate::support::feed::{Reader, TestFeed};
use crate::support::history::read_sound_history;
use crate::support::server::{Version, connect, open_socket};

on_each_version!(
    cut_after_any_byte_of_a_small_cycle_nothing_is_lost_or_duplicated,
    cut_after_thousands_of_bytes_of_a_large_cycle_nothing_is_lost_or_duplicated,
    cut_in_a_large_cycle_over_one_connection_nothing_is_lost_or_duplicated,
    a_socket_that_transfers_one_byte_at_a_time_carries_a_cycle,
    if_the_answer_to_commit_is_lost_nothing_is_lost_or_duplicated,
);

const ITEMS: &str = "CREATE TABLE items (id bigserial PRIMARY KEY, note text)";

/// Feeds whose connections are cut in parallel, since most of the time is spent waiting for the
/// server.
const FEEDS: usize = 4;

/// The number of cuts of a large cycle in each direction.
const LARGE_CUTS: usize = 1_000;

/// Feeds in databases of their own on a cluster of their own, since each peek decodes whatever was
/// written lately on the server. On a busy one that would take most of the time.
async fn feeds_on(cluster: &Cluster, size: &Size) -> Vec<TestFeed> {
    let url: DatabaseUrl = cluster.url().parse().unwrap();
    let mut feeds = Vec::new();
    for number in 0..FEEDS {
        let mut url = url.clone();
        let create = format!("CREATE DATABASE feed_{number}");
        connect(&url).await.execute(&create, &[]).await.unwrap();
        url.login.database = format!("feed_{number}");
        let mut feed = TestFeed::in_database(url, ITEMS, "FOR TABLE items").await;
        feed.config.slice_bytes = size.slice_bytes;
        feed.allows_second_connection = size.connections > 1;
        feeds.push(feed);
    }
    feeds
}

/// The offsets of the bytes that one cycle reads and writes after the login.
struct Traffic {
    read: Range<u64>,
    written: Range<u64>,
}

impl Traffic {
    /// Measures one cycle over `count` new rows.
    async fn measure(feed: &TestFeed, count: u64) -> Self {
        let checkpoint = feed.drain_among_others(&mut None).await;
        write(&feed.client().await, count).await;
        let stream = FaultyStream::new(open_socket(feed.url()).await, Faults::default());
        let traffic = stream.traffic();
        let mut reader = Reader::resume_at(stream, feed, checkpoint).await.unwrap();
        let before = (traffic.read(), traffic.written());
        assert_eq!(reader.poll().await.unwrap().stored, count);
        Self {
            read: before.0..traffic.read(),
            written: before.1..traffic.written(),
        }
    }

    /// The numbers of bytes read and written.
    fn bytes(&self) -> [u64; 2] {
        [&self.read, &self.written].map(|range| range.end - range.start)
    }

    /// The places where the cycle is cut: in each direction every byte, or `max_cuts` evenly spread
    /// ones.
    fn cuts(&self, max_cuts: usize) -> Vec<Faults> {
        let places = |range: &Range<u64>| {
            let len = usize::try_from(range.end - range.start).unwrap();
            range.clone().step_by(len.div_ceil(max_cuts)).enumerate()
        };
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

async fn write(client: &tokio_postgres::Client, count: u64) {
    let insert =
        format!("INSERT INTO items (note) SELECT repeat('x', 30) FROM generate_series(1, {count})");
    client.batch_execute(&insert).await.unwrap();
}

/// Cuts a cycle over `count` new rows at each of `cuts`, and lets a whole cycle follow each time.
/// Returns how many cuts broke a cycle.
async fn cut_and_read_on(feed: &TestFeed, cuts: &[Faults], count: u64) -> usize {
    let client = feed.client().await;
    let mut uncut = None;
    let mut stored = feed.drain_among_others(&mut uncut).await;
    let (mut expected, mut broken) = (stored.last_id, 0);
    for (nth, &faults) in cuts.iter().enumerate() {
        if nth % 20 == 0 {
            // Its snapshot of the running transactions lets peeks begin later in the WAL.
            client.batch_execute("CHECKPOINT").await.unwrap();
        }
        write(&client, count).await;
        expected += count.cast_signed();
        let stream = FaultyStream::new(open_socket(feed.url()).await, faults);
        let cut = async { Reader::resume_at(stream, feed, stored).await?.poll().await };
        let error = match cut.await {
            Err(error) => Some(error),
            // The only failure that does not fail the cycle.
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
        stored = feed.drain_among_others(&mut uncut).await;
        assert_eq!(stored.last_id, expected, "{faults:?}");
    }
    let history = read_sound_history(feed).await;
    let ids: HashSet<i64> = history
        .iter()
        .map(|change| change.data["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids.len(), history.len(), "a change is duplicated");
    assert_eq!(history.len(), usize::try_from(expected).unwrap());
    broken
}

/// The cycles that are cut.
struct Size {
    rows: u64,
    slice_bytes: usize,
    /// The number of connections that they can open.
    connections: usize,
    /// The maximum number of cuts in each direction.
    max_cuts: usize,
}

/// Cuts cycles in each direction, at every byte or at `max_cuts` of them.
async fn cut_cycles(version: Version, size: Size) {
    let started = Instant::now();
    let cluster = Cluster::start(version);
    let feeds = feeds_on(&cluster, &size).await;
    let traffic = Traffic::measure(&feeds[0], size.rows).await;
    let cuts = traffic.cuts(size.max_cuts);
    // Adjacent offsets go to different feeds, so that each feed covers all of the traffic.
    let share = |feed| cuts.iter().skip(feed).step_by(FEEDS).copied();
    let shares: Vec<Vec<Faults>> = (0..FEEDS).map(|feed| share(feed).collect()).collect();
    let cutting = feeds
        .iter()
        .zip(&shares)
        .map(|(feed, cuts)| cut_and_read_on(feed, cuts, size.rows));
    let broken: usize = join_all(cutting).await.iter().sum();
    let [read, written] = traffic.bytes();
    println!(
        "{version:?}: a cycle over {} rows receives {read} bytes and sends {written}; cut at \
         {} of these offsets, {broken} times before it had finished, in {:?}",
        size.rows,
        cuts.len(),
        started.elapsed(),
    );
    assert!(broken * 10 >= cuts.len() * 9, "few cuts broke a cycle");
}

async fn cut_after_any_byte_of_a_small_cycle_nothing_is_lost_or_duplicated(version: Version) {
    let size = Size {
        rows: 1,
        slice_bytes: 2 << 20,
        connections: 1,
        max_cuts: usize::MAX,
    };
    cut_cycles(version, size).await;
}

/// About ten slices. Both connections count towards the cut.
async fn cut_after_thousands_of_bytes_of_a_large_cycle_nothing_is_lost_or_duplicated(
    version: Version,
) {
    let size = Size {
        rows: 80,
        slice_bytes: 512,
        connections: 2,
        max_cuts: LARGE_CUTS,
    };
    cut_cycles(version, size).await;
}

async fn cut_in_a_large_cycle_over_one_connection_nothing_is_lost_or_duplicated(version: Version) {
    let size = Size {
        rows: 80,
        slice_bytes: 512,
        connections: 1,
        max_cuts: LARGE_CUTS / 4,
    };
    cut_cycles(version, size).await;
}

async fn a_socket_that_transfers_one_byte_at_a_time_carries_a_cycle(version: Version) {
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

/// The one moment at which the reader cannot know what happened and must ask the database.
async fn if_the_answer_to_commit_is_lost_nothing_is_lost_or_duplicated(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let traffic = Traffic::measure(&feed, 1).await;
    let client = feed.client().await;
    let mut stored = feed.drain_among_others(&mut None).await;
    // Backwards from the end of the cycle: before the answer to the advance is that to the commit.
    for read_limit in traffic.read.rev() {
        write(&client, 1).await;
        let expected = stored.last_id + 1;
        let faults = Faults {
            read_limit,
            ..Faults::default()
        };
        let stream = FaultyStream::new(open_socket(feed.url()).await, faults);
        let cut = async { Reader::resume_at(stream, &feed, stored).await?.poll().await };
        let failed = cut.await.is_err();
        let committed = "SELECT last_id FROM replication_checkpoint";
        let committed = feed.value(committed).await == expected.to_string();
        stored = feed.drain_among_others(&mut None).await;
        assert_eq!(stored.last_id, expected);
        if failed && committed {
            read_sound_history(&feed).await;
            return;
        }
    }
    panic!("no cut hit the answer to a commit");
}
