//! What the feed has described of its tables' columns.
//!
//! The catalogue describes a table now, and a change describes a row at the time of writing: an
//! `ALTER TABLE` may lie between the two. pgoutput describes a relation before the first of its
//! rows, and again after each change of it, in the order of the changes. So a description holds for
//! every change from there on, up to the next. What is not known is never assumed: see
//! [`View`](super::View).
//!
//! A database may have hundreds of thousands of partitions. So descriptions are read from the store
//! when a filter asks for them, and only the tables that were used last are held in memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::position::Position;
use crate::changes::DescribedRelation;
use crate::config::TableName;
use crate::error::Result;

/// How many of the newest descriptions of a table are kept. Nothing is known about changes before
/// them.
const MAX_SHAPES: usize = 16;
/// Tables that are held in memory.
pub const MAX_CACHED_TABLES: usize = 1_000;

/// Where descriptions survive the object's eviction.
pub trait SchemaStore {
    /// The history of one table, when there is one.
    fn load(&self, table: &TableName) -> Result<Option<TableHistory>>;

    /// Saves the history of one table.
    fn save(&self, history: &TableHistory) -> Result<()>;

    /// Forgets all of them.
    fn clear(&self) -> Result<()>;
}

/// The descriptions of each table, and how far the feed was followed.
pub struct SchemaHistory {
    store: Box<dyn SchemaStore>,
    tables: RefCell<HashMap<TableName, Option<Rc<TableHistory>>>>,
    /// Histories that could not be saved.
    unsaved: Vec<TableName>,
    /// The store could not be cleared.
    must_clear: bool,
    /// Every description up to here is known.
    through: Option<Position>,
}

/// One table, as it was described. Its JSON is kept in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableHistory {
    schema: String,
    table: String,
    /// Oldest first; never empty.
    shapes: Vec<Shape>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    /// The id of the first change with this shape.
    since: i64,
    /// Numeric columns.
    numbers: Vec<String>,
    /// Columns that an update without an old row did not change.
    keys: Vec<String>,
}

/// The relations that were described between two positions of the feed.
#[derive(Clone, Debug)]
pub struct SchemaChanges<'a> {
    /// The feed's position before.
    pub after: Position,
    /// The feed's position now.
    pub through: Position,
    /// In order, each with the id of the first change that it describes.
    pub relations: &'a [(i64, DescribedRelation)],
}

/// What was known about the tables when one change was written.
#[derive(Clone, Copy, Debug)]
pub struct SchemaAt<'a> {
    history: &'a SchemaHistory,
    id: i64,
}

impl fmt::Debug for SchemaHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchemaHistory").finish_non_exhaustive()
    }
}

impl SchemaHistory {
    /// The history in `store`; `through` is the last position up to which the feed was followed.
    pub fn new(store: Box<dyn SchemaStore>, through: Option<Position>) -> Self {
        Self {
            store,
            tables: RefCell::default(),
            unsaved: Vec::new(),
            must_clear: false,
            through,
        }
    }

    /// Adds new descriptions. Returns the tables that are new or have changed.
    pub fn add(&mut self, described: &SchemaChanges<'_>) -> Vec<TableName> {
        if self.through != Some(described.after) {
            // Another reader stored changes that this object did not see, or a position was not
            // persisted: it is unknown how long the descriptions hold.
            self.tables.borrow_mut().clear();
            self.unsaved.clear();
            self.must_clear = true;
        }
        self.through = Some(described.through);
        let mut changed = Vec::new();
        for (since, relation) in described.relations {
            let name = TableName {
                schema: relation.schema.to_string(),
                table: relation.table.to_string(),
            };
            if self.add_one(&name, Shape::new(*since, relation)) && !changed.contains(&name) {
                changed.push(name);
            }
        }
        self.unsaved.extend(changed.iter().cloned());
        changed
    }

    fn add_one(&mut self, name: &TableName, shape: Shape) -> bool {
        let known = self.table(name);
        let mut history = known.map_or_else(
            || TableHistory {
                schema: name.schema.clone(),
                table: name.table.clone(),
                shapes: Vec::new(),
            },
            |known| TableHistory::clone(&known),
        );
        let is_new = history.add(shape);
        if is_new {
            let history = Some(Rc::new(history));
            self.tables.borrow_mut().insert(name.clone(), history);
        }
        is_new
    }

