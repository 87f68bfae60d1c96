use super::*;
use crate::changes::TypeRow;
use crate::pgoutput::{Column, Delete, Insert, ReplicaIdentity, Truncate, TupleData, Update};

const INT4: u32 = 23;
const TEXT: u32 = 25;
const JSON: u32 = 114;
const FLOAT8_ARRAY: u32 = 1022;
const MADE: u32 = 20_000;

/// A transaction whose commit record begins at `lsn`.
fn begin_of(xid: u32, lsn: u64) -> Message<'static> {
    Message::Begin(Begin {
        final_lsn: Lsn(lsn),
        committed_at: 5,
        xid,
    })
}

fn begin(xid: u32) -> Message<'static> {
    begin_of(xid, 190)
}

fn commit(end_lsn: u64) -> Message<'static> {
    Message::Commit(Commit {
        lsn: Lsn(190),
        end_lsn: Lsn(end_lsn),
        committed_at: 5,
    })
}

fn relation(oid: u32, name: &'static str, columns: &[(&'static str, u32)]) -> Message<'static> {
    let columns = columns
        .iter()
        .enumerate()
        .map(|(index, &(name, type_oid))| Column {
            is_key: index == 0,
            name,
            type_oid,
            type_modifier: -1,
        });
    Message::Relation(Relation {
        oid,
        schema: "public",
        name,
        replica_identity: ReplicaIdentity::Default,
        columns: columns.collect(),
    })
}

fn tuple<'a>(values: &[TupleData<'a>]) -> Tuple<'a> {
    Tuple {
        values: values.to_vec(),
    }
}

fn text(text: &str) -> TupleData<'_> {
    TupleData::Text(text.as_bytes())
}

fn insert<'a>(relation: u32, values: &[TupleData<'a>]) -> Message<'a> {
    Message::Insert(Insert {
        relation,
        new: tuple(values),
    })
}

/// An assembler and its arguments.
struct Fixture {
    assembler: Assembler,
    types: TypeCatalog,
    batch: ChangeBatch,
}

impl Fixture {
    fn new(max_row_bytes: usize) -> Self {
        let excluded = FeedTables::parse("99,100");
        Self {
            assembler: Assembler::new(Lsn(100), excluded, Limits { max_row_bytes }),
            types: TypeCatalog::default(),
            batch: ChangeBatch::default(),
        }
    }

