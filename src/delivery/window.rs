//! What a consumer was sent and has not acknowledged.
//!
//! A window belongs to a connection, not to a subscription: it outlives a new `subscribe` and a
//! `reset`. Otherwise a client that never acknowledges could lift its own limit by subscribing
//! again.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::clients::Position;

/// Frames of the current subscription that are remembered one by one; the cursor must fit an
/// attachment.
const MAX_IN_FLIGHT: usize = 32;

/// The unacknowledged frames of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    /// Bytes after which nothing more is sent.
    #[serde(rename = "l")]
    limit: u64,
    /// The consumer need not acknowledge: at the limit it must connect again.
    #[serde(rename = "b", default, skip_serializing_if = "std::ops::Not::not")]
    must_reconnect: bool,
    /// The last id of each frame of the current subscription, and its bytes; oldest first.
    #[serde(rename = "f")]
    in_flight: VecDeque<(i64, u64)>,
    /// Where the subscriptions before the current one ended, and the bytes of theirs that are not
    /// acknowledged.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    earlier: Option<(Position, u64)>,
    /// When the oldest frame was sent or the last acknowledgement came, whichever is later, in
    /// milliseconds.
    #[serde(rename = "t", default)]
    since: u64,
}

impl Window {
    /// A window whose consumer must acknowledge before it is sent more.
    pub(super) fn waiting(limit: u64) -> Self {
        Self::new(limit, false)
    }

    /// A window whose consumer must connect again at the limit.
    pub(super) fn reconnecting(limit: u64) -> Self {
        Self::new(limit, true)
    }

    fn new(limit: u64, must_reconnect: bool) -> Self {
        Self {
            limit,
            must_reconnect,
            in_flight: VecDeque::new(),
            earlier: None,
            since: 0,
        }
    }

    /// All bytes that are not acknowledged.
    pub(super) fn bytes(&self) -> u64 {
        let earlier = self.earlier.map_or(0, |(_, bytes)| bytes);
        let bytes = self.in_flight.iter().map(|(_, bytes)| bytes);
        bytes.fold(earlier, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// Whether the next frame has to wait. The last one may have gone beyond the limit.
    pub(super) fn is_full(&self) -> bool {
        self.bytes() > self.limit
    }

    /// Whether a consumer with a full window must connect again.
    pub(super) fn must_reconnect(&self) -> bool {
        self.must_reconnect
    }

    /// How long nothing has been acknowledged, in milliseconds; 0 when nothing is in flight.
    pub(super) fn idle_ms(&self, now: u64) -> u64 {
        if self.bytes() == 0 {
            return 0;
        }
        now.saturating_sub(self.since)
    }

    /// A frame with changes up to `through` was sent.
    pub(super) fn push(&mut self, through: i64, bytes: u64, now: u64) {
        if self.bytes() == 0 {
            self.since = now;
        }
        // When the list is full, the newest two entries become one. It counts until its last change
        // is acknowledged, so the window never exceeds its limit.
        let max_in_flight = if self.must_reconnect {
            1
        } else {
            MAX_IN_FLIGHT
        };
        let merged = (self.in_flight.len() >= max_in_flight)
            .then(|| self.in_flight.pop_back())
            .flatten()
            .map_or(0, |(_, bytes)| bytes);
        self.in_flight
            .push_back((through, merged.saturating_add(bytes)));
    }

    /// The current subscription has ended at `at`, and another one begins.
    pub(super) fn end_subscription(&mut self, at: Position) {
        let bytes = self.bytes();
        self.in_flight.clear();
        let ended = self.earlier.map_or(at, |(ended, _)| ended.max(at));
        self.earlier = Some((ended, bytes));
    }

    /// The consumer has everything up to `id` of the current subscription, hence everything that it
    /// was sent before that subscription.
    pub(super) fn acknowledge(&mut self, id: i64, now: u64) {
        let before = self.bytes();
        if let Some((_, bytes)) = &mut self.earlier {
            *bytes = 0;
        }
        while self.in_flight.front().is_some_and(|(sent, _)| *sent <= id) {
            self.in_flight.pop_front();
        }
        // The same acknowledgement again shows nothing new.
        if self.bytes() < before {
            self.since = now;
        }
    }

    /// Whether an earlier subscription was sent `position`. An acknowledgement may cross a
    /// `subscribe` or a `reset` on its way.
    pub(super) fn acknowledge_earlier(&mut self, position: Position, now: u64) -> bool {
        let Some((ended, bytes)) = &mut self.earlier else {
            return false;
        };
        if position == *ended {
            *bytes = 0;
            self.since = now;
        }
        position <= *ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(id: i64) -> Position {
        Position { epoch: 1, id }
    }

    #[test]
    fn what_an_earlier_subscription_was_sent_still_counts() {
        let mut window = Window::waiting(100);
        window.push(10, 80, 0);
        window.end_subscription(at(10));
        window.push(3, 30, 0);
        assert!(window.is_full());
        window.acknowledge(0, 1);
        assert_eq!(window.bytes(), 30);
    }

    #[test]
    fn an_acknowledgement_that_crosses_a_new_subscription_is_accepted() {
        let mut window = Window::waiting(100);
        window.push(10, 80, 0);
        window.end_subscription(at(10));
        assert!(window.acknowledge_earlier(at(5), 1));
        assert_eq!(window.bytes(), 80, "only some of it was acknowledged");
        assert!(window.acknowledge_earlier(at(10), 1));
        assert_eq!(window.bytes(), 0);
        assert!(!window.acknowledge_earlier(at(11), 1));
    }

    #[test]
    fn a_window_is_idle_from_its_first_frame_or_its_last_acknowledgement_on() {
        let mut window = Window::waiting(100);
        assert_eq!(window.idle_ms(50), 0);
        window.push(1, 1, 10);
        window.push(2, 1, 20);
        assert_eq!(window.idle_ms(50), 40);
        window.acknowledge(1, 30);
        assert_eq!(window.idle_ms(50), 20);
        window.acknowledge(1, 45);
        assert_eq!(window.idle_ms(50), 20, "nothing new was acknowledged");
    }
}
