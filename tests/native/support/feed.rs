//! A feed that belongs to one test: a database with the system's tables, a publication and a slot,
//! and readers that run cycles on it.

use std::time::{Duration, Instant};

use pg_change_feed::config::{OnSlotLost, ReplicationConfig};
use pg_change_feed::error::{Category, Error, Result};
use pg_change_feed::history::WriteMethod;
use pg_change_feed::polling::{self, Connector, CycleConfig, CycleState, Expect, Report};
use pg_change_feed::postgres::{Connection, DatabaseUrl, Limits};
use pg_change_feed::state::{self, Checkpoint, Resumption};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

use super::faulty_stream::{Faults, FaultyStream};
use super::server::{Database, Version, connect, open_socket};

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A database with a feed. Dropping it removes both.
pub struct TestFeed {
    /// How readers read it. Tests may change it.
    pub config: CycleConfig,
    /// Readers can open a second connection.
    pub allows_second_connection: bool,
    url: DatabaseUrl,
    database: Option<Database>,
}

impl TestFeed {
    /// Creates a feed in a new database of the running server. `tables` is SQL that is run first,
    /// and `publication` is what follows the name in `CREATE PUBLICATION`, such as `FOR ALL
    /// TABLES`.
    pub async fn create(version: Version, tables: &str, publication: &str) -> Self {
        let database = Database::create(version).await;
        let mut feed = Self::in_database(database.url(), tables, publication).await;
        feed.database = Some(database);
        feed
    }

    /// Creates a feed in an existing database, which is not dropped.
    pub async fn in_database(url: DatabaseUrl, tables: &str, publication: &str) -> Self {
        run_sql(&url, tables).await;
        run_sql(&url, &format!("CREATE PUBLICATION feed {publication}")).await;
        // Slots are named within the cluster, so the name of the database is used.
        let slot = url.login.database.clone();
        let mut connection = connect(&url).await;
        state::initialize(&mut connection, &config(&slot))
            .await
            .unwrap();
        // All tests cover both methods of writing: each on one of the versions of every run.
        let is_oldest = connection
            .parameter("server_version")
            .is_some_and(|version| version.starts_with("15"));
        connection.close().await;
        Self {
            config: CycleConfig {
                slot,
                publication: "feed".into(),
                max_changes: 10_000,
                max_row_bytes: 8 << 20,
                slice_bytes: 2 << 20,
                write_method: if is_oldest {
                    WriteMethod::Insert
                } else {
                    WriteMethod::Copy
                },
            },
            allows_second_connection: true,
            url,
            database: None,
        }
    }

    /// The superuser's login to the database.
    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// Logs in with `url` from now on. Returns the previous login.
    pub fn log_in_as(&mut self, url: DatabaseUrl) -> DatabaseUrl {
        std::mem::replace(&mut self.url, url)
    }

    /// An independent client, which can run several statements at once.
    pub async fn client(&self) -> tokio_postgres::Client {
        client(&self.url).await
    }

    /// Runs statements, each in a transaction of its own unless they say otherwise.
    pub async fn run(&self, sql: &str) {
        run_sql(&self.url, sql).await;
    }

    /// The first column of the first row, as text.
    pub async fn value(&self, sql: &str) -> String {
        let rows = self.client().await.simple_query(sql).await.unwrap();
        rows.iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// A reader that resumes from the database.
    pub async fn reader(&self) -> Reader<TcpStream> {
        let stream = open_socket(&self.url).await;
        Reader::resume(stream, self).await.unwrap()
    }

    /// A reader whose socket has faults. The login counts towards the limits.
    pub async fn faulty_reader(&self, faults: Faults) -> Result<Reader<FaultyStream<TcpStream>>> {
        let stream = FaultyStream::new(open_socket(&self.url).await, faults);
        Reader::resume(stream, self).await
    }

    /// As [`Self::drain`], while another session may still read the slot: that of a client that has
    /// just gone, or of another reader. Returns the checkpoint. `kept` is the connection, which is
    /// reused from one call to the next.
    pub async fn drain_among_others(&self, kept: &mut Option<Connection<TcpStream>>) -> Checkpoint {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let connection = match kept.take() {
                Some(connection) => connection,
                None => connect(&self.url).await,
            };
            let drained = async {
                let connector = TestConnector::of(self, std::convert::identity);
                let mut reader = Reader::resume_on(connection, &self.config, connector).await?;
                reader.drain().await?;
                Ok::<_, Error>(reader)
            };
            match drained.await {
                Ok(reader) => {
                    *kept = Some(reader.connection);
                    return reader.cycle.checkpoint;
                }
                Err(error) if error.category() == Category::SlotInUse => {
                    assert!(Instant::now() < deadline, "{error}");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => panic!("{error}: {error:?}"),
            }
        }
    }

    /// Reads with a new reader until everything is stored. Returns the number of changes stored.
    pub async fn drain(&self) -> u64 {
        let mut reader = self.reader().await;
        let stored = reader.drain().await.unwrap();
        reader.connection.close().await;
        stored
    }
}

/// A socket whose faults, if it has any, apply to further sockets too.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Sized {
    /// Returns a function that wraps a connected socket in the same way.
    fn wrapper(&self) -> impl Fn(TcpStream) -> Self + 'static;
}

impl Socket for TcpStream {
    fn wrapper(&self) -> impl Fn(TcpStream) -> Self + 'static {
        std::convert::identity
    }
}

