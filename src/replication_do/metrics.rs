//! `GET /metrics`: what `/status` tells, as OpenMetrics text for Prometheus and its like
//! (OpenMetrics specification 1.0, "Text format"). Pure: memory in, text out.
//!
//! Counters and histograms outlive the object in its storage, as of the last poll that changed
//! anything; a scraper takes a step back for a restart.

use std::fmt::{Display, Write as _};

use super::health::{BUCKETS_MS, Histogram};
use super::runtime::Memory;
use super::status;

/// The Content-Type that OpenMetrics asks for.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PHASES: &str = "cycle_phase_duration_seconds";

const STATES: [&str; 5] = [
    "uninitialized",
    "initializing",
    "polling",
    "hibernating",
    "halted",
];

/// How many clients there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClientCounts {
    pub(super) web_sockets: usize,
    pub(super) sync_dos: usize,
}

/// All metrics. Times are milliseconds since the epoch inside, seconds in the text.
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
    text.family("build", "info", "", "The version that runs.");
    text.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.family("state", "stateset", "", "What the feed is doing.");
    let state = status::state(memory);
    for name in STATES {
        let is_it = u8::from(name == state);
        text.sample("state", &[("pg_change_feed_state", name)], is_it);
    }
    let complete = u8::from(memory.initial_poll_at.is_some());
    text.gauge(
        "initial_poll_complete",
        "",
        "Whether all that waited in the slot at first is stored.",
        Some(complete),
    );
    let position = memory.position;
    text.gauge(
        "epoch",
        "",
        "Counts the times that changes may have been missed.",
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
    text.counter("cycles", "", "Poll cycles that succeeded.", health.cycles);
    text.counter("changes", "", "Changes stored.", health.changes);
    text.counter(
        "pruned_changes",
        "",
        "Changes removed from the history by age or number.",
        health.pruned,
    );
    text.family("errors", "counter", "", "Errors by category.");
    for (category, errors) in &health.errors {
        text.sample("errors_total", &[("category", category)], errors.count);
    }
    text.gauge(
        "consecutive_failures",
        "",
        "Polls that have failed in a row.",
        Some(health.consecutive_failures),
    );
    text.gauge(
        "last_poll_timestamp_seconds",
        "seconds",
        "When a poll last succeeded.",
        health.last_poll_at.map(Seconds),
    );
    text.gauge(
        "next_alarm_timestamp_seconds",
        "seconds",
        "When the feed wakes up next.",
        memory.next_alarm_at.map(Seconds),
    );
    text.family(
        PHASES,
        "histogram",
        "seconds",
        "How long each phase of a poll cycle took.",
    );
    for (phase, histogram) in health.times.by_phase() {
        text.histogram(PHASES, phase, histogram);
    }
}

fn slot_and_history(text: &mut Text, memory: &Memory) {
    let vitals = memory.vitals.as_ref();
    let slot = vitals.and_then(|vitals| vitals.slot.as_ref());
    text.gauge(
        "slot_retained_bytes",
        "bytes",
        "WAL that the slot holds back.",
        slot.and_then(|slot| slot.retained_bytes),
    );
    text.gauge(
        "slot_safe_wal_bytes",
        "bytes",
        "WAL that may be written before the slot is in danger; absent without a limit.",
        slot.and_then(|slot| slot.safe_wal_size),
    );
    text.gauge(
        "slot_lost",
        "",
        "Whether the slot is missing or invalidated.",
        vitals.map(|_| u8::from(slot.is_none_or(|slot| slot.is_lost))),
    );
    text.gauge(
        "slot_checked_timestamp_seconds",
        "seconds",
        "When slot and history were last looked at.",
        vitals.map(|vitals| Seconds(vitals.checked_at)),
    );
    let history = vitals.and_then(|vitals| vitals.history);
    text.gauge(
        "history_oldest_id",
        "",
        "The oldest change that is kept.",
        history.map(|history| history.oldest_id),
    );
    text.gauge(
        "history_newest_id",
        "",
        "The newest change that is kept.",
        history.map(|history| history.newest_id),
    );
}

/// Milliseconds, written as seconds.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

/// The text so far. Every family's name begins with `pg_change_feed_`.
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

    /// A gauge whose value is not known has no sample.
    fn gauge(&mut self, name: &str, unit: &str, help: &str, value: Option<impl Display>) {
        self.family(name, "gauge", unit, help);
        if let Some(value) = value {
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
