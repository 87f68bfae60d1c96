//! The wire client with real servers, and with scripted ones that behave as no real server does.

mod authentication;
mod broken_socket;
mod bulk;
mod hostile_authentication;
mod hostile_server;
mod scripted;
mod server_errors;
mod statements;
mod tls;
