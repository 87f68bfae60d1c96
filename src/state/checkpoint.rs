//! The checkpoint row: how far a slot's changes are stored. Its lock makes two readers of one slot
//! take turns.

use super::server::Server;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::{Connection, Param, Row, Stream};

/// The row of `replication_checkpoint` for one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Incremented whenever changes may have been missed. Positions of another epoch are void.
    pub epoch: i32,
    /// Every transaction that committed before it is stored.
    pub lsn: Lsn,
    /// The id of the newest stored change; 0 before the first.
    pub last_id: i64,
    /// The cluster that `lsn` belongs to.
    pub system_identifier: String,
    /// The timeline that `lsn` belongs to.
    pub timeline: i64,
}

impl Checkpoint {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            epoch: row.get(0)?,
            lsn: row.get(1)?,
            last_id: row.get(2)?,
            system_identifier: row.get(3)?,
            timeline: row.get(4)?,
        })
    }

    /// Reads the checkpoint without a lock.
    pub async fn read<S: Stream>(
        connection: &mut Connection<S>,
        slot: &str,
    ) -> Result<Option<Self>> {
        const READ: &str = "SELECT epoch, lsn, last_id, system_identifier, timeline \
                            FROM replication_checkpoint WHERE slot = $1::text";
        let row = connection
            .query_optional(READ, &[Param::Text(slot)])
            .await?;
        row.as_ref().map(Self::from_row).transpose()
    }

    /// Another slot whose changes are in the same history, if there is one. Two feeds in one
    /// history would assign the same ids.
    pub(super) async fn other_slot<S: Stream>(
        connection: &mut Connection<S>,
        slot: &str,
    ) -> Result<Option<String>> {
        const OTHER: &str =
            "SELECT slot FROM replication_checkpoint WHERE slot <> $1::text LIMIT 1";
        let row = connection
            .query_optional(OTHER, &[Param::Text(slot)])
            .await?;
        Ok(row.map(|row| row.get(0)).transpose()?)
    }

    /// Writes the first checkpoint of a slot. Its epoch is above that of any history that an
    /// earlier slot has left, and above `known_epoch`, the last one that the object knows (0:
    /// none).
    pub(super) async fn insert<S: Stream>(
        connection: &mut Connection<S>,
        slot: &str,
        lsn: Lsn,
        server: &Server,
        known_epoch: i32,
    ) -> Result<()> {
        const INSERT: &str = "\
INSERT INTO replication_checkpoint (slot, epoch, lsn, last_id, system_identifier, timeline) \
SELECT $1::text, GREATEST(pg_catalog.max(epoch), $5::int4) + 1, $2::pg_lsn, COALESCE(pg_catalog.max(id), 0), $3::text, $4::int8 \
FROM (SELECT id, epoch FROM change_history ORDER BY id DESC LIMIT 1) newest";
        let params = [
            Param::Text(slot),
            Param::Lsn(lsn),
            Param::Text(&server.system_identifier),
            Param::Int8(server.timeline),
            Param::Int4(known_epoch),
        ];
        connection.execute(INSERT, &params).await?;
        Ok(())
    }

    /// Begins a new epoch at `lsn` on this server. It is above `known_epoch`, the last one that the
    /// object knows, since a restored database may have lost some.
    pub(super) async fn begin_epoch<S: Stream>(
        connection: &mut Connection<S>,
        slot: &str,
        lsn: Lsn,
        server: &Server,
        known_epoch: i32,
    ) -> Result<()> {
        const UPDATE: &str = "\
UPDATE replication_checkpoint SET epoch = GREATEST(epoch, $5::int4) + 1, lsn = $2::pg_lsn, \
system_identifier = $3::text, timeline = $4::int8, updated_at = pg_catalog.now() WHERE slot = $1::text";
        let params = [
            Param::Text(slot),
            Param::Lsn(lsn),
            Param::Text(&server.system_identifier),
            Param::Int8(server.timeline),
            Param::Int4(known_epoch),
        ];
        connection.execute(UPDATE, &params).await?;
        Ok(())
    }
}
