//! Sessions over a socket that is slow, full, cut or stalled.

use std::time::Duration;

use super::scripted::*;
use crate::support::faulty_stream::{Cut, Faults, FaultyStream};
use pg_change_feed::postgres::{Connection, Error, Param, TransactionStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

#[tokio::test(start_paused = true)]
async fn a_session_as_documented_works_in_chunks_of_any_size() {
    let script = [LOGIN.concat(), STATEMENT.concat()].concat();
    for chunk in [1, 2, 3, 7, usize::MAX] {
        let (client, _server) = scripted(&script).await;
        let stream = FaultyStream::new(
            client,
            Faults {
                chunk,
                ..Faults::default()
            },
        );
        let traffic = stream.traffic();
        let mut connection = Connection::connect(stream, &login(), LIMITS).await.unwrap();
        assert_eq!(connection.parameter("server_version"), Some("18.4"));
        assert_eq!(connection.parameter("TimeZone"), None);
        assert_eq!(select_seven(&mut connection).await.unwrap(), 7);
        assert_eq!(connection.parameter("TimeZone"), Some("UTC"));
        assert_eq!(connection.transaction_status(), TransactionStatus::Idle);
        let notices: Vec<_> = connection.take_notices().collect();
        assert_eq!(notices.len(), 1);
        assert_eq!(notices[0].message(), "hi");
        assert_eq!(connection.take_notices().count(), 0);
        assert_eq!(traffic.read(), script.len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_cut_at_any_byte_read_is_a_typed_error() {
    let messages: Vec<&[u8]> = LOGIN.iter().chain(&STATEMENT).copied().collect();
    let script = messages.concat();
    let mut boundary = 0;
    let boundaries: Vec<usize> = std::iter::once(0)
        .chain(messages.iter().map(|message| {
            boundary += message.len();
            boundary
        }))
        .collect();
    for (cut, chunk) in [
        (Cut::Close, 1),
        (Cut::Close, usize::MAX),
        (Cut::Reset, 5),
        (Cut::Stall, 5),
    ] {
        for read_limit in 0..script.len() {
            let (client, _server) = scripted(&script).await;
            let faults = Faults {
                read_limit: read_limit as u64,
                chunk,
                cut,
                ..Faults::default()
            };
            let session = async {
                let stream = FaultyStream::new(client, faults);
                let mut connection = Connection::connect(stream, &login(), LIMITS).await?;
                select_seven(&mut connection).await
            };
            let outcome = tokio::time::timeout(Duration::from_mins(1), session).await;
            let error = outcome.expect("it must not hang").unwrap_err();
            let fits = match (cut, &error) {
                (Cut::Close, Error::Closed { mid_message }) => {
                    *mid_message != boundaries.contains(&read_limit)
                }
                (Cut::Reset, Error::Io(cause)) => {
                    cause.kind() == std::io::ErrorKind::ConnectionReset
                }
                (Cut::Stall, Error::Timeout(_)) => true,
                _ => false,
            };
            assert!(fits, "{cut:?} after {read_limit} bytes: {error:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_cut_at_any_byte_written_is_a_typed_error() {
    const WRITTEN: u64 = STARTUP_BYTES as u64 + 22 + 25 + 7 + 10 + 5;
    let script = [LOGIN.concat(), STATEMENT.concat()].concat();
    for cut in [Cut::Close, Cut::Reset, Cut::Stall] {
        for write_limit in 0..=WRITTEN {
            let (client, _server) = scripted(&script).await;
            let faults = Faults {
                write_limit,
                cut,
                ..Faults::default()
            };
            let session = async {
                let stream = FaultyStream::new(client, faults);
                let traffic = stream.traffic();
                let mut connection = Connection::connect(stream, &login(), LIMITS).await?;
                select_seven(&mut connection)
                    .await
                    .map(|_| traffic.written())
            };
            let outcome = tokio::time::timeout(Duration::from_mins(1), session).await;
            match outcome.expect("it must not hang") {
                Ok(written) => assert_eq!((written, write_limit), (WRITTEN, WRITTEN)),
                Err(error) => {
                    let fits = match cut {
                        Cut::Stall => matches!(error, Error::Timeout(_)),
                        Cut::Close | Cut::Reset => matches!(error, Error::Io(_)),
                    };
                    assert!(
                        fits && write_limit < WRITTEN,
                        "{cut:?} {write_limit}: {error:?}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn if_writing_fails_the_servers_own_error_is_returned() {
    let shutdown = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0");
    let (client, _server) = scripted(&[LOGIN.concat(), shutdown].concat()).await;
    // The startup message and a part of the statement are written.
    let stream = FaultyStream::new(
        client,
        Faults {
            write_limit: 120,
            ..Faults::default()
        },
    );
    let mut connection = Connection::connect(stream, &login(), LIMITS).await.unwrap();
    let error = select_seven(&mut connection).await.unwrap_err();
    assert_eq!(error.sqlstate().unwrap().as_str(), "57P01");
}

#[tokio::test]
async fn sending_receives_what_a_blocked_server_sends() {
    // Each direction buffers 1 KiB. The server sends 90 KB before it reads and the client sends
    // 200 KB: they would wait for each other forever.
    let row = message(b'D', &[&b"\0\x01\0\0\x0f\xa0"[..], &[7; 4_000]].concat());
    let first = [
        [PARSED, BOUND, ONE_INT4].concat(),
        row.repeat(22),
        SELECTED.to_vec(),
    ]
    .concat();
    let script = [LOGIN.concat(), first, READY.to_vec(), STATEMENT.concat()].concat();
    let (client, mut server) = duplex(1024);
    let server = tokio::spawn(async move {
        server.write_all(&script).await.unwrap();
        let mut said = Vec::new();
        server.read_to_end(&mut said).await.unwrap();
        said.len()
    });
    let mut connection = Connection::connect(client, &login(), LIMITS).await.unwrap();
    let large = "x".repeat(200_000);
    connection.queue("FETCH 22 FROM peek", &[]).unwrap();
    connection
        .queue("SELECT $1", &[Param::Text(&large)])
        .unwrap();
    connection.send().await.unwrap();
    let mut rows = 0;
    while connection.next_row().await.unwrap().is_some() {
        rows += 1;
    }
    assert_eq!(rows, 22);
    assert_eq!(connection.finish().await.unwrap(), 1);
    connection.close().await;
    assert!(server.await.unwrap() > large.len());
}

#[tokio::test]
async fn sending_does_not_receive_more_than_the_limit() {
    let row = message(b'D', &[&b"\0\x01\0\0\x0f\xa0"[..], &[7; 4_000]].concat());
    let (client, mut server) = duplex(1024);
    let server = tokio::spawn(async move {
        server.write_all(&LOGIN.concat()).await.unwrap();
        let mut sent = 0;
        while server.write_all(&row).await.is_ok() {
            sent += row.len();
        }
        sent
    });
    let mut connection = Connection::connect(client, &login(), LIMITS).await.unwrap();
    connection
        .queue("SELECT $1", &[Param::Text(&"x".repeat(200_000))])
        .unwrap();
    let error = connection.send().await.unwrap_err();
    assert!(
        matches!(error, Error::ResultTooLarge { max: 100_000 }),
        "{error:?}"
    );
    drop(connection);
    assert!(server.await.unwrap() < 200_000);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_continues_where_it_stopped() {
    let (client, mut server) = duplex(16);
    let mut connection = {
        let (script, login) = (LOGIN.concat(), login());
        let (connected, ()) = tokio::join!(Connection::connect(client, &login, LIMITS), async {
            server.write_all(&script).await.unwrap();
            let mut startup = [0; STARTUP_BYTES];
            server.read_exact(&mut startup).await.unwrap();
        });
        connected.unwrap()
    };
    connection.queue("SELECT $1", &[Param::Int4(7)]).unwrap();
    let moment = Duration::from_millis(10);
    // The socket's buffer is full after 16 bytes.
    tokio::time::timeout(moment, connection.send())
        .await
        .unwrap_err();
    let (sent, said) = tokio::join!(connection.send(), async {
        let mut said = [0; 69];
        server.read_exact(&mut said).await.unwrap();
        said
    });
    sent.unwrap();
    assert_eq!((said[0], &said[64..]), (b'P', &b"S\0\0\0\x04"[..]));
    for byte in STATEMENT.concat() {
        let waiting = tokio::time::timeout(moment, connection.next_row()).await;
        match waiting {
            Err(_) => {}
            Ok(Ok(Some(row))) => assert_eq!(row.get::<i32>(0).unwrap(), 7),
            Ok(other) => panic!("{other:?}"),
        }
        server.write_all(&[byte]).await.unwrap();
    }
    assert!(connection.next_row().await.unwrap().is_none());
}
