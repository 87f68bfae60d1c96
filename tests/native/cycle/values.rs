//! Values that `jsonb` cannot hold are stored as text and marked as such. They never stop the feed.

use serde_json::{Value, json};

use crate::support::feed::{Reader, TestFeed};
use crate::support::history::{Stored, read_sound_history};
use crate::support::server::{Database, Version};
use tokio::net::TcpStream;

on_each_version!(
    documents_that_jsonb_cannot_hold_are_stored_as_strings_of_their_text,
    documents_that_only_the_server_can_reject_are_stored_as_strings_of_their_text,
    documents_that_the_servers_encoding_cannot_hold_are_stored_as_strings_of_their_text,
);

const DOCUMENTS: &str =
    "CREATE TABLE documents (id int PRIMARY KEY, body json, bodies json[], note text)";

fn documents(history: &[Stored]) -> Vec<(&Value, &[String])> {
    history
        .iter()
        .map(|change| (&change.data["body"], change.as_text.as_slice()))
        .collect()
}

async fn documents_that_jsonb_cannot_hold_are_stored_as_strings_of_their_text(version: Version) {
    let feed = TestFeed::create(version, DOCUMENTS, "FOR TABLE documents").await;
    let deep = format!("{}{}", "[".repeat(6_000), "]".repeat(6_000));
    let refused = [r#""\u0000""#, r#"{"a":1e200000}"#, r#""\ud800""#, &deep];
    for (id, text) in refused.iter().enumerate() {
        feed.run(&format!(
            "INSERT INTO documents VALUES ({id}, '{text}', ARRAY['{text}', '1']::json[], 'kept')"
        ))
        .await;
    }
    feed.run(r#"INSERT INTO documents VALUES (9, '{"fits":1}', NULL, 'kept')"#)
        .await;
    assert_eq!(feed.drain().await, 5);

    let history = read_sound_history(&feed).await;
    for (change, text) in history.iter().zip(refused) {
        assert_eq!(change.data["body"], text);
        assert_eq!(change.data["bodies"], json!([text, 1]));
        assert_eq!(change.as_text, ["body", "bodies"]);
        assert_eq!(change.data["note"], "kept");
    }
    assert_eq!(history[4].data["body"], json!({ "fits": 1 }));
    assert!(history[4].as_text.is_empty());
}

/// Resumes as an object does after a failure: from the database, and with what the last cycle has
/// found out.
async fn resume_after(feed: &TestFeed, failed: Reader<TcpStream>) -> Reader<TcpStream> {
    let mut reader = feed.reader().await;
    reader.cycle.documents_as_text_from = failed.cycle.documents_as_text_from;
    reader
}

/// `max_stack_depth` limits how deep a document may be, and a server may have set it low.
async fn documents_that_only_the_server_can_reject_are_stored_as_strings_of_their_text(
    version: Version,
) {
    let mut feed = TestFeed::create(version, DOCUMENTS, "FOR TABLE documents").await;
    // One change in a slice, so that those before the rejected one are stored as documents.
    feed.config.slice_bytes = 1;
    let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let deep = nested(3_000);
    feed.run(&format!(
        "INSERT INTO documents VALUES (1, '[1]'), (2, '{deep}'), (3, '[3]')"
    ))
    .await;
    let database = &feed.url().login.database;
    let shallow = format!("ALTER DATABASE {database} SET max_stack_depth = '256kB'");
    feed.run(&shallow).await;

    let mut reader = feed.reader().await;
    let error = reader.poll().await.unwrap_err();
    assert_eq!(error.code(), "value_refused");
    assert_eq!(error.sqlstate(), Some("54001"));
    assert_eq!(read_sound_history(&feed).await, []);

    let mut reader = resume_after(&feed, reader).await;
    assert_eq!(reader.drain().await.unwrap(), 3);
    feed.run("INSERT INTO documents VALUES (4, '[4]')").await;
    assert_eq!(reader.drain().await.unwrap(), 1);
    let history = read_sound_history(&feed).await;
    assert_eq!(
        documents(&history),
        [
            (&json!([1]), [].as_slice()),
            (&json!(deep), ["body".to_owned()].as_slice()),
            (&json!("[3]"), ["body".to_owned()].as_slice()),
            (&json!([4]), [].as_slice()),
        ],
        "text from the rejected document on, until it is stored"
    );
}

/// `json` keeps any escape. `jsonb` converts it to a character of the database's encoding.
async fn documents_that_the_servers_encoding_cannot_hold_are_stored_as_strings_of_their_text(
    version: Version,
) {
    let latin1 = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    let database = Database::create_with(version, latin1).await;
    let feed = TestFeed::in_database(database.url(), DOCUMENTS, "FOR TABLE documents").await;
    feed.run(
        r#"INSERT INTO documents VALUES (1, '"\u4e2d"', NULL, E'\u00e9'), (2, '"x"', NULL, '')"#,
    )
    .await;
    let mut reader = feed.reader().await;
    let error = reader.poll().await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("22P05"));
    let mut reader = resume_after(&feed, reader).await;
    assert_eq!(reader.drain().await.unwrap(), 2);
    let history = read_sound_history(&feed).await;
    assert_eq!(history[0].data["body"], r#""\u4e2d""#);
    assert_eq!(history[0].as_text, ["body"]);
    assert_eq!(history[0].data["note"], "\u{e9}");
}
