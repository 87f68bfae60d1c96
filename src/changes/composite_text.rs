//! Parsers of Postgres's text forms of arrays, rows and `hstore`.
//!
//! Source: PostgreSQL documentation, "Array Input and Output Syntax", "Composite Type Input and
//! Output Syntax", "hstore". They accept what the output functions write, and nothing else.

use std::borrow::Cow;

/// The text is not in the form that the type's output function writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A token of an array's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ArrayToken<'a> {
    /// `{`
    Open,
    /// `}`
    Close,
    /// The delimiter.
    Delimiter,
    /// An element; `None` for null.
    Element(Option<Cow<'a, [u8]>>),
}

/// Reads an array's text token by token: `[0:1]={"a b",NULL}`.
pub(super) struct ArrayText<'a> {
    rest: &'a [u8],
    delimiter: u8,
}

impl<'a> ArrayText<'a> {
    /// Skips the bounds, which precede the braces if a lower bound is not 1.
    pub(super) fn new(text: &'a [u8], delimiter: u8) -> Self {
        let rest = match text.first() {
            Some(b'[') => match text.iter().position(|&byte| byte == b'=') {
                Some(at) => text.get(at + 1..).unwrap_or_default(),
                None => text,
            },
            _ => text,
        };
        Self { rest, delimiter }
    }

    /// Returns the next token; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<ArrayToken<'a>>, Malformed> {
        let Some((&first, tail)) = self.rest.split_first() else {
            return Ok(None);
        };
        let token = match first {
            b'{' => ArrayToken::Open,
            b'}' => ArrayToken::Close,
            _ if first == self.delimiter => ArrayToken::Delimiter,
            b'"' => {
                let (element, rest) = quoted(tail)?;
                self.rest = rest;
                return Ok(Some(ArrayToken::Element(Some(element))));
            }
            _ => return self.bare().map(Some),
        };
        self.rest = tail;
        Ok(Some(token))
    }

    fn bare(&mut self) -> Result<ArrayToken<'a>, Malformed> {
        let delimiter = self.delimiter;
        let (element, rest) = split_before(self.rest, |byte| byte == delimiter || byte == b'}')?;
        self.rest = rest;
        let element = (element != b"NULL").then_some(Cow::Borrowed(element));
        Ok(ArrayToken::Element(element))
    }
}

/// Reads a row's text, `(1,,"a ""b""")`, attribute by attribute.
pub(super) struct RecordText<'a> {
    /// The text after the last attribute read; `None` after the closing parenthesis.
    rest: Option<&'a [u8]>,
}

impl<'a> RecordText<'a> {
    pub(super) fn new(text: &'a [u8]) -> Result<Self, Malformed> {
        let rest = text.strip_prefix(b"(").ok_or(Malformed)?;
        Ok(Self { rest: Some(rest) })
    }

    /// Returns the next attribute's text, `None` for null. Fails after the last one.
    pub(super) fn next(&mut self) -> Result<Option<Cow<'a, [u8]>>, Malformed> {
        let rest = self.rest.take().ok_or(Malformed)?;
        let (value, rest) = match rest {
            [b',' | b')', ..] => (None, rest),
            [b'"', quoted_text @ ..] => {
                let (value, rest) = quoted(quoted_text)?;
                (Some(value), rest)
            }
            _ => {
                let (value, rest) = split_before(rest, |byte| byte == b',' || byte == b')')?;
                (Some(Cow::Borrowed(value)), rest)
            }
        };
        self.rest = match rest {
            [b',', rest @ ..] => Some(rest),
            b")" => None,
            _ => return Err(Malformed),
        };
        Ok(value)
    }

    /// Succeeds if every attribute was read. The text of a row without attributes is that of a row
    /// with one null.
    pub(super) fn end(mut self, attributes: usize) -> Result<(), Malformed> {
        if attributes == 0 {
            self.next()?;
        }
        self.rest.is_none().then_some(()).ok_or(Malformed)
    }
}

/// A pair of an `hstore`: the key, and the value, `None` for null.
pub(super) type HstorePair<'a> = (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>);

/// Reads an `hstore`'s text pair by pair: `"a"=>"1", "b"=>NULL`.
pub(super) struct HstoreText<'a> {
    rest: &'a [u8],
    first: bool,
}

impl<'a> HstoreText<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self {
            rest: text,
            first: true,
        }
    }

    /// Returns the next pair; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<HstorePair<'a>>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        if !std::mem::take(&mut self.first) {
            self.rest = self.rest.strip_prefix(b", ").ok_or(Malformed)?;
        }
        let (key, rest) = quoted(self.rest.strip_prefix(b"\"").ok_or(Malformed)?)?;
        let rest = rest.strip_prefix(b"=>").ok_or(Malformed)?;
        let (value, rest) = match rest.strip_prefix(b"\"") {
            Some(rest) => {
                let (value, rest) = quoted(rest)?;
                (Some(value), rest)
            }
            None => (None, rest.strip_prefix(b"NULL").ok_or(Malformed)?),
        };
        self.rest = rest;
        Ok(Some((key, value)))
    }
}

/// Reads up to the closing quote. A backslash makes the next byte literal. Two quotes stand for one:
/// only rows write that, and elsewhere no quote follows a closing quote.
fn quoted(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), Malformed> {
    let (plain, mut rest) = split_before(text, |byte| byte == b'"' || byte == b'\\')?;
    if let Some(after) = closing_quote(rest) {
        return Ok((Cow::Borrowed(plain), after));
    }
    let mut value = plain.to_vec();
    loop {
        if let Some(after) = closing_quote(rest) {
            return Ok((Cow::Owned(value), after));
        }
        let [b'"' | b'\\', escaped, tail @ ..] = rest else {
            return Err(Malformed);
        };
        value.push(*escaped);
        let (plain, next) = split_before(tail, |byte| byte == b'"' || byte == b'\\')?;
        value.extend_from_slice(plain);
        rest = next;
    }
}

/// The text after a quote that is not doubled.
fn closing_quote(text: &[u8]) -> Option<&[u8]> {
    match text {
        [b'"', b'"', ..] => None,
        [b'"', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// Splits before the first byte that is wanted. Fails if there is none.
fn split_before(text: &[u8], wanted: impl Fn(u8) -> bool) -> Result<(&[u8], &[u8]), Malformed> {
    let at = text.iter().position(|&byte| wanted(byte));
    at.and_then(|at| text.split_at_checked(at)).ok_or(Malformed)
}
