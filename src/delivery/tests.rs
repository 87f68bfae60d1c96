//! Cursors and their stored form, without a database.

mod attachments;
mod cursors;
