//! Writing down where the WebSockets' clients stand, which takes as long as sending to them: a little
//! later, and not all at once, so that what is sent is on its way before.
//!
//! The platform keeps an object in memory that waits for a timer. One that crashes before resumes
//! from an older position, and sends again what came after that.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use worker::State;

use super::Client;
use crate::clock;

/// What is sent in this time is written down once.
const KEEP_AFTER: Duration = Duration::from_secs(1);
/// So many take a millisecond or two.
const KEPT_AT_ONCE: usize = 256;

/// The timer.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    is_set: Rc<Cell<bool>>,
}

impl Keeper {
    /// Sees to it that every client's attachment soon says where the client stands.
    pub(super) fn keep_soon(&self, state: &State, clients: &Rc<RefCell<Vec<Client>>>) {
        if self.is_set.get() || clients.borrow().iter().all(|client| client.is_kept()) {
            return;
        }
        self.is_set.set(true);
        let (is_set, clients) = (Rc::clone(&self.is_set), Rc::clone(clients));
        state.wait_until(async move {
            clock::sleep(KEEP_AFTER).await;
            is_set.set(false);
            let is_unkept = |client: &&Client| !client.is_kept();
            let unkept: Vec<_> = clients.borrow().iter().filter(is_unkept).cloned().collect();
            for some in unkept.chunks(KEPT_AT_ONCE) {
                for client in some {
                    client.keep();
                }
                clock::sleep(Duration::ZERO).await;
            }
        });
    }
}
