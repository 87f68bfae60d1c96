//! The client protocol without a socket.

mod bearers;
mod connects;
mod filters;
mod frames;
mod tickets;
mod views;

use serde_json::{Value, json};

use super::{ClientMessage, SchemaHistory, SchemaStore, Subscription, Subscriptions, TableHistory};
use crate::config::TableName;
use crate::error::Result;

/// Subscriptions as a client sends them.
pub(crate) fn subscriptions(list: &Value) -> Vec<Subscription> {
    let frame = json!({"type": "subscribe", "subscriptions": list}).to_string();
    match ClientMessage::parse(&frame) {
        Ok(ClientMessage::Subscribe {
            wanted: Subscriptions::Tables(tables),
            ..
        }) => tables,
        other => panic!("{frame}: {other:?}"),
    }
}

/// A store that keeps nothing.
struct NoStore;

impl SchemaStore for NoStore {
    fn load(&self, _table: &TableName) -> Result<Option<TableHistory>> {
        Ok(None)
    }

    fn save(&self, _history: &TableHistory) -> Result<()> {
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        Ok(())
    }
}

/// A history of schemas that knows nothing yet.
fn no_schemas() -> SchemaHistory {
    SchemaHistory::new(Box::new(NoStore), None)
}

/// A change's JSON as the feed writes it.
fn change(operation: &str, data: &Value, old: &Value) -> Value {
    json!({"id": 42, "lsn": "0/16B3748", "epoch": 1, "xid": 771, "schema": "public",
        "table": "orders", "operation": operation, "data": data, "old": old, "unchanged": [],
        "omitted": [], "committedAt": "2026-01-01T00:00:00.123456Z"})
}
