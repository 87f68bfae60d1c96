//! The WebSocket clients: who they are, where each one's cursor stands, and moving the cursors on.
//!
//! The registry is the platform's: sockets survive eviction with an attachment of 16 KiB, and what
//! a client is stands there (Durable Objects documentation, "WebSocket Hibernation").

use std::fmt::Write as _;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use worker::{State, WebSocket, WebSocketIncomingMessage, WebSocketPair};

use crate::clock;
use crate::error::{Category, Error, Result};
use crate::history::{self, PageRequest, Recent, StoredChange};
use crate::state::Checkpoint;
use crate::workers::database::Database;
use crate::workers::log;

const MAX_FRAME_BYTES: usize = 1 << 20;
const PAGE_CHANGES: u32 = 1_000;

/// The clients of one object.
pub(super) struct Hub {
    state: Rc<State>,
}

/// One client, as its socket carries it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) tables: Vec<String>,
    pub(super) connected_at: u64,
    pub(super) cursor: Cursor,
    /// The cursor has reached the head since it last fell behind.
    pub(super) live: bool,
}

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Cursor {
    /// Wants everything that is kept.
    Earliest,
    /// Wants what is stored from now on.
    Now,
    /// Asked to go on from here; not yet welcomed.
    Asked {
        /// The epoch of `id`.
        epoch: i32,
        /// The last change that the client has.
        id: i64,
    },
    /// Has been sent everything up to here.
    At {
        /// The epoch of `id`.
        epoch: i32,
        /// The last change that was sent.
        id: i64,
    },
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    pub(super) fn new(state: Rc<State>) -> Self {
        // A ping is answered by the platform, without waking the object.
        if let Ok(pair) = worker::WebSocketRequestResponsePair::new("ping", "pong") {
            state.set_websocket_auto_response(&pair);
        }
        Self { state }
    }

    fn sockets(&self) -> Vec<WebSocket> {
        let sockets = self.state.as_raw().get_websockets().unwrap_or_default();
        sockets.into_iter().map(Into::into).collect()
    }

    pub(super) fn has_clients(&self) -> bool {
        !self.sockets().is_empty()
    }

    /// Takes a client in; the response carries its end of the socket.
    pub(super) fn accept(&self, client: &Client) -> worker::Result<WebSocket> {
        let pair = WebSocketPair::new()?;
        self.state.as_raw().accept_websocket(pair.server.as_ref())?;
        attach(&pair.server, client);
        Ok(pair.client)
    }

    pub(super) fn clients(&self) -> Vec<Client> {
        self.sockets().iter().filter_map(attached).collect()
    }

    /// Moves every cursor to the head: from memory where the recent changes begin at it, else by
    /// pages from the history. A client that fails is left; it resumes from its own position.
    pub(super) async fn deliver(
        &self,
        connection: &mut Database,
        head: &Checkpoint,
        recent: Option<&Recent>,
    ) -> Result<()> {
        for socket in self.sockets() {
            let Some(client) = attached(&socket) else {
                continue;
            };
            if client.live
                && client.cursor
                    == (Cursor::At {
                        epoch: head.epoch,
                        id: head.last_id,
                    })
            {
                continue;
            }
            self.advance(connection, &socket, client, head, recent)
                .await?;
        }
        Ok(())
    }

    async fn advance(
        &self,
        connection: &mut Database,
        socket: &WebSocket,
        mut client: Client,
        head: &Checkpoint,
        recent: Option<&Recent>,
    ) -> Result<()> {
        if !matches!(client.cursor, Cursor::At { .. }) {
            let oldest = history::bounds(connection)
                .await?
                .map_or(head.last_id + 1, |kept| kept.0);
            match welcome(&client, oldest, head) {
                Ok(after) => {
                    client.cursor = Cursor::At {
                        epoch: head.epoch,
                        id: after,
                    }
                }
                Err(reason) => return reset(socket, reason),
            }
            let frame = json!({"type": "welcome", "clientId": client.id, "epoch": head.epoch,
                "oldest": position(head.epoch, oldest - 1), "head": position(head.epoch, head.last_id)});
            send(socket, &frame.to_string());
        }
        let Cursor::At { epoch, mut id } = client.cursor else {
            return Ok(());
        };
        if epoch != head.epoch {
            return reset(socket, "epoch_changed");
        }
        while id < head.last_id {
            let catch_up = !client.live;
            let (sent, through) = if let Some(recent) = recent.filter(|recent| recent.after <= id) {
                (
                    send_recent(socket, &client, recent, id, catch_up),
                    head.last_id,
                )
            } else {
                let request = PageRequest {
                    after: id,
                    through: head.last_id,
                    tables: &client.tables,
                    max_changes: PAGE_CHANGES,
                    max_bytes: MAX_FRAME_BYTES,
                };
                let page = history::read_page(connection, request).await?;
                let sent = send_changes(socket, epoch, id, page.through, &page.changes, catch_up);
                (sent, page.through)
            };
            if !sent {
                return Ok(());
            }
            id = through;
            client.cursor = Cursor::At { epoch, id };
            attach(socket, &client);
        }
        if !client.live {
            client.live = true;
            let frame = json!({"type": "caught_up", "position": position(epoch, id)});
            send(socket, &frame.to_string());
        }
        attach(socket, &client);
        Ok(())
    }
}

