//! Assesses whether the slot still has every change since the checkpoint. If not, a new epoch
//! begins: a gap is never hidden.

use super::BEGIN;
use super::checkpoint::Checkpoint;
use super::definition::{self, Fingerprint, Published};
use super::initialize::LOCK;
use super::publication;
use super::server::Server;
use super::slot::{self, Slot};
use crate::changes::FeedTables;
use crate::config::OnSlotLost;
use crate::error::{Category, Error, Result};
use crate::postgres::{Connection, SqlState, Stream};

/// The state of a feed in its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseState {
    /// The server.
    pub server: Server,
    /// How far changes are stored.
    pub checkpoint: Checkpoint,
    /// The slot, if it exists.
    pub slot: Option<Slot>,
}

/// Whether changes can follow the checkpoint without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// They can.
    Intact,
    /// They can, but the slot lags behind the checkpoint, as after a crash between COMMIT and
    /// advance.
    Unconsumed,
    /// They cannot: changes were missed, or may have been.
    Broken(Discontinuity),
}

/// Why changes may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Discontinuity {
    /// This is not the cluster that the checkpoint was written on.
    OtherCluster,
    /// The cluster was restored or promoted: its timeline is not the checkpoint's.
    OtherTimeline,
    /// The database was restored to a state before what this feed has already stored.
    WentBack,
    /// The slot was dropped.
    SlotMissing,
    /// The slot was invalidated: WAL that it needed was removed.
    SlotLost,
    /// Somebody else consumed changes of the slot.
    ConsumedElsewhere,
    /// Changes were written while the publication was missing.
    PublicationGap,
    /// What was published no longer is, or was not for a while.
    PublicationChanged,
}

/// The last position that the object knows, to detect that the database went back in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastKnown {
    /// The epoch.
    pub epoch: i32,
    /// The id of the newest change.
    pub id: i64,
}

/// Assesses continuity. Pure.
pub fn assess(database: &DatabaseState, last_known: Option<LastKnown>) -> Continuity {
    let DatabaseState {
        server,
        checkpoint,
        slot,
    } = database;
    if server.system_identifier != checkpoint.system_identifier {
        return Continuity::Broken(Discontinuity::OtherCluster);
    }
    let went_back = last_known
        .is_some_and(|known| (known.epoch, known.id) > (checkpoint.epoch, checkpoint.last_id));
    if went_back || checkpoint.lsn > server.flush_lsn {
        return Continuity::Broken(Discontinuity::WentBack);
    }
    if server.timeline != checkpoint.timeline {
        return Continuity::Broken(Discontinuity::OtherTimeline);
    }
    let Some(slot) = slot else {
        return Continuity::Broken(Discontinuity::SlotMissing);
    };
    match slot.confirmed_flush_lsn {
        None => Continuity::Broken(Discontinuity::SlotLost),
        Some(_) if slot.is_lost() => Continuity::Broken(Discontinuity::SlotLost),
        Some(confirmed) if confirmed > checkpoint.lsn => {
            Continuity::Broken(Discontinuity::ConsumedElsewhere)
        }
        Some(confirmed) if confirmed < checkpoint.lsn => Continuity::Unconsumed,
        Some(_) => Continuity::Intact,
    }
}

/// Reads what [`assess`] needs.
///
/// Fails with `not_initialized` if the slot has no checkpoint.
pub async fn read_database_state<S: Stream>(
    connection: &mut Connection<S>,
    slot: &str,
) -> Result<DatabaseState> {
    // The slot is read before the checkpoint: if another reader stores and advances in between, the
    // checkpoint seems to be ahead of the slot, which is harmless. The reverse would look like a
    // gap.
    let slot_state = slot::read(connection, slot).await?;
    let checkpoint = Checkpoint::read(connection, slot).await;
    let checkpoint = checkpoint.map_err(explain_missing_table)?.ok_or_else(|| {
        Error::not_initialized(format!("there is no checkpoint for the slot {slot}"))
    })?;
    let server = Server::read(connection).await?;
    if !server.has_history {
        return Err(tables_missing());
    }
    if let Some(slot_state) = &slot_state {
        slot_state.kind.check_usable(slot)?;
    }
    Ok(DatabaseState {
        server,
        checkpoint,
        slot: slot_state,
    })
}

