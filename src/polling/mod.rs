//! The poll cycle: reads what is new in the slot, stores it, and only then advances the slot.
//!
//! ```text
//! flush LSN moved?  no -> done, one read-only round trip
//!   | yes, or the caller expects changes
//! BEGIN -> preflight -> peek through a cursor -> first slice              one round trip
//!   | fits one write                                | does not
//! INSERT and update the checkpoint,               second connection: lock the checkpoint,
//! if it is as it was -> COMMIT -> advance           [ write a slice ]* -> update the checkpoint
//!        one round trip                             -> COMMIT -> advance
//! ```
//!
//! History and checkpoint change in one transaction or not at all; the slot follows. A crash at any
//! point leaves the slot at or behind the checkpoint, and what it returns again is skipped.

mod backlog;
mod batch_writer;
mod begin;
mod checkpoint_update;
mod commit_search;
mod cycle;
mod cycle_config;
mod cycle_state;
mod peek;
mod policy;
mod report;
mod schedule;
mod standby_snapshot;

pub use backlog::Connector;
pub use cycle::{Expect, run};
pub use cycle_config::CycleConfig;
pub use cycle_state::CycleState;
pub use policy::{Policy, backoff, policy};
pub use report::{PendingAdvance, Phases, Report};
pub use schedule::{Next, Outcome, Pace};
