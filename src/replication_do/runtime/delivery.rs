//! Delivery as a task of its own, beside the jobs that store: it has its own connection and its own
//! pauses after errors, and stops when there is nothing to do.
//!
//! ```text
//! wake -> what is there to do?  now        -> connect, one step, and again
//!                               at a time  -> a timer wakes it
//!                               nothing    -> the connection lingers, then closes
//! ```

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::persisted::HEALTH;
use super::{Memory, Runtime, not_initialized};
use crate::clock;
use crate::delivery::Work;
use crate::error::{Error, Result};
use crate::polling::backoff;
use crate::state::Checkpoint;
use crate::workers::database::{self, Database};
use crate::workers::log;

/// A connection is kept this long after its last use. It keeps the object in memory.
const LINGER: Duration = Duration::from_secs(5);
/// A run ends after this time and starts again in another event.
const RUN_LIMIT: Duration = Duration::from_mins(1);
/// The longest timer.
const LONGEST_TIMER_MS: u64 = 10_000;

/// The task.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    is_running: Cell<bool>,
    /// Steps that have failed in a row.
    step_failures: Cell<u32>,
    /// When the next timer wakes it, in milliseconds since 1970.
    wakes_at: Cell<Option<u64>>,
    /// Connecting has failed this often in a row, and is tried again at this time.
    failures: Cell<u32>,
    retry_at: Cell<u64>,
    connection: RefCell<Option<Database>>,
    used_at: Cell<u64>,
}

impl Runtime {
    /// Starts delivery where there is something to do, and a timer where there will be.
    pub(in crate::replication_do) fn wake_delivery(self: &Rc<Self>) {
        if self.delivery.is_running.get() || self.with(|memory| memory.config.is_none()) {
            return;
        }
        match self.delivery_work() {
            Work::Now => self.start_delivery(),
            Work::At(at) => self.wake_delivery_at(at),
            Work::None => {}
        }
    }

    /// How often in a row delivery has failed.
    pub(in crate::replication_do) fn delivery_failures(&self) -> u32 {
        self.delivery.step_failures.get()
    }

    /// The head is read again before the next page.
    pub(in crate::replication_do) fn refresh_head(&self) {
        self.hub.doubt_head();
    }

    fn start_delivery(self: &Rc<Self>) {
        self.delivery.is_running.set(true);
        let runtime = Rc::clone(self);
        self.state.wait_until(async move {
            runtime.deliver().await;
            runtime.delivery.is_running.set(false);
            runtime.close_delivery_soon().await;
        });
    }

    async fn deliver(self: &Rc<Self>) {
        let started = clock::now_ms();
        loop {
            match self.delivery_work() {
                Work::Now if !clock::has_elapsed(started, RUN_LIMIT) => {}
                Work::Now => return self.wake_delivery_at(clock::now_ms().saturating_add(1)),
                Work::At(at) => return self.wake_delivery_at(at),
                Work::None => return,
            }
            match self.deliver_step().await {
                Ok(true) => self.delivery.step_failures.set(0),
                // Nothing could be done after all: whatever it waits for wakes delivery.
                Ok(false) => return self.wake_delivery_at(clock::now_ms().saturating_add(1_000)),
                Err(error) => self.note_delivery_failure(error),
            }
        }
    }

    /// What there is to do. While the database cannot be reached nothing is, before its next try.
    fn delivery_work(&self) -> Work {
        let work = if self.hub.needs_head() {
            Work::Now
        } else {
            self.hub.work()
        };
        let retry_at = self.delivery.retry_at.get();
        match work {
            Work::Now if retry_at > clock::now_ms() => Work::At(retry_at),
            work => work,
        }
    }

    /// One step on a connection, which is kept for the next one unless the step fails.
    async fn deliver_step(&self) -> Result<bool> {
        let kept = self.delivery.connection.take();
        let mut connection = match kept {
            Some(connection) => connection,
            None => self.connect_for_delivery().await?,
        };
        let has_worked = if self.hub.needs_head() {
            self.read_head(&mut connection).await?;
            true
        } else {
            self.hub.step(&mut connection).await?
        };
        self.delivery.used_at.set(clock::now_ms());
        let kept = connection.is_idle().then_some(connection);
        self.delivery.connection.replace(kept);
        Ok(has_worked)
    }

    async fn connect_for_delivery(&self) -> Result<Database> {
        let connected = database::connect(&self.env).await;
        if connected.is_ok() {
            self.delivery.failures.set(0);
            self.delivery.retry_at.set(0);
        } else {
            self.pause_delivery();
        }
        connected
    }

    /// After an eviction, and while nobody polls, the database says where the history ends.
    async fn read_head(&self, connection: &mut Database) -> Result<()> {
        let slot = self.with(|memory| memory.config.as_ref().map(|config| config.slot.clone()));
        let slot = slot.ok_or_else(not_initialized)?;
        let Some(checkpoint) = Checkpoint::read(connection, &slot).await? else {
            self.pause_delivery();
            return Err(not_initialized());
        };
        self.hub.refresh(&checkpoint);
        Ok(())
    }

    fn pause_delivery(&self) {
        let failures = self.delivery.failures.get().saturating_add(1);
        self.delivery.failures.set(failures);
        let pause = backoff(failures, js_sys::Math::random()).as_millis();
        let pause = u64::try_from(pause).unwrap_or(u64::MAX);
        self.delivery
            .retry_at
            .set(clock::now_ms().saturating_add(pause));
    }

    /// A fault of delivery is counted and logged as one. It fails no cycle.
    fn note_delivery_failure(&self, error: Error) {
        log::error("delivery_failed", &error);
        let failures = self.delivery.step_failures.get().saturating_add(1);
        self.delivery.step_failures.set(failures);
        let error = Rc::new(error);
        if self.delivery.retry_at.get() > clock::now_ms() {
            self.hub.fail_pages(&error);
        }
        let mut memory = self.memory.borrow_mut();
        let Memory { health, .. } = &mut *memory;
        health.count(&error);
        self.persist(HEALTH, health);
    }

    fn wake_delivery_at(self: &Rc<Self>, at: u64) {
        // A timer keeps the object in memory. What is due later is due at some poll.
        if at > clock::now_ms().saturating_add(LONGEST_TIMER_MS) {
            return;
        }
        if self.delivery.wakes_at.get().is_some_and(|set| set <= at) {
            return;
        }
        self.delivery.wakes_at.set(Some(at));
        let delay = Duration::from_millis(at.saturating_sub(clock::now_ms()));
        let runtime = Rc::clone(self);
        self.state.wait_until(async move {
            clock::sleep(delay).await;
            if runtime.delivery.wakes_at.get() == Some(at) {
                runtime.delivery.wakes_at.set(None);
                runtime.wake_delivery();
            }
        });
    }

    async fn close_delivery_soon(&self) {
        clock::sleep(LINGER).await;
        let is_unused = clock::has_elapsed(self.delivery.used_at.get(), LINGER);
        if self.delivery.is_running.get() || !is_unused {
            return;
        }
        let connection = self.delivery.connection.take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }
}
