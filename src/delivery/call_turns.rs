//! Shares a limited number of calls: whoever has waited longest goes first, whatever its position.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::consumer::Consumer;
use super::head::Head;
use super::need::{Need, need};
use super::sink::Sink;

/// Who may be served now.
pub(super) struct CallTurns {
    /// The numbers of the consumers that have to wait.
    excluded: BTreeSet<u64>,
}

impl CallTurns {
    pub(super) fn of<S: Sink>(consumers: &[Rc<Consumer<S>>], head: &Head, now: u64) -> Self {
        let (mut capacity, mut reserved) = (usize::MAX, 0);
        let mut waiting: Vec<&Rc<Consumer<S>>> = Vec::new();
        for consumer in consumers.iter().filter(|known| known.sink().answers()) {
            capacity = capacity.min(consumer.sink().capacity());
            reserved = consumer.sink().reserved().max(reserved);
            // A consumer that waits for a point in time needs no call yet.
            if matches!(need(consumer, head, now), Need::Memory | Need::Page) {
                waiting.push(consumer);
            }
        }
        if waiting.len() > capacity.saturating_sub(reserved) {
            waiting.sort_by_key(|consumer| (consumer.is_failing(), consumer.turn()));
        }
        // Sinks that hang or fail leave some calls to those that work.
        let mut left = capacity;
        let mut excluded = BTreeSet::new();
        for consumer in waiting {
            let kept_back = if consumer.is_failing() { reserved } else { 0 };
            if left > kept_back {
                left -= 1;
            } else {
                excluded.insert(consumer.number());
            }
        }
        Self { excluded }
    }

    /// Whether a consumer may be served.
    pub(super) fn admits<S: Sink>(&self, consumer: &Consumer<S>) -> bool {
        !self.excluded.contains(&consumer.number())
    }

    /// Whether any consumer has to wait for others.
    pub(super) fn has_excluded(&self) -> bool {
        !self.excluded.is_empty()
    }
}
