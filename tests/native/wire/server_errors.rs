//! Errors of real servers, cancelled statements, and sessions that end.

use std::time::Duration;

use pg_change_feed::error::{Category, Error as FeedError};
use pg_change_feed::postgres::{
    Connection, DatabaseUrl, Error, Limits, Login, Param, SqlState, TransactionStatus,
};
use tokio::net::TcpStream;

use crate::support::cluster::Cluster;
use crate::support::server::{Database, Version, connect, open_socket, superuser};

async fn error_of(connection: &mut Connection<TcpStream>, sql: &str) -> Error {
    let error = connection.execute(sql, &[]).await.expect_err(sql);
    let next = connection.execute("SELECT 1", &[]).await.unwrap_err();
    assert!(matches!(next, Error::Broken), "{next:?} after {error:?}");
    error
}

async fn errors_have_their_sqlstate_and_category(version: Version) {
    let database = Database::create(version).await;
    let url = database.url();
    for (sql, state, category) in [
        ("SELECT * FROM missing", "42P01", Category::Query),
        ("SELEKT", "42601", Category::Query),
        ("SELECT 1; SELECT 2", "42601", Category::Query),
        (
            "SELECT pg_replication_slot_advance('missing', '0/1')",
            "42704",
            Category::Query,
        ),
        ("SELECT 1/0", "22012", Category::Query),
        ("SET ROLE pg_monitor; ", "", Category::Query),
        (
            "DO $$ BEGIN RAISE insufficient_privilege; END $$",
            "42501",
            Category::Permission,
        ),
        (
            "DO $$ BEGIN RAISE object_in_use; END $$",
            "55006",
            Category::SlotInUse,
        ),
        (
            "DO $$ BEGIN RAISE too_many_connections; END $$",
            "53300",
            Category::Connection,
        ),
    ] {
        let mut connection = connect(&url).await;
        if state.is_empty() {
            // With a role that lacks the right.
            connection
                .execute(sql.trim_end_matches("; "), &[])
                .await
                .unwrap();
            let error = error_of(&mut connection, "CREATE TABLE no (id int)").await;
            assert_eq!(error.sqlstate(), Some(SqlState::INSUFFICIENT_PRIVILEGE));
            assert_eq!(FeedError::from(error).category(), Category::Permission);
            continue;
        }
        let error = error_of(&mut connection, sql).await;
        assert_eq!(error.sqlstate().unwrap().as_str(), state, "{sql}");
        let error = FeedError::from(error);
        assert_eq!(
            (error.category(), error.sqlstate()),
            (category, Some(state)),
            "{sql}"
        );
        connection.close().await;
    }
}

async fn errors_never_show_values(version: Version) {
    let database = Database::create(version).await;
    let mut connection = database.connect().await;
    let sql = "CREATE TABLE account (id int, email text CONSTRAINT one_each UNIQUE)";
    connection.execute(sql, &[]).await.unwrap();
    let sql = "INSERT INTO account VALUES (1, $1)";
    let secret = Param::Text("eve@example.com");
    connection.execute(sql, &[secret]).await.unwrap();
    let error = connection.execute(sql, &[secret]).await.unwrap_err();
    assert!(error.server().unwrap().message().contains("one_each"));

    let mut second = database.connect().await;
    let sql = "SELECT email::int FROM account";
    let data_error = second.execute(sql, &[]).await.unwrap_err();
    assert!(
        data_error
            .server()
            .unwrap()
            .message()
            .contains("eve@example.com")
    );

    for error in [error, data_error] {
        let shown = format!("{error} {error:?}");
        let feed_error = FeedError::from(error);
        let shown = format!(
            "{shown} {feed_error} {feed_error:?} {:?}",
            feed_error.remedy()
        );
        assert!(!shown.contains("eve"), "{shown}");
    }
}

async fn a_failed_statement_skips_the_statements_pipelined_after_it(version: Version) {
    let database = Database::create(version).await;
    let mut connection = database.connect().await;
    connection
        .execute("CREATE TABLE item (id int)", &[])
        .await
        .unwrap();
    for sql in [
        "BEGIN",
        "INSERT INTO item VALUES (1)",
        "SELECT 1/0",
        "COMMIT",
    ] {
        connection.queue(sql, &[]).unwrap();
    }
    connection.send().await.unwrap();
    connection.finish().await.unwrap();
    connection.finish().await.unwrap();
    assert_eq!(
        connection.transaction_status(),
        TransactionStatus::InTransaction
    );
    let error = connection.finish().await.unwrap_err();
    assert_eq!(error.sqlstate().unwrap().as_str(), "22012");
    assert!(matches!(
        connection.finish().await.unwrap_err(),
        Error::Broken
    ));
    connection.close().await;
    let mut connection = database.connect().await;
    assert!(
        connection
            .query("SELECT FROM item", &[])
            .await
            .unwrap()
            .is_empty()
    );
    connection.close().await;
}

