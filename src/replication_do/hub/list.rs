//! One client, as `GET /clients` shows it.

use serde_json::{Value, json};

use super::sinks::ClientSink;
use crate::clients::{Position, Subscriptions, View};
use crate::delivery::{Consumer, Cursor};

/// A consumer; `None` for a request, which ends soon.
pub(super) fn consumer(consumer: &Consumer<ClientSink>, head: Option<Position>) -> Option<Value> {
    let state = consumer.state();
    match consumer.sink() {
        ClientSink::WebSocket(_) => Some(json!({
            "id": state.client.as_str(),
            "kind": "websocket",
            "subscriptions": subscriptions(&state.view),
            "cursor": state.cursor.position(),
            "lag": lag(&state.cursor, head),
            "unacknowledgedBytes": state.cursor.unacknowledged(),
            "connectedAt": state.connected_at,
            "expiresAt": state.expires_at,
        })),
        ClientSink::SyncDo(sink) => {
            let answers = state.answers.clone().unwrap_or_default();
            Some(json!({
                "id": state.client.as_str(),
                "kind": "sync_do",
                "binding": sink.target().binding,
                "subscriptions": subscriptions(&state.view),
                "cursor": state.cursor.position(),
                "lag": lag(&state.cursor, head),
                "connectedAt": state.connected_at,
                "lastSeenAt": answers.last_seen_at,
                "expiresAt": state.expires_at,
                "consecutiveFailures": answers.failures,
                "lastError": answers.last_error,
            }))
        }
        ClientSink::Page(_) => None,
    }
}

/// What the client asked for; null for everything.
fn subscriptions(view: &View) -> Value {
    match view.wanted() {
        Subscriptions::AllTables => Value::Null,
        Subscriptions::Tables(tables) => {
            let tables = tables.iter().map(|subscription| {
                json!({
                    "table": subscription.table().to_string(),
                    "conditions": subscription.filter().len(),
                })
            });
            tables.collect()
        }
    }
}

/// Changes between the cursor and the head, for the client or not.
fn lag(cursor: &Cursor, head: Option<Position>) -> Option<i64> {
    let (at, head) = (cursor.position()?, head?);
    (at.epoch == head.epoch).then(|| head.id.saturating_sub(at.id))
}
