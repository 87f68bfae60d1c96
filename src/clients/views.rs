//! Equal views, stored once: clients with the same view get the same frames.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use super::subscription::View;

/// Every view that a client has.
#[derive(Debug, Default)]
pub struct Views(RefCell<HashSet<Rc<View>>>);

impl Views {
    /// The shared view that is equal to `view`.
    pub fn shared(&self, view: Rc<View>) -> Rc<View> {
        let mut views = self.0.borrow_mut();
        if let Some(known) = views.get(&view) {
            return Rc::clone(known);
        }
        if views.len() == views.capacity() {
            // Before the set grows, drop views that no client uses.
            views.retain(|view| Rc::strong_count(view) > 1);
        }
        views.insert(Rc::clone(&view));
        view
    }
}
