//! The poll cycle: reads a slice of the slot, stores it, and only then consumes it.
//!
//! ```text
//! flush LSN moved?  no -> done, one read-only round trip
//!   | yes, or somebody has written for sure
//! BEGIN -> look at the checkpoint -> peek by cursor -> first slice        one round trip
//!   | fits one write                                | does not
//! INSERT if the checkpoint is as it was,          second connection: lock the checkpoint,
//! which moves with it -> COMMIT -> advance          [ write a slice ]* -> move it -> COMMIT
//!        one round trip                                              -> advance
//! ```
//!
//! History and checkpoint move in one transaction, or not at all; the slot follows. A crash
//! anywhere leaves a slot at or behind the checkpoint, and what it gives again is skipped.

mod backlog;
mod batch_writer;
mod begin;
mod checkpoint_update;
mod commit_search;
mod cycle;
mod peek;
mod policy;
mod schedule;
mod standby_snapshot;

pub use backlog::Connector;
pub use cycle::{CycleConfig, CycleState, Expect, Phases, Report, run};
pub use policy::{Policy, backoff, policy};
pub use schedule::{Next, Outcome, Pace};
