use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::subscriptions;
use crate::clients::filter::Truth;
use crate::clients::{ClientMessage, ColumnFacts, Condition, FrameError};

fn condition(op: &str, value: &str) -> Condition {
    let text = format!(
        r#"{{"type":"subscribe","subscriptions":[
            {{"table":"t","filter":[{{"column":"c","op":"{op}","value":{value}}}]}}]}}"#
    );
    let Ok(ClientMessage::Subscribe { wanted, .. }) = ClientMessage::parse(&text) else {
        panic!("{text}: {:?}", ClientMessage::parse(&text));
    };
    let crate::clients::Subscriptions::Tables(tables) = wanted else {
        panic!("not tables: {wanted:?}");
    };
    tables[0].filter()[0].clone()
}

fn truth(condition: &Condition, column: &str, is_number: Option<bool>) -> Truth {
    let raw = RawValue::from_string(column.to_owned()).unwrap();
    condition.holds(Some(&raw), is_number)
}

fn known(truth: Truth) -> bool {
    match truth {
        Truth::True => true,
        Truth::False => false,
        Truth::Unknown => panic!("a value that is given is known"),
    }
}

/// Evaluates a condition on a column that is not numeric.
fn holds(condition: &Condition, column: &str) -> bool {
    known(truth(condition, column, Some(false)))
}

fn holds_for_number(condition: &Condition, column: &str) -> bool {
    known(truth(condition, column, Some(true)))
}

fn refused(filter: &Value) -> FrameError {
    let frame = json!({"type": "subscribe", "subscriptions": [{"table": "t", "filter": filter}]});
    ClientMessage::parse(&frame.to_string()).unwrap_err()
}

#[test]
fn each_operator_compares_as_its_name_says() {
    // Operator, operand, values it holds for, values it does not hold for.
    let cases: [(&str, &str, &[&str], &[&str]); 14] = [
        (
            "eq",
            "42",
            &["42", "42.0", "4.2e1", "\"42\""],
            &["41", "null", "\"x\"", "true", "[42]"],
        ),
        (
            "neq",
            "42",
            &["41", "null", "\"x\"", "{}"],
            &["42", "42.00", "\"42\""],
        ),
        (
            "lt",
            "10",
            &["9", "-10", "9.999999999999999999999", "\"9\""],
            &["10", "11", "null"],
        ),
        (
            "lte",
            "10",
            &["10", "9"],
            &["10.000000000000000000001", "null", "\"NaN\""],
        ),
        (
            "gt",
            "10",
            &["11", "\"NaN\"", "\"Infinity\""],
            &["10", "9", "null", "\"x\""],
        ),
        ("gte", "10", &["10", "1e1"], &["9.9", "null"]),
        (
            "in",
            "[1,\"a\",null]",
            &["1", "1.0", "\"a\"", "null", "\"1\""],
            &["2", "\"b\"", "true"],
        ),
        ("in", "[]", &[], &["1", "null", "\"\""]),
        (
            "eq",
            "\"a\"",
            &["\"a\"", "\"\\u0061\""],
            &["\"A\"", "\"a \"", "null"],
        ),
        (
            "lt",
            "\"b\"",
            &["\"a\"", "\"B\"", "\"\""],
            &["\"b\"", "\"ä\"", "null", "true"],
        ),
        ("eq", "null", &["null"], &["0", "\"\"", "false", "\"null\""]),
        ("neq", "null", &["0", "\"\"", "false"], &["null"]),
        ("eq", "true", &["true"], &["false", "null", "\"true\"", "1"]),
        ("gte", "true", &["true"], &["false", "null"]),
    ];
    for (op, operand, yes, no) in cases {
        let condition = condition(op, operand);
        for column in yes {
            assert!(holds(&condition, column), "{column} {op} {operand}");
        }
        for column in no {
            assert!(!holds(&condition, column), "not {column} {op} {operand}");
        }
    }
}

