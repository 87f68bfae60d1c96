//! What is done about an error: a table apart from the errors themselves, driven by category and
//! never by a message's text.

use std::time::Duration;

use crate::error::{Category, Error};

/// What is done after a failed cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Try again, ever more slowly.
    Retry,
    /// Something in the database is gone or was replaced: look at all of it again at once. When
    /// that finds the same, halt.
    Recover,
    /// Nothing but an operator, or the world, can mend it: say so, and look again now and then.
    Halt,
}

/// The policy for an error: by its category, and where that is too coarse by Postgres's error code
/// (PostgreSQL documentation, appendix A). Never by a message's text.
pub fn policy(error: &Error) -> Policy {
    match (error.category(), error.sqlstate()) {
        (Category::SlotMissing | Category::SlotLost | Category::PublicationMissing, _)
        // undefined_table, undefined_column, invalid_schema_name: the system's own tables.
        | (Category::Query, Some("42P01" | "42703" | "3F000")) => Policy::Recover,
        (Category::Authentication | Category::Configuration | Category::Permission, _) => {
            Policy::Halt
        }
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
    fn what_is_gone_is_looked_for_and_what_is_forbidden_halts() {
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
