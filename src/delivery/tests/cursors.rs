use proptest::prelude::*;

use crate::clients::{Position, ResetReason, Start};
use crate::delivery::{AckError, Cursor, Extent, Flow, NoPosition, PROGRESS_INTERVAL_MS, Step};

const EXTENT: Extent = Extent {
    epoch: 1,
    oldest: 11,
    head: 100,
};

fn at(id: i64) -> Position {
    Position { epoch: 1, id }
}

fn extent_to(head: i64) -> Extent {
    Extent { head, ..EXTENT }
}

fn read(after: i64, through: i64, catch_up: bool) -> Step {
    Step::Read {
        after,
        through,
        catch_up,
    }
}

fn flow(window: Option<u64>) -> Flow {
    window.map_or(Flow::Answered, Flow::Waits)
}

/// A cursor that stands at the head, live.
fn live(window: Option<u64>) -> Cursor {
    let mut cursor = Cursor::new(Start::Now, flow(window));
    assert_eq!(cursor.step(EXTENT, 0), Step::Welcome(at(100)));
    assert_eq!(cursor.step(EXTENT, 0), Step::CaughtUp(at(100)));
    assert_eq!(cursor.step(EXTENT, 0), Step::Wait);
    cursor
}

#[test]
fn a_client_is_welcomed_where_it_asked_to_begin() {
    for (start, position) in [
        (Start::Now, at(100)),
        (Start::Earliest, at(10)),
        (Start::After(at(10)), at(10)),
        (Start::After(at(50)), at(50)),
        (Start::After(at(100)), at(100)),
    ] {
        let mut cursor = Cursor::new(start, flow(None));
        assert_eq!(cursor.position(), None);
        assert_eq!(cursor.step(EXTENT, 0), Step::Welcome(position), "{start:?}");
        assert_eq!(cursor.position(), Some(position));
    }
}

#[test]
fn a_position_that_cannot_be_resumed_from_is_reset_at_once() {
    let other_epoch = |epoch| Position { epoch, id: 50 };
    for (position, reason) in [
        (at(9), ResetReason::TooOld),
        (at(0), ResetReason::TooOld),
        (at(101), ResetReason::EpochChanged),
        (other_epoch(0), ResetReason::EpochChanged),
        (other_epoch(2), ResetReason::EpochChanged),
        (at(i64::MAX), ResetReason::EpochChanged),
    ] {
        let mut cursor = Cursor::new(Start::After(position), flow(None));
        assert_eq!(cursor.step(EXTENT, 0), Step::Reset(reason), "{position}");
        assert_eq!(cursor.step(EXTENT, 0), Step::Wait, "only once");
    }
}

#[test]
fn an_empty_history_is_caught_up_with_at_once() {
    let empty = Extent {
        epoch: 1,
        oldest: 1,
        head: 0,
    };
    for start in [Start::Now, Start::Earliest, Start::After(at(0))] {
        let mut cursor = Cursor::new(start, flow(None));
        assert_eq!(cursor.step(empty, 0), Step::Welcome(at(0)));
        assert_eq!(cursor.step(empty, 0), Step::CaughtUp(at(0)));
        assert_eq!(cursor.step(empty, 0), Step::Wait);
    }
}

#[test]
fn catching_up_reads_to_the_head_then_says_so_then_reads_live() {
    let mut cursor = Cursor::new(Start::After(at(50)), flow(None));
    cursor.step(EXTENT, 0);
    assert_eq!(cursor.step(EXTENT, 0), read(50, 100, true));
    cursor.sent(70, 1_000, 0);
    assert!(!cursor.is_live());
    assert_eq!(cursor.step(EXTENT, 0), read(70, 100, true));
    cursor.read_through(100);
    assert_eq!(cursor.step(EXTENT, 0), Step::CaughtUp(at(100)));
    assert!(cursor.is_live() && cursor.is_settled(at(100)) && !cursor.is_settled(at(101)));
    assert_eq!(cursor.step(extent_to(103), 0), read(100, 103, false));
    cursor.sent(103, 10, 0);
    assert_eq!(cursor.step(extent_to(103), 0), Step::Wait);
}

