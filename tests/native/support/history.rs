//! Reads `change_history` and checks its invariants.

use std::collections::HashSet;

use pg_change_feed::lsn::Lsn;
use serde_json::Value;

use super::feed::TestFeed;

/// One row of `change_history`.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub id: i64,
    pub lsn: Lsn,
    pub table: String,
    pub operation: String,
    pub data: Value,
    pub old: Option<Value>,
    pub unchanged: Vec<String>,
    pub omitted: Vec<String>,
    pub as_text: Vec<String>,
    pub xid: i64,
    pub epoch: i32,
}

/// Reads the whole history, in id order.
pub async fn read_history(feed: &TestFeed) -> Vec<Stored> {
    const READ: &str = "\
SELECT id, lsn, table_name, operation, data::text, old_data::text, \
       coalesce(unchanged, '{}'), coalesce(omitted, '{}'), coalesce(as_text, '{}'), xid, epoch \
FROM change_history ORDER BY id";
    let json = |text: &str| serde_json::from_str(text).unwrap();
    let rows = feed.client().await.query(READ, &[]).await.unwrap();
    rows.iter()
        .map(|row| Stored {
            id: row.get(0),
            lsn: row.get::<_, &str>(1).parse().unwrap(),
            table: row.get(2),
            operation: row.get(3),
            data: json(row.get(4)),
            old: row.get::<_, Option<&str>>(5).map(json),
            unchanged: row.get(6),
            omitted: row.get(7),
            as_text: row.get(8),
            xid: row.get(9),
            epoch: row.get(10),
        })
        .collect()
}

/// Reads the history and checks the invariants of every history of one epoch: ids without gaps,
/// transactions whole and in commit order, checkpoint and sequence at the last id.
pub async fn read_sound_history(feed: &TestFeed) -> Vec<Stored> {
    let history = read_history(feed).await;
    for (expected, change) in (1..).zip(&history) {
        assert_eq!(change.id, expected, "ids have a gap or repeat");
    }
    let mut ended = HashSet::new();
    for pair in history.windows(2) {
        let [before, after] = pair else { continue };
        if before.xid == after.xid {
            assert_eq!(before.lsn, after.lsn, "a transaction has two positions");
            continue;
        }
        assert!(before.lsn < after.lsn, "{before:?} is before {after:?}");
        assert!(
            ended.insert(before.xid) && !ended.contains(&after.xid),
            "transaction {} comes in parts",
            after.xid
        );
    }
    let last = history.last().map_or(0, |change| change.id);
    let checkpoint = feed
        .value("SELECT last_id FROM replication_checkpoint")
        .await;
    assert_eq!(checkpoint, last.to_string(), "the checkpoint's last id");
    if last > 0 {
        let sequence = "SELECT last_value FROM change_history_id_seq";
        assert_eq!(feed.value(sequence).await, last.to_string(), "the sequence");
    }
    history
}
