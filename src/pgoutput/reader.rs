//! A reader of a message's bytes, or of a prefix of them.

use std::ffi::CStr;

use super::error::{DecodeError, DecodeProblem};

/// Reads fields in network byte order. It knows the length of the whole message, so that a message
/// that was cut and one that ends too early are different errors.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// How many bytes of the message follow after the prefix.
    missing: usize,
    offset: usize,
    discarded: bool,
}

impl<'a> Reader<'a> {
    /// `prefix` is the start of a message of `full_len` bytes.
    pub(super) fn new(prefix: &'a [u8], full_len: usize) -> Result<Self, DecodeError> {
        match full_len.checked_sub(prefix.len()) {
            Some(missing) => Ok(Self {
                rest: prefix,
                missing,
                offset: 0,
                discarded: false,
            }),
            None => Err(DecodeError {
                offset: 0,
                problem: DecodeProblem::PrefixTooLong {
                    prefix: prefix.len(),
                    full: full_len,
                },
            }),
        }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// How many bytes of the whole message are left.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len().saturating_add(self.missing)
    }

    /// How many bytes of the prefix are left.
    pub(super) fn available(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(expected).map(u8::from_be_bytes)
    }

    pub(super) fn i16(&mut self, expected: &'static str) -> Result<i16, DecodeError> {
        self.array(expected).map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self, expected: &'static str) -> Result<i32, DecodeError> {
        self.array(expected).map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self, expected: &'static str) -> Result<u32, DecodeError> {
        self.array(expected).map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self, expected: &'static str) -> Result<i64, DecodeError> {
        self.array(expected).map(i64::from_be_bytes)
    }

    pub(super) fn u64(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        self.array(expected).map(u64::from_be_bytes)
    }

    pub(super) fn bytes(
        &mut self,
        count: usize,
        expected: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.ends_inside(expected, count));
        };
        self.advance(count, rest);
        Ok(taken)
    }

    /// Reads a string and its terminating NUL.
    pub(super) fn string(&mut self, expected: &'static str) -> Result<&'a str, DecodeError> {
        let Ok(terminated) = CStr::from_bytes_until_nul(self.rest) else {
            return Err(self.error(if self.missing > 0 {
                DecodeProblem::Cut { expected }
            } else {
                DecodeProblem::MissingTerminator { expected }
            }));
        };
        let text = terminated
            .to_str()
            .map_err(|source| self.error(DecodeProblem::NotUtf8 { expected, source }))?;
        self.bytes(terminated.count_bytes().saturating_add(1), expected)?;
        Ok(text)
    }

    /// Checks a count of items of at least `size` bytes each, before it is used to allocate or loop.
    pub(super) fn count(
        &self,
        count: impl Into<i64>,
        size: usize,
        expected: &'static str,
    ) -> Result<usize, DecodeError> {
        let found = count.into();
        let remaining = self.remaining();
        usize::try_from(found)
            .ok()
            .filter(|count| {
                count
                    .checked_mul(size)
                    .is_some_and(|bytes| bytes <= remaining)
            })
            .ok_or_else(|| {
                self.error(DecodeProblem::ImpossibleCount {
                    expected,
                    found,
                    remaining,
                })
            })
    }

    /// Discards the rest of the prefix. Every later read is [`DecodeProblem::Cut`].
    pub(super) fn discard_rest(&mut self) {
        self.offset = self.offset.saturating_add(self.rest.len());
        self.rest = &[];
        self.discarded = true;
    }

    /// Fails unless the message ends here or its rest was discarded.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            _ if self.discarded => Ok(()),
            count => Err(self.error(DecodeProblem::TrailingBytes { count })),
        }
    }

    pub(super) fn error(&self, problem: DecodeProblem) -> DecodeError {
        DecodeError {
            offset: self.offset,
            problem,
        }
    }

    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.ends_inside(expected, N));
        };
        self.advance(N, rest);
        Ok(*taken)
    }

    fn advance(&mut self, count: usize, rest: &'a [u8]) {
        self.offset = self.offset.saturating_add(count);
        self.rest = rest;
    }

    fn ends_inside(&self, expected: &'static str, count: usize) -> DecodeError {
        self.error(if count <= self.remaining() {
            DecodeProblem::Cut { expected }
        } else {
            DecodeProblem::UnexpectedEnd { expected }
        })
    }
}
