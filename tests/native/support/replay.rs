//! Replays a history from the start and compares the result with the tables.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::feed::TestFeed;
use super::history::Stored;

/// The tables that a replay results in: rows, each with the number of its copies.
#[derive(Debug, Default, PartialEq)]
pub struct Tables(BTreeMap<String, BTreeMap<String, u32>>);

/// How the rows of a table are identified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By the column `id`.
    Id,
    /// By the whole row (`REPLICA IDENTITY FULL`; equal rows may exist).
    Row,
}

type Row = Map<String, Value>;

#[derive(Debug)]
struct Replayed {
    identity: Identity,
    rows: BTreeMap<String, Vec<Row>>,
}

impl Replayed {
    fn key(&self, row: &Row) -> String {
        match self.identity {
            Identity::Id => row["id"].to_string(),
            Identity::Row => text(row),
        }
    }

    fn put(&mut self, row: Row) {
        let rows = self.rows.entry(self.key(&row)).or_default();
        assert!(
            self.identity == Identity::Row || rows.is_empty(),
            "a row that is already there comes again: {row:?}"
        );
        rows.push(row);
    }

    fn take(&mut self, row: &Row) -> Row {
        let key = self.key(row);
        let rows = self.rows.get_mut(&key);
        rows.and_then(Vec::pop)
            .unwrap_or_else(|| panic!("a row that is not there changes: {key}"))
    }
}

/// Applies a history to empty tables. Fails on a change of another table, on the insert of a row
/// that exists, and on the update or delete of one that does not.
pub fn replay(history: &[Stored], tables: &[(&str, Identity)]) -> Tables {
    let mut replayed: BTreeMap<&str, Replayed> = tables
        .iter()
        .map(|&(name, identity)| {
            let rows = BTreeMap::new();
            (name, Replayed { identity, rows })
        })
        .collect();
    for change in history {
        let table = replayed
            .get_mut(change.table.as_str())
            .unwrap_or_else(|| panic!("{} is not captured", change.table));
        let data = change.data.as_object().unwrap();
        let old = change.old.as_ref().map(|old| old.as_object().unwrap());
        match change.operation.as_str() {
            "insert" => table.put(data.clone()),
            "update" => {
                let before = table.take(old.unwrap_or(data));
                let mut row = data.clone();
                for column in &change.unchanged {
                    row.insert(column.clone(), before[column].clone());
                }
                table.put(row);
            }
            "delete" => drop(table.take(data)),
            "truncate" => table.rows.clear(),
            other => panic!("unknown operation {other}"),
        }
    }
    Tables(
        replayed
            .into_iter()
            .map(|(name, table)| {
                let rows = table.rows.values().flatten().map(text);
                (name.to_owned(), counted(rows))
            })
            .collect(),
    )
}

/// Reads the rows of the tables as `to_jsonb` returns them.
pub async fn read_tables(feed: &TestFeed, tables: &[(&str, Identity)]) -> Tables {
    let client = feed.client().await;
    let mut all = BTreeMap::new();
    for (name, _) in tables {
        let sql = format!("SELECT to_jsonb(t)::text FROM {name} t");
        let rows = client.query(&sql, &[]).await.unwrap();
        let rows = rows.iter().map(|row| {
            let row: Row = serde_json::from_str(row.get(0)).unwrap();
            text(&row)
        });
        all.insert((*name).to_owned(), counted(rows));
    }
    Tables(all)
}

/// Fails and lists rows that differ.
pub fn assert_same(replayed: &Tables, real: &Tables) {
    for (table, rows) in &real.0 {
        let replayed = &replayed.0[table];
        let missing: Vec<_> = rows
            .iter()
            .filter(|(row, count)| replayed.get(*row) != Some(count))
            .take(5)
            .collect();
        let extra: Vec<_> = replayed
            .iter()
            .filter(|(row, count)| rows.get(*row) != Some(count))
            .take(5)
            .collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "{table}: only in the table: {missing:#?}, only in the replay: {extra:#?}"
        );
    }
}

/// Equal rows have equal text, since `Map` sorts its keys.
fn text(row: &Row) -> String {
    serde_json::to_string(row).unwrap()
}

fn counted(rows: impl Iterator<Item = String>) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row).or_default() += 1;
    }
    counts
}