    /// Saves what is not yet saved. On success the caller must persist the position before the next
    /// await. On failure it must not: the stale position tells the next instance that its schema
    /// history has a hole.
    pub fn save(&mut self) -> Result<()> {
        if self.must_clear {
            self.store.clear()?;
            self.must_clear = false;
        }
        while let Some(name) = self.unsaved.last() {
            if let Some(history) = self.cached(name) {
                self.store.save(&history)?;
            }
            self.unsaved.pop();
        }
        self.shrink();
        Ok(())
    }

    /// What was known when the change `id` was written.
    pub fn at(&self, id: i64) -> SchemaAt<'_> {
        SchemaAt { history: self, id }
    }

    /// Tables that are held in memory.
    pub fn cached_tables(&self) -> usize {
        self.tables.borrow().len()
    }

    fn cached(&self, name: &TableName) -> Option<Rc<TableHistory>> {
        self.tables.borrow().get(name).cloned().flatten()
    }

    fn table(&self, name: &TableName) -> Option<Rc<TableHistory>> {
        if let Some(known) = self.tables.borrow().get(name) {
            return known.clone();
        }
        if self.must_clear {
            return None;
        }
        // If the store fails, nothing is known, which is safe.
        let stored = self.store.load(name).ok().flatten().map(Rc::new);
        self.tables
            .borrow_mut()
            .insert(name.clone(), stored.clone());
        stored
    }

    /// Makes room in memory, once everything is saved.
    fn shrink(&self) {
        let mut tables = self.tables.borrow_mut();
        if tables.len() >= MAX_CACHED_TABLES && self.unsaved.is_empty() {
            tables.clear();
        }
    }
}

impl Shape {
    fn new(since: i64, relation: &DescribedRelation) -> Self {
        let owned = |names: &[Rc<str>]| names.iter().map(|name| (**name).to_owned()).collect();
        Self {
            since,
            numbers: owned(&relation.numbers),
            keys: owned(&relation.keys),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        (&self.numbers, &self.keys) == (&other.numbers, &other.keys)
    }
}

impl TableHistory {
    /// The table.
    pub fn name(&self) -> TableName {
        TableName {
            schema: self.schema.clone(),
            table: self.table.clone(),
        }
    }

    /// False when the table is as it was.
    fn add(&mut self, shape: Shape) -> bool {
        if self.shapes.last().is_some_and(|last| last.is_like(&shape)) {
            return false;
        }
        // No change came between the two.
        self.shapes.retain(|known| known.since < shape.since);
        self.shapes.push(shape);
        let surplus = self.shapes.len().saturating_sub(MAX_SHAPES);
        self.shapes.drain(..surplus);
        true
    }

    fn shape_at(&self, id: i64) -> Option<&Shape> {
        self.shapes.iter().rfind(|shape| shape.since <= id)
    }
}

impl SchemaAt<'_> {
    /// Whether the column was numeric; `None` if unknown.
    pub(super) fn is_number(self, table: &TableName, column: &str) -> Option<bool> {
        self.with_shape(table, |shape| has(&shape.numbers, column))
    }

    /// Whether an update without an old row certainly left the column unchanged.
    pub(super) fn is_key(self, table: &TableName, column: &str) -> bool {
        self.with_shape(table, |shape| has(&shape.keys, column))
            .unwrap_or_default()
    }

    fn with_shape<T>(self, table: &TableName, read: impl FnOnce(&Shape) -> T) -> Option<T> {
        let through = self.history.through?;
        if self.id > through.id {
            return None;
        }
        self.history.shrink();
        let history = self.history.table(table)?;
        history.shape_at(self.id).map(read)
    }
}