pub(super) fn on_message(socket: &WebSocket, _message: &WebSocketIncomingMessage) {
    let error = json!({"type": "error", "code": "unknown_message", "retryable": false,
        "message": "this server takes no messages but ping"});
    send(socket, &error.to_string());
}

pub(super) fn on_close(socket: &WebSocket) {
    // Completes the closing handshake; one that has failed needs none.
    let _ = socket.close(Some(1000), Some("bye"));
}

/// The id behind which the client's changes begin, or why it cannot resume.
fn welcome(
    client: &Client,
    oldest: i64,
    head: &Checkpoint,
) -> std::result::Result<i64, &'static str> {
    match client.cursor {
        Cursor::Earliest => Ok(oldest - 1),
        Cursor::Now => Ok(head.last_id),
        Cursor::Asked { epoch, .. } | Cursor::At { epoch, .. } if epoch != head.epoch => {
            Err("epoch_changed")
        }
        Cursor::Asked { id, .. } | Cursor::At { id, .. } if id + 1 < oldest => Err("too_old"),
        // Ahead of everything that is stored: not a position of this history.
        Cursor::Asked { id, .. } | Cursor::At { id, .. } if id > head.last_id => {
            Err("epoch_changed")
        }
        Cursor::Asked { id, .. } | Cursor::At { id, .. } => Ok(id),
    }
}

fn reset(socket: &WebSocket, reason: &str) -> Result<()> {
    send(
        socket,
        &json!({"type": "reset", "reason": reason}).to_string(),
    );
    socket.close(Some(4000), Some(reason)).map_err(|cause| {
        let message = format!("a client could not be closed: {cause}");
        Error::new(Category::Notify, "close_failed", message)
    })
}

fn send_recent(
    socket: &WebSocket,
    client: &Client,
    recent: &Recent,
    id: i64,
    catch_up: bool,
) -> bool {
    let wanted: Vec<StoredChange> = recent
        .changes
        .iter()
        .filter(|change| change.id > id)
        .filter(|change| {
            client.tables.is_empty() || client.tables.iter().any(|table| **table == *change.table)
        })
        .cloned()
        .collect();
    send_changes(
        socket,
        recent.epoch,
        id,
        recent.through(),
        &wanted,
        catch_up,
    )
}

/// Sends changes in frames of about a megabyte. The last one's `to` is `through`, however many of
/// the changes before it the client did not want.
fn send_changes(
    socket: &WebSocket,
    epoch: i32,
    after: i64,
    through: i64,
    changes: &[StoredChange],
    catch_up: bool,
) -> bool {
    if changes.is_empty() {
        let frame = json!({"type": "progress", "position": position(epoch, through)});
        return send(socket, &frame.to_string());
    }
    let mut rest = changes;
    let mut from = after;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|change| {
            let first = bytes == 0;
            bytes += change.json.len();
            first || bytes <= MAX_FRAME_BYTES
        });
        let (now, later) = rest.split_at(fitting.count());
        let to = if later.is_empty() {
            through
        } else {
            now.last().map_or(through, |last| last.id)
        };
        if !send(
            socket,
            &frame(now, &position(epoch, from), &position(epoch, to), catch_up),
        ) {
            return false;
        }
        (rest, from) = (later, to);
    }
    true
}

fn frame(changes: &[StoredChange], from: &str, to: &str, catch_up: bool) -> String {
    let mut frame = String::from("{\"type\":\"changes\",\"changes\":[");
    for (index, change) in changes.iter().enumerate() {
        if index > 0 {
            frame.push(',');
        }
        frame.push_str(&change.json);
    }
    // Writing into memory cannot fail.
    let _ = write!(
        frame,
        "],\"from\":\"{from}\",\"to\":\"{to}\",\"catchUp\":{catch_up}}}"
    );
    frame
}

fn position(epoch: i32, id: i64) -> String {
    format!("{epoch}-{id}")
}

fn send(socket: &WebSocket, text: &str) -> bool {
    socket.send_with_str(text).is_ok()
}

fn attached(socket: &WebSocket) -> Option<Client> {
    let text: Option<String> = socket.deserialize_attachment().ok().flatten();
    text.and_then(|text| serde_json::from_str(&text).ok())
}

/// As JSON text: a 64-bit id would not survive as a JavaScript number.
fn attach(socket: &WebSocket, client: &Client) {
    let attached = serde_json::to_string(client).map(|text| socket.serialize_attachment(text));
    if !matches!(attached, Ok(Ok(()))) {
        let message = "a client's state could not be attached to its socket";
        log::error(
            "attach_failed",
            &Error::new(Category::Notify, "attach_failed", message),
        );
    }
}

impl Client {
    /// A client that has just come.
    pub(super) fn arriving(id: String, tables: Vec<String>, cursor: Cursor) -> Self {
        Self {
            id,
            tables,
            connected_at: clock::now_ms(),
            cursor,
            live: false,
        }
    }
}
