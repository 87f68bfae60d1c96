//! Single flight: one series of cycles at a time, shared by everybody who asks for one.
//!
//! Who asks while one is under way gets the next: the one under way may have peeked before the
//! caller's write committed.

use std::cell::RefCell;
use std::rc::Rc;

use futures_channel::oneshot;

use crate::error::{Category, Error};

/// What a flight came to, shared by all who waited for it.
pub(super) type Landing = Result<(), Rc<Error>>;

#[derive(Debug, Default)]
struct Tower {
    flying: bool,
    /// Waiting for the flight under way.
    aboard: Vec<oneshot::Sender<Landing>>,
    /// Waiting for the flight after it.
    waiting: Vec<oneshot::Sender<Landing>>,
}

/// The flights of one object.
#[derive(Debug, Default)]
pub(super) struct Flights {
    tower: RefCell<Tower>,
}

impl Flights {
    /// Books a place on the next flight. True when the caller must fly it.
    pub(super) fn book(&self) -> (bool, oneshot::Receiver<Landing>) {
        let (sender, receiver) = oneshot::channel();
        let mut tower = self.tower.borrow_mut();
        tower.waiting.push(sender);
        let must_fly = !tower.flying;
        tower.flying = true;
        (must_fly, receiver)
    }

    /// Boards everybody who waits. False, and the flights have ended, when nobody does.
    pub(super) fn take_off(&self) -> bool {
        let mut tower = self.tower.borrow_mut();
        tower.aboard = std::mem::take(&mut tower.waiting);
        tower.flying = !tower.aboard.is_empty();
        tower.flying
    }

    /// Tells everybody aboard.
    pub(super) fn land(&self, landing: &Landing) {
        let aboard = std::mem::take(&mut self.tower.borrow_mut().aboard);
        for passenger in aboard {
            // Who has gone away does not mind.
            let _ = passenger.send(landing.clone());
        }
    }
}

/// Waits for a booked flight.
pub(super) async fn arrival(booked: oneshot::Receiver<Landing>) -> Landing {
    booked.await.unwrap_or_else(|oneshot::Canceled| {
        let message = "the object was restarted while it polled";
        Err(Rc::new(Error::new(Category::Timeout, "restarted", message)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_during_a_flight_shares_the_next_one() {
        let flights = Flights::default();
        let (first_flies, mut first) = flights.book();
        assert!(first_flies && flights.take_off());
        let (second_flies, mut second) = flights.book();
        let (third_flies, mut third) = flights.book();
        assert!(!second_flies && !third_flies);
        flights.land(&Ok(()));
        assert!(first.try_recv().unwrap().is_some());
        assert!(second.try_recv().unwrap().is_none());
        assert!(flights.take_off());
        flights.land(&Ok(()));
        assert!(second.try_recv().unwrap().is_some() && third.try_recv().unwrap().is_some());
        assert!(!flights.take_off());
        assert!(flights.book().0);
    }
}
