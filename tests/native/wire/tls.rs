//! TLS with real servers. The client under test requests it and uses it. OpenSSL does the handshake
//! in between, as the platform does in Workers.

use std::path::Path;
use std::process::Stdio;

use pg_change_feed::postgres::{
    Connection, DatabaseUrl, Error, Limits, Negotiated, SslMode, negotiate_tls,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::support::cluster::Cluster;
use crate::support::server::{Version, connect, open_socket};

const OPENSSL_MISSING: &str = "this test needs the program openssl";

/// Installs a self-signed certificate for `localhost` in the cluster and turns on TLS.
async fn turn_tls_on(cluster: &Cluster) {
    let (key, certificate) = (
        cluster.data().join("made.key"),
        cluster.data().join("made.crt"),
    );
    let mut request = Command::new("openssl");
    request
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    let made = request
        .stderr(Stdio::null())
        .status()
        .await
        .expect(OPENSSL_MISSING);
    assert!(made.success());
    // Written by the cluster, so that its user owns them.
    for (made, name) in [(&key, "server.key"), (&certificate, "server.crt")] {
        cluster.write_file(name, &std::fs::read_to_string(made).unwrap());
    }
    let mut admin = connect(&cluster.url().parse().unwrap()).await;
    admin
        .execute("ALTER SYSTEM SET ssl = on", &[])
        .await
        .unwrap();
    admin.close().await;
    cluster.reload();
}

/// Starts a TLS client on the socket `raw`, on which the server expects the handshake. It encrypts its
/// standard input, and verifies the certificate with `authority`.
async fn start_tls(mut raw: TcpStream, authority: &Path) -> Child {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut tls_side, _) = listener.accept().await.unwrap();
        // It ends when either side does.
        let _ = tokio::io::copy_bidirectional(&mut tls_side, &mut raw).await;
    });
    Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-connect",
            &address,
            "-verify_return_error",
        ])
        .args(["-verify_hostname", "localhost", "-CAfile"])
        .arg(authority)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect(OPENSSL_MISSING)
}

async fn a_session_uses_tls_if_the_server_has_it(version: Version) {
    let cluster = Cluster::start(version);
    let url: DatabaseUrl = cluster.url().parse().unwrap();
    let limit = Limits::default().read_timeout;

    // If the server has no TLS, only `prefer` continues, on the same socket.
    let socket = open_socket(&url).await;
    let refused = negotiate_tls(socket, SslMode::Require, limit).await;
    assert!(matches!(refused, Err(Error::TlsRefused)), "{refused:?}");
    let socket = open_socket(&url).await;
    let plain = negotiate_tls(socket, SslMode::Prefer, limit).await.unwrap();
    let Negotiated::Plain(socket) = plain else {
        panic!("{plain:?}");
    };
    let connection = Connection::connect(socket, &url.login, Limits::default()).await;
    connection.unwrap().close().await;

    turn_tls_on(&cluster).await;
    // The server takes a moment to reload its configuration.
    let deadline = std::time::Instant::now() + limit;
    let socket = loop {
        let socket = open_socket(&url).await;
        match negotiate_tls(socket, SslMode::Require, limit).await {
            Ok(Negotiated::Tls(socket)) => break socket,
            outcome => assert!(std::time::Instant::now() < deadline, "{outcome:?}"),
        }
    };
    let mut tls = start_tls(socket, &cluster.data().join("server.crt")).await;
    let stream = tokio::io::join(tls.stdout.take().unwrap(), tls.stdin.take().unwrap());
    let mut connection = Connection::connect(stream, &url.login, Limits::default())
        .await
        .unwrap();
    let sql = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = connection.query_one(sql, &[]).await.unwrap();
    assert!(row.get::<bool>(0).unwrap());
    assert!(row.get::<&str>(1).unwrap().starts_with("TLSv1."));
    let sql = "SELECT repeat('x', 1000) FROM generate_series(1, 10000)";
    assert_eq!(connection.query(sql, &[]).await.unwrap().len(), 10_000);
    connection.close().await;
}

on_each_version!(a_session_uses_tls_if_the_server_has_it);
