//! `POST /init`: prepares a database for capturing. Idempotent; what exists is left as it is.

use super::checkpoint::Checkpoint;
use super::server::Server;
use super::{BEGIN, access, definition, migrations, publication, slot};
use crate::config::ReplicationConfig;
use crate::error::{Category, Error, Result};
use crate::postgres::{Connection, Stream};

/// Keeps concurrent initialisations apart. The lock is held to the end of the transaction, so that
/// it also works through a pooler in transaction mode. The number is arbitrary and used by this
/// system only.
pub(super) const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(8316547412953021)";

/// Checks the server, applies migrations, and checks or creates the publication, the slot and the
/// checkpoint.
///
/// Each error names what is missing and the SQL that fixes it. What existed is left as it was.
/// After an error the connection must be dropped: its transaction is still open.
pub async fn initialize<S: Stream>(
    connection: &mut Connection<S>,
    config: &ReplicationConfig,
) -> Result<()> {
    initialize_after_epoch(connection, config, 0).await
}

/// As [`initialize`], for a feed that was in `known_epoch` before. If its checkpoint has to be
/// created again, as for another slot, changes may be missing in between, so the new epoch is above
/// `known_epoch`.
pub async fn initialize_after_epoch<S: Stream>(
    connection: &mut Connection<S>,
    config: &ReplicationConfig,
    known_epoch: i32,
) -> Result<()> {
    let server = Server::read(connection).await?;
    server.check_requirements()?;

    connection.execute(BEGIN, &[]).await?;
    connection.query_one(LOCK, &[]).await?;
    migrations::check_names(connection, &server).await?;
    access::check_grants(connection).await?;
    migrations::apply(connection).await?;
    refuse_second_feed(connection, &config.slot).await?;
    publication::ensure(connection, &config.publication, &config.tables).await?;
    connection.execute("COMMIT", &[]).await?;

    connection.execute(BEGIN, &[]).await?;
    connection.query_one(LOCK, &[]).await?;
    ensure_slot(connection, config, &server, known_epoch).await?;
    connection.execute("COMMIT", &[]).await?;
    Ok(())
}

/// Checks or creates the slot and the checkpoint. Postgres creates no slot in a transaction that
/// has written, so the caller's has only locked.
///
/// If a checkpoint exists, a missing slot is not created here: changes may have been missed, which
/// `resume` must assess and report.
async fn ensure_slot<S: Stream>(
    connection: &mut Connection<S>,
    config: &ReplicationConfig,
    server: &Server,
    known_epoch: i32,
) -> Result<()> {
    let name = &config.slot;
    let existing = slot::read(connection, name).await?;
    if let Some(slot) = &existing {
        slot.kind.check_usable(name)?;
    }
    if Checkpoint::read(connection, name).await?.is_some() {
        return Ok(());
    }
    let start = if let Some(confirmed) = existing.and_then(|slot| slot.confirmed_flush_lsn) {
        confirmed
    } else {
        server.check_free_slot()?;
        slot::create(connection, name).await?
    };
    Checkpoint::insert(connection, name, start, server, known_epoch).await?;
    if let Some(published) = definition::read(connection, name, &config.publication).await? {
        published.remember(connection, name).await?;
    }
    Ok(())
}

async fn refuse_second_feed<S: Stream>(connection: &mut Connection<S>, slot: &str) -> Result<()> {
    let Some(other) = Checkpoint::other_slot(connection, slot).await? else {
        return Ok(());
    };
    let message = format!("the slot {other} already feeds this change_history");
    Err(Error::new(Category::Configuration, "history_in_use", message).with_remedy(format!(
        "use the slot {other}; or give this role a schema of its own; or, to replace that feed, \
         run DELETE FROM replication_checkpoint WHERE slot = '{other}'; \
         SELECT pg_drop_replication_slot('{other}');"
    )))
}
