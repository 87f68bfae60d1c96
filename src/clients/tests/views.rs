use proptest::prelude::*;
use serde_json::{Value, json};

use super::{change, no_schemas, subscriptions};
use crate::changes::DescribedRelation;
use crate::clients::{
    ColumnFacts, FeedChange, FrameError, Position, SchemaChanges, SchemaHistory, Subscriptions,
    View, Visible, redact,
};

const NO_ROW: Value = Value::Null;

fn wanting(list: &Value) -> View {
    View::new(Subscriptions::Tables(subscriptions(list)), None).unwrap()
}

fn holding_a_ticket_for(list: &Value) -> View {
    View::new(Subscriptions::AllTables, Some(subscriptions(list))).unwrap()
}

fn orders_of(customer: i64) -> Value {
    json!([{"table": "orders", "filter": [{"column": "customer", "op": "eq", "value": customer}]}])
}

/// Evaluates a view on a table whose schema is unknown.
fn judge(view: &View, change: &Value) -> Visible {
    judge_with(&no_schemas(), view, change)
}

fn judge_with(log: &SchemaHistory, view: &View, change: &Value) -> Visible {
    let text = change.to_string();
    view.judge(&FeedChange::parse(&text).unwrap(), log.at(42))
}

/// The feed has described `orders` with this key, before the change `since`.
fn described(key: &str, since: i64) -> SchemaHistory {
    let at = |id| Position { epoch: 1, id };
    let mut log = no_schemas();
    log.add(&SchemaChanges {
        after: at(0),
        through: at(100),
        relations: &[(since, described_orders(key))],
    });
    log
}

fn described_orders(key: &str) -> DescribedRelation {
    DescribedRelation {
        schema: "public".into(),
        table: "orders".into(),
        numbers: vec!["customer".into()],
        keys: vec![key.into()],
    }
}

/// What the catalogue says where `customer` is in the replica identity, or is not.
fn bound(mut view: View, is_identity: bool) -> View {
    let facts = ColumnFacts {
        is_number: true,
        is_identity,
    };
    view.bind(|_, _| Some(facts)).unwrap();
    view
}

#[test]
fn a_client_without_filters_gets_every_change_of_its_tables() {
    let view = wanting(&json!([{"table": "orders"}, {"table": "shop.items"}]));
    let mut other = change("insert", &json!({}), &NO_ROW);
    for (schema, table, expected) in [
        ("public", "orders", Visible::Whole),
        ("shop", "items", Visible::Whole),
        ("public", "items", Visible::Nothing),
        ("shop", "orders", Visible::Nothing),
        ("public", "shop.items", Visible::Nothing),
    ] {
        other["schema"] = schema.into();
        other["table"] = table.into();
        assert_eq!(judge(&view, &other), expected, "{schema}.{table}");
    }
    assert!(!view.has_filters());
    assert_eq!(view.table_names(), ["orders", "shop.items"]);
}

#[test]
fn a_filter_looks_at_the_new_row_and_at_the_old_one() {
    let view = wanting(&orders_of(42));
    let (mine, other) = (json!({"customer": 42}), json!({"customer": 7}));
    for (operation, data, old, expected) in [
        ("insert", &mine, &NO_ROW, Visible::Whole),
        ("insert", &other, &NO_ROW, Visible::Nothing),
        ("delete", &mine, &NO_ROW, Visible::Whole),
        ("delete", &other, &NO_ROW, Visible::Nothing),
        ("update", &mine, &mine, Visible::Whole),
        ("update", &mine, &other, Visible::Whole),
        ("update", &other, &mine, Visible::Whole),
        ("update", &other, &other, Visible::Nothing),
        ("truncate", &json!({}), &NO_ROW, Visible::Whole),
    ] {
        let change = change(operation, data, old);
        assert_eq!(judge(&view, &change), expected, "{operation} {data} {old}");
    }
}

#[test]
fn what_is_unknown_is_sent_to_a_client_without_a_ticket_and_to_no_other() {
    let unknown = [
        change("insert", &json!({"id": 1}), &NO_ROW),
        change("delete", &json!({"id": 1}), &NO_ROW),
        // The key changed, and the filter's column is not in it.
        change(
            "update",
            &json!({"id": 2, "customer": 7}),
            &json!({"id": 1}),
        ),
        // The old row is not known at all.
        change("update", &json!({"id": 1, "customer": 7}), &NO_ROW),
    ];
    for change in unknown {
        assert_eq!(
            judge(&wanting(&orders_of(42)), &change),
            Visible::Whole,
            "{change}"
        );
        let ticket = holding_a_ticket_for(&orders_of(42));
        assert_eq!(judge(&ticket, &change), Visible::Nothing, "{change}");
    }
}

