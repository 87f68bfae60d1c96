//! Stores the feed's table descriptions in the object's storage.

use std::cell::Cell;

use crate::clients::{SchemaStore, TableHistory};
use crate::config::TableName;
use crate::error::Result;
use crate::workers::storage::Storage;

const PREFIX: &str = "relation:";
/// The most tables that are kept. Beyond that the one that was described longest ago is deleted,
/// and what depends on it is unknown.
const MAX_TABLES: u64 = 10_000;

/// Stores one value for each table.
pub(super) struct StoredSchemas {
    storage: Storage,
    /// How many are stored; `None` before they were counted.
    count: Cell<Option<u64>>,
}

impl StoredSchemas {
    pub(super) fn new(storage: Storage) -> Self {
        Self {
            storage,
            count: Cell::new(None),
        }
    }
}

impl SchemaStore for StoredSchemas {
    fn load(&self, table: &TableName) -> Result<Option<TableHistory>> {
        self.storage.get(&format!("{PREFIX}{table}"))
    }

    fn save(&self, history: &TableHistory) -> Result<()> {
        let key = format!("{PREFIX}{}", history.name());
        let is_new = self.load(&history.name())?.is_none();
        // Newest last: see `delete_oldest`.
        self.storage.delete(&key)?;
        self.storage.put(&key, history)?;
        let count = match self.count.get() {
            Some(count) => count + u64::from(is_new),
            None => self.storage.count(PREFIX)?,
        };
        self.count.set(Some(count));
        if count > MAX_TABLES {
            self.storage.delete_oldest(PREFIX, count - MAX_TABLES)?;
            self.count.set(None);
        }
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        self.count.set(Some(0));
        self.storage.delete_all(PREFIX)
    }
}
