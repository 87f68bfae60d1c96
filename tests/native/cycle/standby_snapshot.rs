//! How much WAL Postgres reads again for every peek.

use super::idle::{feed_on, quiet_cluster};
use crate::support::server::Version;

on_each_version!(wal_that_is_read_again_does_not_grow_if_the_role_may_log_snapshots);

async fn wal_that_is_read_again_does_not_grow_if_the_role_may_log_snapshots(version: Version) {
    const ROUNDS: u64 = 8;
    let cluster = quiet_cluster(version);
    let feed = feed_on(&cluster, "FOR TABLE items").await;
    let mut reader = feed.reader().await;
    assert_eq!(
        reader.cycle.may_log_snapshots,
        version != Version::V15,
        "PostgreSQL has the function from 16 on"
    );
    let restart = format!(
        "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{}'",
        feed.config.slot
    );
    let began = feed.value(&restart).await;
    for _ in 0..ROUNDS {
        feed.run("INSERT INTO items (note) SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
            .await;
        let report = reader.poll().await.unwrap();
        assert_eq!((report.stored, report.complete), (1_000, true));
        assert!(report.advance_error.is_none() && report.snapshot_error.is_none());
    }
    let since = |from: &str| format!("SELECT (pg_current_wal_flush_lsn() - {from})::int8");
    let written = feed.value(&since(&format!("'{began}'::pg_lsn"))).await;
    let again = feed.value(&since(&format!("({restart})"))).await;
    println!("{written} bytes written, {again} are read again");
    let (written, again): (u64, u64) = (written.parse().unwrap(), again.parse().unwrap());
    if reader.cycle.may_log_snapshots {
        // The snapshot that is logged after one round is passed in the next.
        assert!(again < written / ROUNDS * 3);
    }
}
