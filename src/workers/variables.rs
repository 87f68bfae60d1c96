//! The deployment's variables, as the defaults of `ReplicationConfig`.

use serde_json::Value;
use worker::Env;

use crate::config::Fields;

enum Kind {
    Text,
    Number,
    List,
}

/// Field, variable, and how the variable's text is parsed.
const VARIABLES: [(&str, &str, Kind); 9] = [
    ("slot", "REPLICATION_SLOT", Kind::Text),
    ("publication", "REPLICATION_PUBLICATION", Kind::Text),
    ("tables", "REPLICATION_TABLES", Kind::List),
    ("hibernationDelay", "HIBERNATION_DELAY_MS", Kind::Number),
    ("pollInterval", "POLL_INTERVAL_MS", Kind::Number),
    ("maxChangesPerPoll", "MAX_CHANGES_PER_POLL", Kind::Number),
    ("maxSlotLag", "MAX_SLOT_LAG_BYTES", Kind::Number),
    ("maxRowBytes", "MAX_ROW_BYTES", Kind::Number),
    ("onSlotLost", "ON_SLOT_LOST", Kind::Text),
];

/// The fields that the deployment sets. Text that is not a number is left as it is, so that the
/// validation of the configuration names the field.
pub(crate) fn fields(env: &Env) -> Fields {
    let mut fields = Fields::new();
    for (field, variable, kind) in VARIABLES {
        let Some(text) = text(env, variable) else {
            continue;
        };
        fields.insert(field.to_owned(), value(text, &kind));
    }
    let mut retention = Fields::new();
    for (field, variable) in [
        ("maxAge", "HISTORY_MAX_AGE_MS"),
        ("maxRows", "HISTORY_MAX_ROWS"),
    ] {
        if let Some(text) = text(env, variable) {
            retention.insert(field.to_owned(), value(text, &Kind::Number));
        }
    }
    if !retention.is_empty() {
        fields.insert("historyRetention".to_owned(), Value::Object(retention));
    }
    fields
}

/// A variable's text; `None` if it is unset or empty.
pub(crate) fn text(env: &Env, variable: &str) -> Option<String> {
    env.var(variable)
        .ok()
        .map(|value| value.to_string())
        .filter(|text| !text.is_empty())
}

fn value(text: String, kind: &Kind) -> Value {
    match kind {
        Kind::Text => Value::String(text),
        Kind::Number => text.parse::<u64>().map_or(Value::String(text), Value::from),
        Kind::List => text
            .split(',')
            .map(|part| Value::from(part.trim()))
            .collect(),
    }
}
