//! What handlers read of a request: its query, and its body up to a limit.

use std::collections::HashMap;

use futures_util::StreamExt as _;
use worker::{Request, Response};

use crate::response;

/// Bytes of a body above its limit that are still received.
const MAX_REFUSED: usize = 64 << 20;

/// A body that is refused.
#[derive(Clone, Copy, Debug)]
pub(super) enum RefusedBody {
    TooLong(usize),
    NotText,
}

impl RefusedBody {
    pub(super) fn response(self) -> worker::Result<Response> {
        match self {
            Self::TooLong(limit) => {
                let message = format!("body is longer than {} KiB", limit >> 10);
                response::error(413, "too_large", &message, false, None)
            }
            Self::NotText => {
                let message = "body cannot be read as UTF-8 text";
                response::error(400, "invalid_request", message, false, None)
            }
        }
    }
}

/// The query as it was sent; empty without one.
pub(super) fn query(request: &Request) -> worker::Result<String> {
    Ok(request.url()?.query().unwrap_or_default().to_owned())
}

/// The decoded parameters of the query.
pub(super) fn parameters(request: &Request) -> worker::Result<HashMap<String, String>> {
    Ok(request.url()?.query_pairs().into_owned().collect())
}

/// Reads at most `limit` bytes of text.
pub(super) async fn body(
    request: &mut Request,
    limit: usize,
) -> worker::Result<Result<String, RefusedBody>> {
    if request.inner().body().is_none() {
        return Ok(Ok(String::new()));
    }
    let mut stream = request.stream()?;
    let (mut bytes, mut refused) = (Vec::new(), 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if bytes.len() + chunk.len() > limit {
            bytes = Vec::new();
            refused += chunk.len();
        } else if refused == 0 {
            bytes.extend_from_slice(&chunk);
        }
        // A client that is still sending would not see the answer.
        if refused > MAX_REFUSED {
            break;
        }
    }
    if refused > 0 {
        return Ok(Err(RefusedBody::TooLong(limit)));
    }
    Ok(String::from_utf8(bytes).map_err(|_| RefusedBody::NotText))
}
