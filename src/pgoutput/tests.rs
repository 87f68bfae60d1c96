//! The decoder against literal bytes, against an encoder, and against damage.

mod cut;
mod encode;
mod literal;
mod mutations;
mod round_trip;