    /// Inside a transaction that is not stored and whose commit LSN is set, with a table `t` of OID 1.
    fn within_a_transaction(max_row_bytes: usize, columns: &[(&'static str, u32)]) -> Self {
        let mut fixture = Self::new(max_row_bytes);
        fixture.accept(&begin(7)).unwrap();
        fixture.accept(&relation(1, "t", columns)).unwrap();
        fixture.set_commit_lsn(200);
        fixture
    }

    fn set_commit_lsn(&mut self, end: u64) {
        self.assembler.set_commit_lsn(Lsn(end), &mut self.batch);
    }

    fn accept(&mut self, message: &Message<'_>) -> Result<Outcome, AssembleError> {
        self.assembler.accept(message, &self.types, &mut self.batch)
    }

    fn last(&self) -> (&str, Option<&str>, &Change) {
        let change = self.batch.changes().last().unwrap();
        let read = |json| std::str::from_utf8(json).unwrap();
        (
            read(self.batch.data(change)),
            self.batch.old(change).map(read),
            change,
        )
    }
}

fn names(names: &[Rc<str>]) -> Vec<&str> {
    names.iter().map(AsRef::as_ref).collect()
}

#[test]
fn a_transaction_before_the_checkpoint_is_skipped_but_its_relations_are_kept() {
    let mut fixture = Fixture::new(1000);
    for message in [
        begin_of(7, 99),
        relation(1, "t", &[("id", INT4)]),
        insert(1, &[text("1")]),
    ] {
        assert_eq!(fixture.accept(&message), Ok(Outcome::Nothing));
    }
    assert_eq!(
        fixture.accept(&commit(100)),
        Ok(Outcome::Committed(Lsn(100)))
    );
    // A commit record may begin exactly where the previous one ends.
    assert_eq!(fixture.accept(&begin_of(8, 100)), Ok(Outcome::Nothing));
    assert_eq!(
        fixture.accept(&insert(1, &[text("2")])),
        Ok(Outcome::Changes(1))
    );
    assert_eq!(
        fixture.accept(&commit(200)),
        Ok(Outcome::Committed(Lsn(200)))
    );
    let (data, old, change) = fixture.last();
    assert_eq!((data, old), (r#"{"id":2}"#, None));
    assert_eq!(
        (change.xid, change.lsn, change.committed_at),
        (8, Lsn(200), 5)
    );
    assert_eq!(fixture.batch.len(), 1);
}

#[test]
fn changes_of_excluded_tables_are_left_out_even_of_a_truncate() {
    let mut fixture = Fixture::within_a_transaction(1000, &[("id", INT4)]);
    // The types of an excluded table do not matter.
    let own = relation(99, "change_history_2026", &[("id", MADE)]);
    assert_eq!(fixture.accept(&own), Ok(Outcome::Nothing));
    assert_eq!(
        fixture.accept(&insert(99, &[text("1")])),
        Ok(Outcome::Nothing)
    );
    let truncate = Message::Truncate(Truncate {
        relations: vec![99, 1],
        cascade: false,
        restart_identity: false,
    });
    assert_eq!(fixture.accept(&truncate), Ok(Outcome::Changes(1)));
    assert_eq!(fixture.last().0, "{}");
}

#[test]
fn a_table_of_a_feed_is_recognised_when_it_is_described_and_one_that_is_only_named_so_is_captured()
{
    let history = [
        "lsn",
        "table_name",
        "operation",
        "old_data",
        "unchanged",
        "omitted",
        "as_text",
        "committed_at",
    ]
    .map(|name| (name, MADE));
    let checkpoint =
        ["slot", "epoch", "last_id", "system_identifier", "timeline"].map(|name| (name, MADE));
    let migration = ["version", "name", "applied_at"].map(|name| (name, INT4));
    let mut fixture = Fixture::within_a_transaction(1000, &[("id", INT4)]);
    for (name, columns, is_captured) in [
        ("change_history_2026", &history[..], false),
        ("replication_checkpoint", &checkpoint, false),
        ("replication_migration", &migration, false),
        ("migrations", &migration, true),
        ("change_history", &[("id", INT4)], true),
    ] {
        assert_eq!(
            fixture.accept(&relation(3, name, columns)),
            Ok(Outcome::Nothing)
        );
        let values = vec![text("1"); columns.len()];
        let expected = if is_captured {
            Outcome::Changes(1)
        } else {
            Outcome::Nothing
        };
        assert_eq!(fixture.accept(&insert(3, &values)), Ok(expected), "{name}");
    }
}

#[test]
fn messages_out_of_order_are_errors() {
    let mut fixture = Fixture::new(1000);
    let outside = AssembleError::OutsideTransaction("insert");
    assert_eq!(fixture.accept(&insert(1, &[])), Err(outside));
    assert_eq!(
        fixture.accept(&commit(1)),
        Err(AssembleError::OutsideTransaction("a commit"))
    );
    assert_eq!(fixture.assembler.finish(), Ok(()));
    fixture.accept(&begin(7)).unwrap();
    assert_eq!(
        fixture.assembler.finish(),
        Err(AssembleError::Unfinished(7))
    );
    let inside = AssembleError::InsideTransaction { outer: 7, inner: 8 };
    assert_eq!(fixture.accept(&begin(8)), Err(inside));
    let unknown = AssembleError::Relation(RelationError::Unknown { oid: 1 });
    assert_eq!(fixture.accept(&insert(1, &[])), Err(unknown));
    fixture.accept(&relation(1, "t", &[("id", INT4)])).unwrap();
    assert!(matches!(
        fixture.accept(&insert(1, &[])),
        Err(AssembleError::Relation(_))
    ));
    let binary = [TupleData::Binary(b"\0")];
    assert!(matches!(
        fixture.accept(&insert(1, &binary)),
        Err(AssembleError::BinaryValue(_))
    ));
    fixture.set_commit_lsn(200);
    let other = AssembleError::CommitMismatch {
        xid: 7,
        expected: Lsn(200),
        found: Lsn(201),
    };
    assert_eq!(fixture.accept(&commit(201)), Err(other));
}

#[test]
fn changes_are_pending_until_the_end_of_their_transaction_is_known() {
    let mut fixture = Fixture::new(1000);
    fixture.accept(&begin(7)).unwrap();
    fixture.accept(&relation(1, "t", &[("id", INT4)])).unwrap();
    fixture.accept(&insert(1, &[text("1")])).unwrap();
    assert!(fixture.batch.is_empty());
    assert_eq!(fixture.batch.pending(), 1);
    fixture.accept(&commit(200)).unwrap();
    assert_eq!(fixture.last().0, r#"{"id":1}"#);

    fixture.accept(&begin(8)).unwrap();
    let update = Message::Update(Update {
        relation: 1,
        old: Some(OldTuple::Key(tuple(&[text("2")]))),
        new: tuple(&[text("3")]),
    });
    fixture.accept(&update).unwrap();
    assert_eq!((fixture.batch.len(), fixture.batch.pending()), (1, 1));
    assert_eq!(fixture.batch.pending_bytes(), fixture.batch.bytes() / 2 + 4);
    // Clearing removes complete changes only.
    fixture.batch.clear();
    assert_eq!((fixture.batch.len(), fixture.batch.pending()), (0, 1));
    fixture.accept(&insert(1, &[text("4")])).unwrap();
    fixture.set_commit_lsn(300);
    fixture.accept(&insert(1, &[text("5")])).unwrap();
    let ids = fixture.batch.changes().iter();
    let ids: Vec<_> = ids
        .map(|change| (fixture.batch.data(change), change.lsn))
        .collect();
    let rows = [br#"{"id":3}"#, br#"{"id":4}"#, br#"{"id":5}"#];
    assert_eq!(ids, rows.map(|row| (row.as_slice(), Lsn(300))));
    let old = fixture
        .batch
        .changes()
        .first()
        .map(|change| fixture.batch.old(change));
    assert_eq!(old, Some(Some(br#"{"id":2}"#.as_slice())));
}

#[test]
fn unknown_types_are_requested_until_the_catalogue_knows_them() {
    let mut fixture = Fixture::within_a_transaction(1000, &[("id", INT4)]);
    let made = relation(2, "made", &[("a", MADE), ("b", MADE), ("c", MADE + 1)]);
    let needed = vec![MADE, MADE + 1];
    assert_eq!(
        fixture.accept(&made),
        Ok(Outcome::MissingTypes(needed.clone()))
    );
    // Rows that come anyway are not lost silently.
    assert!(fixture.accept(&insert(2, &[text("1"); 3])).is_err());
    let array = TypeRow {
        oid: MADE,
        kind: "array".to_owned(),
        part: INT4,
        detail: ";".to_owned(),
    };
    fixture.types.add(&needed, [array]);
    assert_eq!(fixture.accept(&made), Ok(Outcome::Nothing));
    fixture
        .accept(&insert(2, &[text("{1;2}"), TupleData::Null, text("x")]))
        .unwrap();
    let (data, _, change) = fixture.last();
    assert_eq!(data, r#"{"a":[1,2],"b":null,"c":"x"}"#);
    assert_eq!(names(&change.as_text), ["c"]);
}

#[test]
fn a_key_has_only_the_columns_of_the_replica_identity() {
    let mut fixture = Fixture::within_a_transaction(1000, &[("id", INT4), ("note", TEXT)]);
    let update = Message::Update(Update {
        relation: 1,
        old: Some(OldTuple::Key(tuple(&[text("1"), TupleData::Null]))),
        new: tuple(&[text("2"), TupleData::UnchangedToast]),
    });
    fixture.accept(&update).unwrap();
    let (data, old, change) = fixture.last();
    assert_eq!((data, old), (r#"{"id":2}"#, Some(r#"{"id":1}"#)));
    assert_eq!(names(&change.unchanged), ["note"]);
    let delete = Message::Delete(Delete {
        relation: 1,
        old: OldTuple::Full(tuple(&[text("2"), TupleData::Null])),
    });
    fixture.accept(&delete).unwrap();
    let (data, old, _) = fixture.last();
    assert_eq!((data, old), (r#"{"id":2,"note":null}"#, None));
}

#[test]
fn the_largest_columns_of_a_row_over_its_budget_are_omitted() {
    let columns = [("_", INT4), ("a", TEXT), ("b", TEXT), ("c", TEXT)];
    let mut fixture = Fixture::within_a_transaction(59, &columns);
    let (long, longer) = ("x".repeat(20), "y".repeat(30));
    let row = [text("1"), text(&longer), text(&long), text("z")];
    fixture.accept(&insert(1, &row)).unwrap();
    let (data, _, change) = fixture.last();
    assert_eq!(data, format!(r#"{{"_":1,"b":"{long}","c":"z"}}"#));
    assert_eq!(names(&change.omitted), ["a"]);

    // Old and new row share the budget; a column omitted from either is named once.
    let update = Message::Update(Update {
        relation: 1,
        old: Some(OldTuple::Full(tuple(&[
            text("1"),
            text(&long),
            TupleData::Null,
            text("z"),
        ]))),
        new: tuple(&[
            text("1"),
            text(&longer),
            TupleData::Null,
            TupleData::Omitted,
        ]),
    });
    fixture.accept(&update).unwrap();
    let (data, old, change) = fixture.last();
    assert_eq!(
        (data, old),
        (r#"{"_":1,"b":null}"#, Some(r#"{"_":1,"b":null,"c":"z"}"#))
    );
    assert_eq!(names(&change.omitted), ["c", "a"]);

    // A value that is far too long is not even written completely.
    let endless = "\u{1}".repeat(1000);
    fixture
        .accept(&insert(
            1,
            &[text("1"), text("a"), text(&endless), text("c")],
        ))
        .unwrap();
    let (data, _, change) = fixture.last();
    assert_eq!(data, r#"{"_":1,"a":"a","c":"c"}"#);
    assert_eq!(names(&change.omitted), ["b"]);
}

#[test]
fn a_row_counts_as_what_jsonb_prints_of_it() {
    let columns = [("id", INT4), ("numbers", FLOAT8_ARRAY), ("document", JSON)];
    // {"id": 1, "numbers": [1, 2, 3, 4]} is 34 bytes, {"id":1,"numbers":[1,2,3,4]} 28.
    for (limit, omitted) in [(36, vec![]), (33, vec!["numbers"])] {
        let mut fixture = Fixture::within_a_transaction(limit, &columns[..2]);
        let row = [text("1"), text("{1,2,3,4}")];
        fixture.accept(&insert(1, &row)).unwrap();
        assert_eq!(names(&fixture.last().2.omitted), omitted);
    }
    // 70,000 numbers of 309 digits: writing stops at twice the budget.
    let mut fixture = Fixture::within_a_transaction(1000, &columns);
    let numbers = format!("{{{}1}}", "1e+308,".repeat(70_000));
    let row = [text("1"), text(&numbers), text("[1e3]")];
    fixture.accept(&insert(1, &row)).unwrap();
    let (data, _, change) = fixture.last();
    assert_eq!(data, r#"{"id":1,"document":[1e3]}"#);
    assert_eq!(names(&change.omitted), ["numbers"]);
    assert!(fixture.batch.json.capacity() < 10_000);
}

#[test]
fn a_document_that_jsonb_would_inflate_is_stored_as_text_if_that_fits() {
    let columns = [("id", INT4), ("note", TEXT), ("document", JSON)];
    let mut fixture = Fixture::within_a_transaction(2000, &columns);
    let inflated = format!("[{}1]", "1e1000,".repeat(150));
    let row = [text("1"), text("kept"), text(&inflated)];
    fixture.accept(&insert(1, &row)).unwrap();
    let (data, _, change) = fixture.last();
    let expected = format!(r#"{{"id":1,"note":"kept","document":"{inflated}"}}"#);
    assert_eq!(data, expected);
    assert_eq!(names(&change.as_text), ["document"]);
    assert!(change.omitted.is_empty());

    // The largest document becomes text first, here that of the new row, and the old row moves.
    let note = "n".repeat(800);
    let update = Message::Update(Update {
        relation: 1,
        old: Some(OldTuple::Full(tuple(&[
            text("1"),
            TupleData::Null,
            text("[1e400]"),
        ]))),
        new: tuple(&[text("1"), text(&note), text("[1e900]")]),
    });
    fixture.accept(&update).unwrap();
    let (data, old, change) = fixture.last();
    assert_eq!(
        (data, old),
        (
            format!(r#"{{"id":1,"note":"{note}","document":"[1e900]"}}"#).as_str(),
            Some(r#"{"id":1,"note":null,"document":[1e400]}"#)
        )
    );
    assert_eq!(names(&change.as_text), ["document"]);

    // The text alone is too long.
    let mut fixture = Fixture::within_a_transaction(1000, &columns);
    fixture.accept(&insert(1, &row)).unwrap();
    let (data, _, change) = fixture.last();
    assert_eq!(data, r#"{"id":1,"note":"kept"}"#);
    assert_eq!(names(&change.omitted), ["document"]);
    assert!(change.as_text.is_empty());
}

#[test]
fn the_key_is_the_last_to_be_omitted() {
    let mut fixture = Fixture::within_a_transaction(70, &[("id", TEXT), ("note", TEXT)]);
    let (id, note) = ("k".repeat(50), "n".repeat(20));
    fixture
        .accept(&insert(1, &[text(&id), text(&note)]))
        .unwrap();
    let (data, _, change) = fixture.last();
    assert_eq!(data, format!(r#"{{"id":"{id}"}}"#));
    assert_eq!(names(&change.omitted), ["note"]);
}

#[test]
fn columns_are_in_the_order_of_jsonb() {
    let columns = [("long", INT4), ("b", INT4), ("é", INT4), ("B", INT4)];
    let mut fixture = Fixture::within_a_transaction(1000, &columns);
    let row = ["1", "2", "3", "4"].map(text);
    fixture.accept(&insert(1, &row)).unwrap();
    assert_eq!(fixture.last().0, r#"{"B":4,"b":2,"é":3,"long":1}"#);
}

#[test]
fn a_column_that_is_omitted_is_not_also_named_as_text() {
    let mut fixture = Fixture::within_a_transaction(40, &[("id", INT4), ("document", JSON)]);
    let short = r#""\u0000""#;
    fixture
        .accept(&insert(1, &[text("1"), text(short)]))
        .unwrap();
    assert_eq!(fixture.last().0, r#"{"id":1,"document":"\"\\u0000\""}"#);
    assert_eq!(names(&fixture.last().2.as_text), ["document"]);
    let long = format!("[{short},{short},{short}]");
    fixture
        .accept(&insert(1, &[text("1"), text(&long)]))
        .unwrap();
    let (data, _, change) = fixture.last();
    assert_eq!(data, r#"{"id":1}"#);
    assert_eq!(
        (names(&change.omitted), names(&change.as_text)),
        (vec!["document"], vec![])
    );
}

#[test]
fn a_cleared_batch_keeps_only_its_memory() {
    let mut fixture = Fixture::within_a_transaction(1000, &[("id", INT4)]);
    fixture.accept(&insert(1, &[text("1")])).unwrap();
    assert!(fixture.batch.bytes() > 8);
    fixture.batch.clear();
    assert!(fixture.batch.is_empty());
    assert_eq!(fixture.batch.bytes(), 0);
    fixture.accept(&insert(1, &[text("2")])).unwrap();
    assert_eq!(fixture.last().0, r#"{"id":2}"#);
}
