//! Persisting where the clients stand, which takes as long as sending to them: a little later, and
//! not all at once, so that what is sent is on its way first.
//!
//! The platform keeps an object in memory that waits for a timer. One that crashes before resumes
//! from an older position, and sends again what came after it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use worker::State;

use super::Hub;
use crate::clock;

/// What is sent within this time is persisted once,
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// plus this time for each client, so that persisting takes about a hundredth of the time.
const AFTER_FOR_EACH: Duration = Duration::from_micros(500);
/// Persisting this many takes a millisecond or two.
const FLUSHED_AT_ONCE: usize = 256;

/// The timer.
#[derive(Debug, Default)]
pub(super) struct AttachmentFlusher {
    is_set: Rc<Cell<bool>>,
}

impl AttachmentFlusher {
    /// Persists every client's state soon.
    pub(super) fn flush_soon(&self, state: &State, hub: &Hub) {
        let consumers = hub.engine.consumers().all();
        if self.is_set.get() || consumers.iter().all(|consumer| consumer.is_persisted()) {
            return;
        }
        let count = u32::try_from(consumers.len()).unwrap_or(u32::MAX);
        let after = FLUSH_AFTER.saturating_add(AFTER_FOR_EACH.saturating_mul(count));
        self.is_set.set(true);
        let (is_set, engine) = (Rc::clone(&self.is_set), Rc::clone(&hub.engine));
        state.wait_until(async move {
            clock::sleep(after).await;
            is_set.set(false);
            let consumers = engine.consumers().all();
            let changed = consumers.iter().filter(|consumer| !consumer.is_persisted());
            let changed: Vec<_> = changed.collect();
            for some in changed.chunks(FLUSHED_AT_ONCE) {
                for consumer in some {
                    consumer.persist();
                }
                clock::sleep(Duration::ZERO).await;
            }
        });
    }
}
