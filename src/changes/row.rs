//! Rows: a relation's tuples as JSON objects, within a budget of bytes.

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
    /// The key and the value, without commas.
    span: Range<usize>,
    as_text: bool,
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
/// While they are longer than the budget, the longest member goes; the buffer never grows by more
/// than twice the budget.
pub(super) struct RowWriter<'a> {
    json: &'a mut Vec<u8>,
    members: &'a mut Vec<Member>,
    start: usize,
    budget: usize,
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
        let (full, as_text) = (json.is_full(), json.is_as_text());
        if full {
            self.json.truncate(before);
            return name_once(&mut self.rows.omitted, &column.name);
        }
        self.members.push(Member {
            column: Rc::clone(&column.name),
            span: start..self.json.len(),
            as_text,
        });
        while self.json.len() - self.start > self.budget && self.drop_longest() {}
    }

    /// Takes the longest member out; false when there is none.
    fn drop_longest(&mut self) -> bool {
        let longest = self
            .members
            .iter()
            .enumerate()
            .max_by_key(|(_, member)| member.span.len());
        let Some((index, _)) = longest else {
            return false;
        };
        let Member { column, span, .. } = self.members.remove(index);
        name_once(&mut self.rows.omitted, &column);
        let (start, end) = if self.json.get(span.end) == Some(&b',') {
            (span.start, span.end + 1)
        } else if self.json.get(span.start.wrapping_sub(1)) == Some(&b',') {
            (span.start - 1, span.end)
        } else {
            (span.start, span.end)
        };
        self.json.drain(start..end);
        self.move_back(start, end - start);
        true
    }

    /// Follows the bytes behind `position`, which moved forward by `by`.
    fn move_back(&mut self, position: usize, by: usize) {
        let moved = |at: &mut usize| {
            if *at > position {
                *at -= by;
            }
        };
        for member in self.members.iter_mut() {
            moved(&mut member.span.start);
            moved(&mut member.span.end);
        }
        moved(&mut self.rows.data.end);
        if let Some(old) = &mut self.rows.old {
            moved(&mut old.start);
            moved(&mut old.end);
        }
    }
}

fn name_once(names: &mut Vec<Rc<str>>, name: &Rc<str>) {
    if !names.contains(name) {
        names.push(Rc::clone(name));
    }
}
