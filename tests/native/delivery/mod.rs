//! The delivery engine on a real history: a consumer that joins, leaves, is evicted or comes back
//! gets what `change_history` holds for it, in order, without a gap.

mod altered;
mod answers;
mod conflicts;
mod crowd;
mod fake_sink;
mod filters;
mod harness;
mod laggards;
mod large;
mod lookups;
mod neighbours;
mod pages;
mod quiet;
mod recent;
mod resubscribe;
mod unreadable;
mod windows;
