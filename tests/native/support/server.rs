//! The servers that the test run has started, and databases on them.

use std::sync::atomic::{AtomicU32, Ordering};

use pg_change_feed::postgres::{Connection, DatabaseUrl, Error, Limits, Param, escape_identifier};
use tokio::net::TcpStream;

/// A PostgreSQL version that tests run on: the oldest and the newest always, the others on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The oldest supported.
    V15,
    /// Only on demand.
    V16,
    /// Only on demand.
    V17,
    /// The newest.
    V18,
}

impl Version {
    /// The versions of every run.
    pub const ALL: [Self; 2] = [Self::V15, Self::V18];

    /// The variable with the superuser's URL of the running server.
    pub fn url_variable(self) -> &'static str {
        match self {
            Self::V15 => "TEST_POSTGRES_15",
            Self::V16 => "TEST_POSTGRES_16",
            Self::V17 => "TEST_POSTGRES_17",
            Self::V18 => "TEST_POSTGRES_18",
        }
    }

    /// The variable with the folder of `initdb`, `postgres` and `pg_ctl`.
    pub fn bin_variable(self) -> &'static str {
        match self {
            Self::V15 => "TEST_POSTGRES_BIN_15",
            Self::V16 => "TEST_POSTGRES_BIN_16",
            Self::V17 => "TEST_POSTGRES_BIN_17",
            Self::V18 => "TEST_POSTGRES_BIN_18",
        }
    }
}

/// The value of an environment variable that the test run sets.
pub fn required_variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run npm test"))
}

/// The superuser's login to the running server of a version.
pub fn superuser(version: Version) -> DatabaseUrl {
    required_variable(version.url_variable()).parse().unwrap()
}

/// A database that belongs to one test, on the running server of a version.
pub struct Database {
    url: DatabaseUrl,
    name: String,
}

impl Database {
    /// Creates an empty database.
    pub async fn create(version: Version) -> Self {
        Self::create_with(version, "").await
    }

    /// As [`Self::create`]. `options` is what follows the name in `CREATE DATABASE`.
    pub async fn create_with(version: Version, options: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let url = superuser(version);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("wire_{}_{number}", std::process::id());
        let database = Self { url, name };
        let mut admin = connect(&database.url).await;
        let name = escape_identifier(&database.name);
        let sql = format!("CREATE DATABASE {name} {options}");
        admin.execute(&sql, &[]).await.unwrap();
        admin.close().await;
        database
    }

    /// The superuser's URL of this database.
    pub fn url(&self) -> DatabaseUrl {
        let mut url = self.url.clone();
        url.login.database.clone_from(&self.name);
        url
    }

    /// A new connection to it.
    pub async fn connect(&self) -> Connection<TcpStream> {
        connect(&self.url()).await
    }
}

impl Drop for Database {
    /// Drops the database and its slots, even if it is in use.
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        let sql = format!(
            "DROP DATABASE {} WITH (FORCE)",
            escape_identifier(&self.name)
        );
        // A runtime cannot block inside of another one, and a test that fails must clean up too.
        let clean_up = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let mut admin = connect(&url).await;
                let drop_slots = "SELECT pg_drop_replication_slot(slot_name) \
                    FROM pg_replication_slots WHERE database = $1 AND NOT active";
                admin
                    .execute(drop_slots, &[Param::Text(&name)])
                    .await
                    .unwrap();
                admin.execute(&sql, &[]).await.unwrap();
                admin.close().await;
            });
        });
        let _ = clean_up.join();
    }
}

/// A socket to the server.
pub async fn open_socket(url: &DatabaseUrl) -> TcpStream {
    let socket = TcpStream::connect((url.host.as_str(), url.port))
        .await
        .unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// A connection, logged in.
pub async fn connect(url: &DatabaseUrl) -> Connection<TcpStream> {
    let socket = open_socket(url).await;
    Connection::connect(socket, &url.login, Limits::default())
        .await
        .unwrap()
}

/// Runs `COPY ... FROM STDIN` with all its data. Returns the number of rows copied.
pub async fn copy_in(
    connection: &mut Connection<TcpStream>,
    sql: &str,
    data: &[u8],
) -> Result<u64, Error> {
    connection.queue_copy(sql)?;
    connection.queue_copy_data(data)?;
    connection.queue_copy_end()?;
    connection.send().await?;
    connection.finish().await
}

/// Defines one test for each version from an `async fn(Version)`. Those for the versions between
/// the oldest and the newest run on demand: `cargo test on_16 -- --ignored`, with their
/// `TEST_POSTGRES_*` set.
#[allow(unused_macros, reason = "each test binary uses a part of this")]
macro_rules! on_each_version {
    ($($name:ident),* $(,)?) => {
        mod on_15 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::support::server::Version::V15).await;
            })*
        }
        mod on_16 {
            $(#[tokio::test]
            #[ignore = "on demand"]
            async fn $name() {
                super::$name(crate::support::server::Version::V16).await;
            })*
        }
        mod on_17 {
            $(#[tokio::test]
            #[ignore = "on demand"]
            async fn $name() {
                super::$name(crate::support::server::Version::V17).await;
            })*
        }
        mod on_18 {
            $(#[tokio::test]
            async fn $name() {
                super::$name(crate::support::server::Version::V18).await;
            })*
        }
    };
}