#[test]
fn a_client_without_matches_gets_progress_once_a_second() {
    let mut cursor = live(None);
    cursor.read_through(101);
    assert_eq!(
        cursor.step(extent_to(101), PROGRESS_INTERVAL_MS - 1),
        Step::WaitUntil(PROGRESS_INTERVAL_MS)
    );
    assert!(!cursor.is_settled(at(101)));
    assert_eq!(
        cursor.step(extent_to(101), PROGRESS_INTERVAL_MS),
        Step::Progress(at(101))
    );
    assert!(cursor.is_settled(at(101)));
    assert_eq!(cursor.step(extent_to(101), u64::MAX), Step::Wait);
}

#[test]
fn a_client_that_does_not_acknowledge_is_sent_no_more_until_it_does() {
    let mut cursor = live(Some(1_000));
    cursor.sent(101, 600, 0);
    assert_eq!(cursor.step(extent_to(103), 0), read(101, 103, false));
    cursor.sent(102, 600, 0);
    assert_eq!(cursor.unacknowledged(), Some(1_200));
    assert_eq!(cursor.step(extent_to(103), 0), Step::WaitForAck);
    assert_eq!(
        cursor.acknowledge(at(100), 0),
        Ok(()),
        "an old one frees nothing"
    );
    assert_eq!(cursor.step(extent_to(103), 0), Step::WaitForAck);
    assert_eq!(cursor.acknowledge(at(101), 0), Ok(()));
    assert_eq!(
        cursor.step(extent_to(103), 0),
        read(102, 103, true),
        "behind: catch-up"
    );
    cursor.sent(103, 1, 0);
    assert_eq!(cursor.step(extent_to(103), 0), Step::CaughtUp(at(103)));
}

#[test]
fn an_unacknowledging_client_must_reconnect_at_its_limit() {
    let live = || {
        let mut cursor = Cursor::new(Start::Now, Flow::Reconnects(1_000));
        while cursor.step(EXTENT, 0) != Step::Wait {}
        cursor
    };
    let mut cursor = live();
    cursor.sent(101, 600, 0);
    assert_eq!(cursor.step(extent_to(103), 0), read(101, 103, false));
    cursor.sent(102, 600, 0);
    assert_eq!(cursor.step(extent_to(102), 0), Step::Wait, "nothing is due");
    assert!(!cursor.has_room());
    // Neither a new subscription nor an eviction shows what was read.
    assert_eq!(cursor.restart(Some(Start::After(at(50)))), Ok(()));
    let kept = serde_json::to_string(&cursor).unwrap();
    cursor = serde_json::from_str(&kept).unwrap();
    assert_eq!(cursor.step(extent_to(103), 0), Step::Welcome(at(50)));
    assert_eq!(cursor.step(extent_to(103), 0), Step::Reconnect);
    let mut polite = live();
    polite.sent(101, 1_200, 0);
    assert_eq!(polite.acknowledge(at(101), 0), Ok(()));
    assert_eq!(polite.step(extent_to(103), 0), read(101, 103, false));
}

#[test]
fn every_byte_in_flight_counts_however_many_frames_it_is_in() {
    let mut cursor = live(Some(u64::MAX));
    for id in 101..=1_000 {
        cursor.sent(id, 10, 0);
    }
    assert_eq!(cursor.unacknowledged(), Some(9_000));
    cursor.acknowledge(at(110), 0).unwrap();
    assert_eq!(cursor.unacknowledged(), Some(8_900));
    // Merged with the frames after it: it counts until they are acknowledged, too.
    cursor.acknowledge(at(999), 0).unwrap();
    assert_eq!(cursor.unacknowledged(), Some(8_690));
    cursor.acknowledge(at(1_000), 0).unwrap();
    assert_eq!(cursor.unacknowledged(), Some(0));
}

