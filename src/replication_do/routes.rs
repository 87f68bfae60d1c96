//! The HTTP endpoints: request in, JSON out. Requests reach the object through a binding, so who
//! asks has been checked: by the public Worker, or by the Worker that holds the binding.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use worker::{Method, Request, Response, ResponseBuilder};

use super::runtime::Runtime;
use super::{body, client_routes, status};
use crate::answer;
use crate::clock;
use crate::config::ReplicationConfig;
use crate::error::{Category, Error};

const DEFAULT_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_mins(5);
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
            let body = match body::read(&mut request, MAX_BODY_BYTES).await? {
                Ok(body) => body,
                Err(refused) => return refused.answer(),
            };
            match init(runtime, &body).await {
                Ok(status) => ResponseBuilder::new().from_json(&status),
                Err(error) => failure(&error),
            }
        }
        (Method::Get, "/status") => ResponseBuilder::new().from_json(&status::status(runtime)),
        (Method::Get, "/wait-for-initial-poll") => wait_for_initial_poll(runtime, &request).await,
        (Method::Post, "/poll") => match runtime.poll().await {
            Ok(()) => {
                ResponseBuilder::new().from_json(&json!({"position": status::position(runtime)}))
            }
            Err(error) => failure(&error),
        },
        (_, "/init" | "/status" | "/wait-for-initial-poll" | "/poll") => answer::error(
            405,
            "method_not_allowed",
            "this endpoint takes another method",
            false,
            None,
        ),
        _ => answer::error(404, "not_found", "there is no such endpoint", false, None),
    }
}

async fn init(runtime: &Rc<Runtime>, body: &str) -> Result<Value, Error> {
    runtime
        .initialize(ReplicationConfig::fields_of(body)?)
        .await?;
    // The first poll goes on by itself; `/wait-for-initial-poll` tells when it is done.
    runtime.start_polling();
    Ok(status::status(runtime))
}

async fn wait_for_initial_poll(
    runtime: &Rc<Runtime>,
    request: &Request,
) -> worker::Result<Response> {
    let wait = match query(request)
        .get("timeoutMs")
        .map(|text| text.parse().map(Duration::from_millis))
    {
        None => DEFAULT_WAIT,
        Some(Ok(wait)) => wait.min(LONGEST_WAIT),
        Some(Err(_)) => {
            let message = "timeoutMs must be a whole number of milliseconds";
            return answer::error(400, "invalid_request", message, false, None);
        }
    };
    let mut reason = None;
    let polled = clock::timeout(wait, async {
        while let Err(error) = runtime.poll().await {
            if error.code() == "not_initialized" {
                return Err(error);
            }
            reason = Some(error);
            clock::sleep(Duration::from_millis(500)).await;
        }
        Ok(())
    })
    .await;
    match polled {
        Ok(Ok(())) => ResponseBuilder::new()
            .from_json(&json!({"complete": true, "position": status::position(runtime)})),
        Ok(Err(error)) => failure(&error),
        Err(_) => {
            let message = reason.as_ref().map_or_else(
                || "the initial poll is still going on".to_owned(),
                |error| format!("the initial poll cannot complete: {error}"),
            );
            let remedy = reason.as_ref().and_then(|error| error.remedy());
            let response = answer::error(503, "initial_poll_pending", &message, true, remedy)?;
            response.headers().set("Retry-After", "2")?;
            Ok(response)
        }
    }
}

fn query(request: &Request) -> HashMap<String, String> {
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
    answer::error(
        status,
        error.code(),
        &error.to_string(),
        retryable,
        error.remedy(),
    )
}
