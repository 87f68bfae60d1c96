//! Answers requests: finds the route in the table, and runs the endpoint's handler.
//!
//! Requests reach the object through a binding only. Their caller has been checked by this Worker's
//! public entry, or by the other Worker that has the binding.

use std::rc::Rc;

use serde_json::json;
use worker::{Request, Response, ResponseBuilder};

use super::metrics::{self, ClientCounts};
use super::runtime::Runtime;
use super::{client_endpoints, initial_poll, request, status};
use crate::access;
use crate::config::ReplicationConfig;
use crate::polling::Outcome;
use crate::response::{self, Result};
use crate::routes::{self, Endpoint, OpenTo};

const MAX_BODY_BYTES: usize = 64 << 10;

/// Answers one request.
pub(super) async fn respond(runtime: &Rc<Runtime>, request: Request) -> worker::Result<Response> {
    response::or_error(handle(runtime, request).await)
}

async fn handle(runtime: &Rc<Runtime>, mut request: Request) -> Result<Response> {
    let (method, path) = (access::method(&request), request.path());
    let found = routes::find(&method, &path)?;
    let ticket = match found.route.open_to {
        OpenTo::TicketHolders => access::ticket(&request, &runtime.env)?,
        OpenTo::Operators => None,
    };
    match found.route.endpoint {
        Endpoint::Init => init(runtime, &mut request).await,
        Endpoint::Status => status(runtime),
        Endpoint::Metrics => metrics(runtime),
        Endpoint::WaitForInitialPoll => initial_poll::wait(runtime, &request).await,
        Endpoint::Poll => poll(runtime).await,
        Endpoint::WebSocket => client_endpoints::web_socket(runtime, &request, ticket.as_ref()),
        Endpoint::Changes => client_endpoints::changes(runtime, &request, ticket.as_ref()).await,
        Endpoint::ListClients => client_endpoints::list(runtime),
        Endpoint::RegisterClient => client_endpoints::register(runtime, &mut request).await,
        Endpoint::DeregisterClient => client_endpoints::deregister(runtime, found.id),
    }
}

async fn init(runtime: &Rc<Runtime>, request: &mut Request) -> Result<Response> {
    let body = request::body(request, MAX_BODY_BYTES).await?;
    let fields = ReplicationConfig::fields_of(&body)?;
    // The alarm makes the first poll. `/wait-for-initial-poll` answers when it is complete.
    runtime.initialize(fields).await?;
    status(runtime)
}

fn status(runtime: &Runtime) -> Result<Response> {
    Ok(ResponseBuilder::new().from_json(&status::status(runtime))?)
}

fn metrics(runtime: &Runtime) -> Result<Response> {
    let (web_sockets, sync_dos) = runtime.hub.counts();
    let clients = ClientCounts {
        web_sockets,
        sync_dos,
    };
    let text = runtime.with(|memory| metrics::render(memory, clients));
    let response = ResponseBuilder::new().ok(text)?;
    response
        .headers()
        .set("Content-Type", metrics::CONTENT_TYPE)?;
    Ok(response)
}

async fn poll(runtime: &Rc<Runtime>) -> Result<Response> {
    let outcome = runtime.nudge().await?;
    Ok(ResponseBuilder::new().from_json(&json!({
        "position": status::position(runtime),
        "complete": outcome != Outcome::Unfinished,
    }))?)
}
