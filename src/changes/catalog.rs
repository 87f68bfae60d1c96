//! What is known about the types that are not built in.

use std::collections::HashMap;

use super::built_in;
use super::json_buffer::json_key;
use super::shape::{Attribute, Shape};

/// How deep types inside types are followed. Postgres forbids cycles: this bounds only the stack.
const MAX_TYPE_DEPTH: u32 = 64;

/// The types that are not built in and have been looked up.
///
/// They are kept from peek to peek: an enum, a domain or an array never becomes anything else.
#[derive(Debug, Default)]
pub struct TypeCatalog {
    known: HashMap<u32, KnownType>,
}

/// One row of [`TypeCatalog::LOOKUP_SQL`]. A composite has one for each attribute, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeRow {
    /// The type's OID.
    pub oid: u32,
    /// `domain`, `array`, `composite`, `attribute`, `hstore`, `cast` or `text`.
    pub kind: String,
    /// The OID of a domain's base type, of an array's element, or of an attribute's type; otherwise
    /// 0.
    pub part: u32,
    /// An array's delimiter or an attribute's name; otherwise empty.
    pub detail: String,
}

#[derive(Debug)]
enum KnownType {
    Domain(u32),
    Array {
        element: u32,
        delimiter: u8,
    },
    Composite(Vec<(String, u32)>),
    Hstore,
    Text,
    /// It has a cast to json, which only the server can run, or it no longer exists.
    Opaque,
}

impl TypeCatalog {
    /// Describes types and, recursively, the types that they consist of. It takes one parameter, an
    /// `int8[]` of OIDs, and returns the columns of [`TypeRow`]: `oid`, `text`, `oid`, `text`.
    ///
    /// If a type that is not built in has a cast to `json` by a function, explicit or not,
    /// `to_jsonb` calls that. Source: PostgreSQL documentation, "System Catalogs": `pg_type`,
    /// `pg_attribute`, `pg_cast`. `typsubscript` needs PostgreSQL 14.
    pub const LOOKUP_SQL: &str = r"
WITH RECURSIVE described AS (
    SELECT t.oid, t.typtype, t.typrelid, t.typbasetype,
        CASE WHEN t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc
            THEN t.typelem ELSE 0::pg_catalog.oid END AS element
    FROM pg_catalog.pg_type t
), parts AS (
    SELECT d.oid, 'domain' AS kind, d.typbasetype AS part, ''::pg_catalog.text AS detail,
        0 AS position
    FROM described d WHERE d.typtype = 'd'
    UNION ALL
    SELECT d.oid, 'array', d.element, e.typdelim::pg_catalog.text, 0
    FROM described d JOIN pg_catalog.pg_type e ON e.oid = d.element
    WHERE d.typtype = 'b' AND d.element <> 0
    UNION ALL
    SELECT d.oid, 'composite', 0::pg_catalog.oid, '', 0 FROM described d WHERE d.typtype = 'c'
    UNION ALL
    SELECT d.oid, 'attribute', a.atttypid, a.attname::pg_catalog.text, a.attnum
    FROM described d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.typrelid
    WHERE d.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT d.oid, CASE WHEN c.oid IS NULL THEN 'text' WHEN p.prosrc = 'hstore_to_json' THEN 'hstore'
        ELSE 'cast' END, 0::pg_catalog.oid, '', 0
    FROM described d
    LEFT JOIN pg_catalog.pg_cast c ON c.castsource = d.oid AND c.castmethod = 'f'
        AND c.casttarget = 'pg_catalog.json'::pg_catalog.regtype AND d.oid >= 16384
    LEFT JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc
    WHERE d.typtype NOT IN ('d', 'c') AND d.element = 0
), wanted(oid) AS (
    SELECT asked::pg_catalog.oid FROM pg_catalog.unnest($1::pg_catalog.int8[]) asked
    UNION
    SELECT p.part FROM wanted w JOIN parts p ON p.oid = w.oid WHERE p.part <> 0
)
SELECT p.oid, p.kind, p.part, p.detail FROM wanted w JOIN parts p ON p.oid = w.oid
ORDER BY p.oid, p.position";

    /// Adds the result of the lookup of `wanted`. A type without rows no longer exists; its values
    /// become strings of their text.
    pub fn add(&mut self, wanted: &[u32], rows: impl IntoIterator<Item = TypeRow>) {
        for row in rows {
            let known = match row.kind.as_str() {
                "domain" => KnownType::Domain(row.part),
                "array" => KnownType::Array {
                    element: row.part,
                    delimiter: row.detail.bytes().next().unwrap_or(b','),
                },
                "composite" => KnownType::Composite(Vec::new()),
                "attribute" => {
                    if let Some(KnownType::Composite(attributes)) = self.known.get_mut(&row.oid) {
                        attributes.push((row.detail, row.part));
                    }
                    continue;
                }
                "hstore" => KnownType::Hstore,
                "text" => KnownType::Text,
                _ => KnownType::Opaque,
            };
            self.known.insert(row.oid, known);
        }
        for &oid in wanted {
            self.known.entry(oid).or_insert(KnownType::Opaque);
        }
    }

    /// Forgets what may have changed since the last peek: the attributes of composites, and the
    /// types that did not exist.
    ///
    /// `ALTER TYPE` goes unnoticed within a peek, since no message reports it. A value with another
    /// number of attributes becomes a string of its text.
    pub fn begin_peek(&mut self) {
        self.known
            .retain(|_, known| !matches!(known, KnownType::Composite(_) | KnownType::Opaque));
    }

    /// The shape of a type. Adds the types that must be looked up first to `missing`.
    pub(super) fn shape(&self, oid: u32, missing: &mut Vec<u32>) -> Shape {
        self.shape_at(oid, missing, MAX_TYPE_DEPTH)
    }

    fn shape_at(&self, oid: u32, missing: &mut Vec<u32>, depth: u32) -> Shape {
        if let Some(shape) = built_in::shape(oid) {
            return shape;
        }
        let Some(depth) = depth.checked_sub(1) else {
            return Shape::Opaque;
        };
        match self.known.get(&oid) {
            None => {
                if !missing.contains(&oid) {
                    missing.push(oid);
                }
                Shape::Opaque
            }
            Some(KnownType::Domain(base)) => self.shape_at(*base, missing, depth),
            Some(KnownType::Array { element, delimiter }) => {
                Shape::Array(self.shape_at(*element, missing, depth).into(), *delimiter)
            }
            Some(KnownType::Composite(attributes)) => {
                let attribute = |(name, oid): &(String, u32)| {
                    let shape = self.shape_at(*oid, missing, depth);
                    let key = json_key(name);
                    Attribute { key, shape }
                };
                Shape::Composite(attributes.iter().map(attribute).collect())
            }
            Some(KnownType::Hstore) => Shape::Hstore,
            Some(KnownType::Text) => Shape::Text,
            Some(KnownType::Opaque) => Shape::Opaque,
        }
    }
}
