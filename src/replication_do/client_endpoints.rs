//! The endpoints of clients: `/ws`, `/changes` and `/clients`.

use std::rc::Rc;

use serde_json::{Value, json};
use worker::{Request, Response, ResponseBuilder};

use super::hub::MAX_SOCKETS;
use super::runtime::Runtime;
use super::{catch_up, request};
use crate::clients::bearer::SUBPROTOCOL;
use crate::clients::{
    ChangesRequest, ClientId, ConnectRequest, MAX_REGISTRATION_BYTES, Registration, Ticket, View,
};
use crate::response::{ErrorResponse, Result};

/// `GET /clients`.
pub(super) fn list(runtime: &Runtime) -> Result<Response> {
    let clients: Vec<Value> = runtime.hub.list();
    Ok(ResponseBuilder::new().from_json(&json!({"clients": clients}))?)
}

/// `POST /clients`: registers a Sync Durable Object, or renews its registration.
pub(super) async fn register(runtime: &Rc<Runtime>, request: &mut Request) -> Result<Response> {
    let body = request::body(request, MAX_REGISTRATION_BYTES).await?;
    let registration = Registration::parse(&body)?;
    let client = runtime.hub.register(registration)??;
    runtime.start_polling();
    Ok(ResponseBuilder::new().from_json(&json!({
        "id": client.id.as_str(),
        "cursor": client.cursor.position(),
        "expiresAt": client.expires_at,
    }))?)
}

/// `DELETE /clients/{id}`.
pub(super) fn deregister(runtime: &Runtime, id: &str) -> Result<Response> {
    let is_removed = match ClientId::parse(id) {
        Some(id) => runtime.hub.deregister(&id)?,
        None => false,
    };
    if !is_removed {
        let message = "no Sync Durable Object is registered under this id";
        return Err(ErrorResponse::new(404, "not_found", message).into());
    }
    Ok(Response::empty()?.with_status(204))
}

/// `GET /ws`. A ticket limits what the client may see.
pub(super) fn web_socket(
    runtime: &Rc<Runtime>,
    request: &Request,
    ticket: Option<&Ticket>,
) -> Result<Response> {
    let connect = ConnectRequest::parse(&request::query(request)?)?;
    let allowed = ticket.map(|ticket| ticket.allowed.clone());
    let view = View::new(connect.wanted.clone(), allowed)?;
    // Checked after everything else: a browser does not show why an upgrade failed, but a plain GET
    // of the same address does.
    let upgrade = request.headers().get("Upgrade")?.unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("websocket") {
        let message = "this endpoint is a WebSocket: send Upgrade: websocket";
        return Err(ErrorResponse::new(426, "upgrade_required", message).into());
    }
    if runtime.hub.counts().0 >= MAX_SOCKETS {
        let message = "too many clients are connected";
        let error = ErrorResponse::new(503, "too_many_clients", message);
        return Err(error.retryable().into());
    }
    let socket = runtime.hub.accept(connect, view, ticket)?;
    // The poll wakes a hibernating feed, and sends the client its welcome.
    runtime.start_polling();
    let mut response = Response::from_websocket(socket)?;
    if request.headers().has("Sec-WebSocket-Protocol")? {
        response
            .headers_mut()
            .set("Sec-WebSocket-Protocol", SUBPROTOCOL)?;
    }
    Ok(response)
}

/// `GET /changes`. A ticket limits what the client may see.
pub(super) async fn changes(
    runtime: &Rc<Runtime>,
    request: &Request,
    ticket: Option<Ticket>,
) -> Result<Response> {
    let changes = ChangesRequest::parse(&request::query(request)?)?;
    let view = View::new(changes.wanted.clone(), ticket.map(|ticket| ticket.allowed))?;
    Ok(catch_up::respond(runtime, &changes, view).await?)
}
