//! What storing publishes: all that delivery knows about it.

use crate::clients::{ChangeRange, Position};
use crate::history::Recent;

/// The end of the history.
#[derive(Clone, Debug)]
pub struct Head {
    /// The newest change that is stored.
    pub position: Position,
    /// The newest changes, when they are in memory.
    pub recent: Option<Recent>,
}

impl Head {
    /// A head without changes in memory.
    pub fn at(position: Position) -> Self {
        Self {
            position,
            recent: None,
        }
    }

    /// The changes in memory, if they include every change after `after`.
    pub fn recent_after(&self, after: Position) -> Option<&Recent> {
        let recent = self.recent.as_ref()?;
        let is_known = after.epoch == self.position.epoch
            && recent.epoch == self.position.epoch
            && recent.after <= after.id
            && recent.through() == self.position.id;
        is_known.then_some(recent)
    }

    /// Whether a consumer at `at` needs no page.
    pub fn is_in_memory(&self, at: Position) -> bool {
        at == self.position || self.recent_after(at).is_some()
    }

    /// The changes in memory, in the form that views evaluate.
    pub(super) fn range(&self) -> Option<ChangeRange<'_>> {
        self.recent.as_ref().map(ChangeRange::of_recent)
    }
}
