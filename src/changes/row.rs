//! Rows: a relation's tuples as JSON objects, within a budget of bytes.
//!
//! The bytes that count are those of the text that `jsonb` prints of the rows: what is stored must
//! be small enough to be read back.

use std::ops::Range;
use std::rc::Rc;

use crate::pgoutput::{Tuple, TupleData};

use super::json_buffer::JsonBuffer;
use super::shape::Shape;
use super::value;

/// A column of a captured relation.
#[derive(Debug)]
pub(super) struct CapturedColumn {
    pub(super) name: Rc<str>,
    /// Its place in a tuple.
    pub(super) index: usize,
    /// The name as a JSON string, with the colon.
    pub(super) key: Vec<u8>,
    pub(super) is_key: bool,
    pub(super) shape: Shape,
}

/// A value in the send function's form, which is never asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column} came in binary, but text was asked for")]
pub struct BinaryValue {
    /// The column's name.
    pub column: String,
}

/// Which columns of a tuple count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All.
    Row,
    /// Those of the replica identity; in the others null says nothing.
    Key,
}

/// Where the members of the rows being written are, kept to spare an allocation for each row.
#[derive(Debug, Default)]
pub(super) struct Members(Vec<Member>);

#[derive(Debug)]
struct Member {
    column: Rc<str>,
    is_key: bool,
    /// The key and the value, without commas.
    span: Range<usize>,
    /// Where the value begins.
    value: usize,
    /// Bytes that `jsonb` adds to the value.
    growth: u64,
    /// The value is a document, embedded as it is.
    is_document: bool,
    as_text: bool,
}

impl Member {
    /// Its length when it is read back, in bytes, without spaces.
    fn printed_len(&self) -> u64 {
        self.span.len() as u64 + self.growth
    }
}

/// What one change has to say of its rows, apart from their JSON.
pub(super) struct Rows {
    pub(super) data: Range<usize>,
    pub(super) old: Option<Range<usize>>,
    pub(super) unchanged: Vec<Rc<str>>,
    pub(super) omitted: Vec<Rc<str>>,
    pub(super) as_text: Vec<Rc<str>>,
}

/// Writes the rows of one change, one after the other, at the end of a buffer.
///
/// While they are longer than the budget, the longest member that is not of the key goes. A document
/// that is shorter as a string of its text, since `jsonb` prints numbers in plain decimals, becomes
/// that first. The buffer never grows by more than three times the budget.
pub(super) struct RowWriter<'a> {
    json: &'a mut Vec<u8>,
    members: &'a mut Vec<Member>,
    start: usize,
    budget: usize,
    /// Bytes that `jsonb` adds to the values of the members.
    growth: u64,
    documents_as_text: bool,
    rows: Rows,
}

impl<'a> RowWriter<'a> {
    pub(super) fn new(
        json: &'a mut Vec<u8>,
        members: &'a mut Members,
        budget: usize,
        documents_as_text: bool,
    ) -> Self {
        members.0.clear();
        let start = json.len();
        Self {
            json,
            members: &mut members.0,
            start,
            budget,
            growth: 0,
            documents_as_text,
            rows: Rows {
                data: start..start,
                old: None,
                unchanged: Vec::new(),
                omitted: Vec::new(),
                as_text: Vec::new(),
            },
        }
    }

    /// Writes the row that is the change's `data`.
    pub(super) fn data(
        &mut self,
        columns: &[CapturedColumn],
        tuple: &Tuple<'_>,
        extent: Extent,
    ) -> Result<(), BinaryValue> {
        self.object(columns, tuple, extent)?;
        self.rows.data.end = self.json.len();
        Ok(())
    }

    /// Writes a `data` that has nothing to say.
    pub(super) fn empty_data(&mut self) {
        self.json.extend_from_slice(b"{}");
        self.rows.data.end = self.json.len();
    }

