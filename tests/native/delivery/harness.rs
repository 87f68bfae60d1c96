//! An engine, the changes that it is given, and the connection over which it reads pages.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use pg_change_feed::clients::{
    ClientId, ClientMessage, Position, SchemaHistory, SchemaStore, Start, Subscriptions,
    TableHistory, View,
};
use pg_change_feed::clock;
use pg_change_feed::config::TableName;
use pg_change_feed::delivery::{
    Answers, Consumer, ConsumerState, Cursor, Engine, Flow, Head, Sink, Work,
};
use pg_change_feed::error::Result;
use pg_change_feed::history::{Recent, StoredChange};
use pg_change_feed::postgres::{Connection, Limits, Stream};
use tokio::net::TcpStream;

use super::fake_sink::{Calls, FakeSink, inbox};
use crate::support::faulty_stream::{Faults, FaultyStream, Traffic};
use crate::support::feed::{PATIENCE, TestFeed};
use crate::support::server::{connect, open_socket};

/// A consumer of the tests.
pub type Client = Rc<Consumer<FakeSink>>;

/// The descriptions of tables, in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Rc<RefCell<HashMap<TableName, TableHistory>>>);

impl SchemaStore for MemoryStore {
    fn load(&self, table: &TableName) -> Result<Option<TableHistory>> {
        Ok(self.0.borrow().get(table).cloned())
    }

    fn save(&self, history: &TableHistory) -> Result<()> {
        let mut saved = self.0.borrow_mut();
        saved.insert(history.name(), history.clone());
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        self.0.borrow_mut().clear();
        Ok(())
    }
}

impl MemoryStore {
    /// An engine that knows the descriptions in the store; `through` is the last position up to
    /// which the feed was followed.
    pub fn engine(&self, through: Option<Position>) -> Engine<FakeSink> {
        let schemas = SchemaHistory::new(Box::new(self.clone()), through);
        Engine::new(schemas, || 0.0)
    }
}

/// An engine without table descriptions.
pub fn engine() -> Engine<FakeSink> {
    MemoryStore::default().engine(None)
}

/// The same, with another limit for everything that is unacknowledged.
pub fn engine_with_budget(shared_bytes: u64) -> Engine<FakeSink> {
    let schemas = SchemaHistory::new(Box::new(MemoryStore::default()), None);
    Engine::with_budget(schemas, || 0.0, shared_bytes)
}

/// A position of the first epoch.
pub fn at(id: i64) -> Position {
    Position { epoch: 1, id }
}

