//! What feeds write is never captured, whatever finds it by its name.

use pg_change_feed::polling::Expect;
use pg_change_feed::state;

use crate::support::feed::{TestFeed, config};
use crate::support::server::{Version, connect};

on_each_version!(
    a_schema_that_comes_first_in_the_search_path_later_does_not_make_the_feed_capture_itself,
    two_feeds_of_all_tables_do_not_capture_each_other,
    a_partitioned_history_in_any_schema_is_not_captured,
    a_table_that_is_only_named_like_the_history_is_captured,
    no_function_of_another_schema_is_called,
);

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, note text)";

/// Runs cycles, of which each reads what the one before it has written.
async fn poll_again_and_again(feed: &TestFeed) {
    let mut reader = feed.reader().await;
    for _ in 0..8 {
        let report = reader.poll_expecting(Expect::Changes).await.unwrap();
        assert!(report.advance_error.is_none());
    }
    reader.connection.close().await;
}

async fn captured(feed: &TestFeed, history: &str) -> String {
    let tables = format!("SELECT string_agg(table_name, ' ' ORDER BY id) FROM {history}");
    feed.value(&tables).await
}

async fn a_schema_that_comes_first_in_the_search_path_later_does_not_make_the_feed_capture_itself(
    version: Version,
) {
    let feed = TestFeed::create(version, ITEMS, "FOR ALL TABLES").await;
    poll_again_and_again(&feed).await;
    let user = &feed.url().login.user;
    feed.run(&format!(
        "CREATE SCHEMA {user}; INSERT INTO items VALUES (1)"
    ))
    .await;
    poll_again_and_again(&feed).await;
    assert_eq!(captured(&feed, "public.change_history").await, "items");
}

async fn two_feeds_of_all_tables_do_not_capture_each_other(version: Version) {
    let mut feed = TestFeed::create(version, ITEMS, "FOR ALL TABLES").await;
    let first = feed.config.slot.clone();
    let second = format!("{first}_second");
    feed.run(&format!(
        "CREATE ROLE {second} LOGIN SUPERUSER PASSWORD 'secret'; CREATE SCHEMA {second}; \
         ALTER ROLE {second} SET search_path = {second}"
    ))
    .await;
    let mut login = feed.url().clone();
    login.login.user = second.clone();
    login.login.password = Some(b"secret".to_vec());
    // The first feed was there before, and has a connection that it keeps.
    let mut reader = feed.reader().await;
    reader.drain().await.unwrap();
    let mut connection = connect(&login).await;
    state::initialize(&mut connection, &config(&second))
        .await
        .unwrap();
    connection.close().await;
    feed.run("INSERT INTO items VALUES (1)").await;
    for _ in 0..4 {
        let owner = feed.log_in_as(login.clone());
        feed.config.slot.clone_from(&second);
        poll_again_and_again(&feed).await;
        feed.log_in_as(owner);
        feed.config.slot.clone_from(&first);
        reader.poll_expecting(Expect::Changes).await.unwrap();
    }
    let histories = [
        "public.change_history".to_owned(),
        format!("{second}.change_history"),
    ];
    for history in histories {
        assert_eq!(captured(&feed, &history).await, "items", "{history}");
    }
    reader.connection.close().await;
    feed.run(&format!(
        "SELECT pg_drop_replication_slot('{second}'); DROP OWNED BY {second}; DROP ROLE {second}"
    ))
    .await;
}

async fn a_partitioned_history_in_any_schema_is_not_captured(version: Version) {
    let feed = TestFeed::create(version, "CREATE SCHEMA other", "FOR TABLES IN SCHEMA other").await;
    let mut reader = feed.reader().await;
    feed.run(
        "CREATE TABLE other.change_history (LIKE public.change_history INCLUDING DEFAULTS) \
         PARTITION BY RANGE (id); CREATE TABLE other.replication_checkpoint \
         (LIKE public.replication_checkpoint); CREATE TABLE other.old PARTITION OF \
         other.change_history FOR VALUES FROM (1) TO (100)",
    )
    .await;
    let write = "INSERT INTO other.change_history (id, lsn, table_name, operation, data) \
                 SELECT max(id) + 1, '0/1', 't', 'insert', '{}' FROM \
                 (SELECT id FROM other.change_history UNION ALL SELECT 1) AS ids; \
                 INSERT INTO other.replication_checkpoint VALUES ('s', 1, '0/1', 1, now(), '1', 1)";
    for (meanwhile, known) in [
        ("SELECT", false),
        ("SELECT", true),
        (
            "ALTER PUBLICATION feed SET (publish_via_partition_root)",
            true,
        ),
    ] {
        if known {
            reader.connection.close().await;
            feed.run(meanwhile).await;
            // Another definition, which a new epoch would follow: here it is only taken over.
            feed.run("UPDATE replication_checkpoint SET publication = NULL")
                .await;
            reader = feed.reader().await;
        }
        feed.run(write).await;
        let report = reader.poll_expecting(Expect::Changes).await.unwrap();
        assert_eq!(report.stored, 0, "{meanwhile} {known}");
    }
}

async fn a_table_that_is_only_named_like_the_history_is_captured(version: Version) {
    let tables = "CREATE SCHEMA shop; \
                  CREATE TABLE shop.change_history (id serial PRIMARY KEY, note text)";
    let feed = TestFeed::create(version, tables, "FOR ALL TABLES").await;
    feed.run("INSERT INTO shop.change_history (note) VALUES ('a')")
        .await;
    poll_again_and_again(&feed).await;
    let tables = captured(&feed, "public.change_history").await;
    assert_eq!(tables, "shop.change_history");
}

/// Somebody who may create functions in a schema of the search path must not have them called as the
/// feed's role: one whose arguments fit better is preferred to Postgres's own.
async fn no_function_of_another_schema_is_called(version: Version) {
    let feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let trap = |name: &str, arguments: &str, result: &str| {
        format!(
            "CREATE FUNCTION public.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS \
             $$BEGIN RAISE 'called'; END$$;"
        )
    };
    let traps = [
        trap("has_function_privilege", "regprocedure, text", "bool"),
        trap("has_table_privilege", "regclass, text", "bool"),
        trap("has_sequence_privilege", "regclass, text", "bool"),
        trap("to_regclass", "varchar", "regclass"),
        trap("pg_replication_slot_advance", "text, pg_lsn", "text"),
        trap("pg_create_logical_replication_slot", "text, text", "text"),
        trap("pg_drop_replication_slot", "text", "text"),
        trap("set_config", "varchar, text, bool", "text"),
        trap("pg_get_serial_sequence", "varchar, varchar", "text"),
        trap("setval", "text, bigint", "bigint"),
        trap("format", "text, text, text, name", "text"),
    ];
    feed.run(&traps.join(" ")).await;
    let slot = &feed.config.slot;
    let mut connection = connect(feed.url()).await;
    state::initialize(&mut connection, &config(slot))
        .await
        .unwrap();
    connection.close().await;
    feed.run("INSERT INTO items VALUES (1)").await;
    poll_again_and_again(&feed).await;
    assert_eq!(captured(&feed, "change_history").await, "items");
}
