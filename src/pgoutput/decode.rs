//! Decodes bytes into a [`Message`].

use crate::lsn::Lsn;

use super::error::{DecodeError, DecodeProblem};
use super::message::{
    Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, OldTuple, Origin, Relation,
    ReplicaIdentity, Truncate, Tuple, TupleData, Type, Update,
};
use super::reader::Reader;

/// Decodes a message: the `data` of a row of `pg_logical_slot_peek_binary_changes` with
/// `proto_version` 1.
///
/// Anything undocumented is an error, including bytes after the message's end. It must stop the feed,
/// because skipping it could lose a change. Memory use is proportional to the length of `message`.
pub fn decode(message: &[u8]) -> Result<Message<'_>, DecodeError> {
    decode_prefix(message, message.len())
}

/// Decodes the first bytes of a message of `full_len` bytes, for rows that are too large for memory.
///
/// An insert, update or delete keeps the values that are complete in `prefix`. The value that is cut
/// and all values after it are [`TupleData::Omitted`], so that a tuple always has as many values as it
/// declares. If an update is cut inside its old tuple, its new tuple has as many omitted values as the
/// old one, because pgoutput writes both with the same columns. A logical message keeps the part of
/// its content that is there. For all other messages, and if the cut is before the first tuple's
/// column count, the error is [`DecodeProblem::Cut`].
pub fn decode_prefix(prefix: &[u8], full_len: usize) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader::new(prefix, full_len)?;
    let message = message(&mut reader)?;
    reader.finish()?;
    Ok(message)
}

fn message<'a>(reader: &mut Reader<'a>) -> Result<Message<'a>, DecodeError> {
    let offset = reader.offset();
    Ok(match reader.u8("the message tag")? {
        b'B' => Message::Begin(begin(reader)?),
        b'C' => Message::Commit(commit(reader)?),
        b'O' => Message::Origin(origin(reader)?),
        b'R' => Message::Relation(relation(reader)?),
        b'Y' => Message::Type(data_type(reader)?),
        b'I' => Message::Insert(insert(reader)?),
        b'U' => Message::Update(update(reader)?),
        b'D' => Message::Delete(delete(reader)?),
        b'T' => Message::Truncate(truncate(reader)?),
        b'M' => Message::Message(logical_message(reader)?),
        found => {
            let problem = DecodeProblem::UnknownTag { found };
            return Err(DecodeError { offset, problem });
        }
    })
}

fn begin(reader: &mut Reader<'_>) -> Result<Begin, DecodeError> {
    Ok(Begin {
        final_lsn: Lsn(reader.u64("Begin's final LSN")?),
        committed_at: reader.i64("Begin's commit time")?,
        xid: reader.u32("Begin's transaction id")?,
    })
}

fn commit(reader: &mut Reader<'_>) -> Result<Commit, DecodeError> {
    flags(reader, 0, "Commit's flags (none are defined)")?;
    Ok(Commit {
        lsn: Lsn(reader.u64("Commit's LSN")?),
        end_lsn: Lsn(reader.u64("Commit's end LSN")?),
        committed_at: reader.i64("Commit's time")?,
    })
}

fn origin<'a>(reader: &mut Reader<'a>) -> Result<Origin<'a>, DecodeError> {
    Ok(Origin {
        lsn: Lsn(reader.u64("Origin's LSN")?),
        name: reader.string("Origin's name")?,
    })
}

fn relation<'a>(reader: &mut Reader<'a>) -> Result<Relation<'a>, DecodeError> {
    Ok(Relation {
        oid: reader.u32("Relation's OID")?,
        schema: schema(reader, "Relation's schema")?,
        name: reader.string("Relation's name")?,
        replica_identity: replica_identity(reader)?,
        columns: columns(reader)?,
    })
}

