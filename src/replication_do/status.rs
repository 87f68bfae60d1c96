//! `/status`: everything the object knows, without a query to the database.

use serde_json::{Value, json};

use super::health::SlotHealth;
use super::runtime::{Memory, Runtime};
use crate::clock;
use crate::workers::memory::wasm_bytes;

/// The body of `GET /status`.
pub(super) fn status(runtime: &Runtime) -> Value {
    let (web_sockets, sync_dos) = runtime.hub.counts();
    let now = clock::now_ms();
    runtime.with(|memory| {
        json!({
            "state": state(memory),
            "config": memory.config,
            "epoch": memory.position.map(|position| position.epoch),
            "position": memory.position.map(|position| json!({
                "id": position.id, "lsn": position.lsn,
            })),
            "slot": memory.slot_health.as_ref().map(|slot_health| slot(slot_health, now)),
            "history": memory.slot_health.as_ref().and_then(|slot_health| slot_health.history),
            "initialPoll": {
                "complete": memory.initial_poll_at.is_some(),
                "completedAt": memory.initial_poll_at,
            },
            "polling": {
                "cycles": memory.health.cycles,
                "changes": memory.health.changes,
                "pruned": memory.health.pruned,
                "intervalMs": memory.interval_ms,
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
            "delivery": {"consecutiveFailures": runtime.delivery_failures()},
            "halted": memory.health.halted,
            "clients": {"webSockets": web_sockets, "syncDos": sync_dos},
            "errors": memory.health.errors,
            "memoryBytes": wasm_bytes(),
        })
    })
}

/// The slot at the last check, and the age of that check.
fn slot(slot_health: &SlotHealth, now: u64) -> Value {
    json!({
        "exists": slot_health.slot.is_some(),
        "confirmedFlushLsn": slot_health.slot.as_ref().map(|slot| slot.confirmed_flush_lsn),
        "restartLsn": slot_health.slot.as_ref().map(|slot| slot.restart_lsn),
        "retainedBytes": slot_health.slot.as_ref().map(|slot| slot.retained_bytes),
        "walStatus": slot_health.slot.as_ref().map(|slot| &slot.wal_status),
        "safeWalSize": slot_health.slot.as_ref().map(|slot| slot.safe_wal_size),
        "checkedAt": slot_health.checked_at,
        "ageMs": now.saturating_sub(slot_health.checked_at),
    })
}

/// What the feed is doing, in one word.
pub(super) fn state(memory: &Memory) -> &'static str {
    if memory.initializing {
        "initializing"
    } else if memory.health.halted.is_some() {
        "halted"
    } else if memory.config.is_none() {
        "uninitialized"
    } else if memory.hibernating {
        "hibernating"
    } else {
        "polling"
    }
}

/// The stored position, in the form that clients use.
pub(super) fn position(runtime: &Runtime) -> Option<String> {
    runtime.with(|memory| {
        memory
            .position
            .map(|position| format!("{}-{}", position.epoch, position.id))
    })
}
