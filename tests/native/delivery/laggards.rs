//! Objects that lag far, among others that take every available call.

use pg_change_feed::clock;
use pg_change_feed::delivery::{Answer, Head, Work};
use pg_change_feed::history::Recent;

use super::fake_sink::{Calls, inbox};
use super::harness::{Client, at, connection, engine, join_answering, publish, stored, view};
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(objects_that_lag_catch_up_beside_objects_that_take_every_call);

const ROWS: i64 = 2_000;
const LIVE: usize = 12;

async fn objects_that_lag_catch_up_beside_objects_that_take_every_call(version: Version) {
    let table = "CREATE TABLE t (id int PRIMARY KEY, body text)";
    let feed = TestFeed::create(version, table, "FOR TABLE t").await;
    // About eight frames.
    feed.run(&format!(
        "INSERT INTO t SELECT id, repeat('x', 4000) FROM generate_series(1, {ROWS}) AS id"
    ))
    .await;
    feed.drain().await;
    let mut connection = connection(&feed).await;
    let engine = engine();
    publish(&engine, at(ROWS));
    let calls = Calls::new(6);
    let join = |from| join_answering(&engine, view(""), at(from), &calls);
    // They were added after the others, which therefore always get a call before them.
    let live: Vec<_> = (0..LIVE).map(|_| join(ROWS)).collect();
    let lagging = [join(0), join(ROWS / 2), join(10)];

    let position = |client: &Client| client.state().cursor.position().unwrap().id;
    let mut recent = Recent::after(1, ROWS);
    let (mut head, mut ticks) = (ROWS, 0);
    while lagging.iter().any(|client| position(client) < ROWS) {
        head += 1;
        recent.changes.push(stored(head, "t"));
        let stored = Head {
            position: at(head),
            recent: Some(recent.clone()),
        };
        engine.publish(stored, clock::now_ms());
        if engine.work(clock::now_ms()) == Work::Now {
            engine.step(&mut connection).await.unwrap();
        }
        let all = live.iter().chain(&lagging);
        let called: Vec<_> = all.filter(|client| inbox(client).is_called()).collect();
        assert!(!called.is_empty(), "nobody is called");
        for client in called {
            inbox(client).end_call();
            engine.answer(client.number(), Answer::Accepted, clock::now_ms());
        }
        for client in &live {
            assert!(head - position(client) <= 6, "a live object lags");
        }
        ticks += 1;
        assert!(ticks < 200, "an object that lags is never called");
    }
    println!("{ticks} ticks");
    for client in &lagging {
        let ids = inbox(client).ids();
        assert!(ids.is_sorted_by(|before, id| before + 1 == *id));
        assert!(ids.contains(&ROWS));
    }
}
