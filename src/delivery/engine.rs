//! The engine: the one way in which changes reach consumers.
//!
//! Consumers with the same position and view form a group: its changes are read, filtered and
//! serialised once. Consumers that the changes in memory reach need no query. The others read
//! pages, one page per group in turn, so that a consumer that lags far does not hold up one that
//! lags little.

mod limits;
mod paging;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::answers::Answer;
use super::budget::{Budget, SHARED_BYTES};
use super::call_turns::CallTurns;
use super::consumer::{Consumer, GroupKey, Heard};
use super::consumer_state::ConsumerState;
use super::consumers::Consumers;
use super::cursor::Extent;
use super::frames::{EncodedFrame, FrameCache, FrameRequest};
use super::groups::{self, Group, merge};
use super::head::Head;
use super::need::{Need, need};
use super::sink::Sink;
use crate::clients::{FrameError, Position, SchemaChanges, SchemaHistory, View, Views};
use crate::error::Result;

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Something, and it needs the database.
    Now,
    /// Something at this time, in milliseconds since 1970.
    At(u64),
    /// Nothing until the head moves, or a consumer is added or sends a message.
    None,
}

/// The engine of one object.
pub struct Engine<S: Sink> {
    consumers: Consumers<S>,
    views: Views,
    schemas: RefCell<SchemaHistory>,
    budget: Rc<Budget>,
    head: RefCell<Option<Rc<Head>>>,
    /// The id of the oldest change that is kept, as last read, and the head at that time.
    oldest: Cell<Option<i64>>,
    turns: Cell<u64>,
    last_number: Cell<u64>,
    /// A number between 0 and 1 that spreads retries.
    jitter: fn() -> f64,
}

impl<S: Sink> std::fmt::Debug for Engine<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl<S: Sink> Engine<S> {
    /// An engine without consumers.
    pub fn new(schemas: SchemaHistory, jitter: fn() -> f64) -> Self {
        Self::with_budget(schemas, jitter, SHARED_BYTES)
    }

    /// The same, with another limit for everything that is unacknowledged.
    pub fn with_budget(schemas: SchemaHistory, jitter: fn() -> f64, shared_bytes: u64) -> Self {
        Self {
            consumers: Consumers::default(),
            views: Views::default(),
            schemas: RefCell::new(schemas),
            budget: Rc::new(Budget::new(shared_bytes)),
            head: RefCell::default(),
            oldest: Cell::default(),
            turns: Cell::default(),
            last_number: Cell::default(),
            jitter,
        }
    }

    // Consumers.

    /// All consumers.
    pub fn consumers(&self) -> &Consumers<S> {
        &self.consumers
    }

    /// The next consumer's number: higher than any assigned since the object started.
    pub fn next_number(&self) -> u64 {
        let last = self.last_number.get().max(self.consumers.last_number());
        self.last_number.set(last.saturating_add(1));
        self.last_number.get()
    }

    /// Adds a consumer.
    pub fn add(&self, sink: S, state: ConsumerState) -> Rc<Consumer<S>> {
        let consumer = Consumer::new(sink, state, &self.views, Rc::clone(&self.budget));
        let consumer = Rc::new(consumer);
        self.consumers.add(Rc::clone(&consumer));
        consumer
    }

    /// The lowest id that a consumer whose sink answers still needs; such consumers hold back
    /// pruning.
    pub fn oldest_needed(&self) -> Option<i64> {
        let consumers = self.consumers.all();
        let answered = consumers.iter().filter(|known| known.sink().answers());
        let positions = answered.filter_map(|known| known.state().cursor.needed());
        positions.map(|at| at.id.saturating_add(1)).min()
    }

    /// Handles a text frame of a consumer's client. `check` may refuse a view that it wants. True
    /// when something may be due to it that [`Self::step`] must send.
    pub fn on_message(
        &self,
        consumer: &Rc<Consumer<S>>,
        text: &str,
        now: u64,
        check: impl FnOnce(&View) -> std::result::Result<(), FrameError>,
    ) -> bool {
        let outcome = consumer.on_message(text, &self.views, now, check);
        if outcome == Heard::Acknowledged {
            self.serve(std::slice::from_ref(consumer), now);
            if self.budget.has_waiting() {
                // What was acknowledged may be room for another consumer.
                return true;
            }
        }
        let head = self.head.borrow().clone();
        !head.is_some_and(|head| consumer.is_settled(head.position))
    }

    /// Handles the answer to what the consumer `number` was sent. An answer to a registration that
    /// has been replaced meanwhile changes nothing.
    pub fn answer(&self, number: u64, answer: Answer, now: u64) {
        let Some(consumer) = self.consumers.find(number) else {
            return;
        };
        consumer.answer(answer, now, (self.jitter)());
        self.serve_from_memory(now);
    }

    /// Removes a consumer.
    pub fn remove(&self, number: u64) {
        if let Some(consumer) = self.consumers.find(number) {
            consumer.leave();
            self.consumers.remove(number);
        }
    }

