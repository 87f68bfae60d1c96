//! What the feed itself has said of its tables' columns.
//!
//! The catalogue tells what a table is now, and a change tells what a row was then: between the two
//! may lie an `ALTER TABLE`. pgoutput describes a relation before the first of its rows, and again
//! after each change of it, in the order of the changes. So a description holds for every change from
//! there on, up to the next. What is not known is never taken for something: see
//! [`View`](super::View).

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::position::Position;
use crate::changes::DescribedRelation;
use crate::config::TableName;

/// Descriptions of one table that are kept, the newest. Of changes before them nothing is known.
const MAX_SHAPES: usize = 16;

/// What was described of each table, and how far the feed was followed.
#[derive(Debug, Default)]
pub struct RelationLog {
    tables: HashMap<TableName, Known>,
    /// Every description up to here was taken in.
    through: Option<Position>,
}

/// One table, as it was described. Its JSON is kept in the object's storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    schema: String,
    table: String,
    /// Oldest first; never empty.
    shapes: Vec<Shape>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    /// The id of the first change that it is of.
    since: i64,
    /// Columns of numbers.
    numbers: Vec<String>,
    /// Columns that an update without an old row did not change.
    keys: Vec<String>,
}

/// The relations that were described between two positions of the feed.
#[derive(Clone, Debug)]
pub struct Described<'a> {
    /// Where the feed stood before.
    pub after: Position,
    /// Where it stands now.
    pub through: Position,
    /// In order, each with the id of the first change that it is of.
    pub relations: &'a [(i64, DescribedRelation)],
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Learned {
    /// What was known is of no use any more: the feed was not followed from there to here.
    pub forgotten: Vec<TableName>,
    /// New, or other than before.
    pub changed: Vec<Known>,
}

/// The log as of one change.
#[derive(Clone, Copy, Debug)]
pub struct AsOf<'a> {
    log: &'a RelationLog,
    id: i64,
}

impl Learned {
    /// Adds what came later.
    pub fn add(&mut self, later: Self) {
        let changed_again =
            |it: &Known| later.changed.iter().any(|known| known.name() == it.name());
        self.changed
            .retain(|it| !later.forgotten.contains(&it.name()) && !changed_again(it));
        self.changed.extend(later.changed);
        self.forgotten.retain(|it| !later.forgotten.contains(it));
        self.forgotten.extend(later.forgotten);
    }
}

impl RelationLog {
    /// What an object remembers: `through` is the last position that it learned at.
    pub fn recall(known: Vec<Known>, through: Option<Position>) -> Self {
        let tables = known.into_iter().map(|known| (known.name(), known));
        Self {
            tables: tables.collect(),
            through,
        }
    }

    /// Takes in what the feed described.
    pub fn learn(&mut self, described: &Described<'_>) -> Learned {
        let mut learned = Learned::default();
        if self.through != Some(described.after) {
            // Another reader has stored what was not seen here, or a position was not kept.
            learned.forgotten = self.tables.drain().map(|(name, _)| name).collect();
        }
        self.through = Some(described.through);
        for (since, relation) in described.relations {
            let name = TableName {
                schema: relation.schema.to_string(),
                table: relation.table.to_string(),
            };
            let known = self.tables.entry(name.clone()).or_insert_with(|| Known {
                schema: name.schema.clone(),
                table: name.table.clone(),
                shapes: Vec::new(),
            });
            if known.add(Shape::new(*since, relation)) {
                learned.changed.retain(|it| it.name() != name);
                learned.changed.push(known.clone());
            }
        }
        learned
    }

    /// What was known when the change `id` was written.
    pub fn as_of(&self, id: i64) -> AsOf<'_> {
        AsOf { log: self, id }
    }
}

impl Shape {
    fn new(since: i64, relation: &DescribedRelation) -> Self {
        let owned = |names: &[std::rc::Rc<str>]| names.iter().map(|it| (**it).to_owned()).collect();
        Self {
            since,
            numbers: owned(&relation.numbers),
            keys: owned(&relation.keys),
        }
    }

    fn is_as(&self, other: &Self) -> bool {
        (&self.numbers, &self.keys) == (&other.numbers, &other.keys)
    }
}

impl Known {
    /// The table.
    pub fn name(&self) -> TableName {
        TableName {
            schema: self.schema.clone(),
            table: self.table.clone(),
        }
    }

    /// False when it is as it was.
    fn add(&mut self, shape: Shape) -> bool {
        if self.shapes.last().is_some_and(|last| last.is_as(&shape)) {
            return false;
        }
        // No change came between the two.
        self.shapes.retain(|it| it.since < shape.since);
        self.shapes.push(shape);
        let surplus = self.shapes.len().saturating_sub(MAX_SHAPES);
        self.shapes.drain(..surplus);
        true
    }
}

impl<'a> AsOf<'a> {
    /// Whether the column was one of numbers; `None` where nothing is known.
    pub(super) fn is_number(self, table: &TableName, column: &str) -> Option<bool> {
        let shape = self.shape(table)?;
        Some(shape.numbers.iter().any(|name| name == column))
    }

    /// Whether an update that gives no old row certainly left the column as it was.
    pub(super) fn is_key(self, table: &TableName, column: &str) -> bool {
        let shape = self.shape(table);
        shape.is_some_and(|shape| shape.keys.iter().any(|name| name == column))
    }

    fn shape(self, table: &TableName) -> Option<&'a Shape> {
        let known = self.log.tables.get(table)?;
        let is_followed = self.log.through.is_some_and(|it| self.id <= it.id);
        let then = known.shapes.iter().rfind(|shape| shape.since <= self.id);
        then.filter(|_| is_followed)
    }
}
