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
/// A run that takes longer has been ended by the platform.
const LOST_AFTER: Duration = Duration::from_mins(16);
/// The longest timer.
const LONGEST_TIMER_MS: u64 = 10_000;

/// The task.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    /// When the current run began, in milliseconds since 1970; 0 when none is running.
    runs_since: Cell<u64>,
    /// When the next timer wakes it, in milliseconds since 1970.
    wakes_at: Cell<Option<u64>>,
    /// When something is due that no timer waits for.
    due_at: Cell<Option<u64>>,
    /// Steps that have failed in a row. After a failure that affects all consumers the next step is
    /// at `retry_at`.
    failures: Cell<u32>,
    retry_at: Cell<u64>,
    connection: RefCell<Option<Database>>,
    used_at: Cell<u64>,
}

impl Delivery {
    /// The platform ends every event after 15 minutes.
    fn is_running(&self) -> bool {
        let since = self.runs_since.get();
        since > 0 && !clock::has_elapsed(since, LOST_AFTER)
    }
}

impl Runtime {
    /// Starts delivery if there is something to do, and a timer if there will be.
    pub(in crate::replication_do) fn wake_delivery(self: &Rc<Self>) {
        if self.delivery.is_running() || self.with(|memory| memory.config.is_none()) {
            return;
        }
        match self.delivery_work() {
            Work::Now => self.start_delivery(),
            Work::At(at) => self.wake_delivery_at(at),
            Work::None => {}
        }
    }

    /// How long it is until something is due that no timer waits for.
    pub(super) fn delivery_due_in(&self) -> Option<Duration> {
        let due_at = self.delivery.due_at.take()?;
        let delay = due_at.saturating_sub(clock::now_ms());
        Some(Duration::from_millis(delay))
    }

    /// How often in a row delivery has failed.
    pub(in crate::replication_do) fn delivery_failures(&self) -> u32 {
        self.delivery.failures.get()
    }

    /// The head is read again before the next page.
    pub(in crate::replication_do) fn refresh_head(&self) {
        self.hub.mark_head_stale(true);
    }

    fn start_delivery(self: &Rc<Self>) {
        self.delivery.runs_since.set(clock::now_ms());
        let runtime = Rc::clone(self);
        self.state.wait_until(async move {
            runtime.deliver().await;
            runtime.delivery.runs_since.set(0);
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
                Ok(true) => self.delivery.failures.set(0),
                // Nothing could be done after all: the event that it waits for wakes delivery.
                Ok(false) => return self.wake_delivery_at(clock::now_ms().saturating_add(1_000)),
                Err(error) => self.note_delivery_failure(error),
            }
        }
    }

    /// What there is to do. While the database cannot be reached: nothing before the next attempt.
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
            let read = self.read_head(&mut connection).await;
            read.inspect_err(|_| self.pause_delivery())?;
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
        connected.inspect_err(|_| self.pause_delivery())
    }

    /// Reads the head from the database: after an eviction, and while the feed is not polled.
    async fn read_head(&self, connection: &mut Database) -> Result<()> {
        let slot = self.with(|memory| memory.config.as_ref().map(|config| config.slot.clone()));
        let slot = slot.ok_or_else(not_initialized)?;
        self.hub.mark_head_stale(false);
        let read = Checkpoint::read(connection, &slot).await;
        let checkpoint = read.and_then(|checkpoint| checkpoint.ok_or_else(not_initialized));
        let checkpoint = checkpoint.inspect_err(|_| self.hub.mark_head_stale(true))?;
        self.hub.refresh(&checkpoint);
        Ok(())
    }

    /// Notes a failure that affects all consumers.
    fn pause_delivery(&self) {
        let failures = self.delivery.failures.get().saturating_add(1);
        let pause = backoff(failures, js_sys::Math::random());
        self.delivery
            .retry_at
            .set(clock::after(clock::now_ms(), pause));
    }

    /// Counts and logs a failure of delivery. It does not fail any cycle.
    fn note_delivery_failure(&self, error: Error) {
        log::error("delivery_failed", &error);
        let failures = self.delivery.failures.get().saturating_add(1);
        self.delivery.failures.set(failures);
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
        let now = clock::now_ms();
        // A timer keeps the object in memory. The alarm handles what is due later.
        if at > now.saturating_add(LONGEST_TIMER_MS) {
            self.delivery.due_at.set(Some(at));
            return;
        }
        // One that is overdue was lost with its event.
        let is_set = |set: u64| set <= at && set.saturating_add(LONGEST_TIMER_MS) > now;
        if self.delivery.wakes_at.get().is_some_and(is_set) {
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
        if self.delivery.is_running() || !is_unused {
            return;
        }
        let connection = self.delivery.connection.take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }
}