    // Schemas.

    /// Adds what the feed described of its tables. It must come before the changes that it
    /// describes are published. Where a table has changed, the columns of the filters that name it
    /// are looked up again.
    ///
    /// On success the caller must persist the position before the next await; on an error it must
    /// not: see [`SchemaHistory::save`].
    pub fn describe(&self, described: &SchemaChanges<'_>) -> Result<()> {
        let changed = self.schemas.borrow_mut().add(described);
        if !changed.is_empty() {
            let names_changed =
                |view: &View| view.filtered_tables().any(|table| changed.contains(table));
            for consumer in self.consumers.all().iter() {
                if names_changed(&consumer.state().view) {
                    consumer.rebind();
                }
            }
        }
        self.schemas.borrow_mut().save()
    }

    /// Replaces the table schemas: once, when the object starts.
    pub fn set_schemas(&self, schemas: SchemaHistory) {
        *self.schemas.borrow_mut() = schemas;
    }

    // The head.

    /// The newest change that is stored, once it is known.
    pub fn head(&self) -> Option<Position> {
        self.head.borrow().as_ref().map(|head| head.position)
    }

    /// Publishes a new head, and sends the changes in memory to every consumer that they reach
    /// before returning.
    pub fn publish(&self, head: Head, now: u64) {
        let mut head = head;
        if head.recent.is_none() {
            // An idle cycle has stored nothing: what is in memory is still the newest.
            let before = self.head.borrow().clone();
            head.recent = before
                .filter(|before| before.position == head.position)
                .and_then(|before| before.recent.clone());
        }
        self.head.replace(Some(Rc::new(head)));
        self.serve_from_memory(now);
    }

    /// Sends the changes in memory to every consumer that they reach.
    pub fn serve_from_memory(&self, now: u64) {
        self.serve(&self.consumers.all(), now);
        self.consumers.remove_gone();
    }

    fn serve(&self, consumers: &[Rc<Consumer<S>>], now: u64) {
        let Some(head) = self.head.borrow().clone() else {
            return;
        };
        loop {
            let turns = CallTurns::of(consumers, &head, now);
            let before = self.turns.get();
            self.serve_admitted(consumers, &head, &turns, now);
            // Some consumers that were given a call had nothing to send: let the waiting ones have
            // it.
            if !turns.has_excluded() || self.turns.get() == before {
                return;
            }
        }
    }

    fn serve_admitted(
        &self,
        consumers: &[Rc<Consumer<S>>],
        head: &Head,
        turns: &CallTurns,
        now: u64,
    ) {
        // Nothing of what is in memory can have been pruned.
        let extent = Extent {
            epoch: head.position.epoch,
            oldest: 0,
            head: head.position.id,
        };
        let is_served = |consumer: &&Rc<Consumer<S>>| {
            need(consumer, head, now) == Need::Memory
                && !consumer.has_expired(now)
                && turns.admits(consumer)
        };
        let served = consumers.iter().filter(is_served).cloned();
        let mut groups = groups::group(served, extent, now);
        if groups.is_empty() {
            return;
        }
        let range = head.range();
        let mut cache = range.as_ref().map(FrameCache::of);
        while let Some((key, group)) = groups.pop_last() {
            let at = extent.position(key.after);
            if let (Some(cache), true) = (&mut cache, head.recent_after(at).is_some()) {
                self.send_to(&group, key, extent, cache, now);
                let members = group.members.into_iter();
                let unsettled = members.filter(|member| !member.is_settled(head.position));
                merge(&mut groups, groups::group(unsettled, extent, now));
            }
        }
    }

    /// Sends a range that begins at or before `key.after` to the members of that group. They must
    /// be due it.
    fn send_to(
        &self,
        group: &Group<S>,
        key: GroupKey,
        extent: Extent,
        cache: &mut FrameCache<'_, S>,
        now: u64,
    ) {
        let through = cache.through();
        let request = FrameRequest {
            view: &group.view,
            after: key.after,
            last_sent: extent.position(key.last_sent),
            catch_up: key.catch_up,
        };
        let frames = cache.frames(request, &self.schemas.borrow());
        for member in &group.members {
            self.send_frames(member, frames, through, now);
        }
    }

    /// The consumer has had its turn.
    fn pass_turn(&self, member: &Consumer<S>) {
        let turn = self.turns.get().wrapping_add(1);
        self.turns.set(turn);
        member.set_turn(turn);
    }

    fn send_frames(
        &self,
        member: &Consumer<S>,
        frames: &[EncodedFrame<S::Encoded>],
        through: i64,
        now: u64,
    ) {
        self.pass_turn(member);
        for frame in frames {
            if !member.send(&frame.encoded, frame.to, frame.bytes, now) {
                return;
            }
            if member.sink().answers() {
                // Its cursor moves with the answer.
                return;
            }
        }
        member.read_through(through, now);
    }
}
