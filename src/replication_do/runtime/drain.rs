//! Runs cycles one after another until everything is stored.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use super::persisted::{HEALTH, INITIAL_POLL_AT, POSITION};
use super::{Memory, Runtime};
use crate::clients::SchemaChanges;
use crate::clock;
use crate::config::ReplicationConfig;
use crate::error::{Category, Error, Result};
use crate::history::WriteMethod;
use crate::polling::{self, CycleConfig, CycleState, Expect, Outcome, Policy, policy};
use crate::replication_do::health::Position;
use crate::state::{self, LastKnown, Resumed, Resumption};
use crate::workers::database::{self, Database, DatabaseConnector};
use crate::workers::log;

/// An event runs cycles for at most this long; then an alarm continues. The platform ends an alarm
/// after 15 minutes.
const RUN_LIMIT: Duration = Duration::from_mins(5);
/// A connection is kept between polls that follow each other at least this closely. It keeps the
/// object in memory, which polling more often than about once in 10 seconds does anyway.
const KEEP_CONNECTION: Duration = Duration::from_secs(5);
/// Otherwise a connection that brought changes is kept this long: a writer that nudges is likely to
/// do so again, and a login takes longer than a cycle.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of messages that are held at a time.
const SLICE_BYTES: usize = 2 << 20;

/// Why an attempt stopped.
pub(super) struct Stop {
    error: Error,
    /// It reused state of an earlier job, so a fresh look at the database may help.
    kept: bool,
}

impl Runtime {
    /// Stores everything that has committed, and sets the next alarm.
    pub(super) async fn drain(self: &Rc<Self>) -> Result<Outcome> {
        let mut attempt = self.attempt().await;
        if let Err(stop) = &attempt
            && self.deserves_another_attempt(stop)
        {
            attempt = self.attempt().await;
        }
        self.finish_job(attempt.map_err(|stop| stop.error)).await
    }

    /// Notes how a job ended, and sets the next alarm.
    pub(super) async fn finish_job(self: &Rc<Self>, result: Result<Outcome>) -> Result<Outcome> {
        let outcome = match &result {
            Ok(outcome) => *outcome,
            Err(error) => self.note_failure(error),
        };
        let delay = self.schedule(outcome);
        let keeps = self.with(|memory| {
            let polls_closely = memory
                .config
                .as_ref()
                .is_some_and(|config| config.poll_interval <= KEEP_CONNECTION);
            polls_closely && !memory.hibernating
        });
        match outcome {
            _ if keeps => {}
            Outcome::Changed => self.close_connection_soon(),
            _ => self.close_connection().await,
        }
        self.set_alarm(delay).await;
        // Also after a failure: what is stored can be read.
        self.wake_delivery();
        result
    }

    /// Closes the connection after [`LINGER`], unless another job finishes first: that job decides
    /// then.
    fn close_connection_soon(self: &Rc<Self>) {
        let runtime = Rc::clone(self);
        let finished_at = clock::now_ms();
        self.memory.borrow_mut().finished_at = finished_at;
        self.state.wait_until(async move {
            clock::sleep(LINGER).await;
            if runtime.with(|memory| memory.finished_at == finished_at) {
                runtime.close_connection().await;
            }
        });
    }

    pub(super) async fn close_connection(&self) {
        let connection = self.memory.borrow_mut().connection.take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }

    /// The server may close a kept connection at any time, which is not a failure of this poll; and
    /// a slot that has become invalid since the last poll is handled by [`state::resume`].
    fn deserves_another_attempt(&self, stop: &Stop) -> bool {
        // The next attempt knows of this gap, and ends the epoch.
        let is_known_now = stop.error.code() == "publication_gap";
        if !stop.kept && !is_known_now {
            return false;
        }
        if stop.error.category() == Category::Connection {
            return true;
        }
        if policy(&stop.error) != Policy::Recover {
            return false;
        }
        let mut memory = self.memory.borrow_mut();
        memory.health.count(&stop.error);
        log_failure(&memory, &stop.error);
        memory.health.note_publication(&stop.error);
        self.persist(HEALTH, &memory.health);
        true
    }

