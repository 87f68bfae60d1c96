//! How much clients that do not acknowledge can make the object hold.

use pg_change_feed::clients::Start;
use pg_change_feed::clock;
use pg_change_feed::delivery::{ALLOWANCE_BYTES, Disconnect, Engine, Flow, RECLAIM_AFTER_MS, Work};
use pg_change_feed::postgres::Connection;
use tokio::net::TcpStream;

use super::fake_sink::{FakeSink, inbox};
use super::harness::{
    Client, acknowledge, at, connection, engine, engine_with_budget, join, publish, say, view, work,
};
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(
    a_client_that_never_acknowledges_gets_one_window_whatever_it_subscribes_to,
    an_acknowledgement_makes_room_also_after_a_new_subscription,
    many_clients_together_never_hold_more_than_the_budget,
    a_client_that_holds_the_budget_is_disconnected_when_another_one_waits,
);

const ROWS: i64 = 300;
const ROW_BYTES: usize = 20_000;
/// One frame: about a mebibyte, plus what one row may add.
const FRAME: u64 = (1 << 20) + 30_000;

async fn feed(version: Version) -> (TestFeed, Connection<TcpStream>) {
    let table = "CREATE TABLE t (id int PRIMARY KEY, body text)";
    let feed = TestFeed::create(version, table, "FOR TABLE t").await;
    feed.run(&format!(
        "INSERT INTO t SELECT id, repeat('x', {ROW_BYTES}) FROM generate_series(1, {ROWS}) AS id"
    ))
    .await;
    feed.drain().await;
    let connection = connection(&feed).await;
    (feed, connection)
}

fn bytes(client: &Client) -> u64 {
    inbox(client).bytes.get() as u64
}

fn unacknowledged(client: &Client) -> u64 {
    client.state().cursor.unacknowledged().unwrap()
}

