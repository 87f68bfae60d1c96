//! A server whose every byte is scripted, and the messages of a correct one.

use std::time::Duration;

use pg_change_feed::postgres::{Connection, Error, Limits, Login, Param, Stream};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

/// Small, so that a test can exceed them.
pub const LIMITS: Limits = Limits {
    read_timeout: Duration::from_secs(5),
    connect_timeout: Duration::from_secs(15),
    max_message_bytes: 10_000,
    max_result_bytes: 100_000,
};

// What a server sends to a login that it trusts, message by message.
pub const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
pub const VERSION: &[u8] = b"S\0\0\0\x18server_version\x0018.4\0";
pub const KEY: &[u8] = b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02";
pub const READY: &[u8] = b"Z\0\0\0\x05I";
pub const LOGIN: [&[u8]; 4] = [AUTHENTICATION_OK, VERSION, KEY, READY];

// What it sends for SELECT 7, with every message that can arrive in between.
pub const PARSED: &[u8] = b"1\0\0\0\x04";
pub const BOUND: &[u8] = b"2\0\0\0\x04";
pub const NOTICE: &[u8] = b"N\0\0\0\x20SNOTICE\0VNOTICE\0C00000\0Mhi\0\0";
pub const ONE_INT4: &[u8] =
    b"T\0\0\0\x1a\0\x01n\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\x01";
pub const NOTIFICATION: &[u8] = b"A\0\0\0\x0e\0\0\0\x01c\0pay\0";
pub const SEVEN: &[u8] = b"D\0\0\0\x0e\0\x01\0\0\0\x04\0\0\0\x07";
pub const ZONE: &[u8] = b"S\0\0\0\x11TimeZone\0UTC\0";
pub const SELECTED: &[u8] = b"C\0\0\0\x0dSELECT 1\0";
pub const STATEMENT: [&[u8]; 9] = [
    PARSED,
    BOUND,
    NOTICE,
    ONE_INT4,
    NOTIFICATION,
    SEVEN,
    ZONE,
    SELECTED,
    READY,
];

/// The length of the startup message for `login`.
pub const STARTUP_BYTES: usize = 89;

/// The login of the scripted sessions.
pub fn login() -> Login {
    Login::new("alice", "secret", "orders")
}

/// Returns the two ends of a connection, first the client's. The server sends `script` and reads
/// nothing. If its end is dropped, the connection closes.
pub async fn scripted(script: &[u8]) -> (DuplexStream, DuplexStream) {
    let (client, mut server) = duplex(1 << 20);
    server.write_all(script).await.unwrap();
    (client, server)
}

/// Returns the error of a login to a server that sends `script`.
pub async fn error_at_login(script: &[u8]) -> Error {
    let (client, _server) = scripted(script).await;
    let connection = Connection::connect(client, &login(), LIMITS).await;
    connection.expect_err("such a login must fail")
}

/// Encodes a message of type `tag`.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

/// Selects 7, which [`STATEMENT`] answers.
pub async fn select_seven<S>(connection: &mut Connection<S>) -> Result<i32, Error>
where
    S: Stream,
{
    let rows = connection.query("SELECT $1", &[Param::Int4(7)]).await?;
    assert_eq!(rows.len(), 1);
    rows[0].get(0)
}
