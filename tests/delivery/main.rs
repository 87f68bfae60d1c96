//! Cursors and the pump on a real history: whoever comes, goes, is evicted or comes back gets what
//! `change_history` holds for it, in order, without a gap.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

#[path = "../support/mod.rs"]
#[macro_use]
mod support;

mod altered;
mod crowd;
mod filters;
mod large;
mod recent;
mod recorder;
