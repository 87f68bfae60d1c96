//! Who may use the public route: the bearer of the secret `REPLICATION_TOKEN`.

use serde_json::json;
use worker::{Env, Request, Response};

/// The response that turns the request away; `None` when it may pass.
///
/// Without the secret everything is refused, unless the variable `REPLICATION_DEV_NO_AUTH` says
/// that this is a developer's own machine.
pub(crate) fn refuse(request: &Request, env: &Env) -> worker::Result<Option<Response>> {
    let expected = match env.secret("REPLICATION_TOKEN") {
        Ok(token) => token.to_string(),
        Err(_) if is_local_development(env) => return Ok(None),
        Err(_) => {
            let message = "the secret REPLICATION_TOKEN is not set, so every request is refused";
            return unauthorized(message).map(Some);
        }
    };
    let given = bearer(request)?;
    if given.is_some_and(|given| equals(given.as_bytes(), expected.as_bytes())) {
        return Ok(None);
    }
    unauthorized("a valid bearer token is needed").map(Some)
}

fn is_local_development(env: &Env) -> bool {
    env.var("REPLICATION_DEV_NO_AUTH")
        .is_ok_and(|value| value.to_string() == "true")
}

/// The token of the header, or of the subprotocol `bearer.<base64url>`, since browsers cannot set
/// headers on a WebSocket.
fn bearer(request: &Request) -> worker::Result<Option<String>> {
    if let Some(header) = request.headers().get("Authorization")? {
        return Ok(header.strip_prefix("Bearer ").map(str::to_owned));
    }
    let protocols = request
        .headers()
        .get("Sec-WebSocket-Protocol")?
        .unwrap_or_default();
    let encoded = protocols
        .split(',')
        .find_map(|protocol| protocol.trim().strip_prefix("bearer."));
    Ok(encoded.and_then(decode_base64url))
}

fn decode_base64url(text: &str) -> Option<String> {
    let mut bits = 0_u32;
    let mut held = 0;
    let mut bytes = Vec::with_capacity(text.len());
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xFF).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Compares every byte, whatever the first ones are, so that the time tells nothing.
fn equals(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = given.len() ^ expected.len();
    for (index, byte) in expected.iter().enumerate() {
        difference |= usize::from(byte ^ given.get(index).copied().unwrap_or(0));
    }
    difference == 0
}

fn unauthorized(message: &str) -> worker::Result<Response> {
    let error = json!({"error": {"code": "unauthorized", "message": message, "retryable": false}});
    Ok(Response::from_json(&error)?.with_status(401))
}
