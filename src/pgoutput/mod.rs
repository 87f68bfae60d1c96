//! A pure decoder of pgoutput's logical replication messages: bytes in, a borrowed [`Message`] or a
//! typed [`DecodeError`] out. No I/O, no state.
//!
//! Source: PostgreSQL documentation, "Logical Replication Message Formats", protocol version 1.

mod message;

pub use message::{
    Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, OldTuple, Origin, Relation,
    ReplicaIdentity, Truncate, Tuple, TupleData, Type, Update,
};
