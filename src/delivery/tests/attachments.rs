use serde_json::{Value, json};

use crate::clients::tests::subscriptions;
use crate::clients::{
    ClientId, ClientMessage, ColumnFacts, CredentialId, FrameError, MAX_SUBSCRIPTIONS_BYTES,
    Position, Start, Subscription, Subscriptions, View,
};
use crate::delivery::{ConsumerState, Cursor, Extent, Flow, MAX_ATTACHMENT_BYTES};

fn state(view: View) -> ConsumerState {
    ConsumerState {
        client: ClientId::parse("tab-7").unwrap(),
        number: 9_007_199_254_740_991,
        view: view.into(),
        cursor: Cursor::new(Start::Earliest, Flow::Waits(8 << 20)),
        connected_at: 1_767_225_600_000,
        answers: None,
        expires_at: Some(1_767_225_600_000),
        credential: Some(CredentialId::of_subject("user")),
    }
}

#[test]
fn a_client_comes_back_from_its_attachment_as_it_was() {
    let list = json!([{"table": "s.\"a.b\"", "filter": [
        {"column": "n", "op": "in", "value": [1.50, "x", null, true, "\u{1F600}"]},
        {"column": "m", "op": "lt", "value": 9_007_199_254_740_993_i64}]}]);
    let view = View::new(Subscriptions::AllTables, Some(subscriptions(&list))).unwrap();
    let client = state(view);
    let bytes = client.to_bytes();
    assert_eq!(ConsumerState::from_bytes(&bytes).unwrap(), client);
    let number = ConsumerState::number_of(&bytes).unwrap();
    assert_eq!(number, client.number);
    let plain = state(View::new(Subscriptions::Tables(subscriptions(&list)), None).unwrap());
    assert_eq!(ConsumerState::from_bytes(&plain.to_bytes()).unwrap(), plain);
}

#[test]
fn an_attachment_that_cannot_be_read_is_an_error() {
    for bytes in [&b""[..], b"{}", b"null", b"\xFF", b"{\"id\":\"\"}"] {
        assert!(ConsumerState::from_bytes(bytes).is_err());
        assert!(ConsumerState::number_of(bytes).is_err());
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
fn the_largest_client_that_is_accepted_fits_the_state() {
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
        let mut client = state(view);
        client.client = ClientId::parse(&"x".repeat(64)).unwrap();
        let extent = Extent {
            epoch: i32::MAX,
            oldest: 1,
            head: i64::MAX,
        };
        client.cursor.step(extent, u64::MAX);
        client.cursor.sent(i64::MAX - 2_000, 1 << 30, u64::MAX);
        let elsewhere = Position {
            epoch: i32::MAX,
            id: i64::MAX - 3_000,
        };
        client
            .cursor
            .restart(Some(Start::After(elsewhere)))
            .unwrap();
        client.cursor.step(extent, u64::MAX);
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