#[test]
fn a_full_window_does_not_keep_a_client_at_the_head_from_being_live() {
    let mut cursor = live(Some(1_000));
    cursor.sent(101, 5_000, 0);
    assert_eq!(cursor.step(extent_to(101), 0), Step::Wait);
    assert!(cursor.is_live());
}

#[test]
fn acknowledgements_of_what_was_not_sent_are_refused() {
    let mut cursor = live(Some(1_000));
    assert_eq!(cursor.acknowledge(at(101), 0), Err(AckError::AheadOfSent));
    let other = Position { epoch: 2, id: 100 };
    assert_eq!(cursor.acknowledge(other, 0), Err(AckError::OtherEpoch));
    let mut new = Cursor::new(Start::Now, flow(Some(1_000)));
    assert_eq!(new.acknowledge(at(1), 0), Err(AckError::AheadOfSent));
}

#[test]
fn a_live_client_whose_changes_were_pruned_is_reset_as_slow() {
    let mut cursor = live(Some(1_000));
    cursor.sent(101, 5_000, 0);
    let pruned = Extent {
        oldest: 103,
        head: 200,
        ..EXTENT
    };
    assert_eq!(
        cursor.step(pruned, 0),
        Step::Reset(ResetReason::SlowConsumer)
    );
    assert_eq!(
        cursor.unacknowledged(),
        Some(5_000),
        "a reset reads nothing"
    );
}

#[test]
fn a_new_epoch_resets_whoever_stands_in_the_old_one() {
    let next = Extent { epoch: 2, ..EXTENT };
    let mut cursor = live(None);
    assert_eq!(cursor.step(next, 0), Step::Reset(ResetReason::EpochChanged));
    assert_eq!(cursor.step(next, 0), Step::Wait);
    assert!(cursor.is_settled(at(100)) && !cursor.is_live());
}

#[test]
fn after_a_reset_a_client_must_say_where_to_begin() {
    let mut cursor = live(None);
    let next = Extent { epoch: 2, ..EXTENT };
    cursor.step(next, 0);
    assert_eq!(cursor.restart(None), Err(NoPosition));
    assert_eq!(cursor.restart(Some(Start::Earliest)), Ok(()));
    let expected = Position { epoch: 2, id: 10 };
    assert_eq!(cursor.step(next, 0), Step::Welcome(expected));
}

#[test]
fn subscribing_again_goes_on_from_where_the_client_stands() {
    let mut cursor = live(Some(1_000));
    cursor.sent(101, 1_500, 0);
    assert_eq!(cursor.restart(None), Ok(()));
    assert_eq!(cursor.restart(None), Ok(()), "twice at once");
    assert_eq!(cursor.step(extent_to(102), 0), Step::Welcome(at(101)));
    assert_eq!(
        cursor.step(extent_to(102), 0),
        Step::WaitForAck,
        "the window stays as it was"
    );
}

#[test]
fn a_window_outlives_new_subscriptions_until_something_is_acknowledged() {
    let mut cursor = live(Some(1_000));
    cursor.sent(101, 1_500, 0);
    for _ in 0..12 {
        assert_eq!(cursor.restart(Some(Start::After(at(50)))), Ok(()));
        assert_eq!(cursor.step(extent_to(101), 0), Step::Welcome(at(50)));
        assert_eq!(cursor.step(extent_to(101), 0), Step::WaitForAck);
    }
    // The welcome came after all of it.
    assert_eq!(cursor.acknowledge(at(50), 0), Ok(()));
    assert_eq!(cursor.step(extent_to(101), 0), read(50, 101, true));
}

#[test]
fn a_window_outlives_a_reset() {
    let mut cursor = live(Some(1_000));
    cursor.sent(101, 1_500, 0);
    let next = Extent { epoch: 2, ..EXTENT };
    assert_eq!(cursor.step(next, 0), Step::Reset(ResetReason::EpochChanged));
    assert_eq!(cursor.restart(Some(Start::Earliest)), Ok(()));
    let begin = Position { epoch: 2, id: 10 };
    assert_eq!(cursor.step(next, 0), Step::Welcome(begin));
    assert_eq!(cursor.step(next, 0), Step::WaitForAck);
    // A late acknowledgement is accepted, and frees the bytes up to it.
    assert_eq!(cursor.acknowledge(at(101), 0), Ok(()));
    assert!(matches!(cursor.step(next, 0), Step::Read { .. }));
}

