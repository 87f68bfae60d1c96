//! Clients that share a page, or the connection that pages are read over, with others.

use pg_change_feed::clients::Start;
use pg_change_feed::clock;
use pg_change_feed::delivery::{Disconnect, Engine, Flow};

use super::fake_sink::{FakeSink, inbox};
use super::harness::{
    Client, at, connection, engine, join, join_unlimited, publish, say, view, work,
};
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(
    a_client_that_subscribes_to_something_else_while_a_page_is_read_costs_its_neighbours_nothing,
    a_client_that_lags_little_is_served_between_the_pages_of_one_that_lags_far,
    a_client_without_acknowledgements_that_is_alone_is_told_to_reconnect_at_its_limit,
);

const TABLES: &str = "\
CREATE TABLE t (id int PRIMARY KEY, body text); CREATE TABLE other (id int PRIMARY KEY)";
const ROWS: i64 = 3_000;

/// A history of about six mebibytes.
async fn history(feed: &TestFeed) -> Engine<FakeSink> {
    feed.run(&format!(
        "INSERT INTO t SELECT id, repeat('x', 2000) FROM generate_series(1, {ROWS}) AS id"
    ))
    .await;
    feed.drain().await;
    let engine = engine();
    publish(&engine, at(ROWS));
    engine
}

fn position(client: &Client) -> i64 {
    let position = client.state().cursor.position();
    position.map_or(-1, |position| position.id)
}

async fn a_client_that_subscribes_to_something_else_while_a_page_is_read_costs_its_neighbours_nothing(
    version: Version,
) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE t, other").await;
    let engine = history(&feed).await;
    let mut connection = connection(&feed).await;
    let wanted = r#"[{"table":"t"}]"#;
    let [first, second] =
        [0, 1].map(|_| join_unlimited(&engine, view(wanted), Start::After(at(0))));
    let other = r#"{"type":"subscribe","subscriptions":[{"table":"other"}]}"#;
    engine.step(&mut connection).await.unwrap();
    assert!((1..ROWS).contains(&position(&first)));
    engine.work(clock::now_ms());
    // While the step waits for its page, the client sends a message.
    let (stepped, ()) = tokio::join!(engine.step(&mut connection), async {
        say(&engine, &first, other);
    });
    stepped.unwrap();
    work(&engine, &mut connection).await;
    assert_eq!(inbox(&second).ids(), (1..=ROWS).collect::<Vec<_>>());
    assert_eq!(position(&first), ROWS);
}

async fn a_client_that_lags_little_is_served_between_the_pages_of_one_that_lags_far(
    version: Version,
) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE t").await;
    let engine = history(&feed).await;
    let mut connection = connection(&feed).await;
    let far = join_unlimited(&engine, view(""), Start::After(at(0)));
    let near = join_unlimited(&engine, view(""), Start::After(at(ROWS - 10)));
    let mut steps = 0;
    while position(&near) < ROWS {
        engine.work(clock::now_ms());
        engine.step(&mut connection).await.unwrap();
        steps += 1;
        assert!(steps < 4, "it waits for the other one");
    }
    assert!(position(&far) < ROWS / 2, "the other one has arrived first");
}

async fn a_client_without_acknowledgements_that_is_alone_is_told_to_reconnect_at_its_limit(
    version: Version,
) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE t").await;
    let engine = history(&feed).await;
    let mut connection = connection(&feed).await;
    let client = join(
        &engine,
        view(""),
        Start::After(at(0)),
        Flow::Reconnects(2 << 20),
    );
    work(&engine, &mut connection).await;
    assert_eq!(
        inbox(&client).disconnected.get(),
        Some(Disconnect::Unacknowledged)
    );
    assert!(!inbox(&client).ids().is_empty());
}
