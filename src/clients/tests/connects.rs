use serde_json::json;

use super::subscriptions;
use crate::clients::{
    ClientId, ConnectRequest, FrameError, MAX_QUERY_BYTES, Position, Start, Subscriptions,
};

fn problem(query: &str) -> String {
    ConnectRequest::parse(query).unwrap_err().to_string()
}

#[test]
fn the_version_alone_subscribes_to_everything_from_now_on() {
    let expected = ConnectRequest {
        start: Start::Now,
        wanted: Subscriptions::AllTables,
        client: None,
        acknowledges: false,
    };
    assert_eq!(ConnectRequest::parse("v=1"), Ok(expected));
}

#[test]
fn every_parameter_is_read() {
    let query = "v=1&after=1-42&tables=orders,shop.items&client=tab-7&ack=1";
    let tables = json!([{"table": "orders"}, {"table": "shop.items"}]);
    let expected = ConnectRequest {
        start: Start::After(Position { epoch: 1, id: 42 }),
        wanted: Subscriptions::Tables(subscriptions(&tables)),
        client: ClientId::parse("tab-7"),
        acknowledges: true,
    };
    assert_eq!(ConnectRequest::parse(query), Ok(expected));
}

#[test]
fn escapes_are_read() {
    let request = ConnectRequest::parse("v=1&after=earliest&tables=Gr%C3%B6%C3%9Fe%2Ca+b").unwrap();
    let tables = json!([{"table": "Größe"}, {"table": "a b"}]);
    assert_eq!(request.start, Start::Earliest);
    assert_eq!(
        request.wanted,
        Subscriptions::Tables(subscriptions(&tables))
    );
}

#[test]
fn a_wrong_parameter_is_named() {
    for (query, says) in [
        ("", "v: this server speaks version 1 only"),
        ("v=2", "v: this server speaks version 1 only"),
        ("v=1&v=1", "v: given more than once"),
        ("v=1&tabels=a", "tabels: unknown parameter"),
        ("v=1&after=", "after: not a position"),
        ("v=1&after=now", "after: not a position"),
        ("v=1&tables=", "tables: must be"),
        ("v=1&tables=a,,b", "tables: must be"),
        ("v=1&tables=a%00", "tables: must be"),
        ("v=1&client=", "client: must be"),
        ("v=1&client=a%20b", "client: must be"),
        ("v=1&ack=yes", "ack: must be 0 or 1"),
    ] {
        assert!(
            problem(query).starts_with(says),
            "{query}: {}",
            problem(query)
        );
    }
}

#[test]
fn sizes_are_bounded() {
    let long = format!("v=1&client={}", "x".repeat(MAX_QUERY_BYTES));
    let many = format!("v=1&tables={}", vec!["t"; 65].join(","));
    for query in [long, many] {
        let error = ConnectRequest::parse(&query).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { .. }), "{error}");
    }
    assert!(ClientId::parse(&"x".repeat(64)).is_some());
    assert!(ClientId::parse(&"x".repeat(65)).is_none());
}
