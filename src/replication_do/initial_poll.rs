//! `GET /wait-for-initial-poll`: answers when everything that committed before the request is
//! stored.
//!
//! A wait is not stored. A client whose object is evicted sends its request again, and the
//! same rule applies.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use worker::{Request, Response, ResponseBuilder};

use super::runtime::Runtime;
use super::{request, status};
use crate::clock;
use crate::error::Error;
use crate::polling::{Outcome, backoff};
use crate::response::{ErrorResponse, Result};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_TIMEOUT: Duration = Duration::from_mins(5);
/// The longest pause between attempts while the database fails.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Waits until the poll is complete, or answers 503 at the timeout.
pub(super) async fn wait(runtime: &Rc<Runtime>, request: &Request) -> Result<Response> {
    let timeout = timeout(request)?;
    let mut last_error = None;
    let drained = clock::timeout(timeout, drain(runtime, &mut last_error)).await;
    match drained {
        Ok(drained) => drained?,
        Err(_) => return Err(pending(runtime, last_error.as_deref()).into()),
    }
    let position = status::position(runtime);
    Ok(ResponseBuilder::new().from_json(&json!({"complete": true, "position": position}))?)
}

/// The parameter `timeoutMs`, up to [`MAX_TIMEOUT`].
fn timeout(request: &Request) -> Result<Duration> {
    let parameters = request::parameters(request)?;
    let Some(text) = parameters.get("timeoutMs") else {
        return Ok(DEFAULT_TIMEOUT);
    };
    let millis = text.parse().map_err(|_| {
        let message = "timeoutMs must be a whole number of milliseconds";
        ErrorResponse::new(400, "invalid_request", message)
    })?;
    Ok(Duration::from_millis(millis).min(MAX_TIMEOUT))
}

/// Polls until cycles that began after this call have stored everything. Keeps the last failure in
/// `last_error`, and returns only one that waiting cannot fix.
async fn drain(
    runtime: &Rc<Runtime>,
    last_error: &mut Option<Rc<Error>>,
) -> std::result::Result<(), Rc<Error>> {
    let mut failures = 0;
    loop {
        match runtime.poll().await {
            Ok(Outcome::Unfinished) => *last_error = None,
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_initialized() => return Err(error),
            Err(error) => {
                *last_error = Some(error);
                failures += 1;
                clock::sleep(backoff(failures, 1.0).min(MAX_PAUSE)).await;
            }
        }
    }
}

fn pending(runtime: &Runtime, last_error: Option<&Error>) -> ErrorResponse {
    let message = last_error.map_or_else(
        || "the initial poll is still running".to_owned(),
        |error| format!("the initial poll cannot complete: {error}"),
    );
    let next = runtime.with(|memory| memory.next_alarm_at);
    let seconds = next.map_or(2, |at| at.saturating_sub(clock::now_ms()).div_ceil(1_000));
    ErrorResponse::new(503, "initial_poll_pending", message)
        .retry_after(seconds.clamp(1, 60))
        .with_remedy(last_error.and_then(Error::remedy))
}
