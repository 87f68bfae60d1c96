//! Clients of a table that hardly changes, in a history full of other tables' changes.

use std::time::{Duration, Instant};

use futures_util::poll;
use pg_change_feed::clients::Start;
use pg_change_feed::clock;
use pg_change_feed::delivery::{Head, Work};
use pg_change_feed::history::Recent;

use super::fake_sink::{FakeSink, inbox};
use super::harness::{
    add, at, connection, engine, join_unlimited, live_cursor, publish, state, stored, view,
};
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(a_quiet_table_is_passed_over_in_bounded_steps_that_delay_no_live_client);

const ROWS: i64 = 400_000;
/// Ids that one page may cover.
const MAX_IDS: i64 = 200_000;

async fn a_quiet_table_is_passed_over_in_bounded_steps_that_delay_no_live_client(version: Version) {
    let tables = "CREATE TABLE busy (id int PRIMARY KEY); CREATE TABLE quiet (id int PRIMARY KEY)";
    let feed = TestFeed::create(version, tables, "FOR ALL TABLES").await;
    feed.run(&format!(
        "INSERT INTO change_history (id, lsn, table_name, operation, data, epoch) \
         SELECT id, '0/1', CASE WHEN id = {ROWS} - 1 THEN 'quiet' ELSE 'busy' END, 'insert', \
         jsonb_build_object('id', id), 1 FROM generate_series(1, {ROWS}) AS id; \
         ANALYZE change_history"
    ))
    .await;
    let mut connection = connection(&feed).await;
    let engine = engine();
    publish(&engine, at(ROWS));
    let live = join_unlimited(&engine, view(""), Start::Now);
    engine.step(&mut connection).await.unwrap();
    assert_eq!(inbox(&live).kinds(), ["welcome", "caught_up"]);

    // They were sent something long ago, so that a fresh position is due with the first page.
    let quiet: Vec<_> = (0..5)
        .map(|_| {
            let cursor = live_cursor(at(0));
            let state = state(engine.next_number(), view(r#"[{"table":"quiet"}]"#), cursor);
            add(&engine, FakeSink::new(), state)
        })
        .collect();
    let mut recent = Recent::after(1, ROWS);
    let (mut head, mut slowest, mut steps) = (ROWS, Duration::ZERO, 0);
    while engine.work(clock::now_ms()) == Work::Now {
        let before: Vec<_> = quiet.iter().map(position).collect();
        let started = Instant::now();
        {
            let mut step = std::pin::pin!(engine.step(&mut connection));
            assert!(poll!(&mut step).is_pending(), "it waits for the database");
            // Meanwhile a change is stored, and the live client gets it at once.
            head += 1;
            recent.changes.push(stored(head, "busy"));
            let stored = Head {
                position: at(head),
                recent: Some(recent.clone()),
            };
            engine.publish(stored, clock::now_ms());
            assert_eq!(inbox(&live).ids().last(), Some(&head));
            step.await.unwrap();
        }
        slowest = slowest.max(started.elapsed());
        steps += 1;
        for (client, before) in quiet.iter().zip(before) {
            assert!(position(client) - before <= MAX_IDS);
        }
        assert!(steps < 50, "it never ends");
    }
    println!("{steps} steps, the slowest of {slowest:?}");
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    assert!(steps >= 4, "{steps} steps");
    for client in &quiet {
        assert_eq!(position(client), head);
        assert_eq!(inbox(client).ids(), [ROWS - 1]);
        let progress = inbox(client).all("progress");
        let first = progress.first().expect("a fresh position on the way");
        assert_ne!(first["position"], at(ROWS).to_string());
    }
}

fn position(client: &super::harness::Client) -> i64 {
    client.state().cursor.position().unwrap().id
}
