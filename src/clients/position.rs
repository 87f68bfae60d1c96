//! A client's position in the feed, and its form on the wire.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Everything up to and including the change `id` of `epoch`; to clients an opaque string,
/// `"<epoch>-<id>"`.
///
/// Ordered by epoch and then by id. Ids of different epochs say nothing about each other: an epoch
/// begins where changes may have been missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The history's epoch, from 0.
    pub epoch: i32,
    /// The id of a change; 0 is before the first.
    pub id: i64,
}

/// The text is not a position that this server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position: give back a string that the server sent, such as \"1-42\"")]
pub struct ParsePositionError;

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.id)
    }
}

impl FromStr for Position {
    type Err = ParsePositionError;

    /// Reads exactly what `Display` writes: a position has one spelling.
    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let (epoch, id) = text.split_once('-').ok_or(ParsePositionError)?;
        for number in [epoch, id] {
            let is_plain = number.bytes().all(|digit| digit.is_ascii_digit())
                && (number == "0" || !number.starts_with('0'));
            if !is_plain {
                return Err(ParsePositionError);
            }
        }
        Ok(Self {
            epoch: epoch.parse().map_err(|_| ParsePositionError)?,
            id: id.parse().map_err(|_| ParsePositionError)?,
        })
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_no_server_sent_is_refused() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1--1",
            "+1-1",
            "1-+1",
            "01-1",
            "1-01",
            "1-1 ",
            " 1-1",
            "1-1-1",
            "1-x",
            "2147483648-1",
            "1-9223372036854775808",
            "١-1",
        ] {
            assert_eq!(
                text.parse::<Position>(),
                Err(ParsePositionError),
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_position_reads_back_from_its_text(epoch in 0..=i32::MAX, id in 0..=i64::MAX) {
            let position = Position { epoch, id };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }
    }
}
