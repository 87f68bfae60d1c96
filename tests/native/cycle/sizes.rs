//! What is stored can be read back: a row's size is what `jsonb` prints of it, not what arrived.

use serde_json::{Value, json};

use crate::support::feed::TestFeed;
use crate::support::history::{Stored, read_sound_history};
use crate::support::server::Version;

on_each_version!(
    rows_that_grow_when_they_are_read_back_stay_within_the_row_limit,
    old_and_new_row_share_the_row_limit_as_they_are_read_back,
);

/// The row limit of the feeds, which is the default.
const LIMIT: i64 = 8 << 20;

const LONGEST: &str = "SELECT max(octet_length(data::text) + \
     coalesce(octet_length(old_data::text), 0)) FROM change_history";

async fn read_within_the_limit(feed: &TestFeed) -> Vec<Stored> {
    let longest: i64 = feed.value(LONGEST).await.parse().unwrap();
    assert!(longest <= LIMIT, "{longest} bytes");
    read_sound_history(feed).await
}

/// `jsonb` prints numbers without exponents: 1.4 KB of JSON become 20 MB.
async fn rows_that_grow_when_they_are_read_back_stay_within_the_row_limit(version: Version) {
    let inflated = format!("[{}1]", "1e131000,".repeat(150));
    let tables = "CREATE TABLE sci (id int PRIMARY KEY, v float8[], doc json, docs json[])";
    let feed = TestFeed::create(version, tables, "FOR TABLE sci").await;
    feed.run(&format!(
        "INSERT INTO sci SELECT 1, array_fill(1e308::float8, ARRAY[70000]); \
         INSERT INTO sci SELECT 2, array_fill(1e-300::float8, ARRAY[70000]); \
         INSERT INTO sci VALUES (3, '{{1e308}}', '{inflated}'); \
         INSERT INTO sci VALUES (4, NULL, '[1e3]', ARRAY['{inflated}']::json[])"
    ))
    .await;
    assert_eq!(feed.drain().await, 4);

    let history = read_within_the_limit(&feed).await;
    let nothing = Value::Null;
    assert_eq!(history[0].data, json!({"id": 1, "doc": null, "docs": null}));
    assert_eq!(history[0].omitted, ["v"]);
    assert_eq!(history[1].data, json!({"id": 2, "doc": null, "docs": null}));
    assert_eq!(history[1].omitted, ["v"]);
    // The document's text is short enough.
    let expected = json!({"id": 3, "v": [1e308], "doc": inflated, "docs": nothing});
    assert_eq!(history[2].data, expected);
    assert_eq!(history[2].as_text, ["doc"]);
    assert_eq!(
        history[3].data,
        json!({"id": 4, "v": nothing, "doc": [1000]})
    );
    assert_eq!(history[3].omitted, ["docs"]);
}

async fn old_and_new_row_share_the_row_limit_as_they_are_read_back(version: Version) {
    let tables = "CREATE TABLE docs (id int PRIMARY KEY, a json, b int[]); \
                  ALTER TABLE docs REPLICA IDENTITY FULL";
    let feed = TestFeed::create(version, tables, "FOR TABLE docs").await;
    let document = format!("[{}1]", "1e300,".repeat(17_500));
    feed.run(&format!(
        "INSERT INTO docs VALUES (1, '{document}', '{{}}'); \
         UPDATE docs SET a = '[2]', b = array_fill(7, ARRAY[1500000]); \
         UPDATE docs SET b = array_fill(8, ARRAY[1500000])"
    ))
    .await;
    assert_eq!(feed.drain().await, 3);
    let history = read_within_the_limit(&feed).await;
    assert!(history[0].as_text.is_empty() && history[0].omitted.is_empty());
    // The array of 4.5 MB as read leaves no room for the old document of 5.3 MB, but for its text.
    assert_eq!(history[1].old.as_ref().unwrap()["a"], document);
    assert_eq!(history[1].as_text, ["a"]);
    assert_eq!(history[1].data["b"].as_array().unwrap().len(), 1_500_000);
    // Twice the array is too much.
    assert_eq!(history[2].omitted, ["b"]);
    assert_eq!(history[2].data["a"], json!([2]));
}
