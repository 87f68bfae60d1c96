//! What is done about an error: a table apart from the errors themselves, driven by category and
//! never by a message's text.

use std::time::Duration;

use crate::error::Category;

/// What is done after a failed cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Try again, ever more slowly.
    Retry,
    /// Nothing but an operator, or the world, can mend it: say so, and look again now and then.
    Halt,
}

/// The policy for errors of `category`.
pub fn policy(category: Category) -> Policy {
    match category {
        Category::Authentication
        | Category::Configuration
        | Category::Permission
        | Category::PublicationMissing
        | Category::SlotMissing
        | Category::SlotLost => Policy::Halt,
        _ => Policy::Retry,
    }
}

const FIRST: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_mins(1);

/// How long to wait after the `failures`th failure in a row (from 1), at most a minute. `jitter`,
/// from 0 to 1, spreads the waits of many feeds over half of that.
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = FIRST.saturating_mul(1 << doublings).min(CAP);
    full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        assert_eq!(backoff(1, 1.0), Duration::from_millis(500));
        assert_eq!(backoff(3, 1.0), Duration::from_secs(2));
        assert_eq!(backoff(1_000, 1.0), Duration::from_mins(1));
    }

    #[test]
    fn jitter_never_takes_more_than_half_of_a_wait() {
        assert_eq!(backoff(3, 0.0), Duration::from_secs(1));
        assert_eq!(backoff(3, 7.0), Duration::from_secs(2));
    }
}
