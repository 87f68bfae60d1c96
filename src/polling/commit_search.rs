//! Finds the commit of a transaction in a cursor, far beyond what has been read: it is the last row of
//! the transaction, since the rows of a transaction are not interleaved with those of others.
//!
//! The search goes forward in strides until a row belongs to another transaction, and then narrows
//! the last stride down. Postgres moves a cursor backward far more slowly than forward, so the
//! strides bound how far it must go back. Doubling the distance instead took two to four times as
//! long: about a second for a million rows.

/// Rows of one stride.
const STRIDE: u64 = 1 << 13;
/// Strides in the first round trip. Each further one has twice as many,
const FIRST_STRIDES: u64 = 4;
/// up to this number.
const MAX_STRIDES: u64 = 64;
/// Rows that are fetched in one round trip to narrow a stride down.
const PROBES: u64 = 16;

/// What is known of the end of the transaction, in rows of the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommitSearch {
    /// The last row that is known to belong to the transaction.
    inside: u64,
    /// The first row that is known not to, or not to exist.
    outside: Option<u64>,
    /// Strides of the next round trip.
    strides: u64,
}

impl CommitSearch {
    /// Searches for the commit of the transaction that `row` belongs to, which comes after it.
    pub(super) fn after(row: u64) -> Self {
        Self {
            inside: row,
            outside: None,
            strides: FIRST_STRIDES,
        }
    }

    /// The rows to fetch next, in ascending order. None if the last row of the transaction is known.
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
        let rows = (1..=count).map(|nth| self.inside + nth * step);
        rows.take_while(|&row| row < end).collect()
    }

    /// Records whether a row of the cursor belongs to the transaction.
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

    /// Searches for a commit in a cursor. Returns its row and the number of round trips.
    fn search(from: u64, commit: u64) -> (u64, u32) {
        let mut search = CommitSearch::after(from);
        let (mut last, mut rounds) = (from, 0);
        loop {
            let rows = search.next_rows();
            if rows.is_empty() {
                return (last, rounds);
            }
            assert!(rows.is_sorted() && rows.len() <= 64);
            rounds += 1;
            for row in rows {
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
    fn if_the_cursor_ends_before_the_commit_nothing_is_found() {
        assert_eq!(search(7, 7).0, 7);
    }
}
