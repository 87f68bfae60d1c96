//! Groups of consumers with the same position and view, which are sent the same frames.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::consumer::{Consumer, GroupKey};
use super::cursor::Extent;
use super::sink::Sink;
use crate::clients::View;

/// The consumers that are due changes, by what they can share.
pub(super) type Groups<S> = BTreeMap<GroupKey, Group<S>>;

/// Consumers that get the same frames.
pub(super) struct Group<S> {
    /// The view that all members had when they were grouped. A member that subscribes to something
    /// else while a page is read is not sent that page.
    pub(super) view: Rc<View>,
    pub(super) members: Vec<Rc<Consumer<S>>>,
}

impl<S: Sink> Group<S> {
    /// When the member that has waited longest was served.
    fn turn(&self) -> Option<u64> {
        self.members.iter().map(|member| member.turn()).min()
    }
}

/// Groups the consumers that are due changes. Sends each consumer the other messages that it is
/// due.
pub(super) fn group<S: Sink>(
    consumers: impl IntoIterator<Item = Rc<Consumer<S>>>,
    extent: Extent,
    now: u64,
) -> Groups<S> {
    let mut groups = Groups::new();
    for consumer in consumers {
        let Some(key) = consumer.due(extent, now) else {
            continue;
        };
        let view = Rc::clone(&consumer.state().view);
        let group = groups.entry(key).or_insert_with(|| Group {
            view,
            members: Vec::new(),
        });
        group.members.push(consumer);
    }
    groups
}

/// Adds `more` to `groups`.
pub(super) fn merge<S: Sink>(groups: &mut Groups<S>, more: Groups<S>) {
    for (key, mut group) in more {
        match groups.get_mut(&key) {
            Some(known) => known.members.append(&mut group.members),
            None => {
                groups.insert(key, group);
            }
        }
    }
}

/// Removes and returns the group that has waited longest.
pub(super) fn take_next<S: Sink>(groups: &mut Groups<S>) -> Option<(GroupKey, Group<S>)> {
    let waiting = groups.iter().min_by_key(|(_, group)| group.turn());
    let key = waiting.map(|(key, _)| *key)?;
    groups.remove_entry(&key)
}
