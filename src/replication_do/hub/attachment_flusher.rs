//! Persists client states in the background: shortly after sending, in chunks, because persisting
//! costs about as much as sending.
//!
//! The platform keeps an object in memory while it waits for a timer. An object that crashes before
//! the timer fires resumes from an older position, and sends what came after it again.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use worker::State;

use super::sinks::ClientSink;
use crate::clock;
use crate::delivery::Engine;

/// Everything that is sent within this time is persisted together.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Added for each client, so that persisting takes about a hundredth of the time.
const AFTER_FOR_EACH: Duration = Duration::from_micros(500);
/// A timer that is overdue by more than this is lost: the platform has ended its event.
const LOST_AFTER: Duration = Duration::from_mins(1);
/// Persisting this many takes a millisecond or two.
const FLUSHED_AT_ONCE: usize = 256;

/// The timer.
#[derive(Debug, Default)]
pub(super) struct AttachmentFlusher {
    /// A flush is scheduled, or considered so, until this time, in milliseconds since 1970.
    runs_until: Rc<Cell<u64>>,
}

impl AttachmentFlusher {
    /// Persists every client's state soon.
    pub(super) fn flush_soon(&self, state: &State, engine: &Rc<Engine<ClientSink>>) {
        let now = clock::now_ms();
        if self.runs_until.get() > now {
            return;
        }
        let consumers = engine.consumers().all();
        if consumers.iter().all(|consumer| consumer.is_persisted()) {
            return;
        }
        let count = u32::try_from(consumers.len()).unwrap_or(u32::MAX);
        let after = FLUSH_AFTER.saturating_add(AFTER_FOR_EACH.saturating_mul(count));
        self.runs_until
            .set(clock::after(now, LOST_AFTER.saturating_add(after)));
        let (runs_until, engine) = (Rc::clone(&self.runs_until), Rc::clone(engine));
        state.wait_until(async move {
            clock::sleep(after).await;
            runs_until.set(0);
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
