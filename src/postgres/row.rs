//! The rows of a result, read from Postgres's binary formats without copying.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::{DATA_ROW_TAG, DataRowBody};

use crate::lsn::Lsn;
use crate::postgres::error::{Error, ProtocolError, ValueError};
use crate::postgres::param::{JSONB_VERSION, oid};

/// The type of each column of a result.
pub(super) type ColumnTypes = Arc<[u32]>;

/// A row. It shares the buffer that it was received in (up to the 256 KiB of a read), which is freed
/// when every row and every [`Bytes`] in it is dropped.
#[derive(Clone)]
pub struct Row {
    types: ColumnTypes,
    body: DataRowBody,
}

impl Row {
    /// Checks that `body` is well-formed and has one value per column.
    pub(super) fn new(types: &ColumnTypes, body: DataRowBody) -> Result<Self, ProtocolError> {
        let tag = DATA_ROW_TAG;
        let counted = body.ranges().count();
        let actual = counted.map_err(|source| ProtocolError::Malformed { tag, source })?;
        let described = types.len();
        if actual != described {
            return Err(ProtocolError::RowWidth { actual, described });
        }
        let types = Arc::clone(types);
        Ok(Self { types, body })
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether the row has no columns.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// The row's size on the wire, in bytes.
    pub fn byte_len(&self) -> usize {
        self.body.buffer().len()
    }

    /// Returns the value of the column with index `column`. `T` must fit the column's type: see
    /// [`FromColumn`].
    pub fn get<'a, T: FromColumn<'a>>(&'a self, column: usize) -> Result<T, Error> {
        self.column(column)
            .and_then(T::from_column)
            .map_err(|reason| Error::Value { column, reason })
    }

    fn column(&self, column: usize) -> Result<Column<'_>, ValueError> {
        let Some(&type_oid) = self.types.get(column) else {
            return Err(ValueError::NoSuchColumn);
        };
        // `new` has checked that there is one range per type.
        let Ok(Some(range)) = self.body.ranges().nth(column) else {
            return Err(ValueError::NoSuchColumn);
        };
        let buffer = self.body.buffer_bytes();
        Ok(Column {
            type_oid,
            buffer,
            start: range.as_ref().map_or(0, |range| range.start),
            value: range.and_then(|range| buffer.get(range)),
        })
    }
}

impl fmt::Debug for Row {
    /// Without the values, which must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} columns, {} bytes)", self.len(), self.byte_len())
    }
}

/// A value and its type, for [`FromColumn`].
#[derive(Clone, Copy)]
pub struct Column<'a> {
    type_oid: u32,
    buffer: &'a Bytes,
    start: usize,
    value: Option<&'a [u8]>,
}

impl<'a> Column<'a> {
    /// Returns the bytes of a value whose type is one of `types`.
    fn of(self, wanted: &'static str, types: &[u32]) -> Result<&'a [u8], ValueError> {
        let actual = self.type_oid;
        if !types.contains(&actual) {
            return Err(ValueError::Type { actual, wanted });
        }
        self.value.ok_or(ValueError::Null)
    }

    /// Returns the bytes of a value that always has `N` bytes.
    fn fixed<const N: usize>(
        self,
        wanted: &'static str,
        types: &[u32],
    ) -> Result<[u8; N], ValueError> {
        let bytes = self.of(wanted, types)?;
        bytes
            .try_into()
            .map_err(|_| ValueError::Length(bytes.len()))
    }
}

/// A type as which the value of a column can be read.
pub trait FromColumn<'a>: Sized {
    /// Reads the value. Null is an error for every type but [`Option`].
    fn from_column(column: Column<'a>) -> Result<Self, ValueError>;
}

/// Null, of any type, is `None`.
impl<'a, T: FromColumn<'a>> FromColumn<'a> for Option<T> {
    fn from_column(column: Column<'a>) -> Result<Self, ValueError> {
        match T::from_column(column) {
            Ok(value) => Ok(Some(value)),
            Err(ValueError::Null) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `bool`
impl FromColumn<'_> for bool {
    fn from_column(column: Column<'_>) -> Result<Self, ValueError> {
        match column.fixed("bool", &[oid::BOOL])? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(ValueError::Content),
        }
    }
}

/// `int4`
impl FromColumn<'_> for i32 {
    fn from_column(column: Column<'_>) -> Result<Self, ValueError> {
        column.fixed("int4", &[oid::INT4]).map(Self::from_be_bytes)
    }
}

/// `int8`; `timestamptz` as microseconds since 2000-01-01 00:00:00 UTC, the extremes being infinity.
impl FromColumn<'_> for i64 {
    fn from_column(column: Column<'_>) -> Result<Self, ValueError> {
        column
            .fixed("int8 or timestamptz", &[oid::INT8, oid::TIMESTAMPTZ])
            .map(Self::from_be_bytes)
    }
}

/// `oid`, `xid`
impl FromColumn<'_> for u32 {
    fn from_column(column: Column<'_>) -> Result<Self, ValueError> {
        column
            .fixed("oid or xid", &[oid::OID, oid::XID])
            .map(Self::from_be_bytes)
    }
}

