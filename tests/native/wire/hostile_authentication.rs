//! Logs in to a server whose every byte is scripted.

use std::time::Duration;

use super::scripted::*;
use pg_change_feed::postgres::{AuthenticationError, Connection, Error, ProtocolError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// Returns the error of a login to a server that takes part in SCRAM: it answers the client's first
/// message with what `continuation` returns for the client's nonce, and the second one with `last`.
async fn scram_error(continuation: impl FnOnce(&str) -> String, last: &[u8]) -> Error {
    let (client, mut server) = duplex(1 << 16);
    let login = login();
    let talk = async {
        let offer = b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        server.write_all(&message(b'R', offer)).await.unwrap();
        let mut startup = [0; STARTUP_BYTES];
        server.read_exact(&mut startup).await.unwrap();
        let mut first = [0; 5 + 14 + 4 + 8 + 24];
        server.read_exact(&mut first).await.unwrap();
        assert_eq!(first[..23], *b"p\0\0\0\x36SCRAM-SHA-256\0\0\0\0\x20");
        let first = str::from_utf8(&first[23..]).unwrap();
        let nonce = first.strip_prefix("n,,n=,r=").unwrap();
        let body = [b"\0\0\0\x0b", continuation(nonce).as_bytes()].concat();
        server.write_all(&message(b'R', &body)).await.unwrap();
        let mut second = [0; 5];
        if server.read_exact(&mut second).await.is_ok() {
            server.write_all(last).await.unwrap();
        }
        // It ends when the client closes the connection.
        let _ = server.read_to_end(&mut Vec::new()).await;
    };
    let connect = async { Connection::connect(client, &login, LIMITS).await.err() };
    let (error, ()) = tokio::join!(connect, talk);
    error.expect("such a login must fail")
}

fn sound_continuation(nonce: &str) -> String {
    format!("r={nonce}3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096")
}

#[tokio::test]
async fn a_server_that_does_not_know_the_password_is_detected() {
    for verifier in [
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        "v=",
        "v=!",
        "x",
        "e=no",
        "",
    ] {
        let last = message(b'R', &[b"\0\0\0\x0c", verifier.as_bytes()].concat());
        let error = scram_error(sound_continuation, &[&last, AUTHENTICATION_OK].concat()).await;
        let failed = matches!(error, Error::Authentication(AuthenticationError::Scram(_)));
        assert!(failed, "{verifier}: {error:?}");
    }
    // It omits its proof.
    let error = scram_error(sound_continuation, AUTHENTICATION_OK).await;
    let failed = matches!(
        error,
        Error::Authentication(AuthenticationError::ServerNotProven)
    );
    assert!(failed, "{error:?}");
    // It requests the cleartext password instead.
    let error = scram_error(sound_continuation, &message(b'R', b"\0\0\0\x03")).await;
    let refused = matches!(
        error,
        Error::Protocol(ProtocolError::Unexpected { tag: b'R', .. })
    );
    assert!(refused, "{error:?}");
}

#[tokio::test]
async fn a_scram_server_that_violates_the_exchange_is_refused() {
    let strays: [fn(&str) -> String; 6] = [
        // An unknown nonce, no nonce, an endless computation, no salt, nothing, garbage.
        |_| "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096".to_owned(),
        |_| "r=,s=QSXCR+Q6sek8bf92,i=4096".to_owned(),
        |nonce| format!("r={nonce}x,s=QSXCR+Q6sek8bf92,i=4000000000"),
        |nonce| format!("r={nonce}x,i=4096"),
        |_| String::new(),
        |_| "\u{0}\u{1f600}".to_owned(),
    ];
    for stray in strays {
        let error = scram_error(stray, b"").await;
        let failed = matches!(error, Error::Authentication(AuthenticationError::Scram(_)));
        assert!(failed, "{error:?}");
    }
}

#[tokio::test]
async fn authentication_that_is_unsupported_or_out_of_order_is_refused() {
    for method in [2, 6, 7, 9] {
        let error = error_at_login(&message(b'R', &[0, 0, 0, method])).await;
        let cause = matches!(
            error,
            Error::Authentication(AuthenticationError::UnsupportedMethod(_))
        );
        assert!(cause, "{method}: {error:?}");
    }
    for offer in [
        &b"\0\0\0\x0a\0"[..],
        b"\0\0\0\x0aSCRAM-SHA-256-PLUS\0\0",
        b"\0\0\0\x0aX\0\0",
    ] {
        let error = error_at_login(&message(b'R', offer)).await;
        let cause = matches!(
            error,
            Error::Authentication(AuthenticationError::UnsupportedMechanism)
        );
        assert!(cause, "{error:?}");
    }
    // Garbage: an unknown request, no request, half a salt, an unterminated list of mechanisms.
    for body in [
        &b"\0\0\0\x63"[..],
        b"",
        b"\0\0\0\x05ab",
        b"\0\0\0\x0aSCRAM",
        b"\0\0\0\x0a",
    ] {
        let error = error_at_login(&message(b'R', body)).await;
        let garbage = matches!(
            error,
            Error::Protocol(ProtocolError::Malformed { tag: b'R', .. })
        );
        assert!(garbage, "{}: {error:?}", body.escape_ascii());
    }
    // Out of order: ready, a key and rows before the login is accepted, a second request, a SASL step.
    let cleartext = message(b'R', b"\0\0\0\x03");
    for script in [
        READY.to_vec(),
        KEY.to_vec(),
        SEVEN.to_vec(),
        cleartext.repeat(2),
        message(b'R', b"\0\0\0\x0bx"),
        message(b'R', b"\0\0\0\x0cx"),
        message(b'R', b"\0\0\0\x08x"),
        AUTHENTICATION_OK.repeat(2),
        [AUTHENTICATION_OK, SEVEN].concat(),
    ] {
        let error = error_at_login(&script).await;
        let refused = matches!(error, Error::Protocol(ProtocolError::Unexpected { .. }));
        assert!(refused, "{}: {error:?}", script.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_that_arrives_byte_by_byte_is_ended_by_its_own_limit() {
    let (client, mut server) = duplex(64);
    let drip = tokio::spawn(async move {
        let notice = NOTICE.repeat(100);
        for byte in [AUTHENTICATION_OK, &notice].concat() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if server.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    });
    let error = Connection::connect(client, &login(), LIMITS)
        .await
        .err()
        .unwrap();
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    drip.await.unwrap();
}
