//! JSON written directly into a byte buffer, up to a limit.

/// Appends JSON to a byte buffer. Once something does not fit before `end`, nothing more is appended.
pub(super) struct JsonBuffer<'a> {
    bytes: &'a mut Vec<u8>,
    end: usize,
    full: bool,
    growth: u64,
    as_text: bool,
    embeds_documents: bool,
}

/// A place in a [`JsonBuffer`] to return to.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    len: usize,
    growth: u64,
}

impl<'a> JsonBuffer<'a> {
    /// Appends to `bytes` until their length is `end`.
    pub(super) fn new(bytes: &'a mut Vec<u8>, end: usize) -> Self {
        Self {
            bytes,
            end,
            full: false,
            growth: 0,
            as_text: false,
            embeds_documents: true,
        }
    }

    /// From now on [`Self::embeds_documents`] is false.
    pub(super) fn write_documents_as_text(&mut self) {
        self.embeds_documents = false;
    }

    /// Whether documents are embedded as they are, not written as strings of their text.
    pub(super) fn embeds_documents(&self) -> bool {
        self.embeds_documents
    }

    /// Whether something did not fit.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Whether [`Self::mark_as_text`] was called.
    pub(super) fn is_as_text(&self) -> bool {
        self.as_text
    }

    /// Records that a string was written where `to_jsonb` returns something else.
    pub(super) fn mark_as_text(&mut self) {
        self.as_text = true;
    }

    /// By how many bytes `jsonb` prints what was appended longer: with a space after each comma and
    /// colon, and with numbers in plain decimals.
    pub(super) fn growth(&self) -> u64 {
        self.growth
    }

    /// Marks the current end of the buffer.
    pub(super) fn mark(&self) -> Mark {
        let (len, growth) = (self.bytes.len(), self.growth);
        Mark { len, growth }
    }

    /// Removes what was appended after `mark`.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.bytes.truncate(mark.len);
        self.growth = mark.growth;
    }

    /// Appends JSON.
    pub(super) fn push(&mut self, json: &[u8]) {
        if self.full || json.len() > self.end.saturating_sub(self.bytes.len()) {
            self.full = true;
        } else {
            self.bytes.extend_from_slice(json);
        }
    }

    /// Appends JSON that ends with a comma or a colon.
    pub(super) fn push_separated(&mut self, json: &[u8]) {
        self.push(json);
        self.growth += 1;
    }

    /// Appends a document, which `jsonb` prints as `printed` bytes.
    pub(super) fn push_document(&mut self, json: &[u8], printed: usize) {
        self.push(json);
        self.growth += printed.saturating_sub(json.len()) as u64;
    }

    /// Appends UTF-8 text as a JSON string.
    pub(super) fn push_string(&mut self, text: &[u8]) {
        self.push(b"\"");
        self.push_escaped(text);
        self.push(b"\"");
    }

    /// Appends UTF-8 text as part of a JSON string, without the quotes.
    pub(super) fn push_escaped(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some(at) = rest.iter().position(|&byte| needs_escape(byte)) {
            let Some((plain, [byte, tail @ ..])) = rest.split_at_checked(at) else {
                break;
            };
            self.push(plain);
            self.push_escape(*byte);
            rest = tail;
        }
        self.push(rest);
    }

    fn push_escape(&mut self, byte: u8) {
        match byte {
            b'"' => self.push(b"\\\""),
            b'\\' => self.push(b"\\\\"),
            b'\n' => self.push(b"\\n"),
            b'\r' => self.push(b"\\r"),
            b'\t' => self.push(b"\\t"),
            _ => {
                let hex =
                    |nibble: u8| char::from_digit(u32::from(nibble), 16).map_or(b'0', |c| c as u8);
                self.push(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 0xF)]);
            }
        }
    }
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// A JSON object's key with its colon.
pub(super) fn json_key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 3);
    JsonBuffer::new(&mut key, usize::MAX).push_string(name.as_bytes());
    key.push(b':');
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_appended_past_the_end() {
        let mut bytes = b"12".to_vec();
        let mut buffer = JsonBuffer::new(&mut bytes, 4);
        buffer.push(b"345");
        buffer.push(b"6");
        assert!(buffer.is_full());
        assert_eq!(bytes, b"12");
    }

    proptest! {
        #[test]
        fn a_string_reads_back_as_its_text(text: String) {
            let key = json_key(&text);
            let read: String = serde_json::from_slice(&key[..key.len() - 1]).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
