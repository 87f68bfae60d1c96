//! From decoded messages to [`Change`]s with their JSON, ready to be stored and sent.
//!
//! ```text
//! Message --Assembler--> Change + JSON in ChangeBatch --TableChange--> wire JSON
//!              |
//!              +-- TypeCatalog: which type is an array of what, which attributes a composite has
//! ```
//!
//! A row's JSON equals Postgres's own `to_jsonb(row)`, in its order, with these deliberate differences:
//!
//! - A number that an IEEE double cannot represent (9007199254740993) is a string, since JavaScript
//!   would round it silently. Numbers inside `json` and `jsonb` documents stay as they are.
//! - What is not in the message is absent and named: unchanged TOAST values in `unchanged` (also
//!   where the old row has them: REPLICA IDENTITY FULL), values too large to hold in `omitted`.
//!   Columns that the publication does not send, generated ones among them, are just absent.
//! - What JSON or `jsonb` cannot hold is a string of Postgres's text, and its column is named in
//!   `asText`: documents with `\u0000`, lone surrogates, numbers beyond `numeric` or more than
//!   [`MAX_JSON_DEPTH`] levels; types with a cast to `json` other than `hstore`, which only the
//!   server could run; composites that had another number of attributes when they were written;
//!   types dropped since; bytes that are not UTF-8, which are replaced.
//!
//! What is stored must be small enough to be read back, so that a row's size is that of the text
//! which `jsonb` prints: with spaces, and with numbers in plain decimals (`1e131000` is 131,001
//! digits). A document that is too large only for these is given as text.
//!
//! No I/O here: the caller runs [`TypeCatalog::LOOKUP_SQL`] when the [`Assembler`] asks for types,
//! and owns the session, whose output must be fixed with [`SESSION_SETTINGS`].

mod assembler;
mod batch;
mod built_in;
mod catalog;
mod composite_text;
mod json_buffer;
mod json_document;
mod number;
mod row;
mod session;
mod shape;
mod table_change;
mod value;

pub use assembler::{Accepted, AssembleError, Assembler, DescribedRelation, Limits};
pub use batch::{Change, ChangeBatch, Operation, RelationName};
pub use catalog::{TypeCatalog, TypeRow};
pub use json_document::MAX_JSON_DEPTH;
pub use row::BinaryValue;
pub use session::SESSION_SETTINGS;
pub use table_change::TableChange;
