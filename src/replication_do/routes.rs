//! The HTTP endpoints: request in, JSON out. Requests reach the object through a binding, so who
//! asks has been checked: by the public Worker, or by the Worker that holds the binding.

use std::collections::HashMap;
use std::rc::Rc;

use serde_json::{Value, json};
use worker::{Method, Request, Response, ResponseBuilder};

use super::hub::{Client, Cursor};
use super::initial_poll;
use super::metrics::{self, ClientCounts};
use super::runtime::Runtime;
use super::status;
use crate::clock;
use crate::config::ReplicationConfig;
use crate::error::{Category, Error};
use crate::polling::Outcome;

const MAX_BODY_BYTES: usize = 64 << 10;

/// Answers one request.
pub(super) async fn respond(
    runtime: &Rc<Runtime>,
    mut request: Request,
) -> worker::Result<Response> {
    let path = request.path();
    match (request.method(), path.as_str()) {
        (Method::Post, "/init") => match init(runtime, &mut request).await {
            Ok(status) => ResponseBuilder::new().from_json(&status),
            Err(error) => failure(&error),
        },
        (Method::Get, "/status") => ResponseBuilder::new().from_json(&status::status(runtime)),
        (Method::Get, "/metrics") => metrics_text(runtime),
        (Method::Get, "/clients") => ResponseBuilder::new().from_json(&status::clients(runtime)),
        (Method::Get, "/wait-for-initial-poll") => initial_poll::wait(runtime, &request).await,
        (Method::Post, "/poll") => match runtime.poll().await {
            Ok(outcome) => ResponseBuilder::new().from_json(&json!({
                "position": status::position(runtime),
                "complete": outcome != Outcome::Unfinished,
            })),
            Err(error) => failure(&error),
        },
        (Method::Get, "/ws") => web_socket(runtime, &request),
        (
            _,
            "/init"
            | "/status"
            | "/metrics"
            | "/clients"
            | "/wait-for-initial-poll"
            | "/poll"
            | "/ws",
        ) => respond_error(
            405,
            "method_not_allowed",
            "this endpoint takes another method",
            false,
            None,
        ),
        _ => respond_error(404, "not_found", "there is no such endpoint", false, None),
    }
}

async fn init(runtime: &Rc<Runtime>, request: &mut Request) -> Result<Value, Rc<Error>> {
    let body = request.text().await.map_err(|_| {
        Error::new(
            Category::Configuration,
            "invalid_config",
            "body cannot be read as text",
        )
    })?;
    if body.len() > MAX_BODY_BYTES {
        let message = "body is longer than 64 KiB";
        return Err(Error::new(Category::Configuration, "invalid_config", message).into());
    }
    let fields = ReplicationConfig::fields_of(&body)?;
    // The first poll is the alarm's; `/wait-for-initial-poll` tells when it is done.
    runtime.initialize(fields).await?;
    Ok(status::status(runtime))
}

fn metrics_text(runtime: &Runtime) -> worker::Result<Response> {
    let clients = ClientCounts {
        web_sockets: runtime.hub.clients().len(),
        sync_dos: 0,
    };
    let text = runtime.with(|memory| metrics::render(memory, clients));
    let response = ResponseBuilder::new().ok(text)?;
    response
        .headers()
        .set("Content-Type", metrics::CONTENT_TYPE)?;
    Ok(response)
}

fn web_socket(runtime: &Rc<Runtime>, request: &Request) -> worker::Result<Response> {
    let upgrade = request.headers().get("Upgrade")?.unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("websocket") {
        let message = "this endpoint is a WebSocket: send Upgrade: websocket";
        return respond_error(426, "upgrade_required", message, false, None);
    }
    let query = query(request);
    let cursor = match query.get("after").map(String::as_str) {
        None => Cursor::Now,
        Some("earliest") => Cursor::Earliest,
        Some(text) => {
            let Some((epoch, id)) = parse_position(text) else {
                let message = "after must be a position, such as 1-42, or earliest";
                return respond_error(400, "invalid_request", message, false, None);
            };
            Cursor::Asked { epoch, id }
        }
    };
    let tables = query
        .get("tables")
        .map(|tables| {
            tables
                .split(',')
                .filter(|table| !table.is_empty())
                .map(str::to_owned)
                .collect()
        })
        .unwrap_or_default();
    let id = query.get("client").cloned().unwrap_or_else(|| {
        format!(
            "c{:x}{:x}",
            clock::now_ms(),
            js_sys::Math::random().to_bits() >> 20
        )
    });
    let socket = runtime.hub.accept(&Client::arriving(id, tables, cursor))?;
    // Any client that arrives wakes polling at once, and is welcomed by it.
    let polling = Rc::clone(runtime);
    wasm_bindgen_futures::spawn_local(async move {
        let _ = polling.poll().await;
    });
    let mut response = Response::from_websocket(socket)?;
    if request.headers().get("Sec-WebSocket-Protocol")?.is_some() {
        response
            .headers_mut()
            .set("Sec-WebSocket-Protocol", "replication.v1")?;
    }
    Ok(response)
}

fn parse_position(text: &str) -> Option<(i32, i64)> {
    let (epoch, id) = text.split_once('-')?;
    Some((epoch.parse().ok()?, id.parse().ok()?))
}

pub(super) fn query(request: &Request) -> HashMap<String, String> {
    request
        .url()
        .map(|url| url.query_pairs().into_owned().collect())
        .unwrap_or_default()
}

/// An error as its status and `{"error": {...}}`.
pub(super) fn failure(error: &Error) -> worker::Result<Response> {
    let (status, retryable) = match error.category() {
        Category::Configuration => match error.code() {
            "invalid_config" => (400, false),
            _ => (409, false),
        },
        Category::Permission | Category::Authentication => (409, false),
        Category::PublicationMissing => (424, false),
        _ => (503, true),
    };
    let remedy = error.remedy().map(str::to_owned);
    respond_error(status, error.code(), &error.to_string(), retryable, remedy)
}

pub(super) fn respond_error(
    status: u16,
    code: &str,
    message: &str,
    retryable: bool,
    remedy: Option<String>,
) -> worker::Result<Response> {
    let mut error = json!({"code": code, "message": message, "retryable": retryable});
    if let (Some(remedy), Value::Object(fields)) = (remedy, &mut error) {
        fields.insert("remedy".into(), Value::String(remedy));
    }
    ResponseBuilder::new()
        .with_status(status)
        .from_json(&json!({"error": error}))
}
