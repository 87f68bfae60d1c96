//! Writes a relation's tuples as JSON objects, within a budget of bytes.
//!
//! The budget limits the text that `jsonb` prints for the rows, because what is stored must be small
//! enough to be read back.

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
    /// Its index in a tuple.
    pub(super) index: usize,
    /// The name as a JSON string, with the colon.
    pub(super) key: Vec<u8>,
    pub(super) is_key: bool,
    pub(super) shape: Shape,
}

/// A value in binary format, which is never requested.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column} was sent in binary format, but text was requested")]
pub struct BinaryValue {
    /// The column's name.
    pub column: String,
}

/// The columns that a tuple has values of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnSet {
    /// All.
    All,
    /// Those of the replica identity. The nulls in the others mean nothing.
    Key,
}

/// The members of the rows that are being written. Reused, to save an allocation for each row.
#[derive(Debug, Default)]
pub(super) struct MemberList(Vec<Member>);

#[derive(Debug)]
struct Member {
    column: Rc<str>,
    is_key: bool,
    /// Where its key and value are, without commas.
    span: Range<usize>,
    /// Where its value begins.
    value: usize,
    /// Bytes that `jsonb` adds to the value.
    growth: u64,
    /// The value is an embedded document.
    is_document: bool,
    as_text: bool,
}

impl Member {
    /// Its length in bytes when it is read back, without spaces.
    fn printed_len(&self) -> u64 {
        self.span.len() as u64 + self.growth
    }
}

/// Where the JSON of a change's rows is, and what it lacks.
pub(super) struct WrittenRows {
    pub(super) data: Range<usize>,
    pub(super) old: Option<Range<usize>>,
    pub(super) unchanged: Vec<Rc<str>>,
    pub(super) omitted: Vec<Rc<str>>,
    pub(super) as_text: Vec<Rc<str>>,
}

/// Writes the rows of a change, one after the other, at the end of a buffer.
///
/// While they exceed the budget, the longest member is omitted, and members of the key last. A
/// document becomes a string of its text first if that is shorter, which it is if `jsonb` would
/// expand numbers. The buffer never grows by more than three times the budget.
pub(super) struct RowWriter<'a> {
    json: &'a mut Vec<u8>,
    members: &'a mut Vec<Member>,
    start: usize,
    budget: usize,
    /// Bytes that `jsonb` adds to the members' values.
    growth: u64,
    documents_as_text: bool,
    rows: WrittenRows,
}

impl<'a> RowWriter<'a> {
    pub(super) fn new(
        json: &'a mut Vec<u8>,
        members: &'a mut MemberList,
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
            rows: WrittenRows {
                data: start..start,
                old: None,
                unchanged: Vec::new(),
                omitted: Vec::new(),
                as_text: Vec::new(),
            },
        }
    }

    /// Writes the row that is the change's `data`.
    pub(super) fn write_data(
        &mut self,
        columns: &[CapturedColumn],
        tuple: &Tuple<'_>,
        column_set: ColumnSet,
    ) -> Result<(), BinaryValue> {
        self.write_object(columns, tuple, column_set)?;
        self.rows.data.end = self.json.len();
        Ok(())
    }

    /// Writes an empty object as `data`.
    pub(super) fn write_empty_data(&mut self) {
        self.json.extend_from_slice(b"{}");
        self.rows.data.end = self.json.len();
    }

    /// Writes the row that is the change's `old`, after [`Self::write_data`].
    pub(super) fn write_old(
        &mut self,
        columns: &[CapturedColumn],
        tuple: &Tuple<'_>,
        column_set: ColumnSet,
    ) -> Result<(), BinaryValue> {
        let start = self.json.len();
        self.rows.old = Some(start..start);
        self.write_object(columns, tuple, column_set)?;
        if let Some(old) = &mut self.rows.old {
            old.end = self.json.len();
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> WrittenRows {
        for member in self.members.iter().filter(|member| member.as_text) {
            add_name(&mut self.rows.as_text, &member.column);
        }
        self.rows
    }

    fn write_object(
        &mut self,
        columns: &[CapturedColumn],
        tuple: &Tuple<'_>,
        column_set: ColumnSet,
    ) -> Result<(), BinaryValue> {
        self.json.push(b'{');
        for column in columns {
            let Some(value) = tuple.values.get(column.index) else {
                continue;
            };
            if column_set == ColumnSet::Key && !column.is_key {
                continue;
            }
            match value {
                TupleData::Null => self.write_member(column, None),
                TupleData::Text(text) => self.write_member(column, Some(text)),
                TupleData::UnchangedToast => add_name(&mut self.rows.unchanged, &column.name),
                TupleData::Omitted => add_name(&mut self.rows.omitted, &column.name),
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

    fn write_member(&mut self, column: &CapturedColumn, text: Option<&[u8]>) {
        let before = self.json.len();
        if self.json.last() != Some(&b'{') {
            self.json.push(b',');
        }
        let start = self.json.len();
        let end = self.start.saturating_add(self.budget.saturating_mul(2));
        let mut json = JsonBuffer::new(self.json, end);
        if self.documents_as_text {
            json.write_documents_as_text();
        }
        json.push(&column.key);
        match text {
            None => json.push(b"null"),
            Some(text) => value::write(&column.shape, text, &mut json),
        }
        let (full, as_text, growth) = (json.is_full(), json.is_as_text(), json.growth());
        if full {
            self.json.truncate(before);
            return add_name(&mut self.rows.omitted, &column.name);
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

    /// The length in bytes of the rows when they are read back, or up to two more.
    fn printed_len(&self) -> u64 {
        let written = self.json.len() - self.start;
        // jsonb prints a space after the key's colon, and one before the key if it is not the first.
        let spaces = 2 * self.members.len();
        (written + spaces) as u64 + self.growth
    }

    /// Replaces a member's document by a string of its text, if that fits the budget and is shorter
    /// than what `jsonb` prints for the document.
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

    /// Removes a member and names its column.
    fn omit(&mut self, index: usize) {
        let Member {
            column,
            span,
            growth,
            ..
        } = self.members.remove(index);
        add_name(&mut self.rows.omitted, &column);
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

    /// Replaces bytes of the JSON, and adjusts the positions after them.
    fn replace(&mut self, bytes: Range<usize>, by: &[u8]) {
        let end = bytes.end;
        let (shorter, longer) = (bytes.len(), by.len());
        self.json.splice(bytes, by.iter().copied());
        let adjust = |at: &mut usize| {
            if *at >= end {
                *at = *at - shorter + longer;
            }
        };
        for member in self.members.iter_mut() {
            adjust(&mut member.span.start);
            adjust(&mut member.span.end);
            adjust(&mut member.value);
        }
        adjust(&mut self.rows.data.end);
        if let Some(old) = &mut self.rows.old {
            adjust(&mut old.start);
            adjust(&mut old.end);
        }
    }
}

fn add_name(names: &mut Vec<Rc<str>>, name: &Rc<str>) {
    if !names.contains(name) {
        names.push(Rc::clone(name));
    }
}
