//! Whatever prevents a database from being captured is reported before anything is created,
//! together with what fixes it; and that does fix it.

use pg_change_feed::config::{Fields, ReplicationConfig};
use pg_change_feed::error::{Category, Error, Result};
use pg_change_feed::postgres::DatabaseUrl;
use pg_change_feed::state;
use serde_json::json;

use crate::support::cluster::Cluster;
use crate::support::feed::{client, config};
use crate::support::server::{Database, Version, connect};

on_each_version!(
    a_low_wal_level_is_reported_with_the_setting,
    a_server_without_a_free_slot_is_reported_with_the_setting,
    a_role_that_may_not_replicate_is_reported_with_the_sql_that_fixes_it,
    missing_grants_on_the_tables_are_reported_with_the_sql_that_fixes_them,
    a_role_that_may_not_create_tables_is_reported_with_the_ways_out,
    a_slot_created_for_something_else_is_refused_and_left_alone,
    a_newer_schema_is_refused_and_left_alone,
    a_missing_publication_is_reported_with_the_sql_that_creates_it,
    concurrent_initialisations_create_everything_once,
    dropped_tables_are_created_again_and_no_id_is_reused,
    a_slot_with_two_phase_or_of_a_session_is_refused_with_the_sql_that_removes_it,
    a_name_that_is_taken_is_reported_with_both_ways_out,
    a_database_that_is_read_only_by_default_is_initialised_and_begins_new_epochs,
    a_database_that_refuses_writes_is_reported,
);

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY); \
                     CREATE PUBLICATION feed FOR TABLE items";

async fn run(url: &DatabaseUrl, sql: &str) {
    client(url).await.batch_execute(sql).await.unwrap();
}

async fn value(url: &DatabaseUrl, sql: &str) -> String {
    let rows = client(url).await.simple_query(sql).await.unwrap();
    let row = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.unwrap_or_default()
}

async fn initialize(url: &DatabaseUrl, slot: &str) -> Result<()> {
    let mut connection = connect(url).await;
    let initialized = state::initialize(&mut connection, &config(slot)).await;
    connection.close().await;
    initialized
}

async fn refused(url: &DatabaseUrl, slot: &str) -> Error {
    initialize(url, slot).await.unwrap_err()
}

/// Checks the category and the code of an error, and that its remedy contains `remedy`.
#[track_caller]
fn assert_reported(error: &Error, category: Category, code: &str, remedy: &str) {
    assert_eq!(
        (error.category(), error.code()),
        (category, code),
        "{error}"
    );
    let actual = error.remedy().unwrap_or_default();
    assert!(actual.contains(remedy), "{actual}");
}

async fn nothing_was_created(url: &DatabaseUrl) -> bool {
    let made = "SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE '%change_history%') \
                + (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())";
    value(url, made).await == "0"
}

async fn a_low_wal_level_is_reported_with_the_setting(version: Version) {
    let cluster = Cluster::start_with(version, &[("wal_level", "replica")]);
    let url: DatabaseUrl = cluster.url().parse().unwrap();
    run(&url, ITEMS).await;
    let error = refused(&url, "slot").await;
    let remedy = "ALTER SYSTEM SET wal_level = 'logical'";
    assert_reported(&error, Category::Configuration, "wal_level_too_low", remedy);
    assert!(nothing_was_created(&url).await);
}

async fn a_server_without_a_free_slot_is_reported_with_the_setting(version: Version) {
    let cluster = Cluster::start_with(version, &[("max_replication_slots", "1")]);
    let url: DatabaseUrl = cluster.url().parse().unwrap();
    run(&url, ITEMS).await;
    run(&url, "SELECT pg_create_physical_replication_slot('other')").await;
    let error = refused(&url, "slot").await;
    let remedy = "ALTER SYSTEM SET max_replication_slots = 5";
    assert_reported(&error, Category::Configuration, "no_free_slot", remedy);
    run(&url, "SELECT pg_drop_replication_slot('other')").await;
    initialize(&url, "slot").await.unwrap();
}

