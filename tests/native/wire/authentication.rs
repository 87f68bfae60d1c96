//! Logs in to clusters whose `pg_hba.conf` requires each method.

use std::fmt::Write as _;

use crate::support::cluster::Cluster;
use crate::support::server::{Version, connect, open_socket};
use pg_change_feed::error::{Category, Error as FeedError};
use pg_change_feed::postgres::{
    AuthenticationError, Connection, DatabaseUrl, Error, Limits, Login, TransactionStatus,
};
use tokio::net::TcpStream;

/// A user for each method, with a password that is easily mangled.
const USERS: [(&str, &str, &str); 3] = [
    ("cleartext_user", "password", "pa ss'\"\\@/\u{e4}\u{1f600}"),
    ("md5_user", "md5", "%41:#?"),
    // SASLprep turns the non-breaking space into a space on both sides.
    ("scram_user", "scram-sha-256", "I\u{a0}X \u{2168}"),
];

async fn cluster_with_users(version: Version) -> Cluster {
    let cluster = Cluster::start(version);
    let mut admin = connect(&cluster.url().parse().unwrap()).await;
    for (user, method, password) in USERS {
        let encryption = if method == "md5" {
            "md5"
        } else {
            "scram-sha-256"
        };
        let set = format!("SET password_encryption = '{encryption}'");
        admin.execute(&set, &[]).await.unwrap();
        let password = postgres_protocol::escape::escape_literal(password);
        let create = format!("CREATE ROLE {user} LOGIN PASSWORD {password}");
        admin.execute(&create, &[]).await.unwrap();
    }
    admin
        .execute("CREATE ROLE nobody_known LOGIN", &[])
        .await
        .unwrap();
    admin.close().await;
    let mut rules = String::from("host all postgres 127.0.0.1/32 trust\n");
    for (user, method, _) in USERS {
        writeln!(rules, "host all {user} 127.0.0.1/32 {method}").unwrap();
    }
    cluster.write_file("pg_hba.conf", &rules);
    cluster.reload();
    cluster
}

async fn log_in(cluster: &Cluster, login: &Login) -> Result<Connection<TcpStream>, Error> {
    let url: DatabaseUrl = cluster.url().parse().unwrap();
    Connection::connect(open_socket(&url).await, login, Limits::default()).await
}

async fn each_method_accepts_only_the_right_password(version: Version) {
    let cluster = cluster_with_users(version).await;
    for (user, _, password) in USERS {
        let login = Login::new(user, password, "postgres");
        let mut connection = log_in(&cluster, &login).await.unwrap();
        assert_eq!(connection.transaction_status(), TransactionStatus::Idle);
        let rows = connection.query("SELECT current_user", &[]).await.unwrap();
        assert_eq!(rows[0].get::<&str>(0).unwrap(), user);
        connection.close().await;

        let wrong = Login::new(user, "wrong", "postgres");
        let error = log_in(&cluster, &wrong).await.err().unwrap();
        assert_eq!(error.sqlstate().unwrap().as_str(), "28P01", "{user}");
        assert_eq!(FeedError::from(error).category(), Category::Authentication);

        let none = Login {
            password: None,
            ..login
        };
        let error = log_in(&cluster, &none).await.err().unwrap();
        let Error::Authentication(cause) = &error else {
            panic!("{error:?}");
        };
        assert!(
            matches!(cause, AuthenticationError::PasswordRequired),
            "{cause:?}"
        );
    }
    // pg_hba.conf has no rule for this user; then the database does not exist.
    let error = log_in(&cluster, &Login::new("nobody_known", "x", "postgres"))
        .await
        .err()
        .unwrap();
    assert_eq!(error.sqlstate().unwrap().as_str(), "28000");
    assert_eq!(FeedError::from(error).category(), Category::Authentication);
    let error = log_in(&cluster, &Login::new("postgres", "x", "missing"))
        .await
        .err()
        .unwrap();
    assert_eq!(error.sqlstate().unwrap().as_str(), "3D000");
    assert_eq!(FeedError::from(error).category(), Category::Configuration);
}

on_each_version!(each_method_accepts_only_the_right_password);
