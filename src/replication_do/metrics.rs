//! `GET /metrics`: the figures of `/status` as OpenMetrics text, for Prometheus and compatible
//! scrapers (OpenMetrics specification 1.0, "Text format"). Pure: memory in, text out.
//!
//! The object's storage keeps counters and histograms as of the last poll that changed anything. A
//! counter may therefore step back after an eviction, which scrapers treat as a restart.

use std::fmt::{Display, Write as _};

use super::health::{BUCKETS_MS, Histogram};
use super::runtime::Memory;
use super::status;

/// The Content-Type that OpenMetrics requires.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PHASES: &str = "cycle_phase_duration_seconds";

const STATES: [&str; 5] = [
    "uninitialized",
    "initializing",
    "polling",
    "hibernating",
    "halted",
];

/// The number of clients of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClientCounts {
    pub(super) web_sockets: usize,
    pub(super) sync_dos: usize,
}

/// All metrics. Times in memory are milliseconds since 1970, in the text seconds.
pub(super) fn render(memory: &Memory, clients: ClientCounts) -> String {
    let mut text = Text::default();
    feed(&mut text, memory);
    cycles(&mut text, memory);
    slot_and_history(&mut text, memory);
    text.family("clients", "gauge", "", "Clients by kind.");
    for (kind, count) in [
        ("websocket", clients.web_sockets),
        ("sync_do", clients.sync_dos),
    ] {
        text.sample("clients", &[("kind", kind)], count);
    }
    text.out.push_str("# EOF\n");
    text.out
}

fn feed(text: &mut Text, memory: &Memory) {
    text.family("build", "info", "", "The running version.");
    text.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family("state", "stateset", "", "What the feed is doing.");
    let state = status::state(memory);
    for name in STATES {
        let is_current = u8::from(name == state);
        text.sample("state", &[("pg_change_feed_state", name)], is_current);
    }
    let complete = u8::from(memory.initial_poll_at.is_some());
    text.gauge(
        "initial_poll_complete",
        "",
        "Whether everything that waited in the slot at the start is stored.",
        Some(complete),
    );
    let position = memory.position;
    text.gauge(
        "epoch",
        "",
        "Rises whenever changes may have been missed.",
        position.map(|position| position.epoch),
    );
    text.gauge(
        "last_change_id",
        "",
        "The id of the newest stored change.",
        position.map(|position| position.id),
    );
}

fn cycles(text: &mut Text, memory: &Memory) {
    let health = &memory.health;
    text.counter("cycles", "", "Successful poll cycles.", health.cycles);
    text.counter("changes", "", "Changes stored.", health.changes);
    text.counter(
        "pruned_changes",
        "",
        "Changes removed from the history by age or count.",
        health.pruned,
    );
    if !health.errors.is_empty() {
        text.family("errors", "counter", "", "Errors by category.");
    }
    for (category, errors) in &health.errors {
        text.sample("errors_total", &[("category", category)], errors.count);
    }
    text.gauge(
        "consecutive_failures",
        "",
        "Failed polls in a row.",
        Some(health.consecutive_failures),
    );
    text.gauge(
        "last_poll_timestamp_seconds",
        "seconds",
        "Time of the last successful poll.",
        health.last_poll_at.map(Seconds),
    );
    text.gauge(
        "next_alarm_timestamp_seconds",
        "seconds",
        "Time of the next alarm.",
        memory.next_alarm_at.map(Seconds),
    );
    text.family(
        PHASES,
        "histogram",
        // Optional, and the parser in the tests rejects a unit of a histogram.
        "",
        "Duration of each phase of a poll cycle.",
    );
    for (phase, histogram) in health.times.by_phase() {
        text.histogram(PHASES, phase, histogram);
    }
}

fn slot_and_history(text: &mut Text, memory: &Memory) {
    let slot_health = memory.slot_health.as_ref();
    let slot = slot_health.and_then(|slot_health| slot_health.slot.as_ref());
    text.gauge(
        "slot_retained_bytes",
        "bytes",
        "WAL that the slot retains.",
        slot.and_then(|slot| slot.retained_bytes),
    );
    text.gauge(
        "slot_safe_wal_bytes",
        "bytes",
        "WAL that can still be written before the slot may be lost; absent without a limit.",
        slot.and_then(|slot| slot.safe_wal_size),
    );
    text.gauge(
        "slot_lost",
        "",
        "Whether the slot is missing or invalidated.",
        slot_health.map(|_| u8::from(slot.is_none_or(|slot| slot.is_lost))),
    );
    text.gauge(
        "slot_checked_timestamp_seconds",
        "seconds",
        "Time of the last check of slot and history.",
        slot_health.map(|slot_health| Seconds(slot_health.checked_at)),
    );
    let history = slot_health.and_then(|slot_health| slot_health.history);
    text.gauge(
        "history_oldest_id",
        "",
        "The id of the oldest change in the history.",
        history.map(|history| history.oldest_id),
    );
    text.gauge(
        "history_newest_id",
        "",
        "The id of the newest change in the history.",
        history.map(|history| history.newest_id),
    );
}

/// Milliseconds, printed as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

