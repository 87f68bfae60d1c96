//! What the handlers share: configuration, connection, cycle, clients, and the one alarm.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use worker::{Env, State};

use super::catch_up::Readers;
use super::flights::{Flights, Landing, arrival};
use super::health::{Health, Position};
use super::hub::{Callback, Hub};
use crate::clock;
use crate::config::{Fields, ReplicationConfig};
use crate::error::{Category, Error, Result};
use crate::polling::{self, Cycle, Feed, Next, Outcome, Pace, Phases};
use crate::state::{self, Remembered, Resumption};
use crate::workers::database::{self, Database};
use crate::workers::storage::Storage;
use crate::workers::{log, variables};

/// Cycles go on in one event for at most so long; then an alarm takes over. The platform ends an
/// alarm after 15 minutes.
const FLIGHT_LIMIT: Duration = Duration::from_mins(5);
/// A connection is kept from poll to poll while they follow each other at least this closely.
const KEEP_CONNECTION: Duration = Duration::from_millis(250);
/// Bytes of messages that are held at a time.
const SLICE_BYTES: usize = 2 << 20;

/// Everything that outlives an event.
#[derive(Debug)]
pub(super) struct Runtime {
    pub(super) env: Env,
    pub(super) hub: Hub,
    pub(super) readers: Readers,
    state: Rc<State>,
    storage: Storage,
    flights: Flights,
    memory: RefCell<Memory>,
}

/// Never borrowed over an await: handlers interleave there.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) config: Option<ReplicationConfig>,
    pub(super) health: Health,
    pub(super) position: Option<Position>,
    pub(super) initial_poll_at: Option<u64>,
    pub(super) initializing: bool,
    pub(super) hibernating: bool,
    pub(super) next_alarm_at: Option<u64>,
    pub(super) last_phases: Phases,
    pub(super) slot: Option<state::Slot>,
    /// The last peek failed for it; whether it is back is for `resume` to see.
    publication_was_missing: bool,
    /// Outlives a cycle that failed: see [`Cycle::documents_as_text_from`].
    documents_as_text_from: Option<i64>,
    cycle: Option<(Cycle, String)>,
    connection: Option<Database>,
    pace: Pace,
}

impl Runtime {
    pub(super) fn new(state: State, env: Env) -> Self {
        let state = Rc::new(state);
        let storage = Storage::new(&state);
        let runtime = Self {
            hub: Hub::new(Rc::clone(&state), &env, storage.clone()),
            readers: Readers::default(),
            memory: RefCell::default(),
            flights: Flights::default(),
            storage,
            state,
            env,
        };
        if let Err(error) = runtime.recall() {
            log::error("recall_failed", &error);
        }
        runtime
    }

    /// Reads what the object knew before it was evicted.
    fn recall(&self) -> Result<()> {
        self.storage.prepare()?;
        self.hub.recall()?;
        let mut memory = self.memory.borrow_mut();
        memory.health = self.storage.get("health")?.unwrap_or_default();
        memory.position = self.storage.get("position")?;
        memory.initial_poll_at = self.storage.get("initialPollAt")?;
        if let Some(fields) = self.storage.get::<Fields>("config")? {
            let variables = variables::fields(&self.env);
            memory.config = Some(ReplicationConfig::from_fields(&variables, &fields)?);
        }
        Ok(())
    }

