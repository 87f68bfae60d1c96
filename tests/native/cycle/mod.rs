//! The poll cycle against real servers: exactly once, in commit order, in bounded memory, whatever
//! breaks.

mod crashes;
mod cuts;
mod idle;
mod order;
mod privileges;
mod publication;
mod random;
mod readers;
mod sizes;
mod standby_snapshot;
mod values;
