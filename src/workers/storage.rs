//! The object's own storage: a table of JSON values by key. Reads and writes are synchronous
//! (Durable Objects documentation, "SQL API"), so nothing can interleave with them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use worker::{SqlStorage, SqlStorageValue};

use crate::error::{Category, Error, Result};

/// JSON values by key. Numbers above 2^53 must be strings, since JavaScript would round them.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    sql: SqlStorage,
}

#[derive(serde::Deserialize)]
struct Stored {
    value: String,
}

impl Storage {
    pub(crate) fn new(state: &worker::State) -> Self {
        Self {
            sql: state.storage().sql(),
        }
    }

    /// Creates the table. Called once whenever the object starts, before anything else.
    pub(crate) fn prepare(&self) -> Result<()> {
        let table = "CREATE TABLE IF NOT EXISTS feed (key TEXT PRIMARY KEY, value TEXT NOT NULL)";
        self.sql
            .exec(table, None)
            .map(drop)
            .map_err(|cause| failed(&cause))
    }

    /// The value of `key`; `None` if there is none or if it does not deserialise as a `T`.
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let select = "SELECT value FROM feed WHERE key = ?";
        let rows = self
            .sql
            .exec(select, vec![SqlStorageValue::from(key)])
            .map_err(|cause| failed(&cause))?;
        let rows: Vec<Stored> = rows.to_array().map_err(|cause| failed(&cause))?;
        Ok(rows
            .first()
            .and_then(|row| serde_json::from_str(&row.value).ok()))
    }

    /// The values of all keys that begin with `prefix`, except those that do not deserialise as a
    /// `T`.
    pub(crate) fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>> {
        let select = "SELECT value FROM feed WHERE substr(key, 1, length(?1)) = ?1 ORDER BY key";
        let rows = self
            .sql
            .exec(select, vec![SqlStorageValue::from(prefix)])
            .map_err(|cause| failed(&cause))?;
        let rows: Vec<Stored> = rows.to_array().map_err(|cause| failed(&cause))?;
        let values = rows.iter().map(|row| serde_json::from_str(&row.value));
        Ok(values.filter_map(std::result::Result::ok).collect())
    }

    /// Removes `key`.
    pub(crate) fn delete(&self, key: &str) -> Result<()> {
        let delete = "DELETE FROM feed WHERE key = ?";
        let deleted = self.sql.exec(delete, vec![SqlStorageValue::from(key)]);
        deleted.map(drop).map_err(|cause| failed(&cause))
    }

    /// How many keys begin with `prefix`.
    pub(crate) fn count(&self, prefix: &str) -> Result<u64> {
        #[derive(serde::Deserialize)]
        struct Count {
            count: u64,
        }
        let select = "SELECT count(*) AS count FROM feed WHERE substr(key, 1, length(?1)) = ?1";
        let params = vec![SqlStorageValue::from(prefix)];
        let rows = self
            .sql
            .exec(select, params)
            .map_err(|cause| failed(&cause))?;
        let rows: Vec<Count> = rows.to_array().map_err(|cause| failed(&cause))?;
        Ok(rows.first().map_or(0, |row| row.count))
    }

    /// Removes all keys that begin with `prefix`.
    pub(crate) fn delete_all(&self, prefix: &str) -> Result<()> {
        let delete = "DELETE FROM feed WHERE substr(key, 1, length(?1)) = ?1";
        let deleted = self.sql.exec(delete, vec![SqlStorageValue::from(prefix)]);
        deleted.map(drop).map_err(|cause| failed(&cause))
    }

    /// Removes the `count` keys that begin with `prefix` and were put first.
    pub(crate) fn delete_oldest(&self, prefix: &str, count: u64) -> Result<()> {
        let delete = "DELETE FROM feed WHERE rowid IN (SELECT rowid FROM feed \
                      WHERE substr(key, 1, length(?1)) = ?1 ORDER BY rowid LIMIT ?2)";
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let params = vec![SqlStorageValue::from(prefix), SqlStorageValue::from(count)];
        let deleted = self.sql.exec(delete, params);
        deleted.map(drop).map_err(|cause| failed(&cause))
    }

    /// Writes the value of `key`.
    pub(crate) fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<()> {
        let text = serde_json::to_string(value).map_err(|cause| {
            Error::new(
                Category::Storage,
                "object_storage",
                "a value cannot be serialised as JSON",
            )
            .with_source(cause)
        })?;
        let upsert = "INSERT INTO feed (key, value) VALUES (?, ?) \
                      ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        let params = vec![SqlStorageValue::from(key), SqlStorageValue::from(text)];
        self.sql
            .exec(upsert, params)
            .map(drop)
            .map_err(|cause| failed(&cause))
    }
}

fn failed(cause: &worker::Error) -> Error {
    Error::new(
        Category::Storage,
        "object_storage",
        format!("the object's storage failed: {cause}"),
    )
}