#[test]
fn a_value_that_the_change_does_not_give_is_unknown_to_every_operator() {
    for (op, value) in [
        ("eq", "1"),
        ("neq", "1"),
        ("lt", "1"),
        ("in", "[]"),
        ("eq", "null"),
    ] {
        assert_eq!(
            condition(op, value).holds(None, Some(false)),
            Truth::Unknown,
            "{op}"
        );
    }
}

#[test]
fn integers_that_a_double_would_round_are_told_apart_in_both_spellings() {
    for operand in ["9007199254740993", "\"9007199254740993\""] {
        let condition = condition("eq", operand);
        for (column, expected) in [
            ("\"9007199254740993\"", true),
            ("9007199254740992", false),
            ("\"9007199254740992\"", false),
        ] {
            let holds = holds_for_number(&condition, column);
            assert_eq!(holds, expected, "{column} {operand}");
        }
    }
}

#[test]
fn strings_are_numbers_on_both_sides_only_where_the_column_is_one() {
    let text = condition("lt", "\"9\"");
    assert!(holds(&text, "\"10000000000000000000\""), "bytewise");
    assert!(
        !holds_for_number(&text, "\"10000000000000000000\""),
        "by value"
    );
    assert!(holds_for_number(&text, "8"));
    let text = condition("eq", "\"007\"");
    assert!(!holds(&text, "\"7\""), "a text column");
    assert!(holds_for_number(&text, "\"7\""));
}

#[test]
fn where_the_type_is_not_known_only_what_holds_for_both_is_certain() {
    let less = condition("lt", "\"95\"");
    let many = "\"9007199254740993\"";
    assert_eq!(truth(&less, many, Some(false)), Truth::True);
    assert_eq!(truth(&less, many, Some(true)), Truth::False);
    assert_eq!(truth(&less, many, None), Truth::Unknown);
    for (op, operand, column, expected) in [
        ("lt", "\"95\"", "\"90\"", Truth::True),
        ("lt", "\"95\"", "\"96\"", Truth::False),
        ("eq", "\"9007199254740993\"", many, Truth::True),
        ("eq", "\"9007199254740993.0\"", many, Truth::Unknown),
        // A numeric column has no such values.
        ("eq", "\"new\"", "\"new\"", Truth::True),
        ("lt", "\"new\"", "\"done\"", Truth::True),
        ("neq", "\"95\"", "\"done\"", Truth::True),
        // For these, the type does not matter.
        ("lt", "95", many, Truth::False),
        ("lt", "\"95\"", "9", Truth::True),
    ] {
        let condition = condition(op, operand);
        assert_eq!(
            truth(&condition, column, None),
            expected,
            "{column} {op} {operand}"
        );
    }
}

#[test]
fn a_numeric_column_refuses_non_numeric_values() {
    let facts = ColumnFacts {
        is_number: true,
        is_identity: true,
    };
    for value in ["\"abc\"", "true", "[1,\"x\"]"] {
        let op = if value.starts_with('[') { "in" } else { "eq" };
        let error = condition(op, value).bind(facts).unwrap_err();
        assert_eq!(error.to_string(), "value: the column c is a number");
    }
    assert!(
        condition("in", "[1,\"2\",null,\"NaN\"]")
            .bind(facts)
            .is_ok()
    );
}

#[test]
fn filters_that_make_no_sense_are_refused_with_their_field() {
    let cases = [
        (json!([{"column": "c", "op": "eq", "value": {}}]), "value"),
        (json!([{"column": "c", "op": "eq", "value": [1]}]), "value"),
        (json!([{"column": "c", "op": "in", "value": 1}]), "value"),
        (
            json!([{"column": "c", "op": "in", "value": [[1]]}]),
            "value",
        ),
        (json!([{"column": "c", "op": "lt", "value": null}]), "value"),
        (json!([{"column": "", "op": "eq", "value": 1}]), "column"),
        (json!([{"column": "c", "op": "like", "value": 1}]), "op"),
        (json!([{"column": 1, "op": "eq", "value": 1}]), "column"),
        (
            json!([{"column": "c", "op": "eq", "value": 1, "identity": true}]),
            "identity",
        ),
    ];
    for (filter, field) in cases {
        let FrameError::Field { field: found, .. } = refused(&filter) else {
            panic!("{filter}: {:?}", refused(&filter));
        };
        assert_eq!(
            found,
            format!("subscriptions[0].filter[0].{field}"),
            "{filter}"
        );
    }
}