    /// Looks at the memory. The closure must not await.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        look(&self.memory.borrow())
    }

    /// Applies the configuration and makes the database ready. Idempotent.
    pub(super) async fn initialize(self: &Rc<Self>, given: Fields) -> Result<()> {
        let mut fields: Fields = self.storage.get("config")?.unwrap_or_default();
        fields.extend(given);
        fields.retain(|_, value| !value.is_null());
        let config = ReplicationConfig::from_fields(&variables::fields(&self.env), &fields)?;
        self.memory.borrow_mut().initializing = true;
        let ready = self.prepare_database(&config).await;
        self.memory.borrow_mut().initializing = false;
        if let Err(error) = ready {
            log::error("initialize_failed", &error);
            self.memory.borrow_mut().health.count(&error);
            return Err(error);
        }
        self.storage.put("config", &fields)?;
        {
            let mut memory = self.memory.borrow_mut();
            memory.config = Some(config);
            memory.cycle = None;
        }
        log::event("initialized", serde_json::json!({}));
        Ok(())
    }

    async fn prepare_database(&self, config: &ReplicationConfig) -> Result<()> {
        let mut connection = database::connect(&self.env).await?;
        let ready = state::initialize(&mut connection, config).await;
        connection.close().await;
        ready
    }

    /// Runs cycles until everything that committed before this call is stored. Calls that overlap
    /// share them.
    pub(super) async fn poll(self: &Rc<Self>) -> Landing {
        let (must_fly, booked) = self.flights.book();
        if must_fly {
            // On its own, so that a caller who goes away does not end what others wait for.
            let runtime = Rc::clone(self);
            self.state.wait_until(async move { runtime.fly().await });
        }
        arrival(booked).await
    }

    /// Starts a poll that nobody waits for: its failure is counted where it happens.
    pub(super) fn start_polling(self: &Rc<Self>) {
        let runtime = Rc::clone(self);
        wasm_bindgen_futures::spawn_local(async move {
            let _ = runtime.poll().await;
        });
    }

    /// Makes a callback beside the cycles, so that a slow client holds up nobody.
    fn call(self: &Rc<Self>, callback: Callback) {
        let runtime = Rc::clone(self);
        wasm_bindgen_futures::spawn_local(async move {
            if runtime.hub.call(callback).await {
                let _ = runtime.poll().await;
            }
        });
    }

    /// The alarm: polls, or, when hibernation ends and nobody listens, looks at the slot.
    pub(super) async fn on_alarm(self: &Rc<Self>) {
        // Its failure is counted and the next alarm set where it happened.
        let _ = self.poll().await;
    }

    async fn fly(self: Rc<Self>) {
        while self.flights.take_off() {
            let mut flown = self.fly_once().await;
            if flown
                .as_ref()
                .is_err_and(|stop| stop.kept_connection_was_dead)
            {
                // The server may close a kept connection at any time: no failure of this poll.
                flown = self.fly_once().await;
            }
            let delay = self.schedule(match &flown {
                Ok(outcome) => *outcome,
                Err(stop) => self.note_failure(&stop.error),
            });
            self.let_connection_go(delay).await;
            self.set_alarm(delay).await;
            self.flights
                .land(&flown.map(drop).map_err(|stop| Rc::new(stop.error)));
        }
    }

    fn note_failure(&self, error: &Error) -> Outcome {
        log::error("cycle_failed", error);
        let mut memory = self.memory.borrow_mut();
        memory.health.cycle_failed(error);
        // The peek of a server before 18 fails for a missing publication; from 18 on it only warns.
        memory.publication_was_missing |= error.category() == Category::PublicationMissing;
        // What the database holds is not known any more: it is read again.
        memory.cycle = None;
        memory.connection = None;
        if let Err(error) = self.storage.put("health", &memory.health) {
            log::error("storage_failed", &error);
        }
        Outcome::Failed(memory.health.consecutive_failures)
    }

    async fn fly_once(self: &Rc<Self>) -> std::result::Result<Outcome, Stop> {
        let kept = self.memory.borrow_mut().connection.take();
        let was_kept = kept.is_some();
        self.run_cycles(kept).await.map_err(|error| Stop {
            kept_connection_was_dead: was_kept && error.category() == Category::Connection,
            error,
        })
    }

    async fn run_cycles(self: &Rc<Self>, kept: Option<Database>) -> Result<Outcome> {
        let started = clock::now_ms();
        let config = self
            .with(|memory| memory.config.clone())
            .ok_or_else(not_initialized)?;
        let mut connection = match kept {
            Some(connection) => connection,
            None => database::connect(&self.env).await?,
        };
        let (mut cycle, schema) = self.resume(&mut connection, &config).await?;
        let feed = feed(&config, schema.clone());
        let mut changed = false;
        let outcome = loop {
            let report = polling::run(&mut connection, &feed, &mut cycle).await;
            self.memory.borrow_mut().documents_as_text_from = cycle.documents_as_text_from;
            let report = report?;
            changed |= report.stored > 0;
            self.note_report(&report, &cycle)?;
            if report.advance_error.is_some() {
                // It has cost the connection, but nothing of what was stored.
                connection = database::connect(&self.env).await?;
            }
            let head = &cycle.checkpoint;
            let delivered = self
                .hub
                .deliver(&mut connection, head, report.recent.as_ref())
                .await?;
            for callback in delivered.callbacks {
                self.call(callback);
            }
            let flown = clock::now_ms().saturating_sub(started);
            if report.complete && !delivered.complete {
                break Outcome::Unfinished;
            } else if report.complete {
                break if changed {
                    Outcome::Changed
                } else {
                    Outcome::Idle
                };
            } else if u128::from(flown) > FLIGHT_LIMIT.as_millis() {
                break Outcome::Unfinished;
            }
        };
        self.note_landing(outcome)?;
        let mut memory = self.memory.borrow_mut();
        memory.connection = connection.is_idle().then_some(connection);
        memory.cycle = Some((cycle, schema));
        Ok(outcome)
    }

    /// Keeps the connection only while polls follow each other closely: an open socket keeps the
    /// object in memory.
    async fn let_connection_go(&self, delay: Option<Duration>) {
        if delay.is_some_and(|delay| delay <= KEEP_CONNECTION) {
            return;
        }
        let connection = self.memory.borrow_mut().connection.take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }

    async fn resume(
        &self,
        connection: &mut Database,
        config: &ReplicationConfig,
    ) -> Result<(Cycle, String)> {
        if let Some(cycle) = self.memory.borrow_mut().cycle.take() {
            return Ok(cycle);
        }
        let remembered = self.with(|memory| {
            memory.position.map(|known| Remembered {
                epoch: known.epoch,
                id: known.id,
            })
        });
        let resumption = Resumption {
            slot: &config.slot,
            publication: &config.publication,
            remembered,
            publication_was_missing: self.with(|memory| memory.publication_was_missing),
            on_slot_lost: config.on_slot_lost,
        };
        let (standing, broken) = state::resume(connection, resumption).await?;
        self.memory.borrow_mut().publication_was_missing = false;
        if let Some(broken) = broken {
            let context = serde_json::json!({
                "reason": broken.code(),
                "message": broken.describe(),
                "epoch": standing.checkpoint.epoch,
            });
            log::event("epoch_began", context);
        }
        self.memory.borrow_mut().slot.clone_from(&standing.slot);
        let mut cycle = Cycle::resume_from(standing.checkpoint);
        cycle.documents_as_text_from = self.with(|memory| memory.documents_as_text_from);
        Ok((cycle, standing.server.schema))
    }

    fn note_report(&self, report: &polling::Report, cycle: &Cycle) -> Result<()> {
        let mut memory = self.memory.borrow_mut();
        if let Some(error) = &report.advance_error {
            log::error("advance_failed", error);
        }
        if memory.health.cycle_succeeded(report) {
            self.storage.put("health", &memory.health)?;
        }
        memory.last_phases = report.phases;
        let checkpoint = &cycle.checkpoint;
        let position = Position {
            epoch: checkpoint.epoch,
            id: checkpoint.last_id,
            lsn: checkpoint.lsn,
        };
        if memory.position != Some(position) {
            memory.position = Some(position);
            self.storage.put("position", &position)?;
        }
        Ok(())
    }

    fn note_landing(&self, outcome: Outcome) -> Result<()> {
        let mut memory = self.memory.borrow_mut();
        let drained = matches!(outcome, Outcome::Changed | Outcome::Idle);
        if drained && memory.initial_poll_at.is_none() {
            let now = clock::now_ms();
            memory.initial_poll_at = Some(now);
            self.storage.put("initialPollAt", &now)?;
        }
        Ok(())
    }

    /// When the next alarm is due; `None` before the feed is initialised.
    fn schedule(&self, outcome: Outcome) -> Option<Duration> {
        let mut memory = self.memory.borrow_mut();
        let config = memory.config.clone()?;
        let next = memory.pace.next(
            outcome,
            self.hub.has_clients(),
            config.poll_interval,
            config.hibernation_delay,
            js_sys::Math::random(),
        );
        let (hibernating, delay) = match next {
            Next::Poll(delay) => (false, delay),
            Next::Hibernate(delay) => (true, delay),
        };
        memory.hibernating = hibernating;
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        memory.next_alarm_at = Some(clock::now_ms().saturating_add(millis));
        Some(delay)
    }

    /// The one alarm. Set last, so that whatever happened is followed by something.
    async fn set_alarm(&self, delay: Option<Duration>) {
        let Some(delay) = delay else { return };
        if let Err(cause) = self.state.storage().set_alarm(delay).await {
            let error = Error::new(Category::Storage, "alarm", format!("no alarm: {cause}"));
            log::error("set_alarm_failed", &error);
        }
    }
}

/// Why cycles stopped.
struct Stop {
    error: Error,
    /// The connection was kept from an earlier poll, and that it has closed may be all there is.
    kept_connection_was_dead: bool,
}

fn feed(config: &ReplicationConfig, own_schema: String) -> Feed {
    Feed {
        slot: config.slot.clone(),
        publication: config.publication.clone(),
        own_schema,
        max_changes: config.max_changes_per_poll,
        max_row_bytes: config.max_row_bytes,
        slice_bytes: SLICE_BYTES,
    }
}

pub(super) fn not_initialized() -> Error {
    Error::new(
        Category::Configuration,
        "not_initialized",
        "the feed is not initialised",
    )
    .with_remedy("call POST /init")
}
