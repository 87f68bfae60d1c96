//! The wire client: against real servers, and against scripted ones that no real server is like.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod authentication;
mod broken_socket;
mod bulk;
mod hostile_authentication;
mod hostile_server;
mod scripted;
mod server_errors;
mod statements;
