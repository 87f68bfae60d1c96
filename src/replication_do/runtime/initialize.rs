//! `POST /init` in the object: from fields to a feed that polls.

use std::time::Duration;

use super::Runtime;
use super::persisted::{CONFIG, HEALTH, HIBERNATING};
use crate::config::{Fields, ReplicationConfig};
use crate::error::Result;
use crate::polling::Outcome;
use crate::state;
use crate::workers::{database, log};

impl Runtime {
    /// Prepares the database for the configuration that results from `given`, and applies it.
    ///
    /// On an error the feed continues unchanged.
    pub(super) async fn make_ready(&self, given: &Fields) -> Result<Outcome> {
        self.memory.borrow_mut().initializing = true;
        let ready = self.try_make_ready(given).await;
        self.memory.borrow_mut().initializing = false;
        if let Err(error) = &ready {
            log::error("initialize_failed", error);
            let mut memory = self.memory.borrow_mut();
            memory.health.count(error);
            self.persist(HEALTH, &memory.health);
            return ready;
        }
        // The alarm makes the first poll: it fires even if the object is evicted before.
        self.set_alarm(Some(Duration::ZERO)).await;
        ready
    }

    async fn try_make_ready(&self, given: &Fields) -> Result<Outcome> {
        let (fields, config) = self.merge(given)?;
        self.prepare_database(&config).await?;
        self.storage.put(CONFIG, &fields)?;
        self.close_connection().await;
        let mut memory = self.memory.borrow_mut();
        log::event("initialized", serde_json::json!({"slot": config.slot}));
        memory.config = Some(config);
        memory.config_error = None;
        memory.cycle = None;
        memory.maintenance_is_due = true;
        memory.hibernating = false;
        memory.health.resume();
        self.persist(HEALTH, &memory.health);
        self.persist(HIBERNATING, &false);
        Ok(Outcome::Unfinished)
    }

    async fn prepare_database(&self, config: &ReplicationConfig) -> Result<()> {
        let mut connection = database::connect(&self.env).await?;
        let known_epoch = self.with(|memory| memory.position.map_or(0, |known| known.epoch));
        let ready = state::initialize_after_epoch(&mut connection, config, known_epoch).await;
        connection.close().await;
        ready
    }
}
