//! The tables that feeds write: this one, and every other feed in the database. Capturing one of them
//! would never end, since storing its changes makes more of them.

use std::collections::HashSet;

use crate::pgoutput::Relation;

/// Columns of `change_history` that no other kind of table has together, and those of the other tables.
const HISTORY: [&str; 8] = [
    "lsn",
    "table_name",
    "operation",
    "old_data",
    "unchanged",
    "omitted",
    "as_text",
    "committed_at",
];
const CHECKPOINT: [&str; 5] = ["slot", "epoch", "last_id", "system_identifier", "timeline"];
const MIGRATION: [&str; 3] = ["version", "name", "applied_at"];

/// The tables of feeds, as far as they are known by their OIDs. Others are recognised when they are
/// described: a feed may be initialised, or a partition attached, at any time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedTables {
    oids: HashSet<u32>,
}

impl FeedTables {
    /// A subquery for the OIDs of all tables of feeds that exist, with their partitions, as text
    /// that [`Self::parse`] reads. They are recognised by their names and columns, in any schema.
    pub const OIDS_SQL: &str = "\
(WITH RECURSIVE feed(oid) AS (SELECT c.oid FROM pg_catalog.pg_class c \
WHERE c.relname = ANY ('{change_history,replication_checkpoint,replication_migration}'::pg_catalog.name[]) \
AND c.relkind IN ('r', 'p') AND (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a \
WHERE a.attrelid = c.oid AND NOT a.attisdropped AND (c.relname, a.attname) IN \
(('change_history', 'lsn'), ('change_history', 'table_name'), ('change_history', 'old_data'), \
('replication_checkpoint', 'slot'), ('replication_checkpoint', 'epoch'), \
('replication_checkpoint', 'last_id'), ('replication_migration', 'version'), \
('replication_migration', 'name'), ('replication_migration', 'applied_at'))) = 3 \
UNION SELECT i.inhrelid FROM feed JOIN pg_catalog.pg_inherits i ON i.inhparent = feed.oid) \
SELECT pg_catalog.string_agg(oid::pg_catalog.text, ',') FROM feed)";

    /// Reads the result of [`Self::OIDS_SQL`].
    pub fn parse(oids: &str) -> Self {
        let oids = oids.split(',').filter_map(|oid| oid.parse().ok());
        Self {
            oids: oids.collect(),
        }
    }

    /// Whether the relation is one of them.
    pub(super) fn contains(&self, relation: &Relation<'_>) -> bool {
        let has = |columns: &[&str]| {
            columns
                .iter()
                .all(|&wanted| relation.columns.iter().any(|column| column.name == wanted))
        };
        self.oids.contains(&relation.oid)
            || has(&HISTORY)
            || has(&CHECKPOINT)
            || (relation.name == "replication_migration" && has(&MIGRATION))
    }
}
