//! A cursor over one message's bytes, or over the first of them.

use std::ffi::CStr;

use super::error::{DecodeError, DecodeProblem};

/// Reads fields in network byte order. Knows how many bytes the whole message has, so that "cut by
/// us" and "ends too early" are different errors.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Bytes of the message after `rest` that were not given.
    missing: usize,
    offset: usize,
    gave_up: bool,
}

impl<'a> Reader<'a> {
    /// `prefix` is the start of a message of `full_len` bytes.
    pub(super) fn new(prefix: &'a [u8], full_len: usize) -> Result<Self, DecodeError> {
        match full_len.checked_sub(prefix.len()) {
            Some(missing) => Ok(Self {
                rest: prefix,
                missing,
                offset: 0,
                gave_up: false,
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

    /// Bytes of the whole message still ahead, given or not.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len().saturating_add(self.missing)
    }

    /// Bytes still ahead that were given.
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

    /// A string up to its NUL, which is consumed.
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

    /// Checks a count of things that take at least `size` bytes each, before anything is allocated
    /// or looped over by it.
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

    /// Leaves out what was not given. Every later read is [`DecodeProblem::Cut`].
    pub(super) fn give_up_rest(&mut self) {
        self.offset = self.offset.saturating_add(self.rest.len());
        self.rest = &[];
        self.gave_up = true;
    }

    /// The message must end here, unless the rest of it was given up.
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            _ if self.gave_up => Ok(()),
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
