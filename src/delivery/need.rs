//! What a consumer needs next: the one place that decides whether it can be served now, and by
//! what. Pure.

use super::budget::RECLAIM_AFTER_MS;
use super::consumer::Consumer;
use super::head::Head;
use super::sink::Sink;

/// What a consumer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing before the head moves, the client sends a message, or an answer arrives.
    Nothing,
    /// Nothing before this time, in milliseconds.
    At(u64),
    /// The columns of its filters.
    Bind,
    /// The changes in memory, or a message that needs no query.
    Memory,
    /// A page of the history, or a message that needs a query of the history.
    Page,
}

/// What a consumer needs now.
pub(super) fn need<S: Sink>(consumer: &Consumer<S>, head: &Head, now: u64) -> Need {
    if consumer.is_gone() {
        return Need::Nothing;
    }
    let may_read_at = consumer.reading().retry_at();
    if consumer.unbound().is_some() {
        return at_or(may_read_at, now, Need::Bind);
    }
    if consumer.is_settled(head.position) {
        return Need::Nothing;
    }
    match consumer.sendable_at(now) {
        None => return Need::Nothing,
        Some(at) if at > now => return Need::At(at),
        Some(_) => {}
    }
    if consumer.waits_for_bytes().is_some() {
        return Need::At(now.saturating_add(RECLAIM_AFTER_MS / 2));
    }
    let state = consumer.state();
    let (cursor, position) = (&state.cursor, state.cursor.position());
    // At its limit a client that need not acknowledge is told to connect again.
    let can_go_on = cursor.has_room() || cursor.must_reconnect();
    if needs_no_page(consumer, head) {
        return match cursor.progress_at() {
            _ if position != Some(head.position) && can_go_on => Need::Memory,
            _ if position != Some(head.position) => Need::Nothing,
            _ if !cursor.is_live() => Need::Memory,
            Some(at) => at_or(at, now, Need::Memory),
            None => Need::Nothing,
        };
    }
    // A welcome and a reset need no room.
    let is_elsewhere = position.is_none_or(|at| at.epoch != head.position.epoch);
    if is_elsewhere || cursor.is_starting() || can_go_on {
        return at_or(may_read_at, now, Need::Page);
    }
    Need::Nothing
}

fn at_or(at: u64, now: u64, need: Need) -> Need {
    if at > now { Need::At(at) } else { need }
}

/// Whether the changes in memory are all that the consumer needs. A request for a page has a limit
/// of its own, and always reads one.
fn needs_no_page<S: Sink>(consumer: &Consumer<S>, head: &Head) -> bool {
    let cursor = &consumer.state().cursor;
    let is_in_memory = cursor.position().is_some_and(|at| head.is_in_memory(at));
    let is_at_head = cursor.position() == Some(head.position);
    let has_limit = consumer.sink().max_changes().is_some();
    !cursor.is_starting() && is_in_memory && (is_at_head || !has_limit)
}
