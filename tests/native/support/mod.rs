//! What the native tests share: real servers, a socket that fails on demand, feeds with changes to
//! read, and the invariants of the history that they leave.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod cluster;
pub mod faulty_stream;
pub mod feed;
pub mod history;
pub mod random;
pub mod replay;
#[macro_use]
pub mod server;
pub mod slot_reader;
pub mod workload;
