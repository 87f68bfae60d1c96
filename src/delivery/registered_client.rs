//! A registered Sync Durable Object, as the object's storage keeps it.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::answers::Answers;
use super::consumer_state::ConsumerState;
use super::cursor::{Cursor, Flow};
use crate::clients::{ClientId, ObjectName, Registration, ResetReason, Start, View};
use crate::clock;

/// The Durable Object to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The binding of this Worker.
    pub binding: String,
    /// The object in its namespace.
    pub object: ObjectName,
}

/// A registration. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegisteredClient {
    id: ClientId,
    binding: String,
    object: ObjectName,
    view: Rc<View>,
    cursor: Cursor,
    owed_reset: Option<ResetReason>,
    registered_at: u64,
    last_seen_at: Option<u64>,
    expires_at: u64,
    failures: u32,
    retry_at: u64,
    last_error: Option<String>,
    #[serde(default)]
    conflicts: u32,
}

/// What a registration under a name that is already registered does.
#[derive(Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The same registration, extended: a call in flight stays valid.
    Extend {
        /// When it expires now.
        expires_at: u64,
    },
    /// A different registration: answers to the old one do not apply to it.
    Replace(Box<(Target, ConsumerState)>),
}

impl RegisteredClient {
    /// The part of a consumer and its target that is stored.
    pub fn of(target: &Target, state: &ConsumerState) -> Self {
        let answers = state.answers.clone().unwrap_or_default();
        Self {
            id: state.client.clone(),
            binding: target.binding.clone(),
            object: target.object.clone(),
            view: Rc::clone(&state.view),
            cursor: state.cursor.clone(),
            owed_reset: answers.owed_reset,
            registered_at: state.connected_at,
            last_seen_at: answers.last_seen_at,
            expires_at: state.expires_at.unwrap_or(u64::MAX),
            failures: answers.failures,
            retry_at: answers.retry_at,
            last_error: answers.last_error,
            conflicts: answers.conflicts,
        }
    }

    /// Restores the consumer under a new `number`.
    pub fn restore(self, number: u64) -> (Target, ConsumerState) {
        let answers = Answers {
            owed_reset: self.owed_reset,
            last_seen_at: self.last_seen_at,
            failures: self.failures,
            retry_at: self.retry_at,
            last_error: self.last_error,
            conflicts: self.conflicts,
            ..Answers::default()
        };
        let target = Target {
            binding: self.binding,
            object: self.object,
        };
        let state = ConsumerState {
            client: self.id,
            number,
            view: self.view,
            cursor: self.cursor,
            answers: Some(answers),
            connected_at: self.registered_at,
            expires_at: Some(self.expires_at),
            credential: None,
        };
        (target, state)
    }
}

/// A consumer that registers for the first time.
pub fn register(registration: Registration, number: u64, now: u64) -> (Target, ConsumerState) {
    let start = registration.start.unwrap_or(Start::Now);
    let expires_at = expires_at(&registration, now);
    let target = Target {
        binding: registration.binding,
        object: registration.object,
    };
    let state = ConsumerState {
        client: registration.id,
        number,
        view: Rc::new(registration.view),
        cursor: Cursor::new(start, Flow::Answered),
        answers: Some(Answers::default()),
        connected_at: now,
        expires_at: Some(expires_at),
        credential: None,
    };
    (target, state)
}

/// What a registration does to the one under the same name. Without a start it continues from that
/// one's position.
pub fn renew(
    known: (&Target, &ConsumerState),
    registration: Registration,
    number: u64,
    now: u64,
) -> Renewal {
    let (target, state) = known;
    let is_same = target.binding == registration.binding
        && target.object == registration.object
        && state.view.asks_for_the_same(&registration.view)
        && registration.start.is_none();
    if is_same {
        return Renewal::Extend {
            expires_at: expires_at(&registration, now),
        };
    }
    let has_start = registration.start.is_some();
    let (target, mut renewed) = register(registration, number, now);
    renewed.connected_at = state.connected_at;
    if !has_start {
        // Continues from what it was last sent: the new view may match what was skipped.
        renewed.cursor = state.cursor.clone();
        let _ = renewed.cursor.restart(None);
        let owed_reset = state.answers.as_ref().and_then(|known| known.owed_reset);
        if let Some(answers) = &mut renewed.answers {
            answers.owed_reset = owed_reset;
        }
    }
    Renewal::Replace(Box::new((target, renewed)))
}

fn expires_at(registration: &Registration, now: u64) -> u64 {
    clock::after(now, registration.ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(body: &str) -> Registration {
        Registration::parse(body).unwrap()
    }

    fn known(body: &str) -> (Target, ConsumerState) {
        register(registration(body), 1, 0)
    }

    fn renewal(known: &(Target, ConsumerState), body: &str) -> Renewal {
        renew((&known.0, &known.1), registration(body), 2, 5)
    }

    #[test]
    fn the_same_registration_again_only_lasts_longer() {
        let body = r#"{"id":"a","binding":"S","name":"n","ttlSeconds":60}"#;
        let extended = renewal(&known(body), body);
        assert_eq!(extended, Renewal::Extend { expires_at: 60_005 });
    }

    #[test]
    fn another_object_another_view_or_another_start_is_another_registration() {
        let first = known(r#"{"id":"a","binding":"S","name":"n","after":"1-7"}"#);
        for body in [
            r#"{"id":"a","binding":"S","name":"m"}"#,
            r#"{"id":"a","binding":"T","name":"n"}"#,
            r#"{"id":"a","binding":"S","name":"n","tables":["t"]}"#,
            r#"{"id":"a","binding":"S","name":"n","after":"1-9"}"#,
        ] {
            assert!(
                matches!(renewal(&first, body), Renewal::Replace(_)),
                "{body}"
            );
        }
    }

    #[test]
    fn a_registration_without_a_start_goes_on_where_the_one_before_stands() {
        let first = known(r#"{"id":"a","binding":"S","name":"n","after":"1-7"}"#);
        let body = r#"{"id":"a","binding":"S","name":"m"}"#;
        let Renewal::Replace(renewed) = renewal(&first, body) else {
            panic!("not replaced");
        };
        assert_eq!(renewed.1.cursor, first.1.cursor);
        assert_eq!(renewed.1.connected_at, 0);
    }

    #[test]
    fn a_stored_registration_can_be_restored() {
        let (target, state) = known(r#"{"id":"a","binding":"S","objectId":"o","after":"1-7"}"#);
        let json = serde_json::to_string(&RegisteredClient::of(&target, &state)).unwrap();
        let kept: RegisteredClient = serde_json::from_str(&json).unwrap();
        assert_eq!(kept.restore(1), (target, state));
    }
}
