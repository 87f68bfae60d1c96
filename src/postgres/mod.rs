//! A thin PostgreSQL client over the `postgres-protocol` crate: framing, logging in, statements
//! with binary parameters and results, COPY into the server. It knows sockets only as
//! [`AsyncRead`](tokio::io::AsyncRead) + [`AsyncWrite`](tokio::io::AsyncWrite), so that it runs
//! over Workers' sockets and, in tests, over Tokio's.
//!
//! ```text
//!   us                                        server
//!   StartupMessage            ------------>
//!                             <------------   AuthenticationCleartextPassword | MD5 | SASL | Ok
//!   PasswordMessage | SASL..  <----------->   AuthenticationSASLContinue, SASLFinal
//!                             <------------   AuthenticationOk
//!                             <------------   ParameterStatus*, BackendKeyData, ReadyForQuery
//!
//!   for each statement, any number of them in one write:
//!   Parse Bind Describe
//!   Execute Sync              ------------>
//!                             <------------   ParseComplete, BindComplete,
//!                                             RowDescription | NoData, DataRow*,
//!                                             CommandComplete, ReadyForQuery
//!
//!   for COPY ... FROM STDIN:
//!   Parse Bind Describe
//!   Execute CopyData*
//!   CopyDone Sync             ------------>
//!                             <------------   ParseComplete, BindComplete, NoData,
//!                                             CopyInResponse, CommandComplete, ReadyForQuery
//!
//!   at any point              <------------   NoticeResponse, ParameterStatus,
//!                                             NotificationResponse, ErrorResponse
//!   Terminate                 ------------>
//! ```
//!
//! Only the extended protocol is spoken, and only with the unnamed statement and portal: poolers in
//! transaction mode carry that, and one of them (Hyperdrive) fails when simple and extended
//! queries are mixed.
//!
//! Any other order of messages is a [`ProtocolError`]. A length is checked before it is believed,
//! and each wait has an end, so a hostile server costs at most [`Limits`].
//!
//! Source: PostgreSQL documentation, "Frontend/Backend Protocol".

mod connection;
mod error;
mod fetch_size;
mod login;
mod param;
mod row;
mod server_error;
mod session;
mod tls;
mod transport;
mod url;

pub use connection::Connection;
pub use error::{AuthenticationError, Error, ProtocolError, ValueError};
pub use fetch_size::{FIRST_FETCH_SIZE, next_fetch_size};
pub use login::Login;
pub use param::{ArrayParam, Element, Param};
pub use postgres_protocol::escape::escape_identifier;
pub use row::{Column, FromColumn, Row};
pub use server_error::{ServerError, SqlState};
pub use session::TransactionStatus;
pub use tls::{Negotiated, negotiate_tls};
pub use transport::Limits;
pub use url::{DatabaseUrl, DatabaseUrlError, SslMode};

/// A byte stream that a connection runs on: a socket of Workers, or of Tokio.
pub trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream for S {}