fn explain_missing_table(error: Error) -> Error {
    if error.sqlstate() == Some(SqlState::UNDEFINED_TABLE.as_str()) {
        tables_missing().with_source(error)
    } else {
        error
    }
}

/// No change is skipped: the slot stays where it is. But the history that was kept is gone, so
/// clients that had not read it are told to reset.
fn tables_missing() -> Error {
    let message = "the tables of the change feed were dropped";
    Error::new(Category::Configuration, "tables_missing", message).with_remedy(
        "restore them, or call POST /init, which creates them again: the changes that were kept in \
         them are lost then, and clients that had not read them are told to reset",
    )
}

/// What a feed passes to [`resume`].
#[derive(Clone, Copy, Debug)]
pub struct Resumption<'a> {
    /// The replication slot.
    pub slot: &'a str,
    /// The publication.
    pub publication: &'a str,
    /// The last position that the object knows.
    pub last_known: Option<LastKnown>,
    /// The last peek failed because the publication was missing. It may exist again by now, but
    /// what was written without it can never be decoded.
    pub publication_was_missing: bool,
    /// What to do when changes may have been missed.
    pub on_slot_lost: OnSlotLost,
}

/// Where a feed goes on from.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The state of the feed in its database.
    pub database: DatabaseState,
    /// The publication as it was then.
    pub publication: Fingerprint,
    /// The tables of feeds, which are never captured.
    pub feed_tables: FeedTables,
    /// Why a new epoch has begun, if one has.
    pub discontinuity: Option<Discontinuity>,
}

/// Makes sure that changes can follow: advances a slot that lags behind the checkpoint. If changes
/// may have been missed, begins a new epoch or fails, as `on_slot_lost` says.
///
/// Fails with [`Category::PublicationMissing`] while the publication does not exist.
pub async fn resume<S: Stream>(
    connection: &mut Connection<S>,
    resumption: Resumption<'_>,
) -> Result<Resumed> {
    let found = Found::read(connection, resumption).await?;
    if !matches!(found.continuity, Continuity::Broken(_)) {
        return found.go_on(connection, resumption.slot).await;
    }
    // Another object may be beginning the new epoch at this moment: between its new slot and its
    // new checkpoint, everything looks like a gap. So the gap is assessed again under the lock.
    let known_epoch = found.database.checkpoint.epoch;
    connection.execute(BEGIN, &[]).await?;
    connection.query_one(LOCK, &[]).await?;
    let found = Found::read(connection, resumption).await?;
    let has_begun = found.database.checkpoint.epoch > known_epoch;
    let cause = match found.continuity {
        Continuity::Broken(Discontinuity::PublicationGap) if has_begun => None,
        Continuity::Broken(cause) => Some(cause),
        _ => None,
    };
    let Some(cause) = cause else {
        connection.execute("COMMIT", &[]).await?;
        return found.go_on(connection, resumption.slot).await;
    };
    if resumption.on_slot_lost == OnSlotLost::Halt {
        return Err(cause.halt(resumption.slot));
    }
    let known_epoch = resumption.last_known.map_or(0, |known| known.epoch);
    let Found {
        database,
        published,
        ..
    } = found;
    begin_new_epoch(connection, resumption.slot, &database.server, known_epoch).await?;
    published.remember(connection, resumption.slot).await?;
    connection.execute("COMMIT", &[]).await?;
    Ok(Resumed {
        database: read_database_state(connection, resumption.slot).await?,
        publication: published.fingerprint,
        feed_tables: published.feed_tables,
        discontinuity: Some(cause),
    })
}

/// What the database says at one time.
struct Found {
    database: DatabaseState,
    published: Published,
    continuity: Continuity,
}