fn replica_identity(reader: &mut Reader<'_>) -> Result<ReplicaIdentity, DecodeError> {
    byte(
        reader,
        "a replica identity (d, n, f or i)",
        |found| match found {
            b'd' => Some(ReplicaIdentity::Default),
            b'n' => Some(ReplicaIdentity::Nothing),
            b'f' => Some(ReplicaIdentity::Full),
            b'i' => Some(ReplicaIdentity::Index),
            _ => None,
        },
    )
}

fn columns<'a>(reader: &mut Reader<'a>) -> Result<Vec<Column<'a>>, DecodeError> {
    /// Flags, the NUL of an empty name, type, modifier.
    const SHORTEST: usize = 1 + 1 + 4 + 4;
    let expected = "Relation's number of columns";
    let count = reader.i16(expected)?;
    let count = reader.count(count, SHORTEST, expected)?;
    let mut columns = Vec::with_capacity(count.min(reader.available() / SHORTEST));
    for _ in 0..count {
        columns.push(Column {
            is_key: flags(reader, 1, "a column's flags (0 or 1)")? == 1,
            name: reader.string("a column's name")?,
            type_oid: reader.u32("a column's type")?,
            type_modifier: reader.i32("a column's type modifier")?,
        });
    }
    Ok(columns)
}

fn data_type<'a>(reader: &mut Reader<'a>) -> Result<Type<'a>, DecodeError> {
    Ok(Type {
        oid: reader.u32("Type's OID")?,
        schema: schema(reader, "Type's schema")?,
        name: reader.string("Type's name")?,
    })
}

fn insert<'a>(reader: &mut Reader<'a>) -> Result<Insert<'a>, DecodeError> {
    Ok(Insert {
        relation: reader.u32("Insert's relation")?,
        new: new_tuple(reader)?,
    })
}

fn update<'a>(reader: &mut Reader<'a>) -> Result<Update<'a>, DecodeError> {
    enum Kind {
        New,
        Key,
        Full,
    }
    let relation = reader.u32("Update's relation")?;
    let kind = byte(reader, "a tuple (K, O or N)", |found| match found {
        b'N' => Some(Kind::New),
        b'K' => Some(Kind::Key),
        b'O' => Some(Kind::Full),
        _ => None,
    })?;
    let old = match kind {
        Kind::New => {
            return Ok(Update {
                relation,
                old: None,
                new: tuple(reader)?,
            });
        }
        Kind::Key => OldTuple::Key(tuple(reader)?),
        Kind::Full => OldTuple::Full(tuple(reader)?),
    };
    let new = match new_tuple(reader) {
        Err(DecodeError {
            problem: DecodeProblem::Cut { .. },
            ..
        }) => {
            reader.discard_rest();
            let values = vec![TupleData::Omitted; old.tuple().values.len()];
            Tuple { values }
        }
        new => new?,
    };
    Ok(Update {
        relation,
        old: Some(old),
        new,
    })
}

fn delete<'a>(reader: &mut Reader<'a>) -> Result<Delete<'a>, DecodeError> {
    let relation = reader.u32("Delete's relation")?;
    let is_full = byte(reader, "an old tuple (K or O)", |found| match found {
        b'K' => Some(false),
        b'O' => Some(true),
        _ => None,
    })?;
    let old = tuple(reader)?;
    Ok(Delete {
        relation,
        old: if is_full {
            OldTuple::Full(old)
        } else {
            OldTuple::Key(old)
        },
    })
}

fn new_tuple<'a>(reader: &mut Reader<'a>) -> Result<Tuple<'a>, DecodeError> {
    byte(reader, "a new tuple (N)", |found| {
        (found == b'N').then_some(())
    })?;
    tuple(reader)
}

fn tuple<'a>(reader: &mut Reader<'a>) -> Result<Tuple<'a>, DecodeError> {
    let expected = "a tuple's number of columns";
    let count = reader.i16(expected)?;
    let count = reader.count(count, 1, expected)?;
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        match value(reader) {
            Err(DecodeError {
                problem: DecodeProblem::Cut { .. },
                ..
            }) => {
                reader.discard_rest();
                values.resize(count, TupleData::Omitted);
            }
            value => values.push(value?),
        }
    }
    Ok(Tuple { values })
}

