//! Statements, parameters and results with real servers.

use pg_change_feed::lsn::Lsn;
use pg_change_feed::postgres::{
    ArrayParam, Element, Error, FromColumn, Param, Row, TransactionStatus, ValueError,
    escape_identifier,
};

use crate::support::server::{Database, Version, connect, superuser};

/// Runs a statement that returns one row with one value.
async fn value_of(version: Version, sql: &str, params: &[Param<'_>]) -> Row {
    let mut connection = connect(&superuser(version)).await;
    let rows = connection.query(sql, params).await.unwrap();
    connection.close().await;
    assert_eq!((rows.len(), rows[0].len()), (1, 1), "{sql}");
    rows[0].clone()
}

async fn parameters_of_each_type_arrive_unchanged(version: Version) {
    let mut connection = connect(&superuser(version)).await;
    let text = "\u{1}\t\n'\"\\$1 \u{e4}\u{1f600}";
    for (param, as_text) in [
        (Param::Null, None),
        (Param::Int4(i32::MIN), Some("-2147483648")),
        (Param::Int8(i64::MAX), Some("9223372036854775807")),
        (Param::Text(text), Some(text)),
        (Param::Text(""), Some("")),
        (Param::Lsn(Lsn(0x16_B374_D848)), Some("16/B374D848")),
    ] {
        let rows = connection.query("SELECT $1::text", &[param]).await.unwrap();
        assert_eq!(
            rows[0].get::<Option<&str>>(0).unwrap(),
            as_text,
            "{param:?}"
        );
    }
    connection.close().await;
}

async fn arrays_of_each_type_arrive_unchanged(version: Version) {
    fn array(element: Element, push: impl Fn(&mut ArrayParam)) -> ArrayParam {
        let mut array = ArrayParam::new(element);
        array.push_text("is cleared again");
        array.clear();
        push(&mut array);
        array
    }
    let mut connection = connect(&superuser(version)).await;
    connection
        .execute("SET TimeZone = 'UTC'", &[])
        .await
        .unwrap();
    for (array, as_text) in [
        (array(Element::Int8, |_| {}), "{}"),
        (array(Element::Text, ArrayParam::push_null), "{NULL}"),
        (array(Element::Oid, |array| array.push_oid(7)), "{7}"),
        (
            array(Element::Int8, |array| {
                array.push_i64(i64::MIN);
                array.push_null();
                array.push_i64(1);
            }),
            "{-9223372036854775808,NULL,1}",
        ),
        (
            array(Element::Text, |array| {
                array.push_text("");
                array.push_text("NULL");
                array.push_bytes("\u{e4} \"\\".as_bytes());
            }),
            r#"{"","NULL","ä \"\\"}"#,
        ),
        (
            array(Element::Jsonb, |array| {
                array.push_text("{}");
                array.push_bytes(b"[1]");
                array.push_null();
            }),
            "{\"{}\",[1],NULL}",
        ),
        (
            array(Element::Timestamptz, |array| array.push_i64(0)),
            r#"{"2000-01-01 00:00:00+00"}"#,
        ),
    ] {
        let sql = "SELECT $1::text";
        let rows = connection
            .query(sql, &[Param::Array(&array)])
            .await
            .unwrap();
        assert_eq!(rows[0].get::<&str>(0).unwrap(), as_text);
    }
    connection.close().await;
}

async fn arrays_side_by_side_insert_as_rows(version: Version) {
    let database = Database::create(version).await;
    let mut connection = database.connect().await;
    let sql = "CREATE TABLE history (id int8, operation text, data jsonb, unchanged text[])";
    connection.execute(sql, &[]).await.unwrap();
    let mut ids = ArrayParam::new(Element::Int8);
    let mut operations = ArrayParam::new(Element::Text);
    let mut data = ArrayParam::new(Element::Jsonb);
    for id in 0..1_000 {
        ids.push_i64(id);
        operations.push_text("insert");
        data.push_text(&format!("{{\"n\": {id}}}"));
    }
    let sql = "INSERT INTO history (id, operation, data) SELECT * FROM unnest($1, $2, $3)";
    let params = [
        Param::Array(&ids),
        Param::Array(&operations),
        Param::Array(&data),
    ];
    assert_eq!(connection.execute(sql, &params).await.unwrap(), 1_000);
    let sql = "SELECT count(*), sum((data->>'n')::int8)::int8 FROM history WHERE id = any($1)";
    let rows = connection.query(sql, &[Param::Array(&ids)]).await.unwrap();
    assert_eq!(rows[0].get::<i64>(0).unwrap(), 1_000);
    assert_eq!(rows[0].get::<i64>(1).unwrap(), 499_500);
    connection.close().await;
}

async fn columns_of_each_type_are_read(version: Version) {
    async fn read<T>(version: Version, sql: &str) -> T
    where
        T: for<'a> FromColumn<'a>,
    {
        value_of(version, &format!("SELECT {sql}"), &[])
            .await
            .get(0)
            .unwrap()
    }
    assert!(read::<bool>(version, "true").await);
    assert!(!read::<bool>(version, "false").await);
    assert_eq!(read::<i32>(version, "-3").await, -3);
    assert_eq!(read::<i64>(version, "(-4)::int8").await, -4);
    assert_eq!(
        read::<i64>(version, "timestamptz '2000-01-01 00:00:01+00'").await,
        1_000_000
    );
    assert_eq!(
        read::<i64>(version, "timestamptz '-infinity'").await,
        i64::MIN
    );
    assert_eq!(read::<u32>(version, "4294967295::oid").await, u32::MAX);
    assert_eq!(read::<u32>(version, "'4294967295'::xid").await, u32::MAX);
    assert_eq!(
        read::<Lsn>(version, "'16/B374D848'::pg_lsn").await,
        Lsn(0x16_B374_D848)
    );
    for (sql, text) in [
        ("'ä'::text", "ä"),
        ("'ä'::varchar(3)", "ä"),
        ("'ä'::char(3)", "ä  "),
        ("'ä'::name", "ä"),
        ("'r'::\"char\"", "r"),
        ("'literal'", "literal"),
        ("'{\"a\" :1}'::json", "{\"a\" :1}"),
        ("'{\"a\" :1}'::jsonb", "{\"a\": 1}"),
    ] {
        assert_eq!(read::<String>(version, sql).await, text, "{sql}");
    }
    assert_eq!(
        read::<bytes::Bytes>(version, "'\\x00ff'::bytea").await,
        b"\0\xff"[..]
    );
    assert_eq!(read::<Option<i64>>(version, "null::int8").await, None);
    assert_eq!(read::<Option<i64>>(version, "5::int8").await, Some(5));
}

async fn a_column_read_as_another_type_is_an_error_and_the_connection_stays_usable(
    version: Version,
) {
    fn reason<T>(value: Result<T, Error>) -> (usize, ValueError) {
        match value.err().expect("it must not be read") {
            Error::Value { column, reason } => (column, reason),
            other => panic!("{other:?}"),
        }
    }
    let mut connection = connect(&superuser(version)).await;
    let rows = connection
        .query("SELECT 1, null::int4, 'x', '1'::money", &[])
        .await
        .unwrap();
    let row = &rows[0];
    let mistyped = |actual, wanted| ValueError::Type { actual, wanted };
    assert_eq!(
        reason(row.get::<i64>(0)),
        (0, mistyped(23, "int8 or timestamptz"))
    );
    assert_eq!(
        reason(row.get::<Option<bool>>(1)),
        (1, mistyped(23, "bool"))
    );
    assert_eq!(reason(row.get::<i32>(1)), (1, ValueError::Null));
    assert_eq!(reason(row.get::<&[u8]>(2)), (2, mistyped(25, "bytea")));
    assert_eq!(
        reason(row.get::<&str>(3)),
        (3, mistyped(790, "text or json"))
    );
    assert_eq!(reason(row.get::<i32>(4)), (4, ValueError::NoSuchColumn));
    assert_eq!(row.get::<i32>(0).unwrap(), 1);
    assert_eq!(connection.execute("SELECT 1", &[]).await.unwrap(), 1);
    connection.close().await;
}

async fn statements_return_how_many_rows_they_affected(version: Version) {
    let database = Database::create(version).await;
    let mut connection = database.connect().await;
    for (sql, count) in [
        ("CREATE TABLE item (id int)", 0),
        ("INSERT INTO item SELECT generate_series(1, 10)", 10),
        ("UPDATE item SET id = id WHERE id > 3", 7),
        ("DELETE FROM item WHERE id > 8", 2),
        ("SELECT * FROM item", 8),
        ("", 0),
        ("-- only a comment", 0),
    ] {
        assert_eq!(connection.execute(sql, &[]).await.unwrap(), count, "{sql}");
    }
    assert!(
        connection
            .query("SELECT WHERE false", &[])
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(connection.query("SELECT", &[]).await.unwrap()[0].len(), 0);
    connection.close().await;
}

async fn results_of_a_pipelined_transaction_arrive_in_order(version: Version) {
    let mut connection = connect(&superuser(version)).await;
    assert_eq!(connection.transaction_status(), TransactionStatus::Idle);
    connection.queue("BEGIN", &[]).unwrap();
    let declare = "DECLARE slices NO SCROLL CURSOR FOR SELECT n FROM generate_series(1, 5) AS n";
    connection.queue(declare, &[]).unwrap();
    for _ in 0..3 {
        connection.queue("FETCH 2 FROM slices", &[]).unwrap();
    }
    connection.send().await.unwrap();
    connection.queue("COMMIT", &[]).unwrap();
    assert_eq!(connection.finish().await.unwrap(), 0);
    assert_eq!(
        connection.transaction_status(),
        TransactionStatus::InTransaction
    );
    assert_eq!(connection.finish().await.unwrap(), 0);
    let mut slices = Vec::new();
    for _ in 0..2 {
        let mut slice = Vec::new();
        while let Some(row) = connection.next_row().await.unwrap() {
            slice.push(row.get::<i32>(0).unwrap());
        }
        slices.push(slice);
    }
    assert_eq!(slices, [vec![1, 2], vec![3, 4]]);
    assert_eq!(connection.finish().await.unwrap(), 1);
    connection.send().await.unwrap();
    connection.finish().await.unwrap();
    assert_eq!(connection.transaction_status(), TransactionStatus::Idle);
    connection.close().await;
}

async fn notices_arrive_beside_the_rows(version: Version) {
    let database = Database::create(version).await;
    let mut connection = database.connect().await;
    let sql = "CREATE FUNCTION tell(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
        RAISE NOTICE 'at %', n USING DETAIL = 'the row''s value', ERRCODE = '01234'; RETURN n;
        END $$";
    connection.execute(sql, &[]).await.unwrap();
    let sql = "SELECT tell(n) FROM generate_series(1, 40) AS n";
    assert_eq!(connection.query(sql, &[]).await.unwrap().len(), 40);
    let notices: Vec<_> = connection.take_notices().collect();
    // If there are too many, the newest are kept.
    assert_eq!(notices.len(), 32);
    let last = notices.last().unwrap();
    assert_eq!(last.message(), "at 40");
    assert_eq!(last.to_string(), "at 40 (SQLSTATE 01234)");
    connection.close().await;
}

async fn reported_parameters_follow_the_settings_of_the_session(version: Version) {
    let mut connection = connect(&superuser(version)).await;
    // The variables' names end with the version.
    let major = version.url_variable().rsplit('_').next().unwrap();
    assert!(
        connection
            .parameter("server_version")
            .unwrap()
            .starts_with(major)
    );
    assert_eq!(connection.parameter("client_encoding"), Some("UTF8"));
    assert_eq!(
        connection.parameter("application_name"),
        Some("pg-change-feed")
    );
    connection
        .execute("SET TimeZone = 'Asia/Kathmandu'", &[])
        .await
        .unwrap();
    assert_eq!(connection.parameter("TimeZone"), Some("Asia/Kathmandu"));
    let sql = "SELECT set_config('application_name', 'other', false) FROM generate_series(1, 3)";
    assert_eq!(connection.query(sql, &[]).await.unwrap().len(), 3);
    assert_eq!(connection.parameter("application_name"), Some("other"));
    assert_eq!(connection.parameter("no_such"), None);
    connection.close().await;
}

async fn notifications_are_ignored(version: Version) {
    let database = Database::create(version).await;
    let mut listener = database.connect().await;
    let mut notifier = database.connect().await;
    listener.execute("LISTEN news", &[]).await.unwrap();
    for _ in 0..10 {
        // Its own arrives before its ReadyForQuery, the other one at any time.
        listener.execute("NOTIFY news, 'own'", &[]).await.unwrap();
        notifier
            .execute("NOTIFY news, 'foreign'", &[])
            .await
            .unwrap();
        let rows = listener
            .query("SELECT generate_series(1, 3)", &[])
            .await
            .unwrap();
        assert_eq!(rows.len(), 3);
    }
    listener.close().await;
    notifier.close().await;
}

async fn any_name_can_be_quoted(version: Version) {
    let database = Database::create(version).await;
    let mut connection = database.connect().await;
    for name in [
        "we\"ird",
        "\"",
        "a; DROP TABLE b --",
        "\u{e4}\u{1f600}",
        "Upper Case",
        "$1",
        "'",
    ] {
        let quoted = escape_identifier(name);
        let sql = format!("CREATE TABLE {quoted} ({quoted} int)");
        connection.execute(&sql, &[]).await.unwrap();
        let sql = "SELECT count(*) FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid \
            WHERE relname = $1 AND attname = $1";
        let rows = connection.query(sql, &[Param::Text(name)]).await.unwrap();
        assert_eq!(rows[0].get::<i64>(0).unwrap(), 1, "{name}");
    }
    connection.close().await;
}

on_each_version!(
    parameters_of_each_type_arrive_unchanged,
    arrays_of_each_type_arrive_unchanged,
    arrays_side_by_side_insert_as_rows,
    columns_of_each_type_are_read,
    a_column_read_as_another_type_is_an_error_and_the_connection_stays_usable,
    statements_return_how_many_rows_they_affected,
    results_of_a_pipelined_transaction_arrive_in_order,
    notices_arrive_beside_the_rows,
    reported_parameters_follow_the_settings_of_the_session,
    notifications_are_ignored,
    any_name_can_be_quoted,
);
