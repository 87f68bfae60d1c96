//! The native tests, most of them against real PostgreSQL servers. They are one binary, so that it
//! is linked only once. `cargo test --test native -- cycle::` runs one module, and `cargo test
//! on_15` runs the tests that depend on the server's version on PostgreSQL 15 only.
//!
//! `bounds.rs` is a binary of its own, since it measures the memory of its whole process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::format_collect,
    missing_docs
)]

#[macro_use]
mod support;

mod captured_tables;
mod captured_types;
mod cycle;
mod delivery;
mod lifecycle;
mod pgoutput_streams;
mod row_json_oracle;
mod wire;
