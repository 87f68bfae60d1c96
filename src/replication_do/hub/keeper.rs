//! Writing down where the WebSockets' clients stand, which takes as long as sending to them: a little
//! later, and not all at once, so that what is sent is on its way before.
//!
//! The platform keeps an object in memory that waits for a timer. One that crashes before resumes
//! from an older position, and sends again what came after that.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use worker::State;

use super::sockets::Sockets;
use crate::clock;

/// What is sent in this time is written down once,
const KEEP_AFTER: Duration = Duration::from_secs(1);
/// and in so much more for each client, so that writing down takes about a hundredth of the time.
const AFTER_FOR_EACH: Duration = Duration::from_micros(500);
/// So many take a millisecond or two.
const KEPT_AT_ONCE: usize = 256;

/// The timer.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    is_set: Rc<Cell<bool>>,
}

impl Keeper {
    /// Sees to it that every client's attachment soon says where the client stands.
    pub(super) fn keep_soon(&self, state: &State, sockets: &Rc<Sockets>) {
        let clients = sockets.all();
        if self.is_set.get() || clients.iter().all(|client| client.is_kept()) {
            return;
        }
        let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
        let after = KEEP_AFTER.saturating_add(AFTER_FOR_EACH.saturating_mul(count));
        self.is_set.set(true);
        let (is_set, sockets) = (Rc::clone(&self.is_set), Rc::clone(sockets));
        state.wait_until(async move {
            clock::sleep(after).await;
            is_set.set(false);
            let clients = sockets.all();
            let unkept: Vec<_> = clients.iter().filter(|client| !client.is_kept()).collect();
            for some in unkept.chunks(KEPT_AT_ONCE) {
                for client in some {
                    client.keep();
                }
                clock::sleep(Duration::ZERO).await;
            }
        });
    }
}
