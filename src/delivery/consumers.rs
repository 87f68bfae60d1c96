//! All consumers of one object.

use std::cell::RefCell;
use std::rc::Rc;

use super::consumer::Consumer;
use super::sink::Sink;
use crate::clients::CredentialId;

/// What the consumers of one credential use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Connections and registrations.
    pub connections: usize,
    /// Requests that wait for a page.
    pub readers: usize,
    /// Conditions of their filters.
    pub conditions: usize,
}

/// Sorted by number, which is the order in which they were added: each acknowledgement looks up its
/// consumer, and there may be ten thousand of both.
#[derive(Debug)]
pub struct Consumers<S: Sink>(RefCell<Rc<Vec<Rc<Consumer<S>>>>>);

impl<S: Sink> Default for Consumers<S> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<S: Sink> Consumers<S> {
    /// All consumers at this moment. Later additions and removals do not change the list.
    pub fn all(&self) -> Rc<Vec<Rc<Consumer<S>>>> {
        Rc::clone(&self.0.borrow())
    }

    /// Whether there are no consumers.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Adds one.
    pub(super) fn add(&self, consumer: Rc<Consumer<S>>) {
        let mut consumers = self.0.borrow_mut();
        let place = consumers.partition_point(|known| known.number() < consumer.number());
        Rc::make_mut(&mut consumers).insert(place, consumer);
    }

    /// The consumer of this number.
    pub fn find(&self, number: u64) -> Option<Rc<Consumer<S>>> {
        let consumers = self.all();
        let index = consumers
            .binary_search_by_key(&number, |consumer| consumer.number())
            .ok()?;
        consumers.get(index).cloned()
    }

    /// The highest number.
    pub(super) fn last_number(&self) -> u64 {
        let consumers = self.0.borrow();
        consumers.last().map_or(0, |consumer| consumer.number())
    }

    /// Removes one.
    pub(super) fn remove(&self, number: u64) {
        let mut consumers = self.0.borrow_mut();
        if let Ok(index) = consumers.binary_search_by_key(&number, |consumer| consumer.number()) {
            Rc::make_mut(&mut consumers).remove(index);
        }
    }

    /// Removes those that can be sent nothing more.
    pub(super) fn remove_gone(&self) {
        let mut consumers = self.0.borrow_mut();
        if consumers.iter().any(|consumer| consumer.is_gone()) {
            Rc::make_mut(&mut consumers).retain(|consumer| !consumer.is_gone());
        }
    }

    /// Requests that wait for a page.
    pub fn readers(&self) -> usize {
        let consumers = self.all();
        let waiting = consumers
            .iter()
            .filter(|consumer| !consumer.is_gone() && consumer.sink().max_changes().is_some());
        waiting.count()
    }

    /// What one credential uses; `None`: what the operators use.
    pub fn usage(&self, credential: Option<&CredentialId>) -> Usage {
        let mut usage = Usage::default();
        for consumer in self.all().iter().filter(|consumer| !consumer.is_gone()) {
            let state = consumer.state();
            if state.credential.as_ref() != credential {
                continue;
            }
            if consumer.sink().max_changes().is_some() {
                usage.readers += 1;
            } else {
                usage.connections += 1;
            }
            usage.conditions += state.view.conditions();
        }
        usage
    }
}
