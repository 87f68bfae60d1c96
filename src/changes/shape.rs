//! How the text of a type becomes JSON.

use std::rc::Rc;

/// What `to_jsonb` turns a type into, including the types that it consists of. Resolved once per
/// relation.
///
/// Domains are missing because `to_jsonb` treats them as their base type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `t` or `f`.
    Bool,
    /// `smallint` and `integer`: a double can represent every value.
    Integer,
    /// `real` and `double precision`: the text is the shortest that reads as the same value.
    Float,
    /// `bigint` and `numeric`: a number if it round-trips as a double, otherwise a string.
    Numeric,
    /// `timestamp`.
    Timestamp,
    /// `timestamp with time zone`.
    TimestampTz,
    /// `json` and `jsonb`.
    Json,
    /// An array: its elements and the delimiter between them.
    Array(Rc<Shape>, u8),
    /// `int2vector` and `oidvector`: arrays written with spaces.
    Vector(Rc<Shape>),
    /// A row type, without dropped attributes, which its text does not have either.
    Composite(Rc<[Attribute]>),
    /// The `hstore` extension's type: an object of strings and nulls.
    Hstore,
    /// A string of the text, as `to_jsonb` returns it.
    Text,
    /// A string of the text, although `to_jsonb` may return something else.
    Opaque,
}

impl Shape {
    /// Whether values compare as numbers.
    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Integer | Self::Float | Self::Numeric)
    }
}

/// One attribute of a composite type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    /// The name as a JSON string, with the colon.
    pub(super) key: Vec<u8>,
    /// The type.
    pub(super) shape: Shape,
}
