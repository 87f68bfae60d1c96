//! The engine: the one way in which changes reach consumers.
//!
//! Consumers at the same place with the same view are served together: what they get is read once,
//! judged once and serialised once. While the newest changes are in memory, nothing is read for the
//! consumers that they serve. The others get pages from the history: a page a turn for each group,
//! so that a consumer that lags far does not hold up one that lags little.

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;
use std::time::Duration;

use super::answers::Answer;
use super::binding::BindBatch;
use super::budget::{Budget, RECLAIM_AFTER_MS, SHARED_BYTES};
use super::call_turns::CallTurns;
use super::consumer::{Consumer, GroupKey, Heard};
use super::consumer_state::ConsumerState;
use super::consumers::Consumers;
use super::cursor::Extent;
use super::frames::{EncodedFrame, FrameCache, FrameRequest};
use super::head::Head;
use super::reading::Depth;
use super::sink::{Disconnect, Sink};
use crate::clients::{
    ChangeRange, FrameError, MAX_CHANGES_BYTES, Position, SchemaChanges, SchemaHistory, View, Views,
};
use crate::clock;
use crate::error::Result;
use crate::history::{self, Page, PageRequest, Trim};
use crate::postgres::{Connection, Stream};

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Something, and it needs the database.
    Now,
    /// Something at this time, in milliseconds since 1970.
    At(u64),
    /// Nothing until the head moves, or a consumer comes or says something.
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
    /// The group that was last read for.
    last_group: Cell<Option<GroupKey>>,
    turns: Cell<u64>,
    last_number: Cell<u64>,
    /// A number between 0 and 1 that spreads retries.
    jitter: fn() -> f64,
}

