//! An encoder of messages, written from the documentation independently of the decoder, and strategies
//! for messages.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::lsn::Lsn;
use crate::pgoutput::{
    Begin, Column, Commit, Delete, Insert, LogicalMessage, Message, OldTuple, Origin, Relation,
    ReplicaIdentity, Truncate, Tuple, TupleData, Type, Update,
};

pub(super) fn encode(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match message {
        Message::Begin(begin) => {
            out.push(b'B');
            out.extend(begin.final_lsn.0.to_be_bytes());
            out.extend(begin.committed_at.to_be_bytes());
            out.extend(begin.xid.to_be_bytes());
        }
        Message::Commit(commit) => {
            out.extend(*b"C\0");
            out.extend(commit.lsn.0.to_be_bytes());
            out.extend(commit.end_lsn.0.to_be_bytes());
            out.extend(commit.committed_at.to_be_bytes());
        }
        Message::Origin(origin) => {
            out.push(b'O');
            out.extend(origin.lsn.0.to_be_bytes());
            string(&mut out, origin.name);
        }
        Message::Relation(relation) => encode_relation(&mut out, relation),
        Message::Type(data_type) => {
            out.push(b'Y');
            out.extend(data_type.oid.to_be_bytes());
            schema(&mut out, data_type.schema);
            string(&mut out, data_type.name);
        }
        Message::Insert(insert) => {
            out.push(b'I');
            out.extend(insert.relation.to_be_bytes());
            tuple(&mut out, b'N', &insert.new);
        }
        Message::Update(update) => {
            out.push(b'U');
            out.extend(update.relation.to_be_bytes());
            if let Some(old) = &update.old {
                old_tuple(&mut out, old);
            }
            tuple(&mut out, b'N', &update.new);
        }
        Message::Delete(delete) => {
            out.push(b'D');
            out.extend(delete.relation.to_be_bytes());
            old_tuple(&mut out, &delete.old);
        }
        Message::Truncate(truncate) => {
            out.push(b'T');
            out.extend(
                u32::try_from(truncate.relations.len())
                    .unwrap()
                    .to_be_bytes(),
            );
            out.push(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
            for oid in &truncate.relations {
                out.extend(oid.to_be_bytes());
            }
        }
        Message::Message(logical) => {
            out.extend([b'M', u8::from(logical.transactional)]);
            out.extend(logical.lsn.0.to_be_bytes());
            string(&mut out, logical.prefix);
            length_prefixed(&mut out, logical.content);
        }
    }
    out
}

fn encode_relation(out: &mut Vec<u8>, relation: &Relation<'_>) {
    out.push(b'R');
    out.extend(relation.oid.to_be_bytes());
    schema(out, relation.schema);
    string(out, relation.name);
    out.push(match relation.replica_identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.extend(u16::try_from(relation.columns.len()).unwrap().to_be_bytes());
    for column in &relation.columns {
        out.push(u8::from(column.is_key));
        string(out, column.name);
        out.extend(column.type_oid.to_be_bytes());
        out.extend(column.type_modifier.to_be_bytes());
    }
}

fn schema(out: &mut Vec<u8>, name: &str) {
    string(out, if name == "pg_catalog" { "" } else { name });
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes());
    out.push(0);
}

fn length_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend(bytes);
}

fn old_tuple(out: &mut Vec<u8>, old: &OldTuple<'_>) {
    match old {
        OldTuple::Key(values) => tuple(out, b'K', values),
        OldTuple::Full(values) => tuple(out, b'O', values),
    }
}

fn tuple(out: &mut Vec<u8>, kind: u8, tuple: &Tuple<'_>) {
    out.push(kind);
    out.extend(u16::try_from(tuple.values.len()).unwrap().to_be_bytes());
    for value in &tuple.values {
        match value {
            TupleData::Null => out.push(b'n'),
            TupleData::UnchangedToast => out.push(b'u'),
            TupleData::Text(text) => {
                out.push(b't');
                length_prefixed(out, text);
            }
            TupleData::Binary(bytes) => {
                out.push(b'b');
                length_prefixed(out, bytes);
            }
            TupleData::Omitted => panic!("Postgres omits no value"),
        }
    }
}

