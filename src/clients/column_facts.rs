//! What the catalogue says of the columns that filters name.

use std::collections::{BTreeSet, HashMap};

use tokio::io::{AsyncRead, AsyncWrite};

use super::filter::ColumnFacts;
use crate::config::TableName;
use crate::error::Result;
use crate::postgres::{ArrayParam, Connection, Element, Param};

/// The columns of the tables that were asked for.
#[derive(Clone, Debug, Default)]
pub struct Columns(HashMap<TableName, HashMap<String, ColumnFacts>>);

/// Changes of a partitioned table carry what the partition's replica identity gives, so a column
/// counts only when every leaf covers it. A column of the key of an index that is the replica
/// identity, or of the primary key by default (PostgreSQL documentation, "ALTER TABLE", `REPLICA
/// IDENTITY`). A domain is what its base type is.
const COLUMNS: &str = "\
WITH RECURSIVE wanted AS (\
  SELECT n.nspname, c.relname, c.oid FROM unnest($1::text[], $2::text[]) AS w(schema, name) \
  JOIN pg_namespace n ON n.nspname = w.schema \
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')), \
leaf AS (\
  SELECT w.oid AS root, t.relid AS oid FROM wanted w, pg_partition_tree(w.oid) t WHERE t.isleaf \
  UNION SELECT w.oid, w.oid FROM wanted w JOIN pg_class c ON c.oid = w.oid WHERE c.relkind = 'r'), \
uncovered AS (\
  SELECT l.root, a.attname FROM leaf l JOIN pg_class c ON c.oid = l.oid \
  JOIN pg_attribute a ON a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped \
  WHERE c.relreplident <> 'f' AND NOT EXISTS (\
    SELECT FROM pg_index i WHERE i.indrelid = l.oid AND a.attnum = ANY (i.indkey::int2[]) \
    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END)), \
base(root, attname, type) AS (\
  SELECT w.oid, a.attname, a.atttypid FROM wanted w JOIN pg_attribute a ON a.attrelid = w.oid \
  WHERE a.attnum > 0 AND NOT a.attisdropped \
  UNION ALL SELECT b.root, b.attname, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type \
  WHERE t.typtype = 'd') \
SELECT w.nspname::text, w.relname::text, b.attname::text, \
  t.oid = ANY ('{int2,int4,int8,numeric,float4,float8}'::regtype[]::oid[]), \
  NOT EXISTS (SELECT FROM uncovered u WHERE u.root = w.oid AND u.attname = b.attname) \
FROM wanted w JOIN base b ON b.root = w.oid JOIN pg_type t ON t.oid = b.type \
WHERE t.typtype <> 'd'";

impl Columns {
    /// Reads all columns of `tables`. A table that is not there has none.
    pub async fn read<S>(
        connection: &mut Connection<S>,
        tables: &BTreeSet<TableName>,
    ) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut schemas = ArrayParam::new(Element::Text);
        let mut names = ArrayParam::new(Element::Text);
        for table in tables {
            schemas.push_text(&table.schema);
            names.push_text(&table.table);
        }
        let params = [Param::Array(&schemas), Param::Array(&names)];
        let mut columns = Self::default();
        for row in connection.query(COLUMNS, &params).await? {
            let table = TableName {
                schema: row.get(0)?,
                table: row.get(1)?,
            };
            let facts = ColumnFacts {
                is_number: row.get(3)?,
                is_identity: row.get(4)?,
            };
            columns
                .0
                .entry(table)
                .or_default()
                .insert(row.get(2)?, facts);
        }
        Ok(columns)
    }

    /// What is known of one column; `None` when there is no such column, or no such table.
    pub fn facts(&self, table: &TableName, column: &str) -> Option<ColumnFacts> {
        self.0.get(table)?.get(column).copied()
    }
}
