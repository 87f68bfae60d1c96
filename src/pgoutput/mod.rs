//! A pure decoder of pgoutput's logical replication messages: it turns bytes into a borrowed
//! [`Message`] or a typed [`DecodeError`]. No I/O; the only state is the [`RelationCache`] of a peek.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats", protocol version 1.

mod decode;
mod error;
mod message;
mod reader;
mod relations;

pub use decode::{decode, decode_prefix};
pub use error::{DecodeError, DecodeProblem};
pub use message::{
    Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, OldTuple, Origin, Relation,
    ReplicaIdentity, Truncate, Tuple, TupleData, Type, Update,
};
pub use relations::{OwnedColumn, OwnedRelation, RelationCache, RelationError};

#[cfg(test)]
mod tests;
