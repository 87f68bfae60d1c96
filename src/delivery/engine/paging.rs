//! The engine's work on its own connection: binding views, and reading pages for the consumers that
//! memory does not serve, a page a turn for each group.

use std::rc::Rc;
use std::time::Duration;

use super::Engine;
use crate::clients::{ChangeRange, MAX_CHANGES_BYTES};
use crate::clock;
use crate::delivery::binding::BindBatch;
use crate::delivery::call_turns::CallTurns;
use crate::delivery::consumer::{Consumer, GroupKey};
use crate::delivery::cursor::Extent;
use crate::delivery::frames::FrameCache;
use crate::delivery::groups::{Group, group, take_next};
use crate::delivery::need::{Need, need};
use crate::delivery::reading::Depth;
use crate::delivery::sink::Sink;
use crate::error::{Category, Error, Result};
use crate::history::{self, Page, PageRequest, Trim};
use crate::postgres::{Connection, Stream};

/// What Postgres may spend on a page. Other groups and new consumers wait no longer than this, and
/// a failed page is made smaller.
const PAGE_TIMEOUT: Duration = Duration::from_secs(3);
/// What it may spend on a page of one row.
const ROW_TIMEOUT: Duration = Duration::from_secs(15);

impl<S: Sink> Engine<S> {
    /// Does one piece of work: binds views, asks for the oldest change, or reads a page and sends
    /// it.
    ///
    /// False if nothing could be done. After an error drop the connection; the affected consumers
    /// back off.
    pub async fn step<St: Stream>(&self, connection: &mut Connection<St>) -> Result<bool> {
        let consumers = self.consumers.all();
        if let Some(batch) = BindBatch::of(&consumers, clock::now_ms()) {
            self.bind(connection, &batch).await?;
            return Ok(true);
        }
        let lagging = self.lagging();
        if lagging.is_empty() {
            return Ok(false);
        }
        let oldest = match self.oldest.take() {
            Some(oldest) => oldest,
            None => self.read_oldest(connection, &lagging).await?,
        };
        // The head may have moved meanwhile, and a client may have subscribed after it.
        let Some(head) = self.head() else {
            return Ok(false);
        };
        let extent = Extent {
            epoch: head.epoch,
            oldest: oldest.min(head.id.saturating_add(1)),
            head: head.id,
        };
        let mut groups = group(lagging, extent, clock::now_ms());
        let Some((key, group)) = take_next(&mut groups) else {
            // Messages were all that was due.
            self.consumers.remove_gone();
            return Ok(self.lagging().is_empty());
        };
        for member in &group.members {
            self.pass_turn(member);
        }
        self.read_for(connection, key, &group, extent).await?;
        Ok(true)
    }

    /// The consumers that need a page now.
    fn lagging(&self) -> Vec<Rc<Consumer<S>>> {
        let Some(head) = self.head.borrow().clone() else {
            return Vec::new();
        };
        let (consumers, now) = (self.consumers.all(), clock::now_ms());
        let turns = CallTurns::of(&consumers, &head, now);
        let lagging = consumers
            .iter()
            .filter(|consumer| need(consumer, &head, now) == Need::Page && turns.admits(consumer));
        lagging.cloned().collect()
    }

    /// The id of the oldest change that is kept; `i64::MAX` when there is none.
    async fn read_oldest<St: Stream>(
        &self,
        connection: &mut Connection<St>,
        lagging: &[Rc<Consumer<S>>],
    ) -> Result<i64> {
        let oldest = history::oldest(connection).await;
        oldest.inspect_err(|error| self.note_failure(lagging.iter(), error))
    }

    async fn bind<St: Stream>(
        &self,
        connection: &mut Connection<St>,
        batch: &BindBatch<S>,
    ) -> Result<()> {
        let columns = batch.look_up(connection).await;
        let columns = columns.inspect_err(|error| self.note_failure(batch.members(), error))?;
        batch.bind(&columns, &self.views);
        self.consumers.remove_gone();
        Ok(())
    }

    /// Reads the next page of a group and sends it.
    async fn read_for<St: Stream>(
        &self,
        connection: &mut Connection<St>,
        key: GroupKey,
        group: &Group<S>,
        extent: Extent,
    ) -> Result<()> {
        let members = &group.members;
        let started = clock::now_ms();
        let page = self.read_page(connection, key, group, extent).await;
        let page = page.inspect_err(|error| self.note_failure(members.iter(), error))?;
        let now = clock::now_ms();
        let took = Duration::from_millis(now.saturating_sub(started));
        let bytes = page.changes.iter().map(|change| change.json.len()).sum();
        for member in members {
            let mut reading = member.reading();
            reading.succeeded(page.next_changes, page.is_range_read, took);
            reading.pace(bytes, now);
            member.set_reading(reading);
        }
        let head = self.head().filter(|head| head.epoch == extent.epoch);
        let Some(head) = head else {
            // A new epoch began during the read: the next step resets the cursors.
            return Ok(());
        };
        let extent = Extent {
            oldest: page.oldest.min(head.id.saturating_add(1)),
            head: head.id,
            ..extent
        };
        self.oldest.set(Some(extent.oldest));
        // Otherwise part of the page was pruned during the read, and the next step resets the
        // cursors.
        if extent.oldest <= key.after.saturating_add(1) {
            let range = ChangeRange::of_page(&page);
            let mut cache = FrameCache::of(&range);
            // A message of the client may have come while the page was read.
            let is_due = |member: &&Rc<Consumer<S>>| member.due(extent, now) == Some(key);
            let group = Group {
                view: Rc::clone(&group.view),
                members: group.members.iter().filter(is_due).cloned().collect(),
            };
            self.send_to(&group, key, extent, &mut cache, now);
        }
        self.consumers.remove_gone();
        Ok(())
    }

    async fn read_page<St: Stream>(
        &self,
        connection: &mut Connection<St>,
        key: GroupKey,
        group: &Group<S>,
        extent: Extent,
    ) -> Result<Page> {
        let Some(first) = group.members.first() else {
            return Ok(Page::empty(key.after));
        };
        let reading = first.reading();
        let next = key.after.saturating_add(1);
        match reading.depth() {
            Depth::Whole => {
                let request = PageRequest {
                    after: key.after,
                    through: extent.head.min(key.after.saturating_add(reading.ids)),
                    tables: &group.view.table_names(),
                    max_changes: (first.sink().max_changes())
                        .map_or(reading.changes, |most| most.min(reading.changes)),
                    max_bytes: MAX_CHANGES_BYTES,
                    timeout: if reading.ids > 1 {
                        PAGE_TIMEOUT
                    } else {
                        ROW_TIMEOUT
                    },
                };
                history::read_page(connection, request).await
            }
            Depth::Trimmed => history::read_row(connection, next, Trim::LargeColumns).await,
            Depth::Bare => history::read_row(connection, next, Trim::AllColumns).await,
        }
    }

    fn note_failure<'a>(&self, members: impl Iterator<Item = &'a Rc<Consumer<S>>>, error: &Error)
    where
        S: 'a,
    {
        let (now, jitter) = (clock::now_ms(), (self.jitter)());
        for member in members {
            let mut reading = member.reading();
            if error.category() == Category::Connection {
                reading.interrupted(now, jitter);
            } else {
                reading.failed(now, jitter);
            }
            member.set_reading(reading);
        }
    }
}
