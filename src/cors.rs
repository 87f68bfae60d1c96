//! Which other sites' pages may use the Worker (Fetch standard, section 3.3, "CORS protocol"): those
//! that the variable `CORS_ORIGINS` lists, and none without it.

use worker::{Env, Headers, Method, Request, Response};

use crate::routes;
use crate::workers::variables;

const REQUEST_HEADERS: &str = "Authorization, Content-Type";
/// Seconds for which a browser may cache the response to a preflight request.
const MAX_AGE: &str = "3600";

/// The origin of the page that sent the request, if it is allowed.
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

/// The response to a preflight request; `None` for any other request. A preflight request carries no
/// credential and changes nothing.
pub(crate) fn preflight(request: &Request, origin: &str) -> worker::Result<Option<Response>> {
    let is_preflight = request.method() == Method::Options
        && request.headers().has("Access-Control-Request-Method")?;
    if !is_preflight {
        return Ok(None);
    }
    let headers = Headers::new();
    allow(&headers, origin)?;
    headers.set("Access-Control-Allow-Methods", &routes::methods())?;
    headers.set("Access-Control-Allow-Headers", REQUEST_HEADERS)?;
    headers.set("Access-Control-Max-Age", MAX_AGE)?;
    Ok(Some(
        Response::empty()?.with_status(204).with_headers(headers),
    ))
}

/// Lets pages of `origin` read the response.
pub(crate) fn allow(headers: &Headers, origin: &str) -> worker::Result<()> {
    headers.set("Access-Control-Allow-Origin", origin)?;
    // Caches must not serve it to pages of other origins.
    headers.append("Vary", "Origin")
}
