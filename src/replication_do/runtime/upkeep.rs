//! What a feed needs beside its cycles: a look at the slot's health, and pruning.
//!
//! While nobody listens the alarm does nothing else: two statements where nothing is to be done.
//! Beside polling it is done now and then, so that a feed that always has clients, or is nudged
//! again and again, is looked after too.

use std::rc::Rc;
use std::time::Duration;

use super::Runtime;
use super::recall::{HEALTH, VITALS};
use crate::clock;
use crate::config::ReplicationConfig;
use crate::error::{Error, Result};
use crate::history::{self, HistoryBounds};
use crate::polling::{Outcome, Policy, policy};
use crate::replication_do::health::Vitals;
use crate::state;
use crate::workers::database::{self, Database};
use crate::workers::log;

/// While a feed polls, its slot is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Pruning while nobody listens goes on for at most so long at a time.
const PRUNE_FOR: Duration = Duration::from_secs(20);

impl Runtime {
    /// The hibernation alarm: looks at the slot, drains it when it holds back too much or is not
    /// what it was, prunes history, and sets the next alarm.
    pub(super) async fn look(self: &Rc<Self>) -> Result<Outcome> {
        let looked = match self.config() {
            Ok(config) => self.look_with(&config).await,
            Err(_) => Err(super::not_initialized()),
        };
        if looked
            .as_ref()
            .is_err_and(|error| policy(error) == Policy::Recover)
        {
            // What is missing is for a whole look to tell.
            return self.drain().await;
        }
        self.end_flight(looked).await
    }

    async fn look_with(self: &Rc<Self>, config: &ReplicationConfig) -> Result<Outcome> {
        let mut connection = database::connect(&self.env).await?;
        let mut extent = self.take_vitals(config, &mut connection).await?;
        let mut outcome = Outcome::Idle;
        if self.with(|memory| must_drain(memory.vitals.as_ref(), config)) {
            let before = self.memory.borrow_mut().cycle.take();
            let cycle = self.resume(&mut connection, config, before).await?;
            outcome = self.cycle_on(config, &mut connection, cycle).await?;
            self.note_landing(outcome);
        }
        let started = clock::now_ms();
        loop {
            let pruned = self.prune(config, &mut connection, &mut extent).await;
            let pruned_for = clock::now_ms().saturating_sub(started);
            let more = pruned.unwrap_or_else(|error| self.note_upkeep_failure(&error));
            if !more || u128::from(pruned_for) >= PRUNE_FOR.as_millis() || self.flights.is_awaited()
            {
                break;
            }
        }
        connection.close().await;
        Ok(outcome)
    }

    /// What fails here fails no poll and no look. There is no more to do then.
    fn note_upkeep_failure(&self, error: &Error) -> bool {
        log::error("upkeep_failed", error);
        let mut memory = self.memory.borrow_mut();
        memory.upkeep_is_due = false;
        memory.health.count(error);
        self.keep(HEALTH, &memory.health);
        false
    }

    /// Beside polling; on a failure the connection is of no use any more.
    pub(super) async fn keep_up(&self, config: &ReplicationConfig, connection: &mut Database) {
        let checked_at = self.with(|memory| memory.vitals.as_ref().map(|vitals| vitals.checked_at));
        let is_late = checked_at.is_none_or(|at| {
            u128::from(clock::now_ms().saturating_sub(at)) >= LOOK_EVERY.as_millis()
        });
        if !is_late && !self.with(|memory| memory.upkeep_is_due) {
            return;
        }
        if let Err(error) = self.try_keep_up(config, connection).await {
            self.note_upkeep_failure(&error);
        }
    }

    async fn try_keep_up(
        &self,
        config: &ReplicationConfig,
        connection: &mut Database,
    ) -> Result<()> {
        let mut extent = self.take_vitals(config, connection).await?;
        let more = self.prune(config, connection, &mut extent).await?;
        // One batch at a time, so that a poll does not wait for long; the next batch after the next.
        self.memory.borrow_mut().upkeep_is_due = more;
        Ok(())
    }

    async fn take_vitals(
        &self,
        config: &ReplicationConfig,
        connection: &mut Database,
    ) -> Result<Option<HistoryBounds>> {
        let slot = state::read_slot(connection, &config.slot).await?;
        let extent = history::read_bounds(connection).await?;
        let vitals = Vitals::new(slot.as_ref(), extent);
        self.keep(VITALS, &vitals);
        self.memory.borrow_mut().vitals = Some(vitals);
        Ok(extent)
    }

    /// Prunes one batch. True when there may be more to prune.
    async fn prune(
        &self,
        config: &ReplicationConfig,
        connection: &mut Database,
        extent: &mut Option<HistoryBounds>,
    ) -> Result<bool> {
        let Some(kept) = extent else { return Ok(false) };
        let floor = self.hub.oldest_needed();
        let pruned = history::prune(connection, *kept, config.history_retention, floor).await?;
        if pruned.rows > 0 {
            kept.oldest = pruned.oldest;
            let mut memory = self.memory.borrow_mut();
            memory.health.pruned += pruned.rows;
            if let Some(vitals) = &mut memory.vitals {
                vitals.prune_to(pruned.oldest);
            }
            self.keep(HEALTH, &memory.health);
        }
        Ok(pruned.more)
    }
}

/// An application that writes while nobody listens must not fill its disk with WAL; and a slot that
/// is gone or lost is for [`state::resume`] to judge.
fn must_drain(vitals: Option<&Vitals>, config: &ReplicationConfig) -> bool {
    let Some(slot) = vitals.and_then(|vitals| vitals.slot.as_ref()) else {
        return true;
    };
    let retained = slot
        .retained_bytes
        .and_then(|bytes| u64::try_from(bytes).ok());
    slot.is_lost || retained.is_none_or(|bytes| bytes > config.max_slot_lag)
}
