//! Whose turn it is where few calls can be made at a time: those go first that have waited longest,
//! wherever they stand.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::consumer::Consumer;
use super::head::Head;
use super::sink::Sink;

/// Who may be served now.
pub(super) struct CallTurns {
    /// The numbers of the consumers that answer and may be served; `None` when there is room for all.
    admitted: Option<BTreeSet<u64>>,
}

impl CallTurns {
    pub(super) fn of<S: Sink>(consumers: &[Rc<Consumer<S>>], head: &Head, now: u64) -> Self {
        let mut capacity = usize::MAX;
        let mut waiting: Vec<&Rc<Consumer<S>>> = Vec::new();
        for consumer in consumers.iter().filter(|known| known.sink().answers()) {
            capacity = capacity.min(consumer.sink().capacity());
            if consumer.may_be_sent(now) && !consumer.is_settled(head.position) {
                waiting.push(consumer);
            }
        }
        if waiting.len() <= capacity {
            return Self { admitted: None };
        }
        waiting.sort_by_key(|consumer| consumer.turn());
        let admitted = waiting.iter().take(capacity);
        Self {
            admitted: Some(admitted.map(|consumer| consumer.number()).collect()),
        }
    }

    /// Whether a consumer may be served.
    pub(super) fn admits<S: Sink>(&self, consumer: &Consumer<S>) -> bool {
        let Some(admitted) = &self.admitted else {
            return true;
        };
        !consumer.sink().answers() || admitted.contains(&consumer.number())
    }

    /// Whether some have to wait for others.
    pub(super) fn has_excluded(&self) -> bool {
        self.admitted.is_some()
    }
}
