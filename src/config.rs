//! `ReplicationConfig`: what an operator can configure, with defaults and limits.
//!
//! Two layers are merged: the deployment's variables, and the fields that were passed to `POST
//! /init`, which are persisted. A field of the second layer wins; `null` removes it. Pure: takes
//! JSON, returns a valid configuration or an error that names the field.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::clock;
use crate::error::{Category, Error, Result};

/// How the feed reads, retains and recovers. Always valid: only
/// [`ReplicationConfig::from_fields`] creates it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationConfig {
    /// The logical replication slot: 1 to 63 of `a-z`, `0-9`, `_`.
    pub slot: String,
    /// The publication: 1 to 63 bytes.
    pub publication: String,
    /// How long a feed without clients sleeps between checks of its slot. 1 s to 1 day.
    #[serde(serialize_with = "as_millis")]
    pub hibernation_delay: Duration,
    /// The longest pause between polls while nothing changes. 20 ms to 1 hour.
    #[serde(serialize_with = "as_millis")]
    pub poll_interval: Duration,
    /// About how many changes one cycle reads. A transaction is never split. 1 to 1,000,000.
    pub max_changes_per_poll: u32,
    /// The tables of the publication, if it has to be created. Empty: the publication must exist.
    pub tables: Vec<TableName>,
    /// What is kept of the change history.
    pub history_retention: HistoryRetention,
    /// Bytes of WAL that the slot may retain while there are no clients, before the feed drains it
    /// anyway. 1 MiB or more.
    pub max_slot_lag: u64,
    /// What to do if changes may have been missed.
    pub on_slot_lost: OnSlotLost,
    /// The maximum number of bytes that are read of one row's message. Of larger rows the largest
    /// columns are omitted. 64 KiB to 16 MiB.
    pub max_row_bytes: u32,
}

/// A table with its schema, which is `public` unless it was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The schema as the catalogue spells it.
    pub schema: String,
    /// The table as the catalogue spells it.
    pub table: String,
}

/// What is kept of `change_history`. Without limits nothing is pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRetention {
    /// Changes older than this may be pruned. 1 minute or more.
    #[serde(
        serialize_with = "as_optional_millis",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_age: Option<Duration>,
    /// All but this many newest changes may be pruned. 1 or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
}

/// What to do if the slot can no longer return every change since the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnSlotLost {
    /// Begin a new epoch with a new slot. Every client is told to reset.
    Recover,
    /// Halt, and report what to do.
    Halt,
}

impl TableName {
    /// Parses `table` or `schema.table`. A part that contains a dot or a quote must be in double
    /// quotes. `None` if the text is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, rest) = identifier(text)?;
        let Some(rest) = rest else {
            return Some(Self {
                schema: "public".into(),
                table: first,
            });
        };
        match identifier(rest)? {
            (table, None) => Some(Self {
                schema: first,
                table,
            }),
            _ => None,
        }
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.schema != "public" {
            write_identifier(f, &self.schema)?;
            f.write_str(".")?;
        }
        write_identifier(f, &self.table)
    }
}

impl Serialize for TableName {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Splits off one identifier. Returns it and what follows the dot after it.
fn identifier(text: &str) -> Option<(String, Option<&str>)> {
    let (name, rest) = if let Some(quoted) = text.strip_prefix('"') {
        quoted_identifier(quoted)?
    } else {
        let end = text.find('.').unwrap_or(text.len());
        let (name, rest) = text.split_at_checked(end)?;
        (!name.contains('"')).then(|| (name.to_owned(), rest))?
    };
    let rest = if rest.is_empty() {
        None
    } else {
        Some(rest.strip_prefix('.')?)
    };
    let fits = (1..=63).contains(&name.len()) && !name.contains('\0');
    fits.then_some((name, rest))
}

/// Splits off the name up to the closing quote. A quote in the name is doubled.
fn quoted_identifier(text: &str) -> Option<(String, &str)> {
    let (mut name, mut rest) = (String::new(), text);
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        let Some(more) = after.strip_prefix('"') else {
            return Some((name, after));
        };
        name.push('"');
        rest = more;
    }
}

fn write_identifier(f: &mut std::fmt::Formatter<'_>, name: &str) -> std::fmt::Result {
    if name.contains(['.', '"']) {
        write!(f, "\"{}\"", name.replace('"', "\"\""))
    } else {
        f.write_str(name)
    }
}

