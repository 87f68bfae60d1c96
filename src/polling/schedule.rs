//! When to poll next, and when to hibernate. Pure: what happened goes in, the next alarm comes out.

use std::time::Duration;

use super::policy::backoff;

/// What the one alarm of the object stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Poll after this long.
    Poll(Duration),
    /// Nobody listens: look at the slot after this long.
    Hibernate(Duration),
}

/// How a series of cycles ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was there is stored; some of it was new.
    Changed,
    /// Nothing was new.
    Idle,
    /// There is more than one event may take: go on at once.
    Unfinished,
    /// Everything that was there is stored, but not every client has got it: go on at once.
    Undelivered,
    /// So many failures in a row (from 1).
    Failed(u32),
}

/// The pace of polling: at once after changes, ever slower while nothing happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    interval: Option<Duration>,
}

/// The pause after changes, and the first of a series that doubles up to `pollInterval`.
const SHORTEST: Duration = Duration::from_millis(20);

impl Pace {
    /// The next alarm.
    pub fn next(
        &mut self,
        outcome: Outcome,
        has_clients: bool,
        poll_interval: Duration,
        hibernation_delay: Duration,
        jitter: f64,
    ) -> Next {
        match outcome {
            Outcome::Unfinished | Outcome::Undelivered => Next::Poll(Duration::ZERO),
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
    fn a_drain_goes_on_whether_anybody_listens_or_not() {
        let mut pace = Pace::default();
        assert_eq!(
            next(&mut pace, Outcome::Unfinished, false),
            Next::Poll(Duration::ZERO)
        );
    }

    #[test]
    fn a_drain_that_clients_have_not_all_got_goes_on_at_once() {
        let mut pace = Pace::default();
        assert_eq!(
            next(&mut pace, Outcome::Undelivered, true),
            Next::Poll(Duration::ZERO)
        );
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let mut pace = Pace::default();
        assert_eq!(
            next(&mut pace, Outcome::Failed(3), true),
            Next::Poll(Duration::from_secs(2))
        );
    }
}
