//! How much of the history is read for a consumer at a time, and when to retry after a failure.
//! Pure.

use std::time::Duration;

use crate::clients::MAX_CHANGES_BYTES;
use crate::clock;
use crate::history::MAX_PAGE_CHANGES;
use crate::polling::backoff;

/// Ids that a consumer's first page covers.
const FIRST_IDS: i64 = 20_000;
/// The most ids that a page covers. A page without a match then takes about 100 ms.
const MAX_IDS: i64 = 200_000;
/// A slow page is not shrunk below this many ids: the network may be what is slow.
const MIN_SLOW_IDS: i64 = 1_000;
/// After a page that took less than this, the next one may cover more ids.
const QUICK: Duration = Duration::from_millis(25);
/// After a page that took more than this, the next one covers fewer.
const SLOW: Duration = Duration::from_millis(250);
/// The pace of reading after pages that exceed the target size of a frame.
const BYTES_PER_MS: u64 = 32 << 10;
/// This many connections may be lost in a row before the page is considered the cause.
const MAX_INTERRUPTIONS: u32 = 3;

/// Page pacing of one consumer. Members of a group share pages, and so failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Changes to ask for.
    pub(super) changes: u32,
    /// Ids to cover.
    pub(super) ids: i64,
    failures: u32,
    interruptions: u32,
    retry_at: u64,
}

/// How the next page is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Whole rows.
    Whole,
    /// One row without its large columns, after reading it whole has failed.
    Trimmed,
    /// One row without any columns, after reading it trimmed has failed, too.
    Bare,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            changes: MAX_PAGE_CHANGES,
            ids: FIRST_IDS,
            failures: 0,
            interruptions: 0,
            retry_at: 0,
        }
    }
}

impl Reading {
    /// Whether a page may be read.
    pub(super) fn may_read(&self, now: u64) -> bool {
        self.retry_at <= now
    }

    /// When a page may be read.
    pub(super) fn retry_at(&self) -> u64 {
        self.retry_at
    }

    /// How many pages have failed in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// How to read the next page. A page that fails is made smaller until it is one row; then that
    /// row is read without the columns that may be unreadable.
    pub(super) fn depth(&self) -> Depth {
        match self.failures {
            _ if self.ids > 1 => Depth::Whole,
            0..=LAST_WHOLE => Depth::Whole,
            TRIMMED => Depth::Trimmed,
            _ => Depth::Bare,
        }
    }

    /// A page of `bytes` bytes was sent at `now`. A page beyond the target size of a frame keeps
    /// the object busy, so the next one waits and other consumers get their turn.
    pub(super) fn pace(&mut self, bytes: usize, now: u64) {
        let beyond = u64::try_from(bytes.saturating_sub(MAX_CHANGES_BYTES)).unwrap_or(u64::MAX);
        if beyond > 0 {
            self.retry_at = now.saturating_add(beyond / BYTES_PER_MS);
        }
    }

    /// A page was read. `next_changes`: how many changes fill a page, by this one; `is_range_read`:
    /// it ended with its range of ids, not with its changes or bytes.
    pub(super) fn succeeded(&mut self, next_changes: u32, is_range_read: bool, took: Duration) {
        let was_failing = std::mem::take(&mut self.failures) > 0;
        self.interruptions = 0;
        self.retry_at = 0;
        self.changes = if was_failing {
            next_changes.min(self.changes.saturating_mul(2))
        } else {
            next_changes
        };
        if self.ids < FIRST_IDS || (is_range_read && took < QUICK) {
            self.ids = self.ids.saturating_mul(2).min(MAX_IDS);
        } else if is_range_read && took > SLOW {
            self.ids = (self.ids / 2).max(MIN_SLOW_IDS);
        }
    }

    /// The connection was lost while a page was read. That does not implicate the page unless it
    /// happens repeatedly.
    pub(super) fn interrupted(&mut self, now: u64, jitter: f64) {
        self.interruptions = self.interruptions.saturating_add(1);
        if self.interruptions > MAX_INTERRUPTIONS {
            self.failed(now, jitter);
        }
    }

    /// A page could not be read. The first time a smaller one is tried at once.
    pub(super) fn failed(&mut self, now: u64, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.ids = (self.ids / SHRINK).max(1);
        self.changes = (self.changes / 8).max(1);
        let pause = match self.failures {
            0..=1 => Duration::ZERO,
            failures => backoff(failures - 1, jitter),
        };
        self.retry_at = clock::after(now, pause);
    }
}

/// A failed page's range becomes this many times smaller: a range of [`MAX_IDS`] is one row after
/// [`LAST_WHOLE`] failures.
const SHRINK: i64 = 32;
const LAST_WHOLE: u32 = 4;
const TRIMMED: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_table_is_passed_over_in_growing_steps() {
        let mut reading = Reading::default();
        for _ in 0..10 {
            reading.succeeded(MAX_PAGE_CHANGES, true, Duration::from_millis(5));
        }
        assert_eq!(reading.ids, MAX_IDS);
        reading.succeeded(MAX_PAGE_CHANGES, true, Duration::from_secs(1));
        assert_eq!(reading.ids, MAX_IDS / 2);
    }

    #[test]
    fn a_slow_network_keeps_pages_large_also_after_a_failure() {
        for took in [30, 300].map(Duration::from_millis) {
            let mut reading = Reading::default();
            reading.failed(0, 1.0);
            assert!(reading.ids < MIN_SLOW_IDS);
            for _ in 0..20 {
                reading.succeeded(MAX_PAGE_CHANGES, true, took);
                reading.succeeded(100, false, took);
            }
            assert!(reading.ids >= FIRST_IDS / 2, "{}", reading.ids);
        }
    }

    #[test]
    fn after_a_page_of_one_large_row_the_next_one_waits_and_after_others_it_does_not() {
        let mut reading = Reading::default();
        reading.pace(MAX_CHANGES_BYTES, 1_000);
        assert!(reading.may_read(1_000));
        reading.pace(MAX_CHANGES_BYTES + (4 << 20), 1_000);
        assert!(!reading.may_read(1_127) && reading.may_read(1_128));
    }

    #[test]
    fn a_lost_connection_shrinks_no_page_unless_it_is_lost_repeatedly() {
        let mut reading = Reading::default();
        for _ in 0..MAX_INTERRUPTIONS {
            reading.interrupted(0, 1.0);
        }
        assert_eq!((reading.ids, reading.failures()), (FIRST_IDS, 0));
        reading.interrupted(0, 1.0);
        assert!(reading.ids < FIRST_IDS);
    }

    #[test]
    fn a_failing_page_shrinks_to_one_row_which_is_then_read_without_its_columns() {
        let mut reading = Reading {
            ids: MAX_IDS,
            ..Reading::default()
        };
        let mut depths = Vec::new();
        for _ in 0..7 {
            reading.failed(0, 1.0);
            depths.push((reading.ids, reading.depth()));
        }
        assert_eq!(depths[2].1, Depth::Whole);
        assert_eq!(depths[3], (1, Depth::Whole));
        assert_eq!(depths[4], (1, Depth::Trimmed));
        assert_eq!(depths[5], (1, Depth::Bare));
        assert_eq!(depths[6], (1, Depth::Bare));
    }

    #[test]
    fn a_page_that_fails_again_waits_longer_and_longer() {
        let mut reading = Reading::default();
        reading.failed(0, 1.0);
        assert!(reading.may_read(0));
        reading.failed(0, 1.0);
        assert!(!reading.may_read(499) && reading.may_read(500));
        reading.failed(500, 1.0);
        assert!(!reading.may_read(1_499) && reading.may_read(1_500));
    }
}
