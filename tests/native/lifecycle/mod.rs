//! The life of a feed in its database, against real servers: what `POST /init` reports, and what
//! pruning leaves.

mod initialize;
mod prune;
