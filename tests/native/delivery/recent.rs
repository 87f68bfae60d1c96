//! Changes in memory, and clients whose positions are in the middle of them.

use pg_change_feed::clients::Start;
use pg_change_feed::clock;
use pg_change_feed::delivery::{Flow, Head};
use pg_change_feed::history::Recent;
use tokio::net::TcpStream;

use super::fake_sink::inbox;
use super::harness::{acknowledge, at, engine, join, join_unlimited, publish, view, work};
use crate::support::feed::{Reader, TestFeed};
use crate::support::server::Version;

on_each_version!(
    a_client_anywhere_in_what_is_in_memory_gets_the_rest_of_it,
    a_client_that_takes_one_frame_at_a_time_of_what_is_in_memory_misses_nothing,
);

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, body text)";
const ROWS: i64 = 10;

/// A reader that has stored all the rows in one cycle, and the changes in memory.
async fn stored(feed: &TestFeed, body: &str) -> (Reader<TcpStream>, Recent) {
    feed.run(&format!(
        "INSERT INTO t SELECT id, {body} FROM generate_series(1, {ROWS}) AS id"
    ))
    .await;
    let mut reader = feed.reader().await;
    let report = reader.poll().await.unwrap();
    assert_eq!(report.stored, u64::try_from(ROWS).unwrap());
    (reader, report.recent.unwrap())
}

fn head(recent: &Recent) -> Head {
    Head {
        position: at(ROWS),
        recent: Some(recent.clone()),
    }
}

async fn a_client_anywhere_in_what_is_in_memory_gets_the_rest_of_it(version: Version) {
    let feed = TestFeed::create(version, TABLE, "FOR TABLE t").await;
    let (mut reader, recent) = stored(&feed, "'a'").await;
    for id in 0..=ROWS {
        let rest: Vec<_> = (id + 1..=ROWS).collect();
        let start = Start::After(at(id));
        let newcomers = engine();
        let newcomer = join_unlimited(&newcomers, view(""), start);
        newcomers.publish(head(&recent), clock::now_ms());
        work(&newcomers, &mut reader.connection).await;
        assert_eq!(inbox(&newcomer).ids(), rest, "a newcomer at {id}");

        let engine = engine();
        let live = join_unlimited(&engine, view(""), start);
        publish(&engine, at(id));
        work(&engine, &mut reader.connection).await;
        engine.publish(head(&recent), clock::now_ms());
        assert_eq!(inbox(&live).ids(), rest, "a live client at {id}");
    }
}

async fn a_client_that_takes_one_frame_at_a_time_of_what_is_in_memory_misses_nothing(
    version: Version,
) {
    let feed = TestFeed::create(version, TABLE, "FOR TABLE t").await;
    let (mut reader, recent) = stored(&feed, "repeat('a', 190000)").await;
    let engine = engine();
    // A frame holds about a mebibyte, and the window has room for one only.
    let client = join(&engine, view(""), Start::Now, Flow::Waits(1));
    publish(&engine, at(0));
    work(&engine, &mut reader.connection).await;
    engine.publish(head(&recent), clock::now_ms());
    let inbox = inbox(&client);
    let mut frames = 0;
    while inbox.ids().len() < usize::try_from(ROWS).unwrap() {
        frames += 1;
        assert_eq!(inbox.all("changes").len(), frames);
        let expected: Vec<_> = (1..).take(inbox.ids().len()).collect();
        assert_eq!(inbox.ids(), expected);
        acknowledge(&engine, &client);
        work(&engine, &mut reader.connection).await;
    }
    assert!(frames > 0, "all of it was one frame");
}
