//! The messages as Postgres documents them, borrowing from the bytes they were read from.

use crate::lsn::Lsn;

/// One logical replication message (PostgreSQL documentation, "Logical Replication Message
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
    /// Where the commit record ends: the position to confirm once the transaction is stored.
    pub end_lsn: Lsn,
    /// Microseconds since 2000-01-01 00:00:00 UTC.
    pub committed_at: i64,
}

/// The transaction was replicated to this server from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The commit's position on the origin server.
    pub lsn: Lsn,
    /// The origin's name.
    pub name: &'a str,
}

/// The shape of a relation, sent before its first row in each peek and after each change of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The relation's OID.
    pub oid: u32,
    /// Its schema; pgoutput sends an empty name for `pg_catalog`, which is given back here.
    pub schema: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Which old values updates and deletes carry.
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

/// One column of a [`Relation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// Part of the replica identity's key.
    pub is_key: bool,
    /// The column's name.
    pub name: &'a str,
    /// The OID of its type.
    pub type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub type_modifier: i32,
}

/// A data type that is not built in, named before the first relation that has it. A domain comes
/// with its own OID, but with the schema and name of its base type.
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

/// One value of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TupleData<'a> {
    /// `n`: SQL null. In an old key: also a column that is not part of the key.
    Null,
    /// `u`: a TOASTed value that the update did not touch; it is not in the WAL.
    UnchangedToast,
    /// `t`: the output function's text. Bytes, since a server's encoding need not be UTF-8.
    Text(&'a [u8]),
    /// `b`: the send function's bytes (only with the `binary` option).
    Binary(&'a [u8]),
    /// The message was cut (see [`decode_prefix`](super::decode_prefix)) before this value was
    /// complete.
    Omitted,
}

/// What an update or a delete says of the row before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// `K`: only the replica identity's columns; the others are null.
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
    /// The row before, when the replica identity is full or the key changed.
    pub old: Option<OldTuple<'a>>,
    /// The row after. Where `old` swallowed the cut (see [`decode_prefix`](super::decode_prefix)),
    /// it has as many omitted values as `old` has values.
    pub new: Tuple<'a>,
}

/// A row was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The relation's OID.
    pub relation: u32,
    /// The row before, or its key.
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

/// What `pg_logical_emit_message` wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// Part of a transaction, or on its own.
    pub transactional: bool,
    /// Where the message was written.
    pub lsn: Lsn,
    /// The application's prefix.
    pub prefix: &'a str,
    /// The content; of a message that was cut (see [`decode_prefix`](super::decode_prefix)), what
    /// was given of it.
    pub content: &'a [u8],
    /// Bytes of the whole content.
    pub content_len: usize,
}