/// Creates a role that is named after the database and has only the privileges in `options`.
async fn make_role(database: &Database, options: &str) -> DatabaseUrl {
    let mut url = database.url();
    let role = format!("{}_role", url.login.database);
    run(&url, &format!("CREATE ROLE {role} LOGIN {options}")).await;
    run(&url, &format!("ALTER ROLE {role} PASSWORD 'secret'")).await;
    url.login.user = role;
    url.login.password = Some(b"secret".to_vec());
    url
}

async fn drop_role(database: &Database, role: &DatabaseUrl) {
    let role = &role.login.user;
    let sql = format!("DROP OWNED BY {role}; DROP ROLE {role}");
    run(&database.url(), &sql).await;
}

async fn a_role_that_may_not_replicate_is_reported_with_the_sql_that_fixes_it(version: Version) {
    let database = Database::create(version).await;
    let owner = database.url();
    run(&owner, ITEMS).await;
    let role = make_role(&database, "").await;
    let grant = format!(
        "GRANT CREATE, USAGE ON SCHEMA public TO {}",
        role.login.user
    );
    run(&owner, &grant).await;
    let slot = owner.login.database.clone();
    let error = refused(&role, &slot).await;
    let remedy = format!("ALTER ROLE \"{}\" REPLICATION", role.login.user);
    assert_reported(
        &error,
        Category::Permission,
        "replication_not_allowed",
        &remedy,
    );
    assert!(nothing_was_created(&owner).await);
    run(&owner, &remedy).await;
    initialize(&role, &slot).await.unwrap();
    let drop_slot = format!("SELECT pg_drop_replication_slot('{slot}')");
    run(&owner, &drop_slot).await;
    drop_role(&database, &role).await;
}

async fn missing_grants_on_the_tables_are_reported_with_the_sql_that_fixes_them(version: Version) {
    let database = Database::create(version).await;
    let owner = database.url();
    run(&owner, ITEMS).await;
    let slot = owner.login.database.clone();
    initialize(&owner, &slot).await.unwrap();
    let role = make_role(&database, "REPLICATION").await;
    let error = refused(&role, &slot).await;
    let remedy = "GRANT SELECT, INSERT, DELETE ON change_history TO";
    assert_reported(&error, Category::Permission, "grants_missing", remedy);
    // The SQL is run exactly as the remedy says.
    let actual = error.remedy().unwrap().to_owned();
    let sql = actual.strip_prefix("as their owner, run ").unwrap();
    run(&owner, sql).await;
    initialize(&role, &slot).await.unwrap();
    drop_role(&database, &role).await;
}

async fn a_role_that_may_not_create_tables_is_reported_with_the_ways_out(version: Version) {
    let database = Database::create(version).await;
    run(&database.url(), ITEMS).await;
    let role = make_role(&database, "REPLICATION").await;
    let error = refused(&role, "slot").await;
    let remedy = "GRANT USAGE, CREATE ON SCHEMA public";
    assert_reported(&error, Category::Permission, "permission_denied", remedy);
    drop_role(&database, &role).await;
}

async fn a_slot_created_for_something_else_is_refused_and_left_alone(version: Version) {
    let database = Database::create(version).await;
    let elsewhere = Database::create(version).await;
    let url = database.url();
    run(&url, ITEMS).await;
    let slot = |kind: &str| format!("{}_{kind}", url.login.database);
    let (physical, plugin, foreign) = (slot("physical"), slot("plugin"), slot("foreign"));
    let make = format!("SELECT pg_create_physical_replication_slot('{physical}')");
    run(&url, &make).await;
    let make = format!("SELECT pg_create_logical_replication_slot('{plugin}', 'test_decoding')");
    run(&url, &make).await;
    let make = format!("SELECT pg_create_logical_replication_slot('{foreign}', 'pgoutput')");
    run(&elsewhere.url(), &make).await;
    for (slot, what) in [
        (&physical, "physical"),
        (&plugin, "another output plugin"),
        (&foreign, "another database"),
    ] {
        let error = refused(&url, slot).await;
        let remedy = format!("pg_drop_replication_slot('{slot}')");
        assert_reported(&error, Category::Configuration, "slot_unusable", &remedy);
        assert!(error.to_string().contains(what), "{error}");
        let exists =
            format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'");
        assert_eq!(value(&url, &exists).await, "1");
    }
    let drop_slot = format!("SELECT pg_drop_replication_slot('{physical}')");
    run(&url, &drop_slot).await;
}

