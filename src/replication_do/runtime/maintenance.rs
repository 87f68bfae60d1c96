//! What a feed needs beside its cycles: checking the slot's health, and pruning.
//!
//! Without clients the alarm does nothing else: two statements if there is nothing to do. Beside
//! polling it runs now and then, so that a feed that always has clients, or is nudged often, is
//! maintained, too.

use std::rc::Rc;
use std::time::Duration;

use super::Runtime;
use super::persisted::{HEALTH, SLOT_HEALTH};
use crate::clock;
use crate::config::ReplicationConfig;
use crate::error::{Error, Result};
use crate::history::{self, HistoryBounds};
use crate::polling::{Outcome, Policy, policy};
use crate::replication_do::health::SlotHealth;
use crate::state;
use crate::workers::database::{self, Database};
use crate::workers::log;

/// While a feed polls, its slot is checked this often.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// The longest time spent pruning without clients.
const PRUNE_FOR: Duration = Duration::from_secs(20);

impl Runtime {
    /// The hibernation alarm: checks the slot, drains it if it retains too much WAL or has changed,
    /// prunes history, and sets the next alarm.
    pub(super) async fn maintain(self: &Rc<Self>) -> Result<Outcome> {
        let result = match self.config() {
            Ok(config) => self.try_maintain(&config).await,
            Err(_) => Err(super::not_initialized()),
        };
        if result
            .as_ref()
            .is_err_and(|error| policy(error) == Policy::Recover)
        {
            // A new connection finds out what is missing.
            return self.drain().await;
        }
        self.finish_job(result).await
    }

    async fn try_maintain(self: &Rc<Self>, config: &ReplicationConfig) -> Result<Outcome> {
        let mut connection = database::connect(&self.env).await?;
        let mut bounds = self.refresh_slot_health(config, &mut connection).await?;
        let mut outcome = Outcome::Idle;
        if self.with(|memory| must_drain(memory.slot_health.as_ref(), config)) {
            let before = self.memory.borrow_mut().cycle.take();
            let cycle = self.resume(&mut connection, config, before).await?;
            outcome = self.cycle_on(config, &mut connection, cycle).await?;
            self.note_initial_poll(outcome);
        }
        let started = clock::now_ms();
        loop {
            let pruned = self.prune(config, &mut connection, &mut bounds).await;
            let more = pruned.unwrap_or_else(|error| self.note_maintenance_failure(&error));
            if !more || clock::has_elapsed(started, PRUNE_FOR) || self.jobs.has_waiting() {
                break;
            }
        }
        connection.close().await;
        Ok(outcome)
    }

    /// An error here does not fail the job; nothing more is pruned.
    fn note_maintenance_failure(&self, error: &Error) -> bool {
        log::error("maintenance_failed", error);
        let mut memory = self.memory.borrow_mut();
        memory.maintenance_is_due = false;
        memory.health.count(error);
        self.persist(HEALTH, &memory.health);
        false
    }

    /// Runs beside polling. After a failure the connection is unusable.
    pub(super) async fn maintain_beside_polling(
        &self,
        config: &ReplicationConfig,
        connection: &mut Database,
    ) {
        let checked_at = self.with(|memory| {
            memory
                .slot_health
                .as_ref()
                .map(|slot_health| slot_health.checked_at)
        });
        let is_late = checked_at.is_none_or(|at| clock::has_elapsed(at, CHECK_EVERY));
        if !is_late && !self.with(|memory| memory.maintenance_is_due) {
            return;
        }
        if let Err(error) = self.try_maintain_beside_polling(config, connection).await {
            self.note_maintenance_failure(&error);
        }
    }

    async fn try_maintain_beside_polling(
        &self,
        config: &ReplicationConfig,
        connection: &mut Database,
    ) -> Result<()> {
        let mut bounds = self.refresh_slot_health(config, connection).await?;
        let more = self.prune(config, connection, &mut bounds).await?;
        // One batch at a time, so that polls do not wait long; the next batch follows the next
        // poll.
        self.memory.borrow_mut().maintenance_is_due = more;
        Ok(())
    }

    async fn refresh_slot_health(
        &self,
        config: &ReplicationConfig,
        connection: &mut Database,
    ) -> Result<Option<HistoryBounds>> {
        let slot = state::read_slot(connection, &config.slot).await?;
        let bounds = history::read_bounds(connection).await?;
        let slot_health = SlotHealth::new(slot.as_ref(), bounds);
        self.persist(SLOT_HEALTH, &slot_health);
        self.memory.borrow_mut().slot_health = Some(slot_health);
        Ok(bounds)
    }

    /// Prunes one batch. True when there may be more to prune.
    async fn prune(
        &self,
        config: &ReplicationConfig,
        connection: &mut Database,
        bounds: &mut Option<HistoryBounds>,
    ) -> Result<bool> {
        let Some(kept) = bounds else { return Ok(false) };
        let floor = self.hub.oldest_needed();
        let pruned = history::prune(connection, *kept, config.history_retention, floor).await?;
        if pruned.rows > 0 {
            kept.oldest = pruned.oldest;
            let mut memory = self.memory.borrow_mut();
            memory.health.pruned += pruned.rows;
            if let Some(slot_health) = &mut memory.slot_health {
                slot_health.prune_to(pruned.oldest);
            }
            self.persist(HEALTH, &memory.health);
        }
        Ok(pruned.more)
    }
}

/// An application that writes without clients connected must not fill its disk with WAL. A slot
/// that is missing or lost is handled by [`state::resume`].
fn must_drain(slot_health: Option<&SlotHealth>, config: &ReplicationConfig) -> bool {
    let Some(slot) = slot_health.and_then(|slot_health| slot_health.slot.as_ref()) else {
        return true;
    };
    let retained = slot
        .retained_bytes
        .and_then(|bytes| u64::try_from(bytes).ok());
    slot.is_lost || retained.is_none_or(|bytes| bytes > config.max_slot_lag)
}
