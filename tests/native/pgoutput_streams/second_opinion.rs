//! Compares a message with what `pg_walstream` decodes.

use pg_change_feed::pgoutput::{Message, OldTuple, Relation, ReplicaIdentity, Tuple, TupleData};
use pg_walstream::{
    ColumnData, ColumnInfo, LogicalReplicationMessage as Theirs, LogicalReplicationParser,
    TupleData as TheirTuple,
};

/// Panics unless `pg_walstream` decodes `bytes` to the same message.
pub fn assert_agreement(bytes: &[u8], message: &Message<'_>) {
    let mut parser = LogicalReplicationParser::with_protocol_version(1);
    let theirs = parser.parse_wal_message(bytes).unwrap().message;
    assert_eq!(as_theirs(message), theirs, "of the bytes {bytes:02X?}");
}

fn as_theirs(message: &Message<'_>) -> Theirs {
    match message {
        Message::Begin(begin) => Theirs::Begin {
            final_lsn: begin.final_lsn.0,
            timestamp: begin.committed_at,
            xid: begin.xid,
        },
        Message::Commit(commit) => Theirs::Commit {
            flags: 0,
            commit_lsn: commit.lsn.0,
            end_lsn: commit.end_lsn.0,
            timestamp: commit.committed_at,
        },
        Message::Origin(origin) => Theirs::Origin {
            origin_lsn: origin.lsn.0,
            origin_name: origin.name.to_owned(),
        },
        Message::Relation(relation) => their_relation(relation),
        Message::Type(data_type) => Theirs::Type {
            type_id: data_type.oid,
            namespace: their_schema(data_type.schema).to_owned(),
            type_name: data_type.name.to_owned(),
        },
        Message::Insert(insert) => Theirs::Insert {
            relation_id: insert.relation,
            tuple: their_tuple(&insert.new),
        },
        Message::Update(update) => Theirs::Update {
            relation_id: update.relation,
            old_tuple: update.old.as_ref().map(|old| their_tuple(old.tuple())),
            new_tuple: their_tuple(&update.new),
            key_type: update.old.as_ref().map(their_key_type),
        },
        Message::Delete(delete) => Theirs::Delete {
            relation_id: delete.relation,
            old_tuple: their_tuple(delete.old.tuple()),
            key_type: their_key_type(&delete.old),
        },
        Message::Truncate(truncate) => Theirs::Truncate {
            relation_ids: truncate.relations.clone(),
            flags: u8::from(truncate.cascade) + 2 * u8::from(truncate.restart_identity),
        },
        Message::Message(message) => Theirs::Message {
            flags: u8::from(message.transactional),
            lsn: message.lsn.0,
            prefix: message.prefix.to_owned(),
            content: message.content.to_vec().into(),
        },
    }
}

/// `pg_walstream` keeps the empty name that stands for `pg_catalog` on the wire.
fn their_schema(schema: &str) -> &str {
    if schema == "pg_catalog" { "" } else { schema }
}

fn their_relation(relation: &Relation<'_>) -> Theirs {
    Theirs::Relation {
        relation_id: relation.oid,
        namespace: their_schema(relation.schema).into(),
        relation_name: relation.name.into(),
        replica_identity: match relation.replica_identity {
            ReplicaIdentity::Default => b'd',
            ReplicaIdentity::Nothing => b'n',
            ReplicaIdentity::Full => b'f',
            ReplicaIdentity::Index => b'i',
        },
        columns: relation
            .columns
            .iter()
            .map(|column| ColumnInfo {
                flags: u8::from(column.is_key),
                name: column.name.into(),
                type_id: column.type_oid,
                type_modifier: column.type_modifier,
            })
            .collect(),
    }
}

fn their_tuple(tuple: &Tuple<'_>) -> TheirTuple {
    let value = |value: &TupleData<'_>| match value {
        TupleData::Null => ColumnData::null(),
        TupleData::UnchangedToast => ColumnData::unchanged(),
        TupleData::Text(text) => ColumnData::text(text.to_vec()),
        TupleData::Binary(bytes) => ColumnData::binary(bytes.to_vec()),
        TupleData::Omitted => panic!("a whole message omits nothing"),
    };
    TheirTuple::new(tuple.values.iter().map(value).collect())
}

fn their_key_type(old: &OldTuple<'_>) -> char {
    match old {
        OldTuple::Key(_) => 'K',
        OldTuple::Full(_) => 'O',
    }
}
