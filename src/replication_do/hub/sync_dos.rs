//! The registered Sync Durable Objects: kept in the object's storage, called when changes are due.
//!
//! Each has at most one callback under way, so that it gets everything in order, and its cursor moves
//! only when it has answered with 2xx.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::Value;
use worker::Env;

use super::callback::{self, Answer, Callback, Kind};
use super::list;
use crate::clients::{
    Ask, ClientId, Columns, Cursor, Feed, FrameError, Head, MAX_SYNC_CLIENTS, Position, Pump,
    Registration, ServerMessage, Start, Step, Stretch, SyncClient, View, Views, read_after,
};
use crate::clock;
use crate::config::TableName;
use crate::error::{Category, Error, Result};
use crate::history::{self, MAX_PAGE_CHANGES};
use crate::polling;
use crate::workers::database::Database;
use crate::workers::log;
use crate::workers::storage::Storage;

/// Callbacks at once: the platform lets six requests of one event wait for an answer (Workers
/// documentation, "Limits", "Simultaneous open connections").
const MAX_AT_ONCE: usize = 6;
const KEY_PREFIX: &str = "syncDo:";

/// The registered objects.
#[derive(Debug)]
pub(super) struct SyncDos {
    env: Env,
    storage: Storage,
    registered: RefCell<BTreeMap<ClientId, Registered>>,
    under_way: Cell<usize>,
    generations: Cell<u64>,
}

#[derive(Debug)]
struct Registered {
    client: SyncClient,
    generation: u64,
    is_called: bool,
    is_bound: bool,
    /// How many changes fill a page, by the last one.
    page_changes: u32,
}

/// What is due to one client.
enum Due {
    Nothing,
    Call(Kind, String),
    Read {
        view: Rc<View>,
        after: i64,
        told: i64,
        catch_up: bool,
        page_changes: u32,
    },
}

impl SyncDos {
    pub(super) fn new(env: Env, storage: Storage) -> Self {
        Self {
            env,
            storage,
            registered: RefCell::default(),
            under_way: Cell::new(0),
            generations: Cell::new(0),
        }
    }

    /// Reads the registrations.
    pub(super) fn recall(&self, views: &Views) -> Result<()> {
        let stored: Vec<SyncClient> = self.storage.list(KEY_PREFIX)?;
        for client in stored {
            self.insert(client, views);
        }
        Ok(())
    }

    fn insert(&self, mut client: SyncClient, views: &Views) {
        client.view = views.shared(client.view);
        let generation = self.generations.get().wrapping_add(1);
        self.generations.set(generation);
        let registered = Registered {
            is_bound: !client.view.has_filters(),
            is_called: false,
            page_changes: MAX_PAGE_CHANGES,
            generation,
            client,
        };
        let id = registered.client.id.clone();
        self.registered.borrow_mut().insert(id, registered);
    }

    pub(super) fn register(
        &self,
        registration: Registration,
        views: &Views,
    ) -> Result<std::result::Result<SyncClient, FrameError>> {
        let known = self
            .registered
            .borrow()
            .get(&registration.id)
            .map(|known| known.client.clone());
        if known.is_none() && self.count() >= MAX_SYNC_CLIENTS {
            let message = format!("{MAX_SYNC_CLIENTS} Sync Durable Objects are registered already");
            return Err(Error::new(Category::Notify, "too_many_clients", message));
        }
        let client = SyncClient::registered(registration, known, clock::now_ms());
        if let Err(cause) = callback::stub(&self.env, &client) {
            return Ok(Err(FrameError::Field {
                field: "binding".to_owned(),
                problem: format!("no such Durable Object can be called: {cause}"),
            }));
        }
        self.store(&client)?;
        self.insert(client.clone(), views);
        Ok(Ok(client))
    }

    pub(super) fn remove(&self, id: &ClientId) -> Result<bool> {
        self.storage.delete(&key(id))?;
        Ok(self.registered.borrow_mut().remove(id).is_some())
    }

    pub(super) fn count(&self) -> usize {
        self.registered.borrow().len()
    }

    pub(super) fn oldest_needed(&self) -> Option<i64> {
        let registered = self.registered.borrow();
        let cursors = registered.values().map(|it| &it.client.cursor);
        cursors
            .filter_map(Cursor::position)
            .map(|position| position.id.saturating_add(1))
            .min()
    }

    pub(super) fn list(&self, head: Option<Position>) -> Vec<Value> {
        let registered = self.registered.borrow();
        let clients = registered.values();
        clients.map(|it| list::sync_do(&it.client, head)).collect()
    }

