//! Objects that answer that they stand at another position (409).

use std::rc::Rc;

use pg_change_feed::clients::Start;
use pg_change_feed::clock;
use pg_change_feed::delivery::{Answer, Answers, ConsumerState, Cursor, Engine, Flow, Work};
use pg_change_feed::error::{Category, Error};
use pg_change_feed::postgres::Connection;
use tokio::net::TcpStream;

use super::fake_sink::{Calls, FakeSink, inbox};
use super::harness::{Client, add, at, connection, engine, publish, state, view, work};
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(
    an_object_that_stands_elsewhere_goes_on_from_there,
    an_object_that_repeatedly_stands_elsewhere_is_called_less_often,
    an_object_that_stands_in_another_history_is_told_to_reset,
);

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";
const ROWS: i64 = 10;

/// An object that is registered after the fourth of [`ROWS`] changes, and is called with the others.
async fn called(version: Version) -> (TestFeed, Connection<TcpStream>, Engine<FakeSink>, Client) {
    let feed = TestFeed::create(version, TABLE, "FOR TABLE t").await;
    feed.run(&format!(
        "INSERT INTO t SELECT * FROM generate_series(1, {ROWS})"
    ))
    .await;
    feed.drain().await;
    let mut connection = connection(&feed).await;
    let engine = engine();
    let cursor = Cursor::new(Start::After(at(4)), Flow::Answered);
    let state = ConsumerState {
        answers: Some(Answers::default()),
        ..state(engine.next_number(), view(""), cursor)
    };
    let client = add(&engine, FakeSink::answering(&Calls::new(6)), state);
    publish(&engine, at(ROWS));
    work(&engine, &mut connection).await;
    (feed, connection, engine, client)
}

fn answer(engine: &Engine<FakeSink>, client: &Client, answer: Answer, now: u64) {
    inbox(client).end_call();
    engine.answer(client.number(), answer, now);
}

async fn an_object_that_stands_elsewhere_goes_on_from_there(version: Version) {
    let (_feed, mut connection, engine, client) = called(version).await;
    assert_eq!(inbox(&client).ids(), [5, 6, 7, 8, 9, 10]);
    // First it already has some of the changes; then it has lost what it had.
    for (stands_at, rest) in [(8, vec![9, 10]), (2, (3..=10).collect())] {
        inbox(&client).frames.borrow_mut().clear();
        let conflict = Answer::StandsAt(at(stands_at));
        answer(&engine, &client, conflict, clock::now_ms() - 3_600_000);
        work(&engine, &mut connection).await;
        assert_eq!(inbox(&client).ids(), rest);
    }
    answer(&engine, &client, Answer::Accepted, clock::now_ms());
    assert_eq!(client.state().cursor.position(), Some(at(ROWS)));
}

async fn an_object_that_repeatedly_stands_elsewhere_is_called_less_often(version: Version) {
    let (_feed, mut connection, engine, client) = called(version).await;
    // The answers are dated an hour ago, so that the test need not wait.
    let mut now = clock::now_ms() - 3_600_000;
    let mut waits = Vec::new();
    for _ in 0..6 {
        answer(&engine, &client, Answer::StandsAt(at(4)), now);
        match engine.work(now) {
            Work::Now => waits.push(0),
            Work::At(retry_at) => {
                waits.push(retry_at - now);
                now = retry_at;
            }
            Work::None => panic!("it is given up"),
        }
        work(&engine, &mut connection).await;
        assert!(inbox(&client).is_called());
    }
    assert_eq!(waits, [0, 250, 500, 1_000, 2_000, 4_000]);
    answer(&engine, &client, Answer::Accepted, now);
    assert_eq!(client.state().answers.as_ref().unwrap().conflicts, 0);
}

async fn an_object_that_stands_in_another_history_is_told_to_reset(version: Version) {
    let (_feed, mut connection, engine, client) = called(version).await;
    let ahead = Answer::StandsAt(at(ROWS + 1));
    answer(&engine, &client, ahead, clock::now_ms());
    work(&engine, &mut connection).await;
    // The reset is sent until the object accepts it.
    let failed = Error::new(Category::Connection, "unreachable", "the object failed");
    let failed = Answer::Failed(Rc::new(failed));
    answer(&engine, &client, failed, clock::now_ms() - 3_600_000);
    work(&engine, &mut connection).await;
    let resets = inbox(&client).all("reset");
    assert_eq!(resets.len(), 2);
    assert_eq!(resets[0]["reason"], "epoch_changed");
    assert_eq!(resets[0]["head"], at(ROWS).to_string());
    answer(&engine, &client, Answer::Accepted, clock::now_ms());
    work(&engine, &mut connection).await;
    assert!(!inbox(&client).is_called());
    assert_eq!(engine.work(clock::now_ms()), Work::None);
}
