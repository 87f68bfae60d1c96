//! `GET /wait-for-initial-poll`: answered when everything that had committed before the question
//! is stored.
//!
//! Nothing of a wait is kept but its own request: who waits while the object is evicted asks again,
//! and is answered by the same rule.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use worker::{Request, Response, ResponseBuilder};

use super::runtime::Runtime;
use super::{request, status};
use crate::clock;
use crate::error::Error;
use crate::polling::{Outcome, backoff};
use crate::response;

const DEFAULT_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// While the database fails, who waits asks it again at most so rarely.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Answers the request.
pub(super) async fn wait(runtime: &Rc<Runtime>, request: &Request) -> worker::Result<Response> {
    let wait = match request::parameters(request)?
        .get("timeoutMs")
        .map(|text| text.parse().map(Duration::from_millis))
    {
        None => DEFAULT_WAIT,
        Some(Ok(wait)) => wait.min(LONGEST_WAIT),
        Some(Err(_)) => {
            let message = "timeoutMs must be a whole number of milliseconds";
            return response::error(400, "invalid_request", message, false, None);
        }
    };
    let mut reason = None;
    match clock::timeout(wait, drained(runtime, &mut reason)).await {
        Ok(Ok(())) => ResponseBuilder::new()
            .from_json(&json!({"complete": true, "position": status::position(runtime)})),
        Ok(Err(error)) => response::error_response(&error),
        Err(_) => pending(runtime, reason.as_deref()),
    }
}

/// Polls until a series of cycles that began after this call has stored all there was. Leaves the
/// last failure in `reason`, and fails only where waiting is of no use.
async fn drained(runtime: &Rc<Runtime>, reason: &mut Option<Rc<Error>>) -> Result<(), Rc<Error>> {
    let mut failures = 0;
    loop {
        match runtime.poll().await {
            Ok(Outcome::Unfinished) => *reason = None,
            Ok(_) => return Ok(()),
            Err(error) if error.code() == "not_initialized" => return Err(error),
            Err(error) => {
                *reason = Some(error);
                failures += 1;
                clock::sleep(backoff(failures, 1.0).min(LONGEST_PAUSE)).await;
            }
        }
    }
}

fn pending(runtime: &Runtime, reason: Option<&Error>) -> worker::Result<Response> {
    let message = reason.map_or_else(
        || "the initial poll is still going on".to_owned(),
        |error| format!("the initial poll cannot complete: {error}"),
    );
    let remedy = reason.and_then(Error::remedy);
    let response = response::error(503, "initial_poll_pending", &message, true, remedy)?;
    let next = runtime.with(|memory| memory.next_alarm_at);
    let seconds = next.map_or(2, |at| at.saturating_sub(clock::now_ms()).div_ceil(1_000));
    let seconds = seconds.clamp(1, 60).to_string();
    response.headers().set("Retry-After", &seconds)?;
    Ok(response)
}
