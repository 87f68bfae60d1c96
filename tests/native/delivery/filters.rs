//! The catalogue's facts about filtered columns, and their effect on clients that subscribe to
//! them.

use pg_change_feed::clients::{Columns, Start};
use pg_change_feed::config::TableName;

use super::fake_sink::{frames, inbox};
use super::harness::{at, engine, join_unlimited, publish, say, view, work};
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(
    the_catalogue_tells_numbers_and_what_old_rows_carry,
    a_filter_on_a_column_that_is_not_there_is_refused_and_the_client_may_ask_again,
    a_filter_that_old_rows_do_not_cover_is_warned_of_with_the_sql_that_fixes_it,
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
    let name = |table: &str| TableName::parse(table).unwrap();
    let expected = [
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
    ];
    let absent = [("absent", "id"), ("plain", "absent")];
    let known = expected.iter().map(|(table, column, ..)| (*table, *column));
    let wanted = known.chain(absent);
    let wanted = wanted.map(|(table, column)| (name(table), column.to_owned()));
    let columns = Columns::read(&mut reader.connection, &wanted.collect())
        .await
        .unwrap();
    for (table, column, is_number, is_identity) in expected {
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
    let engine = engine();
    let client = join_unlimited(&engine, view(""), Start::Earliest);
    publish(&engine, at(reader.cycle.checkpoint.last_id));
    let subscribe = |column: &str| {
        let filter = format!(r#"[{{"column":"{column}","op":"lt","value":"10"}}]"#);
        format!(
            r#"{{"type":"subscribe","after":"earliest",
               "subscriptions":[{{"table":"plain","filter":{filter}}}]}}"#
        )
    };
    say(&engine, &client, &subscribe("absent"));
    work(&engine, &mut reader.connection).await;
    let error = frames(&client)[0].clone();
    assert_eq!(error["type"], "error");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("subscriptions[0].filter[0].column"),
        "{message}"
    );
    assert!(inbox(&client).ids().is_empty());

    say(&engine, &client, &subscribe("p"));
    work(&engine, &mut reader.connection).await;
    // As numbers: 2 < 10, which as text it is not.
    assert_eq!(inbox(&client).ids(), [1]);
}

async fn a_filter_that_old_rows_do_not_cover_is_warned_of_with_the_sql_that_fixes_it(
    version: Version,
) {
    let feed = TestFeed::create(version, TABLES, "FOR ALL TABLES").await;
    let mut reader = feed.reader().await;
    let engine = engine();
    let client = join_unlimited(&engine, view(""), Start::Now);
    let subscribe = r#"{"type":"subscribe","subscriptions":[
        {"table":"plain","filter":[{"column":"f","op":"gt","value":1}]}]}"#;
    say(&engine, &client, subscribe);
    publish(&engine, at(0));
    work(&engine, &mut reader.connection).await;
    let welcome = frames(&client)[0].clone();
    assert_eq!(welcome["warnings"][0]["columns"][0], "f", "{welcome}");
    let sql = welcome["warnings"][0]["sql"].as_str().unwrap().to_owned();
    feed.run(&sql).await;
    say(&engine, &client, subscribe);
    work(&engine, &mut reader.connection).await;
    let welcomes = inbox(&client).all("welcome");
    assert_eq!(welcomes.len(), 2);
    assert!(welcomes[1]["warnings"].is_null(), "{}", welcomes[1]);
}