#[test]
fn what_is_missing_or_unknown_in_a_condition_is_named() {
    let missing = refused(&json!([{"column": "c", "op": "eq"}])).to_string();
    assert!(missing.contains("missing field `value`"), "{missing}");
    let unknown = refused(&json!([{"column": "c", "op": "eq", "value": 1, "x": 1}])).to_string();
    assert!(unknown.contains("unknown field `x`"), "{unknown}");
}

#[test]
fn numbers_beyond_every_type_of_postgres_are_refused() {
    let frame = r#"{"type":"subscribe","subscriptions":[
        {"table":"t","filter":[{"column":"c","op":"eq","value":1e99999999999}]}]}"#;
    let error = ClientMessage::parse(frame).unwrap_err();
    assert_eq!(error.code(), "bad_field", "{error}");
}

#[test]
fn sizes_are_bounded() {
    let condition = json!({"column": "c", "op": "eq", "value": 1});
    let cases = [
        (json!(vec![condition; 17]), "subscriptions[0].filter", 16),
        (
            json!([{"column": "c".repeat(64), "op": "eq", "value": 1}]),
            "subscriptions[0].filter[0].column",
            63,
        ),
        (
            json!([{"column": "c", "op": "eq", "value": "v".repeat(1023)}]),
            "subscriptions[0].filter[0].value",
            1024,
        ),
        (
            json!([{"column": "c", "op": "in", "value": vec![1; 257]}]),
            "subscriptions[0].filter[0].value",
            256,
        ),
        (
            json!([{"column": "c", "op": "in", "value": vec!["v".repeat(1000); 7]}]),
            "subscriptions",
            6144,
        ),
    ];
    for (filter, expected, max) in cases {
        let error = refused(&filter);
        let FrameError::TooLarge { field, limit, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!((field.as_str(), *limit), (expected, max), "{error}");
        assert_eq!(error.code(), "too_large");
    }
}

fn any_scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has no NaN", |number| number.is_finite())
            .prop_map(Value::from),
        ".{0,5}".prop_map(Value::from),
        (0..10_i64).prop_map(|number| Value::from(number.to_string())),
    ]
}

proptest! {
    #[test]
    fn every_operator_is_the_opposite_of_its_opposite(column in any_scalar(), operand in any_scalar()) {
        let (column, operand_text) = (column.to_string(), operand.to_string());
        let is = |op: &str| holds(&condition(op, &operand_text), &column);
        prop_assert_eq!(is("eq"), !is("neq"));
        prop_assert_eq!(is("eq"), holds(&condition("in", &format!("[{operand_text}]")), &column));
        if !operand.is_null() {
            prop_assert_eq!(is("lte"), is("lt") || is("eq"));
            prop_assert_eq!(is("gte"), is("gt") || is("eq"));
            prop_assert!(!(is("lt") && is("gt")));
        }
    }

    #[test]
    fn a_condition_reads_back_from_what_is_kept_of_it(
        operands in prop::collection::vec(any_scalar(), 1..5),
        is_number: bool,
        is_identity: bool,
    ) {
        for (op, value) in [("in", json!(operands)), ("eq", operands[0].clone())] {
            let filter = json!([{"table": "t", "filter": [{"column": "c", "op": op, "value": value}]}]);
            let mut kept = subscriptions(&filter)[0].filter()[0].clone();
            // Fails if an operand is not a number, and then leaves the condition unchanged.
            let _ = kept.bind(ColumnFacts { is_number, is_identity });
            let json = serde_json::to_string(&kept).unwrap();
            prop_assert_eq!(serde_json::from_str::<Condition>(&json).unwrap(), kept);
        }
    }
}
