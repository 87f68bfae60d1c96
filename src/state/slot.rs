//! The logical replication slot: Postgres's own record of how far the feed has read.

use crate::error::{Category, Error, Result};
use crate::lsn::Lsn;
use crate::pipeline::Queued;
use crate::postgres::{Connection, Param, Row, Stream};

/// The slot's row in `pg_replication_slots`, as read at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What it was created for.
    pub(crate) kind: SlotKind,
    /// A session is reading it.
    pub active: bool,
    /// Every transaction that committed before it has been consumed.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// The oldest WAL that decoding still needs.
    pub restart_lsn: Option<Lsn>,
    /// Bytes of WAL that the slot retains.
    pub retained_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes that may still be written before the slot is in danger; `None` without a limit.
    pub safe_wal_size: Option<i64>,
}

/// What a slot was created for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotKind {
    /// The output plugin; `None` for a physical slot.
    plugin: Option<String>,
    /// It was created in the database of this connection.
    in_this_database: bool,
    /// It decodes transactions when they are prepared, which the feed's version of pgoutput's
    /// protocol has no messages for.
    is_two_phase: bool,
    /// It goes with the session that has created it.
    is_temporary: bool,
}

const READ: &str = "\
SELECT plugin::text, COALESCE(database = pg_catalog.current_database(), false), two_phase, temporary, active, \
       confirmed_flush_lsn, restart_lsn, \
       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_flush_lsn(), restart_lsn)::int8, wal_status, safe_wal_size \
FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text";

/// Reads the slot; `None` if there is none of that name.
pub async fn read<S: Stream>(connection: &mut Connection<S>, slot: &str) -> Result<Option<Slot>> {
    let Some(row) = connection
        .query_optional(READ, &[Param::Text(slot)])
        .await?
    else {
        return Ok(None);
    };
    Ok(Some(Slot {
        kind: SlotKind::from_row(&row, 0)?,
        active: row.get(4)?,
        confirmed_flush_lsn: row.get(5)?,
        restart_lsn: row.get(6)?,
        retained_bytes: row.get(7)?,
        wal_status: row.get(8)?,
        safe_wal_size: row.get(9)?,
    }))
}

impl Slot {
    /// The slot can no longer return the changes written since it was last confirmed.
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost") || self.confirmed_flush_lsn.is_none()
    }
}

impl SlotKind {
    /// The columns of [`Self::from_row`] in `pg_get_replication_slots()`.
    pub(crate) const COLUMNS: &str = "plugin::pg_catalog.text, \
        COALESCE(datoid = (SELECT oid FROM pg_catalog.pg_database \
        WHERE datname = pg_catalog.current_database()), false), two_phase, temporary";

    /// Reads it from the columns from `first` on.
    pub(crate) fn from_row(row: &Row, first: usize) -> Result<Self> {
        Ok(Self {
            plugin: row.get(first)?,
            in_this_database: row.get(first + 1)?,
            is_two_phase: row.get(first + 2)?,
            is_temporary: row.get(first + 3)?,
        })
    }

    /// Refuses a slot that was created for something else. Such a slot is never dropped.
    pub(crate) fn check_usable(&self, name: &str) -> Result<()> {
        let wrong = match self.plugin.as_deref() {
            _ if self.is_temporary => "is temporary: it goes with the session that has created it",
            None => "is a physical slot",
            Some("pgoutput") if !self.in_this_database => "belongs to another database",
            Some("pgoutput") if self.is_two_phase => {
                "was created with two_phase, which the feed cannot decode"
            }
            Some("pgoutput") => return Ok(()),
            Some(_) => "has another output plugin than pgoutput",
        };
        let message = format!("the replication slot {name} {wrong}");
        let remedy = if self.is_temporary {
            format!(
                "configure another slot; or, if nobody needs this one, end its session: run SELECT \
                 pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = \
                 '{name}'; and call POST /init"
            )
        } else {
            format!(
                "configure another slot; or, if nobody needs this one, run \
                 SELECT pg_drop_replication_slot('{name}'); and call POST /init"
            )
        };
        Err(Error::new(Category::Configuration, "slot_unusable", message).with_remedy(remedy))
    }
}

/// Creates the slot. Returns the position from which it delivers.
///
/// Postgres waits for all running transactions, so a session that idles in a transaction delays it.
pub(super) async fn create<S: Stream>(connection: &mut Connection<S>, slot: &str) -> Result<Lsn> {
    const CREATE: &str =
        "SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot($1::text, 'pgoutput')";
    let row = connection
        .query_one(CREATE, &[Param::Text(slot)])
        .await
        .map_err(|cause| {
            let error = Error::from(cause);
            if error.category() == Category::Timeout {
                error.with_remedy(
                    "creating a slot waits for every open transaction: end those listed by \
                 SELECT pid, xact_start, state FROM pg_stat_activity WHERE backend_xid IS NOT \
                 NULL ORDER BY xact_start; and call POST /init again",
                )
            } else {
                error
            }
        })?;
    Ok(row.get(0)?)
}

/// Drops the slot.
pub(super) async fn drop<S: Stream>(connection: &mut Connection<S>, slot: &str) -> Result<()> {
    connection
        .query_one(
            "SELECT pg_catalog.pg_drop_replication_slot($1::text)",
            &[Param::Text(slot)],
        )
        .await?;
    Ok(())
}

/// Advances the slot to the checkpoint, if the checkpoint has reached `to`.
///
/// This has the same effect as `pg_logical_slot_get_changes` up to there, without running the
/// output plugin again (PostgreSQL documentation, "Replication Management Functions").
pub async fn advance<S: Stream>(connection: &mut Connection<S>, slot: &str, to: Lsn) -> Result<()> {
    let advance = queue_advance(connection, slot, to)?;
    connection.send().await?;
    advance.finish(connection).await?;
    Ok(())
}

/// Queues what [`advance`] does.
///
/// It may follow a COMMIT whose outcome is not known yet: unless the checkpoint has reached `to`,
/// the slot stays where it is. It goes to the checkpoint, which never lags behind where any reader
/// has advanced the slot; Postgres would refuse to go back.
pub fn queue_advance<S: Stream>(
    connection: &mut Connection<S>,
    slot: &str,
    to: Lsn,
) -> Result<Queued> {
    const ADVANCE: &str = "SELECT pg_catalog.pg_replication_slot_advance(slot::name, lsn) \
                           FROM replication_checkpoint WHERE slot = $1::text AND lsn >= $2::pg_lsn";
    let params = [Param::Text(slot), Param::Lsn(to)];
    Ok(Queued::statement(connection, ADVANCE, &params)?)
}
