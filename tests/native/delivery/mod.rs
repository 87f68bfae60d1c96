//! Cursors and the pump on a real history: whoever comes, goes, is evicted or comes back gets what
//! `change_history` holds for it, in order, without a gap.

mod altered;
mod crowd;
mod filters;
mod large;
mod recent;
mod recorder;