#[test]
fn late_acks_after_a_reset_are_accepted() {
    let mut cursor = live(Some(1_000));
    cursor.sent(101, 10, 0);
    let next = Extent { epoch: 2, ..EXTENT };
    cursor.step(next, 0);
    assert_eq!(cursor.acknowledge(at(100), 0), Ok(()));
    assert_eq!(cursor.acknowledge(at(101), 0), Ok(()));
    assert_eq!(cursor.unacknowledged(), Some(0));
    assert_eq!(cursor.acknowledge(at(102), 0), Err(AckError::AheadOfSent));
}

#[test]
fn subscribing_again_without_a_position_goes_on_from_what_was_sent_last() {
    let mut cursor = live(None);
    // What the subscription before did not match, the next one may.
    cursor.read_through(102);
    assert_eq!(cursor.restart(None), Ok(()));
    assert_eq!(cursor.step(extent_to(102), 0), Step::Welcome(at(100)));
    assert_eq!(cursor.step(extent_to(102), 0), read(100, 102, true));
}

#[test]
fn a_refused_subscription_keeps_the_position() {
    let mut cursor = live(None);
    cursor.sent(101, 10, 0);
    cursor.restart(None).unwrap();
    cursor.refuse();
    assert_eq!(cursor.step(extent_to(105), 0), Step::Wait);
    assert_eq!(cursor.restart(None), Ok(()));
    assert_eq!(cursor.step(extent_to(105), 0), Step::Welcome(at(101)));
}

/// What happens to a client, and to the feed that it reads.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// Delivery runs. Each frame has this many changes and bytes.
    Pump {
        per_frame: i64,
        bytes: u64,
        matches: bool,
    },
    Stored(i64),
    Pruned(i64),
    Acknowledged {
        behind: i64,
    },
    Resubscribed,
    NewEpoch,
    /// The object was evicted, and the cursor was restored from its attachment.
    Evicted,
    Passed(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1..40_i64, 0..600_u64, prop::bool::weighted(0.8))
            .prop_map(|(per_frame, bytes, matches)| Event::Pump { per_frame, bytes, matches }),
        6 => (0..60_i64).prop_map(Event::Stored),
        2 => (0..60_i64).prop_map(Event::Pruned),
        6 => (0..100_i64).prop_map(|behind| Event::Acknowledged { behind }),
        1 => Just(Event::Resubscribed),
        1 => Just(Event::NewEpoch),
        2 => Just(Event::Evicted),
        2 => (0..2_000_u64).prop_map(Event::Passed),
    ]
}

/// Plays the engine's part, and checks that the cursor's steps make a gapless feed.
struct World {
    cursor: Cursor,
    extent: Extent,
    now: u64,
    limit: u64,
    /// The id that the client has everything up to.
    heard: Option<Position>,
    /// The newest position that it was sent.
    sent: Option<Position>,
    is_reset: bool,
}

