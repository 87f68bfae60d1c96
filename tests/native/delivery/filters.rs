//! What the catalogue says of filtered columns, and what follows for who subscribes to them.

use std::collections::BTreeSet;
use std::rc::Rc;

use pg_change_feed::clients::{Columns, Flow, Head, Position, Pump, Start, Subscriptions, View};
use pg_change_feed::config::TableName;

use super::recorder::join;
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(
    the_catalogue_tells_numbers_and_what_old_rows_carry,
    a_filter_on_a_column_that_is_not_there_is_refused_and_the_client_may_ask_again,
    a_filter_that_old_rows_cannot_be_judged_by_is_told_with_the_sql_that_mends_it,
);

const TABLES: &str = "\
CREATE DOMAIN amount AS numeric(10, 2); CREATE DOMAIN price AS amount CHECK (VALUE >= 0); \
CREATE TABLE plain (id bigint PRIMARY KEY, p price, t text NOT NULL UNIQUE, f float4); \
CREATE TABLE whole (id int, t text); ALTER TABLE whole REPLICA IDENTITY FULL; \
CREATE TABLE none (id int PRIMARY KEY, t text); ALTER TABLE none REPLICA IDENTITY NOTHING; \
CREATE TABLE indexed (id int PRIMARY KEY, t text NOT NULL UNIQUE); \
ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_t_key; \
CREATE TABLE parted (id int, k int, t text, PRIMARY KEY (id, k)) PARTITION BY LIST (k); \
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1); \
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2); \
ALTER TABLE parted_1 REPLICA IDENTITY FULL";

async fn the_catalogue_tells_numbers_and_what_old_rows_carry(version: Version) {
    let feed = TestFeed::create(version, TABLES, "FOR ALL TABLES").await;
    let mut reader = feed.reader().await;
    let tables = ["plain", "whole", "none", "indexed", "parted", "absent"];
    let name = |table: &str| TableName::parse(table).unwrap();
    let tables: BTreeSet<_> = tables.into_iter().map(name).collect();
    let columns = Columns::read(&mut reader.connection, &tables)
        .await
        .unwrap();
    for (table, column, is_number, is_identity) in [
        ("plain", "id", true, true),
        ("plain", "p", true, false),
        ("plain", "t", false, false),
        ("plain", "f", true, false),
        ("whole", "id", true, true),
        ("whole", "t", false, true),
        ("none", "id", true, false),
        ("indexed", "id", true, false),
        ("indexed", "t", false, true),
        ("parted", "id", true, true),
        ("parted", "k", true, true),
        // One partition covers it, the other does not.
        ("parted", "t", false, false),
    ] {
        let facts = columns.facts(&name(table), column).unwrap();
        assert_eq!(
            (facts.is_number, facts.is_identity),
            (is_number, is_identity),
            "{table}.{column}"
        );
    }
    assert!(columns.facts(&name("absent"), "id").is_none());
    assert!(columns.facts(&name("plain"), "absent").is_none());
}

async fn a_filter_on_a_column_that_is_not_there_is_refused_and_the_client_may_ask_again(
    version: Version,
) {
    let feed = TestFeed::create(version, TABLES, "FOR ALL TABLES").await;
    feed.run("INSERT INTO plain VALUES (1, 2, 'a', 0), (2, 20, 'b', 0)")
        .await;
    let mut reader = feed.reader().await;
    reader.drain().await.unwrap();
    let pump = Pump::default();
    let everything = View::new(Subscriptions::AllTables, None).unwrap();
    let client = Rc::new(join(
        everything,
        Start::Earliest,
        Flow::ComesBack(u64::MAX),
        pump.views(),
    ));
    let checkpoint = reader.cycle.checkpoint.clone();
    let head = Head {
        position: Position {
            epoch: checkpoint.epoch,
            id: checkpoint.last_id,
        },
        recent: None,
        deadline: u64::MAX,
    };
    let subscribe = |column: &str| {
        let filter = format!(r#"[{{"column":"{column}","op":"lt","value":"10"}}]"#);
        format!(
            r#"{{"type":"subscribe","after":"earliest",
               "subscriptions":[{{"table":"plain","filter":{filter}}}]}}"#
        )
    };
    let clients = [Rc::clone(&client)];
    client.hear(&subscribe("absent"), pump.views(), None);
    pump.deliver(&clients, &mut reader.connection, head)
        .await
        .unwrap();
    let error = client.outlet().0.frames.borrow()[0].clone();
    assert_eq!(error["type"], "error");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("subscriptions[0].filter[0].column"),
        "{message}"
    );
    assert!(client.outlet().0.ids().is_empty());

    client.hear(&subscribe("p"), pump.views(), None);
    pump.deliver(&clients, &mut reader.connection, head)
        .await
        .unwrap();
    // As numbers: 2 < 10, which as text it is not.
    assert_eq!(client.outlet().0.ids(), [1]);
}

async fn a_filter_that_old_rows_cannot_be_judged_by_is_told_with_the_sql_that_mends_it(
    version: Version,
) {
    let feed = TestFeed::create(version, TABLES, "FOR ALL TABLES").await;
    let mut reader = feed.reader().await;
    let pump = Pump::default();
    let everything = View::new(Subscriptions::AllTables, None).unwrap();
    let client = Rc::new(join(
        everything,
        Start::Now,
        Flow::ComesBack(u64::MAX),
        pump.views(),
    ));
    let subscribe = r#"{"type":"subscribe","subscriptions":[
        {"table":"plain","filter":[{"column":"f","op":"gt","value":1}]}]}"#;
    client.hear(subscribe, pump.views(), None);
    let head = Head {
        position: Position {
            epoch: reader.cycle.checkpoint.epoch,
            id: 0,
        },
        recent: None,
        deadline: u64::MAX,
    };
    let clients = [Rc::clone(&client)];
    pump.deliver(&clients, &mut reader.connection, head)
        .await
        .unwrap();
    let welcome = client.outlet().0.frames.borrow()[0].clone();
    assert_eq!(welcome["warnings"][0]["columns"][0], "f", "{welcome}");
    let sql = welcome["warnings"][0]["sql"].as_str().unwrap().to_owned();
    feed.run(&sql).await;
    client.hear(subscribe, pump.views(), None);
    pump.deliver(&clients, &mut reader.connection, head)
        .await
        .unwrap();
    let frames = client.outlet().0.frames.borrow();
    let again = frames
        .iter()
        .rev()
        .find(|it| it["type"] == "welcome")
        .unwrap();
    assert!(again["warnings"].is_null(), "{again}");
}
