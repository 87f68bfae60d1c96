//! The clients of one object: the engine with the platform's sinks, and the clients' stored state.

mod attachment_flusher;
mod callback;
mod list;
mod schema_store;
mod sinks;
mod sync_do_sink;

use std::cell::Cell;
use std::rc::Rc;

use futures_channel::oneshot;
use js_sys::JsString;
use serde_json::Value;
use wasm_bindgen::{JsCast, JsValue};
use worker::{Env, State, WebSocket};

use self::attachment_flusher::AttachmentFlusher;
use self::schema_store::StoredSchemas;
use self::sinks::ClientSink;
pub(super) use self::sync_do_sink::Answered;
use self::sync_do_sink::{Calls, KEY_PREFIX, SyncDoSink};
use crate::clients::{
    ChangesRequest, ClientId, ConnectRequest, FrameError, MAX_MESSAGE_BYTES, MAX_OPERATOR_READERS,
    MAX_READERS, MAX_SYNC_CLIENTS, MAX_TICKET_CONDITIONS, MAX_TICKET_CONNECTIONS,
    MAX_TICKET_READERS, Position, Registration, SchemaChanges, SchemaHistory, Ticket, View,
};
use crate::clock;
use crate::delivery::{
    Answer, Consumer, ConsumerState, Cursor, DEFAULT_WINDOW_BYTES, Engine, Flow, Head, PageAnswer,
    PageSink, RegisteredClient, Renewal, UNACKNOWLEDGED_BYTES, Work, register, renew,
};
use crate::error::{Category, Error, Result};
use crate::history::Recent;
use crate::state::Checkpoint;
use crate::workers::database::Database;
use crate::workers::log;
use crate::workers::storage::Storage;
use crate::workers::web_socket::ClientSocket;

/// Sockets of one object; the platform allows 32,768.
pub(super) const MAX_SOCKETS: usize = 30_000;
/// The close code of a socket whose client this version does not know how to serve: it connects
/// again (RFC 6455, section 7.4.2, "service restart").
const CLOSE_CONNECT_AGAIN: u16 = 1012;

type Client = Rc<Consumer<ClientSink>>;

/// The clients.
pub(super) struct Hub {
    engine: Rc<Engine<ClientSink>>,
    state: Rc<State>,
    env: Env,
    storage: Storage,
    calls: Rc<Calls>,
    flusher: AttachmentFlusher,
    head_is_stale: Cell<bool>,
}

/// The result of a registration.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) id: ClientId,
    pub(super) cursor: Option<Position>,
    pub(super) expires_at: Option<u64>,
}

/// Too much for one credential, or for the object.
#[derive(Debug, thiserror::Error)]
pub(super) enum Busy {
    #[error("{MAX_SOCKETS} clients are connected already")]
    Sockets,
    #[error("{MAX_TICKET_CONNECTIONS} connections are open with this ticket already")]
    TicketConnections,
    #[error("too many requests for /changes wait already: send the next one when one is answered")]
    Readers,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// Restores the clients whose sockets survived eviction.
    pub(super) fn new(state: Rc<State>, env: &Env, storage: Storage) -> Self {
        // The platform answers a ping by itself, without waking the object.
        if let Ok(pair) = worker::WebSocketRequestResponsePair::new("ping", "pong") {
            state.set_websocket_auto_response(&pair);
        }
        let schemas = SchemaHistory::new(Box::new(StoredSchemas::new(storage.clone())), None);
        let engine = Rc::new(Engine::new(schemas, js_sys::Math::random));
        for socket in state.as_raw().get_websockets().unwrap_or_default() {
            let socket = ClientSocket::of(&socket.into());
            match socket.attachment() {
                Some(kept) => engine
                    .add(ClientSink::WebSocket(socket), kept)
                    .mark_persisted(),
                None => socket.close(CLOSE_CONNECT_AGAIN, "the server was updated"),
            }
        }
        Self {
            engine,
            state,
            env: env.clone(),
            storage,
            calls: Rc::default(),
            flusher: AttachmentFlusher::default(),
            head_is_stale: Cell::new(false),
        }
    }

