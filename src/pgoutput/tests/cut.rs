//! `decode_prefix` compared with `decode`.

use proptest::prelude::*;

use super::encode::{any_message, any_row_message, encode};
use super::literal::EXAMPLES;
use crate::pgoutput::{
    DecodeError, DecodeProblem, LogicalMessage, Message, OldTuple, Tuple, TupleData, decode,
    decode_prefix,
};

/// Tag, relation, tuple kind, number of columns.
const ROW_HEADER: usize = 1 + 4 + 1 + 2;

fn is_row(message: &Message<'_>) -> bool {
    matches!(
        message,
        Message::Insert(_) | Message::Update(_) | Message::Delete(_)
    )
}

/// The old and new values of a row message, in the order of the bytes.
fn values<'a>(message: &'a Message<'_>) -> Vec<&'a TupleData<'a>> {
    fn of_old<'a>(old: &'a OldTuple<'_>) -> &'a [TupleData<'a>] {
        &old.tuple().values
    }
    let (old, new): (&[_], &Tuple<'_>) = match message {
        Message::Insert(insert) => (&[], &insert.new),
        Message::Update(update) => (update.old.as_ref().map_or(&[], of_old), &update.new),
        Message::Delete(delete) => (&[], delete.old.tuple()),
        other => panic!("not a row: {other:?}"),
    };
    old.iter().chain(&new.values).collect()
}

/// The message with all values after the first `kept` omitted.
fn with_values_omitted<'a>(message: &Message<'a>, kept: usize) -> Message<'a> {
    let mut message = message.clone();
    let omit = |tuple: &mut Tuple<'_>, kept: usize| {
        tuple
            .values
            .iter_mut()
            .skip(kept)
            .for_each(|value| *value = TupleData::Omitted);
    };
    match &mut message {
        Message::Insert(insert) => omit(&mut insert.new, kept),
        Message::Update(update) => {
            let mut of_old = 0;
            if let Some(OldTuple::Key(old) | OldTuple::Full(old)) = &mut update.old {
                omit(old, kept);
                of_old = old.values.len();
            }
            omit(&mut update.new, kept.saturating_sub(of_old));
        }
        Message::Delete(delete) => {
            let (OldTuple::Key(old) | OldTuple::Full(old)) = &mut delete.old;
            omit(old, kept);
        }
        other => panic!("not a row: {other:?}"),
    }
    message
}

fn check_every_cut_of_a_row(bytes: &[u8], whole: &Message<'_>) {
    let mut kept_before = 0;
    for len in 0..bytes.len() {
        let cut = decode_prefix(&bytes[..len], bytes.len());
        if len < ROW_HEADER {
            let problem = cut.map_err(|error| error.problem);
            assert!(
                matches!(problem, Err(DecodeProblem::Cut { .. })),
                "{len}: {problem:?}"
            );
            continue;
        }
        let cut = cut.unwrap_or_else(|error| panic!("cut at {len} of {whole:?}: {error}"));
        let kept = values(&cut)
            .iter()
            .take_while(|value| ***value != TupleData::Omitted)
            .count();
        assert_eq!(cut, with_values_omitted(whole, kept), "cut at {len}");
        assert!(kept >= kept_before, "more bytes have fewer values at {len}");
        kept_before = kept;
    }
    // The last byte belongs to the last value, or to the count of a row without columns.
    assert_eq!(kept_before, values(whole).len().saturating_sub(1));
    assert_eq!(decode_prefix(bytes, bytes.len()).as_ref(), Ok(whole));
}

#[test]
fn a_cut_row_keeps_its_complete_values_and_omits_the_rest() {
    let mut rows = 0;
    for example in EXAMPLES {
        let bytes = example.bytes();
        let message = decode(&bytes).unwrap();
        if is_row(&message) {
            check_every_cut_of_a_row(&bytes, &message);
            rows += 1;
        }
    }
    assert_eq!(rows, 6);
}

#[test]
fn a_cut_message_without_rows_is_an_error() {
    for example in EXAMPLES {
        let bytes = example.bytes();
        let message = decode(&bytes).unwrap();
        if is_row(&message) || matches!(message, Message::Message(_)) {
            continue;
        }
        for len in 0..bytes.len() {
            let problem = decode_prefix(&bytes[..len], bytes.len())
                .unwrap_err()
                .problem;
            assert!(
                matches!(problem, DecodeProblem::Cut { .. }),
                "{message:?} {len}: {problem:?}"
            );
        }
    }
}

#[test]
fn a_cut_logical_message_keeps_the_start_of_its_content() {
    let whole = LogicalMessage {
        transactional: true,
        lsn: crate::lsn::Lsn(7),
        prefix: "app",
        content: b"content",
        content_len: 7,
    };
    let bytes = encode(&Message::Message(whole));
    for given in 0..=7 {
        let cut = LogicalMessage {
            content: &b"content"[..given],
            ..whole
        };
        let prefix = &bytes[..bytes.len() - 7 + given];
        assert_eq!(
            decode_prefix(prefix, bytes.len()),
            Ok(Message::Message(cut))
        );
    }
}

#[test]
fn a_prefix_longer_than_its_message_is_an_error() {
    let problem = DecodeProblem::PrefixTooLong { prefix: 3, full: 2 };
    assert_eq!(
        decode_prefix(b"BBB", 2),
        Err(DecodeError { offset: 0, problem })
    );
}

#[test]
fn bytes_after_the_last_value_are_trailing_even_if_they_were_cut_off() {
    let insert = EXAMPLES
        .iter()
        .find(|example| example.name == "insert")
        .unwrap()
        .bytes();
    let error = decode_prefix(&insert, insert.len() + 5).unwrap_err();
    assert_eq!(error.problem, DecodeProblem::TrailingBytes { count: 5 });
    assert_eq!(error.offset, insert.len());
}

#[test]
fn a_value_longer_than_the_message_is_an_error_and_not_a_cut() {
    let mut insert = b"I\0\0\0\x01N\0\x01t\0\0\0\x0A".to_vec();
    insert.extend(b"12345");
    let error = decode_prefix(&insert, insert.len() + 4).unwrap_err();
    assert_eq!(
        error.problem,
        DecodeProblem::ImpossibleCount {
            expected: "a value's length",
            found: 10,
            remaining: 9
        }
    );
    assert!(decode_prefix(&insert, insert.len() + 5).is_ok());
}

proptest! {
    #[test]
    fn every_row_cut_anywhere_keeps_its_complete_values(message in any_row_message()) {
        check_every_cut_of_a_row(&encode(&message), &message);
    }

    #[test]
    fn every_message_that_ends_too_early_is_an_error(message in any_message()) {
        let bytes = encode(&message);
        for len in 0..bytes.len() {
            let error = decode(&bytes[..len]).unwrap_err();
            prop_assert!(error.offset <= len);
            let is_cut = matches!(error.problem, DecodeProblem::Cut { .. });
            prop_assert!(!is_cut, "{}", error);
        }
    }
}
