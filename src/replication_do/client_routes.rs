//! The endpoints of clients: `/ws`, `/changes` and `/clients`.

use std::rc::Rc;

use serde_json::{Value, json};
use worker::{Env, Method, Request, Response, ResponseBuilder};

use super::hub::MAX_SOCKETS;
use super::runtime::Runtime;
use super::{catch_up, request};
use crate::access::{self, Access};
use crate::clients::bearer::SUBPROTOCOL;
use crate::clients::{
    ChangesRequest, ClientId, ConnectRequest, MAX_REGISTRATION_BYTES, Registration, Ticket, View,
};
use crate::response;

/// Answers a request for one of these endpoints; `None` for any other path.
pub(super) async fn respond(
    runtime: &Rc<Runtime>,
    request: &mut Request,
) -> worker::Result<Option<Response>> {
    let path = request.path();
    let answered = match (request.method(), path.as_str()) {
        (Method::Get, "/ws") => web_socket(runtime, request),
        (Method::Get, "/changes") => changes(runtime, request).await,
        (Method::Get, "/clients") => list(runtime),
        (Method::Post, "/clients") => register(runtime, request).await,
        (Method::Delete, path) if path.starts_with("/clients/") => deregister(runtime, path),
        (_, "/ws" | "/changes" | "/clients") => {
            let message = "this endpoint takes another method";
            response::error(405, "method_not_allowed", message, false, None)
        }
        _ => return Ok(None),
    };
    answered.map(Some)
}

fn list(runtime: &Runtime) -> worker::Result<Response> {
    let clients: Vec<Value> = runtime.hub.list();
    ResponseBuilder::new().from_json(&json!({"clients": clients}))
}

async fn register(runtime: &Rc<Runtime>, request: &mut Request) -> worker::Result<Response> {
    let body = match request::body(request, MAX_REGISTRATION_BYTES).await? {
        Ok(body) => body,
        Err(refused) => return refused.response(),
    };
    let registration = match Registration::parse(&body) {
        Ok(registration) => registration,
        Err(error) => return response::frame_error_response(&error),
    };
    match runtime.hub.register(registration) {
        Ok(Ok(client)) => {
            runtime.start_polling();
            ResponseBuilder::new().from_json(&json!({
                "id": client.id.as_str(),
                "cursor": client.cursor.position(),
                "expiresAt": client.expires_at,
            }))
        }
        Ok(Err(error)) => response::frame_error_response(&error),
        Err(error) => response::error_response(&error),
    }
}

fn deregister(runtime: &Runtime, path: &str) -> worker::Result<Response> {
    let id = path.strip_prefix("/clients/").and_then(ClientId::parse);
    let removed = match id {
        Some(id) => runtime.hub.deregister(&id),
        None => Ok(false),
    };
    match removed {
        Ok(true) => Ok(Response::empty()?.with_status(204)),
        Ok(false) => {
            let message = "no Sync Durable Object is registered under this id";
            response::error(404, "not_found", message, false, None)
        }
        Err(error) => response::error_response(&error),
    }
}

fn web_socket(runtime: &Rc<Runtime>, request: &Request) -> worker::Result<Response> {
    let ticket = match ticket(request, &runtime.env)? {
        Ok(ticket) => ticket,
        Err(refusal) => return refusal,
    };
    let allowed = ticket.as_ref().map(|ticket| ticket.allowed.clone());
    let asked = ConnectRequest::parse(&request::query(request)?).and_then(|asked| {
        let view = View::new(asked.wanted.clone(), allowed)?;
        Ok((asked, view))
    });
    let (asked, view) = match asked {
        Ok(asked) => asked,
        Err(error) => return response::frame_error_response(&error),
    };
    // After all that is wrong with the request: a browser does not show why its upgrade was refused,
    // and a plain GET of the same address then does.
    let upgrade = request.headers().get("Upgrade")?.unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("websocket") {
        let message = "this endpoint is a WebSocket: send Upgrade: websocket";
        return response::error(426, "upgrade_required", message, false, None);
    }
    if runtime.hub.counts().0 >= MAX_SOCKETS {
        let message = "too many clients are connected";
        return response::error(503, "too_many_clients", message, true, None);
    }
    let socket = runtime.hub.accept(asked, view, ticket.as_ref())?;
    // Any client that arrives wakes polling at once, and is welcomed by it.
    runtime.start_polling();
    let mut response = Response::from_websocket(socket)?;
    if request.headers().has("Sec-WebSocket-Protocol")? {
        response
            .headers_mut()
            .set("Sec-WebSocket-Protocol", SUBPROTOCOL)?;
    }
    Ok(response)
}

async fn changes(runtime: &Rc<Runtime>, request: &Request) -> worker::Result<Response> {
    let ticket = match ticket(request, &runtime.env)? {
        Ok(ticket) => ticket,
        Err(refusal) => return refusal,
    };
    let allowed = ticket.map(|ticket| ticket.allowed);
    let asked = ChangesRequest::parse(&request::query(request)?).and_then(|asked| {
        let view = View::new(asked.wanted.clone(), allowed)?;
        Ok((asked, view))
    });
    match asked {
        Ok((asked, view)) => catch_up::respond(runtime, &asked, view).await,
        Err(error) => response::frame_error_response(&error),
    }
}

/// The ticket that the request carries; `None` where everything is allowed.
fn ticket(
    request: &Request,
    env: &Env,
) -> worker::Result<Result<Option<Ticket>, worker::Result<Response>>> {
    Ok(match access::of_credential(request, env)? {
        Ok(Some(Access::Client(ticket))) => Ok(Some(ticket)),
        Ok(Some(Access::Operator) | None) => Ok(None),
        Err(refusal) => {
            let (status, code) = refusal.status();
            let message = refusal.to_string();
            Err(response::error(status, code, &message, false, None))
        }
    })
}
