use std::rc::Rc;

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;
use crate::changes::json_buffer::json_key;

/// Returns the JSON, and whether it was marked as text.
fn written(shape: &Shape, text: impl AsRef<[u8]>) -> (String, bool) {
    let mut bytes = Vec::new();
    let mut json = JsonBuffer::new(&mut bytes, usize::MAX);
    write(shape, text.as_ref(), &mut json);
    let as_text = json.is_as_text();
    (String::from_utf8(bytes).unwrap(), as_text)
}

fn array(element: Shape) -> Shape {
    Shape::Array(Rc::new(element), b',')
}

fn composite<const N: usize>(attributes: [(&str, Shape); N]) -> Shape {
    let attribute = |(name, shape)| Attribute {
        key: json_key(name),
        shape,
    };
    Shape::Composite(attributes.into_iter().map(attribute).collect())
}

#[test]
fn values_become_what_to_jsonb_returns() {
    let pair = || composite([("a b", Shape::Text), ("n", Shape::Integer)]);
    for (shape, text, expected) in [
        (Shape::Bool, "t", "true"),
        (Shape::Bool, "f", "false"),
        (Shape::Integer, "-7", "-7"),
        (Shape::Float, "-0", "0"),
        (Shape::Float, "1e+20", "100000000000000000000"),
        (Shape::Float, "-1.5e-07", "-0.00000015"),
        (Shape::Float, "NaN", r#""NaN""#),
        (Shape::Float, "-Infinity", r#""-Infinity""#),
        (Shape::Numeric, "1.10", "1.10"),
        (Shape::Numeric, "9007199254740993", r#""9007199254740993""#),
        (Shape::Timestamp, "infinity", r#""infinity""#),
        (
            Shape::Timestamp,
            "0044-03-15 01:02:03.5 BC",
            r#""0044-03-15T01:02:03.5 BC""#,
        ),
        (
            Shape::TimestampTz,
            "2026-01-01 00:00:00+00",
            r#""2026-01-01T00:00:00+00:00""#,
        ),
        (
            Shape::TimestampTz,
            "0044-03-15 01:02:03-05:45 BC",
            r#""0044-03-15T01:02:03-05:45 BC""#,
        ),
        (Shape::TimestampTz, "-infinity", r#""-infinity""#),
        (Shape::Json, r#"{"a": 1e500}"#, r#"{"a": 1e500}"#),
        (array(Shape::Integer), "{}", "[]"),
        (
            array(Shape::Text),
            r#"[-1:0]={NULL,"NULL"}"#,
            r#"[null,"NULL"]"#,
        ),
        (
            array(Shape::Text),
            r#"{{"a\"b\\",""},{c,"{,}"}}"#,
            r#"[["a\"b\\",""],["c","{,}"]]"#,
        ),
        (
            Shape::Array(Rc::new(Shape::Text), b';'),
            "{(1,1),(0,0);(2,2),(1,1)}",
            r#"["(1,1),(0,0)","(2,2),(1,1)"]"#,
        ),
        (Shape::Vector(Rc::new(Shape::Integer)), "", "[]"),
        (Shape::Vector(Rc::new(Shape::Text)), "1 2", r#"["1","2"]"#),
        (
            pair(),
            r#"("x ""y"" \\",5)"#,
            r#"{"a b":"x \"y\" \\","n":5}"#,
        ),
        (pair(), r#"("",)"#, r#"{"a b":"","n":null}"#),
        (composite([]), "()", "{}"),
        (composite([("only", Shape::Bool)]), "()", r#"{"only":null}"#),
        (
            array(pair()),
            r#"{"(a,1)",NULL,"(\"b c\",2)"}"#,
            r#"[{"a b":"a","n":1},null,{"a b":"b c","n":2}]"#,
        ),
        (
            composite([("l", array(pair()))]),
            r#"("{""(a,1)""}")"#,
            r#"{"l":[{"a b":"a","n":1}]}"#,
        ),
        (Shape::Hstore, "", "{}"),
        (
            Shape::Hstore,
            r#""a\"=>"=>"1, 2", "b"=>NULL"#,
            r#"{"a\"=>":"1, 2","b":null}"#,
        ),
        (Shape::Text, "\u{1}\n\u{2028}😀", "\"\\u0001\\n\u{2028}😀\""),
    ] {
        assert_eq!(
            written(&shape, text),
            (expected.to_owned(), false),
            "{text}"
        );
    }
}

#[test]
fn text_that_no_output_function_writes_becomes_a_marked_string() {
    let pair = || composite([("a", Shape::Integer), ("b", Shape::Integer)]);
    for (shape, text) in [
        (Shape::Bool, "true"),
        (Shape::Integer, "1_000"),
        (Shape::Float, "1e200000"),
        (Shape::Numeric, ".5"),
        (Shape::Json, r#"{"a":"\u0000"}"#),
        (Shape::Opaque, "anything"),
        (pair(), "(1)"),
        (pair(), "(1,2,3)"),
        (pair(), "(1,2"),
        (pair(), "(1,2)x"),
        (composite([]), "(1,2)"),
        (array(Shape::Integer), ""),
        (array(Shape::Integer), "1"),
        (array(Shape::Integer), "{1,}"),
        (array(Shape::Integer), "{1 2}"),
        (array(Shape::Integer), "{1}{2}"),
        (array(Shape::Integer), "{{1}"),
        (array(Shape::Text), r#"{"a}"#),
        (Shape::Vector(Rc::new(Shape::Integer)), "1  2"),
        (Shape::Hstore, r#""a"=>1"#),
        (Shape::Hstore, r#""a"=>"1","b"=>"2""#),
    ] {
        let expected = serde_json::to_string(text).unwrap();
        assert_eq!(written(&shape, text), (expected, true), "{text}");
    }
    assert_eq!(
        written(&Shape::Text, b"a\xFF"),
        ("\"a\u{FFFD}\"".to_owned(), true)
    );
}

#[test]
fn a_document_that_jsonb_refuses_is_a_string_inside_its_array() {
    let documents = array(Shape::Json);
    let (json, as_text) = written(&documents, r#"{"[1]","\"\\u0000\""}"#);
    assert_eq!((json.as_str(), as_text), (r#"[[1],"\"\\u0000\""]"#, true));
}

fn shapes() -> impl Strategy<Value = Shape> {
    let leaf = prop::sample::select(vec![
        Shape::Bool,
        Shape::Integer,
        Shape::Float,
        Shape::Numeric,
        Shape::Timestamp,
        Shape::TimestampTz,
        Shape::Json,
        Shape::Hstore,
        Shape::Text,
        Shape::Opaque,
    ]);
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(b",;".as_slice()))
                .prop_map(|(element, delimiter)| Shape::Array(Rc::new(element), delimiter)),
            inner
                .clone()
                .prop_map(|element| Shape::Vector(Rc::new(element))),
            prop::collection::vec(inner, 0..3).prop_map(|shapes| {
                let attribute = |shape| Attribute {
                    key: json_key("k\"k"),
                    shape,
                };
                Shape::Composite(shapes.into_iter().map(attribute).collect())
            }),
        ]
    })
}

/// Bytes that output functions write, in any order.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "{", "}", "(", ")", ",", ";", "\"", "\"\"", "\\", "=>", "NULL", "t", "1", "-0.5", " ",
        "[1:2]=", "e5", "😀", "null", "\u{1}",
    ];
    prop_oneof![
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..16)
            .prop_map(|pieces| pieces.concat().into_bytes()),
        any::<Vec<u8>>(),
    ]
}

/// Quotes as `array_out` does.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Quotes as `record_out` does.
fn doubled(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""))
}

proptest! {
    #[test]
    fn any_text_becomes_valid_json(shape in shapes(), text in texts()) {
        let (json, _) = written(&shape, &text);
        let read = serde_json::from_str::<&RawValue>(&json);
        prop_assert!(read.is_ok(), "{json}");
    }

    #[test]
    fn an_array_of_rows_of_texts_reads_back(rows: Vec<(String, Option<String>)>) {
        let items = rows.iter().map(|(a, b)| {
            let b = b.as_ref().map_or(String::new(), |b| doubled(b));
            quoted(&format!("({},{b})", doubled(a)))
        });
        let text = format!("{{{}}}", items.collect::<Vec<_>>().join(","));
        let shape = array(composite([("a", Shape::Text), ("b", Shape::Text)]));
        let (json, as_text) = written(&shape, text);
        let expected: Vec<Value> = rows.iter().map(|(a, b)| json!({"a": a, "b": b})).collect();
        prop_assert_eq!((serde_json::from_str::<Value>(&json).unwrap(), as_text), (Value::from(expected), false));
    }
}
