use proptest::prelude::*;
use serde_json::{Value, json};

use super::subscriptions;
use crate::clients::{
    ChangesFrame, ClientId, ClientMessage, FrameError, MAX_CHANGES_BYTES, MAX_MESSAGE_BYTES,
    Position, ResetReason, ServerMessage, Start, Subscriptions,
};

fn refused(text: &str) -> FrameError {
    ClientMessage::parse(text).unwrap_err()
}

fn at(id: i64) -> Position {
    Position { epoch: 1, id }
}

#[test]
fn a_subscribe_frame_is_read() {
    let text = r#"{"type":"subscribe","subscriptions":[{"table":"orders","filter":[{"column":"customer_id","op":"eq","value":42}]}],"after":"1-42"}"#;
    let list = json!([{"table": "orders",
        "filter": [{"column": "customer_id", "op": "eq", "value": 42}]}]);
    let expected = ClientMessage::Subscribe {
        wanted: Subscriptions::Tables(subscriptions(&list)),
        start: Some(Start::After(at(42))),
    };
    assert_eq!(ClientMessage::parse(text), Ok(expected));
}

#[test]
fn a_subscription_begins_where_it_says() {
    for (after, expected) in [
        ("", None),
        (r#","after":null"#, None),
        (r#","after":"earliest""#, Some(Start::Earliest)),
        (r#","after":"1-0""#, Some(Start::After(at(0)))),
    ] {
        let text = format!(r#"{{"subscriptions":[{{"table":"t"}}],"type":"subscribe"{after}}}"#);
        let Ok(ClientMessage::Subscribe { start, .. }) = ClientMessage::parse(&text) else {
            panic!("{text}");
        };
        assert_eq!(start, expected, "{text}");
    }
}

#[test]
fn an_ack_frame_is_read() {
    let text = r#"{"type":"ack","position":"1-42"}"#;
    assert_eq!(ClientMessage::parse(text), Ok(ClientMessage::Ack(at(42))));
}

#[test]
fn each_way_to_be_wrong_has_its_code_and_names_the_field() {
    let cases = [
        ("", "bad_json", "EOF"),
        ("{", "bad_json", "EOF"),
        ("hello", "bad_json", "line 1 column 1"),
        (
            r#"{"type":"ack","position":"1-1"} x"#,
            "bad_json",
            "trailing",
        ),
        (
            r#"{"type":"ack","position":"1-1"}{}"#,
            "bad_json",
            "trailing",
        ),
        ("[]", "unknown_type", "\"type\""),
        ("null", "unknown_type", "\"type\""),
        ("{}", "unknown_type", "\"type\""),
        (r#"{"type":1}"#, "unknown_type", "\"type\""),
        (
            r#"{"type":"ack","type":"ack","position":"1-1"}"#,
            "unknown_type",
            "\"type\"",
        ),
        (r#"{"type":"welcome"}"#, "unknown_type", "\"welcome\""),
        (r#"{"type":"ack"}"#, "bad_field", "missing field `position`"),
        (
            r#"{"type":"ack","position":7}"#,
            "bad_field",
            "position: invalid type",
        ),
        (
            r#"{"type":"ack","position":"x"}"#,
            "bad_field",
            "position: not a position",
        ),
        (
            r#"{"type":"ack","position":"1-1","x":1}"#,
            "bad_field",
            "unknown field `x`",
        ),
        (
            r#"{"type":"subscribe"}"#,
            "bad_field",
            "missing field `subscriptions`",
        ),
        (
            r#"{"type":"subscribe","subscriptions":[]}"#,
            "bad_field",
            "at least one table",
        ),
        (
            r#"{"type":"subscribe","subscriptions":{}}"#,
            "bad_field",
            "subscriptions: invalid type",
        ),
        (
            r#"{"type":"subscribe","subscriptions":[{}]}"#,
            "bad_field",
            "subscriptions[0]: missing",
        ),
        (
            r#"{"type":"subscribe","subscriptions":[{"table":"a.b.c"}]}"#,
            "bad_field",
            "subscriptions[0].table: must be",
        ),
        (
            r#"{"type":"subscribe","subscriptions":[{"table":"t"}],"after":"now"}"#,
            "bad_field",
            "after: not a position",
        ),
    ];
    for (text, code, says) in cases {
        let error = refused(text);
        assert_eq!(error.code(), code, "{text}: {error}");
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
}

#[test]
fn frames_and_lists_that_are_too_large_are_refused_before_they_are_read() {
    let error = refused(&" ".repeat(MAX_MESSAGE_BYTES + 1));
    assert_eq!(error.code(), "too_large");
    let many = json!({"type": "subscribe", "subscriptions": vec![json!({"table": "t"}); 65]});
    let error = refused(&many.to_string());
    assert_eq!(
        error.to_string(),
        "subscriptions has 65, more than the 64 that are allowed"
    );
}

#[test]
fn deeply_nested_json_is_refused_and_not_recursed_into() {
    let text = format!("{{\"type\":\"ack\",\"position\":{}", "[".repeat(10_000));
    assert_eq!(refused(&text).code(), "bad_json");
}

#[test]
fn little_of_a_clients_text_comes_back() {
    let error = refused(&format!(r#"{{"type":"{}"}}"#, "é".repeat(5_000)));
    assert!(error.to_string().chars().count() < 300, "{error}");
}

#[test]
fn the_error_frame_tells_code_and_message() {
    let error = FrameError::Binary;
    let frame = error.message(&error.to_string()).to_json();
    let frame: Value = serde_json::from_str(&frame).unwrap();
    assert_eq!(
        frame,
        json!({"type": "error", "code": "binary", "retryable": false,
            "message": "binary messages are not part of this protocol: send JSON text"})
    );
}

#[test]
fn server_frames_are_as_documented() {
    let client = ClientId::parse("a-1").unwrap();
    let welcome = ServerMessage::Welcome {
        client_id: &client,
        epoch: 1,
        oldest: at(0),
        head: at(42),
        position: at(7),
        warnings: &[],
    };
    for (message, expected) in [
        (
            welcome,
            r#"{"type":"welcome","clientId":"a-1","epoch":1,"oldest":"1-0","head":"1-42","position":"1-7"}"#,
        ),
        (
            ServerMessage::CaughtUp { position: at(42) },
            r#"{"type":"caught_up","position":"1-42"}"#,
        ),
        (
            ServerMessage::Progress { position: at(42) },
            r#"{"type":"progress","position":"1-42"}"#,
        ),
        (
            ServerMessage::Reset {
                reason: ResetReason::SlowConsumer,
                oldest: at(30),
                head: at(42),
            },
            r#"{"type":"reset","reason":"slow_consumer","oldest":"1-30","head":"1-42"}"#,
        ),
    ] {
        assert_eq!(message.to_json(), expected);
    }
}

#[test]
fn a_changes_frame_holds_whole_changes_in_order() {
    let mut frame = ChangesFrame::new(at(1));
    assert!(frame.is_empty());
    assert!(frame.push(r#"{"id":2}"#) && frame.push(r#"{"id":3}"#));
    assert_eq!(
        frame.finish(at(5), true),
        r#"{"type":"changes","changes":[{"id":2},{"id":3}],"from":"1-1","to":"1-5","catchUp":true}"#
    );
}

#[test]
fn a_changes_frame_takes_one_change_of_any_size_and_otherwise_about_a_mebibyte() {
    let large = format!("\"{}\"", "x".repeat(2 * MAX_CHANGES_BYTES));
    let mut frame = ChangesFrame::new(at(1));
    assert!(frame.push(&large));
    assert!(!frame.push("{}"));
    assert!(frame.finish(at(2), false).len() > 2 * MAX_CHANGES_BYTES);

    let half = format!("\"{}\"", "x".repeat(MAX_CHANGES_BYTES / 2));
    let mut frame = ChangesFrame::new(at(1));
    assert!(frame.push(&half));
    assert!(!frame.push(&half));
    assert!(frame.push("{}"));
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,80}") {
        let _ = ClientMessage::parse(&text);
    }

    #[test]
    fn no_damage_to_a_frame_panics(
        at in 0..200_usize,
        replacement in prop::sample::select(vec!["", "\"", "{", "]", "null", "-", "\\u0000", "9e9"]),
    ) {
        let frame = json!({"type": "subscribe", "after": "1-2", "subscriptions": [
            {"table": "s.t", "filter": [
                {"column": "c", "op": "in", "value": [1, "x", null, true]}]}]});
        let mut text = frame.to_string();
        let at = at.min(text.len() - 1);
        text.replace_range(at..=at, replacement);
        if let Err(error) = ClientMessage::parse(&text) {
            let frame = error.message(&error.to_string()).to_json();
            prop_assert!(serde_json::from_str::<Value>(&frame).is_ok());
        }
    }
}
