//! Recorded streams of real servers, damaged at random: a fuzzer that needs no toolchain of its own.
//! The seed is fixed, so that failures are reproducible. `fuzz/` has the guided fuzzer.

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::encode::encode;
use super::literal::unhex;
use crate::pgoutput::{decode, decode_prefix};

const STREAMS: [&str; 3] = [
    include_str!("../../../tests/fixtures/pgoutput_18_text.hex"),
    include_str!("../../../tests/fixtures/pgoutput_18_binary.hex"),
    include_str!("../../../tests/fixtures/pgoutput_15_text.hex"),
];

/// They take a second or two, which every test run can afford.
const CASES: usize = 1_500_000;

/// Counts and lengths at the limits of their types, and bytes with a meaning.
const EDGES: [&[u8]; 12] = [
    b"\0",
    b"\xFF",
    b"\x7F",
    b"n",
    b"u",
    b"t",
    b"b",
    b"N",
    b"\x7F\xFF",
    b"\x80\x00",
    b"\x7F\xFF\xFF\xFF",
    b"\xFF\xFF\xFF\xFF",
];

struct Mutator {
    random: TestRng,
    messages: Vec<Vec<u8>>,
}

impl Mutator {
    fn new() -> Self {
        let lines = STREAMS.iter().flat_map(|stream| stream.lines());
        Self {
            random: TestRng::deterministic_rng(RngAlgorithm::ChaCha),
            messages: lines
                .map(unhex)
                .filter(|message| !message.is_empty())
                .collect(),
        }
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random.next_u64() % (limit as u64)).unwrap()
    }

    fn pick(&mut self) -> Vec<u8> {
        let index = self.below(self.messages.len());
        self.messages[index].clone()
    }

    /// A recorded message, damaged one to four times.
    fn next(&mut self) -> Vec<u8> {
        let mut bytes = self.pick();
        for _ in 0..=self.below(4) {
            self.damage(&mut bytes);
        }
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let until = at + self.below((bytes.len() - at).min(16) + 1);
        match self.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..until)),
            2 => {
                let again = bytes[at..until].to_vec();
                bytes.splice(at..at, again);
            }
            3 => {
                let other = self.pick();
                let from = self.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
            4 => {
                let edge = EDGES[self.below(EDGES.len())];
                let end = bytes.len().min(at + edge.len());
                bytes.splice(at..end, edge.iter().copied());
            }
            _ => {
                let bit = 1 << self.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= bit;
                }
            }
        }
    }
}

#[test]
fn damaged_streams_are_refused_or_read_to_the_last_byte() {
    let mut mutator = Mutator::new();
    let (mut read, mut refused) = (0, 0);
    for _ in 0..CASES {
        let bytes = mutator.next();
        match decode(&bytes) {
            // pg_catalog has two encodings; every other message has one.
            Ok(message) if !bytes.windows(10).any(|name| name == b"pg_catalog") => {
                assert_eq!(encode(&message), bytes, "{message:?}");
                read += 1;
            }
            Ok(_) => {}
            Err(error) => {
                assert!(error.offset <= bytes.len(), "{error}: {bytes:02X?}");
                refused += 1;
            }
        }
        let len = mutator.below(bytes.len() + 1);
        let full_len = bytes.len() + mutator.below(3);
        let _ = decode_prefix(&bytes[..len], full_len);
    }
    // The test proves nothing if damage is always or never detected.
    assert!(
        read > CASES / 20 && refused > CASES / 2,
        "{read} read, {refused} refused"
    );
}
