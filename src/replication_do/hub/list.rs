//! One client as `GET /clients` shows it.

use serde_json::{Value, json};

use crate::clients::{Attachment, Cursor, Position, Subscriptions, SyncClient, View};

pub(super) fn socket(client: &Attachment, head: Option<Position>) -> Value {
    json!({
        "id": client.client.as_str(),
        "kind": "websocket",
        "subscriptions": subscriptions(&client.view),
        "cursor": client.cursor.position(),
        "lag": lag(&client.cursor, head),
        "unacknowledgedBytes": client.cursor.unacknowledged(),
        "connectedAt": client.connected_at,
        "expiresAt": client.expires_at.map(|seconds| seconds.saturating_mul(1_000)),
    })
}

pub(super) fn sync_do(client: &SyncClient, head: Option<Position>) -> Value {
    json!({
        "id": client.id.as_str(),
        "kind": "sync_do",
        "binding": client.binding,
        "subscriptions": subscriptions(&client.view),
        "cursor": client.cursor.position(),
        "lag": lag(&client.cursor, head),
        "connectedAt": client.registered_at,
        "lastSeenAt": client.last_seen_at,
        "expiresAt": client.expires_at,
        "consecutiveFailures": client.failures,
        "lastError": client.last_error,
    })
}

/// What the client asked for; null for everything.
fn subscriptions(view: &View) -> Value {
    match view.wanted() {
        Subscriptions::AllTables => Value::Null,
        Subscriptions::Tables(tables) => {
            let tables = tables.iter().map(
                |it| json!({"table": it.table().to_string(), "conditions": it.filter().len()}),
            );
            tables.collect()
        }
    }
}

/// Changes between the cursor and the head, for the client or not.
fn lag(cursor: &Cursor, head: Option<Position>) -> Option<i64> {
    let (at, head) = (cursor.position()?, head?);
    (at.epoch == head.epoch).then(|| head.id.saturating_sub(at.id))
}