async fn slow_statements_are_ended_by_the_server_or_the_client(version: Version) {
    let url = superuser(version);
    let mut connection = connect(&url).await;
    connection
        .execute("SET statement_timeout = 50", &[])
        .await
        .unwrap();
    let error = error_of(&mut connection, "SELECT pg_sleep(60)").await;
    assert_eq!(error.sqlstate().unwrap().as_str(), "57014");
    assert_eq!(FeedError::from(error).category(), Category::Timeout);

    let limits = Limits {
        read_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let socket = open_socket(&url).await;
    let mut connection = Connection::connect(socket, &url.login, limits)
        .await
        .unwrap();
    let error = error_of(&mut connection, "SELECT pg_sleep(60)").await;
    assert!(matches!(error, Error::Timeout(_)), "{error:?}");
    assert_eq!(FeedError::from(error).category(), Category::Timeout);
    connection.close().await;
}

/// The process that serves `connection`.
async fn process_of(connection: &mut Connection<TcpStream>) -> i32 {
    let rows = connection
        .query("SELECT pg_backend_pid()", &[])
        .await
        .unwrap();
    rows[0].get(0).unwrap()
}

async fn a_terminated_session_returns_the_servers_error(version: Version) {
    let url = superuser(version);
    let mut admin = connect(&url).await;
    let terminate = "SELECT pg_terminate_backend($1, 10000)";
    let mut admin_says = async |process| {
        let rows = admin
            .query(terminate, &[Param::Int4(process)])
            .await
            .unwrap();
        assert!(rows[0].get::<bool>(0).unwrap());
    };

    // In the middle of its rows: those before the sleep exceed the server's send buffer.
    let mut busy = connect(&url).await;
    let process = process_of(&mut busy).await;
    let sql = "SELECT repeat('x', 1000), CASE WHEN n = 100 THEN pg_sleep(60) END \
        FROM generate_series(1, 200) AS n";
    busy.queue(sql, &[]).unwrap();
    busy.send().await.unwrap();
    assert!(busy.next_row().await.unwrap().is_some());
    let read_on = async {
        loop {
            if let Err(error) = busy.next_row().await {
                break error;
            }
        }
    };
    let ((), error) = tokio::join!(admin_says(process), read_on);
    assert_eq!(error.sqlstate().unwrap().as_str(), "57P01");
    assert_eq!(FeedError::from(error).category(), Category::Connection);

    // While it is idle: the next statement fails.
    let mut idle = connect(&url).await;
    let process = process_of(&mut idle).await;
    admin
        .query(terminate, &[Param::Int4(process)])
        .await
        .unwrap();
    let error = error_of(&mut idle, "SELECT 1").await;
    assert_eq!(error.sqlstate().unwrap().as_str(), "57P01");
    admin.close().await;
}

async fn a_crashed_server_is_a_connection_error(version: Version) {
    let cluster = Cluster::start(version);
    let url: DatabaseUrl = cluster.url().parse().unwrap();
    let mut connection = connect(&url).await;
    connection.queue("SELECT pg_sleep(60)", &[]).unwrap();
    connection.send().await.unwrap();
    cluster.crash();
    let error = connection.finish().await.unwrap_err();
    assert_eq!(FeedError::from(error).category(), Category::Connection);
    cluster.start_again();
    let mut connection = connect(&url).await;
    assert_eq!(connection.execute("SELECT 1", &[]).await.unwrap(), 1);
    connection.close().await;
}

async fn a_full_server_is_a_connection_error(version: Version) {
    let settings = [
        ("max_connections", "3"),
        ("superuser_reserved_connections", "0"),
    ];
    let cluster = Cluster::start_with(
        version,
        &[&settings[..], &[("max_wal_senders", "0")]].concat(),
    );
    let url: DatabaseUrl = cluster.url().parse().unwrap();
    let mut connections = Vec::new();
    let error = loop {
        let socket = open_socket(&url).await;
        let login = Login::new("postgres", "", "postgres");
        match Connection::connect(socket, &login, Limits::default()).await {
            Ok(connection) => connections.push(connection),
            Err(error) => break error,
        }
        assert!(connections.len() <= 3);
    };
    assert_eq!(error.sqlstate().unwrap().as_str(), "53300");
    let error = FeedError::from(error);
    assert_eq!(
        (error.category(), error.code()),
        (Category::Connection, "too_many_connections")
    );
}

on_each_version!(
    errors_have_their_sqlstate_and_category,
    errors_never_show_values,
    a_failed_statement_skips_the_statements_pipelined_after_it,
    slow_statements_are_ended_by_the_server_or_the_client,
    a_terminated_session_returns_the_servers_error,
    a_crashed_server_is_a_connection_error,
    a_full_server_is_a_connection_error,
);