    /// Loads the registrations, and the table schemas up to `through`. Called once, when the
    /// storage is ready.
    pub(super) fn load(&self, through: Option<Position>) -> Result<()> {
        let store = StoredSchemas::new(self.storage.clone());
        self.engine
            .set_schemas(SchemaHistory::new(Box::new(store), through));
        let kept: Vec<RegisteredClient> = self.storage.list(KEY_PREFIX)?;
        for client in kept {
            let (target, state) = client.restore(self.engine.next_number());
            let sink = SyncDoSink::new(&self.env, &self.storage, &self.calls, target, &state);
            self.engine
                .add(ClientSink::SyncDo(sink), state)
                .mark_persisted();
        }
        Ok(())
    }

    /// From now on `report` is called with each answer of a Sync Durable Object.
    pub(super) fn report_answers_to(&self, report: Rc<dyn Fn(Answered)>) {
        self.calls.report_to(report);
    }

    /// Handles the answer of a Sync Durable Object. Returns the error if the call failed.
    pub(super) fn on_answer(&self, answered: Answered) -> Option<Rc<Error>> {
        let Answered {
            number,
            client,
            answer,
        } = answered;
        let failure = match &answer {
            Answer::Failed(error) => Some(Rc::clone(error)),
            Answer::Gone => {
                // A registration that has replaced this one meanwhile must not be removed.
                if self.engine.consumers().find(number).is_some()
                    && let Err(error) = sync_do_sink::forget(&self.storage, &client)
                {
                    log::error("storage_failed", &error);
                }
                None
            }
            Answer::Accepted | Answer::StandsAt(_) => None,
        };
        self.engine.answer(number, answer, clock::now_ms());
        self.flusher.flush_soon(&self.state, &self.engine);
        failure
    }

    // Storing.

    /// Adds what a cycle has described of the tables. See [`Engine::describe`].
    pub(super) fn describe(&self, changes: &SchemaChanges<'_>) -> Result<()> {
        self.engine.describe(changes)
    }

    /// Publishes a head, and sends the changes in memory to every client that they reach before
    /// returning.
    pub(super) fn publish(&self, checkpoint: &Checkpoint, recent: Option<Recent>) {
        let head = Head {
            position: position(checkpoint),
            recent: recent.filter(|recent| recent.epoch == checkpoint.epoch),
        };
        self.engine.publish(head, clock::now_ms());
        self.flusher.flush_soon(&self.state, &self.engine);
    }

    /// Publishes a head that was read from the database, unless a newer one is known.
    pub(super) fn refresh(&self, checkpoint: &Checkpoint) {
        let read = position(checkpoint);
        if self.engine.head().is_none_or(|known| known < read) {
            self.publish(checkpoint, None);
        }
    }

    // Delivery.

    /// What there is to do.
    pub(super) fn work(&self) -> Work {
        self.engine.work(clock::now_ms())
    }

    /// Whether the head has to be read from the database first.
    pub(super) fn needs_head(&self) -> bool {
        let is_needed = self.head_is_stale.get() || self.engine.head().is_none();
        is_needed && !self.engine.consumers().is_empty()
    }

    /// Whether the head may have moved without anything being stored here: while the feed is not
    /// polled, or when another deployment has stored.
    pub(super) fn mark_head_stale(&self, is_stale: bool) {
        self.head_is_stale.set(is_stale);
    }

    /// Does one piece of work; see [`Engine::step`].
    pub(super) async fn step(&self, connection: &mut Database) -> Result<bool> {
        let stepped = self.engine.step(connection).await;
        self.flusher.flush_soon(&self.state, &self.engine);
        stepped
    }

    // Clients.

    /// Whether there are clients.
    pub(super) fn has_clients(&self) -> bool {
        let consumers = self.engine.consumers().all();
        let mut clients = consumers.iter();
        clients.any(|consumer| !matches!(consumer.sink(), ClientSink::Page(_)))
    }

