//! `/status` and `/clients`: what is known, without asking the database.

use serde_json::{Value, json};

use super::hub::Cursor;
use super::runtime::{Memory, Runtime};
use crate::workers::memory::wasm_bytes;

/// The body of `GET /status`.
pub(super) fn status(runtime: &Runtime) -> Value {
    let clients = runtime.hub.clients().len();
    runtime.with(|memory| {
        json!({
            "state": state(memory),
            "config": memory.config,
            "epoch": memory.position.map(|position| position.epoch),
            "position": memory.position.map(|position| json!({
                "id": position.id, "lsn": position.lsn,
            })),
            "slot": memory.slot.as_ref().map(|slot| json!({
                "confirmedFlushLsn": slot.confirmed_flush_lsn,
                "restartLsn": slot.restart_lsn,
                "retainedBytes": slot.retained_bytes,
                "walStatus": slot.wal_status,
                "safeWalSize": slot.safe_wal_size,
            })),
            "initialPoll": {
                "complete": memory.initial_poll_at.is_some(),
                "completedAt": memory.initial_poll_at,
            },
            "polling": {
                "cycles": memory.health.cycles,
                "changes": memory.health.changes,
                "lastPollAt": memory.health.last_poll_at,
                "nextPollAt": memory.next_alarm_at,
                "consecutiveFailures": memory.health.consecutive_failures,
                "lastCycleMs": {
                    "probe": memory.last_phases.probe,
                    "peek": memory.last_phases.peek,
                    "store": memory.last_phases.store,
                    "commit": memory.last_phases.commit,
                    "advance": memory.last_phases.advance,
                },
            },
            "halted": memory.health.halted,
            "clients": {"webSockets": clients, "syncDos": 0},
            "errors": memory.health.errors,
            "memoryBytes": wasm_bytes(),
        })
    })
}

fn state(memory: &Memory) -> &'static str {
    if memory.initializing {
        "initializing"
    } else if memory.config.is_none() {
        "uninitialized"
    } else if memory.health.halted.is_some() {
        "halted"
    } else if memory.hibernating {
        "hibernating"
    } else {
        "polling"
    }
}

/// The position that is stored, as clients name it.
pub(super) fn position(runtime: &Runtime) -> Option<String> {
    runtime.with(|memory| {
        memory
            .position
            .map(|position| format!("{}-{}", position.epoch, position.id))
    })
}

/// The body of `GET /clients`.
pub(super) fn clients(runtime: &Runtime) -> Value {
    let head = runtime.with(|memory| memory.position.map_or(0, |position| position.id));
    let clients: Vec<Value> = runtime
        .hub
        .clients()
        .into_iter()
        .map(|client| {
            let cursor = match client.cursor {
                Cursor::At { epoch, id } => Some((epoch, id)),
                _ => None,
            };
            json!({
                "id": client.id,
                "kind": "websocket",
                "subscriptions": client.tables,
                "cursor": cursor.map(|(epoch, id)| format!("{epoch}-{id}")),
                "lag": cursor.map(|(_, id)| head.saturating_sub(id)),
                "connectedAt": client.connected_at,
            })
        })
        .collect();
    json!({"clients": clients})
}