async fn a_newer_schema_is_refused_and_left_alone(version: Version) {
    let database = Database::create(version).await;
    let url = database.url();
    run(&url, ITEMS).await;
    let slot = url.login.database.clone();
    initialize(&url, &slot).await.unwrap();
    let newer = "INSERT INTO replication_migration VALUES (999, '0999_from_the_future')";
    run(&url, newer).await;
    let error = refused(&url, &slot).await;
    let remedy = "deploy the newer build";
    assert_reported(&error, Category::Configuration, "schema_too_new", remedy);
    let migrations = "SELECT string_agg(version::text, ',') FROM replication_migration";
    assert!(value(&url, migrations).await.ends_with("999"));
}

async fn a_missing_publication_is_reported_with_the_sql_that_creates_it(version: Version) {
    let database = Database::create(version).await;
    let url = database.url();
    run(&url, "CREATE TABLE items (id int PRIMARY KEY)").await;
    let slot = url.login.database.clone();
    let error = refused(&url, &slot).await;
    let remedy = "CREATE PUBLICATION \"feed\" FOR TABLE";
    assert_reported(
        &error,
        Category::PublicationMissing,
        "publication_missing",
        remedy,
    );
    assert!(nothing_was_created(&url).await);

    let given = json!({"slot": slot, "publication": "feed", "tables": ["items", "missing"]});
    let fields: Fields = serde_json::from_value(given).unwrap();
    let wrong = ReplicationConfig::from_fields(&Fields::new(), &fields).unwrap();
    let mut connection = connect(&url).await;
    let error = state::initialize(&mut connection, &wrong)
        .await
        .unwrap_err();
    assert_reported(&error, Category::Configuration, "table_missing", "tables");
}

async fn concurrent_initialisations_create_everything_once(version: Version) {
    let database = Database::create(version).await;
    let url = database.url();
    run(&url, ITEMS).await;
    let slot = url.login.database.clone();
    let all = (0..6).map(|_| initialize(&url, &slot));
    for initialized in futures_util::future::join_all(all).await {
        initialized.unwrap();
    }
    let migrations = "SELECT count(*) FROM replication_migration";
    assert_eq!(value(&url, migrations).await, "3");
    let checkpoints = "SELECT count(*) FROM replication_checkpoint";
    assert_eq!(value(&url, checkpoints).await, "1");
}

async fn dropped_tables_are_created_again_and_no_id_is_reused(version: Version) {
    let items = "CREATE TABLE items (id int PRIMARY KEY)";
    let feed = crate::support::feed::TestFeed::create(version, items, "FOR TABLE items").await;
    feed.run("INSERT INTO items SELECT generate_series(1, 3)")
        .await;
    assert_eq!(feed.reader().await.drain().await.unwrap(), 3);
    feed.run("DROP TABLE change_history; INSERT INTO items VALUES (4)")
        .await;

    let mut connection = connect(feed.url()).await;
    let error = state::read_database_state(&mut connection, &feed.config.slot).await;
    let error = error.unwrap_err();
    assert_reported(
        &error,
        Category::Configuration,
        "tables_missing",
        "POST /init",
    );

    initialize(feed.url(), &feed.config.slot).await.unwrap();
    assert_eq!(feed.reader().await.drain().await.unwrap(), 1);
    let kept = "SELECT string_agg(id || ':' || (data ->> 'id'), ',') FROM change_history";
    assert_eq!(feed.value(kept).await, "4:4");

    // Without its checkpoint the history cannot be continued: what follows is in a new epoch.
    feed.run("DROP TABLE replication_checkpoint; INSERT INTO items VALUES (5)")
        .await;
    initialize(feed.url(), &feed.config.slot).await.unwrap();
    feed.reader().await.drain().await.unwrap();
    let newest = "SELECT epoch || ' ' || id FROM change_history WHERE data ->> 'id' = '5'";
    assert_eq!(feed.value(newest).await, "2 5");
}