    /// The callbacks that are due now, as many as may be under way.
    pub(super) async fn due(
        &self,
        connection: &mut Database,
        head: Head<'_>,
        pump: &Pump,
    ) -> Result<Vec<Callback>> {
        let mut callbacks = Vec::new();
        if self.count() == 0 {
            return Ok(callbacks);
        }
        self.expire()?;
        self.bind(connection, pump.views()).await?;
        let mut feed = Feed {
            epoch: head.position.epoch,
            oldest: 0,
            head: head.position.id,
        };
        if self
            .registered
            .borrow()
            .values()
            .any(|it| it.is_behind(head))
        {
            feed.oldest = history::oldest(connection, feed.head).await?;
        }
        let ids: Vec<ClientId> = self.registered.borrow().keys().cloned().collect();
        for id in ids {
            if self.under_way.get() >= MAX_AT_ONCE {
                break;
            }
            match self.next_of(&id, connection, head, feed, pump).await {
                Ok(Some(callback)) => {
                    self.under_way.set(self.under_way.get() + 1);
                    callbacks.push(callback);
                }
                Ok(None) => {}
                // What is to be called must be called; the next delivery meets the error again.
                Err(_) if !callbacks.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(callbacks)
    }

    /// Registrations that nobody renewed go, and this is told.
    fn expire(&self) -> Result<()> {
        let now = clock::now_ms();
        let expired: Vec<ClientId> = {
            let registered = self.registered.borrow();
            let expired = registered.values().filter(|it| it.client.expires_at <= now);
            expired.map(|it| it.client.id.clone()).collect()
        };
        for id in expired {
            self.remove(&id)?;
            log::event(
                "sync_do_expired",
                serde_json::json!({"client": id.as_str()}),
            );
        }
        Ok(())
    }

    /// A table was described anew: what filters name is looked up before the next callbacks.
    pub(super) fn rebind(&self) {
        for it in self.registered.borrow_mut().values_mut() {
            it.is_bound &= !it.client.view.has_filters();
        }
    }

    /// Looks up what filters name. A filter that names nothing is the client's mistake, which it is
    /// told by its callbacks' absence and by `GET /clients`.
    async fn bind(&self, connection: &mut Database, views: &Views) -> Result<()> {
        let unbound: Vec<(ClientId, u64, Rc<View>)> = {
            let registered = self.registered.borrow();
            let unbound = registered.values().filter(|it| !it.is_bound);
            unbound
                .map(|it| {
                    let view = Rc::clone(&it.client.view);
                    (it.client.id.clone(), it.generation, view)
                })
                .collect()
        };
        if unbound.is_empty() {
            return Ok(());
        }
        let tables: BTreeSet<_> = unbound
            .iter()
            .flat_map(|(_, _, view)| view.filtered_tables().cloned())
            .collect();
        let columns = Columns::read(connection, &tables).await?;
        for (id, generation, view) in unbound {
            let mut bound = View::clone(&view);
            let facts = |table: &TableName, column: &str| columns.facts(table, column);
            self.with(&id, generation, |it| {
                it.is_bound = true;
                let result = if it.client.cursor.position().is_some() {
                    bound.rebind(facts);
                    Ok(())
                } else {
                    bound.bind(facts)
                };
                match result {
                    Ok(()) => it.client.view = views.shared(Rc::new(bound)),
                    Err(error) => {
                        it.client.cursor.refuse();
                        it.client.last_error = Some(error.to_string());
                    }
                }
            });
        }
        Ok(())
    }

    async fn next_of(
        &self,
        id: &ClientId,
        connection: &mut Database,
        head: Head<'_>,
        feed: Feed,
        pump: &Pump,
    ) -> Result<Option<Callback>> {
        while let Some((generation, due)) = self.step(id, feed)? {
            let (kind, body) = match due {
                Due::Nothing => break,
                Due::Call(kind, body) => (kind, body),
                Due::Read {
                    view,
                    after,
                    told,
                    catch_up,
                    page_changes,
                } => {
                    let ask = Ask {
                        view: &view,
                        after,
                        told: Position {
                            epoch: feed.epoch,
                            id: told,
                        },
                        catch_up,
                    };
                    let (frames, through) = if let Some(recent) = head.recent_behind(after) {
                        (ask.frames(&pump.relations(), recent)?, recent.through())
                    } else if clock::now_ms() >= head.deadline {
                        break;
                    } else {
                        let head = feed.head;
                        let page = read_after(connection, &view, after, head, page_changes).await?;
                        self.with(id, generation, |it| it.page_changes = page.next_changes);
                        if page.oldest > after.saturating_add(1) {
                            // Pruned meanwhile: the next delivery sees that it is too old.
                            break;
                        }
                        let stretch = Stretch::of_page(after, &page);
                        (ask.frames(&pump.relations(), &stretch)?, page.through)
                    };
                    let Some(frame) = frames.into_iter().next() else {
                        self.with(id, generation, |it| {
                            it.client.cursor.read_through(through);
                        });
                        continue;
                    };
                    let (to, bytes) = (frame.to, frame.text.len());
                    (Kind::Changes { to, bytes }, frame.text)
                }
            };
            let is_same = self.with(id, generation, |it| it.is_called = true);
            return Ok(is_same.map(|()| Callback {
                client: id.clone(),
                generation,
                kind,
                body,
            }));
        }
        Ok(None)
    }

    /// What is due to the client; `None` when there is none of that name.
    fn step(&self, id: &ClientId, feed: Feed) -> Result<Option<(u64, Due)>> {
        let now = clock::now_ms();
        let mut registered = self.registered.borrow_mut();
        let Some(it) = registered.get_mut(id) else {
            return Ok(None);
        };
        let due = it.step(feed, now);
        if matches!(due, Due::Call(Kind::Reset, _)) || it.client.last_seen_at.is_none() {
            // Where "now" is, and that a reset is owed, must outlive an eviction.
            self.store(&it.client)?;
        }
        Ok(Some((it.generation, due)))
    }

    /// Makes the callback and takes in its answer. True when another is due.
    pub(super) async fn call(&self, callback: Callback, head: Option<Position>) -> bool {
        let stub = {
            let registered = self.registered.borrow();
            let client = registered.get(&callback.client);
            client.map(|it| callback::stub(&self.env, &it.client))
        };
        let answer = match stub {
            Some(Ok(stub)) => callback::call(&stub, &callback.client, &callback.body).await,
            Some(Err(cause)) => {
                let message = format!("the object cannot be called: {cause}");
                Err(Error::new(Category::Notify, "callback_failed", message))
            }
            None => Ok(Answer::Gone),
        };
        self.under_way.set(self.under_way.get().saturating_sub(1));
        if let Err(error) = &answer {
            log::error("callback_failed", error);
        }
        if matches!(answer, Ok(Answer::Gone)) {
            note(self.remove(&callback.client).map(drop));
            return false;
        }
        let client = self.with(&callback.client, callback.generation, |it| {
            it.is_called = false;
            it.take(callback.kind, answer);
            let is_settled = head.is_some_and(|head| it.client.cursor.is_settled(head));
            let is_due = it.client.failures == 0 && !is_settled;
            (it.client.clone(), is_due)
        });
        let Some((client, is_due)) = client else {
            return true;
        };
        note(self.store(&client));
        is_due
    }

    /// Works on a registration, unless it was replaced meanwhile.
    fn with<T>(
        &self,
        id: &ClientId,
        generation: u64,
        work: impl FnOnce(&mut Registered) -> T,
    ) -> Option<T> {
        let mut registered = self.registered.borrow_mut();
        let it = registered.get_mut(id)?;
        (it.generation == generation).then(|| work(it))
    }

    fn store(&self, client: &SyncClient) -> Result<()> {
        self.storage.put(&key(&client.id), client)
    }
}

fn note(stored: Result<()>) {
    if let Err(error) = stored {
        log::error("storage_failed", &error);
    }
}

fn key(id: &ClientId) -> String {
    format!("{KEY_PREFIX}{id}")
}

impl Registered {
    /// Whether the oldest change that is kept matters to it.
    fn is_behind(&self, head: Head<'_>) -> bool {
        let at = self.client.cursor.position();
        !at.is_some_and(|at| {
            at.epoch == head.position.epoch
                && (at.id == head.position.id || head.is_in_memory(at.id))
        })
    }

    fn step(&mut self, feed: Feed, now: u64) -> Due {
        if self.is_called || !self.is_bound || self.client.retry_at > now {
            return Due::Nothing;
        }
        loop {
            if let Some(reason) = self.client.owed_reset {
                let body = ServerMessage::Reset { reason }.to_json();
                return Due::Call(Kind::Reset, body);
            }
            match self.client.cursor.step(feed, now) {
                Step::Welcome(_) | Step::CaughtUp(_) => {}
                Step::Wait | Step::WaitForAck | Step::ComeBack => return Due::Nothing,
                Step::Reset(reason) => self.client.owed_reset = Some(reason),
                Step::Progress(position) => {
                    let body = ServerMessage::Progress { position }.to_json();
                    return Due::Call(Kind::Progress, body);
                }
                Step::Read {
                    after, catch_up, ..
                } => {
                    return Due::Read {
                        view: Rc::clone(&self.client.view),
                        after,
                        told: self.client.cursor.told(),
                        catch_up,
                        page_changes: self.page_changes,
                    };
                }
            }
        }
    }

    fn take(&mut self, kind: Kind, answer: Result<Answer>) {
        let now = clock::now_ms();
        match answer {
            Ok(Answer::StandsAt(position)) => {
                // With a start given, a restart cannot fail.
                self.client
                    .cursor
                    .restart(Some(Start::After(position)))
                    .ok();
                self.client.owed_reset = None;
            }
            Ok(_) => match kind {
                Kind::Changes { to, bytes } => self.client.cursor.sent(to, bytes, now),
                Kind::Progress => {}
                Kind::Reset => self.client.owed_reset = None,
            },
            Err(error) => {
                self.client.failures = self.client.failures.saturating_add(1);
                let pause = polling::backoff(self.client.failures, js_sys::Math::random());
                let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                self.client.retry_at = now.saturating_add(pause);
                self.client.last_error = Some(error.to_string());
                return;
            }
        }
        self.client.failures = 0;
        self.client.retry_at = 0;
        self.client.last_error = None;
        self.client.last_seen_at = Some(now);
    }
}
