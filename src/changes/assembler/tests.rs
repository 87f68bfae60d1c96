use super::*;
use crate::changes::TypeRow;
use crate::pgoutput::{Column, Delete, Insert, ReplicaIdentity, Truncate, TupleData, Update};

const INT4: u32 = 23;
const TEXT: u32 = 25;
const JSON: u32 = 114;
const MADE: u32 = 20_000;

fn begin(xid: u32) -> Message<'static> {
    Message::Begin(Begin {
        final_lsn: Lsn(90),
        committed_at: 5,
        xid,
    })
}

fn commit(end_lsn: u64) -> Message<'static> {
    Message::Commit(Commit {
        lsn: Lsn(90),
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

/// An assembler and what it is given with every message.
struct Fixture {
    assembler: Assembler,
    types: TypeCatalog,
    batch: ChangeBatch,
}

impl Fixture {
    fn new(max_row_bytes: usize) -> Self {
        let excluded = [("public".to_owned(), "change_history".to_owned())];
        Self {
            assembler: Assembler::new(Lsn(100), excluded, Limits { max_row_bytes }),
            types: TypeCatalog::default(),
            batch: ChangeBatch::default(),
        }
    }

    /// In a transaction that the checkpoint does not have, with a table `t` of number 1.
    fn within_a_transaction(max_row_bytes: usize, columns: &[(&'static str, u32)]) -> Self {
        let mut fixture = Self::new(max_row_bytes);
        fixture.assembler.expect_commit(7, Lsn(200));
        fixture.accept(&begin(7)).unwrap();
        fixture.accept(&relation(1, "t", columns)).unwrap();
        fixture
    }

    fn accept(&mut self, message: &Message<'_>) -> Result<Accepted, AssembleError> {
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
fn a_transaction_that_the_checkpoint_has_is_skipped_but_its_relations_are_kept() {
    let mut fixture = Fixture::new(1000);
    fixture.assembler.expect_commit(7, Lsn(100));
    fixture.assembler.expect_commit(8, Lsn(200));
    for message in [
        begin(7),
        relation(1, "t", &[("id", INT4)]),
        insert(1, &[text("1")]),
        commit(100),
    ] {
        assert_eq!(fixture.accept(&message), Ok(Accepted::Nothing));
    }
    assert_eq!(fixture.accept(&begin(8)), Ok(Accepted::Nothing));
    assert_eq!(
        fixture.accept(&insert(1, &[text("2")])),
        Ok(Accepted::Changes(1))
    );
    assert_eq!(
        fixture.accept(&commit(200)),
        Ok(Accepted::Committed(Lsn(200)))
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
fn changes_of_excluded_tables_are_left_out_also_of_a_truncate() {
    let mut fixture = Fixture::within_a_transaction(1000, &[("id", INT4)]);
    // Its types do not matter, then.
    let own = relation(2, "change_history", &[("id", MADE)]);
    assert_eq!(fixture.accept(&own), Ok(Accepted::Nothing));
    assert_eq!(
        fixture.accept(&insert(2, &[text("1")])),
        Ok(Accepted::Nothing)
    );
    let truncate = Message::Truncate(Truncate {
        relations: vec![2, 1],
        cascade: false,
        restart_identity: false,
    });
    assert_eq!(fixture.accept(&truncate), Ok(Accepted::Changes(1)));
    assert_eq!(fixture.last().0, "{}");
}

#[test]
fn what_is_out_of_order_is_an_error() {
    let mut fixture = Fixture::new(1000);
    let outside = AssembleError::OutsideTransaction("insert");
    assert_eq!(fixture.accept(&insert(1, &[])), Err(outside));
    assert_eq!(
        fixture.accept(&commit(1)),
        Err(AssembleError::OutsideTransaction("a commit"))
    );
    assert_eq!(
        fixture.accept(&begin(7)),
        Err(AssembleError::UnexpectedTransaction(7))
    );
    fixture.assembler.expect_commit(7, Lsn(200));
    fixture.assembler.expect_commit(8, Lsn(300));
    fixture.accept(&begin(7)).unwrap();
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
    assert!(matches!(
        fixture.accept(&commit(201)),
        Err(AssembleError::UnexpectedCommit { .. })
    ));
}

#[test]
fn unknown_types_are_asked_for_until_the_catalogue_has_learned() {
    let mut fixture = Fixture::within_a_transaction(1000, &[("id", INT4)]);
    let made = relation(2, "made", &[("a", MADE), ("b", MADE), ("c", MADE + 1)]);
    let needed = vec![MADE, MADE + 1];
    assert_eq!(
        fixture.accept(&made),
        Ok(Accepted::NeedTypes(needed.clone()))
    );
    // Rows that come nevertheless are not lost in silence.
    assert!(fixture.accept(&insert(2, &[text("1"); 3])).is_err());
    let array = TypeRow {
        oid: MADE,
        kind: "array".to_owned(),
        part: INT4,
        detail: ";".to_owned(),
    };
    fixture.types.learn(&needed, [array]);
    assert_eq!(fixture.accept(&made), Ok(Accepted::Nothing));
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
    let columns = [("id", INT4), ("a", TEXT), ("b", TEXT), ("c", TEXT)];
    let mut fixture = Fixture::within_a_transaction(60, &columns);
    let (long, longer) = ("x".repeat(20), "y".repeat(30));
    let row = [text("1"), text(&longer), text(&long), text("z")];
    fixture.accept(&insert(1, &row)).unwrap();
    let (data, _, change) = fixture.last();
    assert_eq!(data, format!(r#"{{"id":1,"b":"{long}","c":"z"}}"#));
    assert_eq!(names(&change.omitted), ["a"]);

    // Old and new row share the budget; a column is named once, wherever it was left out.
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
        (r#"{"id":1,"b":null}"#, Some(r#"{"id":1,"b":null,"c":"z"}"#))
    );
    assert_eq!(names(&change.omitted), ["c", "a"]);

    // A value that is far too long is not even written whole.
    let endless = "\u{1}".repeat(1000);
    fixture
        .accept(&insert(
            1,
            &[text("1"), text("a"), text(&endless), text("c")],
        ))
        .unwrap();
    let (data, _, change) = fixture.last();
    assert_eq!(data, r#"{"id":1,"a":"a","c":"c"}"#);
    assert_eq!(names(&change.omitted), ["b"]);
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
fn a_batch_that_is_cleared_keeps_its_memory_and_nothing_else() {
    let mut fixture = Fixture::within_a_transaction(1000, &[("id", INT4)]);
    fixture.accept(&insert(1, &[text("1")])).unwrap();
    assert!(fixture.batch.bytes() > 8);
    fixture.batch.clear();
    assert!(fixture.batch.is_empty());
    assert_eq!(fixture.batch.bytes(), 0);
    fixture.accept(&insert(1, &[text("2")])).unwrap();
    assert_eq!(fixture.last().0, r#"{"id":2}"#);
}
