//! Which `json` documents `jsonb` can hold.
//!
//! Postgres's `json` keeps any text of the grammar; `jsonb` also has to make sense of it, and
//! refuses `\u0000`, lone surrogates and numbers beyond `numeric` (PostgreSQL documentation, "JSON
//! Types"). Source of the limits: `jsonapi.c`, `numeric.c`.

use super::number::{is_json_number, read_exponent, split_digits};

/// Deepest nesting of a document that is embedded.
///
/// Postgres's limit is its stack: with the default `max_stack_depth` of 2 MB, 15 and 18 take
/// 10,000 levels and refuse 15,000. Half of that leaves room for the row around the document.
pub const MAX_JSON_DEPTH: usize = 5_000;

/// Digits that `numeric` has before the point.
const NUMERIC_WHOLE_DIGITS: i64 = 131_072;
/// Digits that `numeric` has after the point.
const NUMERIC_SCALE: i64 = 16_383;
/// Exponents from which `numeric` refuses even a zero (half of C's `INT_MAX`).
const NUMERIC_EXPONENT: i64 = 1_073_741_823;

/// Whether `text` is one JSON document that `jsonb` can hold. Does not recurse.
pub(super) fn fits_jsonb(text: &[u8]) -> bool {
    Document {
        rest: text,
        open: Vec::new(),
    }
    .check()
    .is_some()
}

struct Document<'a> {
    rest: &'a [u8],
    /// The closing brackets still owed, innermost last.
    open: Vec<u8>,
}

impl Document<'_> {
    fn check(&mut self) -> Option<()> {
        loop {
            if !self.value()? {
                continue; // A container opened: its first value comes next.
            }
            loop {
                self.skip_space();
                let Some(&closer) = self.open.last() else {
                    return self.rest.is_empty().then_some(());
                };
                match self.next()? {
                    b',' if closer == b'}' => {
                        self.key()?;
                        break;
                    }
                    b',' => break,
                    byte if byte == closer => self.open.pop(),
                    _ => return None,
                };
            }
        }
    }

    /// Reads a scalar or an empty container (true), or opens a container up to where its first
    /// value stands (false).
    fn value(&mut self) -> Option<bool> {
        self.skip_space();
        match *self.rest.first()? {
            b'{' => self.open(b'}'),
            b'[' => self.open(b']'),
            b'"' => self.string().map(|()| true),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number().map(|()| true),
        }
    }

    fn open(&mut self, closer: u8) -> Option<bool> {
        self.next();
        self.skip_space();
        if self.rest.first() == Some(&closer) {
            self.next();
            return Some(true);
        }
        if self.open.len() >= MAX_JSON_DEPTH {
            return None;
        }
        self.open.push(closer);
        if closer == b'}' {
            self.key()?;
        }
        Some(false)
    }

    fn key(&mut self) -> Option<()> {
        self.skip_space();
        self.string()?;
        self.skip_space();
        (self.next()? == b':').then_some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<bool> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(true)
    }

    fn number(&mut self) -> Option<()> {
        let in_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let end = self.rest.iter().position(|byte| !in_number(byte));
        let (number, rest) = self.rest.split_at_checked(end.unwrap_or(self.rest.len()))?;
        self.rest = rest;
        (is_json_number(number) && fits_numeric(number)).then_some(())
    }

    fn string(&mut self) -> Option<()> {
        if self.next()? != b'"' {
            return None;
        }
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => self.escape()?,
                0..=0x1F => return None,
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => match self.code_unit()? {
                0 | 0xDC00..=0xDFFF => None,
                0xD800..=0xDBFF => {
                    self.rest = self.rest.strip_prefix(b"\\u")?;
                    matches!(self.code_unit()?, 0xDC00..=0xDFFF).then_some(())
                }
                _ => Some(()),
            },
            _ => None,
        }
    }

    fn code_unit(&mut self) -> Option<u32> {
        (0..4).try_fold(0, |unit, _| {
            let digit = char::from(self.next()?).to_digit(16)?;
            Some(unit << 4 | digit)
        })
    }

    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }
}

/// Whether `numeric` can hold a JSON number, as its input function decides.
fn fits_numeric(number: &[u8]) -> bool {
    let number = number.strip_prefix(b"-").unwrap_or(number);
    let (whole, rest) = split_digits(number);
    let (fraction, rest) = split_digits(rest.strip_prefix(b".").unwrap_or(rest));
    let exponent = rest.get(1..).map_or(0, read_exponent);
    if exponent.abs() >= NUMERIC_EXPONENT {
        return false;
    }
    let count = |digits: &[u8]| i64::try_from(digits.len()).unwrap_or(i64::MAX);
    if count(fraction).saturating_sub(exponent) > NUMERIC_SCALE {
        return false;
    }
    let leading_zeros = whole
        .iter()
        .chain(fraction)
        .position(|&digit| digit != b'0');
    leading_zeros.is_none_or(|zeros| {
        let zeros = i64::try_from(zeros).unwrap_or(i64::MAX);
        count(whole) - zeros + exponent <= NUMERIC_WHOLE_DIGITS
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_that_jsonb_refuses_are_told_from_those_it_takes() {
        for (text, fits) in [
            (
                r#" {"a": [1, {"b": null}], "a": "\u00e9\ud83d\ude00\n"} "#,
                true,
            ),
            (r"[[], {}, [ ], { }, true, false]", true),
            (r#""\u0000""#, false),
            (r#"{"\u0000": 1}"#, false),
            (r#""\\u0000""#, true),
            (r#""\ud83d""#, false),
            (r#""\ud83dx""#, false),
            (r#""\ud83d\ud83d""#, false),
            (r#""\ude00""#, false),
            ("1e131071", true),
            ("1e131072", false),
            ("0.01e131073", true),
            ("0.01e131074", false),
            ("1e-16383", true),
            ("1e-16384", false),
            ("1.0e-16383", false),
            ("0e200000", true),
            ("0e-16384", false),
            ("0e1073741822", true),
            ("0e99999999999999999999999", false),
            ("", false),
            ("1 2", false),
            ("[1,]", false),
            ("[1}", false),
            (r#"{"a"}"#, false),
            (r#"{"a":1,}"#, false),
            ("{1:1}", false),
            ("\"\u{1}\"", false),
            ("truex", false),
            ("nul", false),
        ] {
            assert_eq!(fits_jsonb(text.as_bytes()), fits, "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(fits_jsonb(nested(MAX_JSON_DEPTH).as_bytes()));
        assert!(!fits_jsonb(nested(MAX_JSON_DEPTH + 2).as_bytes()));
    }

    proptest! {
        #[test]
        fn the_grammar_is_serde_jsons(text in r#"([\[\]{},:" \\un0-9a-]|true|null|\\u12[0-9a-f]{2}){0,12}"#) {
            let raw = serde_json::from_str::<serde_json::Value>(&text);
            prop_assert_eq!(fits_jsonb(text.as_bytes()), raw.is_ok() && !text.contains(r"\u0000"), "{}", text);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            fits_jsonb(&bytes);
        }
    }
}
