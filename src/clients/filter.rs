//! Row filters: conditions on columns, evaluated on the JSON of a row.
//!
//! Whether a condition holds can be unknown: a change lacks unchanged TOASTed values, values that
//! are too large to hold, and most columns of an old row that the replica identity does not cover.
//! So the result has three values, and the caller decides what the third one means.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::decimal::Decimal;
use super::frame_error::FrameError;

/// Conditions of one subscription; all of them must hold.
pub const MAX_CONDITIONS: usize = 16;
/// Members of one list of `in`.
pub const MAX_IN_VALUES: usize = 256;
/// Bytes of one value, as JSON.
pub const MAX_VALUE_BYTES: usize = 1024;
/// Bytes of a column's name: Postgres cuts longer ones (`NAMEDATALEN`).
pub const MAX_COLUMN_BYTES: usize = 63;

/// Whether a condition holds for a row. Ordered, so that "and" is the minimum and "or" the maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// It does not hold.
    False,
    /// A value it depends on is not in the change.
    Unknown,
    /// It holds.
    True,
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// How a column's value and a condition's are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operator {
    /// Equal; null is equal to null.
    Eq,
    /// Not equal; null differs from everything but null (`IS DISTINCT FROM`).
    Neq,
    /// Less; never holds for null.
    Lt,
    /// Less or equal; never holds for null.
    Lte,
    /// Greater; never holds for null.
    Gt,
    /// Greater or equal; never holds for null.
    Gte,
    /// Equal to one of a list.
    In,
}

/// One condition on one column.
///
/// Numbers compare as exact decimals, strings by their bytes, false before true; a number and a
/// string compare as numbers when the string is one, since the feed writes numbers that a double
/// cannot hold as strings. Values of other kinds are unequal and have no order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawCondition", into = "RawCondition")]
pub struct Condition {
    column: String,
    operator: Operator,
    /// One, but for [`Operator::In`].
    operands: Vec<Operand>,
    /// The column is part of the replica identity, by the last lookup in the catalogue.
    is_identity: bool,
}

/// The catalogue's facts about a column that a filter names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnFacts {
    /// Its type, or a domain's base type, is an integer, `numeric`, or a float.
    pub is_number: bool,
    /// Updates and deletes carry its old value: it is part of the key of the replica identity, or
    /// the replica identity is `FULL`.
    pub is_identity: bool,
}

/// A value to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Operand {
    Null,
    Bool(bool),
    /// The number's own text, so that no digit is lost.
    Number(String),
    Text(String),
}

/// The JSON form, as clients send it and as the server stores it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCondition {
    column: String,
    op: Operator,
    value: Box<RawValue>,
    /// Only in the server's stored form: clients must not send it.
    #[serde(default, skip_serializing_if = "is_false")]
    identity: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Condition {
    /// Reads what a client sent.
    pub(super) fn from_client(raw: RawCondition) -> Result<Self, FrameError> {
        if raw.identity {
            return Err(FrameError::field("identity", "unknown field"));
        }
        Self::try_from(raw)
    }

    /// The column's name, as in the catalogue.
    pub fn column(&self) -> &str {
        &self.column
    }

    /// Whether updates and deletes carry the column's old value, as [`Self::bind`] was told.
    pub fn is_identity(&self) -> bool {
        self.is_identity
    }

    /// Applies the catalogue's facts about the column. Fails if a numeric column is compared with a
    /// non-number.
    pub fn bind(&mut self, facts: ColumnFacts) -> Result<(), FrameError> {
        if facts.is_number {
            for operand in &self.operands {
                let fits = match operand {
                    Operand::Null | Operand::Number(_) => true,
                    Operand::Text(text) => Decimal::parse(text).is_some(),
                    Operand::Bool(_) => false,
                };
                if !fits {
                    let problem = format!("the column {} is a number", self.column);
                    return Err(FrameError::field("value", problem));
                }
            }
        }
        self.is_identity = facts.is_identity;
        Ok(())
    }

    /// As [`Self::bind`] after a table change: a value that no longer fits is not an error.
    pub(super) fn rebind(&mut self, facts: Option<ColumnFacts>) {
        self.is_identity = facts.is_some_and(|facts| facts.is_identity);
    }

    /// Whether the condition holds for a column with this JSON value; `None`: the change
    /// lacks it. `is_number`: whether the column was numeric then, if that is known.
    pub(super) fn holds(&self, value: Option<&RawValue>, is_number: Option<bool>) -> Truth {
        let Some(value) = value else {
            return Truth::Unknown;
        };
        let value = Scalar::read(value.get());
        // Non-numeric text cannot come from a numeric column.
        let is_number = is_number.or_else(|| (!value.is_decimal_text()).then_some(false));
        let holds = |is_number| self.holds_for(&value, is_number);
        match is_number {
            Some(is_number) => holds(is_number).into(),
            None if holds(true) == holds(false) => holds(true).into(),
            None => Truth::Unknown,
        }
    }

    fn holds_for(&self, value: &Scalar<'_>, is_number: bool) -> bool {
        let compare = |operand| value.compare(operand, is_number);
        let is_equal = |operand| compare(operand) == Some(Ordering::Equal);
        let order = || self.operands.first().and_then(compare);
        match self.operator {
            Operator::Eq | Operator::In => self.operands.iter().any(is_equal),
            Operator::Neq => !self.operands.iter().any(is_equal),
            Operator::Lt => order().is_some_and(Ordering::is_lt),
            Operator::Lte => order().is_some_and(Ordering::is_le),
            Operator::Gt => order().is_some_and(Ordering::is_gt),
            Operator::Gte => order().is_some_and(Ordering::is_ge),
        }
    }
}