    fn note_failure(&self, error: &Error) -> Outcome {
        let mut memory = self.memory.borrow_mut();
        memory.health.cycle_failed(error);
        log_failure(&memory, error);
        // The database's state is unknown: read it again.
        memory.cycle = None;
        memory.connection = None;
        self.persist(HEALTH, &memory.health);
        Outcome::Failed(memory.health.consecutive_failures)
    }

    async fn attempt(self: &Rc<Self>) -> std::result::Result<Outcome, Stop> {
        let (connection, cycle) = {
            let mut memory = self.memory.borrow_mut();
            (memory.connection.take(), memory.cycle.take())
        };
        let kept = connection.is_some();
        let result = match self.config() {
            Ok(config) => self.run_cycles(&config, connection, cycle).await,
            Err(_) => Err(super::not_initialized()),
        };
        result.map_err(|error| Stop { error, kept })
    }

    async fn run_cycles(
        self: &Rc<Self>,
        config: &ReplicationConfig,
        kept: Option<Database>,
        cycle: Option<CycleState>,
    ) -> Result<Outcome> {
        let (mut connection, cycle) = match (kept, cycle) {
            (Some(connection), Some(cycle)) => (connection, cycle),
            (_, cycle) => {
                let mut connection = database::connect(&self.env).await?;
                let cycle = self.resume(&mut connection, config, cycle).await?;
                (connection, cycle)
            }
        };
        let outcome = self.cycle_on(config, &mut connection, cycle).await?;
        self.note_initial_poll(outcome);
        self.maintain_beside_polling(config, &mut connection).await;
        let mut memory = self.memory.borrow_mut();
        memory.connection = connection.is_idle().then_some(connection);
        Ok(outcome)
    }

    /// Runs cycles on a connection that has resumed.
    pub(super) async fn cycle_on(
        self: &Rc<Self>,
        config: &ReplicationConfig,
        connection: &mut Database,
        mut cycle: CycleState,
    ) -> Result<Outcome> {
        let started = clock::now_ms();
        let cycle_config = cycle_config(config, database::write_method(&self.env));
        let mut changed = false;
        let mut expect = std::mem::take(&mut self.memory.borrow_mut().expect);
        let outcome = loop {
            let connector = DatabaseConnector(&self.env);
            let polled =
                polling::run(connection, &connector, &cycle_config, &mut cycle, expect).await;
            self.memory.borrow_mut().documents_as_text_from = cycle.documents_as_text_from;
            let (mut report, advance) = polled?;
            changed |= report.stored > 0;
            let described = self.describe(&report, &cycle);
            // A client that has just received changes must not see earlier failures in the status.
            let recovered = self.memory.borrow_mut().health.recover();
            // While Postgres advances the slot, and before the position is persisted: the platform
            // delays everything that is sent after a write until the write is on disk.
            self.hub.publish(&cycle.checkpoint, report.recent.take());
            self.note_position(&cycle, described);
            self.wake_delivery();
            advance.finish(connection, &mut cycle, &mut report).await;
            self.note_report(&report, recovered);
            if report.advance_error.is_some() || report.snapshot_error.is_some() {
                // The connection is lost, but what was stored is not.
                *connection = database::connect(&self.env).await?;
            }
            if report.complete {
                break if changed {
                    Outcome::Changed
                } else {
                    Outcome::Idle
                };
            }
            if clock::has_elapsed(started, RUN_LIMIT) || self.jobs.must_yield() {
                break Outcome::Unfinished;
            }
            expect = Expect::Changes;
        };
        let mut memory = self.memory.borrow_mut();
        if changed {
            // More changes are likely to follow.
            memory.expect = Expect::Changes;
        }
        memory.cycle = Some(cycle);
        Ok(outcome)
    }

