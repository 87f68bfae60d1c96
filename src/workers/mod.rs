//! The adaptors to the Workers platform: socket, database, storage, variables, log, memory.
//! Everything else also runs natively.

pub(crate) mod database;
pub(crate) mod log;
pub(crate) mod memory;
pub(crate) mod socket;
pub(crate) mod storage;
pub(crate) mod variables;
pub(crate) mod web_socket;