    /// Writes the row that is the change's `old`, after [`Self::data`].
    pub(super) fn old(
        &mut self,
        columns: &[CapturedColumn],
        tuple: &Tuple<'_>,
        extent: Extent,
    ) -> Result<(), BinaryValue> {
        let start = self.json.len();
        self.rows.old = Some(start..start);
        self.object(columns, tuple, extent)?;
        if let Some(old) = &mut self.rows.old {
            old.end = self.json.len();
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Rows {
        for member in self.members.iter().filter(|member| member.as_text) {
            name_once(&mut self.rows.as_text, &member.column);
        }
        self.rows
    }

    fn object(
        &mut self,
        columns: &[CapturedColumn],
        tuple: &Tuple<'_>,
        extent: Extent,
    ) -> Result<(), BinaryValue> {
        self.json.push(b'{');
        for column in columns {
            let Some(value) = tuple.values.get(column.index) else {
                continue;
            };
            if extent == Extent::Key && !column.is_key {
                continue;
            }
            match value {
                TupleData::Null => self.member(column, None),
                TupleData::Text(text) => self.member(column, Some(text)),
                TupleData::UnchangedToast => name_once(&mut self.rows.unchanged, &column.name),
                TupleData::Omitted => name_once(&mut self.rows.omitted, &column.name),
                TupleData::Binary(_) => {
                    return Err(BinaryValue {
                        column: column.name.to_string(),
                    });
                }
            }
        }
        self.json.push(b'}');
        self.fit_budget();
        Ok(())
    }

    fn member(&mut self, column: &CapturedColumn, text: Option<&[u8]>) {
        let before = self.json.len();
        if self.json.last() != Some(&b'{') {
            self.json.push(b',');
        }
        let start = self.json.len();
        let end = self.start.saturating_add(self.budget.saturating_mul(2));
        let mut json = JsonBuffer::new(self.json, end);
        if self.documents_as_text {
            json.refuse_documents();
        }
        json.push(&column.key);
        match text {
            None => json.push(b"null"),
            Some(text) => value::write(&column.shape, text, &mut json),
        }
        let (full, as_text, growth) = (json.is_full(), json.is_as_text(), json.growth());
        if full {
            self.json.truncate(before);
            return name_once(&mut self.rows.omitted, &column.name);
        }
        self.members.push(Member {
            column: Rc::clone(&column.name),
            is_key: column.is_key,
            span: start..self.json.len(),
            value: start + column.key.len(),
            growth,
            is_document: matches!(column.shape, Shape::Json) && text.is_some() && !as_text,
            as_text,
        });
        self.growth += growth;
        self.fit_budget();
    }

    /// Shortens the rows until they fit the budget as `jsonb` prints them.
    fn fit_budget(&mut self) {
        while self.printed_len() > self.budget as u64 {
            let members = self.members.iter().enumerate();
            let longest = members.max_by_key(|(_, member)| (!member.is_key, member.printed_len()));
            let Some(index) = longest.map(|(index, _)| index) else {
                return;
            };
            if !self.quote_document(index) {
                self.omit(index);
            }
        }
    }

    /// How long the rows are when they are read back, in bytes: at most that, and at least two less.
    fn printed_len(&self) -> u64 {
        let written = self.json.len() - self.start;
        // jsonb prints a space after the comma before a member, if it is not the first, and one
        // after the key's colon.
        let spaces = 2 * self.members.len();
        (written + spaces) as u64 + self.growth
    }

    /// Makes a string of the text of a member's document, if that fits the budget and is shorter
    /// than what `jsonb` prints of the document.
    fn quote_document(&mut self, index: usize) -> bool {
        let Some(member) = self
            .members
            .get_mut(index)
            .filter(|member| member.is_document)
        else {
            return false;
        };
        let value = member.value..member.span.end;
        let mut quoted = Vec::new();
        let mut json = JsonBuffer::new(&mut quoted, self.budget);
        json.push_string(self.json.get(value.clone()).unwrap_or_default());
        let is_too_long = json.is_full();
        if is_too_long || quoted.len() as u64 >= value.len() as u64 + member.growth {
            return false;
        }
        (member.is_document, member.as_text) = (false, true);
        self.growth -= std::mem::take(&mut member.growth);
        self.replace(value, &quoted);
        true
    }

    /// Takes a member out and names its column.
    fn omit(&mut self, index: usize) {
        let Member {
            column,
            span,
            growth,
            ..
        } = self.members.remove(index);
        name_once(&mut self.rows.omitted, &column);
        self.growth -= growth;
        let span = if self.json.get(span.end) == Some(&b',') {
            span.start..span.end + 1
        } else if self.json.get(span.start.wrapping_sub(1)) == Some(&b',') {
            span.start - 1..span.end
        } else {
            span
        };
        self.replace(span, b"");
    }

    /// Replaces bytes of the JSON, and follows all that comes after them.
    fn replace(&mut self, bytes: Range<usize>, by: &[u8]) {
        let end = bytes.end;
        let (shorter, longer) = (bytes.len(), by.len());
        self.json.splice(bytes, by.iter().copied());
        let follow = |at: &mut usize| {
            if *at >= end {
                *at = *at - shorter + longer;
            }
        };
        for member in self.members.iter_mut() {
            follow(&mut member.span.start);
            follow(&mut member.span.end);
            follow(&mut member.value);
        }
        follow(&mut self.rows.data.end);
        if let Some(old) = &mut self.rows.old {
            follow(&mut old.start);
            follow(&mut old.end);
        }
    }
}

fn name_once(names: &mut Vec<Rc<str>>, name: &Rc<str>) {
    if !names.contains(name) {
        names.push(Rc::clone(name));
    }
}
