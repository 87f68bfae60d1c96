//! One lane: whatever reads or writes the feed's database takes its turn here, and who asks for
//! the same errand shares one flight.
//!
//! ```text
//! ask(errand) -> waiting --take_off--> aboard --land--> everybody aboard is told
//!                   ^                    |
//!                   +---- asked for meanwhile: the next flight
//! ```
//!
//! Who asks for a poll while one is under way gets the next: the one under way may have peeked
//! before the caller's write committed. An initialisation under way is joined, since it is
//! idempotent.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;

use crate::clock;
use crate::config::Fields;
use crate::error::{Category, Error};
use crate::polling::Outcome;

/// What a flight came to, shared by all who waited for it.
pub(super) type Landing = Result<Outcome, Rc<Error>>;

/// What a flight is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Errand {
    /// Nobody listens: look after slot and history.
    Look,
    /// Drain the slot. Does for who asked for a look, too.
    Poll,
    /// Apply these fields and make the database ready.
    Initialize(Fields),
}

/// The platform ends every event after 15 minutes, and with it a flight, whose end is then never
/// told.
const LOST_AFTER: Duration = Duration::from_mins(16);

type Passenger = oneshot::Sender<Landing>;

#[derive(Debug)]
struct Flight {
    errand: Option<Errand>,
    number: u64,
    since: u64,
}

#[derive(Debug, Default)]
struct Tower {
    flight: Option<Flight>,
    flights: u64,
    aboard: Vec<Passenger>,
    waiting: Vec<(Errand, Passenger)>,
}

/// The flights of one object.
#[derive(Debug, Default)]
pub(super) struct Flights {
    tower: RefCell<Tower>,
}

/// The right to fly: until it finds nobody waiting, or is taken for lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pilot(u64);

impl Flights {
    /// Books a place on the next flight for `errand`. Who gets a [`Pilot`] must fly it.
    pub(super) fn book(&self, errand: Errand) -> (Option<Pilot>, oneshot::Receiver<Landing>) {
        let (sender, receiver) = oneshot::channel();
        let mut tower = self.tower.borrow_mut();
        let joins = matches!(errand, Errand::Initialize(_))
            && (tower.flight.as_ref())
                .is_some_and(|flight| flight.errand.as_ref() == Some(&errand));
        if joins {
            tower.aboard.push(sender);
        } else {
            tower.waiting.push((errand, sender));
        }
        let now = clock::now_ms();
        let lost =
            |flight: &Flight| u128::from(now.saturating_sub(flight.since)) > LOST_AFTER.as_millis();
        if tower.flight.as_ref().is_some_and(|flight| !lost(flight)) {
            return (None, receiver);
        }
        tower.flights += 1;
        let number = tower.flights;
        // Who was aboard a lost flight hears that its end is not known.
        tower.aboard.clear();
        tower.flight = Some(Flight {
            errand: None,
            number,
            since: now,
        });
        (Some(Pilot(number)), receiver)
    }

    /// The next errand, with everybody aboard who asked for it. `None`, and the pilot's flights
    /// have ended, when nobody waits.
    pub(super) fn take_off(&self, pilot: &Pilot) -> Option<Errand> {
        let mut tower = self.tower.borrow_mut();
        if tower.flight.as_ref()?.number != pilot.0 {
            return None;
        }
        let Some(errand) = most_urgent(&tower.waiting) else {
            tower.flight = None;
            return None;
        };
        let served =
            |asked: &Errand| *asked == errand || (errand == Errand::Poll && *asked == Errand::Look);
        let (aboard, waiting) = std::mem::take(&mut tower.waiting)
            .into_iter()
            .partition(|(asked, _)| served(asked));
        tower.waiting = waiting;
        let aboard: Vec<(Errand, Passenger)> = aboard;
        tower.aboard = aboard.into_iter().map(|(_, passenger)| passenger).collect();
        tower.flight = Some(Flight {
            errand: Some(errand.clone()),
            number: pilot.0,
            since: clock::now_ms(),
        });
        Some(errand)
    }

    /// Tells everybody aboard.
    pub(super) fn land(&self, pilot: &Pilot, landing: &Landing) {
        let mut tower = self.tower.borrow_mut();
        if tower
            .flight
            .as_ref()
            .is_none_or(|flight| flight.number != pilot.0)
        {
            return;
        }
        let aboard = std::mem::take(&mut tower.aboard);
        drop(tower);
        for passenger in aboard {
            // Who has gone away does not mind.
            let _ = passenger.send(landing.clone());
        }
    }

