//! The `changes` frames that a view receives for a range of changes.

use std::ops::Range;

use super::sink::Sink;
use crate::clients::{
    ChangeRange, ChangesFrame, Position, SchemaHistory, View, Visible, redact_stored,
};

/// A request for frames: everything that their text depends on, beside the changes.
#[derive(Clone, Copy, Debug)]
pub struct FrameRequest<'a> {
    /// What the consumer may see and asked for.
    pub view: &'a View,
    /// The consumer has everything up to here.
    pub after: i64,
    /// The `from` of the first frame.
    pub last_sent: Position,
    /// Whether the consumer is catching up.
    pub catch_up: bool,
}

/// A `changes` frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its JSON, as a WebSocket client gets it.
    pub text: String,
    /// Where in the text the changes are, without their brackets.
    changes: Range<usize>,
    /// Its consumer's position afterwards.
    pub to: Position,
}

impl Frame {
    /// The JSON of the changes, joined by commas.
    pub fn changes(&self) -> &str {
        self.text.get(self.changes.clone()).unwrap_or_default()
    }

    fn finish(open: ChangesFrame, to: Position, catch_up: bool) -> Self {
        let changes = open.changes();
        Self {
            text: open.finish(to, catch_up),
            changes,
            to,
        }
    }
}

impl FrameRequest<'_> {
    /// Puts those changes of a range that the view gets into frames of about a mebibyte, in order.
    /// The last frame's `to` is the end of the range. Empty if the view gets none of its changes.
    pub fn frames(self, schemas: &SchemaHistory, range: &ChangeRange<'_>) -> Vec<Frame> {
        let seen = self.see(schemas, range);
        self.frames_of(&seen, range)
    }

    /// Which rows of each change after `after` the view gets.
    fn see(self, schemas: &SchemaHistory, range: &ChangeRange<'_>) -> Vec<Visible> {
        let changes = range.after(self.after).iter();
        changes
            .map(|change| self.view.see(change, schemas))
            .collect()
    }

    fn frames_of(self, seen: &[Visible], range: &ChangeRange<'_>) -> Vec<Frame> {
        let position = |id| Position {
            id,
            ..self.last_sent
        };
        let mut frames = Vec::new();
        let (mut open, mut last) = (ChangesFrame::new(self.last_sent), self.last_sent.id);
        for (change, &visible) in range.after(self.after).iter().zip(seen) {
            let Some(json) = redact_stored(change, visible) else {
                continue;
            };
            if !open.push(&json) {
                let next = ChangesFrame::new(position(last));
                let full = std::mem::replace(&mut open, next);
                frames.push(Frame::finish(full, position(last), self.catch_up));
                // An empty frame accepts any change.
                let _ = open.push(&json);
            }
            last = change.id();
        }
        if !open.is_empty() {
            let to = position(range.through());
            frames.push(Frame::finish(open, to, self.catch_up));
        }
        frames
    }
}

/// A frame in the sink's form.
#[derive(Debug)]
pub(super) struct EncodedFrame<T> {
    pub(super) to: i64,
    pub(super) bytes: usize,
    pub(super) encoded: T,
}

/// The frames of one range. A consumer with a filter of its own often gets the same frames as the
/// consumer before it, so the last ones are kept.
pub(super) struct FrameCache<'a, S: Sink> {
    range: &'a ChangeRange<'a>,
    key: Option<CacheKey>,
    frames: Vec<EncodedFrame<S::Encoded>>,
}

/// Everything that the text of frames depends on, beside the range.
#[derive(PartialEq, Eq)]
struct CacheKey {
    after: i64,
    last_sent: Position,
    catch_up: bool,
    seen: Vec<Visible>,
}

impl<'a, S: Sink> FrameCache<'a, S> {
    pub(super) fn of(range: &'a ChangeRange<'a>) -> Self {
        Self {
            range,
            key: None,
            frames: Vec::new(),
        }
    }

    /// The id that the range goes up to.
    pub(super) fn through(&self) -> i64 {
        self.range.through()
    }

    /// The frames for a request.
    pub(super) fn frames(
        &mut self,
        request: FrameRequest<'_>,
        schemas: &SchemaHistory,
    ) -> &[EncodedFrame<S::Encoded>] {
        let key = CacheKey {
            after: request.after,
            last_sent: request.last_sent,
            catch_up: request.catch_up,
            seen: request.see(schemas, self.range),
        };
        if self.key.as_ref() != Some(&key) {
            let frames = request.frames_of(&key.seen, self.range).into_iter();
            let encoded = frames.map(|frame| EncodedFrame {
                to: frame.to.id,
                bytes: frame.text.len(),
                encoded: S::encode(frame),
            });
            self.frames = encoded.collect();
            self.key = Some(key);
        }
        &self.frames
    }
}
