//! Whether the role may use the system's tables where others have made them.

use crate::error::{Category, Error, Result};
use crate::postgres::{Connection, Stream};

/// Checks, of the tables that are there, that the role may read and write what a cycle does.
///
/// Fails with [`Category::Permission`] and the grants that are missing.
pub(super) async fn check<S: Stream>(connection: &mut Connection<S>) -> Result<()> {
    // FOR UPDATE, the fence between two readers, needs the right to update.
    const MISSING: &str = "\
SELECT string_agg(format('GRANT %s ON %s TO %I;', privileges, object, current_user), ' ') FROM (\
SELECT string_agg(privilege, ', ') AS privileges, object::text FROM (VALUES \
('change_history', 'SELECT'), ('change_history', 'INSERT'), ('change_history', 'DELETE'), \
('replication_checkpoint', 'SELECT'), ('replication_checkpoint', 'INSERT'), \
('replication_checkpoint', 'UPDATE'), ('replication_migration', 'SELECT')) \
AS needed (object, privilege) WHERE to_regclass(object) IS NOT NULL \
AND NOT has_table_privilege(to_regclass(object), privilege) GROUP BY object \
UNION ALL SELECT 'UPDATE', 'SEQUENCE change_history_id_seq' \
WHERE to_regclass('change_history_id_seq') IS NOT NULL \
AND NOT has_sequence_privilege(to_regclass('change_history_id_seq'), 'UPDATE')) missing";
    let grants: Option<String> = connection.query_one(MISSING, &[]).await?.get(0)?;
    let Some(grants) = grants else { return Ok(()) };
    let message = "the role may not use the tables of the change feed, which others own";
    Err(Error::new(Category::Permission, "grants_missing", message)
        .with_remedy(format!("as their owner, run {grants}")))
}
