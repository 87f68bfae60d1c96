//! Snapshots of the running transactions, which keep decoding short.
//!
//! Every peek and every advance reads the WAL from the slot's `restart_lsn` on, which moves no
//! further than to the last such snapshot in the WAL (PostgreSQL source,
//! `SnapBuildProcessRunningXacts`). Postgres logs one every 15 seconds: on a busy server, a peek
//! that returns one change may first read a hundred megabytes. A role that has the right to can log
//! them more often.

use crate::error::Result;
use crate::lsn::Lsn;
use crate::pipeline::Queued;
use crate::postgres::{Connection, Stream};

/// Reading this much takes Postgres about three milliseconds. More snapshots would not pay: for
/// each one that it reads, Postgres writes a small file to disk.
const SNAPSHOT_EVERY_BYTES: u64 = 512 << 10;

/// Whether logging a snapshot helps. It does not while a transaction that stays open holds
/// `restart_lsn` back, so the more there is to read, the fewer are logged. `logged` is the flush
/// LSN when the last one was logged.
pub(super) fn snapshot_is_due(flush: Lsn, restart: Lsn, logged: Lsn) -> bool {
    let read = flush.bytes_since(restart);
    flush.bytes_since(logged.max(restart)) >= SNAPSHOT_EVERY_BYTES.max(read / 2)
}

/// Queues the logging of a snapshot, which the next cycle benefits from (PostgreSQL documentation,
/// "Backup Control Functions"; PostgreSQL 16 and later).
pub(super) fn queue_snapshot<S: Stream>(connection: &mut Connection<S>) -> Result<Queued> {
    let log = "SELECT pg_catalog.pg_log_standby_snapshot()";
    Ok(Queued::statement(connection, log, &[])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    #[test]
    fn a_snapshot_is_due_when_much_was_written_since_the_last_one() {
        let due = |flush: u64, restart: u64, logged: u64| {
            snapshot_is_due(Lsn(flush * KIB), Lsn(restart * KIB), Lsn(logged * KIB))
        };
        assert!(!due(511, 0, 0) && due(512, 0, 0));
        assert!(!due(1_000, 0, 500) && due(1_012, 0, 500));
        // The server has logged one of its own meanwhile.
        assert!(!due(1_400, 1_000, 500) && due(1_512, 1_000, 500));
        // As on another timeline.
        assert!(!due(0, 1_000, 2_000));
    }

    #[test]
    fn while_a_transaction_stays_open_fewer_and_fewer_snapshots_are_logged() {
        let (mut logged, mut snapshots) = (Lsn::INVALID, 0);
        for flush in (0..=10 << 10).map(|mebibytes| Lsn(mebibytes << 20)) {
            if snapshot_is_due(flush, Lsn::INVALID, logged) {
                (logged, snapshots) = (flush, snapshots + 1);
            }
        }
        assert!(
            (10..=20).contains(&snapshots),
            "{snapshots} in ten gibibytes"
        );
    }
}
