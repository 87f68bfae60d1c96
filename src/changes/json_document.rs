//! Which `json` documents `jsonb` can hold, and how long its text of them is.
//!
//! Postgres's `json` accepts any text that matches the grammar. `jsonb` also interprets it, and
//! refuses `\u0000`, lone surrogates and numbers beyond `numeric` (PostgreSQL documentation, "JSON
//! Types"). Source of the limits: `jsonapi.c`, `numeric.c`.

use super::number::{PlainDecimal, is_json_number};

/// The deepest nesting of a document that is embedded.
///
/// Postgres is limited by its stack: with the default `max_stack_depth` of 2 MB, versions 15 and 18
/// accept 10,000 levels and refuse 15,000. Half of that leaves room for the row around the document.
pub const MAX_JSON_DEPTH: usize = 5_000;

/// The length in bytes of the text that `jsonb` prints for the document `text`; `None` if `text` is
/// not one document that `jsonb` can hold. Does not recurse.
///
/// The text is shorter if keys repeat, since `jsonb` keeps only the last of them.
pub(super) fn jsonb_text_len(text: &[u8]) -> Option<usize> {
    let mut document = Document {
        rest: text,
        open: Vec::new(),
        shorter: 0,
        longer: 0,
    };
    document.check()?;
    let kept = text.len().saturating_sub(document.shorter);
    Some(kept.saturating_add(document.longer))
}

struct Document<'a> {
    rest: &'a [u8],
    /// The closing brackets that are due, innermost last.
    open: Vec<u8>,
    /// Bytes that `jsonb` does not print: white space, and escapes of characters.
    shorter: usize,
    /// Bytes that `jsonb` adds: a space after each comma and colon, and the zeros of numbers with an
    /// exponent.
    longer: usize,
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
                    b',' => {
                        self.add(1);
                        if closer == b'}' {
                            self.key()?;
                        }
                        break;
                    }
                    byte if byte == closer => self.open.pop(),
                    _ => return None,
                };
            }
        }
    }

    /// Reads a scalar or an empty container and returns true, or reads a container up to its first
    /// value and returns false.
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
        self.add(1);
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
        if !is_json_number(number) {
            return None;
        }
        let printed = PlainDecimal::read(number)?.len();
        self.add(printed.saturating_sub(number.len()));
        self.shorter += number.len().saturating_sub(printed);
        Some(())
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
            b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => {}
            b'/' => self.shorter += 1,
            b'u' => self.shorter += self.unicode_escape()?,
            _ => return None,
        }
        Some(())
    }

    /// Reads what follows `\u`. Returns by how many bytes `jsonb` prints the escape shorter.
    fn unicode_escape(&mut self) -> Option<usize> {
        let shorter = match self.code_unit()? {
            0 | 0xDC00..=0xDFFF => return None,
            // \b, \t, \n, \f, \r, \" and \\, and characters of two bytes.
            0x08..=0x0A | 0x0C | 0x0D | 0x22 | 0x5C | 0x80..=0x7FF => 4,
            0x01..=0x1F => 0,
            0x20..=0x7F => 5,
            0xD800..=0xDBFF => {
                self.rest = self.rest.strip_prefix(b"\\u")?;
                if !matches!(self.code_unit()?, 0xDC00..=0xDFFF) {
                    return None;
                }
                8
            }
            _ => 3,
        };
        Some(shorter)
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
            self.shorter += 1;
        }
    }

    fn add(&mut self, bytes: usize) {
        // A document of a few megabytes can come out longer than 32 bits can count.
        self.longer = self.longer.saturating_add(bytes);
    }

    fn next(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_documents_that_jsonb_accepts_have_a_length() {
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
            assert_eq!(jsonb_text_len(text.as_bytes()).is_some(), fits, "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(jsonb_text_len(nested(MAX_JSON_DEPTH).as_bytes()).is_some());
        assert!(jsonb_text_len(nested(MAX_JSON_DEPTH + 2).as_bytes()).is_none());
    }

    /// As printed by PostgreSQL 15 and 18.
    #[test]
    fn the_length_of_a_document_is_that_of_the_text_that_jsonb_prints() {
        for (text, printed) in [
            ("[1,2,[]]", "[1, 2, []]"),
            (
                " { \"a\" :\n[1 , 2],\"b\":{} } ",
                r#"{"a": [1, 2], "b": {}}"#,
            ),
            ("[1e3,-1.5E-2,0e-2]", "[1000, -0.015, 0.00]"),
            ("[-0,-0.0,0e9]", "[0, 0.0, 0]"),
            (
                r#""\b\f\n\u0001\u000a\u007f\u00e9\ud83d\ude00\/\u2028\u0022\u005c""#,
                "\"\\b\\f\\n\\u0001\\n\u{7f}é😀/\u{2028}\\\"\\\\\"",
            ),
        ] {
            assert_eq!(
                jsonb_text_len(text.as_bytes()),
                Some(printed.len()),
                "{text}"
            );
        }
        let zeros = format!("[{}1]", "1e131000,".repeat(150));
        assert_eq!(jsonb_text_len(zeros.as_bytes()), Some(150 * 131_003 + 3));
    }

    proptest! {
        #[test]
        fn the_grammar_is_serde_jsons(text in r#"([\[\]{},:" \\un0-9a-]|true|null|\\u12[0-9a-f]{2}){0,12}"#) {
            let raw = serde_json::from_str::<serde_json::Value>(&text);
            prop_assert_eq!(jsonb_text_len(text.as_bytes()).is_some(), raw.is_ok() && !text.contains(r"\u0000"), "{}", text);
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            jsonb_text_len(&bytes);
        }
    }
}