type Groups<S> = BTreeMap<GroupKey, Vec<Rc<Consumer<S>>>>;

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
            last_group: Cell::default(),
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

    /// A number for the next consumer, above all that were ever given out in this life of the object.
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

    /// The lowest id that a consumer whose sink answers still needs; such consumers hold back pruning.
    pub fn oldest_needed(&self) -> Option<i64> {
        let consumers = self.consumers.all();
        let answered = consumers.iter().filter(|known| known.sink().answers());
        let positions = answered.filter_map(|known| known.state().cursor.position());
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
        let has_ended = matches!(answer, Answer::Gone);
        consumer.answer(answer, now, (self.jitter)());
        if has_ended {
            consumer.leave();
        }
        self.serve_from_memory(now);
    }

    /// A consumer wants nothing more. True when another one may have waited for its room.
    pub fn remove(&self, number: u64) -> bool {
        if let Some(consumer) = self.consumers.find(number) {
            consumer.leave();
            self.consumers.remove(number);
        }
        self.budget.has_waiting()
    }

    // Schemas.

    /// Adds what the feed described of its tables. It must come before the changes that it describes
    /// are published. Where a table has changed, the columns of the filters that name it are looked
    /// up again.
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

    /// What is known of the tables. Not to be held over an await.
    pub fn schemas(&self) -> Ref<'_, SchemaHistory> {
        self.schemas.borrow()
    }

    /// Replaces what is known of the tables: once, when the object starts.
    pub fn set_schemas(&self, schemas: SchemaHistory) {
        *self.schemas.borrow_mut() = schemas;
    }

    // The head.

    /// The newest change that is stored, once it is known.
    pub fn head(&self) -> Option<Position> {
        self.head.borrow().as_ref().map(|head| head.position)
    }

    /// Makes a head known, and serves from memory everyone it can, in this turn.
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

    /// Serves every consumer that the changes in memory serve.
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
            // Those that had to wait for others, of which nothing was for some, have their turn.
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
            !consumer.is_settled(head.position)
                && !consumer.has_expired(now)
                && needs_no_page(consumer, head)
                && turns.admits(consumer)
        };
        let served = consumers.iter().filter(is_served).cloned();
        let mut groups = group(served, extent, now);
        if groups.is_empty() {
            return;
        }
        let range = head.range();
        let mut cache = range.as_ref().map(FrameCache::of);
        while let Some((key, members)) = groups.pop_last() {
            let at = Position {
                epoch: extent.epoch,
                id: key.after,
            };
            if let (Some(cache), true) = (&mut cache, head.recent_after(at).is_some()) {
                self.send_to(&members, key, extent, cache, now);
                merge(&mut groups, group(members, extent, now));
            }
        }
    }

    /// Sends the frames of a range that reaches back to `key` to the members of its group.
    fn send_to(
        &self,
        members: &[Rc<Consumer<S>>],
        key: GroupKey,
        extent: Extent,
        cache: &mut FrameCache<'_, S>,
        now: u64,
    ) {
        let Some(first) = members.first() else { return };
        let view = Rc::clone(&first.state().view);
        let through = cache.through();
        let request = FrameRequest {
            view: &view,
            after: key.after,
            last_sent: Position {
                epoch: extent.epoch,
                id: key.last_sent,
            },
            catch_up: key.catch_up,
        };
        let schemas = self.schemas.borrow();
        let frames = cache.frames(request, &schemas);
        for member in members {
            // A message of the client may have come while the page was read.
            if member.due(extent, now) == Some(key) {
                self.send_frames(member, frames, through, now);
            }
        }
    }

    fn send_frames(
        &self,
        member: &Consumer<S>,
        frames: &[EncodedFrame<S::Encoded>],
        through: i64,
        now: u64,
    ) {
        let turn = self.turns.get().wrapping_add(1);
        self.turns.set(turn);
        member.set_turn(turn);
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

    // Pages.

    /// What there is to do beyond what memory serves. Ends what has expired, and takes back from the
    /// shared budget what others need.
    pub fn work(&self, now: u64) -> Work {
        self.expire(now);
        self.reclaim(now);
        self.serve_from_memory(now);
        let Some(head) = self.head.borrow().clone() else {
            return Work::None;
        };
        let consumers = self.consumers.all();
        let turns = CallTurns::of(&consumers, &head, now);
        let mut next = None;
        for consumer in consumers.iter().filter(|consumer| turns.admits(consumer)) {
            match due_at(consumer, &head, now) {
                Some(at) if at <= now => return Work::Now,
                Some(at) => next = Some(next.map_or(at, |next: u64| next.min(at))),
                None => {}
            }
        }
        // By the next time it may have been pruned.
        self.oldest.set(None);
        next.map_or(Work::None, Work::At)
    }

    /// Does one piece of work: binds views, asks for the oldest change, or reads a page and sends it.
    ///
    /// False when there was nothing to do. An error means that the connection must be dropped. Whoever was concerned has been noted and
    /// is tried again later; nobody else is.
    pub async fn step<St: Stream>(&self, connection: &mut Connection<St>) -> Result<bool> {
        let now = clock::now_ms();
        let Some(head) = self.head.borrow().clone() else {
            return Ok(false);
        };
        let consumers = self.consumers.all();
        if let Some(batch) = BindBatch::of(&consumers, now) {
            self.bind(connection, &batch).await?;
            return Ok(true);
        }
        let turns = CallTurns::of(&consumers, &head, now);
        let lagging = consumers.iter().filter(|consumer| {
            !consumer.is_settled(head.position)
                && !needs_no_page(consumer, &head)
                && consumer.reading().may_read(now)
                && turns.admits(consumer)
        });
        let lagging: Vec<_> = lagging.cloned().collect();
        if lagging.is_empty() {
            return Ok(false);
        }
        let oldest = match self.oldest.take() {
            Some(oldest) => oldest,
            None => history::oldest(connection, head.position.id).await?,
        };
        let extent = Extent {
            epoch: head.position.epoch,
            oldest,
            head: head.position.id,
        };
        let mut groups = group(lagging, extent, now);
        let Some(key) = next_group(&groups, self.last_group.get()) else {
            self.consumers.remove_gone();
            return Ok(true);
        };
        self.last_group.set(Some(key));
        let members = groups.remove(&key).unwrap_or_default();
        self.read_for(connection, key, &members, extent).await?;
        Ok(true)
    }

    async fn bind<St: Stream>(
        &self,
        connection: &mut Connection<St>,
        batch: &BindBatch<S>,
    ) -> Result<()> {
        match batch.look_up(connection).await {
            Ok(columns) => {
                batch.bind(&columns, &self.views);
                self.consumers.remove_gone();
                Ok(())
            }
            Err(error) => {
                self.note_failure(batch.members());
                Err(error)
            }
        }
    }

    /// Reads the next page of a group and sends it.
    async fn read_for<St: Stream>(
        &self,
        connection: &mut Connection<St>,
        key: GroupKey,
        members: &[Rc<Consumer<S>>],
        extent: Extent,
    ) -> Result<()> {
        let started = clock::now_ms();
        let page = match self.read_page(connection, key, members, extent).await {
            Ok(page) => page,
            Err(error) => {
                self.note_failure(members.iter());
                return Err(error);
            }
        };
        let now = clock::now_ms();
        let took = Duration::from_millis(now.saturating_sub(started));
        for member in members {
            let mut reading = member.reading();
            reading.succeeded(page.next_changes, page.is_range_read, took);
            member.set_reading(reading);
        }
        let head = self.head().filter(|head| head.epoch == extent.epoch);
        let Some(head) = head else {
            // Another epoch has begun meanwhile: the cursors say so the next time.
            return Ok(());
        };
        let extent = Extent {
            oldest: page.oldest.min(head.id.saturating_add(1)),
            head: head.id,
            ..extent
        };
        self.oldest.set(Some(extent.oldest));
        // Otherwise some of what was to be read has been pruned meanwhile, and the cursors say so.
        if extent.oldest <= key.after.saturating_add(1) {
            let range = ChangeRange::of_page(key.after, &page);
            let mut cache = FrameCache::of(&range);
            self.send_to(members, key, extent, &mut cache, now);
        }
        self.consumers.remove_gone();
        Ok(())
    }

    async fn read_page<St: Stream>(
        &self,
        connection: &mut Connection<St>,
        key: GroupKey,
        members: &[Rc<Consumer<S>>],
        extent: Extent,
    ) -> Result<Page> {
        let Some(first) = members.first() else {
            return Ok(Page::empty(key.after));
        };
        let (reading, view) = (first.reading(), Rc::clone(&first.state().view));
        let next = key.after.saturating_add(1);
        match reading.depth() {
            Depth::Whole => {
                let request = PageRequest {
                    after: key.after,
                    through: extent.head.min(key.after.saturating_add(reading.ids)),
                    tables: &view.table_names(),
                    max_changes: first.sink().max_changes().unwrap_or(reading.changes),
                    max_bytes: MAX_CHANGES_BYTES,
                };
                history::read_page(connection, request).await
            }
            Depth::Trimmed => history::read_row(connection, next, Trim::LargeColumns).await,
            Depth::Bare => history::read_row(connection, next, Trim::AllColumns).await,
        }
    }

    fn note_failure<'a>(&self, members: impl Iterator<Item = &'a Rc<Consumer<S>>>)
    where
        S: 'a,
    {
        let now = clock::now_ms();
        for member in members {
            let mut reading = member.reading();
            reading.failed(now, (self.jitter)());
            member.set_reading(reading);
        }
    }

    // Limits.

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

