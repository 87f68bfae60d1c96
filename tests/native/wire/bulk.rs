//! Large amounts of data in both directions, with real servers.

use std::time::Duration;

use bytes::Bytes;
use pg_change_feed::error::{Category, Error as FeedError};
use pg_change_feed::lsn::Lsn;
use pg_change_feed::postgres::{Connection, Error, Limits, Param};

use crate::support::faulty_stream::{Cut, Faults, FaultyStream};
use crate::support::server::{Database, Version, connect, copy_in, open_socket, superuser};

const MIB: usize = 1 << 20;

async fn large_rows_arrive_whole_up_to_the_limit(version: Version) {
    let url = superuser(version);
    let mut connection = connect(&url).await;
    let sql = "SELECT repeat('x', $1)::bytea FROM generate_series(1, 3)";
    let size = i32::try_from(8 * MIB).unwrap();
    let rows = connection.query(sql, &[Param::Int4(size)]).await.unwrap();
    for row in &rows {
        let value: &[u8] = row.get(0).unwrap();
        assert!(value.len() == 8 * MIB && value.iter().all(|&byte| byte == b'x'));
    }
    assert_eq!(rows.len(), 3);
    // Four of them exceed the limit of a result, and one of 17 MiB that of a message.
    let sql = "SELECT repeat('x', $1)::bytea FROM generate_series(1, 4)";
    let error = connection
        .query(sql, &[Param::Int4(size)])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::ResultTooLarge { .. }), "{error:?}");
    let mut connection = connect(&url).await;
    let size = i32::try_from(17 * MIB).unwrap();
    let error = connection
        .query(sql, &[Param::Int4(size)])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::MessageTooLarge { .. }), "{error:?}");
}

async fn rows_can_be_streamed_beyond_every_limit(version: Version) {
    let url = superuser(version);
    let limits = Limits {
        max_result_bytes: MIB,
        max_message_bytes: MIB,
        ..Limits::default()
    };
    let socket = open_socket(&url).await;
    let mut connection = Connection::connect(socket, &url.login, limits)
        .await
        .unwrap();
    connection
        .queue(
            "SELECT n, repeat('x', 1000) FROM generate_series(1::int8, 50000) AS n",
            &[],
        )
        .unwrap();
    connection.send().await.unwrap();
    let mut expected = 1;
    while let Some(row) = connection.next_row().await.unwrap() {
        assert_eq!(row.get::<i64>(0).unwrap(), expected);
        assert_eq!(row.get::<&str>(1).unwrap().len(), 1000);
        expected += 1;
    }
    assert_eq!(expected, 50_001);
    connection.close().await;
}

async fn a_large_write_passes_a_large_result(version: Version) {
    let url = superuser(version);
    // No kernel buffer holds a tenth of either side's data: unless each side reads while it writes,
    // both wait forever.
    let data = "x".repeat(40 * MIB);
    let limits = Limits {
        max_result_bytes: 64 * MIB,
        ..Limits::default()
    };
    let socket = open_socket(&url).await;
    let mut connection = Connection::connect(socket, &url.login, limits)
        .await
        .unwrap();
    let fetch = "SELECT repeat('x', 1000) FROM generate_series(1, 40000)";
    let exchange = async {
        connection.queue(fetch, &[]).unwrap();
        connection
            .queue("SELECT length($1)", &[Param::Text(&data)])
            .unwrap();
        connection.queue(fetch, &[]).unwrap();
        connection.send().await.unwrap();
        assert_eq!(connection.finish().await.unwrap(), 40_000);
        let row = connection.next_row().await.unwrap().unwrap();
        assert_eq!(row.get::<i32>(0).unwrap(), 41_943_040);
        assert_eq!(connection.finish().await.unwrap(), 1);
        assert_eq!(connection.finish().await.unwrap(), 40_000);
    };
    let done = tokio::time::timeout(Duration::from_mins(1), exchange).await;
    done.expect("both sides wait for each other");
    connection.close().await;
}

