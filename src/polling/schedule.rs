//! When to poll next and when to hibernate. Pure: takes the outcome, returns the next alarm.

use std::time::Duration;

use super::policy::backoff;

/// What the object's one alarm is set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Poll after this long.
    Poll(Duration),
    /// There are no clients: check the slot after this long.
    Hibernate(Duration),
}

/// How a series of cycles ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is stored, and some of it was new.
    Changed,
    /// Nothing was new.
    Idle,
    /// There is more to store than one event has time for: go on at once.
    Unfinished,
    /// The number of failures in a row (counted from 1).
    Failed(u32),
}

/// The pace of polling: fast after changes, ever slower while nothing happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    interval: Option<Duration>,
}

/// The pause after changes, and the first of a series that doubles up to `pollInterval`.
const SHORTEST: Duration = Duration::from_millis(20);

impl Pace {
    /// The alarm after `outcome`. `jitter` is as for [`backoff`].
    pub fn next(
        &mut self,
        outcome: Outcome,
        has_clients: bool,
        poll_interval: Duration,
        hibernation_delay: Duration,
        jitter: f64,
    ) -> Next {
        match outcome {
            Outcome::Unfinished => Next::Poll(Duration::ZERO),
            Outcome::Failed(failures) => Next::Poll(backoff(failures, jitter)),
            Outcome::Changed | Outcome::Idle if !has_clients => {
                self.interval = None;
                Next::Hibernate(hibernation_delay)
            }
            Outcome::Changed => {
                self.interval = Some(SHORTEST);
                Next::Poll(SHORTEST.min(poll_interval))
            }
            Outcome::Idle => {
                let doubled = self.interval.map_or(SHORTEST, |interval| interval * 2);
                let interval = doubled.min(poll_interval);
                self.interval = Some(interval);
                Next::Poll(interval)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);
    const DELAY: Duration = Duration::from_mins(1);

    fn next(pace: &mut Pace, outcome: Outcome, has_clients: bool) -> Next {
        pace.next(outcome, has_clients, INTERVAL, DELAY, 1.0)
    }

    #[test]
    fn polls_slow_down_to_the_interval_while_nothing_happens() {
        let mut pace = Pace::default();
        assert_eq!(
            next(&mut pace, Outcome::Changed, true),
            Next::Poll(SHORTEST)
        );
        assert_eq!(
            next(&mut pace, Outcome::Idle, true),
            Next::Poll(SHORTEST * 2)
        );
        for _ in 0..10 {
            next(&mut pace, Outcome::Idle, true);
        }
        assert_eq!(next(&mut pace, Outcome::Idle, true), Next::Poll(INTERVAL));
    }

    #[test]
    fn without_clients_a_drained_feed_hibernates() {
        let mut pace = Pace::default();
        assert_eq!(
            next(&mut pace, Outcome::Idle, false),
            Next::Hibernate(DELAY)
        );
        assert_eq!(
            next(&mut pace, Outcome::Changed, false),
            Next::Hibernate(DELAY)
        );
    }

    #[test]
    fn a_drain_goes_on_with_or_without_clients() {
        let mut pace = Pace::default();
        assert_eq!(
            next(&mut pace, Outcome::Unfinished, false),
            Next::Poll(Duration::ZERO)
        );
    }

    #[test]
    fn pauses_after_failures_grow() {
        let mut pace = Pace::default();
        assert_eq!(
            next(&mut pace, Outcome::Failed(3), true),
            Next::Poll(Duration::from_secs(2))
        );
    }
}