    /// Checks on a new connection whether the slot continues what is stored. Since the last
    /// connection the slot may have been replaced, or the database restored.
    ///
    /// Keeps the state of the previous cycle if the database's checkpoint is still the same.
    pub(super) async fn resume(
        &self,
        connection: &mut Database,
        config: &ReplicationConfig,
        before: Option<CycleState>,
    ) -> Result<CycleState> {
        let last_known = self.with(|memory| {
            memory.position.map(|known| LastKnown {
                epoch: known.epoch,
                id: known.id,
            })
        });
        let resumption = Resumption {
            slot: &config.slot,
            publication: &config.publication,
            last_known,
            publication_was_missing: self.with(|memory| memory.health.publication_was_missing),
            on_slot_lost: config.on_slot_lost,
        };
        let Resumed {
            database,
            publication,
            feed_tables,
            discontinuity,
        } = state::resume(connection, resumption).await?;
        {
            let mut memory = self.memory.borrow_mut();
            if std::mem::take(&mut memory.health.publication_was_missing) {
                // Otherwise the next instance would begin another epoch for the same gap.
                self.persist(HEALTH, &memory.health);
            }
        }
        if let Some(discontinuity) = discontinuity {
            let context = json!({
                "reason": discontinuity.code(),
                "message": discontinuity.describe(),
                "epoch": database.checkpoint.epoch,
            });
            log::event("epoch_began", context);
        }
        let is_current =
            |cycle: &CycleState| discontinuity.is_none() && cycle.checkpoint == database.checkpoint;
        let mut cycle = before.filter(is_current).unwrap_or_else(|| {
            let mut cycle = CycleState::new(database.checkpoint);
            cycle.documents_as_text_from = self.with(|memory| memory.documents_as_text_from);
            cycle
        });
        cycle.may_log_snapshots = database.server.may_log_snapshots;
        cycle.publication = Some(publication);
        cycle.feed_tables = feed_tables;
        Ok(cycle)
    }

    /// Adds what the cycle described. Nothing may be awaited before the position is persisted, too.
    /// False if the descriptions could not be persisted.
    fn describe(&self, report: &polling::Report, cycle: &CycleState) -> bool {
        let described = self.hub.describe(&SchemaChanges {
            after: crate::clients::Position {
                epoch: cycle.checkpoint.epoch,
                id: report.after,
            },
            through: Position::of(&cycle.checkpoint).of_clients(),
            relations: &report.relations,
        });
        if let Err(error) = &described {
            log::error("storage_failed", error);
        }
        described.is_ok()
    }

    /// `is_described`: the descriptions up to here are persisted. If they are not, the position
    /// must not be either: the next instance would consider its descriptions complete.
    fn note_position(&self, cycle: &CycleState, is_described: bool) {
        let position = Position::of(&cycle.checkpoint);
        let mut memory = self.memory.borrow_mut();
        if memory.position != Some(position) {
            memory.position = Some(position);
            if is_described {
                self.persist(POSITION, &position);
            }
        }
    }

    fn note_report(&self, report: &polling::Report, recovered: bool) {
        let mut memory = self.memory.borrow_mut();
        if let Some(error) = &report.advance_error {
            log::error("advance_failed", error);
        }
        if let Some(error) = &report.snapshot_error {
            log::error("snapshot_failed", error);
        }
        if let Some(error) = &report.second_connection_error {
            log::error("second_connection_failed", error);
        }
        if memory.health.cycle_succeeded(report, recovered) {
            self.persist(HEALTH, &memory.health);
        }
        memory.last_phases = report.phases;
    }

    pub(super) fn note_initial_poll(&self, outcome: Outcome) {
        let mut memory = self.memory.borrow_mut();
        if outcome != Outcome::Unfinished && memory.initial_poll_at.is_none() {
            let now = clock::now_ms();
            memory.initial_poll_at = Some(now);
            self.persist(INITIAL_POLL_AT, &now);
        }
    }
}

fn log_failure(memory: &Memory, error: &Error) {
    let position = memory.position.as_ref();
    let context = json!({
        "slot": memory.config.as_ref().map(|config| &config.slot),
        "epoch": position.map(|position| position.epoch),
        "id": position.map(|position| position.id),
        "consecutiveFailures": memory.health.consecutive_failures,
    });
    log::failure("cycle_failed", error, context);
}

fn cycle_config(config: &ReplicationConfig, write_method: WriteMethod) -> CycleConfig {
    CycleConfig {
        slot: config.slot.clone(),
        publication: config.publication.clone(),
        max_changes: config.max_changes_per_poll,
        max_row_bytes: config.max_row_bytes,
        slice_bytes: SLICE_BYTES,
        write_method,
    }
}
