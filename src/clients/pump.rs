//! Moving every client's cursor to the head: the one way in which changes reach clients.
//!
//! Clients that stand at the same place with the same view are served together: what they get is
//! read once, judged once and serialised once. Where the recent changes in memory begin at or before
//! them, nothing is read at all; else they get pages from the history, each group one page a turn, so
//! that who is far behind does not hold up who is near.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::column_facts::Columns;
use super::cursor::Feed;
use super::frames::{Ask, Ready, ReadyFrames};
use super::position::Position;
use super::relation_log::{Described, Known, Learned, RelationLog};
use super::server_message::MAX_CHANGES_BYTES;
use super::stretch::Stretch;
use super::subscriber::{Due, Outlet, Subscriber};
use super::subscription::View;
use super::views::Views;
use crate::clock;
use crate::config::TableName;
use crate::error::Result;
use crate::history::{self, PageRequest};
use crate::postgres::Connection;

/// What the pump knows beside the clients.
#[derive(Debug, Default)]
pub struct Pump {
    views: Views,
    relations: RefCell<RelationLog>,
    /// Whose turn it was last.
    last: Cell<Option<Due>>,
}

/// What there is to deliver.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// The newest change that is stored.
    pub position: Position,
    /// The newest changes, when they are in memory.
    pub recent: Option<&'a Stretch<'a>>,
    /// When to stop reading pages, in milliseconds since 1970.
    pub deadline: u64,
}

impl<'a> Head<'a> {
    /// The changes in memory, when they reach back to `after`.
    pub fn recent_behind(self, after: i64) -> Option<&'a Stretch<'a>> {
        self.recent.filter(|recent| recent.reaches_back_to(after))
    }

    /// Whether they do.
    pub fn is_in_memory(self, after: i64) -> bool {
        self.recent_behind(after).is_some()
    }
}

type Groups<O> = BTreeMap<Due, Vec<Rc<Subscriber<O>>>>;

impl Pump {
    /// The views of its clients.
    pub fn views(&self) -> &Views {
        &self.views
    }

    /// Moves the cursors of those who are live and whom the changes in memory serve: without a
    /// question to the database, so at once. [`Self::deliver`] is for everybody else.
    pub fn deliver_recent<O: Outlet>(
        &self,
        subscribers: &[Rc<Subscriber<O>>],
        head: Head<'_>,
    ) -> Result<()> {
        let Some(mut recent) = head.recent.map(ReadyFrames::of) else {
            return Ok(());
        };
        let is_served = |it: &&Rc<Subscriber<O>>| {
            !it.is_settled(head.position)
                && it.unbound().is_none()
                && is_served_from_memory(it, head)
        };
        let served = subscribers.iter().filter(is_served).cloned();
        let feed = Feed {
            epoch: head.position.epoch,
            oldest: 0,
            head: head.position.id,
        };
        let mut groups = Groups::new();
        regroup(&mut groups, served, feed);
        while let Some((due, members)) = groups.pop_last() {
            if head.is_in_memory(due.after) {
                self.serve(&members, due, feed, &mut recent)?;
                regroup(&mut groups, members, feed);
            }
        }
        Ok(())
    }

    /// Sends what `due` stands for, of frames that reach back to it, to all who share it.
    fn serve<O: Outlet>(
        &self,
        members: &[Rc<Subscriber<O>>],
        due: Due,
        feed: Feed,
        frames: &mut ReadyFrames<'_, O>,
    ) -> Result<()> {
        let Some(view) = view_of(members) else {
            return Ok(());
        };
        let ask = Ask {
            view: &view,
            after: due.after,
            told: Position {
                epoch: feed.epoch,
                id: due.told,
            },
            catch_up: due.catch_up,
        };
        let through = frames.through();
        let ready = frames.due_to(ask, &self.relations.borrow())?;
        hand_out(ready, through, due, members, feed);
        Ok(())
    }

    /// What is known of the tables. Not to be held over an await.
    pub fn relations(&self) -> Ref<'_, RelationLog> {
        self.relations.borrow()
    }

    /// Remembers what an object knew before it was evicted.
    pub fn recall(&self, known: Vec<Known>, through: Option<Position>) {
        *self.relations.borrow_mut() = RelationLog::recall(known, through);
    }

    /// Takes in what the feed described of its tables. Must come before what is stored with it is
    /// delivered. Where something is new, the filters' columns are looked up again.
    pub fn learn<O: Outlet>(
        &self,
        described: &Described<'_>,
        subscribers: &[Rc<Subscriber<O>>],
    ) -> Learned {
        let learned = self.relations.borrow_mut().learn(described);
        if !learned.changed.is_empty() {
            for subscriber in subscribers {
                subscriber.rebind();
            }
        }
        learned
    }

    /// Moves the cursors towards the head. False when the deadline came before all stood there, or
    /// wait for an acknowledgement.
    ///
    /// A client that cannot be sent to is left; it resumes from its own position. Fails with what
    /// reading the history fails with; what was sent before is noted.
    pub async fn deliver<O: Outlet, S>(
        &self,
        subscribers: &[Rc<Subscriber<O>>],
        connection: &mut Connection<S>,
        head: Head<'_>,
    ) -> Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let now = clock::now_ms();
        let is_unsettled =
            |it: &&Rc<Subscriber<O>>| !it.is_settled(head.position) || it.has_expired(now);
        let unsettled: Vec<_> = subscribers.iter().filter(is_unsettled).cloned().collect();
        if unsettled.is_empty() {
            return Ok(true);
        }
        bind(&self.views, &unsettled, connection).await?;
        let mut feed = Feed {
            epoch: head.position.epoch,
            oldest: 0,
            head: head.position.id,
        };
        if !unsettled.iter().all(|it| is_served_from_memory(it, head)) {
            feed.oldest = history::oldest(connection, head.position.id).await?;
        }
        let mut recent = head.recent.map(ReadyFrames::of);
        let mut groups = Groups::new();
        regroup(&mut groups, unsettled, feed);
        while let Some((due, members)) = next(&mut groups, self.last.get(), head.recent) {
            let Some(view) = view_of(&members) else {
                continue;
            };
            if let Some(recent) = recent.as_mut().filter(|_| head.is_in_memory(due.after)) {
                self.serve(&members, due, feed, recent)?;
            } else if clock::now_ms() >= head.deadline {
                return Ok(false);
            } else {
                self.last.set(Some(due));
                let asked = members.first().map_or(1, |it| it.page_changes());
                let page = read_after(connection, &view, due.after, feed.head, asked).await?;
                for member in &members {
                    member.note_page(&page);
                }
                feed.oldest = page.oldest.min(feed.head.saturating_add(1));
                // Else some of what was to be read was pruned meanwhile, and the cursors say so.
                if page.oldest <= due.after.saturating_add(1) {
                    let stretch = Stretch::of_page(due.after, &page);
                    self.serve(&members, due, feed, &mut ReadyFrames::of(&stretch))?;
                }
            }
            regroup(&mut groups, members, feed);
        }
        Ok(true)
    }
}

