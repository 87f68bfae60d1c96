//! What the object remembers of itself beyond its life: how it fares, and how far it got.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::{Category, Error};
use crate::lsn::Lsn;
use crate::polling::{Policy, Report, policy};

/// How far changes are stored, as last seen. Ids are strings in JSON, since storage holds
/// JavaScript numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) epoch: i32,
    pub(super) id: i64,
    pub(super) lsn: Lsn,
}

/// Errors of one category.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ErrorCount {
    pub(super) count: u64,
    pub(super) last_at: u64,
    pub(super) last_code: String,
    pub(super) last_message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

/// Why the feed stands still until somebody acts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Halted {
    pub(super) category: String,
    pub(super) code: String,
    pub(super) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
    pub(super) since: u64,
}

/// Counters and failures, kept in the object's storage. Times are milliseconds since the epoch.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Health {
    pub(super) cycles: u64,
    pub(super) changes: u64,
    pub(super) last_poll_at: Option<u64>,
    pub(super) consecutive_failures: u32,
    pub(super) halted: Option<Halted>,
    pub(super) errors: BTreeMap<String, ErrorCount>,
}

impl Health {
    /// Notes a cycle. True when the storage must hear of it; an idle poll writes nothing.
    pub(super) fn cycle_succeeded(&mut self, report: &Report) -> bool {
        self.cycles += 1;
        self.changes += report.stored;
        self.last_poll_at = Some(clock::now_ms());
        if let Some(error) = &report.advance_error {
            self.count(error);
        }
        let recovered = self.consecutive_failures > 0 || self.halted.is_some();
        self.consecutive_failures = 0;
        self.halted = None;
        recovered || report.stored > 0 || report.advance_error.is_some()
    }

    /// Notes a failed cycle.
    pub(super) fn cycle_failed(&mut self, error: &Error) {
        self.count(error);
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.halted = match policy(error.category()) {
            Policy::Retry => None,
            Policy::Halt => Some(Halted {
                category: category_name(error.category()),
                code: error.code().to_owned(),
                message: error.to_string(),
                remedy: error.remedy().map(str::to_owned),
                since: self
                    .halted
                    .as_ref()
                    .map_or_else(clock::now_ms, |halted| halted.since),
            }),
        };
    }

    /// Counts an error that did not fail a cycle.
    pub(super) fn count(&mut self, error: &Error) {
        let entry = self
            .errors
            .entry(category_name(error.category()))
            .or_default();
        entry.count += 1;
        entry.last_at = clock::now_ms();
        error.code().clone_into(&mut entry.last_code);
        entry.last_message = error.to_string();
        entry.remedy = error.remedy().map(str::to_owned);
    }
}

/// The category as JSON, logs and metrics have it.
pub(super) fn category_name(category: Category) -> String {
    match serde_json::to_value(category) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{category:?}"),
    }
}
