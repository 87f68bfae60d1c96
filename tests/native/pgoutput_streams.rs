//! Decodes what real servers send: streams recorded from PostgreSQL 18 and 15 (`tests/fixtures`), and
//! streams produced while the test runs. `pg_walstream`, which shares no code with this crate, must
//! decode every message to the same contents.
//!
//! To record the fixtures again, with `TEST_POSTGRES_18` and `TEST_POSTGRES_15` set:
//! `cargo test --test native -- --ignored record_the_fixtures`.

mod recording;
mod second_opinion;

use std::collections::BTreeSet;

use pg_change_feed::pgoutput::{
    Message, OldTuple, RelationCache, ReplicaIdentity, Tuple, TupleData, decode,
};
use recording::{Format, fixture_path, read_fixture, record, write_fixture};
use second_opinion::assert_agreement;

const RECORDINGS: [(u32, Format); 3] =
    [(18, Format::Text), (18, Format::Binary), (15, Format::Text)];

/// Everything that a stream of [`record`] must contain for its test to be meaningful.
const ALL_KINDS: [&str; 24] = [
    "begin",
    "commit",
    "origin",
    "relation",
    "replica identity default",
    "replica identity full",
    "replica identity index",
    "replica identity nothing",
    "type",
    "insert",
    "update",
    "update of the key",
    "update with the old row",
    "delete by key",
    "delete with the old row",
    "truncate",
    "truncate cascade",
    "truncate restart identity",
    "truncate of several relations",
    "message in a transaction",
    "message on its own",
    "null",
    "unchanged toast",
    "value",
];

fn kinds(message: &Message<'_>) -> Vec<&'static str> {
    match message {
        Message::Begin(_) => vec!["begin"],
        Message::Commit(_) => vec!["commit"],
        Message::Origin(_) => vec!["origin"],
        Message::Type(_) => vec!["type"],
        Message::Relation(relation) => vec![
            "relation",
            match relation.replica_identity {
                ReplicaIdentity::Default => "replica identity default",
                ReplicaIdentity::Full => "replica identity full",
                ReplicaIdentity::Index => "replica identity index",
                ReplicaIdentity::Nothing => "replica identity nothing",
            },
        ],
        Message::Insert(insert) => [vec!["insert"], value_kinds(&insert.new)].concat(),
        Message::Update(update) => {
            let old = match update.old {
                None => vec![],
                Some(OldTuple::Key(_)) => vec!["update of the key"],
                Some(OldTuple::Full(_)) => vec!["update with the old row"],
            };
            [vec!["update"], old, value_kinds(&update.new)].concat()
        }
        Message::Delete(delete) => match delete.old {
            OldTuple::Key(_) => vec!["delete by key"],
            OldTuple::Full(_) => vec!["delete with the old row"],
        },
        Message::Truncate(truncate) => {
            let flags = [
                (truncate.cascade, "truncate cascade"),
                (truncate.restart_identity, "truncate restart identity"),
                (
                    truncate.relations.len() > 1,
                    "truncate of several relations",
                ),
            ];
            let set = flags
                .iter()
                .filter(|(is_set, _)| *is_set)
                .map(|(_, kind)| *kind);
            ["truncate"].into_iter().chain(set).collect()
        }
        Message::Message(message) if message.transactional => vec!["message in a transaction"],
        Message::Message(_) => vec!["message on its own"],
    }
}

fn value_kinds(tuple: &Tuple<'_>) -> Vec<&'static str> {
    let kind = |value: &TupleData<'_>| match value {
        TupleData::Null => "null",
        TupleData::UnchangedToast => "unchanged toast",
        TupleData::Text(_) | TupleData::Binary(_) => "value",
        TupleData::Omitted => panic!("a whole message omits nothing"),
    };
    tuple.values.iter().map(kind).collect()
}

/// Decodes a stream, and compares it with the second decoder and each row with its relation.
fn check_stream(stream: &[Vec<u8>], format: Format) {
    let mut seen = BTreeSet::new();
    let mut relations = RelationCache::new();
    for bytes in stream {
        let message = decode(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02X?}"));
        assert_agreement(bytes, &message);
        seen.extend(kinds(&message));
        let tuples = match &message {
            Message::Relation(relation) => {
                relations.insert(relation);
                continue;
            }
            Message::Insert(insert) => vec![(insert.relation, &insert.new)],
            Message::Update(update) => {
                let old = update
                    .old
                    .as_ref()
                    .map(|old| (update.relation, old.tuple()));
                old.into_iter()
                    .chain([(update.relation, &update.new)])
                    .collect()
            }
            Message::Delete(delete) => vec![(delete.relation, delete.old.tuple())],
            _ => continue,
        };
        for (relation, tuple) in tuples {
            relations.get(relation).unwrap().check(tuple).unwrap();
            for value in &tuple.values {
                let is_expected = match value {
                    TupleData::Text(_) => format == Format::Text,
                    TupleData::Binary(_) => format == Format::Binary,
                    _ => true,
                };
                assert!(is_expected, "{value:?} in {format:?}");
            }
        }
    }
    let missing: Vec<_> = ALL_KINDS
        .iter()
        .filter(|kind| !seen.contains(*kind))
        .collect();
    assert!(missing.is_empty(), "the stream shows no {missing:?}");
}

#[test]
fn both_decoders_read_the_recorded_streams_alike() {
    for (version, format) in RECORDINGS {
        check_stream(&read_fixture(&fixture_path(version, format)), format);
    }
}

#[tokio::test]
async fn both_decoders_read_what_postgres_sends_now_alike() {
    for (version, format) in RECORDINGS {
        check_stream(&record(version, format).await, format);
    }
}

#[tokio::test]
#[ignore = "overwrites tests/fixtures"]
async fn record_the_fixtures() {
    for (version, format) in RECORDINGS {
        let stream = record(version, format).await;
        check_stream(&stream, format);
        write_fixture(&fixture_path(version, format), version, format, &stream);
    }
}
