//! What there is to do, and how consumers are kept from harming the others.

use super::{Engine, Work};
use crate::delivery::budget::RECLAIM_AFTER_MS;
use crate::delivery::call_turns::CallTurns;
use crate::delivery::need::{Need, need};
use crate::delivery::sink::{Disconnect, Sink};

impl<S: Sink> Engine<S> {
    /// What there is to do once the changes in memory are sent. Disconnects expired consumers, and
    /// frees shared budget that others need.
    pub fn work(&self, now: u64) -> Work {
        self.expire(now);
        self.reclaim(now);
        self.serve_from_memory(now);
        let Some(head) = self.head.borrow().clone() else {
            return Work::None;
        };
        let consumers = self.consumers.all();
        let turns = CallTurns::of(&consumers, &head, now);
        let mut next: Option<u64> = None;
        let mut wait_until = |at: u64| next = Some(next.map_or(at, |next| next.min(at)));
        for consumer in consumers.iter().filter(|consumer| turns.admits(consumer)) {
            match need(consumer, &head, now) {
                Need::Bind | Need::Page => return Work::Now,
                Need::At(at) => wait_until(at),
                // The changes in memory were sent. A consumer that still needs them waits for a
                // call.
                Need::Memory | Need::Nothing => {}
            }
            if let Some(expires_at) = consumer.state().expires_at {
                wait_until(expires_at);
            }
        }
        // Not cached until the next run: changes may be pruned meanwhile.
        self.oldest.set(None);
        next.map_or(Work::None, Work::At)
    }

    fn expire(&self, now: u64) {
        for consumer in self.consumers.all().iter() {
            if consumer.has_expired(now) {
                consumer.disconnect(Disconnect::Expired);
            }
        }
    }

    /// Ends the connections that hold the shared budget without acknowledging anything, until a
    /// consumer that waits for it has room. They connect again with their positions.
    fn reclaim(&self, now: u64) {
        if !self.budget.has_waiting() {
            return;
        }
        let consumers = self.consumers.all();
        let waiting: Vec<_> = consumers
            .iter()
            .filter(|consumer| consumer.waits_for_bytes().is_some())
            .collect();
        if waiting.is_empty() {
            return;
        }
        let mut holders: Vec<_> = consumers
            .iter()
            .map(|consumer| (consumer.share(now), consumer))
            .filter(|((share, idle), _)| *share > 0 && *idle >= RECLAIM_AFTER_MS)
            .collect();
        holders.sort_by_key(|((share, _), _)| *share);
        while waiting
            .iter()
            .all(|consumer| consumer.waits_for_bytes().is_some())
        {
            let Some((_, holder)) = holders.pop() else {
                break;
            };
            holder.disconnect(Disconnect::Unacknowledged);
        }
    }
}