    /// Waits with everybody aboard for the end of the flight under way, when there is one.
    pub(super) fn join(&self) -> Option<oneshot::Receiver<Landing>> {
        let mut tower = self.tower.borrow_mut();
        tower.flight.as_ref()?;
        let (sender, receiver) = oneshot::channel();
        tower.aboard.push(sender);
        Some(receiver)
    }

    /// Somebody waits for the next flight.
    pub(super) fn is_awaited(&self) -> bool {
        !self.tower.borrow().waiting.is_empty()
    }

    /// A flight is under way.
    pub(super) fn is_flying(&self) -> bool {
        self.tower.borrow().flight.is_some()
    }

    /// Somebody waits to initialise: a long drain gives way.
    pub(super) fn must_give_way(&self) -> bool {
        let waiting = &self.tower.borrow().waiting;
        (waiting.iter()).any(|(errand, _)| matches!(errand, Errand::Initialize(_)))
    }
}

fn most_urgent(waiting: &[(Errand, Passenger)]) -> Option<Errand> {
    let urgency = |errand: &Errand| match errand {
        Errand::Initialize(_) => 0,
        Errand::Poll => 1,
        Errand::Look => 2,
    };
    let errands = waiting.iter().map(|(errand, _)| errand);
    errands.min_by_key(|errand| urgency(errand)).cloned()
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

    fn fields(slot: &str) -> Fields {
        [("slot".to_owned(), slot.into())].into_iter().collect()
    }

    #[test]
    fn who_asks_during_a_flight_shares_the_next_one() {
        let flights = Flights::default();
        let (pilot, mut first) = flights.book(Errand::Poll);
        let pilot = pilot.unwrap();
        assert_eq!(flights.take_off(&pilot), Some(Errand::Poll));
        let (none, mut second) = flights.book(Errand::Poll);
        let (also_none, mut third) = flights.book(Errand::Poll);
        assert_eq!((none, also_none), (None, None));
        flights.land(&pilot, &Ok(Outcome::Idle));
        assert!(first.try_recv().unwrap().is_some());
        assert!(second.try_recv().unwrap().is_none());
        assert_eq!(flights.take_off(&pilot), Some(Errand::Poll));
        flights.land(&pilot, &Ok(Outcome::Idle));
        assert!(second.try_recv().unwrap().is_some() && third.try_recv().unwrap().is_some());
        assert_eq!(flights.take_off(&pilot), None);
        assert!(flights.book(Errand::Poll).0.is_some());
    }

    #[test]
    fn a_poll_does_for_a_look_and_an_initialisation_goes_before_both() {
        let flights = Flights::default();
        let (pilot, mut look) = flights.book(Errand::Look);
        let pilot = pilot.unwrap();
        let (_, mut poll) = flights.book(Errand::Poll);
        let _init = flights.book(Errand::Initialize(fields("a")));
        assert!(flights.must_give_way());
        assert_eq!(
            flights.take_off(&pilot),
            Some(Errand::Initialize(fields("a")))
        );
        flights.land(&pilot, &Ok(Outcome::Unfinished));
        assert!(look.try_recv().unwrap().is_none() && !flights.must_give_way());
        assert_eq!(flights.take_off(&pilot), Some(Errand::Poll));
        flights.land(&pilot, &Ok(Outcome::Idle));
        assert!(look.try_recv().unwrap().is_some() && poll.try_recv().unwrap().is_some());
        assert_eq!(flights.take_off(&pilot), None);
    }

    #[test]
    fn the_same_initialisation_is_joined_and_another_waits_for_its_turn() {
        let flights = Flights::default();
        let (pilot, _first) = flights.book(Errand::Initialize(fields("a")));
        let pilot = pilot.unwrap();
        flights.take_off(&pilot);
        let (_, mut same) = flights.book(Errand::Initialize(fields("a")));
        let (_, mut other) = flights.book(Errand::Initialize(fields("b")));
        flights.land(&pilot, &Ok(Outcome::Unfinished));
        assert!(same.try_recv().unwrap().is_some() && other.try_recv().unwrap().is_none());
        assert_eq!(
            flights.take_off(&pilot),
            Some(Errand::Initialize(fields("b")))
        );
    }
}
