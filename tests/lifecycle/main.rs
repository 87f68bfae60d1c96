//! The life of a feed in its database, against real servers: what `POST /init` finds missing, and
//! what pruning leaves.
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

mod initialize;
mod prune;
