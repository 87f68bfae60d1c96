//! What integration tests share: real servers, and a socket that fails on demand.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod cluster;
pub mod faulty_stream;
pub mod feed;
pub mod server;
