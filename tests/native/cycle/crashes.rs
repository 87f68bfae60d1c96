//! Readers that end, and servers that crash, at random points under load.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pg_change_feed::error::{Category, Result};
use pg_change_feed::postgres;
use tokio::net::TcpStream;

use crate::support::cluster::Cluster;
use crate::support::feed::{PATIENCE, Reader, TestFeed, try_client};
use crate::support::history::read_sound_history;
use crate::support::replay::{Identity, assert_same, read_tables, replay};
use crate::support::server::Version;
use crate::support::workload::Random;

on_each_version!(
    a_reader_that_ends_at_random_points_under_load_loses_and_doubles_nothing,
    a_server_that_crashes_at_random_points_under_load_loses_and_doubles_nothing,
);

const ITEMS: &str = "CREATE TABLE items (id bigserial PRIMARY KEY, note text, number int)";
const TABLES: [(&str, Identity); 1] = [("items", Identity::Id)];
const WRITERS: u64 = 3;

/// What happens to the feed while it is written and read.
struct Load<'a> {
    feed: &'a TestFeed,
    seed: u64,
    over: Cell<bool>,
    /// Transactions that are known to have ended.
    written: Cell<u64>,
    /// Cycles that were broken off.
    broken: Cell<u64>,
    /// How long a cycle took that stored something.
    usual: Cell<Duration>,
}

impl<'a> Load<'a> {
    fn new(feed: &'a TestFeed) -> Self {
        Self {
            feed,
            seed: Random::seed(),
            over: Cell::new(false),
            written: Cell::new(0),
            broken: Cell::new(0),
            usual: Cell::new(Duration::from_millis(20)),
        }
    }

    /// Writes until it is over, with a new session whenever the server has ended the old one.
    async fn write(&self, writer: u64) {
        let mut random = Random::new(self.seed.wrapping_add(writer));
        let mut session = None;
        while !self.over.get() {
            let client = match session.take() {
                Some(client) => client,
                // The server may have gone while the session began.
                None => match try_client(self.feed.url()).await {
                    Ok(client) => client,
                    Err(_) => continue,
                },
            };
            // Whether a transaction that was cut off has committed is for the table to say.
            if client
                .batch_execute(&transaction(&mut random))
                .await
                .is_ok()
            {
                self.written.set(self.written.get() + 1);
                session = Some(client);
            }
            // Writers that never rested would leave the reader no time for many cycles.
            tokio::time::sleep(Duration::from_millis(random.below(20))).await;
        }
    }

    /// Reads, with a new connection whenever the old one has gone. If `drops`, cycles end at random
    /// points.
    async fn read(&self, drops: bool) {
        let mut random = Random::new(!self.seed);
        while !self.over.get() {
            if let Err(error) = self.read_on(&mut random, drops).await {
                let category = error.category();
                let expected = matches!(category, Category::Connection | Category::SlotInUse);
                assert!(expected, "{error}: {error:?}");
                self.broken.set(self.broken.get() + 1);
            }
        }
    }

    /// Reads until it is over or a cycle breaks.
    async fn read_on(&self, random: &mut Random, drops: bool) -> Result<()> {
        let url = self.feed.url();
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
        let stream = stream.map_err(postgres::Error::Io)?;
        let mut reader = Reader::resume(stream, self.feed).await?;
        reader.config.slice_bytes = random.choose(&[2 << 10, 2 << 20]);
        while !self.over.get() {
            let started = Instant::now();
            let patience = if drops && random.once_in(2) {
                let most = self.usual.get().as_micros();
                Duration::from_micros(random.below(u64::try_from(most).unwrap()))
            } else {
                PATIENCE
            };
            // Dropped in the middle, as with a process or an object that ends.
            let Ok(report) = tokio::time::timeout(patience, reader.poll()).await else {
                self.broken.set(self.broken.get() + 1);
                return Ok(());
            };
            let report = report?;
            if let Some(error) = report.advance_error {
                return Err(error);
            }
            if report.stored > 0 {
                self.usual.set(started.elapsed());
            }
        }
        Ok(())
    }

    /// Afterwards: the history gives the table.
    async fn prove(&self, version: Version, started: Instant) {
        self.feed.drain_among_others(&mut None).await;
        let history = read_sound_history(self.feed).await;
        println!(
            "{version:?}: {} transactions, {} changes, {} cycles broken off in {:?}",
            self.written.get(),
            history.len(),
            self.broken.get(),
            started.elapsed(),
        );
        assert!(self.written.get() > 100 && self.broken.get() > 5);
        assert_same(
            &replay(&history, &TABLES),
            &read_tables(self.feed, &TABLES).await,
        );
    }
}

fn transaction(random: &mut Random) -> String {
    let (number, part) = (random.below(1_000_000), random.below(31));
    let change = random.choose(&[
        "INSERT INTO items (note, number) SELECT 'new', NUMBER FROM generate_series(1, 5);",
        "INSERT INTO items (note) SELECT repeat('x', 3000) FROM generate_series(1, 3);",
        "UPDATE items SET number = NUMBER WHERE id % 31 = PART;",
        "DELETE FROM items WHERE id % 31 = PART;",
    ]);
    let change = change.replace("NUMBER", &number.to_string());
    if random.once_in(30) {
        // Leaves a snapshot in the WAL, where peeks can begin: else each decodes all of it again.
        return "CHECKPOINT".into();
    }
    let end = if random.once_in(10) {
        "ROLLBACK"
    } else {
        "COMMIT"
    };
    format!("BEGIN; {}{end}", change.replace("PART", &part.to_string()))
}

async fn a_reader_that_ends_at_random_points_under_load_loses_and_doubles_nothing(
    version: Version,
) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let started = Instant::now();
    let load = Load::new(&feed);
    let until_broken_often = async {
        while load.broken.get() < 40 {
            assert!(started.elapsed() < PATIENCE * 4, "it hardly ever breaks");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        load.over.set(true);
    };
    tokio::join!(
        join_all((0..WRITERS).map(|writer| load.write(writer))),
        load.read(true),
        until_broken_often,
    );
    load.prove(version, started).await;
}

async fn a_server_that_crashes_at_random_points_under_load_loses_and_doubles_nothing(
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
            // Writers and reader stand still meanwhile, each in the middle of what it does.
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
