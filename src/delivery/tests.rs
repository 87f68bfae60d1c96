//! Cursors and what is kept of them, without a database.

mod attachments;
mod cursors;
