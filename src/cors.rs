//! Which other sites' pages may use the public route (Fetch standard, section 3.3, "CORS protocol").
//! None, unless the variable `CORS_ORIGINS` lists them.

use worker::{Env, Headers, Method, Request, Response};

use crate::workers::variables;

const METHODS: &str = "GET, POST, DELETE";
const REQUEST_HEADERS: &str = "Authorization, Content-Type";
/// Seconds that a browser may remember a preflight's answer.
const MAX_AGE: &str = "3600";

/// The origin that asks, when it is allowed.
pub(crate) fn allowed_origin(request: &Request, env: &Env) -> worker::Result<Option<String>> {
    let Some(origin) = request.headers().get("Origin")? else {
        return Ok(None);
    };
    let allowed = variables::text(env, "CORS_ORIGINS").unwrap_or_default();
    let is_allowed = allowed
        .split(',')
        .map(str::trim)
        .any(|allowed| allowed == "*" || allowed == origin);
    Ok(is_allowed.then_some(origin))
}

/// The answer to a preflight request: it carries no credential, and does nothing.
pub(crate) fn preflight(request: &Request, origin: &str) -> worker::Result<Option<Response>> {
    let is_preflight = request.method() == Method::Options
        && request.headers().has("Access-Control-Request-Method")?;
    if !is_preflight {
        return Ok(None);
    }
    let headers = Headers::new();
    allow(&headers, origin)?;
    headers.set("Access-Control-Allow-Methods", METHODS)?;
    headers.set("Access-Control-Allow-Headers", REQUEST_HEADERS)?;
    headers.set("Access-Control-Max-Age", MAX_AGE)?;
    Ok(Some(
        Response::empty()?.with_status(204).with_headers(headers),
    ))
}

/// Lets the page read the answer.
pub(crate) fn allow(headers: &Headers, origin: &str) -> worker::Result<()> {
    headers.set("Access-Control-Allow-Origin", origin)?;
    // Another origin's answer is another one.
    headers.append("Vary", "Origin")
}
