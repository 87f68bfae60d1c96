//! A thin PostgreSQL client on top of the `postgres-protocol` crate: framing, login, statements with
//! binary parameters and results, and COPY into the server. It knows sockets only as [`Stream`], so
//! that it runs over Workers' sockets and, in tests, over Tokio's.
//!
//! ```text
//!   client                                    server
//!   StartupMessage            ------------>
//!                             <------------   AuthenticationCleartextPassword | MD5 | SASL | Ok
//!   PasswordMessage | SASL..  <----------->   AuthenticationSASLContinue, SASLFinal
//!                             <------------   AuthenticationOk
//!                             <------------   ParameterStatus*, BackendKeyData, ReadyForQuery
//!
//!   for each statement, of which one write can contain many:
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
//!   at any time               <------------   NoticeResponse, ParameterStatus,
//!                                             NotificationResponse, ErrorResponse
//!   Terminate                 ------------>
//! ```
//!
//! The client uses only the extended protocol, and only the unnamed statement and portal. Poolers in
//! transaction mode support that, and Hyperdrive fails if simple and extended queries are mixed.
//!
//! Any other order of messages is a [`ProtocolError`]. Every length is checked before it is used and
//! every wait has a timeout, so a hostile server costs at most [`Limits`].
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