    /// How many WebSockets and how many Sync Durable Objects there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let (mut sockets, mut sync_dos) = (0, 0);
        for consumer in self.engine.consumers().all().iter() {
            match consumer.sink() {
                ClientSink::WebSocket(_) => sockets += 1,
                ClientSink::SyncDo(_) => sync_dos += 1,
                ClientSink::Page(_) => {}
            }
        }
        (sockets, sync_dos)
    }

    /// The lowest id that a registered Sync Durable Object still needs.
    pub(super) fn oldest_needed(&self) -> Option<i64> {
        self.engine.oldest_needed()
    }

    /// Whether another client fits the limits.
    pub(super) fn admit(&self, ticket: Option<&Ticket>) -> std::result::Result<(), Busy> {
        if self.counts().0 >= MAX_SOCKETS {
            return Err(Busy::Sockets);
        }
        if let Some(ticket) = ticket {
            let usage = self.engine.consumers().usage(Some(&ticket.credential));
            if usage.connections >= MAX_TICKET_CONNECTIONS {
                return Err(Busy::TicketConnections);
            }
        }
        Ok(())
    }

    /// Accepts a client; the response carries its end of the socket.
    pub(super) fn accept(
        &self,
        request: ConnectRequest,
        view: View,
        ticket: Option<&Ticket>,
    ) -> worker::Result<WebSocket> {
        let flow = if request.acknowledges {
            Flow::Waits(DEFAULT_WINDOW_BYTES)
        } else {
            Flow::Reconnects(UNACKNOWLEDGED_BYTES)
        };
        let client = request.client.unwrap_or_else(ClientId::random);
        let cursor = Cursor::new(request.start, flow);
        let state = self.state_of(client, view, cursor, ticket);
        let (socket, client_end) = ClientSocket::accept(&self.state)?;
        self.engine
            .add(ClientSink::WebSocket(socket), state)
            .persist();
        Ok(client_end)
    }

    /// Accepts a request for one page. Returns the consumer's number, for [`Self::forget`].
    pub(super) fn request_page(
        &self,
        request: &ChangesRequest,
        view: View,
        ticket: Option<&Ticket>,
    ) -> std::result::Result<(u64, oneshot::Receiver<PageAnswer>), Busy> {
        let credential = ticket.map(|ticket| &ticket.credential);
        let limit = match credential {
            Some(_) => MAX_TICKET_READERS,
            None => MAX_OPERATOR_READERS,
        };
        let consumers = self.engine.consumers();
        if consumers.readers() >= MAX_READERS || consumers.usage(credential).readers >= limit {
            return Err(Busy::Readers);
        }
        let (sink, answer) = PageSink::new(request.limit);
        let cursor = Cursor::new(request.start, Flow::Answered);
        let mut state = self.state_of(ClientId::random(), view, cursor, ticket);
        state.expires_at = None;
        let number = state.number;
        self.engine.add(ClientSink::Page(sink), state);
        Ok((number, answer))
    }

    fn state_of(
        &self,
        client: ClientId,
        view: View,
        cursor: Cursor,
        ticket: Option<&Ticket>,
    ) -> ConsumerState {
        ConsumerState {
            client,
            number: self.engine.next_number(),
            view: Rc::new(view),
            cursor,
            answers: None,
            connected_at: clock::now_ms(),
            expires_at: ticket.map(|ticket| ticket.expires_at.saturating_mul(1_000)),
            credential: ticket.map(|ticket| ticket.credential.clone()),
        }
    }

    /// Removes a consumer.
    pub(super) fn forget(&self, number: u64) {
        self.engine.remove(number);
    }

    /// Registers a Sync Durable Object, or renews its registration. An error names the field.
    pub(super) fn register(
        &self,
        registration: Registration,
    ) -> Result<std::result::Result<Registered, FrameError>> {
        let now = clock::now_ms();
        let known = self.sync_do(&registration.id);
        let number = self.engine.next_number();
        let (target, state) = match &known {
            None if self.counts().1 >= MAX_SYNC_CLIENTS => {
                let message =
                    format!("{MAX_SYNC_CLIENTS} Sync Durable Objects are registered already");
                return Err(Error::new(Category::Notify, "too_many_clients", message));
            }
            None => register(registration, number, now),
            Some(known) => {
                let ClientSink::SyncDo(sink) = known.sink() else {
                    return Ok(Err(unknown_binding("the registration is not one")));
                };
                let renewal = renew((sink.target(), &known.state()), registration, number, now);
                match renewal {
                    Renewal::Extend { expires_at } => {
                        known.extend(expires_at);
                        known.persist();
                        return Ok(Ok(registered(known)));
                    }
                    Renewal::Replace(renewed) => *renewed,
                }
            }
        };
        if let Err(cause) = SyncDoSink::check(&self.env, &target) {
            return Ok(Err(unknown_binding(&cause.to_string())));
        }
        if let Some(known) = known {
            known.leave();
        }
        let sink = SyncDoSink::new(&self.env, &self.storage, &self.calls, target, &state);
        let consumer = self.engine.add(ClientSink::SyncDo(sink), state);
        consumer.persist();
        self.engine.serve_from_memory(now);
        Ok(Ok(registered(&consumer)))
    }

    /// Ends a registration. False if there is none under that name.
    pub(super) fn deregister(&self, id: &ClientId) -> Result<bool> {
        let Some(known) = self.sync_do(id) else {
            return Ok(false);
        };
        sync_do_sink::forget(&self.storage, id)?;
        self.forget(known.number());
        Ok(true)
    }

    fn sync_do(&self, id: &ClientId) -> Option<Client> {
        let consumers = self.engine.consumers().all();
        let known = consumers.iter().find(|consumer| {
            matches!(consumer.sink(), ClientSink::SyncDo(_))
                && consumer.state().client == *id
                && !consumer.is_gone()
        });
        known.cloned()
    }

    /// The database cannot be reached: requests for pages fail at once.
    pub(super) fn fail_pages(&self, error: &Rc<Error>) {
        for consumer in self.engine.consumers().all().iter() {
            if let ClientSink::Page(sink) = consumer.sink() {
                sink.fail(error);
                consumer.leave();
            }
        }
    }

    /// Handles a message of a client. True when delivery has something to do.
    pub(super) fn on_message(&self, socket: &WebSocket, message: &JsValue) -> bool {
        let socket = ClientSocket::of(socket);
        let Some(client) = self.client_of(&socket) else {
            socket.close(CLOSE_CONNECT_AGAIN, "the server was updated");
            return false;
        };
        let text = match text_of(message) {
            Ok(text) => text,
            Err(error) => {
                client.refuse(&error);
                return false;
            }
        };
        let check = |view: &View| self.check_conditions(&client, view);
        let has_work = self
            .engine
            .on_message(&client, &text, clock::now_ms(), check);
        self.flusher.flush_soon(&self.state, &self.engine);
        has_work
    }

    fn check_conditions(
        &self,
        client: &Client,
        view: &View,
    ) -> std::result::Result<(), FrameError> {
        let (credential, before) = {
            let state = client.state();
            (state.credential.clone(), state.view.conditions())
        };
        let Some(credential) = credential else {
            return Ok(());
        };
        let all = self.engine.consumers().usage(Some(&credential)).conditions;
        let found = all.saturating_sub(before) + view.conditions();
        if found > MAX_TICKET_CONDITIONS {
            let limit = MAX_TICKET_CONDITIONS;
            return Err(FrameError::TooManyConditions { found, limit });
        }
        Ok(())
    }

    /// A socket has closed, or failed.
    pub(super) fn on_close(&self, socket: &WebSocket) {
        let socket = ClientSocket::of(socket);
        if let Some(client) = self.client_of(&socket) {
            self.forget(client.number());
        }
        // Completes the closing handshake; a failed socket needs none.
        socket.close(1000, "bye");
    }

    fn client_of(&self, socket: &ClientSocket) -> Option<Client> {
        self.engine.consumers().find(socket.number()?)
    }

    /// All clients, for `GET /clients`.
    pub(super) fn list(&self) -> Vec<Value> {
        let head = self.engine.head();
        let consumers = self.engine.consumers().all();
        let listed = consumers
            .iter()
            .filter_map(|client| list::consumer(client, head));
        listed.collect()
    }
}

fn position(checkpoint: &Checkpoint) -> Position {
    Position {
        epoch: checkpoint.epoch,
        id: checkpoint.last_id,
    }
}

fn registered(consumer: &Client) -> Registered {
    let state = consumer.state();
    Registered {
        id: state.client.clone(),
        cursor: state.cursor.position(),
        expires_at: state.expires_at,
    }
}

fn unknown_binding(cause: &str) -> FrameError {
    FrameError::Field {
        field: "binding".to_owned(),
        problem: format!("no such Durable Object can be called: {cause}"),
    }
}

/// The text of a message. Its length is checked before it is copied: the platform lets a client
/// send 32 MiB, and WebAssembly's memory never shrinks.
fn text_of(message: &JsValue) -> std::result::Result<String, FrameError> {
    let Some(text) = message.dyn_ref::<JsString>() else {
        return Err(FrameError::Binary);
    };
    let length = text.length() as usize;
    if length > MAX_MESSAGE_BYTES {
        return Err(FrameError::TooLarge {
            field: "message".to_owned(),
            found: length,
            limit: MAX_MESSAGE_BYTES,
        });
    }
    Ok(text.into())
}
