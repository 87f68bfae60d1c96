//! The poll cycle against real servers: changes are stored exactly once and in commit order,
//! whatever fails.

mod crashes;
mod cuts;
mod feed_tables;
mod gaps;
mod idle;
mod order;
mod privileges;
mod publication;
mod random;
mod readers;
mod sizes;
mod standby_snapshot;
mod values;
