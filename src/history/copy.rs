//! A batch in the binary format of `COPY ... FROM STDIN` (PostgreSQL documentation, "COPY", "Binary
//! Format"). It costs the server about half as much as an `INSERT`. Not every pooler supports COPY,
//! so it is used on direct connections only.

use std::rc::Rc;

use bytes::BufMut as _;

use crate::changes::{Change, ChangeBatch};

pub(super) const COPY: &str = concat!(
    "COPY change_history (",
    change_columns!(),
    ") FROM STDIN (FORMAT binary)"
);

/// One for each of the columns above.
const FIELDS: i16 = 12;
/// The signature, no flags, no header extension.
const HEADER: &[u8] = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: i16 = -1;
const NULL: i32 = -1;
const JSONB_VERSION: u8 = 1;
const TEXT_OID: u32 = 25;
/// The header of an array: number of dimensions, flags, element type; and for its one dimension the
/// length and the first index.
const ARRAY_HEADER: usize = 5 * size_of::<i32>();

/// Encodes batches, and reuses its buffer from one to the next.
#[derive(Debug, Default)]
pub(super) struct CopyRows {
    bytes: Vec<u8>,
}

impl CopyRows {
    /// Encodes a batch whose first change gets the id `first_id`.
    pub(super) fn encode(&mut self, batch: &ChangeBatch, first_id: i64, epoch: i32) -> &[u8] {
        self.bytes.clear();
        self.bytes.put_slice(HEADER);
        let mut lsn = (None, String::new());
        for (id, change) in (first_id..).zip(batch.changes()) {
            // All changes of a transaction have the same LSN: it is formatted once.
            if lsn.0 != Some(change.lsn) {
                lsn = (Some(change.lsn), change.lsn.to_string());
            }
            self.push(batch, change, id, &lsn.1, epoch);
        }
        self.bytes.put_i16(TRAILER);
        &self.bytes
    }

    fn push(&mut self, batch: &ChangeBatch, change: &Change, id: i64, lsn: &str, epoch: i32) {
        self.bytes.put_i16(FIELDS);
        self.field(&id.to_be_bytes());
        self.field(lsn.as_bytes());
        self.field(change.relation.qualified().as_bytes());
        self.field(change.operation.as_str().as_bytes());
        self.jsonb(batch.data(change));
        match batch.old(change) {
            Some(old) => self.jsonb(old),
            None => self.bytes.put_i32(NULL),
        }
        for names in [&change.unchanged, &change.omitted, &change.as_text] {
            self.names(names);
        }
        self.field(&i64::from(change.xid).to_be_bytes());
        self.field(&change.committed_at.to_be_bytes());
        self.field(&epoch.to_be_bytes());
    }

    fn field(&mut self, value: &[u8]) {
        self.length(value.len());
        self.bytes.put_slice(value);
    }

    fn jsonb(&mut self, json: &[u8]) {
        self.length(json.len() + 1);
        self.bytes.put_u8(JSONB_VERSION);
        self.bytes.put_slice(json);
    }

    /// A `text[]` of one dimension; null if there are no names.
    fn names(&mut self, names: &[Rc<str>]) {
        if names.is_empty() {
            self.bytes.put_i32(NULL);
            return;
        }
        let elements = names.iter().map(|name| size_of::<i32>() + name.len());
        self.length(ARRAY_HEADER + elements.sum::<usize>());
        self.bytes.put_i32(1);
        self.bytes.put_i32(0);
        self.bytes.put_u32(TEXT_OID);
        self.length(names.len());
        self.bytes.put_i32(1);
        for name in names {
            self.field(name.as_bytes());
        }
    }

    /// A batch is far smaller than an `int4` can count.
    fn length(&mut self, length: usize) {
        self.bytes
            .put_i32(i32::try_from(length).unwrap_or(i32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_field_for_each_column() {
        let columns = change_columns!().split(", ").count();
        assert_eq!(columns, usize::try_from(FIELDS).unwrap());
    }
}
