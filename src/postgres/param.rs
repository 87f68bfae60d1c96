//! Parameters of a statement, in Postgres's binary formats.
//!
//! Source of the formats: the `*send` and `*recv` functions of each type; PostgreSQL documentation,
//! "Formats and Format Codes".

use std::error::Error as StdError;
use std::io;

use bytes::{BufMut, BytesMut};
use postgres_protocol::IsNull;

use crate::lsn::Lsn;

/// The OIDs of built-in types, which never change (PostgreSQL source, `pg_type.dat`).
pub(super) mod oid {
    pub const BOOL: u32 = 16;
    pub const BYTEA: u32 = 17;
    pub const CHAR: u32 = 18;
    pub const NAME: u32 = 19;
    pub const INT8: u32 = 20;
    pub const INT4: u32 = 23;
    pub const TEXT: u32 = 25;
    pub const OID: u32 = 26;
    pub const XID: u32 = 28;
    pub const JSON: u32 = 114;
    pub const UNKNOWN: u32 = 705;
    pub const BPCHAR: u32 = 1042;
    pub const VARCHAR: u32 = 1043;
    pub const TIMESTAMPTZ: u32 = 1184;
    pub const PG_LSN: u32 = 3220;
    pub const JSONB: u32 = 3802;
}

/// The version byte before the text in jsonb's binary format.
pub(super) const JSONB_VERSION: u8 = 1;

/// A parameter of a statement. Its type is sent along, so that `$1` needs no cast in the SQL.
#[derive(Clone, Copy, Debug)]
pub enum Param<'a> {
    /// SQL null, of the type that the statement expects.
    Null,
    /// `int4`
    Int4(i32),
    /// `int8`
    Int8(i64),
    /// `text`. Postgres refuses NUL characters.
    Text(&'a str),
    /// `pg_lsn`
    Lsn(Lsn),
    /// An array of one dimension.
    Array(&'a ArrayParam),
}

impl Param<'_> {
    /// The type's OID; with 0, Postgres infers the type.
    pub(super) fn type_oid(&self) -> u32 {
        match self {
            Self::Null => 0,
            Self::Int4(_) => oid::INT4,
            Self::Int8(_) => oid::INT8,
            Self::Text(_) => oid::TEXT,
            Self::Lsn(_) => oid::PG_LSN,
            Self::Array(array) => array.element.array_oid(),
        }
    }

    pub(super) fn encode(
        &self,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn StdError + Send + Sync>> {
        match *self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Int4(value) => out.put_i32(value),
            Self::Int8(value) => out.put_i64(value),
            Self::Text(value) => out.put_slice(value.as_bytes()),
            Self::Lsn(value) => out.put_u64(value.0),
            Self::Array(array) => array.encode(out)?,
        }
        Ok(IsNull::No)
    }
}

/// The type of an [`ArrayParam`]'s elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// `int8[]`
    Int8,
    /// `text[]`
    Text,
    /// `jsonb[]`
    Jsonb,
    /// `timestamptz[]`
    Timestamptz,
    /// `oid[]`
    Oid,
}

impl Element {
    fn oid(self) -> u32 {
        match self {
            Self::Int8 => oid::INT8,
            Self::Text => oid::TEXT,
            Self::Jsonb => oid::JSONB,
            Self::Timestamptz => oid::TIMESTAMPTZ,
            Self::Oid => oid::OID,
        }
    }

    fn array_oid(self) -> u32 {
        match self {
            Self::Oid => 1028,
            Self::Text => 1009,
            Self::Int8 => 1016,
            Self::Timestamptz => 1185,
            Self::Jsonb => 3807,
        }
    }
}

/// An array of one dimension, encoded as its elements are added: a column of
/// `INSERT ... SELECT ... FROM unnest($1, $2, ...)`.
///
/// Each method `push_*` names the element types that it is for; Postgres refuses others (22P03).
#[derive(Clone)]
pub struct ArrayParam {
    element: Element,
    len: usize,
    nulls: usize,
    /// The elements, each after its length.
    body: Vec<u8>,
}

impl ArrayParam {
    /// Creates an empty array.
    pub fn new(element: Element) -> Self {
        Self {
            element,
            len: 0,
            nulls: 0,
            body: Vec::new(),
        }
    }

