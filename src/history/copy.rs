//! A batch as `COPY ... FROM STDIN` takes it (PostgreSQL documentation, "COPY", "Binary Format"):
//! about half the server's work of an INSERT, where no pooler is in the way that may not know COPY.

use std::rc::Rc;

use bytes::BufMut as _;

use crate::changes::{Change, ChangeBatch};

pub(super) const COPY: &str = "\
COPY change_history (id, lsn, table_name, operation, data, old_data, unchanged, omitted, as_text, \
xid, committed_at, epoch) FROM STDIN (FORMAT binary)";

const FIELDS: i16 = 12;
/// The signature, no flags, no header extension.
const HEADER: &[u8] = b"PGCOPY\n\xFF\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: i16 = -1;
const NULL: i32 = -1;
const JSONB_VERSION: u8 = 1;
const TEXT_OID: u32 = 25;
/// Of an array with one dimension: how many, flags, element type, length, first index.
const ARRAY_HEADER: usize = 5 * size_of::<i32>();

/// The rows of one batch; keeps its memory from one to the next.
#[derive(Debug, Default)]
pub(super) struct CopyRows {
    bytes: Vec<u8>,
}

impl CopyRows {
    /// Encodes the batch under the ids from `first_id` on.
    pub(super) fn encode(&mut self, batch: &ChangeBatch, first_id: i64, epoch: i32) -> &[u8] {
        self.bytes.clear();
        self.bytes.put_slice(HEADER);
        let mut lsn = (None, String::new());
        for (id, change) in (first_id..).zip(batch.changes()) {
            // The changes of a transaction share its text.
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

    /// A `text[]` of one dimension, or null when there is no name.
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

    /// A batch is bounded far below what an `int4` counts.
    fn length(&mut self, length: usize) {
        self.bytes
            .put_i32(i32::try_from(length).unwrap_or(i32::MAX));
    }
}