impl World {
    fn pump(&mut self, per_frame: i64, bytes: u64, matches: bool) {
        for _ in 0..1_000 {
            match self.cursor.step(self.extent, self.now) {
                Step::Welcome(position) => {
                    assert!(!self.is_reset && position.epoch == self.extent.epoch);
                    let stays = self.sent.is_none_or(|sent| sent == position);
                    assert!(stays, "resumed at {position}, sent {:?}", self.sent);
                    self.heard = Some(position);
                    self.sent = Some(position);
                }
                Step::Read { after, through, .. } => {
                    let unacknowledged = self.cursor.unacknowledged().unwrap();
                    assert!(unacknowledged <= self.limit, "pushed beyond the window");
                    assert_eq!(
                        self.heard,
                        Some(Position {
                            epoch: self.extent.epoch,
                            id: after
                        })
                    );
                    assert!(after < through && through == self.extent.head);
                    assert!(after + 1 >= self.extent.oldest, "reads what is pruned");
                    let to = through.min(after + per_frame);
                    if matches {
                        let bytes = usize::try_from(bytes).unwrap();
                        self.cursor.sent(to, bytes, self.now);
                    } else {
                        self.cursor.read_through(to);
                    }
                    self.heard = Some(Position {
                        epoch: self.extent.epoch,
                        id: to,
                    });
                    if matches {
                        self.sent = self.heard;
                    }
                }
                Step::CaughtUp(position) | Step::Progress(position) => {
                    assert_eq!(Some(position), self.heard);
                    assert_eq!(position.id, self.extent.head);
                    assert!(self.cursor.is_live());
                    self.sent = Some(position);
                }
                Step::Reset(_) => {
                    // What was passed over since may be for another subscription.
                    let lost = self.sent.is_none_or(|sent| {
                        sent.epoch != self.extent.epoch || sent.id + 1 < self.extent.oldest
                    });
                    assert!(lost, "reset although {:?} could be resumed", self.sent);
                    self.is_reset = true;
                    self.heard = None;
                    self.sent = None;
                }
                Step::WaitForAck => {
                    assert!(self.cursor.unacknowledged().unwrap() > self.limit);
                    assert!(self.heard.unwrap().id < self.extent.head);
                    return;
                }
                Step::Reconnect => panic!("it acknowledges"),
                Step::Wait | Step::WaitUntil(_) => {
                    let is_done = self.heard.is_some_and(|heard| heard.id == self.extent.head);
                    assert!(is_done || self.is_reset, "waits at {:?}", self.heard);
                    return;
                }
            }
        }
        panic!("the pump does not come to an end");
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Pump {
                per_frame,
                bytes,
                matches,
            } => self.pump(per_frame, bytes, matches),
            Event::Stored(count) => self.extent.head += count,
            Event::Pruned(count) => {
                self.extent.oldest = (self.extent.oldest + count).min(self.extent.head + 1);
            }
            Event::Acknowledged { behind } => {
                if let Some(heard) = self.heard {
                    let position = Position {
                        id: (heard.id - behind).max(0),
                        ..heard
                    };
                    assert_eq!(self.cursor.acknowledge(position, 0), Ok(()));
                    if behind == 0 {
                        assert_eq!(self.cursor.unacknowledged(), Some(0));
                    }
                }
            }
            Event::Resubscribed => {
                let start = self.is_reset.then_some(Start::Earliest);
                assert_eq!(self.cursor.restart(start), Ok(()));
                self.is_reset = false;
            }
            Event::NewEpoch => self.extent.epoch += 1,
            Event::Evicted => {
                let kept = serde_json::to_string(&self.cursor).unwrap();
                assert!(kept.len() < 3_000, "{} bytes", kept.len());
                self.cursor = serde_json::from_str(&kept).unwrap();
            }
            Event::Passed(milliseconds) => self.now += milliseconds,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_the_client_hears_everything_once_or_is_reset(
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let mut world = World {
            cursor: Cursor::new(Start::Earliest, flow(Some(4_000))),
            extent: Extent { epoch: 1, oldest: 1, head: 0 },
            now: 0,
            limit: 4_000,
            heard: None,
            sent: None,
            is_reset: false,
        };
        for event in events {
            world.happen(event);
        }
        // Once it acknowledges everything, its welcome included, it gets everything.
        for _ in 0..2 {
            if let Some(heard) = world.heard {
                prop_assert_eq!(world.cursor.acknowledge(heard, 0), Ok(()));
            }
            world.pump(i64::MAX / 2, 1, true);
        }
        let is_done = world.heard.is_some_and(|heard| heard.id == world.extent.head);
        prop_assert!(is_done || world.is_reset);
    }
}
