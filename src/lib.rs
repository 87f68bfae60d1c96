//! A change feed for PostgreSQL on Cloudflare Workers.
//!
//! Data flows one way, and each module knows only those to its left:
//!
//! ```text
//! socket -> postgres -> pgoutput -> changes -> state, polling -> clients -> replication_do -> lib
//! ```
//!
//! Everything except `workers` and `replication_do` also compiles natively, where `cargo test`
//! proves it against a real Postgres over a Tokio socket.

pub mod changes;
pub mod clock;
pub mod config;
pub mod error;
pub mod lsn;
pub mod pgoutput;
pub mod polling;
pub mod postgres;
pub mod state;