/// `pg_lsn`
impl FromColumn<'_> for Lsn {
    fn from_column(column: Column<'_>) -> Result<Self, ValueError> {
        let position = column.fixed("pg_lsn", &[oid::PG_LSN])?;
        Ok(Self(u64::from_be_bytes(position)))
    }
}

/// `text`, `varchar`, `char(n)`, `name`, `"char"`, and the text of `json` and `jsonb`. Other types,
/// such as enums, need a cast to text in the SQL.
impl<'a> FromColumn<'a> for &'a str {
    fn from_column(column: Column<'a>) -> Result<Self, ValueError> {
        let types = [
            oid::TEXT,
            oid::VARCHAR,
            oid::BPCHAR,
            oid::NAME,
            oid::CHAR,
            oid::UNKNOWN,
            oid::JSON,
            oid::JSONB,
        ];
        let bytes = column.of("text or json", &types)?;
        let text = match (column.type_oid, bytes) {
            (oid::JSONB, [JSONB_VERSION, text @ ..]) => text,
            (oid::JSONB, _) => return Err(ValueError::Content),
            (_, text) => text,
        };
        str::from_utf8(text).map_err(|_| ValueError::Encoding)
    }
}

/// As `&str`, copied.
impl FromColumn<'_> for String {
    fn from_column(column: Column<'_>) -> Result<Self, ValueError> {
        <&str>::from_column(column).map(str::to_owned)
    }
}

/// `bytea`
impl<'a> FromColumn<'a> for &'a [u8] {
    fn from_column(column: Column<'a>) -> Result<Self, ValueError> {
        column.of("bytea", &[oid::BYTEA])
    }
}

/// `bytea`, sharing the row's buffer.
impl FromColumn<'_> for Bytes {
    fn from_column(column: Column<'_>) -> Result<Self, ValueError> {
        let len = <&[u8]>::from_column(column)?.len();
        Ok(column.buffer.slice(column.start..column.start + len))
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use postgres_protocol::message::backend::Message;

    use super::*;

    /// A row with one value of the type `type_oid`.
    fn row_of(type_oid: u32, value: &[u8]) -> Row {
        let value_len = u32::try_from(value.len()).unwrap().to_be_bytes();
        let len = u32::try_from(value.len() + 10).unwrap().to_be_bytes();
        let message = [b"D", &len[..], b"\0\x01", &value_len, value].concat();
        match Message::parse(&mut BytesMut::from(&message[..])) {
            Ok(Some(Message::DataRow(body))) => {
                let types: ColumnTypes = Arc::new([type_oid]);
                Row::new(&types, body).unwrap()
            }
            _ => panic!("no DataRow"),
        }
    }

    fn reason<T>(value: Result<T, Error>) -> ValueError {
        match value.err() {
            Some(Error::Value { column: 0, reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_that_are_invalid_for_their_type_are_refused() {
        for len in [0, 1, 3, 5, 9] {
            let bytes = [0; 9];
            let bytes = bytes.get(..len).unwrap();
            let refused = ValueError::Length(len);
            assert_eq!(reason(row_of(oid::INT4, bytes).get::<i32>(0)), refused);
            assert_eq!(reason(row_of(oid::INT8, bytes).get::<i64>(0)), refused);
            assert_eq!(
                reason(row_of(oid::PG_LSN, bytes).get::<Option<Lsn>>(0)),
                refused
            );
            assert_eq!(reason(row_of(oid::XID, bytes).get::<u32>(0)), refused);
        }
        assert_eq!(
            reason(row_of(oid::BOOL, b"\x02").get::<bool>(0)),
            ValueError::Content
        );
        assert_eq!(
            reason(row_of(oid::BOOL, b"").get::<bool>(0)),
            ValueError::Length(0)
        );
        assert_eq!(
            reason(row_of(oid::TEXT, b"\xff").get::<&str>(0)),
            ValueError::Encoding
        );
        assert_eq!(
            reason(row_of(oid::JSONB, b"").get::<&str>(0)),
            ValueError::Content
        );
        assert_eq!(
            reason(row_of(oid::JSONB, b"\x02{}").get::<&str>(0)),
            ValueError::Content
        );
        assert_eq!(row_of(oid::JSONB, b"\x01{}").get::<&str>(0).unwrap(), "{}");
    }

    #[test]
    fn bytes_share_the_buffer_of_their_row() {
        let row = row_of(oid::BYTEA, b"shared");
        let borrowed: &[u8] = row.get(0).unwrap();
        let shared: Bytes = row.get(0).unwrap();
        assert_eq!(borrowed.as_ptr(), shared.as_ptr());
        drop(row);
        assert_eq!(shared, b"shared"[..]);
        assert_eq!(row_of(oid::BYTEA, b"").get::<Bytes>(0).unwrap(), b""[..]);
    }

    #[test]
    fn debug_shows_no_values() {
        assert_eq!(
            format!("{:?}", row_of(oid::TEXT, b"secret")),
            "Row(1 columns, 10 bytes)"
        );
    }
}
