//! How the feed reacts to an error. A table apart from the errors themselves, driven by category
//! and SQLSTATE, never by the text of a message.

use std::time::Duration;

use crate::error::{Category, Error};
use crate::postgres::SqlState;

/// What happens after a failed cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Try again, with growing pauses.
    Retry,
    /// Something in the database is missing or was replaced: check all of it again at once. If that
    /// fails in the same way, halt.
    Recover,
    /// Only an operator, or a change outside, can fix it: report it, and check again now and then.
    Halt,
}

/// SQLSTATEs which say that one of the system's own tables is missing or is not what it was.
const OWN_TABLES_MISSING: [SqlState; 3] = [
    SqlState::UNDEFINED_TABLE,
    SqlState::UNDEFINED_COLUMN,
    SqlState::INVALID_SCHEMA_NAME,
];

/// The policy for an error, by its category, and by its SQLSTATE where the category is too coarse
/// (PostgreSQL documentation, appendix A).
pub fn policy(error: &Error) -> Policy {
    match error.category() {
        Category::SlotMissing | Category::SlotLost | Category::PublicationMissing => {
            Policy::Recover
        }
        Category::Query
            if OWN_TABLES_MISSING
                .iter()
                .any(|state| error.sqlstate() == Some(state.as_str())) =>
        {
            Policy::Recover
        }
        Category::Authentication | Category::Configuration | Category::Permission => Policy::Halt,
        _ => Policy::Retry,
    }
}

const FIRST: Duration = Duration::from_millis(500);
const CAP: Duration = Duration::from_mins(1);

/// The pause after the `failures`th failure in a row (counted from 1), at most a minute. `jitter`,
/// from 0 to 1, spreads the pauses of many feeds over the upper half of that.
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = FIRST.saturating_mul(1 << doublings).min(CAP);
    full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_objects_are_looked_for_again_and_refusals_halt() {
        let error = |category| Error::new(category, "code", "message");
        for (error, expected) in [
            (error(Category::SlotMissing), Policy::Recover),
            (
                error(Category::Query).with_sqlstate("42P01"),
                Policy::Recover,
            ),
            (error(Category::Query).with_sqlstate("53100"), Policy::Retry),
            (error(Category::Query), Policy::Retry),
            (error(Category::SlotInUse), Policy::Retry),
            (error(Category::Connection), Policy::Retry),
            (error(Category::Authentication), Policy::Halt),
        ] {
            assert_eq!(policy(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        assert_eq!(backoff(1, 1.0), Duration::from_millis(500));
        assert_eq!(backoff(3, 1.0), Duration::from_secs(2));
        assert_eq!(backoff(1_000, 1.0), Duration::from_mins(1));
    }

    #[test]
    fn jitter_shortens_a_pause_by_half_at_most() {
        assert_eq!(backoff(3, 0.0), Duration::from_secs(1));
        assert_eq!(backoff(3, 7.0), Duration::from_secs(2));
    }
}
