//! The clients of one object: the WebSockets that the platform keeps for it, and the Sync Durable
//! Objects in its storage.

mod callback;
mod keeper;
mod list;
mod sockets;
mod sync_dos;

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use worker::{Env, State, WebSocket, WebSocketIncomingMessage};

pub(super) use self::callback::Callback;
use self::keeper::Keeper;
use self::sockets::Sockets;
use self::sync_dos::SyncDos;
use crate::clients::{
    Attachment, ClientId, ConnectRequest, Cursor, DEFAULT_WINDOW_BYTES, Described, Flow,
    FrameError, Head, Learned, Outlet, Position, Pump, Registration, RelationLog, Stretch,
    Subscriber, SyncClient, Ticket, UNACKNOWLEDGED_BYTES, View,
};
use crate::clock;
use crate::error::Result;
use crate::state::Checkpoint;
use crate::workers::database::Database;
use crate::workers::storage::Storage;
use crate::workers::web_socket::ClientSocket;

/// Clients that are behind are read pages for, from one cycle to the next.
const PAGES_BUDGET: Duration = Duration::from_millis(250);
/// Sockets of one object; the platform takes 32,768.
pub(super) const MAX_SOCKETS: usize = 30_000;
/// The close code of a socket whose client this version does not know how to serve: it comes back
/// (RFC 6455, section 7.4.2, "service restart").
const CLOSE_COME_BACK: u16 = 1012;
/// Keys of what is known of the tables.
const RELATION_PREFIX: &str = "relation:";

type Client = Rc<Subscriber<ClientSocket>>;

/// The clients.
pub(super) struct Hub {
    state: Rc<State>,
    pump: Pump,
    sockets: Rc<Sockets>,
    keeper: Keeper,
    sync_dos: SyncDos,
    storage: Storage,
    /// What was learned of the tables and is not written down.
    unsaved: RefCell<Learned>,
    head: Cell<Option<Position>>,
    connections: Cell<u64>,
}

/// How a delivery ended.
#[derive(Debug)]
pub(super) struct Delivered {
    /// Whether every client got all that it can take now.
    pub(super) complete: bool,
    /// Callbacks that are due.
    pub(super) callbacks: Vec<Callback>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// The clients that outlived the object's last life.
    pub(super) fn new(state: Rc<State>, env: &Env, storage: Storage) -> Self {
        // A ping is answered by the platform, without waking the object.
        if let Ok(pair) = worker::WebSocketRequestResponsePair::new("ping", "pong") {
            state.set_websocket_auto_response(&pair);
        }
        let pump = Pump::default();
        let (mut sockets, mut connections) = (Vec::new(), 0);
        for socket in state.as_raw().get_websockets().unwrap_or_default() {
            let socket = ClientSocket::of(&socket.into());
            let Some(attachment) = socket.attachment() else {
                socket.close(CLOSE_COME_BACK, "the server was updated");
                continue;
            };
            connections = attachment.connection.max(connections);
            sockets.push(Rc::new(Subscriber::resuming(
                socket,
                attachment,
                pump.views(),
            )));
        }
        Self {
            state,
            pump,
            sockets: Rc::new(Sockets::new(sockets)),
            keeper: Keeper::default(),
            sync_dos: SyncDos::new(env.clone(), storage.clone()),
            storage,
            unsaved: RefCell::default(),
            head: Cell::new(None),
            connections: Cell::new(connections),
        }
    }

    /// Makes what is registered known, and what was learned of the tables up to `through`. Called
    /// once, when the storage is ready.
    pub(super) fn recall(&self, through: Option<Position>) -> Result<()> {
        let known = self.storage.list(RELATION_PREFIX)?;
        self.pump.recall(known, through);
        self.sync_dos.recall(self.pump.views())
    }

    /// Takes in what a cycle has described of the tables, and writes it down. Where that succeeds it
    /// must be followed by writing down the position, before anything is awaited; where it fails the
    /// position stays as it is written, so that the next life knows that it does not know.
    pub(super) fn learn(&self, described: &Described<'_>) -> Result<()> {
        let learned = self.pump.learn(described, &self.sockets.all());
        if !learned.changed.is_empty() {
            self.sync_dos.rebind();
        }
        let mut unsaved = self.unsaved.borrow_mut();
        unsaved.add(learned);
        self.save(&unsaved)?;
        *unsaved = Learned::default();
        Ok(())
    }

    fn save(&self, learned: &Learned) -> Result<()> {
        for table in &learned.forgotten {
            self.storage.delete(&format!("{RELATION_PREFIX}{table}"))?;
        }
        for known in &learned.changed {
            let key = format!("{RELATION_PREFIX}{}", known.name());
            self.storage.put(&key, known)?;
        }
        Ok(())
    }