/// When a consumer that memory does not serve needs the engine next; `None`: not before something
/// happens.
fn due_at<S: Sink>(consumer: &Consumer<S>, head: &Head, now: u64) -> Option<u64> {
    if consumer.is_gone() {
        return None;
    }
    let expires_at = consumer.state().expires_at;
    let due_at = work_at(consumer, head, now);
    match (due_at, expires_at) {
        (Some(due), Some(expires)) => Some(due.min(expires)),
        (due, expires) => due.or(expires),
    }
}

fn work_at<S: Sink>(consumer: &Consumer<S>, head: &Head, now: u64) -> Option<u64> {
    let read_at = consumer.reading().retry_at().max(now);
    if consumer.unbound().is_some() {
        return Some(read_at);
    }
    if consumer.is_settled(head.position) {
        return None;
    }
    let (retry_at, is_awaiting) = {
        let state = consumer.state();
        let answers = state.answers.as_ref();
        (
            answers.map_or(0, |answers| answers.retry_at),
            answers.is_some_and(|answers| answers.outstanding.is_some()),
        )
    };
    if is_awaiting {
        // The answer wakes the engine.
        return None;
    }
    if consumer.waits_for_bytes().is_some() {
        return Some(now.saturating_add(RECLAIM_AFTER_MS / 2));
    }
    let cursor = &consumer.state().cursor;
    if retry_at > now {
        return Some(retry_at);
    }
    if needs_no_page(consumer, head) {
        // Memory serves it; what is left is a fresh position.
        return cursor.progress_at().map(|at| at.max(now + 1));
    }
    // A welcome and a reset need no room.
    let is_elsewhere = cursor
        .position()
        .is_none_or(|at| at.epoch != head.position.epoch);
    (is_elsewhere || cursor.is_starting() || cursor.has_room()).then_some(read_at)
}

/// Whether the changes in memory are all that the consumer needs.
pub(super) fn needs_no_page<S: Sink>(consumer: &Consumer<S>, head: &Head) -> bool {
    let state = consumer.state();
    !state.cursor.is_starting()
        && state
            .cursor
            .position()
            .is_some_and(|at| head.is_in_memory(at))
}

/// The consumers that are due changes, by what they can share. Sends what is due to each alone.
fn group<S: Sink>(
    consumers: impl IntoIterator<Item = Rc<Consumer<S>>>,
    extent: Extent,
    now: u64,
) -> Groups<S> {
    let mut groups = Groups::new();
    for consumer in consumers {
        if let Some(key) = consumer.due(extent, now) {
            groups.entry(key).or_default().push(consumer);
        }
    }
    groups
}

fn merge<S: Sink>(groups: &mut Groups<S>, more: Groups<S>) {
    for (key, mut members) in more {
        groups.entry(key).or_default().append(&mut members);
    }
}

/// The groups take turns.
fn next_group<S: Sink>(groups: &Groups<S>, last: Option<GroupKey>) -> Option<GroupKey> {
    let after = last.and_then(|last| groups.range((Excluded(last), Unbounded)).next());
    after.or_else(|| groups.iter().next()).map(|(key, _)| *key)
}