fn has(names: &[String], column: &str) -> bool {
    names.iter().any(|name| name == column)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Category, Error};

    #[derive(Clone, Default)]
    struct Store {
        saved: Rc<RefCell<HashMap<TableName, TableHistory>>>,
        loads: Rc<Cell<usize>>,
        is_broken: Rc<Cell<bool>>,
    }

    impl Store {
        fn check(&self) -> Result<()> {
            if self.is_broken.get() {
                return Err(Error::new(Category::Storage, "broken", "broken"));
            }
            Ok(())
        }
    }

    impl SchemaStore for Store {
        fn load(&self, table: &TableName) -> Result<Option<TableHistory>> {
            self.loads.set(self.loads.get() + 1);
            Ok(self.saved.borrow().get(table).cloned())
        }

        fn save(&self, history: &TableHistory) -> Result<()> {
            self.check()?;
            self.saved
                .borrow_mut()
                .insert(history.name(), history.clone());
            Ok(())
        }

        fn clear(&self) -> Result<()> {
            self.check()?;
            self.saved.borrow_mut().clear();
            Ok(())
        }
    }

    fn at(id: i64) -> Position {
        Position { epoch: 1, id }
    }

    fn partition(number: usize) -> DescribedRelation {
        DescribedRelation {
            schema: "public".into(),
            table: format!("p{number}").into(),
            numbers: vec!["n".into()],
            keys: vec!["id".into()],
        }
    }

    #[test]
    fn a_hundred_thousand_partitions_are_neither_held_in_memory_nor_read_at_the_start() {
        let store = Store::default();
        let mut history = SchemaHistory::new(Box::new(store.clone()), Some(at(0)));
        for batch in 0..1_000 {
            let tables: Vec<_> = (batch * 100..(batch + 1) * 100).collect();
            let after = i64::try_from(batch * 100).unwrap();
            add(&mut history, (after, after + 100), &tables);
            history.save().unwrap();
            assert!(history.cached_tables() <= MAX_CACHED_TABLES + 100);
        }
        assert_eq!(store.saved.borrow().len(), 100_000);

        store.loads.set(0);
        let next = SchemaHistory::new(Box::new(store.clone()), Some(at(100_000)));
        assert_eq!(store.loads.get(), 0);
        let table = TableName::parse("p7").unwrap();
        assert_eq!(next.at(50_000).is_number(&table, "n"), Some(true));
        assert_eq!(next.at(50_000).is_number(&table, "n"), Some(true));
        assert_eq!((store.loads.get(), next.cached_tables()), (1, 1));
    }

    fn add(history: &mut SchemaHistory, (after, through): (i64, i64), tables: &[usize]) {
        let relations: Vec<_> = tables
            .iter()
            .map(|table| (after, partition(*table)))
            .collect();
        history.add(&SchemaChanges {
            after: at(after),
            through: at(through),
            relations: &relations,
        });
    }

    #[test]
    fn what_could_not_be_saved_is_saved_with_what_is_described_later() {
        let store = Store::default();
        let mut history = SchemaHistory::new(Box::new(store.clone()), Some(at(0)));
        store.is_broken.set(true);
        add(&mut history, (0, 100), &[1]);
        assert!(history.save().is_err());
        add(&mut history, (100, 200), &[2]);
        assert!(history.save().is_err());
        store.is_broken.set(false);
        add(&mut history, (200, 300), &[]);
        history.save().unwrap();
        assert_eq!(store.saved.borrow().len(), 2);
        // Another reader stored changes: no description holds any longer.
        store.is_broken.set(true);
        add(&mut history, (301, 400), &[]);
        assert!(history.save().is_err());
        store.is_broken.set(false);
        add(&mut history, (400, 500), &[3]);
        history.save().unwrap();
        assert_eq!(store.saved.borrow().len(), 1);
    }

    #[test]
    fn a_hole_in_what_was_followed_forgets_everything() {
        let store = Store::default();
        let mut history = SchemaHistory::new(Box::new(store.clone()), Some(at(0)));
        let relations = [(1, partition(1))];
        let first = SchemaChanges {
            after: at(0),
            through: at(5),
            relations: &relations,
        };
        history.add(&first);
        history.save().unwrap();
        let later = SchemaChanges {
            after: at(7),
            through: at(9),
            relations: &[],
        };
        history.add(&later);
        let table = TableName::parse("p1").unwrap();
        assert_eq!(history.at(3).is_number(&table, "n"), None);
        history.save().unwrap();
        assert!(store.saved.borrow().is_empty());
    }
}
