//! What all consumers of one object may leave unacknowledged together.
//!
//! The platform buffers what a client has not read, and does not expose how much. Each
//! consumer has an allowance of its own, about what the network holds anyway. Beyond it all share
//! one budget, so that many slow clients cannot fill the isolate's memory.

use std::cell::Cell;

/// Bytes that each consumer may leave unacknowledged whatever the others do.
pub const ALLOWANCE_BYTES: u64 = 64 << 10;
/// Bytes beyond their allowances that the consumers of one object may leave unacknowledged
/// together. Half of the memory that the platform gives an isolate (Durable Objects documentation,
/// "Limits").
pub const SHARED_BYTES: u64 = 64 << 20;
/// A consumer that has acknowledged nothing for this long gives up its share when another one needs
/// it, in milliseconds.
pub const RECLAIM_AFTER_MS: u64 = 10_000;

/// The shared part.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: Cell<u64>,
    /// Consumers that wait for room.
    waiting: Cell<usize>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(SHARED_BYTES)
    }
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            used: Cell::new(0),
            waiting: Cell::new(0),
        }
    }

    /// A consumer begins or ceases to wait for room.
    pub(super) fn update_waiting(&self, before: bool, after: bool) {
        let waiting = self.waiting.get().saturating_sub(usize::from(before));
        self.waiting.set(waiting.saturating_add(usize::from(after)));
    }

    /// Whether any consumer waits for room.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Whether a consumer that has `unacknowledged` bytes in flight may be sent `bytes` more. When
    /// nothing is in use, a frame of any size may go.
    pub(super) fn allows(&self, unacknowledged: u64, bytes: u64) -> bool {
        let after = unacknowledged.saturating_add(bytes);
        let needed = share_of(after).saturating_sub(share_of(unacknowledged));
        needed == 0 || self.used.get() == 0 || self.used.get().saturating_add(needed) <= self.limit
    }

    /// A consumer's share was `before` and is `after` now.
    pub(super) fn update(&self, before: u64, after: u64) {
        let used = self.used.get().saturating_sub(before);
        self.used.set(used.saturating_add(after));
    }
}

/// What `unacknowledged` bytes take of the shared budget.
pub(super) fn share_of(unacknowledged: u64) -> u64 {
    unacknowledged.saturating_sub(ALLOWANCE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_never_wait_for_the_others() {
        let budget = Budget::new(1_000);
        budget.update(0, 1_000);
        assert!(budget.allows(0, ALLOWANCE_BYTES));
        assert!(!budget.allows(1, ALLOWANCE_BYTES));
    }

    #[test]
    fn a_frame_larger_than_the_budget_goes_when_nothing_else_is_in_flight() {
        let budget = Budget::new(1_000);
        assert!(budget.allows(0, 10 << 20));
        budget.update(0, share_of(10 << 20));
        assert!(!budget.allows(0, 10 << 20));
        budget.update(share_of(10 << 20), 0);
        assert!(budget.allows(0, 10 << 20));
    }
}