#[test]
fn an_update_without_an_old_row_left_the_replica_identity_as_it_was() {
    let change = change("update", &json!({"customer": 7}), &NO_ROW);
    let view = wanting(&orders_of(42));
    for (log, in_catalogue, expected) in [
        (described("customer", 1), true, Visible::Nothing),
        (described("customer", 42), true, Visible::Nothing),
        // The table was different then, or may have been.
        (described("id", 1), true, Visible::Whole),
        (described("customer", 43), true, Visible::Whole),
        (no_schemas(), true, Visible::Whole),
        // A partition has another replica identity than what is described.
        (described("customer", 1), false, Visible::Whole),
    ] {
        let view = bound(view.clone(), in_catalogue);
        assert_eq!(judge_with(&log, &view, &change), expected, "{log:?}");
    }
}

#[test]
fn what_was_learned_is_forgotten_when_the_feed_was_not_followed_on() {
    let mut log = described("customer", 1);
    let at = |id| Position { epoch: 1, id };
    let described = |after, through| SchemaChanges {
        after: at(after),
        through: at(through),
        relations: &[],
    };
    assert!(log.add(&described(100, 200)).is_empty());
    let view = bound(wanting(&orders_of(42)), true);
    let change = change("update", &json!({"customer": 7}), &NO_ROW);
    assert_eq!(judge_with(&log, &view, &change), Visible::Nothing);
    assert!(log.add(&described(201, 300)).is_empty());
    assert_eq!(judge_with(&log, &view, &change), Visible::Whole);
}

#[test]
fn what_was_stored_after_the_last_description_that_was_seen_is_not_judged_by_it() {
    let log = described("customer", 1);
    let view = bound(wanting(&orders_of(42)), true);
    let text = change("update", &json!({"customer": 7}), &NO_ROW).to_string();
    let change = FeedChange::parse(&text).unwrap();
    assert_eq!(view.judge(&change, log.at(100)), Visible::Nothing);
    assert_eq!(view.judge(&change, log.at(101)), Visible::Whole);
}

#[test]
fn an_unchanged_value_is_the_old_one_where_that_is_known() {
    let mut update = change(
        "update",
        &json!({"id": 1}),
        &json!({"id": 1, "customer": 7}),
    );
    update["unchanged"] = json!(["customer"]);
    assert_eq!(judge(&wanting(&orders_of(42)), &update), Visible::Nothing);
    assert_eq!(judge(&wanting(&orders_of(7)), &update), Visible::Whole);
    assert_eq!(
        judge(&holding_a_ticket_for(&orders_of(7)), &update),
        Visible::Whole
    );
    update["unchanged"] = json!([]);
    assert_eq!(
        judge(&wanting(&orders_of(42)), &update),
        Visible::Whole,
        "omitted: unknown"
    );
    assert_eq!(
        judge(&holding_a_ticket_for(&orders_of(7)), &update),
        Visible::OnlyOld
    );
}

#[test]
fn all_conditions_of_a_subscription_must_hold_and_one_subscription_suffices() {
    let view = wanting(&json!([
        {"table": "orders", "filter": [
            {"column": "customer", "op": "eq", "value": 42},
            {"column": "total", "op": "gte", "value": 10}]},
        {"table": "orders", "filter": [{"column": "urgent", "op": "eq", "value": true}]},
    ]));
    for (row, expected) in [
        (
            json!({"customer": 42, "total": 10, "urgent": false}),
            Visible::Whole,
        ),
        (
            json!({"customer": 42, "total": 9, "urgent": false}),
            Visible::Nothing,
        ),
        (
            json!({"customer": 7, "total": 9, "urgent": true}),
            Visible::Whole,
        ),
        (json!({"customer": 7, "urgent": false}), Visible::Nothing),
    ] {
        assert_eq!(
            judge(&view, &change("insert", &row, &NO_ROW)),
            expected,
            "{row}"
        );
    }
    assert_eq!(view.table_names(), ["orders"]);
}