impl TryFrom<RawCondition> for Condition {
    type Error = FrameError;

    fn try_from(raw: RawCondition) -> Result<Self, FrameError> {
        if raw.column.is_empty() {
            return Err(FrameError::field("column", "must not be empty"));
        }
        FrameError::check_size("column", raw.column.len(), MAX_COLUMN_BYTES)?;
        Ok(Self {
            operands: read_operands(raw.op, &raw.value)?,
            column: raw.column,
            operator: raw.op,
            is_identity: raw.identity,
        })
    }
}

fn read_operands(operator: Operator, value: &RawValue) -> Result<Vec<Operand>, FrameError> {
    let wrong = |problem: &str| FrameError::field("value", problem);
    match operator {
        Operator::In => {
            let list: Vec<Box<RawValue>> = serde_json::from_str(value.get())
                .map_err(|_| wrong("\"in\" needs a list of strings, numbers, booleans or null"))?;
            FrameError::check_size("value", list.len(), MAX_IN_VALUES)?;
            list.iter().map(|value| Operand::read(value)).collect()
        }
        Operator::Eq | Operator::Neq => Ok(vec![Operand::read(value)?]),
        Operator::Lt | Operator::Lte | Operator::Gt | Operator::Gte => {
            match Operand::read(value)? {
                Operand::Null => Err(wrong("null has no order: use \"eq\" or \"neq\"")),
                operand => Ok(vec![operand]),
            }
        }
    }
}

impl From<Condition> for RawCondition {
    fn from(condition: Condition) -> Self {
        let text = match condition.operator {
            Operator::In => {
                let operands: Vec<String> =
                    condition.operands.iter().map(Operand::to_json).collect();
                format!("[{}]", operands.join(","))
            }
            // No wildcard: an operator with several operands must not lose any in the attachment.
            Operator::Eq
            | Operator::Neq
            | Operator::Lt
            | Operator::Lte
            | Operator::Gt
            | Operator::Gte => condition
                .operands
                .first()
                .map_or_else(|| "null".into(), Operand::to_json),
        };
        Self {
            column: condition.column,
            op: condition.operator,
            value: RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned()),
            identity: condition.is_identity,
        }
    }
}

impl Operand {
    fn read(value: &RawValue) -> Result<Self, FrameError> {
        let text = value.get();
        FrameError::check_size("value", text.len(), MAX_VALUE_BYTES)?;
        let wrong = || FrameError::field("value", "must be a string, a number, a boolean or null");
        match Scalar::read(text) {
            Scalar::Null => Ok(Self::Null),
            Scalar::Bool(value) => Ok(Self::Bool(value)),
            Scalar::Number(_) => Ok(Self::Number(text.to_owned())),
            Scalar::Text(value) => Ok(Self::Text(value.into_owned())),
            Scalar::Other => Err(wrong()),
        }
    }

    fn to_json(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => value.to_string(),
            Self::Number(text) => text.clone(),
            Self::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        }
    }
}

/// A column's value.
enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(Decimal<'a>),
    Text(Cow<'a, str>),
    /// An object, a list, or a number beyond every type of Postgres.
    Other,
}

/// Serde borrows inside a newtype where it does not inside a bare `Cow`.
#[derive(Deserialize)]
struct JsonText<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Scalar<'a> {
    fn read(json: &'a str) -> Self {
        match json {
            "null" => Self::Null,
            "true" => Self::Bool(true),
            "false" => Self::Bool(false),
            _ if json.starts_with('"') => match serde_json::from_str(json) {
                Ok(JsonText(text)) => Self::Text(text),
                Err(_) => Self::Other,
            },
            _ => Decimal::parse(json).map_or(Self::Other, Self::Number),
        }
    }

    fn is_decimal_text(&self) -> bool {
        matches!(self, Self::Text(text) if Decimal::parse(text).is_some())
    }

    /// `None` if the two have no order. Null equals null.
    fn compare(&self, operand: &Operand, is_number: bool) -> Option<Ordering> {
        match (self, operand) {
            (Self::Null, Operand::Null) => Some(Ordering::Equal),
            (Self::Bool(ours), Operand::Bool(theirs)) => Some(ours.cmp(theirs)),
            (Self::Number(ours), Operand::Number(text) | Operand::Text(text)) => {
                Some(ours.cmp(&Decimal::parse(text)?))
            }
            (Self::Text(text), Operand::Number(number)) => {
                Some(Decimal::parse(text)?.cmp(&Decimal::parse(number)?))
            }
            (Self::Text(ours), Operand::Text(theirs)) if is_number => {
                Some(Decimal::parse(ours)?.cmp(&Decimal::parse(theirs)?))
            }
            (Self::Text(ours), Operand::Text(theirs)) => {
                Some(ours.as_bytes().cmp(theirs.as_bytes()))
            }
            _ => None,
        }
    }
}
