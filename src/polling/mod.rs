//! The poll cycle: reads a slice of the slot, stores it, and only then consumes it.
//!
//! ```text
//! flush LSN moved?  no -> done, one read-only round trip
//!   | yes
//! BEGIN -> peek by cursor -> [ slice -> decode -> lock checkpoint -> INSERT ]* -> checkpoint -> COMMIT
//!                                                                                         |
//!                                                              advance the slot  <--------+
//! ```
//!
//! History and checkpoint move in one transaction, or not at all; the slot follows. A crash
//! anywhere leaves a slot at or behind the checkpoint, and what it gives again is skipped.

mod cycle;
mod fence;
mod peek;
mod policy;
mod schedule;
mod store;

pub use cycle::{Cycle, Feed, Phases, Report, run};
pub use policy::{Policy, backoff, policy};
pub use schedule::{Next, Outcome, Pace};