impl Socket for FaultyStream<TcpStream> {
    fn wrapper(&self) -> impl Fn(TcpStream) -> Self + 'static {
        self.share_faults()
    }
}

/// Opens the second connection of a cycle with a backlog.
pub struct TestConnector<S> {
    url: Option<DatabaseUrl>,
    wrap: Box<dyn Fn(TcpStream) -> S>,
}

impl<S> TestConnector<S> {
    fn of(feed: &TestFeed, wrap: impl Fn(TcpStream) -> S + 'static) -> Self {
        Self {
            url: feed.allows_second_connection.then(|| feed.url.clone()),
            wrap: Box::new(wrap),
        }
    }

    /// Opens none from now on.
    pub fn refuse(&mut self) {
        self.url = None;
    }
}

impl<S: Socket> Connector for TestConnector<S> {
    type Stream = S;

    async fn connect(&self) -> Result<Connection<S>> {
        let Some(url) = &self.url else {
            let message = "the test allows no second connection";
            return Err(Error::new(Category::Connection, "refused", message));
        };
        let stream = (self.wrap)(open_socket(url).await);
        Ok(Connection::connect(stream, &url.login, Limits::default()).await?)
    }
}

/// A connection and the state of its cycles.
pub struct Reader<S> {
    /// Where the cycles run.
    pub connection: Connection<S>,
    /// Opens their second connection.
    pub connector: TestConnector<S>,
    /// What they pass on from one to the next.
    pub cycle: CycleState,
    /// What they read.
    pub config: CycleConfig,
}

impl<S: Socket> Reader<S> {
    /// Logs in and reads the position from the database, as an object does when it starts. Fails if
    /// changes were lost.
    pub async fn resume(stream: S, feed: &TestFeed) -> Result<Self> {
        let connector = TestConnector::of(feed, stream.wrapper());
        let limits = Limits::default();
        let connection = Connection::connect(stream, &feed.url.login, limits).await?;
        Self::resume_on(connection, &feed.config, connector).await
    }

    /// As [`Self::resume`], on an existing connection.
    async fn resume_on(
        mut connection: Connection<S>,
        config: &CycleConfig,
        connector: TestConnector<S>,
    ) -> Result<Self> {
        let resumption = Resumption {
            slot: &config.slot,
            publication: &config.publication,
            last_known: None,
            publication_was_missing: false,
            on_slot_lost: OnSlotLost::Halt,
        };
        let resumed = state::resume(&mut connection, resumption).await?;
        let database = resumed.database;
        let mut cycle = CycleState::new(database.checkpoint);
        cycle.may_log_snapshots = database.server.may_log_snapshots;
        cycle.publication = Some(resumed.publication);
        cycle.feed_tables = resumed.feed_tables;
        Ok(Self {
            connection,
            connector,
            cycle,
            config: config.clone(),
        })
    }

    /// Logs in and goes on from a known checkpoint without reading the database.
    pub async fn resume_at(stream: S, feed: &TestFeed, checkpoint: Checkpoint) -> Result<Self> {
        let connector = TestConnector::of(feed, stream.wrapper());
        let limits = Limits::default();
        let connection = Connection::connect(stream, &feed.url.login, limits).await?;
        Ok(Self {
            connection,
            connector,
            cycle: CycleState::new(checkpoint),
            config: feed.config.clone(),
        })
    }

    /// Runs one cycle.
    pub async fn poll(&mut self) -> Result<Report> {
        self.poll_expecting(Expect::Nothing).await
    }

    /// Runs one cycle with what its caller expects.
    pub async fn poll_expecting(&mut self, expect: Expect) -> Result<Report> {
        let (connection, cycle) = (&mut self.connection, &mut self.cycle);
        let polled = polling::run(connection, &self.connector, &self.config, cycle, expect).await?;
        let (mut report, advance) = polled;
        advance.finish(connection, cycle, &mut report).await;
        Ok(report)
    }

    /// Runs cycles until one is complete. Returns the number of changes stored.
    pub async fn drain(&mut self) -> Result<u64> {
        let mut stored = 0;
        loop {
            let report = self.poll().await?;
            stored += report.stored;
            if let Some(error) = report.advance_error {
                return Err(error);
            }
            if report.complete {
                return Ok(stored);
            }
        }
    }
}

/// The configuration of a feed on `slot`.
pub fn config(slot: &str) -> ReplicationConfig {
    let given = json!({ "slot": slot, "publication": "feed" });
    let given = given.as_object().unwrap();
    ReplicationConfig::from_fields(&serde_json::Map::new(), given).unwrap()
}

/// An independent client.
pub async fn client(url: &DatabaseUrl) -> tokio_postgres::Client {
    try_client(url).await.unwrap()
}

/// An independent client of a server that may be down.
pub async fn try_client(
    url: &DatabaseUrl,
) -> std::result::Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut settings = tokio_postgres::Config::new();
    settings
        .host(&url.host)
        .port(url.port)
        .user(&url.login.user)
        .dbname(&url.login.database);
    if let Some(password) = &url.login.password {
        settings.password(password);
    }
    let (client, connection) = settings.connect(NoTls).await?;
    // The task ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

async fn run_sql(url: &DatabaseUrl, sql: &str) {
    client(url).await.batch_execute(sql).await.unwrap();
}