/// Any message that Postgres could send. Leaks what the message borrows, a few kilobytes per test.
pub(super) fn any_message() -> impl Strategy<Value = Message<'static>> {
    prop_oneof![
        (any_lsn(), any::<i64>(), any::<u32>()).prop_map(|(final_lsn, committed_at, xid)| {
            Message::Begin(Begin {
                final_lsn,
                committed_at,
                xid,
            })
        }),
        (any_lsn(), any_lsn(), any::<i64>()).prop_map(|(lsn, end_lsn, committed_at)| {
            Message::Commit(Commit {
                lsn,
                end_lsn,
                committed_at,
            })
        }),
        (any_lsn(), any_name()).prop_map(|(lsn, name)| Message::Origin(Origin { lsn, name })),
        any_relation().prop_map(Message::Relation),
        (any::<u32>(), any_schema(), any_name())
            .prop_map(|(oid, schema, name)| Message::Type(Type { oid, schema, name })),
        (any::<bool>(), any_lsn(), any_name(), any_bytes()).prop_map(
            |(transactional, lsn, prefix, content)| Message::Message(LogicalMessage {
                transactional,
                lsn,
                prefix,
                content,
                content_len: content.len(),
            })
        ),
        (vec(any::<u32>(), 0..5), any::<bool>(), any::<bool>()).prop_map(
            |(relations, cascade, restart_identity)| Message::Truncate(Truncate {
                relations,
                cascade,
                restart_identity,
            })
        ),
        any_row_message(),
    ]
}

/// Any insert, update or delete that Postgres could send: old and new have one value per column.
pub(super) fn any_row_message() -> impl Strategy<Value = Message<'static>> {
    (0..6_usize, any::<u32>()).prop_flat_map(|(columns, relation)| {
        prop_oneof![
            any_tuple(columns).prop_map(move |new| Message::Insert(Insert { relation, new })),
            (option::of(any_old(columns)), any_tuple(columns))
                .prop_map(move |(old, new)| Message::Update(Update { relation, old, new })),
            any_old(columns).prop_map(move |old| Message::Delete(Delete { relation, old })),
        ]
    })
}

fn any_relation() -> impl Strategy<Value = Relation<'static>> {
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index),
    ];
    let column = (any::<bool>(), any_name(), any::<u32>(), any::<i32>()).prop_map(
        |(is_key, name, type_oid, type_modifier)| Column {
            is_key,
            name,
            type_oid,
            type_modifier,
        },
    );
    (
        any::<u32>(),
        any_schema(),
        any_name(),
        identity,
        vec(column, 0..6),
    )
        .prop_map(|(oid, schema, name, replica_identity, columns)| Relation {
            oid,
            schema,
            name,
            replica_identity,
            columns,
        })
}

fn any_old(columns: usize) -> impl Strategy<Value = OldTuple<'static>> {
    prop_oneof![
        any_tuple(columns).prop_map(OldTuple::Key),
        any_tuple(columns).prop_map(OldTuple::Full),
    ]
}

fn any_tuple(columns: usize) -> impl Strategy<Value = Tuple<'static>> {
    let value = prop_oneof![
        Just(TupleData::Null),
        Just(TupleData::UnchangedToast),
        any_bytes().prop_map(TupleData::Text),
        any_bytes().prop_map(TupleData::Binary),
    ];
    vec(value, columns).prop_map(|values| Tuple { values })
}

fn any_lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn)
}

fn any_schema() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("public"),
        Just("pg_catalog"),
        "[^\0]{1,8}".prop_map(|name| &*name.leak())
    ]
}

fn any_name() -> impl Strategy<Value = &'static str> {
    "[^\0]{0,8}".prop_map(|name| &*name.leak())
}

fn any_bytes() -> impl Strategy<Value = &'static [u8]> {
    vec(any::<u8>(), 0..9).prop_map(|bytes| &*bytes.leak())
}
