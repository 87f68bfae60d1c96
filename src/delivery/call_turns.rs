//! Whose turn it is where few calls can be made at a time: those go first that have waited longest,
//! wherever they stand.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::consumer::Consumer;
use super::head::Head;
use super::need::{Need, need};
use super::sink::Sink;

/// Who may be served now.
pub(super) struct CallTurns {
    /// The numbers of the consumers that have to wait for others.
    excluded: BTreeSet<u64>,
}

impl CallTurns {
    pub(super) fn of<S: Sink>(consumers: &[Rc<Consumer<S>>], head: &Head, now: u64) -> Self {
        let mut capacity = usize::MAX;
        let mut waiting: Vec<&Rc<Consumer<S>>> = Vec::new();
        for consumer in consumers.iter().filter(|known| known.sink().answers()) {
            capacity = capacity.min(consumer.sink().capacity());
            // A consumer that waits for a time takes nobody's turn.
            if matches!(need(consumer, head, now), Need::Memory | Need::Page) {
                waiting.push(consumer);
            }
        }
        if waiting.len() > capacity {
            waiting.sort_by_key(|consumer| consumer.turn());
        }
        let excluded = waiting.iter().skip(capacity);
        Self {
            excluded: excluded.map(|consumer| consumer.number()).collect(),
        }
    }

    /// Whether a consumer may be served.
    pub(super) fn admits<S: Sink>(&self, consumer: &Consumer<S>) -> bool {
        !self.excluded.contains(&consumer.number())
    }

    /// Whether some have to wait for others.
    pub(super) fn has_excluded(&self) -> bool {
        !self.excluded.is_empty()
    }
}