/// Fields as an operator or a deployment sets them: `camelCase` keys, JSON values.
pub type Fields = Map<String, Value>;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const DAY_MS: u64 = 86_400_000;

impl ReplicationConfig {
    /// Merges `given` over `defaults` and validates every field.
    ///
    /// Fails with [`Category::Configuration`] and a message that names the first field that is
    /// unknown, of the wrong type or out of range.
    pub fn from_fields(defaults: &Fields, given: &Fields) -> Result<Self> {
        let mut merged = defaults.clone();
        for (field, value) in given {
            if value.is_null() {
                continue;
            }
            merged.insert(field.clone(), value.clone());
        }
        let mut fields = FieldReader { fields: merged };
        let config = Self {
            slot: fields.slot("slot")?,
            publication: fields.name("publication")?,
            hibernation_delay: fields.duration("hibernationDelay", 60_000, 1_000..=DAY_MS)?,
            poll_interval: fields.duration("pollInterval", 1_000, 20..=3_600_000)?,
            max_changes_per_poll: fields.integer_u32(
                "maxChangesPerPoll",
                100_000,
                1..=1_000_000,
            )?,
            tables: fields.tables("tables")?,
            history_retention: fields.retention("historyRetention")?,
            max_slot_lag: fields.integer("maxSlotLag", 64 * MIB, MIB..=1 << 50)?,
            on_slot_lost: fields.on_slot_lost("onSlotLost")?,
            max_row_bytes: fields.integer_u32("maxRowBytes", 8 * MIB, 64 * KIB..=16 * MIB)?,
        };
        match fields.fields.keys().next() {
            Some(unknown) => Err(invalid(unknown, "is not a field of ReplicationConfig")),
            None => Ok(config),
        }
    }

    /// Parses the body of `POST /init`: empty, or one JSON object.
    pub fn fields_of(body: &str) -> Result<Fields> {
        if body.trim().is_empty() {
            return Ok(Fields::new());
        }
        match serde_json::from_str(body) {
            Ok(Value::Object(fields)) => Ok(fields),
            Ok(_) => Err(invalid("body", "must be a JSON object")),
            Err(error) => Err(invalid("body", "is not JSON").with_source(error)),
        }
    }
}

/// Removes the known fields from the merged object, one by one. What is left is unknown.
struct FieldReader {
    fields: Fields,
}

impl FieldReader {
    fn name(&mut self, field: &'static str) -> Result<String> {
        match self.fields.remove(field) {
            Some(Value::String(name)) if (1..=63).contains(&name.len()) && !name.contains('\0') => {
                Ok(name)
            }
            Some(_) => Err(invalid(field, "must be a string of 1 to 63 bytes")),
            None => Err(invalid(field, "is missing")),
        }
    }

    fn slot(&mut self, field: &'static str) -> Result<String> {
        let name = self.name(field)?;
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        if name.bytes().all(plain) {
            Ok(name)
        } else {
            Err(invalid(
                field,
                "may contain only lower-case letters, digits and underscores",
            ))
        }
    }

