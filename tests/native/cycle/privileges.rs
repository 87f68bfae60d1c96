//! The privileges that a role needs: LOGIN, REPLICATION and grants on tables, as managed services
//! have.

use pg_change_feed::postgres::DatabaseUrl;
use pg_change_feed::state;

use crate::support::feed::{TestFeed, config};
use crate::support::history::read_sound_history;
use crate::support::server::{Version, connect};

on_each_version!(
    a_role_with_login_replication_and_table_grants_runs_the_feed,
    a_role_that_may_no_longer_log_snapshots_goes_on_without_them,
);

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, note text)";

/// Creates a role with only the privileges that it needs. Returns its login.
async fn make_role(feed: &TestFeed) -> DatabaseUrl {
    let role = format!("{}_role", feed.config.slot);
    feed.run(&format!(
        "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'secret'; \
         GRANT SELECT, INSERT, UPDATE, DELETE \
           ON change_history, replication_checkpoint, replication_migration TO {role}; \
         GRANT UPDATE ON SEQUENCE change_history_id_seq TO {role}"
    ))
    .await;
    let mut url = feed.url().clone();
    url.login.user = role;
    url.login.password = Some(b"secret".to_vec());
    url
}

async fn drop_role(feed: &TestFeed, role: &DatabaseUrl) {
    let role = &role.login.user;
    feed.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}

async fn a_role_with_login_replication_and_table_grants_runs_the_feed(version: Version) {
    let mut feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let role = make_role(&feed).await;
    feed.run("INSERT INTO items VALUES (1, 'not readable for the role')")
        .await;

    // The owner has created the tables, so nothing is left for the role to create.
    let mut connection = connect(&role).await;
    let initialized = state::initialize(&mut connection, &config(&feed.config.slot)).await;
    initialized.unwrap();
    connection.close().await;

    let owner = feed.log_in_as(role);
    let mut reader = feed.reader().await;
    assert!(!reader.cycle.may_log_snapshots);
    assert_eq!(reader.drain().await.unwrap(), 1);
    assert!(reader.poll().await.unwrap().complete);
    drop(reader);

    let role = feed.log_in_as(owner);
    assert_eq!(read_sound_history(&feed).await.len(), 1);
    drop_role(&feed, &role).await;
}

async fn a_role_that_may_no_longer_log_snapshots_goes_on_without_them(version: Version) {
    let mut feed = TestFeed::create(version, ITEMS, "FOR TABLE items").await;
    let role = make_role(&feed).await;
    feed.run("INSERT INTO items SELECT id, repeat('x', 1000) FROM generate_series(1, 1000) AS id")
        .await;
    let owner = feed.log_in_as(role);
    let mut reader = feed.reader().await;
    // As if the privilege had been revoked after the reader started.
    reader.cycle.may_log_snapshots = true;
    let report = reader.poll().await.unwrap();
    assert_eq!(report.stored, 1_000);
    assert!(report.advance_error.is_none(), "the slot has moved");
    let refused = report.snapshot_error.expect("it is refused");
    println!("{refused}");
    assert!(!reader.cycle.may_log_snapshots);

    let mut next = feed.reader().await;
    assert_eq!(next.drain().await.unwrap(), 0);
    drop((reader, next));
    let role = feed.log_in_as(owner);
    assert_eq!(read_sound_history(&feed).await.len(), 1_000);
    drop_role(&feed, &role).await;
}
