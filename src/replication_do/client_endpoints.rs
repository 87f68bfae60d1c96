//! The endpoints of clients: `/ws`, `/changes` and `/clients`.

use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use worker::{Request, Response, ResponseBuilder};

use super::hub::Busy;
use super::request;
use super::runtime::{Runtime, not_initialized};
use crate::clients::bearer::SUBPROTOCOL;
use crate::clients::{
    ChangesRequest, ClientId, ConnectRequest, MAX_REGISTRATION_BYTES, Registration, Subscriptions,
    Ticket, View,
};
use crate::clock;
use crate::delivery::PageAnswer;
use crate::response::{ErrorResponse, Result};

/// The longest time that a request waits for its page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

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
    runtime.wake_delivery();
    Ok(ResponseBuilder::new().from_json(&json!({
        "id": client.id.as_str(),
        "cursor": client.cursor,
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
    let view = view(&connect.wanted, ticket)?;
    // Checked after everything else: a browser does not show why an upgrade failed, but a plain GET
    // of the same address does.
    let upgrade = request.headers().get("Upgrade")?.unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("websocket") {
        let message = "this endpoint is a WebSocket: send Upgrade: websocket";
        return Err(ErrorResponse::new(426, "upgrade_required", message).into());
    }
    runtime.hub.admit(ticket).map_err(|error| busy(&error))?;
    let socket = runtime.hub.accept(connect, view, ticket)?;
    // The poll wakes a hibernating feed. Delivery sends the client its welcome.
    runtime.start_polling();
    runtime.wake_delivery();
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
    ticket: Option<&Ticket>,
) -> Result<Response> {
    let request = ChangesRequest::parse(&request::query(request)?)?;
    let view = view(&request.wanted, ticket)?;
    if runtime.with(|memory| memory.config.is_none()) {
        return Err(not_initialized().into());
    }
    let (number, answer) = runtime
        .hub
        .request_page(&request, view, ticket)
        .map_err(|error| busy(&error))?;
    let _waiting = Waiting {
        runtime: Rc::clone(runtime),
        number,
    };
    runtime.refresh_head();
    runtime.wake_delivery();
    let answer = clock::timeout(PAGE_TIMEOUT, answer).await;
    if let Ok(Ok(answer)) = answer {
        return page(answer);
    }
    let message = "the page could not be read in time: see errors in /status";
    let error = ErrorResponse::new(503, "timeout", message);
    Err(error.retry_after(1).into())
}

/// A request that waits for its page. Its consumer is also removed when the request is cancelled.
struct Waiting {
    runtime: Rc<Runtime>,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.runtime.hub.forget(self.number);
    }
}

fn page(answer: PageAnswer) -> Result<Response> {
    match answer {
        PageAnswer::Page { frame, next, head } => {
            let changes = frame.as_ref().map_or("", |frame| frame.changes());
            let body =
                format!("{{\"changes\":[{changes}],\"next\":\"{next}\",\"head\":\"{head}\"}}");
            let response = Response::ok(body)?;
            response.headers().set("Content-Type", "application/json")?;
            Ok(response)
        }
        PageAnswer::Reset { reason, oldest } => {
            let code = serde_json::to_value(reason).map_err(worker::Error::from)?;
            let message = format!(
                "the changes after this position are not available: load everything again, and go \
                 on after {oldest} or later"
            );
            let code = code.as_str().unwrap_or_default();
            Err(ErrorResponse::new(410, code, message).into())
        }
        PageAnswer::Refused(error) => Err(error.into()),
        PageAnswer::Failed(error) => Err(error.into()),
    }
}

/// What the client gets: what it wants, as far as its ticket allows it.
fn view(wanted: &Subscriptions, ticket: Option<&Ticket>) -> Result<View> {
    let allowed = ticket.map(|ticket| ticket.allowed.clone());
    Ok(View::new(wanted.clone(), allowed)?)
}

fn busy(busy: &Busy) -> ErrorResponse {
    let message = busy.to_string();
    match busy {
        Busy::Sockets => ErrorResponse::new(503, "too_many_clients", message).retryable(),
        Busy::TicketConnections => {
            ErrorResponse::new(429, "too_many_connections", message).retry_after(10)
        }
        Busy::Readers => ErrorResponse::new(429, "too_many_requests", message).retry_after(1),
    }
}
