//! Consumers that share what they are sent: at the same place, with the same view.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::consumer::{Consumer, GroupKey};
use super::cursor::Extent;
use super::sink::Sink;

/// The consumers that are due changes, by what they can share.
pub(super) type Groups<S> = BTreeMap<GroupKey, Vec<Rc<Consumer<S>>>>;

/// The consumers that are due changes, by what they can share. Sends what is due to each alone.
pub(super) fn group<S: Sink>(
    consumers: impl IntoIterator<Item = Rc<Consumer<S>>>,
    extent: Extent,
    now: u64,
) -> Groups<S> {
    let mut groups = Groups::new();
    for consumer in consumers {
        if let Some(key) = consumer.due(extent, now) {
            groups.entry(key).or_default().push(consumer);
        }
    }
    groups
}

pub(super) fn merge<S: Sink>(groups: &mut Groups<S>, more: Groups<S>) {
    for (key, mut members) in more {
        groups.entry(key).or_default().append(&mut members);
    }
}

/// The group that has waited longest.
pub(super) fn next_group<S: Sink>(groups: &Groups<S>) -> Option<GroupKey> {
    let turn = |members: &[Rc<Consumer<S>>]| members.iter().map(|member| member.turn()).min();
    let waiting = groups.iter().min_by_key(|(_, members)| turn(members));
    waiting.map(|(key, _)| *key)
}