    fn integer(
        &mut self,
        field: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64> {
        let Some(value) = self.fields.remove(field) else {
            return Ok(default);
        };
        value
            .as_u64()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (start, end) = range.into_inner();
                invalid(
                    field,
                    &format!("must be a whole number from {start} to {end}"),
                )
            })
    }

    fn integer_u32(
        &mut self,
        field: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u32> {
        let number = self.integer(field, default, range)?;
        u32::try_from(number).map_err(|_| invalid(field, "is too large"))
    }

    fn duration(
        &mut self,
        field: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Duration> {
        self.integer(field, default, range)
            .map(Duration::from_millis)
    }

    fn tables(&mut self, field: &'static str) -> Result<Vec<TableName>> {
        let wrong = || {
            invalid(
                field,
                "must be a list of table names, `table` or `schema.table`",
            )
        };
        let Some(value) = self.fields.remove(field) else {
            return Ok(Vec::new());
        };
        let names = value.as_array().ok_or_else(wrong)?;
        names
            .iter()
            .map(|name| name.as_str().and_then(TableName::parse).ok_or_else(wrong))
            .collect()
    }

    fn retention(&mut self, field: &'static str) -> Result<HistoryRetention> {
        let fields = match self.fields.remove(field) {
            None => return Ok(HistoryRetention::default()),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(invalid(field, "must be an object with maxAge and maxRows")),
        };
        let mut inner = FieldReader { fields };
        let max_age = inner.integer("maxAge", 0, 60_000..=u64::MAX / 1_000)?;
        let max_rows = inner.integer("maxRows", 0, 1..=u64::MAX >> 1)?;
        match inner.fields.keys().next() {
            Some(_) => Err(invalid(field, "has no fields but maxAge and maxRows")),
            None => Ok(HistoryRetention {
                max_age: (max_age > 0).then(|| Duration::from_millis(max_age)),
                max_rows: (max_rows > 0).then_some(max_rows),
            }),
        }
    }

    fn on_slot_lost(&mut self, field: &'static str) -> Result<OnSlotLost> {
        match self.fields.remove(field) {
            None => Ok(OnSlotLost::Recover),
            Some(Value::String(choice)) if choice == "recover" => Ok(OnSlotLost::Recover),
            Some(Value::String(choice)) if choice == "halt" => Ok(OnSlotLost::Halt),
            Some(_) => Err(invalid(field, "must be \"recover\" or \"halt\"")),
        }
    }
}

fn invalid(field: &str, what: &str) -> Error {
    // The field's name comes from the caller and is returned in the error, so it is cut.
    let field: String = field.chars().take(64).collect();
    Error::new(
        Category::Configuration,
        "invalid_config",
        format!("{field} {what}"),
    )
    .with_remedy(format!(
        "correct the field {field} and call POST /init again"
    ))
}

fn as_millis<S: serde::Serializer>(
    duration: &Duration,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_u64(clock::millis(*duration))
}

// serde passes a reference to the field.
#[allow(clippy::ref_option)]
fn as_optional_millis<S: serde::Serializer>(
    duration: &Option<Duration>,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => as_millis(duration, to),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(fields) => fields,
            _ => Fields::new(),
        }
    }

    fn vars() -> Fields {
        fields(json!({"slot": "feed", "publication": "feed"}))
    }

    #[test]
    fn a_given_field_overrides_the_variable_and_null_does_not() {
        let given = fields(json!({"slot": "other", "pollInterval": 250, "publication": null}));
        let config = ReplicationConfig::from_fields(&vars(), &given).unwrap();
        assert_eq!(config.slot, "other");
        assert_eq!(config.publication, "feed");
        assert_eq!(config.poll_interval, Duration::from_millis(250));
        assert_eq!(config.hibernation_delay, Duration::from_mins(1));
    }

    #[test]
    fn the_error_names_the_invalid_field() {
        for (field, value) in [
            ("slot", json!("Upper")),
            ("slot", json!("")),
            ("publication", json!(7)),
            ("hibernationDelay", json!(-1)),
            ("pollInterval", json!("fast")),
            ("maxChangesPerPoll", json!(0)),
            ("tables", json!("orders")),
            ("tables", json!(["a.b.c"])),
            ("historyRetention", json!({"days": 1})),
            ("historyRetention", json!(5)),
            ("maxSlotLag", json!(1)),
            ("onSlotLost", json!("ignore")),
            ("hibernateDelay", json!(1)),
        ] {
            let given = fields(json!({field: value}));
            let error = ReplicationConfig::from_fields(&vars(), &given).unwrap_err();
            assert!(error.to_string().starts_with(field), "{field}: {error}");
            assert_eq!(error.category(), Category::Configuration);
        }
    }

    #[test]
    fn a_body_is_empty_or_one_object() {
        assert!(ReplicationConfig::fields_of(" ").unwrap().is_empty());
        assert!(ReplicationConfig::fields_of("[]").is_err());
        assert!(ReplicationConfig::fields_of("{").is_err());
    }

    #[test]
    fn table_names_survive_a_round_trip() {
        for (text, schema, table) in [
            ("orders", "public", "orders"),
            ("shop.orders", "shop", "orders"),
            ("\"a.b\"", "public", "a.b"),
            ("\"a.b\".c", "a.b", "c"),
            ("\"a\"\"b\"", "public", "a\"b"),
        ] {
            let name = TableName::parse(text).unwrap();
            assert_eq!((name.schema.as_str(), name.table.as_str()), (schema, table));
            assert_eq!(name.to_string(), text);
        }
        for text in ["", ".", "a.", ".a", "a.b.c", "\"a", "\"a\"b", "a\"b"] {
            assert_eq!(TableName::parse(text), None, "{text}");
        }
    }
}
