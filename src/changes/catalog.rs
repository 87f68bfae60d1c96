//! What is known of the types that are not built in.

use std::collections::HashMap;

use super::built_in;
use super::json_buffer::json_key;
use super::shape::{Attribute, Shape};

/// Types within types that are followed; Postgres forbids cycles, so this bounds only the stack.
const MAX_TYPE_DEPTH: u32 = 64;

/// The types that are not built in, as far as they were looked up.
///
/// Kept from peek to peek: an enum, a domain, an array never becomes something else.
#[derive(Debug, Default)]
pub struct TypeCatalog {
    learned: HashMap<u32, Learned>,
}

/// One row of [`TypeCatalog::LOOKUP_SQL`]. A composite has one for each attribute, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeRow {
    /// The type's OID.
    pub oid: u32,
    /// `domain`, `array`, `composite`, `attribute`, `hstore`, `cast` or `text`.
    pub kind: String,
    /// The OID of a domain's base type, an array's element, an attribute's type; else 0.
    pub part: u32,
    /// An array's delimiter, an attribute's name; else empty.
    pub detail: String,
}

#[derive(Debug)]
enum Learned {
    Domain(u32),
    Array {
        element: u32,
        delimiter: u8,
    },
    Composite(Vec<(String, u32)>),
    Hstore,
    Text,
    /// Has a cast to json that only the server can run, or is no longer there.
    Opaque,
}

impl TypeCatalog {
    /// Describes types and all that they are made of. One parameter, an `int8[]` of OIDs; the columns of
    /// [`TypeRow`]: `oid`, `text`, `oid`, `text`.
    ///
    /// `to_jsonb` asks whether a type that is not built in has a cast to `json` (a function, be the
    /// cast explicit or not), and calls it. Source: PostgreSQL documentation, "System Catalogs":
    /// `pg_type`, `pg_attribute`, `pg_cast`. `typsubscript` needs PostgreSQL 14.
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

    /// Takes in what the lookup of `wanted` gave. A type that it does not describe is no longer in
    /// the database; its values are given as text.
    pub fn learn(&mut self, wanted: &[u32], rows: impl IntoIterator<Item = TypeRow>) {
        for row in rows {
            let learned = match row.kind.as_str() {
                "domain" => Learned::Domain(row.part),
                "array" => Learned::Array {
                    element: row.part,
                    delimiter: row.detail.bytes().next().unwrap_or(b','),
                },
                "composite" => Learned::Composite(Vec::new()),
                "attribute" => {
                    if let Some(Learned::Composite(attributes)) = self.learned.get_mut(&row.oid) {
                        attributes.push((row.detail, row.part));
                    }
                    continue;
                }
                "hstore" => Learned::Hstore,
                "text" => Learned::Text,
                _ => Learned::Opaque,
            };
            self.learned.insert(row.oid, learned);
        }
        for &oid in wanted {
            self.learned.entry(oid).or_insert(Learned::Opaque);
        }
    }

    /// Forgets what may have changed since the last peek: the attributes of composites, and the
    /// types that were not there.
    ///
    /// Within a peek `ALTER TYPE` goes unnoticed: no message tells of it. A value whose number of
    /// attributes does not fit is given as text.
    pub fn begin_peek(&mut self) {
        self.learned
            .retain(|_, learned| !matches!(learned, Learned::Composite(_) | Learned::Opaque));
    }

    /// What values of the type become. Types still to be looked up are added to `missing`.
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
        match self.learned.get(&oid) {
            None => {
                if !missing.contains(&oid) {
                    missing.push(oid);
                }
                Shape::Opaque
            }
            Some(Learned::Domain(base)) => self.shape_at(*base, missing, depth),
            Some(Learned::Array { element, delimiter }) => {
                Shape::Array(self.shape_at(*element, missing, depth).into(), *delimiter)
            }
            Some(Learned::Composite(attributes)) => {
                let attribute = |(name, oid): &(String, u32)| {
                    let shape = self.shape_at(*oid, missing, depth);
                    let key = json_key(name);
                    Attribute { key, shape }
                };
                Shape::Composite(attributes.iter().map(attribute).collect())
            }
            Some(Learned::Hstore) => Shape::Hstore,
            Some(Learned::Text) => Shape::Text,
            Some(Learned::Opaque) => Shape::Opaque,
        }
    }
}
