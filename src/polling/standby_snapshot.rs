//! Where decoding begins. Every peek, and every advance, reads the WAL from the slot's `restart_lsn`
//! on, which moves no further than to the last snapshot of the running transactions in it (PostgreSQL
//! source, `SnapBuildProcessRunningXacts`). Postgres logs one every 15 seconds: on a busy server a peek
//! that gives one change may read a hundred megabytes before it. A role that may logs them more often.

use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::{Connection, Stream};

/// Reading so much takes Postgres about three milliseconds, and for each snapshot that it reads it
/// writes a small file to disk.
const SNAPSHOT_EVERY_BYTES: u64 = 512 << 10;

/// Whether a snapshot helps. Where a transaction that stays open holds `restart_lsn` back it does not,
/// so the more there is to be read, the fewer are logged. `logged`: where the last was.
pub(super) fn snapshot_is_due(flush: Lsn, restart: Lsn, logged: Lsn) -> bool {
    let read = flush.bytes_since(restart);
    flush.bytes_since(logged.max(restart)) >= SNAPSHOT_EVERY_BYTES.max(read / 2)
}

/// Queues the logging of a snapshot, which the next cycle finds (PostgreSQL documentation, "Backup
/// Control Functions", from PostgreSQL 16 on).
pub(super) fn queue_snapshot<S: Stream>(connection: &mut Connection<S>) -> Result<()> {
    Ok(connection.queue("SELECT pg_log_standby_snapshot()", &[])?)
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
        // The server has logged one itself meanwhile.
        assert!(!due(1_400, 1_000, 500) && due(1_512, 1_000, 500));
        // Another timeline, say.
        assert!(!due(0, 1_000, 2_000));
    }

    #[test]
    fn a_transaction_that_stays_open_is_answered_with_fewer_and_fewer_snapshots() {
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
