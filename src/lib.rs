//! A change feed for PostgreSQL on Cloudflare Workers.
//!
//! Each module knows only those on the floors below it:
//!
//! ```text
//! lib                                  the Worker: checks the credential, forwards to the object
//! replication_do                       the Durable Object: endpoints, jobs, the alarm
//! access  cors  response  routes       HTTP, for both of them
//! workers                              the platform's sockets, storage and variables
//! polling --- the head ---> delivery   two engines: storing changes, and sending them to consumers
//! clients                              what clients say and are told, and what they may see
//! state   history                      slot, checkpoint and epoch; the table change_history
//! changes                              TableChange, and rows as JSON
//! pipeline                             receipts for statements in flight
//! pgoutput   postgres                  the decoder; the wire client, over any stream of bytes
//! config  clock  error  lsn
//! ```
//!
//! The two engines share only the head: the newest position, and the newest changes while they are
//! in memory. Storing never waits for a consumer, which is a cursor, a view and a sink.
//!
//! Everything below `workers` also runs natively, where `cargo test` proves it against a real
//! Postgres over a Tokio socket.

mod access;
pub mod changes;
pub mod clients;
pub mod clock;
pub mod config;
mod cors;
pub mod delivery;
pub mod error;
pub mod history;
pub mod lsn;
pub mod pgoutput;
mod pipeline;
pub mod polling;
pub mod postgres;
mod replication_do;
mod response;
mod routes;
pub mod state;
mod workers;

use worker::{Context, Env, Request, Response, event};

/// The public entry: answers preflight requests, and forwards what [`access::authorize`] lets pass.
#[event(fetch)]
async fn fetch(request: Request, env: Env, _context: Context) -> worker::Result<Response> {
    let origin = cors::allowed_origin(&request, &env)?;
    if let Some(origin) = &origin
        && let Some(response) = cors::preflight(&request, origin)?
    {
        return Ok(response);
    }
    let is_upgrade = request.headers().has("Upgrade")?;
    let response = response::or_error(forward(request, &env).await)?;
    match origin {
        // CORS does not apply to WebSockets, and a WebSocket response cannot be copied.
        Some(origin) if !is_upgrade => {
            let headers = response.headers().clone();
            cors::allow(&headers, &origin)?;
            Ok(response.with_headers(headers))
        }
        _ => Ok(response),
    }
}

async fn forward(request: Request, env: &Env) -> response::Result<Response> {
    access::authorize(&request, env)?;
    let object = env.durable_object("REPLICATION")?.get_by_name("default")?;
    Ok(object.fetch_with_request(request).await?)
}
