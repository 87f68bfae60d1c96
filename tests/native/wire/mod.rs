//! The wire client: against real servers, and against scripted ones that no real server is like.

mod authentication;
mod broken_socket;
mod bulk;
mod hostile_authentication;
mod hostile_server;
mod scripted;
mod server_errors;
mod statements;
mod tls;