async fn copies_arrive_whole_and_in_order(version: Version) {
    let database = Database::create(version).await;
    let mut connection = database.connect().await;
    connection
        .execute("CREATE TABLE item (id int8, name text)", &[])
        .await
        .unwrap();
    let copy = "COPY item FROM STDIN";
    assert_eq!(
        copy_in(&mut connection, copy, b"1\tone\n2\t\\N\n")
            .await
            .unwrap(),
        2
    );
    assert_eq!(copy_in(&mut connection, copy, b"").await.unwrap(), 0);

    // In a transaction, pipelined with other statements, in pieces that cut rows.
    connection.queue("BEGIN", &[]).unwrap();
    connection.queue_copy(copy).unwrap();
    let mut data = String::new();
    for id in 3..=100_000 {
        data += &id.to_string();
        data += "\tname\n";
    }
    for piece in data.as_bytes().chunks(99_999) {
        connection.queue_copy_data(piece).unwrap();
        connection.send().await.unwrap();
    }
    connection.queue_copy_end().unwrap();
    connection
        .queue("SELECT count(*), sum(id)::int8 FROM item", &[])
        .unwrap();
    connection.queue("COMMIT", &[]).unwrap();
    connection.send().await.unwrap();
    assert_eq!(connection.finish().await.unwrap(), 0);
    assert_eq!(connection.finish().await.unwrap(), 99_998);
    let row = connection.next_row().await.unwrap().unwrap();
    assert_eq!(row.get::<i64>(0).unwrap(), 100_000);
    assert_eq!(row.get::<i64>(1).unwrap(), 5_000_050_000);
    assert_eq!(connection.finish().await.unwrap(), 1);
    connection.finish().await.unwrap();
    connection.close().await;
}

async fn copies_that_fail_return_the_cause(version: Version) {
    let database = Database::create(version).await;
    let mut admin = database.connect().await;
    admin
        .execute("CREATE TABLE item (id int8)", &[])
        .await
        .unwrap();
    let garbage = vec![b'x'; 10 * MIB];
    for (sql, data, state) in [
        ("COPY item FROM STDIN", &b"1\nnot a number\n"[..], "22P02"),
        ("COPY missing FROM STDIN", &garbage, "42P01"),
        ("COPY item FROM STDIN", &garbage, "22P02"),
    ] {
        let mut connection = database.connect().await;
        let error = copy_in(&mut connection, sql, data).await.unwrap_err();
        assert_eq!(error.sqlstate().unwrap().as_str(), state, "{sql}");
        connection.close().await;
    }
    // Statements that are not a copy, and copies that are not ended.
    let mut connection = database.connect().await;
    let error = copy_in(&mut connection, "SELECT 1", b"x")
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    for out_of_turn in 0..3 {
        let mut connection = database.connect().await;
        connection.queue_copy("COPY item FROM STDIN").unwrap();
        connection.queue_copy_data(b"1\n").unwrap();
        connection.send().await.unwrap();
        let error = match out_of_turn {
            0 => connection.queue("SELECT 1", &[]).unwrap_err(),
            1 => connection.next_row().await.unwrap_err(),
            _ => connection.execute("SELECT 1", &[]).await.unwrap_err(),
        };
        assert!(matches!(error, Error::OutOfTurn(_)), "{error:?}");
        connection.close().await;
    }
    let mut connection = database.connect().await;
    let error = connection
        .execute("COPY item FROM STDIN", &[])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error:?}");
    connection.close().await;
    assert!(
        admin
            .query("SELECT FROM item", &[])
            .await
            .unwrap()
            .is_empty()
    );
    admin.close().await;
}

