//! Requests TLS from a server, before any other message.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock;
use crate::postgres::error::{Error, ProtocolError};
use crate::postgres::{SslMode, Stream};

/// The result of the negotiation.
#[derive(Debug)]
pub enum Negotiated<S> {
    /// Log in without TLS.
    Plain(S),
    /// The server expects the TLS handshake: start TLS on this socket, then log in.
    Tls(S),
}

/// Requests TLS from the server as `mode` requires, and waits at most `read_timeout` for the answer.
/// Only for direct sockets: Hyperdrive's are encrypted already.
///
/// Reads exactly one byte. A man in the middle could send more, which would pass for the server's own
/// after the handshake. Left unread, it becomes part of the handshake, which then fails (PostgreSQL
/// documentation, "SSL Session Encryption").
pub async fn negotiate_tls<S: Stream>(
    mut stream: S,
    mode: SslMode,
    read_timeout: Duration,
) -> Result<Negotiated<S>, Error> {
    if mode == SslMode::Disable {
        return Ok(Negotiated::Plain(stream));
    }
    let answer = clock::timeout(read_timeout, request(&mut stream))
        .await
        .map_err(Error::Timeout)?;
    match answer {
        Ok(b'S') => Ok(Negotiated::Tls(stream)),
        Ok(b'N') if mode == SslMode::Prefer => Ok(Negotiated::Plain(stream)),
        Ok(b'N') => Err(Error::TlsRefused),
        Ok(other) => Err(Error::Protocol(ProtocolError::TlsAnswer(other))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Error::Closed { mid_message: false })
        }
        Err(error) => Err(Error::Io(error)),
    }
}

async fn request<S: Stream>(stream: &mut S) -> io::Result<u8> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer).await?;
    let [answer] = answer;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Negotiates with a server that answers `answer` and closes. Returns the outcome and what the
    /// server read.
    async fn negotiate(mode: SslMode, answer: &[u8]) -> (Result<Vec<u8>, Error>, Vec<u8>) {
        let (client, mut server) = duplex(64);
        server.write_all(answer).await.unwrap();
        server.shutdown().await.unwrap();
        let outcome = match negotiate_tls(client, mode, LIMIT).await {
            Ok(Negotiated::Plain(stream)) => Ok((b"plain".to_vec(), stream)),
            Ok(Negotiated::Tls(stream)) => Ok((b"tls".to_vec(), stream)),
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            Ok((mut what, mut stream)) => {
                // What the negotiation did not read.
                stream.read_to_end(&mut what).await.unwrap();
                Ok(what)
            }
            Err(error) => Err(error),
        };
        let mut request = Vec::new();
        server.read_to_end(&mut request).await.unwrap();
        (outcome, request)
    }

    #[tokio::test]
    async fn an_ssl_request_is_sent_and_one_byte_is_read() {
        let (outcome, request) = negotiate(SslMode::Require, b"Sinjected").await;
        assert_eq!(outcome.unwrap(), b"tlsinjected");
        assert_eq!(request, [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f]);
    }

    #[tokio::test]
    async fn if_the_server_has_no_tls_the_mode_decides() {
        let (outcome, _) = negotiate(SslMode::Prefer, b"N").await;
        assert_eq!(outcome.unwrap(), b"plain");
        for mode in [SslMode::Require, SslMode::VerifyFull] {
            let (outcome, _) = negotiate(mode, b"N").await;
            assert!(matches!(outcome, Err(Error::TlsRefused)), "{mode:?}");
        }
    }

    #[tokio::test]
    async fn a_disabled_mode_sends_nothing() {
        let (outcome, request) = negotiate(SslMode::Disable, b"").await;
        assert_eq!(outcome.unwrap(), b"plain");
        assert_eq!(request, b"");
    }

    #[tokio::test]
    async fn any_other_answer_is_an_error() {
        let (outcome, _) = negotiate(SslMode::Prefer, b"E").await;
        let refused = outcome.unwrap_err();
        assert!(matches!(
            refused,
            Error::Protocol(ProtocolError::TlsAnswer(b'E'))
        ));
        let (outcome, _) = negotiate(SslMode::Prefer, b"").await;
        assert!(matches!(outcome, Err(Error::Closed { mid_message: false })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_waited_for_no_longer_than_the_limit() {
        let (client, _server) = duplex(64);
        let outcome = negotiate_tls(client, SslMode::Require, LIMIT).await;
        assert!(matches!(outcome, Err(Error::Timeout(_))));
    }
}
