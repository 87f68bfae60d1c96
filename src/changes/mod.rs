//! Turns decoded messages into [`Change`]s with their JSON, ready to be stored and sent.
//!
//! ```text
//! Message --Assembler--> Change + JSON in ChangeBatch --TableChange--> wire JSON
//!              |
//!              +-- TypeCatalog: the elements of arrays, the attributes of composites
//! ```
//!
//! A row's JSON equals Postgres's own `to_jsonb(row)`, in the same order, with these intended
//! differences:
//!
//! - A number that an IEEE double cannot represent (9007199254740993) is a string, since JavaScript
//!   would round it silently. Numbers inside `json` and `jsonb` documents stay as they are.
//! - Columns that the message lacks are absent and named: unchanged TOASTed values in `unchanged`
//!   (even if the old row of REPLICA IDENTITY FULL has them), values that are too large in
//!   `omitted`. Columns that the publication does not send, such as generated ones, are absent
//!   without being named.
//! - Values that JSON or `jsonb` cannot hold are strings of Postgres's text, and their columns are
//!   named in `asText`: documents with `\u0000`, lone surrogates, numbers beyond `numeric` or more
//!   than [`MAX_JSON_DEPTH`] levels; types with a cast to `json` other than `hstore`, which only the
//!   server could run; composites that had another number of attributes when they were written;
//!   types that were dropped since; bytes that are not UTF-8, which are replaced.
//!
//! What is stored must be small enough to be read back. Therefore a row's size is that of the text
//! that `jsonb` prints, with its spaces and with numbers in plain decimals (`1e131000` has 131,001
//! digits). A document that only becomes too large in that form is stored as text.
//!
//! No I/O happens here: the caller runs [`TypeCatalog::LOOKUP_SQL`] when the [`Assembler`] needs
//! types, and owns the session, whose settings must be [`SESSION_SETTINGS`].

mod assembler;
mod batch;
mod built_in;
mod catalog;
mod composite_text;
mod feed_tables;
mod json_buffer;
mod json_document;
mod number;
mod row;
mod session;
mod shape;
mod table_change;
mod value;

pub use assembler::{AssembleError, Assembler, DescribedRelation, Limits, Outcome};
pub use batch::{Change, ChangeBatch, Operation, RelationName};
pub use catalog::{TypeCatalog, TypeRow};
pub use feed_tables::FeedTables;
pub use json_document::MAX_JSON_DEPTH;
pub use row::BinaryValue;
pub use session::SESSION_SETTINGS;
pub use table_change::TableChange;