    /// What is known of the tables. Not to be held over an await.
    pub(super) fn relations(&self) -> Ref<'_, RelationLog> {
        self.pump.relations()
    }

    pub(super) fn has_clients(&self) -> bool {
        !self.sockets.all().is_empty() || self.sync_dos.count() > 0
    }

    /// How many WebSockets and how many Sync Durable Objects there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.sockets.all().len(), self.sync_dos.count())
    }

    /// The lowest id behind which a registered Sync Durable Object still needs changes.
    pub(super) fn oldest_needed(&self) -> Option<i64> {
        self.sync_dos.oldest_needed()
    }

    /// Takes a client in; the response carries its end of the socket.
    pub(super) fn accept(
        &self,
        request: ConnectRequest,
        view: View,
        ticket: Option<&Ticket>,
    ) -> worker::Result<WebSocket> {
        let connection = self.connections.get().saturating_add(1);
        self.connections.set(connection);
        let flow = if request.acknowledges {
            Flow::Waits(DEFAULT_WINDOW_BYTES)
        } else {
            Flow::ComesBack(UNACKNOWLEDGED_BYTES)
        };
        let attachment = Attachment {
            client: request.client.unwrap_or_else(ClientId::random),
            connection,
            view: Rc::new(view),
            cursor: Cursor::new(request.start, flow),
            connected_at: clock::now_ms(),
            expires_at: ticket.map(|ticket| ticket.expires_at),
        };
        let (socket, client_end) = ClientSocket::accept(&self.state)?;
        let client = Subscriber::arriving(socket, attachment, self.pump.views());
        client.keep();
        self.sockets.add(Rc::new(client));
        Ok(client_end)
    }

    /// Registers a Sync Durable Object, or renews it. A mistake names its field.
    pub(super) fn register(
        &self,
        registration: Registration,
    ) -> Result<std::result::Result<SyncClient, FrameError>> {
        self.sync_dos.register(registration, self.pump.views())
    }

    /// Removes a Sync Durable Object. False when there is none of that name.
    pub(super) fn deregister(&self, id: &ClientId) -> Result<bool> {
        self.sync_dos.remove(id)
    }

    /// Moves the cursors of the WebSockets that `recent` serves, with nothing but memory.
    /// [`Self::deliver`] follows, for everybody else.
    pub(super) fn deliver_recent<'a>(
        &self,
        head: &Checkpoint,
        recent: Option<&'a Stretch<'a>>,
    ) -> Result<()> {
        // Nobody is served by nothing: an idle poll need not look at ten thousand sockets twice.
        if recent.is_none() {
            return Ok(());
        }
        self.pump
            .deliver_recent(&self.sockets.all(), self.move_head(head, recent))
    }

    fn move_head<'a>(&self, head: &Checkpoint, recent: Option<&'a Stretch<'a>>) -> Head<'a> {
        let budget = u64::try_from(PAGES_BUDGET.as_millis()).unwrap_or(u64::MAX);
        let head = Head {
            position: Position {
                epoch: head.epoch,
                id: head.last_id,
            },
            recent,
            deadline: clock::now_ms().saturating_add(budget),
        };
        self.head.set(Some(head.position));
        head
    }

    /// Moves every cursor towards the head.
    pub(super) async fn deliver<'a>(
        &self,
        connection: &mut Database,
        head: &Checkpoint,
        recent: Option<&'a Stretch<'a>>,
    ) -> Result<Delivered> {
        let head = self.move_head(head, recent);
        let clients = self.sockets.all();
        let delivered = self.pump.deliver(&clients, connection, head).await;
        self.sockets.remove_gone();
        self.keeper.keep_soon(&self.state, &self.sockets);
        let complete = delivered?;
        let callbacks = self.sync_dos.due(connection, head, &self.pump).await?;
        Ok(Delivered {
            complete,
            callbacks,
        })
    }

    /// Makes one callback. True when the client is due another.
    pub(super) async fn call(&self, callback: Callback) -> bool {
        self.sync_dos.call(callback, self.head.get()).await
    }

    /// A message of a client. True when something may be due to it now.
    pub(super) fn on_message(
        &self,
        socket: &WebSocket,
        message: &WebSocketIncomingMessage,
    ) -> bool {
        let socket = ClientSocket::of(socket);
        let Some(client) = self.client_of(&socket) else {
            socket.close(CLOSE_COME_BACK, "the server was updated");
            return false;
        };
        match message {
            WebSocketIncomingMessage::String(text) => {
                client.hear(text, self.pump.views(), self.head.get())
            }
            WebSocketIncomingMessage::Binary(_) => {
                client.tell(&FrameError::Binary.to_json());
                false
            }
        }
    }

    /// A socket has closed, or failed.
    pub(super) fn on_close(&self, socket: &WebSocket) {
        let socket = ClientSocket::of(socket);
        if let Some(client) = self.client_of(&socket) {
            client.leave();
            self.sockets.remove(client.attachment().connection);
        }
        // Completes the closing handshake; one that has failed needs none.
        socket.close(1000, "bye");
    }

    fn client_of(&self, socket: &ClientSocket) -> Option<Client> {
        self.sockets.find(socket.connection()?)
    }

    /// Everyone, for `GET /clients`.
    pub(super) fn list(&self) -> Vec<Value> {
        let head = self.head.get();
        let sockets = self.sockets.all();
        let sockets = sockets
            .iter()
            .map(|client| list::socket(&client.attachment(), head));
        sockets.chain(self.sync_dos.list(head)).collect()
    }
}