async fn a_slot_is_peeked_through_a_cursor(version: Version) {
    let database = Database::create(version).await;
    let mut connection = database.connect().await;
    // Slot names are unique in the cluster, as the name of the database is.
    let slot_name = database.url().login.database;
    let slot = Param::Text(&slot_name);
    for sql in [
        "CREATE TABLE item (id int PRIMARY KEY, name text)",
        "CREATE PUBLICATION every FOR TABLE item",
    ] {
        connection.execute(sql, &[]).await.unwrap();
    }
    let sql = "SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput')";
    let start: Lsn = connection.query(sql, &[slot]).await.unwrap()[0]
        .get(0)
        .unwrap();
    let sql = "INSERT INTO item SELECT n, 'name ' || n FROM generate_series(1, 5000) AS n";
    connection.execute(sql, &[]).await.unwrap();

    connection.queue("BEGIN", &[]).unwrap();
    let declare = "DECLARE peek NO SCROLL CURSOR FOR SELECT lsn, xid, data FROM \
        pg_logical_slot_peek_binary_changes($1, NULL, NULL, \
        'proto_version', '1', 'publication_names', 'every')";
    connection.queue(declare, &[slot]).unwrap();
    connection.send().await.unwrap();
    connection.finish().await.unwrap();
    connection.finish().await.unwrap();
    let mut tags = String::new();
    loop {
        connection.queue("FETCH 1000 FROM peek", &[]).unwrap();
        connection.send().await.unwrap();
        let before = tags.len();
        while let Some(row) = connection.next_row().await.unwrap() {
            assert!(row.get::<Lsn>(0).unwrap() >= start);
            assert!(row.get::<u32>(1).unwrap() > 0);
            let data: Bytes = row.get(2).unwrap();
            tags.push(char::from(data[0]));
        }
        if tags.len() == before {
            break;
        }
    }
    connection.execute("COMMIT", &[]).await.unwrap();
    assert_eq!(tags, format!("BR{}C", "I".repeat(5000)));
    connection
        .execute("SELECT pg_drop_replication_slot($1)", &[slot])
        .await
        .unwrap();
    connection.close().await;
}

async fn a_transaction_cut_anywhere_leaves_all_or_nothing(version: Version) {
    let database = Database::create(version).await;
    let url = database.url();
    let mut admin = database.connect().await;
    admin
        .execute("CREATE TABLE item (attempt int8)", &[])
        .await
        .unwrap();
    let mut attempt = 0;
    let mut done_without_cut = false;
    while !done_without_cut {
        for by_reads in [false, true] {
            let limit = u64::try_from(attempt * 61).unwrap();
            let mut faults = Faults {
                chunk: 13,
                cut: Cut::Close,
                ..Faults::default()
            };
            if by_reads {
                faults.read_limit = limit;
            } else {
                faults.write_limit = limit;
            }
            let stream = FaultyStream::new(open_socket(&url).await, faults);
            let session = async {
                let mut connection =
                    Connection::connect(stream, &url.login, Limits::default()).await?;
                for sql in [
                    "BEGIN",
                    "INSERT INTO item SELECT $1 FROM generate_series(1, 3)",
                    "COMMIT",
                ] {
                    let params = [Param::Int8(attempt)];
                    let params = if sql.starts_with("INSERT") {
                        &params[..]
                    } else {
                        &[]
                    };
                    connection.execute(sql, params).await?;
                }
                Ok::<_, Error>(())
            };
            match session.await {
                Ok(()) => done_without_cut = true,
                Err(error) => assert_eq!(FeedError::from(error).category(), Category::Connection),
            }
        }
        attempt += 1;
    }
    assert!(attempt > 5, "nothing was cut");
    let sql = "SELECT count(*) FROM item GROUP BY attempt";
    for row in admin.query(sql, &[]).await.unwrap() {
        let count = row.get::<i64>(0).unwrap();
        assert!(count % 3 == 0, "{count} of 3 rows");
    }
    admin.close().await;
}

on_each_version!(
    large_rows_arrive_whole_up_to_the_limit,
    rows_can_be_streamed_beyond_every_limit,
    a_large_write_passes_a_large_result,
    copies_arrive_whole_and_in_order,
    copies_that_fail_return_the_cause,
    a_slot_is_peeked_through_a_cursor,
    a_transaction_cut_anywhere_leaves_all_or_nothing,
);
