//! The one alarm: what it does, when it is due, and the watchdog that restores it when it is lost.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use super::Runtime;
use super::persisted::HIBERNATING;
use crate::clock;
use crate::error::{Category, Error};
use crate::polling::{Next, Outcome};
use crate::replication_do::job_queue::{Job, wait_for};
use crate::workers::log;

/// The platform sometimes fires an alarm late. One that is later than this is lost: an alarm is
/// deleted after six failures, and a crash between two steps may leave none.
const LOST_AFTER_MS: u64 = 30_000;
/// An invalid configuration is checked again this often.
const INVALID_CONFIG_DELAY: Duration = Duration::from_mins(1);

impl Runtime {
    /// The alarm: polls, or, without clients, maintains the slot. If a job is running, that job is
    /// enough.
    pub(in crate::replication_do) async fn on_alarm(self: &Rc<Self>) {
        self.memory.borrow_mut().next_alarm_at = None;
        if let Err(error) = self.config() {
            if !error.is_not_initialized() {
                self.set_alarm(Some(INVALID_CONFIG_DELAY)).await;
            }
            return;
        }
        // Failures are counted, and the next alarm set, where they happen.
        if let Some(running) = self.jobs.join() {
            let _ = wait_for(running).await;
        } else if self.with(|memory| memory.hibernating) && !self.hub.has_clients() {
            let _ = self.run(Job::Maintain).await;
        } else {
            let _ = self.run(Job::Poll).await;
        }
        self.watch().await;
    }

    /// Sets the alarm again if it is lost. Called on every event; asks the platform only after an
    /// eviction and when an alarm is overdue.
    pub(in crate::replication_do) async fn watch(&self) {
        if self.with(|memory| memory.config.is_none()) || self.jobs.is_running() {
            return;
        }
        let is_lost = |due: u64| clock::now_ms() > due.saturating_add(LOST_AFTER_MS);
        if self.with(|memory| memory.next_alarm_at.is_some_and(|due| !is_lost(due))) {
            return;
        }
        let due = self.state.storage().get_alarm().await.ok().flatten();
        let due = due.and_then(|due| u64::try_from(due).ok());
        // Both may have changed over the await.
        if self.jobs.is_running() {
            return;
        }
        match due {
            Some(due) if !is_lost(due) => self.memory.borrow_mut().next_alarm_at = Some(due),
            _ => {
                log::event("alarm_set_again", json!({"due": due}));
                self.set_alarm(Some(Duration::ZERO)).await;
            }
        }
    }

    /// When the next alarm is due after a job; `None` before the feed is initialised.
    pub(super) fn schedule(&self, outcome: Outcome) -> Option<Duration> {
        let has_clients = self.hub.has_clients();
        let mut memory = self.memory.borrow_mut();
        let (poll_interval, hibernation_delay) = memory
            .config
            .as_ref()
            .map(|config| (config.poll_interval, config.hibernation_delay))?;
        let jitter = js_sys::Math::random();
        let next = memory.pace.next(
            outcome,
            has_clients,
            poll_interval,
            hibernation_delay,
            jitter,
        );
        let due_in = self.delivery_due_in().unwrap_or(Duration::MAX);
        let (hibernating, delay) = match next {
            Next::Poll(delay) => (false, delay.min(due_in)),
            Next::Hibernate(delay) => (true, delay),
        };
        if memory.hibernating != hibernating {
            memory.hibernating = hibernating;
            self.persist(HIBERNATING, &hibernating);
        }
        memory.interval_ms = u64::try_from(delay.as_millis()).ok();
        Some(delay)
    }

    /// Sets the one alarm, replacing any earlier one. Called last, so that an alarm follows
    /// whatever the outcome was.
    pub(super) async fn set_alarm(&self, delay: Option<Duration>) {
        let Some(delay) = delay else { return };
        self.memory.borrow_mut().next_alarm_at = Some(clock::after(clock::now_ms(), delay));
        if let Err(cause) = self.state.storage().set_alarm(delay).await {
            self.memory.borrow_mut().next_alarm_at = None;
            let error = Error::new(Category::Storage, "alarm", format!("no alarm: {cause}"));
            log::error("set_alarm_failed", &error);
        }
    }
}