#[test]
fn a_ticket_shows_only_the_rows_it_holds_for() {
    let view = holding_a_ticket_for(&orders_of(42));
    let (mine, other) = (json!({"customer": 42}), json!({"customer": 7}));
    for (operation, data, old, expected) in [
        ("insert", &mine, &NO_ROW, Visible::Whole),
        ("insert", &other, &NO_ROW, Visible::Nothing),
        ("update", &mine, &mine, Visible::Whole),
        ("update", &mine, &NO_ROW, Visible::Whole),
        ("update", &mine, &other, Visible::OnlyNew),
        ("update", &mine, &json!({"id": 1}), Visible::OnlyNew),
        ("update", &other, &mine, Visible::OnlyOld),
        ("update", &other, &other, Visible::Nothing),
        ("delete", &mine, &NO_ROW, Visible::Whole),
        ("delete", &other, &NO_ROW, Visible::Nothing),
        ("truncate", &json!({}), &NO_ROW, Visible::Whole),
    ] {
        let change = change(operation, data, old);
        assert_eq!(judge(&view, &change), expected, "{operation} {data} {old}");
    }
    let mut elsewhere = change("truncate", &json!({}), &NO_ROW);
    elsewhere["table"] = "customers".into();
    assert_eq!(judge(&view, &elsewhere), Visible::Nothing);
}

#[test]
fn a_ticket_and_a_subscription_both_apply_and_neither_tells_of_a_hidden_row() {
    let wanted =
        json!([{"table": "orders", "filter": [{"column": "open", "op": "eq", "value": true}]}]);
    let view = View::new(
        Subscriptions::Tables(subscriptions(&wanted)),
        Some(subscriptions(&orders_of(42))),
    );
    let view = view.unwrap();
    let row = |customer: i64, open: bool| json!({"customer": customer, "open": open});
    for (new, old, expected) in [
        (row(42, true), row(42, false), Visible::Whole),
        (row(42, false), row(42, true), Visible::Whole),
        (row(42, false), row(42, false), Visible::Nothing),
        (row(42, true), row(7, true), Visible::OnlyNew),
        // Only the hidden row matches the subscription.
        (row(42, false), row(7, true), Visible::Nothing),
        (row(7, true), row(42, false), Visible::Nothing),
        (row(7, false), row(42, true), Visible::OnlyOld),
    ] {
        let update = change("update", &new, &old);
        assert_eq!(judge(&view, &update), expected, "{old} -> {new}");
    }
}

#[test]
fn a_subscription_beyond_the_ticket_is_refused_at_once_and_when_it_changes() {
    let allowed = Some(subscriptions(&orders_of(42)));
    let wanted = subscriptions(&json!([{"table": "orders"}, {"table": "customers"}]));
    let wanted = Subscriptions::Tables(wanted);
    let refused = FrameError::NotAllowed {
        field: "subscriptions[1].table".into(),
    };
    assert_eq!(View::new(wanted.clone(), allowed), Err(refused.clone()));
    let view = holding_a_ticket_for(&orders_of(42));
    assert_eq!(view.resubscribe(wanted), Err(refused));
    assert_eq!(view.table_names(), ["orders"]);
}

#[test]
fn a_row_that_comes_into_sight_is_sent_without_the_old_row() {
    let update = change("update", &json!({"customer": 42}), &json!({"customer": 7})).to_string();
    let seen = redact(&update, Visible::OnlyNew).unwrap().unwrap();
    let expected = change("update", &json!({"customer": 42}), &NO_ROW);
    assert_eq!(serde_json::from_str::<Value>(&seen).unwrap(), expected);
}

#[test]
fn a_row_that_leaves_sight_is_sent_as_a_delete_of_the_old_row() {
    let mut update = change(
        "update",
        &json!({"customer": 7}),
        &json!({"customer": 42, "n": 1.50}),
    );
    update["unchanged"] = json!(["n"]);
    let update = update.to_string();
    let seen = redact(&update, Visible::OnlyOld).unwrap().unwrap();
    let expected = change("delete", &json!({"customer": 42, "n": 1.50}), &NO_ROW);
    assert_eq!(serde_json::from_str::<Value>(&seen).unwrap(), expected);
}

#[test]
fn what_is_seen_whole_is_sent_as_it_is_and_what_is_hidden_is_not_sent() {
    let update = change("update", &json!({}), &NO_ROW).to_string();
    assert_eq!(redact(&update, Visible::Whole).unwrap().unwrap(), update);
    assert!(redact(&update, Visible::Nothing).unwrap().is_none());
}

