//! Rows in the history that cannot be read whole: they were stored without a limit, or the disk has
//! lost a part of them.

use std::time::Instant;

use pg_change_feed::clients::Start;
use pg_change_feed::delivery::Engine;
use serde_json::{Value, json};

use super::fake_sink::{FakeSink, inbox};
use super::harness::{
    Client, at, connection, engine, join_unlimited, publish, view, work, work_until,
};
use crate::support::feed::{PATIENCE, TestFeed};
use crate::support::server::Version;

on_each_version!(
    a_row_that_grows_beyond_all_limits_when_it_is_read_back_comes_without_its_large_columns,
    a_row_that_cannot_be_read_at_all_comes_without_its_columns_and_delays_its_group_alone,
);

const TABLES: &str = "\
CREATE TABLE t (id int PRIMARY KEY, note text, body jsonb); CREATE TABLE u (id int PRIMARY KEY)";
const ROWS: i64 = 40;

/// 1.4 KB as `json`, some 20 MB as the text of `jsonb`: each number is written with all its digits.
const LARGE: &str = "(concat('[', repeat('1e131000,', 150), '1]'))::jsonb";

/// Changes of `t`, every fifth one of `u`, without the feed.
async fn fill(feed: &TestFeed) {
    feed.run(&format!(
        "INSERT INTO change_history (id, lsn, table_name, operation, data, epoch) \
         SELECT id, '0/1', CASE WHEN id % 5 = 0 THEN 'u' ELSE 't' END, 'insert', \
         jsonb_build_object('id', id, 'note', 'short'), 1 FROM generate_series(1, {ROWS}) AS id"
    ))
    .await;
}

/// A client that starts at the beginning, with its subscriptions.
fn join_all(engine: &Engine<FakeSink>) -> [(Client, Vec<i64>); 4] {
    let t = |id: &i64| id % 5 != 0;
    [
        ("", Start::Earliest, (1..=ROWS).collect()),
        (
            r#"[{"table":"t"}]"#,
            Start::Earliest,
            (1..=ROWS).filter(t).collect(),
        ),
        (
            r#"[{"table":"u"}]"#,
            Start::Earliest,
            (1..=ROWS).filter(|id| !t(id)).collect(),
        ),
        ("", Start::After(at(30)), (31..=ROWS).collect()),
    ]
    .map(|(wanted, start, expected)| (join_unlimited(engine, view(wanted), start), expected))
}

fn has_all((client, _): &(Client, Vec<i64>)) -> bool {
    client.state().cursor.position() == Some(at(ROWS))
}

fn change(client: &Client, id: i64) -> Value {
    let changes = inbox(client).changes();
    changes
        .into_iter()
        .find(|change| change["id"] == id)
        .unwrap()
}

async fn a_row_that_grows_beyond_all_limits_when_it_is_read_back_comes_without_its_large_columns(
    version: Version,
) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE t, u").await;
    fill(&feed).await;
    feed.run(&format!(
        "UPDATE change_history SET data = data || jsonb_build_object('body', {LARGE}) \
         WHERE id IN (7, 8, 40); \
         UPDATE change_history SET operation = 'update', \
         old_data = jsonb_build_object('id', id, 'note', 'before', 'body', {LARGE}) \
         WHERE id IN (13)"
    ))
    .await;
    let engine = engine();
    let clients = join_all(&engine);
    let mut connection = connection(&feed).await;
    publish(&engine, at(ROWS));
    // No step fails.
    work(&engine, &mut connection).await;
    for (client, expected) in &clients {
        assert_eq!(inbox(client).ids(), *expected);
        inbox(client).refuse_doubles();
    }
    let (everything, _) = &clients[0];
    for id in [7, 8] {
        let change = change(everything, id);
        assert_eq!(change["omitted"], json!(["body"]));
        assert_eq!(change["data"], json!({"id": id, "note": "short"}));
        assert_eq!(change["old"], Value::Null);
    }
    let update = change(everything, 13);
    assert_eq!(update["omitted"], json!(["body"]));
    assert_eq!(update["data"], json!({"id": 13, "note": "short"}));
    assert_eq!(update["old"], json!({"id": 13, "note": "before"}));
    assert_eq!(change(everything, 9)["omitted"], json!([]));
}

/// Deletes the chunks of all large values of the history, as a broken disk would. Postgres forbids
/// writing to a TOAST table, so it is made an ordinary one for a moment.
async fn lose_what_is_out_of_line(feed: &TestFeed) {
    let toast = feed
        .value("SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'change_history'")
        .await;
    let kind = |kind: char| {
        format!("UPDATE pg_class SET relkind = '{kind}' WHERE oid = '{toast}'::regclass;")
    };
    feed.run(&format!(
        "SET allow_system_table_mods = on; {} DELETE FROM {toast}; {}",
        kind('r'),
        kind('t')
    ))
    .await;
    // Postgres reads a deleted chunk as long as it is there.
    let client = feed.client().await;
    let reads = "SELECT sum(octet_length(data::text)) FROM change_history";
    let deadline = Instant::now() + PATIENCE;
    while client.execute(reads, &[]).await.is_ok() {
        assert!(Instant::now() < deadline, "the chunks are still there");
        feed.run(&format!("VACUUM {toast}")).await;
    }
}

async fn a_row_that_cannot_be_read_at_all_comes_without_its_columns_and_delays_its_group_alone(
    version: Version,
) {
    const LOST: i64 = 17;
    let feed = TestFeed::create(version, TABLES, "FOR TABLE t, u").await;
    fill(&feed).await;
    // The row's value is stored out of line, and is lost there.
    feed.run(&format!(
        "UPDATE change_history SET data = data || jsonb_build_object('body', \
         (SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 1000) AS n)) WHERE id = {LOST}"
    ))
    .await;
    lose_what_is_out_of_line(&feed).await;
    let engine = engine();
    let clients = join_all(&engine);
    let [everything, of_t, of_u, from_30] = &clients;
    publish(&engine, at(ROWS));

    let unconcerned = || has_all(of_u) && has_all(from_30);
    let failures = work_until(&engine, &feed, unconcerned).await;
    assert!(failures.len() <= 2, "{failures:?}");
    assert!(!has_all(everything) && !has_all(of_t));
    let failures = work_until(&engine, &feed, || clients.iter().all(has_all)).await;
    println!("{failures:?}");
    assert!(failures.iter().all(|error| error.contains("toast")));

    for (client, expected) in &clients {
        assert_eq!(inbox(client).ids(), *expected);
        inbox(client).refuse_doubles();
    }
    for (client, _) in [everything, of_t] {
        let lost = change(client, LOST);
        assert_eq!(lost["data"], json!({}));
        assert_eq!(lost["omitted"], json!(["id", "note", "body"]));
        assert_eq!(change(client, LOST + 1)["data"]["id"], LOST + 1);
    }
}