    /// Creates a `text[]`.
    pub fn texts<T: AsRef<str>>(texts: &[T]) -> Self {
        let mut array = Self::new(Element::Text);
        for text in texts {
            array.push_text(text.as_ref());
        }
        array
    }

    /// Whether any element is not null.
    pub fn has_values(&self) -> bool {
        self.nulls < self.len
    }

    /// Removes the elements and keeps the memory for reuse.
    pub fn clear(&mut self) {
        self.len = 0;
        self.nulls = 0;
        self.body.clear();
    }

    /// Adds a null.
    pub fn push_null(&mut self) {
        self.len += 1;
        self.nulls += 1;
        self.body.put_i32(-1);
    }

    /// Adds an `int8`, or a `timestamptz` in microseconds since 2000-01-01 00:00:00 UTC.
    pub fn push_i64(&mut self, value: i64) {
        self.push(&value.to_be_bytes());
    }

    /// Adds an `oid`.
    pub fn push_oid(&mut self, value: u32) {
        self.push(&value.to_be_bytes());
    }

    /// Adds a `text`, or the JSON text of a `jsonb`.
    pub fn push_text(&mut self, value: &str) {
        self.push(value.as_bytes());
    }

    /// Adds the UTF-8 of a `text`, or of the JSON text of a `jsonb`.
    pub fn push_bytes(&mut self, value: &[u8]) {
        self.push(value);
    }

    fn push(&mut self, value: &[u8]) {
        let versioned = self.element == Element::Jsonb;
        let len = value.len() + usize::from(versioned);
        // If the length does not fit, the array is too long as well, and `encode` refuses it.
        self.body.put_i32(i32::try_from(len).unwrap_or(i32::MAX));
        if versioned {
            self.body.put_u8(JSONB_VERSION);
        }
        self.body.put_slice(value);
        self.len += 1;
    }

    /// The format of `array_send`: the number of dimensions, a flag for nulls, the element type, the
    /// length and lower bound of each dimension, and the elements. An empty array has no dimensions.
    fn encode(&self, out: &mut BytesMut) -> Result<(), io::Error> {
        let len = i32::try_from(self.len);
        let (Ok(len), Ok(_)) = (len, i32::try_from(self.body.len())) else {
            let message = "an array parameter is too long";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        out.put_i32(i32::from(len > 0));
        out.put_i32(i32::from(self.nulls > 0));
        out.put_u32(self.element.oid());
        if len > 0 {
            out.put_i32(len);
            out.put_i32(1);
        }
        out.put_slice(&self.body);
        Ok(())
    }
}

impl std::fmt::Debug for ArrayParam {
    /// Without the elements, which are row values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ArrayParam({:?}; {})", self.element, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(param: Param<'_>) -> Vec<u8> {
        let mut out = BytesMut::new();
        assert!(matches!(param.encode(&mut out), Ok(IsNull::No)));
        out.to_vec()
    }

    #[test]
    fn an_array_is_encoded_as_its_dimension_and_its_elements() {
        let mut array = ArrayParam::new(Element::Jsonb);
        array.push_text("{}");
        array.push_null();
        let expected = [
            &b"\0\0\0\x01\0\0\0\x01\0\0\x0e\xda"[..], // one dimension, has nulls, jsonb
            b"\0\0\0\x02\0\0\0\x01", // two elements, the first of which has index 1
            b"\0\0\0\x03\x01{}\xff\xff\xff\xff",
        ]
        .concat();
        assert_eq!(encoded(Param::Array(&array)), expected);
    }

    #[test]
    fn a_cleared_array_has_no_dimension() {
        let mut array = ArrayParam::new(Element::Int8);
        array.push_null();
        array.push_i64(7);
        array.clear();
        assert!(!array.has_values());
        assert_eq!(encoded(Param::Array(&array)), b"\0\0\0\0\0\0\0\0\0\0\0\x14");
    }

    #[test]
    fn debug_shows_no_elements() {
        let array = ArrayParam::texts(&["secret"]);
        assert_eq!(format!("{array:?}"), "ArrayParam(Text; 1)");
    }
}
