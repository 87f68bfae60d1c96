//! Finding the commit of a transaction in a cursor that lies far beyond what has been read: the
//! last row that is of the transaction, since the rows of each come without another's between them.
//!
//! The cursor is walked forward in strides until a row is of another transaction, and only the last
//! stride is searched: Postgres walks it back far more slowly.

/// Rows of one stride.
const STRIDE: u64 = 1 << 13;
/// Strides of the first round trip; each that follows has twice as many as the one before it,
const FIRST_STRIDES: u64 = 4;
/// up to so many.
const MAX_STRIDES: u64 = 64;
/// Rows looked at in one round trip within a stride.
const PROBES: u64 = 16;

/// What is known of where the transaction ends, in rows of the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommitSearch {
    /// The last row that is known to be of the transaction.
    inside: u64,
    /// The first one that is known to be of another, or none at all.
    outside: Option<u64>,
    /// Strides of the next round trip.
    strides: u64,
}

impl CommitSearch {
    /// The commit of the transaction that `row` is of comes behind it.
    pub(super) fn after(row: u64) -> Self {
        Self {
            inside: row,
            outside: None,
            strides: FIRST_STRIDES,
        }
    }

    /// The rows to look at next, in ascending order; none when the last row of the transaction was
    /// looked at.
    pub(super) fn next_rows(&mut self) -> Vec<u64> {
        let (count, step, end) = match self.outside {
            None => {
                let strides = self.strides;
                self.strides = (2 * strides).min(MAX_STRIDES);
                (strides, STRIDE, u64::MAX)
            }
            Some(outside) => {
                let between = outside - self.inside - 1;
                (PROBES, between.div_ceil(PROBES).max(1), outside)
            }
        };
        let probes = (1..=count).map(|nth| self.inside + nth * step);
        probes.take_while(|&row| row < end).collect()
    }

    /// A row of the cursor is of the transaction, or is not.
    pub(super) fn record(&mut self, row: u64, is_inside: bool) {
        if is_inside {
            self.inside = self.inside.max(row);
        } else {
            self.outside = Some(self.outside.map_or(row, |outside| outside.min(row)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks for a commit in a cursor, and gives the row where it ends, and the rounds.
    fn search(behind: u64, commit: u64) -> (u64, u32) {
        let mut search = CommitSearch::after(behind);
        let (mut last, mut rounds) = (behind, 0);
        loop {
            let probes = search.next_rows();
            if probes.is_empty() {
                return (last, rounds);
            }
            assert!(probes.is_sorted() && probes.len() <= 64);
            rounds += 1;
            for row in probes {
                search.record(row, row <= commit);
                if row <= commit {
                    last = last.max(row);
                }
            }
        }
    }

    #[test]
    fn the_commit_is_found_wherever_it_is() {
        for distance in (1..20_000).chain([65_536, 1_000_000, 123_456_789]) {
            let (row, rounds) = search(7, 7 + distance);
            assert_eq!(row, 7 + distance);
            let most = 9 + distance / (64 * STRIDE);
            assert!(u64::from(rounds) <= most, "{rounds} rounds for {distance}");
        }
    }

    #[test]
    fn a_cursor_that_ends_before_the_commit_is_told_by_nothing_found() {
        assert_eq!(search(7, 7).0, 7);
    }
}
