//! The wire JSON of a change, from a batch in memory or from the history.

use std::io::Write as _;

use crate::lsn::Lsn;

use super::json_buffer::JsonBuffer;

/// Days from 0000-03-01 to 2000-01-01 in the proleptic Gregorian calendar.
const DAYS_TO_2000: i64 = 730_425;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A change as clients receive it. `Name` is the caller's type of column names.
#[derive(Clone, Copy, Debug)]
pub struct TableChange<'a, Name> {
    /// Its id in the history: in commit order, without gaps.
    pub id: i64,
    /// Where the transaction's commit record ends.
    pub lsn: Lsn,
    /// The history's epoch.
    pub epoch: i32,
    /// The transaction's id.
    pub xid: Option<u32>,
    /// The table's schema.
    pub schema: &'a str,
    /// The table's name.
    pub table: &'a str,
    /// `insert`, `update`, `delete` or `truncate`.
    pub operation: &'a str,
    /// A JSON object.
    pub data: &'a [u8],
    /// A JSON object.
    pub old: Option<&'a [u8]>,
    /// Columns absent because their TOASTed values did not change.
    pub unchanged: &'a [Name],
    /// Columns absent because they are too large.
    pub omitted: &'a [Name],
    /// Columns whose values are strings of their text. The key is absent if there are none.
    pub as_text: &'a [Name],
    /// When it was committed, in microseconds since 2000-01-01 00:00:00 UTC.
    pub committed_at: Option<i64>,
}

impl<Name: AsRef<str>> TableChange<'_, Name> {
    /// Appends the change as one JSON object, without spaces or a line feed.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        write_number(out, b"{\"id\":", self.id);
        // Hexadecimal numbers need no escaping. Writing to memory cannot fail.
        let _ = write!(out, ",\"lsn\":\"{}\"", self.lsn);
        write_number(out, b",\"epoch\":", i64::from(self.epoch));
        match self.xid {
            Some(xid) => write_number(out, b",\"xid\":", i64::from(xid)),
            None => out.extend_from_slice(b",\"xid\":null"),
        }
        write_string(out, b",\"schema\":", self.schema);
        write_string(out, b",\"table\":", self.table);
        write_string(out, b",\"operation\":", self.operation);
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(self.data);
        out.extend_from_slice(b",\"old\":");
        out.extend_from_slice(self.old.unwrap_or(b"null"));
        write_names(out, b",\"unchanged\":[", self.unchanged);
        write_names(out, b",\"omitted\":[", self.omitted);
        if !self.as_text.is_empty() {
            write_names(out, b",\"asText\":[", self.as_text);
        }
        match self.committed_at {
            Some(micros) => {
                out.extend_from_slice(b",\"committedAt\":\"");
                write_timestamp(out, micros);
                out.extend_from_slice(b"\"}");
            }
            None => out.extend_from_slice(b",\"committedAt\":null}"),
        }
    }
}

fn write_number(out: &mut Vec<u8>, key: &[u8], number: i64) {
    out.extend_from_slice(key);
    let _ = write!(out, "{number}");
}

fn write_string(out: &mut Vec<u8>, key: &[u8], text: &str) {
    out.extend_from_slice(key);
    JsonBuffer::new(out, usize::MAX).push_string(text.as_bytes());
}

fn write_names<Name: AsRef<str>>(out: &mut Vec<u8>, key: &[u8], names: &[Name]) {
    out.extend_from_slice(key);
    for (index, name) in names.iter().enumerate() {
        write_string(out, if index > 0 { b"," } else { b"" }, name.as_ref());
    }
    out.push(b']');
}

/// Appends a timestamp in ISO 8601, in UTC, with microseconds.
fn write_timestamp(out: &mut Vec<u8>, micros: i64) {
    let (year, month, day) = date(micros.div_euclid(MICROS_PER_DAY));
    let time = micros.rem_euclid(MICROS_PER_DAY);
    let (seconds, micros) = (time / 1_000_000, time % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
    );
}

/// The year, month and day of a day counted from 2000-01-01.
///
/// Years begin in March, so that the leap day is the last day of a year. From there every five months
/// have 153 days (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days_since_2000: i64) -> (i64, i64, i64) {
    let days = days_since_2000 + DAYS_TO_2000;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_from_march + 2) / 5 + 1;
    let month = (months_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const CHANGE: TableChange<'_, &str> = TableChange {
        id: 42,
        lsn: Lsn(0x1_016B_3748),
        epoch: 1,
        xid: Some(771),
        schema: "public",
        table: "orders",
        operation: "update",
        data: br#"{"id":1}"#,
        old: None,
        unchanged: &["body"],
        omitted: &[],
        as_text: &[],
        committed_at: Some(820_540_800_123_456),
    };

    fn written(change: &TableChange<'_, &str>) -> String {
        let mut json = Vec::new();
        change.write_json(&mut json);
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn a_change_has_the_documented_keys_in_their_order() {
        assert_eq!(
            written(&CHANGE),
            r#"{"id":42,"lsn":"1/16B3748","epoch":1,"xid":771,"schema":"public","table":"orders","operation":"update","data":{"id":1},"old":null,"unchanged":["body"],"omitted":[],"committedAt":"2026-01-01T00:00:00.123456Z"}"#
        );
    }

    #[test]
    fn columns_as_text_are_named_only_if_there_are_any() {
        let change = TableChange {
            old: Some(b"{}"),
            omitted: &["a", "\"b\""],
            as_text: &["c"],
            xid: None,
            committed_at: None,
            ..CHANGE
        };
        let read: Value = serde_json::from_str(&written(&change)).unwrap();
        assert_eq!(read["old"], json!({}));
        assert_eq!(read["omitted"], json!(["a", "\"b\""]));
        assert_eq!(read["asText"], json!(["c"]));
        assert_eq!(
            (&read["xid"], &read["committedAt"]),
            (&Value::Null, &Value::Null)
        );
    }

    #[test]
    fn timestamps_are_written_as_postgres_counts_them() {
        for (micros, expected) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (5_097_600_000_000, "2000-02-29T00:00:00.000000Z"),
            (-3_155_673_600_000_000, "1900-01-01T00:00:00.000000Z"),
            (-3_150_576_000_000_001, "1900-02-28T23:59:59.999999Z"),
        ] {
            let mut text = Vec::new();
            write_timestamp(&mut text, micros);
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        }
    }

    proptest! {
        #[test]
        fn each_day_follows_the_one_before(day in -3_000_000_i64..100_000_000) {
            let ((year, month, this), next) = (date(day), date(day + 1));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let days = match month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match (this < days, month) {
                (true, _) => (year, month, this + 1),
                (false, 12) => (year + 1, 1, 1),
                (false, _) => (year, month + 1, 1),
            };
            prop_assert_eq!(next, expected);
        }
    }
}
