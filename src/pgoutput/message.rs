//! The messages that Postgres documents. They borrow from the bytes that they were decoded from.

use crate::lsn::Lsn;

/// A logical replication message (PostgreSQL documentation, "Logical Replication Message
/// Formats", protocol version 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// `B`
    Begin(Begin),
    /// `C`
    Commit(Commit),
    /// `O`
    Origin(Origin<'a>),
    /// `R`
    Relation(Relation<'a>),
    /// `Y`
    Type(Type<'a>),
    /// `I`
    Insert(Insert<'a>),
    /// `U`
    Update(Update<'a>),
    /// `D`
    Delete(Delete<'a>),
    /// `T`
    Truncate(Truncate),
    /// `M`
    Message(LogicalMessage<'a>),
}

/// A transaction begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where the transaction's commit record starts.
    pub final_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub committed_at: i64,
    /// The transaction's id, without the epoch.
    pub xid: u32,
}

/// A transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record starts; equals [`Begin::final_lsn`].
    pub lsn: Lsn,
    /// Where the commit record ends: the position to confirm when the transaction is stored.
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub committed_at: i64,
}

/// The transaction was replicated to this server from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The LSN of the commit on the origin server.
    pub lsn: Lsn,
    /// The origin's name.
    pub name: &'a str,
}

/// The description of a relation, sent before its first row in a peek and after each change of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The relation's OID.
    pub oid: u32,
    /// Its schema. Here it is `pg_catalog` where pgoutput sends an empty name.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Which old values updates and deletes contain.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the order of the tuples.
    pub columns: Vec<Column<'a>>,
}

/// `ALTER TABLE ... REPLICA IDENTITY`, as `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: the whole row.
    Full,
    /// `i`: the columns of one unique index.
    Index,
}

/// A column of a [`Relation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Whether it is part of the key of the replica identity.
    pub is_key: bool,
    /// The column's name.
    pub name: &'a str,
    /// The OID of its type.
    pub type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub type_modifier: i32,
}

/// A data type that is not built in, sent before the first relation that uses it. A domain has its
/// own OID here, but the schema and name of its base type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type<'a> {
    /// The type's OID.
    pub oid: u32,
    /// Its schema; `pg_catalog` as in [`Relation::schema`].
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// The values of one row, in the order of the relation's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    /// One per column.
    pub values: Vec<TupleData<'a>>,
}

/// A value of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TupleData<'a> {
    /// `n`: SQL null. In an old key also a column that is not part of the key.
    Null,
    /// `u`: a TOASTed value that the update did not change. It is not in the WAL.
    UnchangedToast,
    /// `t`: the text of the output function. Bytes, because it need not be UTF-8.
    Text(&'a [u8]),
    /// `b`: the bytes of the send function (only with the option `binary`).
    Binary(&'a [u8]),
    /// The message was cut (see [`decode_prefix`](super::decode_prefix)) before this value was
    /// complete.
    Omitted,
}

/// The old row of an update or a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// `K`: only the columns of the replica identity. The others are null.
    Key(Tuple<'a>),
    /// `O`: the whole row (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

impl<'a> OldTuple<'a> {
    /// The values, key or whole row.
    pub fn tuple(&self) -> &Tuple<'a> {
        match self {
            Self::Key(tuple) | Self::Full(tuple) => tuple,
        }
    }
}

/// A row was inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The relation's OID.
    pub relation: u32,
    /// The row.
    pub new: Tuple<'a>,
}

/// A row was updated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// The relation's OID.
    pub relation: u32,
    /// The old row, if the replica identity is full or the key changed.
    pub old: Option<OldTuple<'a>>,
    /// The new row. If the message was cut inside `old` (see [`decode_prefix`](super::decode_prefix)),
    /// it has as many omitted values as `old` has values.
    pub new: Tuple<'a>,
}

/// A row was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The relation's OID.
    pub relation: u32,
    /// The old row or its key.
    pub old: OldTuple<'a>,
}

/// Relations were truncated by one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    /// The OIDs of the published relations.
    pub relations: Vec<u32>,
    /// `TRUNCATE ... CASCADE`
    pub cascade: bool,
    /// `TRUNCATE ... RESTART IDENTITY`
    pub restart_identity: bool,
}

/// A message of `pg_logical_emit_message`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Whether it is part of a transaction.
    pub transactional: bool,
    /// Where the message was written.
    pub lsn: Lsn,
    /// The application's prefix.
    pub prefix: &'a str,
    /// The content, or the part of it that is there if the message was cut (see
    /// [`decode_prefix`](super::decode_prefix)).
    pub content: &'a [u8],
    /// The length of the whole content in bytes.
    pub content_len: usize,
}
