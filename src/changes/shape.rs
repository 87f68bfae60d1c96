//! How a type's text becomes JSON.

use std::rc::Rc;

/// What `to_jsonb` makes of a type, with everything it is made of, resolved once per relation.
///
/// Domains are not here: `to_jsonb` looks through them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `t` or `f`.
    Bool,
    /// `smallint` and `integer`: every value survives a double.
    Integer,
    /// `real` and `double precision`: the text is the shortest that gives the value back.
    Float,
    /// `bigint` and `numeric`: a number only when a double gives it back.
    Numeric,
    /// `timestamp`.
    Timestamp,
    /// `timestamp with time zone`.
    TimestampTz,
    /// `json` and `jsonb`.
    Json,
    /// An array, its elements, and the delimiter between them.
    Array(Rc<Shape>, u8),
    /// `int2vector` and `oidvector`: arrays written with spaces.
    Vector(Rc<Shape>),
    /// A row type; dropped attributes are in neither the text nor here.
    Composite(Rc<[Attribute]>),
    /// The `hstore` extension's type: an object of strings and nulls.
    Hstore,
    /// A string of the text, as `to_jsonb` gives it.
    Text,
    /// A string of the text, where `to_jsonb` would give something else or nothing is known.
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