#[test]
fn redaction_keeps_every_other_byte() {
    let text = r#"{"id":1,"\u0022k":"\u00e9","data":{"a":1.10},"old":{"a":"\ud83d\ude00"},"operation":"update","unchanged":["z"],"omitted":["y"],"schema":"s","table":"t"}"#;
    let seen = redact(text, Visible::OnlyNew).unwrap().unwrap();
    assert_eq!(
        seen,
        r#"{"id":1,"\"k":"\u00e9","data":{"a":1.10},"old":null,"operation":"update","unchanged":["z"],"omitted":["y"],"schema":"s","table":"t"}"#
    );
    let seen = redact(text, Visible::OnlyOld).unwrap().unwrap();
    assert_eq!(
        seen,
        r#"{"id":1,"\"k":"\u00e9","data":{"a":"\ud83d\ude00"},"old":null,"operation":"delete","unchanged":[],"omitted":["y"],"schema":"s","table":"t"}"#
    );
}

#[test]
fn a_filter_that_the_replica_identity_does_not_cover_is_warned_of_with_the_sql_that_fixes_it() {
    let list = json!([{"table": "Sales.\"a.b\"", "filter": [
        {"column": "customer", "op": "eq", "value": 1},
        {"column": "customer", "op": "neq", "value": 2}]}]);
    let warnings = bound(wanting(&list), false).warnings();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].table, "Sales.\"a.b\"");
    assert_eq!(warnings[0].columns, ["customer"]);
    assert_eq!(
        warnings[0].sql,
        "ALTER TABLE \"Sales\".\"a.b\" REPLICA IDENTITY FULL"
    );
    assert_eq!(bound(wanting(&list), true).warnings(), []);
}

#[test]
fn a_column_that_is_not_there_is_refused_with_its_field() {
    let mut view = wanting(&orders_of(42));
    let error = view.bind(|_, _| None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "subscriptions[0].filter[0].column: the table has no column \"customer\""
    );
    let error = holding_a_ticket_for(&orders_of(42))
        .bind(|_, _| None)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("ticket.tables[0].filter[0].column:"),
        "{error}"
    );
}

/// Rows of which each column may be unknown.
fn any_row() -> impl Strategy<Value = Value> {
    let column = || prop::option::of(0..3_i64);
    (column(), column()).prop_map(|(a, b)| {
        let columns = [("a", a), ("b", b)];
        let known = columns
            .iter()
            .filter_map(|(name, value)| Some((*name, (*value)?)));
        Value::Object(
            known
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    })
}

fn any_filter() -> impl Strategy<Value = Value> {
    let column = prop::sample::select(vec!["a", "b"]);
    let op = prop::sample::select(vec!["eq", "neq", "lt", "gte"]);
    let condition = (column, op, 0..3_i64)
        .prop_map(|(column, op, value)| json!({"column": column, "op": op, "value": value}));
    prop::collection::vec(condition, 0..3)
        .prop_map(|filter| json!([{"table": "orders", "filter": filter}]))
}

proptest! {
    /// A client with a ticket gets no row, and nothing of a row, that a client who asked for the
    /// same rows without one would not get.
    #[test]
    fn a_ticket_never_shows_more_than_a_subscription(
        filter in any_filter(),
        (data, old) in (any_row(), prop::option::of(any_row())),
        operation in prop::sample::select(vec!["insert", "update", "delete"]),
    ) {
        let old = old.filter(|_| operation == "update").unwrap_or(NO_ROW);
        let change = change(operation, &data, &old);
        let with_ticket = judge(&holding_a_ticket_for(&filter), &change);
        let without = judge(&wanting(&filter), &change);
        prop_assert!(with_ticket == Visible::Nothing || without == Visible::Whole);
    }

    /// Whatever is seen with a ticket for `a = 1`, no other row of a known `a` is in it.
    #[test]
    fn no_redacted_change_holds_a_row_that_the_ticket_hides(
        wanted in any_filter(),
        (data, old) in (any_row(), prop::option::of(any_row())),
        operation in prop::sample::select(vec!["insert", "update", "delete"]),
    ) {
        let old = old.filter(|_| operation == "update").unwrap_or(NO_ROW);
        let change = change(operation, &data, &old).to_string();
        let ticket = json!([{"table": "orders", "filter": [{"column": "a", "op": "eq", "value": 1}]}]);
        let view = View::new(
            Subscriptions::Tables(subscriptions(&wanted)),
            Some(subscriptions(&ticket)),
        );
        let visible = view.unwrap().judge(&FeedChange::parse(&change).unwrap(), no_schemas().at(42));
        if let Some(seen) = redact(&change, visible).unwrap() {
            let seen: Value = serde_json::from_str(&seen).unwrap();
            prop_assert_eq!(&seen["data"]["a"], &json!(1));
            prop_assert!(seen["old"].is_null() || seen["old"]["a"] == json!(1));
        }
    }
}
