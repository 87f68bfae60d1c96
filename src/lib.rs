//! A change feed for PostgreSQL on Cloudflare Workers.
//!
//! Data flows one way, and each module knows only those to its left:
//!
//! ```text
//! socket -> postgres -> pgoutput -> changes -> history -> state -> polling -> replication_do -> lib
//! ```
//!
//! Everything but the adaptors in `workers` and the Durable Object itself also runs natively, where
//! `cargo test` proves it against a real Postgres over a Tokio socket.

mod access;
mod answer;
pub mod changes;
pub mod clients;
pub mod clock;
pub mod config;
mod cors;
pub mod error;
pub mod history;
pub mod lsn;
pub mod pgoutput;
mod pipeline;
pub mod polling;
pub mod postgres;
mod replication_do;
pub mod state;
mod workers;

use worker::{Context, Env, Request, Response, event};

/// The public route: who may not ask is refused here, and everybody else is handed to the object.
#[event(fetch)]
async fn fetch(request: Request, env: Env, _context: Context) -> worker::Result<Response> {
    let origin = cors::allowed_origin(&request, &env)?;
    if let Some(origin) = &origin
        && let Some(answer) = cors::preflight(&request, origin)?
    {
        return Ok(answer);
    }
    let is_upgrade = request.headers().has("Upgrade")?;
    let response = match access::of_public(&request, &env)? {
        Ok(_) => {
            let object = env.durable_object("REPLICATION")?.get_by_name("default")?;
            object.fetch_with_request(request).await?
        }
        Err(refusal) => {
            let (status, code) = refusal.status();
            answer::error(status, code, &refusal.to_string(), false, None)?
        }
    };
    match origin {
        // A WebSocket is not subject to CORS, and its response cannot be made anew.
        Some(origin) if !is_upgrade => {
            let headers = response.headers().clone();
            cors::allow(&headers, &origin)?;
            Ok(response.with_headers(headers))
        }
        _ => Ok(response),
    }
}
