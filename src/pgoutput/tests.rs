//! Tests of the decoder with literal bytes, with an encoder, and with damaged messages.

mod cut;
mod encode;
mod literal;
mod mutations;
mod round_trip;
