//! Whose turn it is where few calls can be made at a time: those go first that have waited longest,
//! wherever they stand.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::consumer::Consumer;
use super::engine::needs_no_page;
use super::head::Head;
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
            if waits_for_call(consumer, head, now) {
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

/// Whether nothing but a call is missing. A consumer that waits for a time takes nobody's turn.
fn waits_for_call<S: Sink>(consumer: &Consumer<S>, head: &Head, now: u64) -> bool {
    if !consumer.may_be_sent(now)
        || consumer.is_settled(head.position)
        || consumer.unbound().is_some()
    {
        return false;
    }
    if !needs_no_page(consumer, head) {
        return consumer.reading().may_read(now);
    }
    let cursor = &consumer.state().cursor;
    let has_changes = cursor.position() != Some(head.position);
    has_changes || cursor.progress_at().is_some_and(|at| at <= now)
}
