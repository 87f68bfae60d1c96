//! The catalogue's facts about the columns that filters name.

use std::collections::{BTreeSet, HashMap};

use super::filter::ColumnFacts;
use crate::config::TableName;
use crate::error::Result;
use crate::pipeline::Queued;
use crate::postgres::{self, ArrayParam, Connection, Element, Param, Row, Stream};

/// The most columns that one statement looks up: its result then has about 100 KiB.
pub const MAX_COLUMNS_AT_ONCE: usize = 512;

/// The facts about the columns that were looked up.
#[derive(Clone, Debug, Default)]
pub struct Columns(HashMap<(TableName, String), ColumnFacts>);

/// Changes of a partitioned table carry the columns of the partition's replica identity, so a
/// column counts only when every leaf covers it. A column of the key of an index that is the
/// replica identity, or of the primary key by default (PostgreSQL documentation, "ALTER TABLE",
/// `REPLICA IDENTITY`). A domain is what its base type is.
const COLUMNS: &str = "\
WITH RECURSIVE wanted AS (\
  SELECT n.nspname, c.relname, c.oid, c.relkind, w.column_name \
  FROM unnest($1::text[], $2::text[], $3::text[]) AS w(schema, name, column_name) \
  JOIN pg_namespace n ON n.nspname = w.schema \
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')), \
leaf AS (\
  SELECT w.oid AS root, t.relid AS oid \
  FROM (SELECT DISTINCT oid FROM wanted WHERE relkind = 'p') w, pg_partition_tree(w.oid) t \
  WHERE t.isleaf \
  UNION SELECT oid, oid FROM wanted WHERE relkind = 'r'), \
uncovered AS (\
  SELECT DISTINCT l.root, a.attname FROM leaf l JOIN pg_class c ON c.oid = l.oid \
  JOIN wanted w ON w.oid = l.root \
  JOIN pg_attribute a ON a.attrelid = l.oid AND a.attname = w.column_name \
  AND a.attnum > 0 AND NOT a.attisdropped \
  WHERE c.relreplident <> 'f' AND NOT EXISTS (\
    SELECT FROM pg_index i WHERE i.indrelid = l.oid AND a.attnum = ANY (i.indkey::int2[]) \
    AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END)), \
base(root, attname, type) AS (\
  SELECT w.oid, a.attname, a.atttypid FROM wanted w \
  JOIN pg_attribute a ON a.attrelid = w.oid AND a.attname = w.column_name \
  WHERE a.attnum > 0 AND NOT a.attisdropped \
  UNION ALL SELECT b.root, b.attname, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type \
  WHERE t.typtype = 'd') \
SELECT w.nspname::text, w.relname::text, b.attname::text, \
  t.oid = ANY ('{int2,int4,int8,numeric,float4,float8}'::regtype[]::oid[]), \
  NOT EXISTS (SELECT FROM uncovered u WHERE u.root = w.oid AND u.attname = b.attname) \
FROM wanted w JOIN base b ON b.root = w.oid AND b.attname = w.column_name JOIN pg_type t ON t.oid = b.type \
WHERE t.typtype <> 'd'";

/// A lookup waits for the locks of sessions that alter a partitioned table. Other consumers wait
/// for the connection, so it gives up soon and is retried later.
const TIME_LIMITS: &str = "\
SELECT set_config('lock_timeout', '500ms', true), set_config('statement_timeout', '5s', true)";

impl Columns {
    /// Reads the facts about `columns`, [`MAX_COLUMNS_AT_ONCE`] at most. A column that does not
    /// exist has none. After an error the connection must be dropped.
    pub async fn read<S: Stream>(
        connection: &mut Connection<S>,
        columns: &BTreeSet<(TableName, String)>,
    ) -> Result<Self> {
        let mut schemas = ArrayParam::new(Element::Text);
        let mut tables = ArrayParam::new(Element::Text);
        let mut names = ArrayParam::new(Element::Text);
        for (table, column) in columns {
            schemas.push_text(&table.schema);
            tables.push_text(&table.table);
            names.push_text(column);
        }
        let params = [
            Param::Array(&schemas),
            Param::Array(&tables),
            Param::Array(&names),
        ];
        let begin = Queued::statement(connection, "BEGIN READ ONLY", &[])?;
        let limits = Queued::statement(connection, TIME_LIMITS, &[])?;
        let rows = Queued::statement(connection, COLUMNS, &params)?;
        let end = Queued::statement(connection, "COMMIT", &[])?;
        connection.send().await?;
        begin.finish(connection).await?;
        limits.finish(connection).await?;
        let mut found = Self::default();
        let add = |row: &Row| -> std::result::Result<(), postgres::Error> {
            let table = TableName {
                schema: row.get(0)?,
                table: row.get(1)?,
            };
            let facts = ColumnFacts {
                is_number: row.get(3)?,
                is_identity: row.get(4)?,
            };
            found.0.insert((table, row.get(2)?), facts);
            Ok(())
        };
        rows.for_each_row(connection, add).await?;
        end.finish(connection).await?;
        Ok(found)
    }

    /// Adds the facts about other columns.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// The facts about one column; `None` when the column or its table does not exist.
    pub fn facts(&self, table: &TableName, column: &str) -> Option<ColumnFacts> {
        self.0.get(&(table.clone(), column.to_owned())).copied()
    }
}