/// The text so far. Every metric family has a name that begins with `pg_change_feed_`.
#[derive(Default)]
struct Text {
    out: String,
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        // Writing to a string never fails.
        let _ = writeln!(self.out, "# TYPE pg_change_feed_{name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.out, "# UNIT pg_change_feed_{name} {unit}");
        }
        let _ = writeln!(self.out, "# HELP pg_change_feed_{name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.out, "pg_change_feed_{name}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let open = if index == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{close} {value}");
    }

    fn counter(&mut self, name: &str, unit: &str, help: &str, value: u64) {
        self.family(name, "counter", unit, help);
        self.sample(&format!("{name}_total"), &[], value);
    }

    /// Leaves out a gauge whose value is unknown.
    fn gauge(&mut self, name: &str, unit: &str, help: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.family(name, "gauge", unit, help);
            self.sample(name, &[], value);
        }
    }

    fn histogram(&mut self, name: &str, phase: &str, histogram: &Histogram) {
        let mut count = 0;
        for (index, in_bucket) in histogram.counts.iter().enumerate() {
            count += in_bucket;
            let bound = BUCKETS_MS.get(index);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |&ms| Seconds(ms).to_string());
            let labels = [("phase", phase), ("le", &bound)];
            self.sample(&format!("{name}_bucket"), &labels, count);
        }
        self.sample(&format!("{name}_count"), &[("phase", phase)], count);
        let sum = Seconds(histogram.sum_ms);
        self.sample(&format!("{name}_sum"), &[("phase", phase)], sum);
    }
}

#[cfg(test)]
mod tests {
    use openmetrics_parser::openmetrics::parse_openmetrics;
    use openmetrics_parser::{MetricNumber, OpenMetricsType, OpenMetricsValue};

    use super::super::health::{HistoryStatus, SlotHealth, SlotStatus};
    use super::*;
    use crate::error::{Category, Error};

    fn busy() -> Memory {
        let mut memory = Memory::default();
        memory.health.cycles = 7;
        memory.health.changes = 1 << 60;
        memory.next_alarm_at = Some(1_795_000_000_123);
        for category in [Category::SlotLost, Category::Connection] {
            memory
                .health
                .count(&Error::new(category, "code", "message"));
        }
        memory.health.times.peek.counts = [1; BUCKETS_MS.len() + 1];
        memory.health.times.peek.sum_ms = 90_001;
        memory.slot_health = Some(SlotHealth {
            checked_at: 5,
            slot: Some(SlotStatus {
                confirmed_flush_lsn: None,
                restart_lsn: None,
                retained_bytes: Some(16_777_216),
                wal_status: Some("reserved".to_owned()),
                safe_wal_size: None,
                is_lost: false,
            }),
            history: Some(HistoryStatus {
                oldest_id: 3,
                newest_id: 9,
            }),
        });
        memory
    }

    /// The families of the text, as an independent and strict parser reads them.
    fn families(memory: &Memory) -> Vec<(String, OpenMetricsType, Vec<OpenMetricsValue>)> {
        let text = render(memory, ClientCounts::default());
        let exposition = parse_openmetrics(&text).unwrap_or_else(|cause| panic!("{cause}: {text}"));
        let families = exposition.families.into_values();
        families
            .map(|family| {
                let samples = family.iter_samples();
                let values = samples.map(|sample| sample.value.clone()).collect();
                (family.family_name.clone(), family.family_type, values)
            })
            .collect()
    }

    #[test]
    fn an_independent_parser_reads_the_metrics_of_a_fresh_object() {
        let families = families(&Memory::default());
        assert!(
            families
                .iter()
                .all(|(name, ..)| name.starts_with("pg_change_feed_"))
        );
        assert!(families.len() >= 9);
    }

    #[test]
    fn an_independent_parser_reads_the_values_that_were_written() {
        let families = families(&busy());
        let find = |name: &str| {
            let name = format!("pg_change_feed_{name}");
            families.iter().find(|family| family.0 == name).unwrap()
        };
        assert_eq!(find("errors").2.len(), 2);
        assert_eq!(find("state").2.len(), STATES.len());
        let (_, kind, retained) = find("slot_retained_bytes");
        assert!(matches!(kind, OpenMetricsType::Gauge));
        assert!(matches!(
            retained[..],
            [OpenMetricsValue::Gauge(MetricNumber::Int(16_777_216))]
        ));
        let names: Vec<&str> = families.iter().map(|family| &*family.0).collect();
        assert!(!names.contains(&"pg_change_feed_slot_safe_wal_bytes"));
        let (_, _, phases) = find("cycle_phase_duration_seconds");
        assert_eq!(phases.len(), 5);
        let peeks = phases.iter().find_map(|value| match value {
            OpenMetricsValue::Histogram(histogram) if histogram.count == Some(15) => {
                Some(histogram)
            }
            _ => None,
        });
        let peeks = peeks.unwrap();
        assert_eq!(peeks.buckets.len(), BUCKETS_MS.len() + 1);
        assert!(matches!(peeks.buckets[3].count, MetricNumber::Int(4)));
        assert_eq!(peeks.sum.map(|sum| sum.as_f64()), Some(90.001));
    }
}
