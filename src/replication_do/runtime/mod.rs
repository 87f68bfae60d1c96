//! What the handlers share: configuration, connection, cycle, clients, and the one alarm.
//!
//! ```text
//! persisted   what the object knew before it was evicted
//! jobs        runs the jobs of the queue, one after the other
//!   initialize  prepares the database
//!   drain       cycles until nothing is left
//!   maintenance slot health, WAL guard, pruning: without clients, and beside polling
//! delivery    beside the jobs: pages for the clients that memory does not serve
//! alarm       when the next job is due, and the watchdog that restores a lost alarm
//! ```

mod alarm;
mod delivery;
mod drain;
mod initialize;
mod jobs;
mod maintenance;
mod persisted;

use std::cell::RefCell;
use std::rc::Rc;

use worker::{Env, State};

use self::delivery::Delivery;
use super::health::{Health, Position, SlotHealth};
use super::hub::{Answered, Hub};
use super::job_queue::JobQueue;
use crate::config::ReplicationConfig;
use crate::error::Error;
use crate::polling::{CycleState, Expect, Pace, Phases};
use crate::workers::database::Database;
use crate::workers::log;
use crate::workers::storage::Storage;

/// Everything that outlives an event.
#[derive(Debug)]
pub(super) struct Runtime {
    pub(super) env: Env,
    pub(super) hub: Hub,
    delivery: Delivery,
    state: Rc<State>,
    storage: Storage,
    jobs: JobQueue,
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
    /// The pause that the last job ended with.
    pub(super) interval_ms: Option<u64>,
    pub(super) last_phases: Phases,
    pub(super) slot_health: Option<SlotHealth>,
    /// What the next cycle is expected to find: changes, if a writer has nudged or the last cycle
    /// found some.
    expect: Expect,
    /// The next drain is followed by maintenance, whenever the last was.
    maintenance_is_due: bool,
    /// The stored configuration is invalid with this deployment's variables.
    config_error: Option<Rc<Error>>,
    /// Outlives a cycle that failed: see [`CycleState::documents_as_text_from`].
    documents_as_text_from: Option<i64>,
    cycle: Option<CycleState>,
    connection: Option<Database>,
    /// When the last job finished that left its connection open for a while.
    finished_at: u64,
    pace: Pace,
}

impl Runtime {
    pub(super) fn new(state: State, env: Env) -> Rc<Self> {
        let state = Rc::new(state);
        let storage = Storage::new(&state);
        let runtime = Self {
            hub: Hub::new(Rc::clone(&state), &env, storage.clone()),
            delivery: Delivery::default(),
            memory: RefCell::default(),
            jobs: JobQueue::default(),
            storage,
            state,
            env,
        };
        if let Err(error) = runtime.load() {
            log::error("load_failed", &error);
        }
        let runtime = Rc::new(runtime);
        let known = Rc::downgrade(&runtime);
        runtime.hub.report_answers_to(Rc::new(move |answered| {
            if let Some(runtime) = known.upgrade() {
                runtime.on_answer(answered);
            }
        }));
        runtime
    }

    /// A Sync Durable Object has answered.
    fn on_answer(self: &Rc<Self>, answered: Answered) {
        if let Some(error) = self.hub.on_answer(answered) {
            log::error("callback_failed", &error);
            let mut memory = self.memory.borrow_mut();
            memory.health.count(&error);
        }
        self.wake_delivery();
    }

    /// Reads the memory. The closure must not await.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        look(&self.memory.borrow())
    }

    /// The configuration, or why there is none.
    fn config(&self) -> Result<ReplicationConfig, Rc<Error>> {
        let memory = self.memory.borrow();
        if let Some(error) = &memory.config_error {
            return Err(Rc::clone(error));
        }
        memory
            .config
            .clone()
            .ok_or_else(|| Rc::new(not_initialized()))
    }
}

pub(super) fn not_initialized() -> Error {
    Error::not_initialized("the feed is not initialised")
}
