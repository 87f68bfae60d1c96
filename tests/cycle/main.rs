//! The poll cycle against real servers: exactly once, in commit order, in bounded memory, whatever
//! breaks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::format_collect,
    missing_docs
)]

#[path = "../support/mod.rs"]
#[macro_use]
mod support;

mod crashes;
mod cuts;
mod idle;
mod order;
mod privileges;
mod publication;
mod random;
mod readers;
mod restart;
mod sizes;
mod values;
