//! What a feed costs while nothing happens, and how its own writes affect it. Each test measures
//! the WAL of a cluster of its own, since on a shared one others write too.

use pg_change_feed::polling::Report;

use crate::support::cluster::Cluster;
use crate::support::faulty_stream::{Faults, FaultyStream};
use crate::support::feed::{Reader, TestFeed};
use crate::support::history::read_sound_history;
use crate::support::server::{Version, open_socket};

on_each_version!(
    an_idle_poll_is_one_round_trip_that_neither_locks_nor_writes_nor_decodes,
    a_publication_for_all_tables_does_not_feed_on_its_own_writes,
    an_idle_publication_retains_little_wal_while_others_write,
    nothing_is_consumed_before_it_is_on_disk,
);

const ITEMS: &str = "CREATE TABLE items (id bigserial PRIMARY KEY, note text)";

/// A cluster in which only the test writes, except for a snapshot of the running transactions about
/// 15 seconds after the last write.
pub(crate) fn quiet_cluster(version: Version) -> Cluster {
    let settings = [("autovacuum", "off"), ("checkpoint_timeout", "1h")];
    Cluster::start_with(version, &settings)
}

pub(crate) async fn feed_on(cluster: &Cluster, publication: &str) -> TestFeed {
    let url = cluster.url().parse().unwrap();
    TestFeed::in_database(url, ITEMS, publication).await
}

async fn wal_position(feed: &TestFeed) -> String {
    feed.value("SELECT pg_current_wal_insert_lsn()").await
}

async fn an_idle_poll_is_one_round_trip_that_neither_locks_nor_writes_nor_decodes(
    version: Version,
) {
    let cluster = quiet_cluster(version);
    let feed = feed_on(&cluster, "FOR TABLE items").await;
    feed.run("INSERT INTO items DEFAULT VALUES").await;
    let stream = FaultyStream::new(open_socket(feed.url()).await, Faults::default());
    let traffic = stream.traffic();
    let mut reader = Reader::resume(stream, &feed).await.unwrap();

    // The server may write its own snapshot in between, once.
    let mut most_idle = 0;
    for _ in 0..3 {
        assert_eq!(reader.drain().await.unwrap(), u64::from(most_idle == 0));
        let (before, written) = (wal_position(&feed).await, traffic.written());
        let mut idle = 0;
        while idle < 1_000 && reader.poll().await.unwrap().idle {
            idle += 1;
        }
        most_idle = idle.max(1);
        if idle == 1_000 {
            assert_eq!(wal_position(&feed).await, before, "idle polls wrote WAL");
            let sent = traffic.written() - written;
            assert!(
                sent < 100 * 1_000,
                "idle polls sent more than one statement each"
            );
            break;
        }
    }
    assert_eq!(most_idle, 1_000, "polls of a quiet server are not idle");

    // The statement names no table, so it takes no lock; and it needs neither write access nor the
    // slot.
    let statement = "SELECT query FROM pg_stat_activity \
                     WHERE application_name = 'pg-change-feed' AND backend_type = 'client backend'";
    let statement = feed.value(statement).await;
    assert_eq!(statement, "SELECT pg_catalog.pg_current_wal_flush_lsn()");
    let read_only = "SET default_transaction_read_only = on";
    reader.connection.execute(read_only, &[]).await.unwrap();
    let slot = &feed.config.slot;
    feed.run(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await;
    for _ in 0..100 {
        assert!(reader.poll().await.unwrap().idle);
    }
}

async fn a_publication_for_all_tables_does_not_feed_on_its_own_writes(version: Version) {
    let cluster = quiet_cluster(version);
    let mut feed = feed_on(&cluster, "FOR ALL TABLES").await;
    // Far fewer than what one cycle itself writes.
    feed.config.max_changes = 100;
    let mut reader = feed.reader().await;
    for round in 0..3 {
        feed.run("INSERT INTO items SELECT FROM generate_series(1, 2000)")
            .await;
        let mut reports: Vec<Report> = Vec::new();
        while !reports.last().is_some_and(|report| report.idle) {
            assert!(reports.len() < 20, "cycles go on without end: {reports:?}");
            reports.push(reader.poll().await.unwrap());
        }
        let stored: u64 = reports.iter().map(|report| report.stored).sum();
        assert_eq!(stored, 2_000, "in round {round}");
    }
    let history = read_sound_history(&feed).await;
    assert_eq!(history.len(), 6_000);
    assert!(history.iter().all(|change| change.table == "items"));

    // The server writes a snapshot of its own now and then. The feed adds nothing to that.
    let before = wal_position(&feed).await;
    for _ in 0..500 {
        reader.poll().await.unwrap();
    }
    let grown = format!("SELECT pg_current_wal_insert_lsn() - '{before}'::pg_lsn");
    let grown: u64 = feed.value(&grown).await.parse().unwrap();
    assert!(grown < 1_000, "500 polls wrote {grown} bytes of WAL");
}

async fn an_idle_publication_retains_little_wal_while_others_write(version: Version) {
    const ROUND_BYTES: u64 = 4 << 20;
    let cluster = quiet_cluster(version);
    let feed = feed_on(&cluster, "FOR TABLE items").await;
    feed.run("CREATE TABLE foreign_rows (body text)").await;
    let mut reader = feed.reader().await;
    let began = wal_position(&feed).await;
    let slot = &feed.config.slot;
    let retained = format!(
        "SELECT (pg_current_wal_lsn() - restart_lsn)::int8 FROM pg_replication_slots \
         WHERE slot_name = '{slot}'"
    );
    let mut most = 0;
    for _ in 0..24 {
        // A checkpoint also writes the snapshot without which no slot can release WAL.
        feed.run(&format!(
            "INSERT INTO foreign_rows SELECT repeat('x', 1000) \
             FROM generate_series(1, {ROUND_BYTES} / 1000); CHECKPOINT"
        ))
        .await;
        assert_eq!(reader.drain().await.unwrap(), 0);
        most = most.max(feed.value(&retained).await.parse::<u64>().unwrap());
    }
    let written = format!("SELECT (pg_current_wal_lsn() - '{began}'::pg_lsn)::int8");
    let written: u64 = feed.value(&written).await.parse().unwrap();
    println!("{written} bytes written, {most} retained at most");
    assert!(written > 24 * ROUND_BYTES);
    assert!(most < (4 << 20) + 4 * ROUND_BYTES, "{most} bytes retained");
}

/// If the server does not wait for the disk at commit, a crash could lose the history and keep the
/// slot's position.
async fn nothing_is_consumed_before_it_is_on_disk(version: Version) {
    let settings = [
        ("synchronous_commit", "off"),
        ("wal_writer_delay", "10s"),
        ("autovacuum", "off"),
    ];
    let cluster = Cluster::start_with(version, &settings);
    let feed = feed_on(&cluster, "FOR TABLE items").await;
    for _ in 0..3 {
        // With the snapshot of a checkpoint the slot can advance, which is saved at once.
        feed.run("SET synchronous_commit = on; INSERT INTO items DEFAULT VALUES; CHECKPOINT")
            .await;
        let mut reader = feed.reader().await;
        assert_eq!(reader.poll().await.unwrap().stored, 1);
        cluster.crash();
        cluster.start_again();
        // Resuming fails if the slot is ahead of the checkpoint.
        feed.drain().await;
    }
    assert_eq!(read_sound_history(&feed).await.len(), 3);
}
