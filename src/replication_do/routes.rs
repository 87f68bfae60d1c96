//! The HTTP endpoints: request in, JSON out. Requests reach the object through a binding, so who
//! asks has been checked: by the public Worker, or by the Worker that holds the binding.

use std::rc::Rc;

use serde_json::{Value, json};
use worker::{Method, Request, Response, ResponseBuilder};

use super::metrics::{self, ClientCounts};
use super::runtime::Runtime;
use super::{client_routes, initial_poll, request, status};
use crate::config::ReplicationConfig;
use crate::error::Error;
use crate::polling::Outcome;
use crate::response;

const MAX_BODY_BYTES: usize = 64 << 10;

/// Answers one request.
pub(super) async fn respond(
    runtime: &Rc<Runtime>,
    mut request: Request,
) -> worker::Result<Response> {
    if let Some(response) = client_routes::respond(runtime, &mut request).await? {
        return Ok(response);
    }
    let path = request.path();
    match (request.method(), path.as_str()) {
        (Method::Post, "/init") => {
            let body = match request::body(&mut request, MAX_BODY_BYTES).await? {
                Ok(body) => body,
                Err(refused) => return refused.response(),
            };
            match init(runtime, &body).await {
                Ok(status) => ResponseBuilder::new().from_json(&status),
                Err(error) => response::error_response(&error),
            }
        }
        (Method::Get, "/status") => ResponseBuilder::new().from_json(&status::status(runtime)),
        (Method::Get, "/wait-for-initial-poll") => initial_poll::wait(runtime, &request).await,
        (Method::Get, "/metrics") => metrics_text(runtime),
        (Method::Post, "/poll") => match runtime.nudge().await {
            Ok(outcome) => ResponseBuilder::new().from_json(&json!({
                "position": status::position(runtime),
                "complete": outcome != Outcome::Unfinished,
            })),
            Err(error) => response::error_response(&error),
        },
        (_, "/init" | "/status" | "/metrics" | "/wait-for-initial-poll" | "/poll") => {
            response::error(
                405,
                "method_not_allowed",
                "this endpoint takes another method",
                false,
                None,
            )
        }
        _ => response::error(404, "not_found", "there is no such endpoint", false, None),
    }
}

async fn init(runtime: &Rc<Runtime>, body: &str) -> Result<Value, Rc<Error>> {
    let fields = ReplicationConfig::fields_of(body)?;
    // The first poll is the alarm's; `/wait-for-initial-poll` tells when it is done.
    runtime.initialize(fields).await?;
    Ok(status::status(runtime))
}

fn metrics_text(runtime: &Runtime) -> worker::Result<Response> {
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
