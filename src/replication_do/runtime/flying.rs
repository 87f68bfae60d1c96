//! The one lane: polls, looks and initialisations take turns.

use std::rc::Rc;

use super::Runtime;
use crate::config::Fields;
use crate::polling::Expect;
use crate::replication_do::flights::{Errand, Landing, Pilot, arrival};

impl Runtime {
    /// Runs cycles until everything that committed before this call is stored, or the flight's
    /// time is over ([`Outcome::Unfinished`](crate::polling::Outcome::Unfinished)). Calls that
    /// overlap share them.
    pub(in crate::replication_do) async fn poll(self: &Rc<Self>) -> Landing {
        self.config()?;
        self.ask(Errand::Poll).await
    }

    /// As [`Self::poll`], for somebody who has just written.
    pub(in crate::replication_do) async fn nudge(self: &Rc<Self>) -> Landing {
        self.memory.borrow_mut().expect = Expect::Changes;
        self.poll().await
    }

    /// Starts a poll that nobody waits for: its failure is counted where it happens.
    pub(in crate::replication_do) fn start_polling(self: &Rc<Self>) {
        let runtime = Rc::clone(self);
        wasm_bindgen_futures::spawn_local(async move {
            let _ = runtime.poll().await;
        });
    }

    /// Applies the configuration and makes the database ready. Idempotent; calls with the same
    /// fields share one run.
    pub(in crate::replication_do) async fn initialize(self: &Rc<Self>, given: Fields) -> Landing {
        // A wrong field need not wait for its turn.
        self.merge(&given).map_err(Rc::new)?;
        self.ask(Errand::Initialize(given)).await
    }

    pub(super) async fn ask(self: &Rc<Self>, errand: Errand) -> Landing {
        let (pilot, booked) = self.flights.book(errand);
        if let Some(pilot) = pilot {
            // On its own, so that a caller who goes away does not end what others wait for.
            let runtime = Rc::clone(self);
            self.state
                .wait_until(async move { runtime.fly(pilot).await });
        }
        arrival(booked).await
    }

    async fn fly(self: Rc<Self>, pilot: Pilot) {
        while let Some(errand) = self.flights.take_off(&pilot) {
            let landing = match errand {
                Errand::Initialize(fields) => self.make_ready(&fields).await,
                Errand::Poll => self.drain().await,
                Errand::Look => self.look().await,
            };
            self.flights.land(&pilot, &landing.map_err(Rc::new));
        }
    }
}
