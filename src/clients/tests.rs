//! The client protocol without a socket.

mod attachments;
mod bearers;
mod connects;
mod cursors;
mod filters;
mod frames;
mod tickets;
mod views;

use serde_json::{Value, json};

use super::{ClientMessage, Subscription, Subscriptions};

/// Subscriptions as a client sends them.
fn subscriptions(list: &Value) -> Vec<Subscription> {
    let frame = json!({"type": "subscribe", "subscriptions": list}).to_string();
    match ClientMessage::parse(&frame) {
        Ok(ClientMessage::Subscribe {
            wanted: Subscriptions::Tables(tables),
            ..
        }) => tables,
        other => panic!("{frame}: {other:?}"),
    }
}

/// A change's JSON as the feed writes it.
fn change(operation: &str, data: &Value, old: &Value) -> Value {
    json!({"id": 42, "lsn": "0/16B3748", "epoch": 1, "xid": 771, "schema": "public",
        "table": "orders", "operation": operation, "data": data, "old": old, "unchanged": [],
        "omitted": [], "committedAt": "2026-01-01T00:00:00.123456Z"})
}
