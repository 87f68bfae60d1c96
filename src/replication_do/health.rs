//! The feed's health and position, which the object's storage keeps across evictions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::{Category, Error};
use crate::history::HistoryBounds;
use crate::lsn::Lsn;
use crate::polling::{Policy, Report, policy};
use crate::state::{Checkpoint, Slot};

/// The position of the newest stored change that the object knows about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) epoch: i32,
    pub(super) id: i64,
    pub(super) lsn: Lsn,
}

impl Position {
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            epoch: checkpoint.epoch,
            id: checkpoint.last_id,
            lsn: checkpoint.lsn,
        }
    }

    /// Without the LSN, as clients know it.
    pub(super) fn of_clients(&self) -> crate::clients::Position {
        crate::clients::Position {
            epoch: self.epoch,
            id: self.id,
        }
    }
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

/// Why the feed makes no progress until an operator acts.
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

/// Counters and failures. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Health {
    pub(super) cycles: u64,
    pub(super) changes: u64,
    /// Changes removed from the history.
    pub(super) pruned: u64,
    pub(super) last_poll_at: Option<u64>,
    pub(super) consecutive_failures: u32,
    pub(super) halted: Option<Halted>,
    pub(super) errors: BTreeMap<String, ErrorCount>,
    /// A peek found changes that were written while the publication was missing. Even if it exists
    /// again, what was written without it can never be decoded, so this must survive an eviction.
    pub(super) publication_was_missing: bool,
    pub(super) times: CycleTimes,
}

impl Health {
    /// Clears failures after a cycle has stored everything. True when there was one.
    pub(super) fn recover(&mut self) -> bool {
        let was_wrong = self.consecutive_failures > 0 || self.halted.is_some();
        self.resume();
        was_wrong
    }

    /// Counts a successful cycle. `recovered`: it was the first after a failure. True when the
    /// caller must persist the health; an idle poll writes nothing.
    pub(super) fn cycle_succeeded(&mut self, report: &Report, recovered: bool) -> bool {
        self.cycles += 1;
        self.changes += report.stored;
        self.last_poll_at = Some(clock::now_ms());
        self.times.observe(report);
        if let Some(error) = &report.advance_error {
            self.count(error);
        }
        recovered || report.stored > 0 || report.advance_error.is_some()
    }

    /// Counts a failed cycle, and halts where the policy says so.
    pub(super) fn cycle_failed(&mut self, error: &Error) {
        self.count(error);
        self.note_publication(error);
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        match policy(error) {
            Policy::Retry => self.halted = None,
            Policy::Recover | Policy::Halt => self.halt(error),
        }
    }

    /// Halts the feed. A repeated halt with the same code keeps its original time.
    pub(super) fn halt(&mut self, error: &Error) {
        let since = match &self.halted {
            Some(halted) if halted.code == error.code() => halted.since,
            _ => clock::now_ms(),
        };
        self.halted = Some(Halted {
            category: category_name(error.category()),
            code: error.code().to_owned(),
            message: error.to_string(),
            remedy: error.remedy().map(str::to_owned),
            since,
        });
    }

    /// Clears all failures.
    pub(super) fn resume(&mut self) {
        self.consecutive_failures = 0;
        self.halted = None;
    }

    pub(super) fn note_publication(&mut self, error: &Error) {
        self.publication_was_missing |= error.code() == "publication_gap";
    }

    /// Counts an error in its category.
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

/// The name of a category in JSON, logs and metrics.
pub(super) fn category_name(category: Category) -> String {
    match serde_json::to_value(category) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{category:?}"),
    }
}

/// Slot and history at the last check. Stored, so that `/status` still shows them after an
/// eviction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SlotHealth {
    pub(super) checked_at: u64,
    /// `None` when the slot did not exist.
    pub(super) slot: Option<SlotStatus>,
    /// `None` when the history was empty.
    pub(super) history: Option<HistoryStatus>,
}

