//! Every message, and every kind of error, as literal bytes.

use crate::lsn::Lsn;
use crate::pgoutput::{
    Begin, Column, Commit, DecodeError, DecodeProblem, Delete, Insert, LogicalMessage, Message,
    OldTuple, Origin, Relation, ReplicaIdentity, Truncate, Tuple, TupleData, Type, Update, decode,
};

pub(super) struct Example {
    pub(super) name: &'static str,
    /// Hexadecimal; `#` starts a comment.
    hex: &'static str,
    expected: fn() -> Message<'static>,
}

impl Example {
    pub(super) fn bytes(&self) -> Vec<u8> {
        unhex(self.hex)
    }
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().chars())
        .filter(|character| !character.is_whitespace())
        .map(|digit| digit.to_digit(16).unwrap())
        .collect();
    assert_eq!(digits.len() % 2, 0, "half a byte in {text}");
    digits
        .chunks(2)
        .map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap())
        .collect()
}

fn text(text: &'static str) -> TupleData<'static> {
    TupleData::Text(text.as_bytes())
}

pub(super) const EXAMPLES: &[Example] = &[
    Example {
        name: "begin",
        hex: "42                  # B
              0000000116B374D8    # final LSN
              0002A5F1C8E90000    # commit time
              0000031A            # xid",
        expected: || {
            Message::Begin(Begin {
                final_lsn: Lsn(0x1_16B3_74D8),
                committed_at: 0x0002_A5F1_C8E9_0000,
                xid: 794,
            })
        },
    },
    Example {
        name: "commit",
        hex: "43                  # C
              00                  # flags
              0000000116B374D8    # LSN
              0000000116B37508    # end LSN
              FFFFFFFFFFFFFFFF    # commit time: a microsecond before 2000",
        expected: || {
            Message::Commit(Commit {
                lsn: Lsn(0x1_16B3_74D8),
                end_lsn: Lsn(0x1_16B3_7508),
                committed_at: -1,
            })
        },
    },
    Example {
        name: "origin",
        hex: "4F                  # O
              00000000000000FF    # LSN there
              7573 C3A9 00        # usé",
        expected: || {
            Message::Origin(Origin {
                lsn: Lsn(255),
                name: "usé",
            })
        },
    },
    Example {
        name: "relation",
        hex: "52                  # R
              00004000            # OID
              7075626C6963 00     # public
              74 00               # t
              64                  # replica identity d
              0002                # columns
              01 6964 00 00000017 FFFFFFFF    # key, id, int4, no modifier
              00 6E 00 00000413 0000000E      # not key, n, varchar, (10)",
        expected: || {
            Message::Relation(Relation {
                oid: 0x4000,
                schema: "public",
                name: "t",
                replica_identity: ReplicaIdentity::Default,
                columns: vec![
                    Column {
                        is_key: true,
                        name: "id",
                        type_oid: 23,
                        type_modifier: -1,
                    },
                    Column {
                        is_key: false,
                        name: "n",
                        type_oid: 1043,
                        type_modifier: 14,
                    },
                ],
            })
        },
    },
    Example {
        name: "relation of pg_catalog without columns",
        hex: "52 00004001 00 70 00 6E 0000",
        expected: || {
            Message::Relation(Relation {
                oid: 0x4001,
                schema: "pg_catalog",
                name: "p",
                replica_identity: ReplicaIdentity::Nothing,
                columns: vec![],
            })
        },
    },
    Example {
        name: "type",
        hex: "59                  # Y
              00004002            # OID
              73 00               # s
              6D6F6F64 00         # mood",
        expected: || {
            Message::Type(Type {
                oid: 0x4002,
                schema: "s",
                name: "mood",
            })
        },
    },
    Example {
        name: "insert",
        hex: "49                  # I
              00004000            # relation
              4E 0004             # N, columns
              74 00000002 3432    # text: 42
              6E                  # null
              75                  # unchanged TOAST
              62 00000003 000102  # binary",
        expected: || {
            let values = vec![
                text("42"),
                TupleData::Null,
                TupleData::UnchangedToast,
                TupleData::Binary(&[0, 1, 2]),
            ];
            Message::Insert(Insert {
                relation: 0x4000,
                new: Tuple { values },
            })
        },
    },
    Example {
        name: "update without an old tuple",
        hex: "55                  # U
              00004000            # relation
              4E 0002             # N, columns
              74 00000000         # text: empty
              75                  # unchanged TOAST",
        expected: || {
            Message::Update(Update {
                relation: 0x4000,
                old: None,
                new: Tuple {
                    values: vec![text(""), TupleData::UnchangedToast],
                },
            })
        },
    },
    Example {
        name: "update of the key",
        hex: "55                  # U
              00004000            # relation
              4B 0002             # K, columns
              74 00000001 31      # text: 1
              6E                  # null, since no part of the key
              4E 0002             # N, columns
              74 00000001 32      # text: 2
              74 00000001 78      # text: x",
        expected: || {
            Message::Update(Update {
                relation: 0x4000,
                old: Some(OldTuple::Key(Tuple {
                    values: vec![text("1"), TupleData::Null],
                })),
                new: Tuple {
                    values: vec![text("2"), text("x")],
                },
            })
        },
    },
    Example {
        name: "update with the whole old row",
        hex: "55                  # U
              00004000            # relation
              4F 0001             # O, columns
              74 00000001 31      # text: 1
              4E 0001             # N, columns
              74 00000001 32      # text: 2",
        expected: || {
            Message::Update(Update {
                relation: 0x4000,
                old: Some(OldTuple::Full(Tuple {
                    values: vec![text("1")],
                })),
                new: Tuple {
                    values: vec![text("2")],
                },
            })
        },
    },
    Example {
        name: "delete by key",
        hex: "44                  # D
              00004000            # relation
              4B 0002             # K, columns
              74 00000001 31      # text: 1
              6E                  # null",
        expected: || {
            Message::Delete(Delete {
                relation: 0x4000,
                old: OldTuple::Key(Tuple {
                    values: vec![text("1"), TupleData::Null],
                }),
            })
        },
    },
    Example {
        name: "delete with the whole old row",
        hex: "44                  # D
              00004000            # relation
              4F 0001             # O, columns
              74 00000001 31      # text: 1",
        expected: || {
            Message::Delete(Delete {
                relation: 0x4000,
                old: OldTuple::Full(Tuple {
                    values: vec![text("1")],
                }),
            })
        },
    },
    Example {
        name: "truncate",
        hex: "54                  # T
              00000002            # relations
              00                  # no options
              00004000 00004001   # their OIDs",
        expected: || {
            Message::Truncate(Truncate {
                relations: vec![0x4000, 0x4001],
                cascade: false,
                restart_identity: false,
            })
        },
    },
    Example {
        name: "truncate cascade",
        hex: "54 00000001 01 00004000",
        expected: || {
            Message::Truncate(Truncate {
                relations: vec![0x4000],
                cascade: true,
                restart_identity: false,
            })
        },
    },
    Example {
        name: "truncate restart identity",
        hex: "54 00000001 02 00004000",
        expected: || {
            Message::Truncate(Truncate {
                relations: vec![0x4000],
                cascade: false,
                restart_identity: true,
            })
        },
    },
    Example {
        name: "logical message in a transaction",
        hex: "4D                  # M
              01                  # transactional
              0000000000000010    # LSN
              617070 00           # app
              00000002 00FF       # content",
        expected: || {
            Message::Message(LogicalMessage {
                transactional: true,
                lsn: Lsn(16),
                prefix: "app",
                content: &[0, 255],
                content_len: 2,
            })
        },
    },
    Example {
        name: "empty logical message on its own",
        hex: "4D 00 0000000000000010 00 00000000",
        expected: || {
            Message::Message(LogicalMessage {
                transactional: false,
                lsn: Lsn(16),
                prefix: "",
                content: &[],
                content_len: 0,
            })
        },
    },
];

#[test]
fn each_message_is_decoded_from_its_literal_bytes() {
    for example in EXAMPLES {
        assert_eq!(
            decode(&example.bytes()),
            Ok((example.expected)()),
            "{}",
            example.name
        );
    }
}

#[test]
fn each_message_cut_at_any_byte_is_an_error() {
    for example in EXAMPLES {
        let bytes = example.bytes();
        for len in 0..bytes.len() {
            let error = decode(&bytes[..len]).unwrap_err();
            assert!(
                error.offset <= len,
                "{} cut at {len}: {error}",
                example.name
            );
        }
    }
}

#[test]
fn a_byte_after_the_end_is_an_error_for_each_message() {
    for example in EXAMPLES {
        let mut bytes = example.bytes();
        let offset = bytes.len();
        bytes.push(b'n');
        let problem = DecodeProblem::TrailingBytes { count: 1 };
        assert_eq!(
            decode(&bytes),
            Err(DecodeError { offset, problem }),
            "{}",
            example.name
        );
    }
}

#[test]
fn tags_of_other_protocol_versions_and_unknown_tags_are_errors() {
    let known = b"BCORYIUDTM";
    for found in (0..=u8::MAX).filter(|tag| !known.contains(tag)) {
        let problem = DecodeProblem::UnknownTag { found };
        assert_eq!(
            decode(&[found, 0, 0, 0]),
            Err(DecodeError { offset: 0, problem })
        );
    }
}

fn problem_of(hex: &str) -> (usize, DecodeProblem) {
    let error = decode(&unhex(hex)).unwrap_err();
    (error.offset, error.problem)
}

#[test]
fn undocumented_bytes_are_reported_with_their_offset() {
    let cases = [
        (
            "43 01 0000000000000000",
            1,
            "Commit's flags (none are defined)",
            1,
        ),
        (
            "52 00004000 00 74 00 78 0000",
            8,
            "a replica identity (d, n, f or i)",
            b'x',
        ),
        (
            "52 00004000 00 74 00 64 0001 02 69 00 00000017 FFFFFFFF",
            11,
            "a column's flags (0 or 1)",
            2,
        ),
        ("49 00004000 4B 0000", 5, "a new tuple (N)", b'K'),
        (
            "49 00004000 4E 0001 78",
            8,
            "a value's kind (n, u, t or b)",
            b'x',
        ),
        ("55 00004000 58 0000", 5, "a tuple (K, O or N)", b'X'),
        ("55 00004000 4B 0000 4B 0000", 8, "a new tuple (N)", b'K'),
        ("44 00004000 4E 0000", 5, "an old tuple (K or O)", b'N'),
        ("54 00000000 04", 5, "Truncate's options (0 to 3)", 4),
        (
            "4D 02 0000000000000000 00 00000000",
            1,
            "Message's flags (0 or 1)",
            2,
        ),
    ];
    for (hex, offset, expected, found) in cases {
        let problem = DecodeProblem::UnexpectedByte { expected, found };
        assert_eq!(problem_of(hex), (offset, problem), "{hex}");
    }
}

#[test]
fn impossible_counts_and_lengths_are_errors_before_anything_is_allocated() {
    let cases = [
        // Negative.
        (
            "49 00004000 4E FFFF",
            8,
            "a tuple's number of columns",
            -1,
            0,
        ),
        (
            "49 00004000 4E 0001 74 FFFFFFFE",
            13,
            "a value's length",
            -2,
            0,
        ),
        (
            "52 00004000 00 74 00 64 8000",
            11,
            "Relation's number of columns",
            -32_768,
            0,
        ),
        (
            "54 80000000 00",
            6,
            "Truncate's number of relations",
            i64::from(i32::MIN),
            0,
        ),
        (
            "4D 00 0000000000000000 00 FFFFFFFF",
            15,
            "Message's content length",
            -1,
            0,
        ),
        // More than the message contains.
        (
            "49 00004000 4E 7FFF 6E",
            8,
            "a tuple's number of columns",
            32_767,
            1,
        ),
        (
            "49 00004000 4E 0001 74 7FFFFFFF 31",
            13,
            "a value's length",
            i64::from(i32::MAX),
            1,
        ),
        (
            "52 00004000 00 74 00 64 0001 00 00",
            11,
            "Relation's number of columns",
            1,
            2,
        ),
        (
            "54 7FFFFFFF 00 00004000",
            6,
            "Truncate's number of relations",
            i64::from(i32::MAX),
            4,
        ),
        (
            "4D 00 0000000000000000 00 00000002 31",
            15,
            "Message's content length",
            2,
            1,
        ),
    ];
    for (hex, offset, expected, found, remaining) in cases {
        let problem = DecodeProblem::ImpossibleCount {
            expected,
            found,
            remaining,
        };
        assert_eq!(problem_of(hex), (offset, problem), "{hex}");
    }
}

#[test]
fn a_name_without_a_nul_is_an_error() {
    let expected = "Type's name";
    let problem = DecodeProblem::MissingTerminator { expected };
    assert_eq!(problem_of("59 00004002 73 00 6D6F"), (7, problem));
}

#[test]
fn a_name_that_is_not_utf8_is_an_error() {
    let (offset, problem) = problem_of("4F 0000000000000000 75 FF 00");
    assert_eq!(offset, 9);
    assert!(matches!(
        problem,
        DecodeProblem::NotUtf8 {
            expected: "Origin's name",
            ..
        }
    ));
}

#[test]
fn an_error_names_the_problem_and_its_offset() {
    let error = decode(&unhex("49 00004000 4E 0001 78")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected a value's kind (n, u, t or b), found byte 0x78, at byte 8 of the replication \
         message"
    );
}
