//! The sink of a registered Sync Durable Object: each frame is one call, and its answer is reported
//! to whoever waits for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use js_sys::JsString;
use serde_json::json;
use worker::Env;

use super::callback;
use crate::clients::{ClientId, ServerMessage};
use crate::clock;
use crate::delivery::{Answer, ConsumerState, Disconnect, RegisteredClient, Target};
use crate::error::Result;
use crate::workers::log;
use crate::workers::storage::Storage;

/// Calls at once: the platform lets six requests of one event wait for an answer (Workers
/// documentation, "Limits", "Simultaneous open connections").
const MAX_AT_ONCE: usize = 6;
/// Calls that are reserved for objects whose last call did not fail: an object that hangs occupies
/// its call for a quarter of a minute.
const RESERVED: usize = 3;
/// A call that takes longer is lost.
const LOST_AFTER: Duration = Duration::from_mins(1);
/// Keys of the registrations.
pub(super) const KEY_PREFIX: &str = "syncDo:";

/// The result of a call.
#[derive(Debug)]
pub(in crate::replication_do) struct Answered {
    pub(super) number: u64,
    pub(super) client: ClientId,
    pub(super) answer: Answer,
}

type Report = Rc<dyn Fn(Answered)>;

/// The calls of one object.
#[derive(Default)]
pub(super) struct Calls {
    /// The clients with a call in flight, and when it began. A client never has two, even if it
    /// registers again meanwhile.
    in_flight: RefCell<BTreeMap<ClientId, u64>>,
    report: RefCell<Option<Report>>,
}

/// One registered object.
pub(super) struct SyncDoSink {
    env: Env,
    storage: Storage,
    calls: Rc<Calls>,
    client: ClientId,
    number: u64,
    target: Target,
}

impl std::fmt::Debug for SyncDoSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncDoSink")
            .field("client", &self.client)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Calls {
    /// From now on `report` is called with each answer.
    pub(super) fn report_to(&self, report: Report) {
        self.report.replace(Some(report));
    }

    /// Calls in flight. One that has not ended by its time-out never will: the platform has ended
    /// the event that waited for it.
    fn count(&self) -> usize {
        let mut in_flight = self.in_flight.borrow_mut();
        in_flight.retain(|_, began| !clock::has_elapsed(*began, LOST_AFTER));
        in_flight.len()
    }

    fn begin(&self, client: &ClientId) {
        let mut in_flight = self.in_flight.borrow_mut();
        in_flight.insert(client.clone(), clock::now_ms());
    }

    fn end(&self, answered: Answered) {
        self.in_flight.borrow_mut().remove(&answered.client);
        let report = self.report.borrow().clone();
        if let Some(report) = report {
            report(answered);
        }
    }
}

impl SyncDoSink {
    pub(super) fn new(
        env: &Env,
        storage: &Storage,
        calls: &Rc<Calls>,
        target: Target,
        state: &ConsumerState,
    ) -> Self {
        Self {
            env: env.clone(),
            storage: storage.clone(),
            calls: Rc::clone(calls),
            client: state.client.clone(),
            number: state.number,
            target,
        }
    }

    /// The object that is called.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Why the object cannot be called, if the binding or the object's id is invalid.
    pub(super) fn check(env: &Env, target: &Target) -> worker::Result<()> {
        callback::stub(env, target).map(drop)
    }

    pub(super) fn capacity(&self) -> usize {
        MAX_AT_ONCE.saturating_sub(self.calls.count())
    }

    /// How many of these are reserved for objects whose last call did not fail.
    pub(super) fn reserved() -> usize {
        RESERVED
    }

    pub(super) fn is_free(&self) -> bool {
        !self.calls.in_flight.borrow().contains_key(&self.client)
    }

    /// Starts a call in the background.
    pub(super) fn call(&self, body: &JsString) -> bool {
        self.calls.begin(&self.client);
        let calls = Rc::clone(&self.calls);
        let stub = callback::stub(&self.env, &self.target);
        let (client, number, body) = (self.client.clone(), self.number, body.clone());
        wasm_bindgen_futures::spawn_local(async move {
            let answer = match stub {
                Ok(stub) => callback::call(&stub, &client, &body).await,
                Err(cause) => Answer::Failed(Rc::new(callback::failed(&cause))),
            };
            calls.end(Answered {
                number,
                client,
                answer,
            });
        });
        true
    }

    /// Sends only messages that the object must answer; the others are informational.
    pub(super) fn tell(&self, message: &ServerMessage<'_>) -> bool {
        match message {
            ServerMessage::Progress { .. } | ServerMessage::Reset { .. } => {
                self.call(&message.to_json().into())
            }
            ServerMessage::Welcome { .. }
            | ServerMessage::Warnings { .. }
            | ServerMessage::CaughtUp { .. }
            | ServerMessage::Error { .. } => true,
        }
    }

    pub(super) fn persist(&self, state: &ConsumerState) -> bool {
        let kept = RegisteredClient::of(&self.target, state);
        let stored = self.storage.put(&key(&self.client), &kept);
        if let Err(error) = &stored {
            log::error("storage_failed", error);
        }
        stored.is_ok()
    }

    /// The registration has ended.
    pub(super) fn disconnect(&self, why: Disconnect) {
        if why == Disconnect::Expired {
            let client = self.client.as_str();
            log::event("sync_do_expired", json!({"client": client}));
        }
        if let Err(error) = forget(&self.storage, &self.client) {
            log::error("storage_failed", &error);
        }
    }
}

/// Removes a registration from the storage.
pub(super) fn forget(storage: &Storage, client: &ClientId) -> Result<()> {
    storage.delete(&key(client))
}

fn key(client: &ClientId) -> String {
    format!("{KEY_PREFIX}{client}")
}
