//! The wire client with a server whose every byte is scripted, with documented messages and with
//! others.

use super::scripted::*;
use crate::support::faulty_stream::{Faults, FaultyStream};
use pg_change_feed::postgres::{Connection, Error, Param, ProtocolError};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Logs in to a server that sends `script` after a correct login, selects 7, and returns the error.
/// Afterwards the connection must be unusable.
async fn error_after_login(script: &[u8]) -> Error {
    let (client, _server) = scripted(&[&LOGIN.concat(), script].concat()).await;
    let mut connection = Connection::connect(client, &login(), LIMITS).await.unwrap();
    let error = select_seven(&mut connection).await.unwrap_err();
    let next = connection.execute("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(next, Error::Broken), "{next:?} after {error:?}");
    error
}

#[tokio::test]
async fn the_client_sends_what_the_protocol_documents() {
    let script = [LOGIN.concat(), STATEMENT.concat()].concat();
    let (client, mut server) = scripted(&script).await;
    let mut connection = Connection::connect(client, &login(), LIMITS).await.unwrap();
    select_seven(&mut connection).await.unwrap();
    connection.close().await;
    let mut said = Vec::new();
    server.read_to_end(&mut said).await.unwrap();
    let startup = b"\0\0\0\x59\0\x03\0\0user\0alice\0database\0orders\0\
        application_name\0pg-change-feed\0client_encoding\0UTF8\0\0";
    let parse = b"P\0\0\0\x15\0SELECT $1\0\0\x01\0\0\0\x17";
    let bind = b"B\0\0\0\x18\0\0\0\x01\0\x01\0\x01\0\0\0\x04\0\0\0\x07\0\x01\0\x01";
    let rest = b"D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04X\0\0\0\x04";
    let expected = [&startup[..], parse, bind, rest].concat();
    assert_eq!(
        said.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
}

#[tokio::test]
async fn a_length_beyond_the_limit_is_refused_before_it_is_read() {
    let mut script = LOGIN.concat();
    script.extend_from_slice(&message(b'D', &[0; 9_997]));
    script.resize(500_000, 0);
    let (client, _server) = scripted(&script).await;
    let stream = FaultyStream::new(
        client,
        Faults {
            chunk: 100,
            ..Faults::default()
        },
    );
    let traffic = stream.traffic();
    let mut connection = Connection::connect(stream, &login(), LIMITS).await.unwrap();
    let error = select_seven(&mut connection).await.unwrap_err();
    let refused = matches!(
        error,
        Error::MessageTooLarge {
            len: 10_001,
            max: 10_000
        }
    );
    assert!(refused, "{error:?}");
    assert!(traffic.read() <= 300, "{} bytes were read", traffic.read());

    let error = error_after_login(b"D\x7f\xff\xff\xff").await;
    assert!(
        matches!(
            error,
            Error::MessageTooLarge {
                len: 0x7fff_ffff,
                ..
            }
        ),
        "{error:?}"
    );
    // An HTTP server: its first byte is a valid tag, its length is too large.
    let error = error_at_login(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert!(matches!(error, Error::MessageTooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn impossible_lengths_and_unknown_types_are_refused() {
    for len in [
        b"\0\0\0\0",
        b"\0\0\0\x03",
        b"\x80\0\0\0",
        b"\xff\xff\xff\xff",
    ] {
        let error = error_after_login(&[b"1", &len[..]].concat()).await;
        assert!(
            matches!(error, Error::Protocol(ProtocolError::Length(b'1'))),
            "{error:?}"
        );
    }
    for tag in [b'x', b'v', b'W', 0, 0xff] {
        // Refused at the first byte; the rest never arrives.
        let error = error_after_login(&[tag]).await;
        let unknown =
            matches!(error, Error::Protocol(ProtocolError::UnknownMessage(t)) if t == tag);
        assert!(unknown, "{error:?}");
    }
}

#[tokio::test]
async fn malformed_messages_are_refused() {
    let described = [PARSED, BOUND, ONE_INT4].concat();
    let rows = [&described, SEVEN].concat();
    for (before, malformed) in [
        // Bytes after the end.
        (vec![], message(b'1', b"x")),
        (vec![], message(b'S', b"name\0value\0x")),
        ([&rows[..], SELECTED].concat(), message(b'Z', b"II")),
        // Missing bytes.
        (vec![], message(b'S', b"name\0value")),
        (vec![], message(b'A', b"\0\0\0\x01channel")),
        (vec![], message(b'N', b"VNOTICE\0C00000\0M")),
        (vec![], message(b'E', b"VERROR\0C42601\0")),
        (vec![], message(b'E', b"")),
        ([PARSED, BOUND].concat(), message(b'T', b"\0\x01n\0\0\0")),
        ([PARSED, BOUND].concat(), message(b'T', b"\0\x01")),
        ([PARSED, BOUND].concat(), message(b'T', b"")),
        (described.clone(), message(b'D', b"")),
        (described.clone(), message(b'D', b"\0\x01\0\0")),
        (described.clone(), message(b'D', b"\0\x01\0\0\0\x04\0\0\0")),
        (described.clone(), message(b'D', b"\0\x01\x7f\xff\xff\xff")),
        (
            described.clone(),
            message(b'D', b"\0\x02\0\0\0\x04\0\0\0\x07"),
        ),
        (
            described.clone(),
            message(b'D', b"\0\x01\0\0\0\x04\0\0\0\x07x"),
        ),
        (rows.clone(), message(b'C', b"SELECT 1")),
        // Text that is not UTF-8.
        (vec![], message(b'S', b"name\0\xff\0")),
        (rows.clone(), message(b'C', b"\xff\0")),
        (
            [PARSED, BOUND].concat(),
            message(b'T', &[&b"\0\x01\xff\0"[..], &[0; 18]].concat()),
        ),
    ] {
        let tag = malformed[0];
        let error = error_after_login(&[before, malformed.clone()].concat()).await;
        let refused = matches!(
            error, Error::Protocol(ProtocolError::Malformed { tag: t, .. }) if t == tag
        );
        assert!(refused, "{}: {error:?}", malformed.escape_ascii());
    }
}

#[tokio::test]
async fn messages_out_of_order_are_refused() {
    let described = [PARSED, BOUND, ONE_INT4].concat();
    let no_data = [PARSED, BOUND, b"n\0\0\0\x04"].concat();
    let done = [&described, SEVEN, SELECTED].concat();
    for (before, unexpected) in [
        (vec![], BOUND),
        (vec![], SEVEN),
        (vec![], READY),
        (vec![], SELECTED),
        (vec![], AUTHENTICATION_OK),
        (vec![], KEY),
        (PARSED.to_vec(), PARSED),
        (PARSED.to_vec(), SEVEN),
        ([PARSED, BOUND].concat(), SEVEN),
        ([PARSED, BOUND].concat(), SELECTED),
        // Rows of a statement without rows, and messages of COPY.
        (no_data.clone(), SEVEN),
        (no_data.clone(), b"G\0\0\0\x07\0\0\0"),
        (no_data.clone(), b"H\0\0\0\x07\0\0\0"),
        (no_data.clone(), b"d\0\0\0\x05x"),
        (no_data, b"c\0\0\0\x04"),
        (described.clone(), ONE_INT4),
        (described.clone(), READY),
        (described.clone(), b"I\0\0\0\x04"),
        (described.clone(), b"s\0\0\0\x04"),
        (described, b"t\0\0\0\x06\0\0"),
        (done.clone(), SEVEN),
        (done.clone(), SELECTED),
        (done, b"3\0\0\0\x04"),
    ] {
        let error = error_after_login(&[&before[..], unexpected].concat()).await;
        let refused = matches!(
            error, Error::Protocol(ProtocolError::Unexpected { tag, .. }) if tag == unexpected[0]
        );
        assert!(
            refused,
            "{} after {}: {error:?}",
            unexpected.escape_ascii(),
            before.escape_ascii()
        );
    }
}

#[tokio::test]
async fn rows_and_states_that_do_not_match_are_refused() {
    let described = [PARSED, BOUND, ONE_INT4].concat();
    let two_values = message(b'D', b"\0\x02\xff\xff\xff\xff\xff\xff\xff\xff");
    let error = error_after_login(&[&described[..], &two_values].concat()).await;
    let width = ProtocolError::RowWidth {
        actual: 2,
        described: 1,
    }
    .to_string();
    assert!(
        matches!(&error, Error::Protocol(cause) if cause.to_string() == width),
        "{error:?}"
    );

    let mut text_format = ONE_INT4.to_vec();
    *text_format.last_mut().unwrap() = 0;
    let error = error_after_login(&[PARSED, BOUND, &text_format].concat()).await;
    assert!(
        matches!(error, Error::Protocol(ProtocolError::TextFormat)),
        "{error:?}"
    );

    let done = [&described, SEVEN, SELECTED].concat();
    let error = error_after_login(&[&done, &b"Z\0\0\0\x05X"[..]].concat()).await;
    let unknown = matches!(
        error,
        Error::Protocol(ProtocolError::TransactionStatus(b'X'))
    );
    assert!(unknown, "{error:?}");

    for fields in [
        &b"Mno code\0\0"[..],
        b"C42\0Mshort\0\0",
        b"C4250\xff\0Mbytes\0\0",
    ] {
        let error = error_after_login(&message(b'E', fields)).await;
        assert!(
            matches!(error, Error::Protocol(ProtocolError::NoSqlState)),
            "{error:?}"
        );
    }

    let names = (0..200).flat_map(|number| message(b'S', format!("p{number}\0v\0").as_bytes()));
    let error = error_after_login(&names.collect::<Vec<u8>>()).await;
    assert!(
        matches!(error, Error::Protocol(ProtocolError::TooManyParameters)),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_unrequested_answer_is_refused_at_the_next_statement() {
    let script = [LOGIN.concat(), STATEMENT.concat(), SEVEN.to_vec()].concat();
    let (client, _server) = scripted(&script).await;
    let mut connection = Connection::connect(client, &login(), LIMITS).await.unwrap();
    select_seven(&mut connection).await.unwrap();
    let error = select_seven(&mut connection).await.unwrap_err();
    let refused = matches!(
        error,
        Error::Protocol(ProtocolError::Unexpected { tag: b'D', .. })
    );
    assert!(refused, "{error:?}");
}

#[tokio::test]
async fn reading_results_of_unsent_statements_is_refused() {
    let script = [LOGIN.concat(), STATEMENT.concat()].concat();
    for queue in [false, true] {
        let (client, _server) = scripted(&script).await;
        let mut connection = Connection::connect(client, &login(), LIMITS).await.unwrap();
        if queue {
            connection.queue("SELECT $1", &[Param::Int4(7)]).unwrap();
        }
        let error = connection.next_row().await.unwrap_err();
        assert!(matches!(error, Error::OutOfTurn(_)), "{error:?}");
    }
    // The result of an earlier statement must not pass for that of the next.
    let (client, _server) = scripted(&script).await;
    let mut connection = Connection::connect(client, &login(), LIMITS).await.unwrap();
    connection.queue("SELECT $1", &[Param::Int4(7)]).unwrap();
    connection.send().await.unwrap();
    let error = connection.query("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(error, Error::OutOfTurn(_)), "{error:?}");
}

#[tokio::test]
async fn statements_that_cannot_be_encoded_are_refused_unsent() {
    let too_many = vec![Param::Null; 65_536];
    for (sql, params) in [("SELECT '\0'", &[][..]), ("SELECT 1", &too_many)] {
        let (client, mut server) = scripted(&LOGIN.concat()).await;
        let mut connection = Connection::connect(client, &login(), LIMITS).await.unwrap();
        let error = connection.queue(sql, params).unwrap_err();
        assert!(matches!(error, Error::Request(_)), "{error:?}");
        connection.close().await;
        let mut said = Vec::new();
        server.read_to_end(&mut said).await.unwrap();
        assert_eq!(said.len(), STARTUP_BYTES, "only the startup message");
    }
}

#[tokio::test]
async fn results_larger_than_the_limit_are_refused() {
    let row = message(b'D', &[&b"\0\x01\0\0\x0f\xa0"[..], &[0; 4_000]].concat());
    let answer = [[PARSED, BOUND, ONE_INT4].concat(), row.repeat(30)].concat();
    let error = error_after_login(&answer).await;
    assert!(
        matches!(error, Error::ResultTooLarge { max: 100_000 }),
        "{error:?}"
    );
}

/// Runs a session with a server that sends `script` in pieces of `chunk` bytes and closes.
fn session_with(script: &[u8], chunk: usize) -> Result<usize, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (client, mut server) = scripted(script).await;
        server.shutdown().await.unwrap();
        let stream = FaultyStream::new(
            client,
            Faults {
                chunk,
                ..Faults::default()
            },
        );
        let mut connection = Connection::connect(stream, &login(), LIMITS).await?;
        let rows = connection.query("SELECT 1", &[]).await?;
        for row in &rows {
            for column in 0..=row.len() {
                let _ = row.get::<Option<i32>>(column);
                let _ = row.get::<Option<&str>>(column);
                let _ = row.get::<Option<bytes::Bytes>>(column);
            }
        }
        connection.close().await;
        Ok(rows.len())
    })
}

proptest! {
    #[test]
    fn no_bytes_make_the_client_panic_or_hang(
        bytes in any::<Vec<u8>>(), logged_in: bool, chunk in 1_usize..20,
    ) {
        let before = if logged_in { LOGIN.concat() } else { Vec::new() };
        let outcome = session_with(&[before, bytes].concat(), chunk);
        prop_assert!(outcome.is_err());
    }

    #[test]
    fn no_damage_to_a_correct_session_makes_the_client_panic_or_hang(
        position: prop::sample::Index, byte: u8, chunk in 1_usize..20,
    ) {
        let mut script = [LOGIN.concat(), STATEMENT.concat()].concat();
        let position = position.index(script.len());
        script[position] = byte;
        // Some damage is not detectable: another name, another number.
        if let Ok(rows) = session_with(&script, chunk) {
            prop_assert_eq!(rows, 1);
        }
    }
}
