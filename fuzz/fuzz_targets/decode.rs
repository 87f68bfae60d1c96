//! No bytes make the decoder panic, loop or use more memory than is proportional to them. If a whole
//! message can be decoded, so can any prefix of it, or it is reported as cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_change_feed::pgoutput::{DecodeProblem, decode, decode_prefix};

fuzz_target!(|data: (&[u8], u16)| {
    let (bytes, cut) = data;
    let is_whole = decode(bytes).is_ok();
    let len = usize::from(cut) % (bytes.len() + 1);
    match decode_prefix(&bytes[..len], bytes.len()) {
        Err(error) if is_whole => assert!(matches!(error.problem, DecodeProblem::Cut { .. })),
        _ => {}
    }
});