/// What a client that wants `wanted`, a list of subscriptions as JSON, gets; empty: everything.
pub fn view(wanted: &str) -> View {
    if wanted.is_empty() {
        return View::new(Subscriptions::AllTables, None).unwrap();
    }
    let frame = format!(r#"{{"type":"subscribe","subscriptions":{wanted}}}"#);
    match ClientMessage::parse(&frame).unwrap() {
        ClientMessage::Subscribe { wanted, .. } => View::new(wanted, None).unwrap(),
        ClientMessage::Ack(_) => panic!("not a subscription"),
    }
}

/// The state of a consumer that has just been added.
pub fn state(number: u64, view: View, cursor: Cursor) -> ConsumerState {
    ConsumerState {
        client: ClientId::random(),
        number,
        view: Rc::new(view),
        cursor,
        answers: None,
        connected_at: 0,
        expires_at: None,
        credential: None,
    }
}

/// A consumer that has just been added.
pub fn join(engine: &Engine<FakeSink>, view: View, start: Start, flow: Flow) -> Client {
    let state = state(engine.next_number(), view, Cursor::new(start, flow));
    add(engine, FakeSink::new(), state)
}

/// Adds a consumer, and persists it.
pub fn add(engine: &Engine<FakeSink>, sink: FakeSink, state: ConsumerState) -> Client {
    let consumer = engine.add(sink, state);
    consumer.persist();
    consumer
}

/// The same, with an unlimited window.
pub fn join_unlimited(engine: &Engine<FakeSink>, view: View, start: Start) -> Client {
    join(engine, view, start, Flow::Reconnects(u64::MAX))
}

/// A consumer that has caught up to `position` before the object's life began, and that was sent
/// its last frame long ago.
pub fn live_cursor(position: Position) -> Cursor {
    let long_ago = 0;
    serde_json::from_value(serde_json::json!({
        "s": "l", "at": position, "t": [position.id, long_ago],
    }))
    .unwrap()
}

/// A consumer with an answering sink that has caught up.
pub fn join_answering(
    engine: &Engine<FakeSink>,
    view: View,
    position: Position,
    calls: &Calls,
) -> Client {
    let state = ConsumerState {
        answers: Some(Answers::default()),
        ..state(engine.next_number(), view, live_cursor(position))
    };
    add(engine, FakeSink::answering(calls), state)
}

/// The same consumer in the object's next instance.
pub fn evict(consumer: &Client, next: &Engine<FakeSink>) -> Client {
    let sink = consumer.sink().clone();
    let state = ConsumerState::from_bytes(&sink.0.persisted.borrow()).unwrap();
    let evicted = serde_json::json!({"type": "evicted"});
    sink.0.frames.borrow_mut().push(evicted);
    let consumer = next.add(sink, state);
    consumer.mark_persisted();
    consumer
}

/// The client sends a message.
pub fn say(engine: &Engine<FakeSink>, consumer: &Client, text: &str) {
    engine.on_message(consumer, text, clock::now_ms(), |_| Ok(()));
}

/// The client acknowledges all that it was sent.
pub fn acknowledge(engine: &Engine<FakeSink>, consumer: &Client) {
    if let Some(position) = inbox(consumer).position() {
        let ack = format!(r#"{{"type":"ack","position":"{position}"}}"#);
        say(engine, consumer, &ack);
    }
}

/// Publishes a head without changes in memory.
pub fn publish<S: Sink>(engine: &Engine<S>, position: Position) {
    engine.publish(Head::at(position), clock::now_ms());
}

/// Does all the work that is due now.
pub async fn work<S: Sink, St: Stream>(engine: &Engine<S>, connection: &mut Connection<St>) {
    let deadline = Instant::now() + PATIENCE;
    while engine.work(clock::now_ms()) == Work::Now {
        engine.step(connection).await.unwrap();
        assert!(Instant::now() < deadline, "there is always more to do");
    }
}

/// Does work, despite failures, until `is_done`. Waits whenever the engine has to; each failure
/// costs a connection, as in production. Returns the errors of failed steps.
pub async fn work_until<S: Sink>(
    engine: &Engine<S>,
    feed: &TestFeed,
    mut is_done: impl FnMut() -> bool,
) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut connection = connect(feed.url()).await;
    let mut failures = Vec::new();
    while !is_done() {
        assert!(Instant::now() < deadline, "it never ends: {failures:?}");
        let now = clock::now_ms();
        match engine.work(now) {
            Work::Now => {
                if let Err(error) = engine.step(&mut connection).await {
                    failures.push(error.to_string());
                    connection = connect(feed.url()).await;
                }
            }
            Work::At(at) => tokio::time::sleep(Duration::from_millis(at - now)).await,
            Work::None => panic!("there is nothing to do, and it is not done: {failures:?}"),
        }
    }
    failures
}

/// A connection for delivery.
pub async fn connection(feed: &TestFeed) -> Connection<TcpStream> {
    connect(feed.url()).await
}

/// A stored change of `table`, an insert of the row `id`.
pub fn stored(id: i64, table: &str) -> StoredChange {
    let json = serde_json::json!({
        "id": id, "lsn": "0/1", "epoch": 1, "xid": 1, "schema": "public", "table": table,
        "operation": "insert", "data": {"id": id}, "old": null, "unchanged": [], "omitted": [],
        "committedAt": null,
    });
    StoredChange {
        id,
        table: table.into(),
        json: json.to_string(),
    }
}

/// A head with all its changes in memory: one for each of the tables, from id 1 on.
pub fn head_in_memory(tables: &[&str]) -> Head {
    let mut recent = Recent::after(1, 0);
    recent.changes = (1..)
        .zip(tables)
        .map(|(id, table)| stored(id, table))
        .collect();
    Head {
        position: at(recent.through()),
        recent: Some(recent),
    }
}

/// A connection for delivery that counts its bytes.
pub async fn counted_connection(feed: &TestFeed) -> (Connection<FaultyStream<TcpStream>>, Traffic) {
    let stream = FaultyStream::new(open_socket(feed.url()).await, Faults::default());
    let traffic = stream.traffic();
    let login = &feed.url().login;
    let connection = Connection::connect(stream, login, Limits::default()).await;
    (connection.unwrap(), traffic)
}

/// Does work until `is_done`. Returns the bytes that each step read.
pub async fn work_counting<S: Sink>(
    engine: &Engine<S>,
    (connection, traffic): (&mut Connection<FaultyStream<TcpStream>>, &Traffic),
    mut is_done: impl FnMut() -> bool,
) -> Vec<u64> {
    let mut steps = Vec::new();
    while !is_done() {
        assert_eq!(engine.work(clock::now_ms()), Work::Now);
        let before = traffic.read();
        engine.step(connection).await.unwrap();
        steps.push(traffic.read() - before);
    }
    steps
}
