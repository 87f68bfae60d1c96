//! `GET /changes`: a page of the history, on a connection of its own, so that who reads far back
//! holds up nobody.

use std::cell::Cell;
use std::rc::Rc;

use serde_json::json;
use worker::{Response, ResponseBuilder};

use super::hub::Hub;
use super::runtime::{Runtime, not_initialized};
use crate::clients::{
    ChangesRequest, Columns, FrameError, MAX_CHANGES_BYTES, Passing, Position, ResetReason, Start,
    View,
};
use crate::error::Result;
use crate::history::{self, PageRequest};
use crate::response::ErrorResponse;
use crate::state::Checkpoint;
use crate::workers::database::{self, Database};

/// Pages that are read at once: each holds a connection to the database.
const MAX_AT_ONCE: u32 = 3;

/// The pages that are being read.
#[derive(Debug, Default)]
pub(super) struct Readers(Rc<Cell<u32>>);

/// One of them; dropping it makes room.
struct Reader(Rc<Cell<u32>>);

impl Readers {
    fn admit(&self) -> Option<Reader> {
        let readers = self.0.get();
        (readers < MAX_AT_ONCE).then(|| {
            self.0.set(readers + 1);
            Reader(Rc::clone(&self.0))
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A page, or why there is none.
enum Found {
    Page {
        changes: Vec<String>,
        next: Position,
        head: Position,
    },
    /// The position is of no use: begin anew.
    Reset(ResetReason, Position),
    Refused(FrameError),
}

/// Answers with the page that is asked for.
pub(super) async fn respond(
    runtime: &Runtime,
    asked: &ChangesRequest,
    view: View,
) -> worker::Result<Response> {
    let Some(config) = runtime.with(|memory| memory.config.clone()) else {
        return ErrorResponse::from(&not_initialized()).into_response();
    };
    let Some(_reader) = runtime.readers.admit() else {
        let message = "too many pages are being read: try again";
        let error = ErrorResponse::new(503, "busy", message).retry_after(1);
        return error.into_response();
    };
    let found = async {
        let mut connection = database::connect(&runtime.env).await?;
        let found = find(&runtime.hub, &mut connection, &config.slot, asked, view).await;
        connection.close().await;
        found
    };
    match found.await {
        Ok(Found::Page {
            changes,
            next,
            head,
        }) => page(&changes, next, head),
        Ok(Found::Reset(reason, oldest)) => {
            let code = serde_json::to_value(reason)?;
            let message = format!(
                "the changes after this position cannot be had: reload, and go on after {oldest} \
                 or later"
            );
            let code = code.as_str().unwrap_or_default();
            ErrorResponse::new(410, code, message).into_response()
        }
        Ok(Found::Refused(error)) => ErrorResponse::from(&error).into_response(),
        Err(error) => ErrorResponse::from(&error).into_response(),
    }
}

async fn find(
    hub: &Hub,
    connection: &mut Database,
    slot: &str,
    asked: &ChangesRequest,
    mut view: View,
) -> Result<Found> {
    if view.has_filters() {
        let tables = view.filtered_tables().cloned().collect();
        let columns = Columns::read(connection, &tables).await?;
        if let Err(error) = view.bind(|table, column| columns.facts(table, column)) {
            return Ok(Found::Refused(error));
        }
    }
    let checkpoint = Checkpoint::read(connection, slot).await?;
    let checkpoint = checkpoint.ok_or_else(not_initialized)?;
    let position = |id| Position {
        epoch: checkpoint.epoch,
        id,
    };
    let head = position(checkpoint.last_id);
    let after = match asked.start {
        Start::After(after) if after.epoch != head.epoch || after.id > head.id => {
            let oldest = history::oldest(connection, head.id).await?;
            let before = position(oldest.saturating_sub(1));
            return Ok(Found::Reset(ResetReason::EpochChanged, before));
        }
        Start::After(after) => after.id,
        Start::Earliest | Start::Now => history::oldest(connection, head.id)
            .await?
            .saturating_sub(1),
    };
    let request = PageRequest {
        after,
        through: head.id,
        tables: &view.table_names(),
        max_changes: asked.limit,
        max_bytes: MAX_CHANGES_BYTES,
    };
    let page = history::read_page(connection, request).await?;
    let oldest = page.oldest.min(head.id.saturating_add(1));
    if oldest > after.saturating_add(1) {
        let oldest = position(oldest.saturating_sub(1));
        return Ok(Found::Reset(ResetReason::TooOld, oldest));
    }
    let relations = hub.relations();
    let mut changes = Vec::with_capacity(page.changes.len());
    for change in &page.changes {
        let seen = view.show(&Passing::of(change), &relations)?;
        changes.extend(seen.map(std::borrow::Cow::into_owned));
    }
    Ok(Found::Page {
        changes,
        next: position(page.through),
        head,
    })
}

fn page(changes: &[String], next: Position, head: Position) -> worker::Result<Response> {
    let ends = json!({"next": next, "head": head}).to_string();
    let ends = ends.strip_prefix('{').unwrap_or_default();
    let body = format!("{{\"changes\":[{}],{ends}", changes.join(","));
    let builder = ResponseBuilder::new().with_header("Content-Type", "application/json")?;
    builder.ok(body)
}