/// The slot, as in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SlotStatus {
    pub(super) confirmed_flush_lsn: Option<Lsn>,
    pub(super) restart_lsn: Option<Lsn>,
    pub(super) retained_bytes: Option<i64>,
    pub(super) wal_status: Option<String>,
    pub(super) safe_wal_size: Option<i64>,
    pub(super) is_lost: bool,
}

/// The oldest and newest ids in the history, as in `/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HistoryStatus {
    pub(super) oldest_id: i64,
    pub(super) newest_id: i64,
}

impl SlotHealth {
    pub(super) fn new(slot: Option<&Slot>, bounds: Option<HistoryBounds>) -> Self {
        Self {
            checked_at: clock::now_ms(),
            slot: slot.map(|slot| SlotStatus {
                confirmed_flush_lsn: slot.confirmed_flush_lsn,
                restart_lsn: slot.restart_lsn,
                retained_bytes: slot.retained_bytes,
                wal_status: slot.wal_status.clone(),
                safe_wal_size: slot.safe_wal_size,
                is_lost: slot.is_lost(),
            }),
            history: bounds.map(|bounds| HistoryStatus {
                oldest_id: bounds.oldest,
                newest_id: bounds.newest,
            }),
        }
    }

    /// Records that everything below `oldest` was pruned, which may have emptied the history.
    pub(super) fn prune_to(&mut self, oldest: i64) {
        self.history = self.history.and_then(|history| {
            (oldest <= history.newest_id).then_some(HistoryStatus {
                oldest_id: oldest,
                ..history
            })
        });
    }
}

/// Upper bounds of the histograms' buckets in milliseconds. One more bucket has no bound.
pub(super) const BUCKETS_MS: [u64; 14] = [
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 15_000, 60_000,
];

/// How long the phases of cycles took.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CycleTimes {
    pub(super) probe: Histogram,
    pub(super) peek: Histogram,
    pub(super) store: Histogram,
    pub(super) commit: Histogram,
    pub(super) advance: Histogram,
}

/// Observations by duration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Histogram {
    /// Observations in each bucket; not cumulative.
    pub(super) counts: [u64; BUCKETS_MS.len() + 1],
    pub(super) sum_ms: u64,
}

impl CycleTimes {
    fn observe(&mut self, report: &Report) {
        self.probe.observe(report.phases.probe);
        if report.idle {
            return;
        }
        self.peek.observe(report.phases.peek);
        self.store.observe(report.phases.store);
        self.commit.observe(report.phases.commit);
        self.advance.observe(report.phases.advance);
    }

    pub(super) fn by_phase(&self) -> [(&'static str, &Histogram); 5] {
        [
            ("probe", &self.probe),
            ("peek", &self.peek),
            ("store", &self.store),
            ("commit", &self.commit),
            ("advance", &self.advance),
        ]
    }
}

impl Histogram {
    fn observe(&mut self, millis: u64) {
        let bucket = BUCKETS_MS.partition_point(|&bound| bound < millis);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum_ms += millis;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_lowest_bucket_that_fits() {
        let mut histogram = Histogram::default();
        for millis in [0, 1, 2, 3, 60_000, 60_001] {
            histogram.observe(millis);
        }
        assert_eq!(histogram.counts[..3], [2, 1, 1]);
        assert_eq!(histogram.counts[BUCKETS_MS.len() - 1..], [1, 1]);
    }

    #[test]
    fn a_halt_keeps_its_time_until_its_code_changes() {
        let mut health = Health::default();
        health.halt(&Error::new(Category::Permission, "one", "no"));
        health.halted.as_mut().unwrap().since = 7;
        health.halt(&Error::new(Category::Permission, "one", "still no"));
        assert_eq!(health.halted.as_ref().unwrap().since, 7);
        health.halt(&Error::new(Category::Permission, "two", "no"));
        assert_ne!(health.halted.as_ref().unwrap().since, 7);
    }
}
