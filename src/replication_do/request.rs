//! Reads a request's query, and its body up to a limit.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use worker::Request;

use crate::response::{ErrorResponse, Result};

/// Bytes of a body above its limit that are still received: a client that is still sending does not
/// read the response.
const MAX_DISCARDED: usize = 64 << 20;

/// The query as it was sent; empty without one.
pub(super) fn query(request: &Request) -> Result<String> {
    Ok(request.url()?.query().unwrap_or_default().to_owned())
}

/// The decoded parameters of the query.
pub(super) fn parameters(request: &Request) -> Result<HashMap<String, String>> {
    Ok(request.url()?.query_pairs().into_owned().collect())
}

/// Reads a body of at most `limit` bytes of UTF-8; empty without one.
pub(super) async fn body(request: &mut Request, limit: usize) -> Result<String> {
    if request.inner().body().is_none() {
        return Ok(String::new());
    }
    let mut stream = request.stream()?;
    let (mut bytes, mut discarded) = (Vec::new(), 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if bytes.len() + chunk.len() > limit {
            bytes = Vec::new();
            discarded += chunk.len();
        } else if discarded == 0 {
            bytes.extend_from_slice(&chunk);
        }
        if discarded > MAX_DISCARDED {
            break;
        }
    }
    if discarded > 0 {
        let message = format!("the body is longer than {} KiB", limit >> 10);
        return Err(ErrorResponse::new(413, "too_large", message).into());
    }
    String::from_utf8(bytes).map_err(|_| {
        let message = "the body is not UTF-8 text";
        ErrorResponse::new(400, "invalid_request", message).into()
    })
}
