//! Clients that subscribe again while they are being sent changes.

use std::rc::Rc;

use futures_util::poll;
use pg_change_feed::clients::Start;
use pg_change_feed::clock;
use pg_change_feed::delivery::{Engine, Head};
use pg_change_feed::history::Recent;
use pg_change_feed::postgres::Connection;
use tokio::net::TcpStream;

use super::fake_sink::{FakeSink, Interruption, inbox};
use super::harness::{Client, at, connection, engine, join_unlimited, publish, say, view, work};
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(
    a_bad_column_is_refused_and_not_welcomed_whenever_it_is_asked_for,
    what_was_passed_over_before_comes_to_a_subscription_that_wants_it,
    a_subscription_to_another_place_is_not_sent_the_page_that_was_read_for_the_old_one,
);

const TABLES: &str = "\
CREATE TABLE a (id int PRIMARY KEY, body text); CREATE TABLE b (id int PRIMARY KEY, body text)";
const ROWS: i64 = 3_000;

const BAD: &str = r#"{"type":"subscribe","subscriptions":[
    {"table":"a","filter":[{"column":"absent","op":"eq","value":"1"}]}]}"#;
const GOOD: &str = r#"{"type":"subscribe","subscriptions":[
    {"table":"a","filter":[{"column":"id","op":"gt","value":2990}]}]}"#;

/// When the client subscribes.
#[derive(Clone, Copy, Debug)]
enum When {
    BetweenSteps,
    WhileAPageIsRead,
    WhileAFrameOfAPageIsSent,
    WhileAFrameOfTheMemoryIsSent,
}

/// Sends the client the first of several frames; during or after it, the client sends `text`.
async fn interrupt(
    when: When,
    (engine, connection): (&Rc<Engine<FakeSink>>, &mut Connection<TcpStream>),
    (client, recent): (&Client, &Recent),
    text: &str,
) {
    let said = || Interruption {
        engine: Rc::downgrade(engine),
        number: client.number(),
        text: text.to_owned(),
    };
    match when {
        When::BetweenSteps => {
            publish(engine, at(ROWS));
            while inbox(client).ids().is_empty() {
                engine.step(connection).await.unwrap();
            }
            say(engine, client, text);
        }
        When::WhileAPageIsRead => {
            publish(engine, at(ROWS));
            while inbox(client).ids().is_empty() {
                engine.step(connection).await.unwrap();
            }
            let mut step = std::pin::pin!(engine.step(connection));
            assert!(poll!(&mut step).is_pending());
            say(engine, client, text);
            step.await.unwrap();
        }
        When::WhileAFrameOfAPageIsSent => {
            publish(engine, at(ROWS));
            inbox(client).says.replace(Some(said()));
            while inbox(client).ids().is_empty() {
                engine.step(connection).await.unwrap();
            }
        }
        When::WhileAFrameOfTheMemoryIsSent => {
            publish(engine, at(0));
            work(engine, connection).await;
            inbox(client).says.replace(Some(said()));
            let head = Head {
                position: at(ROWS),
                recent: Some(recent.clone()),
            };
            engine.publish(head, clock::now_ms());
            assert!(inbox(client).all("changes").len() > 1);
        }
    }
}

async fn a_bad_column_is_refused_and_not_welcomed_whenever_it_is_asked_for(version: Version) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE a").await;
    feed.run(&format!(
        "INSERT INTO a SELECT id, repeat('x', 400) FROM generate_series(1, {ROWS}) AS id"
    ))
    .await;
    let recent = feed.reader().await.poll().await.unwrap().recent.unwrap();
    let mut connection = connection(&feed).await;
    for when in [
        When::BetweenSteps,
        When::WhileAPageIsRead,
        When::WhileAFrameOfAPageIsSent,
        When::WhileAFrameOfTheMemoryIsSent,
    ] {
        let engine = Rc::new(engine());
        let client = join_unlimited(&engine, view(""), Start::Earliest);
        let everybody = (&engine, &mut connection);
        interrupt(when, everybody, (&client, &recent), BAD).await;
        let sent = inbox(&client).ids().len();
        engine.serve_from_memory(clock::now_ms());
        work(&engine, &mut connection).await;
        let errors = inbox(&client).all("error");
        assert_eq!(errors.len(), 1, "{when:?}");
        assert_eq!(errors[0]["code"], "bad_field", "{when:?}");
        assert_eq!(inbox(&client).all("welcome").len(), 1, "{when:?}");
        assert_eq!(inbox(&client).ids().len(), sent, "{when:?}");

        // Its next subscription is welcomed, and continues from its position.
        say(&engine, &client, GOOD);
        work(&engine, &mut connection).await;
        assert_eq!(inbox(&client).all("welcome").len(), 2, "{when:?}");
        assert_eq!(inbox(&client).all("error").len(), 1, "{when:?}");
        let ids = inbox(&client).ids();
        assert!(ids.ends_with(&[2_999, 3_000]), "{when:?}");
    }
}

async fn what_was_passed_over_before_comes_to_a_subscription_that_wants_it(version: Version) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE a, b").await;
    let mut reader = feed.reader().await;
    let mut connection = connection(&feed).await;
    let engine = engine();
    let client = join_unlimited(&engine, view(r#"[{"table":"a"}]"#), Start::Now);
    publish(&engine, at(0));
    work(&engine, &mut connection).await;
    feed.run("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
        .await;
    let report = reader.poll().await.unwrap();
    let head = Head {
        position: at(2),
        recent: report.recent,
    };
    engine.publish(head, clock::now_ms());
    assert_eq!(inbox(&client).ids(), [1]);
    // In a second cycle, so that the client is sent no position after this change.
    feed.run("INSERT INTO b VALUES (2)").await;
    let report = reader.poll().await.unwrap();
    let head = Head {
        position: at(3),
        recent: report.recent,
    };
    engine.publish(head, clock::now_ms());
    assert_eq!(client.state().cursor.position(), Some(at(3)));
    let known = inbox(&client).position().unwrap();
    let both = r#"{"type":"subscribe","subscriptions":[{"table":"a"},{"table":"b"}]}"#;
    say(&engine, &client, both);
    work(&engine, &mut connection).await;
    let welcomes = inbox(&client).all("welcome");
    assert_eq!(welcomes.len(), 2);
    assert_eq!(welcomes[1]["position"], known.to_string());
    let expected: Vec<_> = [1].into_iter().chain(known.id + 1..=3).collect();
    assert_eq!(inbox(&client).ids(), expected);
    assert!(known.id < 3);
}

async fn a_subscription_to_another_place_is_not_sent_the_page_that_was_read_for_the_old_one(
    version: Version,
) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE a").await;
    feed.run(&format!(
        "INSERT INTO a SELECT id FROM generate_series(1, {ROWS}) AS id"
    ))
    .await;
    feed.drain().await;
    let mut connection = connection(&feed).await;
    let engine = engine();
    let client = join_unlimited(&engine, view(""), Start::Earliest);
    publish(&engine, at(ROWS));
    {
        // One step queries the oldest change and then a page.
        let mut step = std::pin::pin!(engine.step(&mut connection));
        while inbox(&client).frames.borrow().is_empty() {
            assert!(poll!(&mut step).is_pending());
            tokio::task::yield_now().await;
        }
        let subscribe = r#"{"type":"subscribe","after":"1-2998","subscriptions":[{"table":"a"}]}"#;
        say(&engine, &client, subscribe);
        step.await.unwrap();
    }
    work(&engine, &mut connection).await;
    assert_eq!(inbox(&client).ids(), [2_999, 3_000]);
    assert_eq!(inbox(&client).all("welcome").len(), 2);
}
