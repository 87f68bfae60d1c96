//! Readers that end and servers that crash at random points under load.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pg_change_feed::error::{Category, Result};
use pg_change_feed::postgres;
use tokio::net::TcpStream;

use crate::support::cluster::Cluster;
use crate::support::feed::{PATIENCE, Reader, TestFeed, try_client};
use crate::support::history::read_sound_history;
use crate::support::random::Random;
use crate::support::replay::{Identity, assert_same, read_tables, replay};
use crate::support::server::Version;

on_each_version!(
    a_reader_that_ends_at_random_points_under_load_loses_and_duplicates_nothing,
    after_server_crashes_at_random_points_under_load_nothing_is_lost_or_duplicated,
);

const ITEMS: &str = "CREATE TABLE items (id bigserial PRIMARY KEY, note text, number int)";
const TABLES: [(&str, Identity); 1] = [("items", Identity::Id)];
const WRITERS: u64 = 3;

/// Writes and reads a feed, and counts what happens to it.
struct Load<'a> {
    feed: &'a TestFeed,
    seed: u64,
    over: Cell<bool>,
    /// Transactions that are known to have committed or rolled back.
    written: Cell<u64>,
    /// Cycles that were interrupted.
    interrupted: Cell<u64>,
    /// How long the last cycle took that stored something.
    usual_time: Cell<Duration>,
}

impl<'a> Load<'a> {
    fn new(feed: &'a TestFeed) -> Self {
        Self {
            feed,
            seed: Random::seed(),
            over: Cell::new(false),
            written: Cell::new(0),
            interrupted: Cell::new(0),
            usual_time: Cell::new(Duration::from_millis(20)),
        }
    }

    /// Writes until the test is over, with a new session whenever the server has ended the old one.
    async fn write(&self, writer: u64) {
        let mut random = Random::new(self.seed.wrapping_add(writer));
        let mut session = None;
        while !self.over.get() {
            let client = match session.take() {
                Some(client) => client,
                // The server may stop while the session begins.
                None => match try_client(self.feed.url()).await {
                    Ok(client) => client,
                    Err(_) => continue,
                },
            };
            // Only the table shows whether an interrupted transaction has committed.
            if client
                .batch_execute(&transaction(&mut random))
                .await
                .is_ok()
            {
                self.written.set(self.written.get() + 1);
                session = Some(client);
            }
            // Without pauses the writers would leave the reader no time for many cycles.
            tokio::time::sleep(Duration::from_millis(random.below(20))).await;
        }
    }

    /// Reads until the test is over, with a new connection whenever the old one has broken. If
    /// `drops` is set, cycles are dropped at random points.
    async fn read(&self, drops: bool) {
        let mut random = Random::new(!self.seed);
        while !self.over.get() {
            if let Err(error) = self.read_on(&mut random, drops).await {
                let category = error.category();
                let expected = matches!(category, Category::Connection | Category::SlotInUse);
                assert!(expected, "{error}: {error:?}");
                self.interrupted.set(self.interrupted.get() + 1);
            }
        }
    }

    /// Reads until the test is over or a cycle is interrupted.
    async fn read_on(&self, random: &mut Random, drops: bool) -> Result<()> {
        let url = self.feed.url();
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
        let stream = stream.map_err(postgres::Error::Io)?;
        let mut reader = Reader::resume(stream, self.feed).await?;
        reader.config.slice_bytes = random.pick(&[2 << 10, 2 << 20]);
        while !self.over.get() {
            let started = Instant::now();
            let patience = if drops && random.one_in(2) {
                let most = self.usual_time.get().as_micros();
                Duration::from_micros(random.below(u64::try_from(most).unwrap()))
            } else {
                PATIENCE
            };
            // Dropped in the middle, as when a process or an object ends.
            let Ok(report) = tokio::time::timeout(patience, reader.poll()).await else {
                self.interrupted.set(self.interrupted.get() + 1);
                return Ok(());
            };
            let report = report?;
            if let Some(error) = report.advance_error {
                return Err(error);
            }
            if report.stored > 0 {
                self.usual_time.set(started.elapsed());
            }
        }
        Ok(())
    }

    /// Checks afterwards that replaying the history results in the table.
    async fn prove(&self, version: Version, started: Instant) {
        self.feed.drain_among_others(&mut None).await;
        let history = read_sound_history(self.feed).await;
        println!(
            "{version:?}: {} transactions, {} changes, {} cycles interrupted in {:?}",
            self.written.get(),
            history.len(),
            self.interrupted.get(),
            started.elapsed(),
        );
        assert!(self.written.get() > 100 && self.interrupted.get() > 5);
        assert_same(
            &replay(&history, &TABLES),
            &read_tables(self.feed, &TABLES).await,
        );
    }
}

fn transaction(random: &mut Random) -> String {
    let (number, part) = (random.below(1_000_000), random.below(31));
    let change = random.pick(&[
        "INSERT INTO items (note, number) SELECT 'new', NUMBER FROM generate_series(1, 5);",
        "INSERT INTO items (note) SELECT repeat('x', 3000) FROM generate_series(1, 3);",
        "UPDATE items SET number = NUMBER WHERE id % 31 = PART;",
        "DELETE FROM items WHERE id % 31 = PART;",
    ]);
    let change = change.replace("NUMBER", &number.to_string());
    if random.one_in(30) {
        // Writes a snapshot to the WAL, from which peeks can begin. Otherwise each decodes all of
        // it.
        return "CHECKPOINT".into();
    }
    let end = if random.one_in(10) {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    format!("BEGIN; {}{end}", change.replace("PART", &part.to_string()))
}

async fn a_reader_that_ends_at_random_points_under_load_loses_and_duplicates_nothing(
    version: Version,
) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let started = Instant::now();
    let load = Load::new(&feed);
    let until_often_interrupted = async {
        while load.interrupted.get() < 40 {
            assert!(
                started.elapsed() < PATIENCE * 4,
                "cycles are hardly ever interrupted"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        load.over.set(true);
    };
    tokio::join!(
        join_all((0..WRITERS).map(|writer| load.write(writer))),
        load.read(true),
        until_often_interrupted,
    );
    load.prove(version, started).await;
}

async fn after_server_crashes_at_random_points_under_load_nothing_is_lost_or_duplicated(
    version: Version,
) {
    let cluster = Cluster::start(version);
    let url = cluster.url().parse().unwrap();
    let feed = TestFeed::in_database(url, ITEMS, "FOR TABLE items").await;
    let started = Instant::now();
    let load = Load::new(&feed);
    let crashing = async {
        let mut random = Random::new(load.seed.rotate_left(32));
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(random.below(500))).await;
            // Writers and reader wait meanwhile, each in the middle of something.
            cluster.crash();
            cluster.start_again();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        load.over.set(true);
    };
    tokio::join!(
        join_all((0..WRITERS).map(|writer| load.write(writer))),
        load.read(false),
        crashing,
    );
    load.prove(version, started).await;
}