/// The view that all of a group share.
fn view_of<O: Outlet>(members: &[Rc<Subscriber<O>>]) -> Option<Rc<View>> {
    members.first().map(|it| Rc::clone(&it.attachment().view))
}

/// Reads the page behind `after` that a view needs, of `max_changes` and one frame at most.
pub async fn read_after<S>(
    connection: &mut Connection<S>,
    view: &View,
    after: i64,
    through: i64,
    max_changes: u32,
) -> Result<history::Page>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = PageRequest {
        after,
        through,
        tables: &view.table_names(),
        max_changes,
        max_bytes: MAX_CHANGES_BYTES,
    };
    history::read_page(connection, request).await
}

/// Looks up what the filters of those who come name.
async fn bind<O: Outlet, S>(
    views: &Views,
    subscribers: &[Rc<Subscriber<O>>],
    connection: &mut Connection<S>,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let unbound: Vec<_> = subscribers
        .iter()
        .filter_map(|it| it.unbound().map(|view| (it, view)))
        .collect();
    if unbound.is_empty() {
        return Ok(());
    }
    let tables: BTreeSet<_> = unbound
        .iter()
        .flat_map(|(_, view)| view.filtered_tables().cloned())
        .collect();
    let columns = Columns::read(connection, &tables).await?;
    for (subscriber, view) in unbound {
        let is_same = Rc::ptr_eq(&view, &subscriber.attachment().view);
        if !is_same {
            // It has subscribed otherwise meanwhile, and is bound the next time.
            continue;
        }
        let mut bound = View::clone(&view);
        let facts = |table: &TableName, column: &str| columns.facts(table, column);
        let result = if subscriber.is_welcome() {
            bound.rebind(facts);
            Ok(())
        } else {
            bound.bind(facts)
        };
        subscriber.bind(result.map(|()| views.shared(Rc::new(bound))));
    }
    Ok(())
}

/// Then whether something was pruned does not matter.
fn is_served_from_memory<O: Outlet>(subscriber: &Subscriber<O>, head: Head<'_>) -> bool {
    let attachment = subscriber.attachment();
    let (Some(at), true) = (attachment.cursor.position(), attachment.cursor.is_live()) else {
        return false;
    };
    at.epoch == head.position.epoch && (at.id == head.position.id || head.is_in_memory(at.id))
}

fn regroup<O: Outlet>(
    groups: &mut Groups<O>,
    members: impl IntoIterator<Item = Rc<Subscriber<O>>>,
    feed: Feed,
) {
    let now = clock::now_ms();
    for member in members {
        if member.unbound().is_some() {
            continue;
        }
        if let Some(due) = member.due(feed, now) {
            groups.entry(due).or_default().push(member);
        }
    }
}

/// Who is served from memory, and then the others by turns.
fn next<O>(
    groups: &mut Groups<O>,
    last: Option<Due>,
    recent: Option<&Stretch<'_>>,
) -> Option<(Due, Vec<Rc<Subscriber<O>>>)> {
    let from_memory = groups.keys().rev();
    let from_memory = from_memory
        .take(1)
        .find(|due| recent.is_some_and(|it| it.reaches_back_to(due.after)))
        .copied();
    let by_turns = || {
        let behind = last.and_then(|last| groups.range((Excluded(last), Unbounded)).next());
        behind.or_else(|| groups.iter().next()).map(|(due, _)| *due)
    };
    let due = from_memory.or_else(by_turns)?;
    groups.remove_entry(&due)
}

/// Sends frames that go up to `through` to everyone who still stands where they begin.
fn hand_out<O: Outlet>(
    frames: &[Ready<O::Text>],
    through: i64,
    due: Due,
    members: &[Rc<Subscriber<O>>],
    feed: Feed,
) {
    let now = clock::now_ms();
    for member in members {
        // A message of the client may have come while the page was read.
        if member.due(feed, now) != Some(due) {
            continue;
        }
        let mut is_through = true;
        for frame in frames {
            is_through = member.has_room() && member.send(&frame.text);
            if !is_through {
                break;
            }
            member.move_cursor(|cursor| cursor.sent(frame.to, frame.bytes, now));
        }
        if is_through {
            member.move_cursor(|cursor| cursor.read_through(through));
        }
    }
}