impl Found {
    async fn read<S: Stream>(
        connection: &mut Connection<S>,
        resumption: Resumption<'_>,
    ) -> Result<Self> {
        let Resumption {
            slot, publication, ..
        } = resumption;
        let database = read_database_state(connection, slot).await?;
        let published = definition::read(connection, slot, publication).await?;
        let published = published.ok_or_else(|| publication::missing(publication, &[]))?;
        let continuity = match assess(&database, resumption.last_known) {
            broken @ Continuity::Broken(_) => broken,
            _ if resumption.publication_was_missing => {
                Continuity::Broken(Discontinuity::PublicationGap)
            }
            _ if published.has_gap => Continuity::Broken(Discontinuity::PublicationChanged),
            whole => whole,
        };
        Ok(Self {
            database,
            published,
            continuity,
        })
    }

    /// Changes can follow.
    async fn go_on<S: Stream>(self, connection: &mut Connection<S>, slot: &str) -> Result<Resumed> {
        if self.published.is_news() {
            connection.execute(BEGIN, &[]).await?;
            self.published.remember(connection, slot).await?;
            connection.execute("COMMIT", &[]).await?;
        }
        if self.continuity == Continuity::Unconsumed {
            slot::advance(connection, slot, self.database.checkpoint.lsn).await?;
        }
        Ok(Resumed {
            database: self.database,
            publication: self.published.fingerprint,
            feed_tables: self.published.feed_tables,
            discontinuity: None,
        })
    }
}

/// Replaces the slot and begins a new epoch, in the caller's transaction, which holds the lock.
///
/// A crash before its COMMIT is harmless: the next [`resume`] finds the new slot ahead of the
/// checkpoint, and begins the epoch again.
async fn begin_new_epoch<S: Stream>(
    connection: &mut Connection<S>,
    slot: &str,
    server: &Server,
    known_epoch: i32,
) -> Result<()> {
    if slot::read(connection, slot).await?.is_some() {
        slot::drop(connection, slot).await?;
    } else {
        server.check_free_slot()?;
    }
    let start = slot::create(connection, slot).await?;
    Checkpoint::begin_epoch(connection, slot, start, server, known_epoch).await
}

impl Discontinuity {
    /// Stable and machine-readable.
    pub fn code(self) -> &'static str {
        match self {
            Self::OtherCluster => "other_cluster",
            Self::OtherTimeline => "other_timeline",
            Self::WentBack => "database_went_back",
            Self::SlotMissing => "slot_missing",
            Self::SlotLost => "slot_lost",
            Self::ConsumedElsewhere => "slot_consumed_elsewhere",
            Self::PublicationGap => "publication_gap",
            Self::PublicationChanged => "publication_changed",
        }
    }

    /// What happened, as a clause.
    pub fn describe(self) -> &'static str {
        match self {
            Self::OtherCluster => {
                "this is not the Postgres cluster that the checkpoint was written on"
            }
            Self::OtherTimeline => "the cluster was restored or promoted since the checkpoint",
            Self::WentBack => "the database was restored to a state before what was already stored",
            Self::SlotMissing => "the replication slot is missing",
            Self::SlotLost => {
                "the replication slot was invalidated: WAL that it needed was removed"
            }
            Self::ConsumedElsewhere => "somebody else consumed changes of the replication slot",
            Self::PublicationGap => "changes were written while the publication was missing",
            Self::PublicationChanged => {
                "the publication has published less than before, at least for a while"
            }
        }
    }

    fn halt(self, slot: &str) -> Error {
        let category = match self {
            Self::SlotMissing => Category::SlotMissing,
            Self::PublicationGap | Self::PublicationChanged => Category::PublicationMissing,
            _ => Category::SlotLost,
        };
        Error::new(
            category,
            self.code(),
            format!("{}; changes may be missing", self.describe()),
        )
        .with_remedy(format!(
            "to go on with a new epoch, in which every client reloads, call POST /init with \
             {{\"onSlotLost\":\"recover\"}}; to inspect first: SELECT * FROM pg_replication_slots \
             WHERE slot_name = '{slot}'; SELECT * FROM replication_checkpoint;"
        ))
    }
}
