//! A change as a client could get it: its JSON, read without building a tree.

use std::borrow::{Borrow, Cow};
use std::cell::OnceCell;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// The parts of a change that filters need. Borrows the change's JSON; a row is only parsed when a
/// filter needs one of its columns.
#[derive(Debug)]
pub struct FeedChange<'a> {
    parts: Parts<'a>,
    data: OnceCell<Row<'a>>,
    old: OnceCell<Row<'a>>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
    Truncate,
}

#[derive(Debug, Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    schema: Cow<'a, str>,
    #[serde(borrow)]
    table: Cow<'a, str>,
    operation: Kind,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    old: Option<&'a RawValue>,
    #[serde(borrow, default)]
    unchanged: Vec<Name<'a>>,
}

#[derive(Debug, Default, Deserialize)]
struct Row<'a>(#[serde(borrow)] HashMap<Name<'a>, &'a RawValue>);

/// A key, borrowed if it has no escapes.
#[derive(Debug, PartialEq, Eq, Hash, Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Borrow<str> for Name<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The JSON is not a change of the feed, or one of its rows is not an object.
#[derive(Debug, thiserror::Error)]
#[error("not a change of the feed")]
pub struct FeedChangeError(#[from] serde_json::Error);

/// Which of a change's rows a client may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visible {
    /// Neither: the change is not for this client.
    Nothing,
    /// Both, or the only one.
    Whole,
    /// The row after an update, since the client may not see the one before.
    OnlyNew,
    /// The row before an update, since the client may not see the one after.
    OnlyOld,
}

impl<'a> FeedChange<'a> {
    /// Reads the JSON of one `TableChange`.
    pub fn parse(json: &'a str) -> Result<Self, FeedChangeError> {
        Ok(Self {
            parts: serde_json::from_str(json)?,
            data: OnceCell::new(),
            old: OnceCell::new(),
        })
    }

    /// The table's schema.
    pub fn schema(&self) -> &str {
        &self.parts.schema
    }

    /// The table, without its schema.
    pub fn table(&self) -> &str {
        &self.parts.table
    }

    pub(super) fn kind(&self) -> Kind {
        self.parts.operation
    }

    pub(super) fn has_old(&self) -> bool {
        self.parts.old.is_some()
    }

    /// A column of the new row, or of the deleted one. A column that an update left unchanged has
    /// its old value, if the change has the old row.
    pub(super) fn data(&self, column: &str) -> Option<&'a RawValue> {
        let row = self.data.get_or_init(|| read_row(self.parts.data));
        let value = row.0.get(column).copied();
        value.or_else(|| {
            let is_unchanged = self.parts.unchanged.iter().any(|name| name.0 == column);
            is_unchanged.then(|| self.old(column)).flatten()
        })
    }

    /// A column of the row before an update.
    pub(super) fn old(&self, column: &str) -> Option<&'a RawValue> {
        let old = self.parts.old?;
        let row = self.old.get_or_init(|| read_row(old));
        row.0.get(column).copied()
    }
}

/// A row that is not an object has no columns to filter by.
fn read_row(json: &RawValue) -> Row<'_> {
    serde_json::from_str(json.get()).unwrap_or_default()
}

/// The change's JSON, reduced to what `visible` allows: a row that becomes visible is an update
/// without an old row, one that stops being visible is a delete.
pub fn redact(json: &str, visible: Visible) -> Result<Option<Cow<'_, str>>, FeedChangeError> {
    let only_old = match visible {
        Visible::Nothing => return Ok(None),
        Visible::Whole => return Ok(Some(Cow::Borrowed(json))),
        Visible::OnlyNew => None,
        Visible::OnlyOld => Some(FeedChange::parse(json)?.parts.old),
    };
    let members: Members<'_> = serde_json::from_str(json)?;
    let mut out = String::with_capacity(json.len());
    for (Name(key), value) in &members.0 {
        let value = match (&**key, only_old) {
            ("old", _) => "null",
            ("operation", Some(_)) => "\"delete\"",
            ("data", Some(old)) => old.map_or("{}", RawValue::get),
            ("unchanged", Some(_)) => "[]",
            _ => value.get(),
        };
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&serde_json::Value::from(&**key).to_string());
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    Ok(Some(Cow::Owned(out)))
}

/// An object's members in their order.
struct Members<'a>(Vec<(Name<'a>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}