fn value<'a>(reader: &mut Reader<'a>) -> Result<TupleData<'a>, DecodeError> {
    enum Kind {
        Null,
        UnchangedToast,
        Text,
        Binary,
    }
    let kind = byte(
        reader,
        "a value's kind (n, u, t or b)",
        |found| match found {
            b'n' => Some(Kind::Null),
            b'u' => Some(Kind::UnchangedToast),
            b't' => Some(Kind::Text),
            b'b' => Some(Kind::Binary),
            _ => None,
        },
    )?;
    Ok(match kind {
        Kind::Null => TupleData::Null,
        Kind::UnchangedToast => TupleData::UnchangedToast,
        Kind::Text => TupleData::Text(length_prefixed(reader)?),
        Kind::Binary => TupleData::Binary(length_prefixed(reader)?),
    })
}

fn length_prefixed<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let expected = "a value's length";
    let length = reader.i32(expected)?;
    let length = reader.count(length, 1, expected)?;
    reader.bytes(length, "a value")
}

fn truncate(reader: &mut Reader<'_>) -> Result<Truncate, DecodeError> {
    const CASCADE: u8 = 1;
    const RESTART_IDENTITY: u8 = 2;
    const OID: usize = 4;
    let expected = "Truncate's number of relations";
    let count = reader.i32(expected)?;
    let options = flags(
        reader,
        CASCADE | RESTART_IDENTITY,
        "Truncate's options (0 to 3)",
    )?;
    let count = reader.count(count, OID, expected)?;
    let mut relations = Vec::with_capacity(count.min(reader.available() / OID));
    for _ in 0..count {
        relations.push(reader.u32("a truncated relation's OID")?);
    }
    Ok(Truncate {
        relations,
        cascade: options & CASCADE != 0,
        restart_identity: options & RESTART_IDENTITY != 0,
    })
}

fn logical_message<'a>(reader: &mut Reader<'a>) -> Result<LogicalMessage<'a>, DecodeError> {
    let transactional = flags(reader, 1, "Message's flags (0 or 1)")? == 1;
    let lsn = Lsn(reader.u64("Message's LSN")?);
    let prefix = reader.string("Message's prefix")?;
    let expected = "Message's content length";
    let length = reader.i32(expected)?;
    let content_len = reader.count(length, 1, expected)?;
    let content = reader.bytes(content_len.min(reader.available()), "Message's content")?;
    if content.len() < content_len {
        reader.discard_rest();
    }
    Ok(LogicalMessage {
        transactional,
        lsn,
        prefix,
        content,
        content_len,
    })
}

/// pgoutput sends an empty name for `pg_catalog`.
fn schema<'a>(reader: &mut Reader<'a>, expected: &'static str) -> Result<&'a str, DecodeError> {
    let name = reader.string(expected)?;
    Ok(if name.is_empty() { "pg_catalog" } else { name })
}

/// Reads a byte in which only the bits in `allowed` may be set.
fn flags(reader: &mut Reader<'_>, allowed: u8, expected: &'static str) -> Result<u8, DecodeError> {
    byte(reader, expected, |found| {
        (found & !allowed == 0).then_some(found)
    })
}

/// Reads a byte with a documented `meaning`. The offset of the error is that of the byte.
fn byte<T>(
    reader: &mut Reader<'_>,
    expected: &'static str,
    meaning: impl FnOnce(u8) -> Option<T>,
) -> Result<T, DecodeError> {
    let offset = reader.offset();
    let found = reader.u8(expected)?;
    let problem = DecodeProblem::UnexpectedByte { expected, found };
    meaning(found).ok_or(DecodeError { offset, problem })
}
