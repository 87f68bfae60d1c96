//! State that survives eviction, and how it is written.

use std::rc::Rc;

use serde::Serialize;

use super::Runtime;
use crate::config::{Fields, ReplicationConfig};
use crate::error::Result;
use crate::workers::{log, variables};

pub(super) const CONFIG: &str = "config";
pub(super) const HEALTH: &str = "health";
pub(super) const POSITION: &str = "position";
pub(super) const INITIAL_POLL_AT: &str = "initialPollAt";
pub(super) const HIBERNATING: &str = "hibernating";
/// The name differs because deployed objects have stored it under this one.
pub(super) const SLOT_HEALTH: &str = "vitals";

impl Runtime {
    /// Reads what the object knew before it was evicted.
    pub(super) fn load(&self) -> Result<()> {
        self.storage.prepare()?;
        let mut memory = self.memory.borrow_mut();
        memory.health = self.storage.get(HEALTH)?.unwrap_or_default();
        memory.position = self.storage.get(POSITION)?;
        let followed_to = memory.position.map(|known| known.of_clients());
        self.hub.load(followed_to)?;
        memory.initial_poll_at = self.storage.get(INITIAL_POLL_AT)?;
        memory.hibernating = self.storage.get(HIBERNATING)?.unwrap_or_default();
        memory.slot_health = self.storage.get(SLOT_HEALTH)?;
        let Some(fields) = self.storage.get::<Fields>(CONFIG)? else {
            return Ok(());
        };
        match ReplicationConfig::from_fields(&variables::fields(&self.env), &fields) {
            Ok(config) => memory.config = Some(config),
            Err(error) => {
                // A deployment set a variable to an invalid value.
                log::error("config_invalid", &error);
                memory.health.halt(&error);
                memory.config_error = Some(Rc::new(error));
            }
        }
        Ok(())
    }

    /// The configuration that results from `given`, then earlier given fields, then the variables.
    pub(super) fn merge(&self, given: &Fields) -> Result<(Fields, ReplicationConfig)> {
        let mut fields: Fields = self.storage.get(CONFIG)?.unwrap_or_default();
        fields.extend(given.clone());
        fields.retain(|_, value| !value.is_null());
        let config = ReplicationConfig::from_fields(&variables::fields(&self.env), &fields)?;
        Ok((fields, config))
    }

    /// Persists `value`. On failure it is still in memory until the object is evicted, so the
    /// failure is only logged.
    pub(super) fn persist<T: Serialize>(&self, key: &str, value: &T) {
        if let Err(error) = self.storage.put(key, value) {
            log::error("storage_failed", &error);
        }
    }
}
