//! `/status` and `/clients`: what is known, without asking the database.

use serde_json::{Value, json};

use super::runtime::{Memory, Runtime};
use crate::workers::memory::wasm_bytes;

/// The body of `GET /status`.
pub(super) fn status(runtime: &Runtime) -> Value {
    let (web_sockets, sync_dos) = runtime.hub.counts();
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
            "clients": {"webSockets": web_sockets, "syncDos": sync_dos},
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