fn subscribe(engine: &Engine<FakeSink>, client: &Client, after: &str) {
    let text =
        format!(r#"{{"type":"subscribe","subscriptions":[{{"table":"t"}}],"after":"{after}"}}"#);
    say(engine, client, &text);
}

async fn a_client_that_never_acknowledges_gets_one_window_whatever_it_subscribes_to(
    version: Version,
) {
    let (_feed, mut connection) = feed(version).await;
    let engine = engine();
    let window = 2 << 20;
    let client = join(&engine, view(""), Start::Earliest, Flow::Waits(window));
    publish(&engine, at(ROWS));
    work(&engine, &mut connection).await;
    assert!(bytes(&client) > window);
    // A position of another history is answered with a reset.
    for after in [
        "1-0", "earliest", "1-299", "9-0", "1-0", "9-9", "9-9", "earliest",
    ] {
        subscribe(&engine, &client, after);
        work(&engine, &mut connection).await;
        assert!(bytes(&client) <= window + FRAME, "{}", bytes(&client));
        assert_eq!(unacknowledged(&client), bytes(&client));
    }
    assert_eq!(inbox(&client).all("reset").len(), 3);
    assert_eq!(inbox(&client).all("welcome").len(), 6);

    // An eviction changes nothing.
    let next = super::harness::engine();
    client.persist();
    let client = super::harness::evict(&client, &next);
    publish(&next, at(ROWS));
    subscribe(&next, &client, "1-0");
    work(&next, &mut connection).await;
    assert!(bytes(&client) <= window + FRAME, "{}", bytes(&client));
}

async fn an_acknowledgement_makes_room_also_after_a_new_subscription(version: Version) {
    let (_feed, mut connection) = feed(version).await;
    let engine = engine();
    let client = join(&engine, view(""), Start::Earliest, Flow::Waits(1 << 20));
    publish(&engine, at(ROWS));
    work(&engine, &mut connection).await;
    let position = inbox(&client).position().unwrap();
    subscribe(&engine, &client, "1-0");
    work(&engine, &mut connection).await;
    let before = bytes(&client);
    // It was sent before the client subscribed again.
    say(
        &engine,
        &client,
        &format!(r#"{{"type":"ack","position":"{position}"}}"#),
    );
    work(&engine, &mut connection).await;
    assert!(bytes(&client) > before);
    while client.state().cursor.position() != Some(at(ROWS)) {
        let before = bytes(&client);
        acknowledge(&engine, &client);
        work(&engine, &mut connection).await;
        assert!(bytes(&client) > before, "it is stuck");
    }
    let ids = inbox(&client).ids();
    let last = ids.iter().rposition(|id| *id == 1).unwrap();
    assert_eq!(ids[last..], (1..=ROWS).collect::<Vec<_>>());
}

async fn many_clients_together_never_hold_more_than_the_budget(version: Version) {
    const BUDGET: u64 = 3 << 20;
    let (_feed, mut connection) = feed(version).await;
    let engine = engine_with_budget(BUDGET);
    let clients: Vec<_> = (0..20)
        .map(|_| join(&engine, view(""), Start::Earliest, Flow::Waits(8 << 20)))
        .collect();
    publish(&engine, at(ROWS));
    let most = clients.len() as u64 * ALLOWANCE_BYTES + BUDGET + FRAME;
    let mut held_at_most = 0;
    for round in 0.. {
        assert!(round < 1_000, "they are stuck");
        while engine.work(clock::now_ms()) == Work::Now {
            engine.step(&mut connection).await.unwrap();
            let held: u64 = clients.iter().map(unacknowledged).sum();
            held_at_most = held_at_most.max(held);
            assert!(held <= most, "{held} bytes");
        }
        let lags = |client: &&Client| client.state().cursor.position() != Some(at(ROWS));
        if !clients.iter().any(|client| lags(&client)) {
            break;
        }
        // Each at its own pace.
        for (index, client) in clients.iter().enumerate() {
            if round % (1 + index % 3) == 0 {
                acknowledge(&engine, client);
            }
        }
    }
    println!("{held_at_most} bytes were held");
    assert!(held_at_most > BUDGET / 2);
    for client in &clients {
        assert_eq!(inbox(client).ids(), (1..=ROWS).collect::<Vec<_>>());
        assert_eq!(inbox(client).disconnected.get(), None);
    }
}

async fn a_client_that_holds_the_budget_is_disconnected_when_another_one_waits(version: Version) {
    let (_feed, mut connection) = feed(version).await;
    let engine = engine_with_budget(4 << 20);
    let holder = join(&engine, view(""), Start::Earliest, Flow::Waits(3 << 20));
    publish(&engine, at(ROWS));
    work(&engine, &mut connection).await;
    assert!(unacknowledged(&holder) > 3 << 20);
    // It may keep its share while no other client needs it.
    let later = clock::now_ms() + 10 * RECLAIM_AFTER_MS;
    engine.work(later);
    assert!(!holder.is_gone());

    let waiting = join(&engine, view(""), Start::Earliest, Flow::Waits(8 << 20));
    work(&engine, &mut connection).await;
    assert_eq!(bytes(&waiting), 0, "the budget has room");
    let Work::At(reclaims_at) = engine.work(clock::now_ms()) else {
        panic!("nobody sees to it");
    };
    assert!(reclaims_at <= clock::now_ms() + RECLAIM_AFTER_MS);
    assert!(!holder.is_gone(), "it has its time to acknowledge");
    engine.work(clock::now_ms() + RECLAIM_AFTER_MS);
    let why = inbox(&holder).disconnected.get();
    assert_eq!(why, Some(Disconnect::Unacknowledged));
    while client_lags(&waiting) {
        let before = bytes(&waiting);
        work(&engine, &mut connection).await;
        assert!(bytes(&waiting) > before, "it is stuck");
        acknowledge(&engine, &waiting);
    }
    assert_eq!(inbox(&waiting).ids(), (1..=ROWS).collect::<Vec<_>>());
}

fn client_lags(client: &Client) -> bool {
    client.state().cursor.position() != Some(at(ROWS))
}
