//! Which credential a connection belongs to, and the limits of one credential.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The most WebSockets that are open with one ticket, or with the tickets of one `sub`.
pub const MAX_TICKET_CONNECTIONS: usize = 32;
/// The most requests for `GET /changes` that wait for their page with one ticket.
pub const MAX_TICKET_READERS: usize = 4;
/// The same for the token.
pub const MAX_OPERATOR_READERS: usize = 16;
/// The same for all callers together.
pub const MAX_READERS: usize = 32;
/// The most filter conditions of all connections with one ticket.
pub const MAX_TICKET_CONDITIONS: usize = 2_048;
/// `subscribe` messages that a connection may send at once.
pub const SUBSCRIBE_BURST: u32 = 50;
/// After these it may send another one at this interval, in milliseconds.
pub const SUBSCRIBE_INTERVAL_MS: u64 = 1_000;

/// Identifies the holder of a ticket: by the claim `sub`, or by the ticket itself if it has none.
/// Contains neither.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredentialId(String);

impl CredentialId {
    /// The holder whom the claim `sub` names.
    pub fn of_subject(subject: &str) -> Self {
        Self::hash("sub", subject)
    }

    /// The holder of this very ticket.
    pub fn of_ticket(ticket: &str) -> Self {
        Self::hash("ticket", ticket)
    }

    fn hash(kind: &str, text: &str) -> Self {
        let digest = Sha256::digest(format!("{kind}:{text}").as_bytes());
        let bytes = digest.get(..8).unwrap_or_default();
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// How many `subscribe` messages a connection may send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeRate {
    left: u32,
    refilled_at: u64,
}

impl Default for SubscribeRate {
    fn default() -> Self {
        Self {
            left: SUBSCRIBE_BURST,
            refilled_at: 0,
        }
    }
}

impl SubscribeRate {
    /// Counts a message at `now`, in milliseconds. False when it exceeds the rate.
    pub fn admit(&mut self, now: u64) -> bool {
        let gained = now.saturating_sub(self.refilled_at) / SUBSCRIBE_INTERVAL_MS;
        if gained > 0 {
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(gained).min(SUBSCRIBE_BURST);
            self.refilled_at = now;
        }
        let admitted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_with_the_same_subject_have_the_same_holder() {
        assert_eq!(CredentialId::of_subject("a"), CredentialId::of_subject("a"));
        assert_ne!(CredentialId::of_subject("a"), CredentialId::of_ticket("a"));
    }

    #[test]
    fn after_a_burst_of_subscribes_there_is_one_each_second() {
        let mut rate = SubscribeRate::default();
        let admitted = (0..100).filter(|_| rate.admit(1_000)).count();
        assert_eq!(admitted, SUBSCRIBE_BURST as usize);
        assert!(!rate.admit(1_999));
        assert!(rate.admit(2_000) && !rate.admit(2_000));
    }
}
