//! What of a stretch of the feed a view gets, as `changes` frames.

use super::change::Visible;
use super::position::Position;
use super::relation_log::RelationLog;
use super::server_message::ChangesFrame;
use super::stretch::Stretch;
use super::subscriber::Outlet;
use super::subscription::{View, redacted};
use crate::error::Result;

/// Who asks for frames.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What it may see, and wants to.
    pub view: &'a View,
    /// It has what is up to here.
    pub after: i64,
    /// The `from` of its first frame.
    pub told: Position,
    /// Whether it catches up.
    pub catch_up: bool,
}

/// A `changes` frame, ready to be sent.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its JSON.
    pub text: String,
    /// Where its reader stands afterwards.
    pub to: i64,
}

impl Ask<'_> {
    /// Puts those changes of a stretch that the view gets into frames of about a mebibyte, in order;
    /// the last one's `to` is the stretch's end. None: nothing of it is for the view.
    ///
    /// Fails with what [`View::see`] fails with.
    pub fn frames(self, relations: &RelationLog, stretch: &Stretch<'_>) -> Result<Vec<Frame>> {
        let seen = self.see(relations, stretch)?;
        self.frames_of(&seen, stretch)
    }

    /// What of each change behind `after` the view gets.
    fn see(self, relations: &RelationLog, stretch: &Stretch<'_>) -> Result<Vec<Visible>> {
        let changes = stretch.behind(self.after).iter();
        changes
            .map(|passing| self.view.see(passing, relations))
            .collect()
    }

    fn frames_of(self, seen: &[Visible], stretch: &Stretch<'_>) -> Result<Vec<Frame>> {
        let position = |id| Position { id, ..self.told };
        let mut frames = Vec::new();
        let (mut open, mut last) = (ChangesFrame::new(self.told), self.told.id);
        for (passing, &visible) in stretch.behind(self.after).iter().zip(seen) {
            let Some(json) = redacted(passing, visible)? else {
                continue;
            };
            if !open.push(&json) {
                let next = ChangesFrame::new(position(last));
                let full = std::mem::replace(&mut open, next);
                frames.push(Frame {
                    text: full.finish(position(last), self.catch_up),
                    to: last,
                });
                // An empty frame takes any change.
                let _ = open.push(&json);
            }
            last = passing.id();
        }
        if !open.is_empty() {
            let to = stretch.through();
            frames.push(Frame {
                text: open.finish(position(to), self.catch_up),
                to,
            });
        }
        Ok(frames)
    }
}

/// A frame in the platform's form.
#[derive(Debug)]
pub(super) struct Ready<T> {
    pub(super) to: i64,
    pub(super) bytes: usize,
    pub(super) text: T,
}

/// The frames of one stretch. Who has a filter of its own often gets what the one before got.
pub(super) struct ReadyFrames<'a, O: Outlet> {
    stretch: &'a Stretch<'a>,
    /// What the ready ones were made of.
    made: Option<Made>,
    ready: Vec<Ready<O::Text>>,
}

/// All that the text of frames depends on, beside the stretch.
#[derive(PartialEq, Eq)]
struct Made {
    after: i64,
    told: Position,
    catch_up: bool,
    seen: Vec<Visible>,
}

impl<'a, O: Outlet> ReadyFrames<'a, O> {
    pub(super) fn of(stretch: &'a Stretch<'a>) -> Self {
        Self {
            stretch,
            made: None,
            ready: Vec::new(),
        }
    }

    /// How far they go.
    pub(super) fn through(&self) -> i64 {
        self.stretch.through()
    }

    /// Those that are due to who asks.
    pub(super) fn due_to(
        &mut self,
        ask: Ask<'_>,
        relations: &RelationLog,
    ) -> Result<&[Ready<O::Text>]> {
        let due = Made {
            after: ask.after,
            told: ask.told,
            catch_up: ask.catch_up,
            seen: ask.see(relations, self.stretch)?,
        };
        if self.made.as_ref() != Some(&due) {
            let frames = ask.frames_of(&due.seen, self.stretch)?.into_iter();
            let ready = frames.map(|frame| Ready {
                to: frame.to,
                bytes: frame.text.len(),
                text: O::text(&frame.text),
            });
            self.ready = ready.collect();
            self.made = Some(due);
        }
        Ok(&self.ready)
    }
}