async fn a_slot_with_two_phase_or_of_a_session_is_refused_with_the_sql_that_removes_it(
    version: Version,
) {
    let database = Database::create(version).await;
    let url = database.url();
    run(&url, ITEMS).await;
    let slot = url.login.database.clone();
    for (options, what) in [("false, true", "two_phase"), ("true, false", "temporary")] {
        let session = client(&url).await;
        let make =
            format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', {options})");
        session.batch_execute(&make).await.unwrap();
        let error = refused(&url, &slot).await;
        assert_reported(&error, Category::Configuration, "slot_unusable", &slot);
        assert!(error.to_string().contains(what), "{error}");
        let remedy = error.remedy().unwrap();
        let (_, sql) = remedy.split_once("run ").unwrap();
        let (sql, _) = sql.split_once("; and call").unwrap();
        run(&url, sql).await;
        let left = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'");
        while value(&url, &left).await != "0" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    initialize(&url, &slot).await.unwrap();
}

async fn a_name_that_is_taken_is_reported_with_both_ways_out(version: Version) {
    for way_out in ["ALTER TABLE", "CREATE SCHEMA"] {
        let database = Database::create(version).await;
        let url = database.url();
        run(&url, ITEMS).await;
        run(
            &url,
            "CREATE TABLE change_history (id serial primary key, note text); \
             CREATE VIEW change_history_lsn AS SELECT 1 AS one",
        )
        .await;
        let slot = url.login.database.clone();
        let error = refused(&url, &slot).await;
        assert_reported(&error, Category::Configuration, "name_taken", way_out);
        assert!(
            error.to_string().contains("public.change_history"),
            "{error}"
        );
        // The SQL is run exactly as the remedy says.
        let remedy = error.remedy().unwrap();
        let (_, sql) = remedy.split_once(way_out).unwrap();
        let (sql, _) = sql
            .split_once("; or give")
            .unwrap_or_else(|| sql.split_once("; and call").unwrap());
        run(&url, &format!("{way_out}{sql}")).await;
        initialize(&url, &slot).await.unwrap();
        initialize(&url, &slot).await.unwrap();
    }
}

async fn make_read_only(url: &DatabaseUrl) {
    let database = &url.login.database;
    let sql = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    run(url, &sql).await;
}

async fn a_database_that_is_read_only_by_default_is_initialised_and_begins_new_epochs(
    version: Version,
) {
    let database = Database::create(version).await;
    let url = database.url();
    run(&url, ITEMS).await;
    make_read_only(&url).await;
    let slot = url.login.database.clone();
    initialize(&url, &slot).await.unwrap();
    run(&url, &format!("SELECT pg_drop_replication_slot('{slot}')")).await;
    let resumption = state::Resumption {
        slot: &slot,
        publication: "feed",
        last_known: None,
        publication_was_missing: false,
        on_slot_lost: pg_change_feed::config::OnSlotLost::Recover,
    };
    let mut connection = connect(&url).await;
    let resumed = state::resume(&mut connection, resumption).await.unwrap();
    assert_eq!(
        resumed.discontinuity,
        Some(state::Discontinuity::SlotMissing)
    );
    let resumed = state::resume(&mut connection, resumption).await.unwrap();
    assert_eq!(resumed.discontinuity, None);
    connection.close().await;
}

async fn a_database_that_refuses_writes_is_reported(version: Version) {
    let items = "CREATE TABLE items (id int PRIMARY KEY)";
    let feed = crate::support::feed::TestFeed::create(version, items, "FOR TABLE items").await;
    feed.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$BEGIN RAISE 'no space' USING ERRCODE = '25006'; END$$; \
         CREATE TRIGGER refuse BEFORE INSERT ON change_history EXECUTE FUNCTION refuse(); \
         INSERT INTO items VALUES (1)",
    )
    .await;
    let error = feed.reader().await.poll().await.unwrap_err();
    assert_reported(
        &error,
        Category::Configuration,
        "database_read_only",
        "default_transaction_read_only",
    );
}
