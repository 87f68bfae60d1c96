//! Whether the slot can still give every change since the checkpoint, and what happens when not:
//! a gap is never hidden, it begins a new epoch.

use super::checkpoint::Checkpoint;
use super::initialize::LOCK;
use super::publication;
use super::server::Server;
use super::slot::{self, Slot};
use crate::config::OnSlotLost;
use crate::error::{Category, Error, Result};
use crate::postgres::{Connection, Stream};

/// What one look at the database tells about a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseState {
    /// The server's own facts.
    pub server: Server,
    /// How far changes are stored.
    pub checkpoint: Checkpoint,
    /// The slot, when there is one.
    pub slot: Option<Slot>,
}

/// Whether changes can follow the checkpoint without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// They can.
    Intact,
    /// They can; but what was stored last is not consumed yet, after a crash between the two.
    Unconsumed,
    /// They may not: something was, or may have been, missed.
    Broken(Discontinuity),
}

/// Why changes may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Discontinuity {
    /// Another cluster than the one the checkpoint was written on.
    OtherCluster,
    /// The cluster was restored or promoted: another timeline than the checkpoint's.
    OtherTimeline,
    /// The database is older than what this feed has already stored: it was restored.
    WentBack,
    /// The slot was dropped.
    SlotMissing,
    /// The slot was invalidated: WAL it needed is gone.
    SlotLost,
    /// Somebody else consumed changes of the slot.
    ConsumedElsewhere,
    /// Changes were written while the publication was missing.
    PublicationGap,
}

/// A position that the object remembers from before, to notice a database that went back in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastKnown {
    /// The epoch.
    pub epoch: i32,
    /// The id of the newest change.
    pub id: i64,
}

/// Judges continuity. Pure.
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
/// Fails with `not_initialized` when this slot has no checkpoint.
pub async fn read_database_state<S: Stream>(
    connection: &mut Connection<S>,
    slot: &str,
) -> Result<DatabaseState> {
    // The slot is read before the checkpoint: a reader that stores and advances in between makes
    // the checkpoint look ahead, which is harmless, never the slot.
    let slot_state = slot::read(connection, slot).await?;
    let checkpoint = Checkpoint::read(connection, slot).await;
    let checkpoint = checkpoint.map_err(explain_missing)?.ok_or_else(|| {
        let message = format!("there is no checkpoint for the slot {slot}");
        Error::new(Category::Configuration, "not_initialized", message)
            .with_remedy("call POST /init")
    })?;
    let server = Server::read(connection).await?;
    if !server.has_history {
        return Err(tables_missing());
    }
    if let Some(slot_state) = &slot_state {
        slot_state.check_usable(slot)?;
    }
    Ok(DatabaseState {
        server,
        checkpoint,
        slot: slot_state,
    })
}

fn explain_missing(error: Error) -> Error {
    if error.sqlstate() == Some("42P01") {
        tables_missing().with_source(error)
    } else {
        error
    }
}

/// Nothing is passed over: the slot stays where it is, and what was kept of the history ends at the
/// checkpoint, so that whoever had not read it is told to reset.
fn tables_missing() -> Error {
    let message = "the tables of the change feed were dropped";
    Error::new(Category::Configuration, "tables_missing", message).with_remedy(
        "restore them, or call POST /init, which makes them anew: the changes that were kept in \
         them are gone then, and clients that had not read them are told to reset",
    )
}

/// What a feed brings to [`resume`].
#[derive(Clone, Copy, Debug)]
pub struct Resumption<'a> {
    /// The replication slot.
    pub slot: &'a str,
    /// The publication.
    pub publication: &'a str,
    /// What the object remembers from before.
    pub last_known: Option<LastKnown>,
    /// The last peek failed for a missing publication. It may be back by now, but what was written
    /// without it can never be decoded.
    pub publication_was_missing: bool,
    /// What to do when changes may have been missed.
    pub on_slot_lost: OnSlotLost,
}

/// Makes sure that changes can follow: consumes what was stored before a crash, or, when changes
/// may have been missed, begins a new epoch or refuses, as `on_slot_lost` says.
///
/// Gives the standing to go on from, and the break when there was one. Fails with
/// [`Category::PublicationMissing`] while the publication is not there.
pub async fn resume<S: Stream>(
    connection: &mut Connection<S>,
    feed: Resumption<'_>,
) -> Result<(DatabaseState, Option<Discontinuity>)> {
    let database = read_database_state(connection, feed.slot).await?;
    if !publication::exists(connection, feed.publication).await? {
        return Err(publication::missing(feed.publication, &[]));
    }
    let cause = match assess(&database, feed.last_known) {
        Continuity::Intact | Continuity::Unconsumed if feed.publication_was_missing => {
            Discontinuity::PublicationGap
        }
        Continuity::Intact => return Ok((database, None)),
        Continuity::Unconsumed => {
            slot::advance(connection, feed.slot, database.checkpoint.lsn).await?;
            return Ok((database, None));
        }
        Continuity::Broken(cause) => cause,
    };
    if feed.on_slot_lost == OnSlotLost::Halt {
        return Err(cause.halt(feed.slot));
    }
    let known_epoch = feed.last_known.map_or(0, |known| known.epoch);
    begin_new_epoch(connection, feed.slot, &database.server, known_epoch).await?;
    Ok((
        read_database_state(connection, feed.slot).await?,
        Some(cause),
    ))
}

/// Replaces the slot and ends the epoch.
///
/// A crash on the way is harmless: the next look finds the new slot ahead of the checkpoint, and
/// begins the epoch again.
pub async fn begin_new_epoch<S: Stream>(
    connection: &mut Connection<S>,
    slot: &str,
    server: &Server,
    known_epoch: i32,
) -> Result<()> {
    connection.execute("BEGIN", &[]).await?;
    connection.query_one(LOCK, &[]).await?;
    if slot::read(connection, slot).await?.is_some() {
        slot::drop(connection, slot).await?;
    } else {
        server.check_slot_room()?;
    }
    let start = slot::create(connection, slot).await?;
    Checkpoint::begin_epoch(connection, slot, start, server, known_epoch).await?;
    connection.execute("COMMIT", &[]).await?;
    Ok(())
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
        }
    }

    /// What happened, in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::OtherCluster => "this is another Postgres cluster than the checkpoint's",
            Self::OtherTimeline => "the cluster was restored or promoted since the checkpoint",
            Self::WentBack => "the database is older than what was already stored",
            Self::SlotMissing => "the replication slot is gone",
            Self::SlotLost => "the replication slot was invalidated: WAL it needed is removed",
            Self::ConsumedElsewhere => "somebody else consumed changes of the replication slot",
            Self::PublicationGap => "changes were written while the publication was missing",
        }
    }

    fn halt(self, slot: &str) -> Error {
        let category = match self {
            Self::SlotMissing => Category::SlotMissing,
            Self::PublicationGap => Category::PublicationMissing,
            _ => Category::SlotLost,
        };
        Error::new(
            category,
            self.code(),
            format!("{}; changes may be missing", self.describe()),
        )
        .with_remedy(format!(
            "to go on with a new epoch, in which every client reloads, call POST /init with \
                 {{\"onSlotLost\":\"recover\"}}; to look first: SELECT * FROM pg_replication_slots \
                 WHERE slot_name = '{slot}'; SELECT * FROM replication_checkpoint;"
        ))
    }
}
