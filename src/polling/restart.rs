//! Where decoding begins. Every peek, and every advance, reads the WAL from the slot's `restart_lsn`
//! on, which moves no further than to the last record of the transactions that run (PostgreSQL source,
//! `SnapBuildProcessRunningXacts`). Postgres writes one every 15 seconds: on a busy server a peek that
//! gives one change may read a hundred megabytes before it. Whoever may, writes them more often.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::Connection;

/// Reading so much takes Postgres about three milliseconds, and a record makes its readers write a
/// small file to disk.
const RECORD_EVERY_BYTES: u64 = 512 << 10;

/// Whether a record helps. Where a transaction that stays open holds `restart_lsn` back it does not,
/// so the more there is to be read, the fewer are written. `recorded`: where the last was.
pub(super) fn record_is_due(flush: Lsn, restart: Lsn, recorded: Lsn) -> bool {
    let read = flush.bytes_since(restart);
    flush.bytes_since(recorded.max(restart)) >= RECORD_EVERY_BYTES.max(read / 2)
}

/// Queues the writing of a record, which the next cycle finds (PostgreSQL documentation, "Backup
/// Control Functions", from PostgreSQL 16 on).
pub(super) fn queue_record<S>(connection: &mut Connection<S>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Ok(connection.queue("SELECT pg_log_standby_snapshot()", &[])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    #[test]
    fn a_record_is_due_when_much_was_written_since_the_last_one() {
        let due = |flush: u64, restart: u64, recorded: u64| {
            record_is_due(Lsn(flush * KIB), Lsn(restart * KIB), Lsn(recorded * KIB))
        };
        assert!(!due(511, 0, 0) && due(512, 0, 0));
        assert!(!due(1_000, 0, 500) && due(1_012, 0, 500));
        // The server has written one itself meanwhile.
        assert!(!due(1_400, 1_000, 500) && due(1_512, 1_000, 500));
        // Another timeline, say.
        assert!(!due(0, 1_000, 2_000));
    }

    #[test]
    fn a_transaction_that_stays_open_is_answered_with_fewer_and_fewer_records() {
        let (mut recorded, mut records) = (Lsn::INVALID, 0);
        for flush in (0..=10 << 10).map(|mebibytes| Lsn(mebibytes << 20)) {
            if record_is_due(flush, Lsn::INVALID, recorded) {
                (recorded, records) = (flush, records + 1);
            }
        }
        assert!((10..=20).contains(&records), "{records} in ten gibibytes");
    }
}
