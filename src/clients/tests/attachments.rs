use serde_json::{Value, json};

use super::subscriptions;
use crate::clients::{
    Attachment, ClientId, ClientMessage, ColumnFacts, Cursor, Feed, Flow, FrameError,
    MAX_ATTACHMENT_BYTES, MAX_SUBSCRIPTIONS_BYTES, Start, Subscription, Subscriptions, View,
};

fn attachment(view: View) -> Attachment {
    Attachment {
        client: ClientId::parse("tab-7").unwrap(),
        connection: 9_007_199_254_740_991,
        view: view.into(),
        cursor: Cursor::new(Start::Earliest, Flow::Waits(8 << 20)),
        connected_at: 1_767_225_600_000,
        expires_at: Some(1_767_225_600),
    }
}

#[test]
fn a_client_comes_back_from_its_attachment_as_it_was() {
    let list = json!([{"table": "s.\"a.b\"", "filter": [
        {"column": "n", "op": "in", "value": [1.50, "x", null, true, "\u{1F600}"]},
        {"column": "m", "op": "lt", "value": 9_007_199_254_740_993_i64}]}]);
    let view = View::new(Subscriptions::AllTables, Some(subscriptions(&list))).unwrap();
    let client = attachment(view);
    let bytes = client.to_bytes();
    assert_eq!(Attachment::from_bytes(&bytes).unwrap(), client);
    let connection = Attachment::connection_of(&bytes).unwrap();
    assert_eq!(connection, client.connection);
    let plain = attachment(View::new(Subscriptions::Tables(subscriptions(&list)), None).unwrap());
    assert_eq!(Attachment::from_bytes(&plain.to_bytes()).unwrap(), plain);
}

#[test]
fn bytes_that_are_no_attachment_are_an_error() {
    for bytes in [&b""[..], b"{}", b"null", b"\xFF", b"{\"id\":\"\"}"] {
        assert!(Attachment::from_bytes(bytes).is_err());
        assert!(Attachment::connection_of(bytes).is_err());
    }
}

/// The largest list that the server takes: members are added until it refuses one more.
fn largest(mut grow: impl FnMut(usize) -> Value) -> Vec<Subscription> {
    let mut accepted = None;
    for size in 1.. {
        let frame = json!({"type": "subscribe", "subscriptions": grow(size)}).to_string();
        match ClientMessage::parse(&frame) {
            Ok(ClientMessage::Subscribe {
                wanted: Subscriptions::Tables(tables),
                ..
            }) => accepted = Some(tables),
            Err(FrameError::TooLarge { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    accepted.unwrap()
}

#[test]
fn the_largest_client_that_is_accepted_fits_the_attachment() {
    let many_tables = largest(|size| {
        let name = |index| json!({"table": format!("schema_{index}.table_{index}")});
        (0..size).map(name).collect()
    });
    let many_conditions = largest(|size| {
        let condition = |_| json!({"column": "c", "op": "eq", "value": 1});
        let full = |_| json!({"table": "t", "filter": (0..16).map(condition).collect::<Value>()});
        (0..size).map(full).collect()
    });
    let many_values = largest(|size| {
        // Quotes and control characters, which JSON writes longest.
        let values: Value = (0..size).map(|_| json!("\"\u{1}\u{e9}")).collect();
        json!([{"table": "t", "filter": [{"column": "c", "op": "in", "value": values}]}])
    });
    for list in [many_tables, many_conditions, many_values] {
        let mut view = View::new(Subscriptions::Tables(list.clone()), Some(list)).unwrap();
        let facts = ColumnFacts {
            is_number: false,
            is_identity: true,
        };
        view.bind(|_, _| Some(facts)).unwrap();
        let mut client = attachment(view);
        client.client = ClientId::parse(&"x".repeat(64)).unwrap();
        let feed = Feed {
            epoch: i32::MAX,
            oldest: 1,
            head: i64::MAX,
        };
        client.cursor.step(feed, u64::MAX);
        for id in 0..1_000 {
            client.cursor.sent(i64::MAX - 1_000 + id, 1 << 30, u64::MAX);
        }
        let bytes = client.to_bytes().len();
        assert!(bytes <= MAX_ATTACHMENT_BYTES - 512, "{bytes} bytes");
        assert!(
            bytes > MAX_SUBSCRIPTIONS_BYTES / 2,
            "a test of something large: {bytes} bytes"
        );
    }
}
