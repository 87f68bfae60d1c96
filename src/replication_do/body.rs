//! Request bodies, of which no more is read than may be.

use futures_util::StreamExt as _;
use worker::{Request, Response};

use crate::answer;

/// Of a body that is too long, at most so many bytes are waited for.
const MAX_REFUSED: usize = 64 << 20;

/// A body that is not taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    TooLong(usize),
    NotText,
}

impl Refused {
    pub(super) fn answer(self) -> worker::Result<Response> {
        match self {
            Self::TooLong(limit) => {
                let message = format!("body is longer than {} KiB", limit >> 10);
                answer::error(413, "too_large", &message, false, None)
            }
            Self::NotText => {
                let message = "body cannot be read as UTF-8 text";
                answer::error(400, "invalid_request", message, false, None)
            }
        }
    }
}

/// Reads at most `limit` bytes of text.
pub(super) async fn read(
    request: &mut Request,
    limit: usize,
) -> worker::Result<Result<String, Refused>> {
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
        return Ok(Err(Refused::TooLong(limit)));
    }
    Ok(String::from_utf8(bytes).map_err(|_| Refused::NotText))
}
