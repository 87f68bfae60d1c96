//! Connects to the database and logs in: through the binding `HYPERDRIVE` if there is one,
//! otherwise over a direct TCP socket to the host in the secret `DATABASE_URL`. Never both.

use std::io;
use std::time::Duration;

use js_sys::{Object, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use worker::{Env, worker_sys};

use super::socket::{Socket, failed};
use crate::clock;
use crate::error::{Category, Error, Result};
use crate::history::WriteMethod;
use crate::polling::Connector;
use crate::postgres::{
    Connection, DatabaseUrl, DatabaseUrlError, Limits, Login, Negotiated, ProtocolError, SslMode,
    negotiate_tls,
};

/// A connection over the platform's socket.
pub(crate) type Database = Connection<Socket>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

const LIMITS: Limits = Limits {
    connect_timeout: CONNECT_TIMEOUT,
    // Hyperdrive ends a statement after 60 seconds: there is no point in waiting longer.
    read_timeout: Duration::from_secs(65),
    // A row cut at 16 MiB, the highest limit that can be configured, and the lengths of its
    // columns.
    max_message_bytes: 17 << 20,
    max_result_bytes: 8 << 20,
};

/// Connects and logs in.
///
/// Fails with [`Category::Configuration`] if there is neither a binding nor a secret, and with the
/// error of the connection.
pub(crate) async fn connect(env: &Env) -> Result<Database> {
    if let Some(hyperdrive) = binding(env, "HYPERDRIVE") {
        let hyperdrive: worker_sys::Hyperdrive = hyperdrive.unchecked_into();
        let login = Login::new(
            hyperdrive.user(),
            hyperdrive.password(),
            hyperdrive.database(),
        );
        let socket = hyperdrive
            .connect()
            .map_err(|cause| unreachable_database(failed(cause)))?;
        // Hyperdrive speaks TLS to the database, and the path to Hyperdrive never leaves the
        // machine.
        let socket = open(socket, unreachable_database).await?;
        return Ok(Connection::connect(socket, &login, LIMITS).await?);
    }
    let Ok(url) = env.secret("DATABASE_URL") else {
        return Err(no_database());
    };
    let url: DatabaseUrl = url.to_string().parse().map_err(invalid_url)?;
    let socket = direct(&url).await?;
    Ok(Connection::connect(socket, &url.login, LIMITS).await?)
}

/// Opens the second connection of a cycle with a backlog.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatabaseConnector<'a>(pub(crate) &'a Env);

impl Connector for DatabaseConnector<'_> {
    type Stream = Socket;

    async fn connect(&self) -> Result<Database> {
        connect(self.0).await
    }
}

/// How changes are written over such a connection. Hyperdrive does not document support for COPY.
pub(crate) fn write_method(env: &Env) -> WriteMethod {
    if binding(env, "HYPERDRIVE").is_some() {
        WriteMethod::Insert
    } else {
        WriteMethod::Copy
    }
}

fn binding(env: &Env, name: &str) -> Option<JsValue> {
    Reflect::get(env, &JsValue::from_str(name))
        .ok()
        .filter(JsValue::is_object)
}

async fn direct(url: &DatabaseUrl) -> Result<Socket> {
    let address = object(&[
        ("hostname", url.host.as_str().into()),
        ("port", f64::from(url.port).into()),
    ]);
    let transport = if url.ssl_mode == SslMode::Disable {
        "off"
    } else {
        "starttls"
    };
    let options = object(&[
        ("secureTransport", transport.into()),
        ("allowHalfOpen", JsValue::FALSE),
    ]);
    let raw = worker_sys::connect(address, options)
        .map_err(|cause| unreachable_database(failed(cause)))?;
    if url.ssl_mode == SslMode::Disable {
        return open(raw, unreachable_database).await;
    }
    let socket = open(raw.clone(), unreachable_database).await?;
    match negotiate_tls(socket, url.ssl_mode, CONNECT_TIMEOUT).await? {
        Negotiated::Plain(socket) => Ok(socket),
        Negotiated::Tls(socket) => {
            // Plaintext that arrived before the handshake must never be read as the server's, as
            // libpq once did (CVE-2021-23222).
            let unread = socket.unread();
            if unread > 0 {
                let cause = ProtocolError::PlaintextBeforeTls(unread);
                return Err(crate::postgres::Error::Protocol(cause).into());
            }
            // startTls takes over the socket, whose streams must not be locked.
            socket.release();
            let secure = raw.start_tls().map_err(|cause| tls_failed(failed(cause)))?;
            open(secure, tls_failed).await
        }
    }
}

async fn open(raw: worker_sys::Socket, explain: fn(io::Error) -> Error) -> Result<Socket> {
    let socket = Socket::new(raw).map_err(explain)?;
    let opened = clock::timeout(CONNECT_TIMEOUT, socket.opened())
        .await
        .map_err(|elapsed| {
            Error::new(
                Category::Timeout,
                "connect_timeout",
                "the database does not respond",
            )
            .with_source(elapsed)
        })?;
    opened.map_err(explain)?;
    Ok(socket)
}

fn object(fields: &[(&str, JsValue)]) -> JsValue {
    let object = Object::new();
    for (name, value) in fields {
        // Setting a property of a plain object cannot fail.
        Reflect::set(&object, &JsValue::from_str(name), value).ok();
    }
    object.into()
}

fn unreachable_database(cause: io::Error) -> Error {
    Error::new(
        Category::Connection,
        "database_unreachable",
        "the database cannot be reached",
    )
    .with_source(cause)
}

/// The platform verifies every certificate, whatever the sslmode: against the authorities that
/// browsers trust, and for the host's name.
fn tls_failed(cause: io::Error) -> Error {
    let message = format!("TLS with the database failed: {cause}");
    Error::new(Category::Connection, "tls_failed", message)
        .with_source(cause)
        .with_remedy(
            "give the server a certificate from a public authority for the host in DATABASE_URL; or \
             connect through Hyperdrive, which accepts an authority of your own (wrangler cert \
             upload certificate-authority); or, on a network that you trust, set sslmode=disable",
        )
}

/// As for any URL, but with the command that sets the secret.
fn invalid_url(cause: DatabaseUrlError) -> Error {
    Error::from(cause).with_remedy(
        "run wrangler secret put DATABASE_URL with a URL such as \
         postgres://user:password@host:5432/database?sslmode=require, in which reserved \
         characters are percent-encoded",
    )
}

fn no_database() -> Error {
    Error::new(
        Category::Configuration,
        "no_database",
        "no database is configured",
    )
    .with_remedy(
        "add a Hyperdrive binding named HYPERDRIVE to wrangler.toml (wrangler hyperdrive create \
         ... --caching-disabled), or set the secret DATABASE_URL",
    )
}
