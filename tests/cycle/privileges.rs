//! What a role needs: LOGIN, REPLICATION and grants on tables, as managed services give it.

use crate::support::feed::{Reader, TestFeed, config};
use crate::support::history::read_sound_history;
use crate::support::server::{Version, connect, open_socket};

use pg_change_feed::state;

on_each_version!(a_role_with_login_replication_and_table_grants_runs_the_feed);

async fn a_role_with_login_replication_and_table_grants_runs_the_feed(version: Version) {
    let items = "CREATE TABLE items (id int PRIMARY KEY, note text)";
    let mut feed = TestFeed::create(version, items, "FOR TABLE items").await;
    let role = format!("{}_role", feed.feed.slot);
    feed.run(&format!(
        "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'secret'; \
         GRANT SELECT, INSERT, UPDATE, DELETE \
           ON change_history, replication_checkpoint, replication_migration TO {role}; \
         GRANT UPDATE ON SEQUENCE change_history_id_seq TO {role}; \
         INSERT INTO items VALUES (1, 'not readable for the role')"
    ))
    .await;
    let mut url = feed.url().clone();
    url.login.user.clone_from(&role);
    url.login.password = Some(b"secret".to_vec());

    // Where the owner has made the tables, the role finds nothing left to make.
    let mut connection = connect(&url).await;
    let initialized = state::initialize(&mut connection, &config(&feed.feed.slot)).await;
    initialized.unwrap();
    connection.close().await;

    let owner = feed.log_in_as(url);
    let stream = open_socket(feed.url()).await;
    let mut reader = Reader::resume(stream, &feed).await.unwrap();
    assert_eq!(reader.drain().await.unwrap(), 1);
    assert!(reader.poll().await.unwrap().complete);
    drop(reader);

    feed.log_in_as(owner);
    assert_eq!(read_sound_history(&feed).await.len(), 1);
    feed.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"))
        .await;
}
