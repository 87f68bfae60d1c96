//! Checks the role's privileges on the system's tables, which another role may own.

use crate::error::{Category, Error, Result};
use crate::postgres::{Connection, Stream};

/// Checks that the role has the privileges that a cycle needs on the tables that exist.
///
/// Fails with [`Category::Permission`] and the missing grants.
pub(super) async fn check_grants<S: Stream>(connection: &mut Connection<S>) -> Result<()> {
    // Locking the checkpoint with FOR UPDATE requires the UPDATE privilege.
    const MISSING: &str = "\
SELECT pg_catalog.string_agg(pg_catalog.format('GRANT %s ON %s TO %I;', privileges, object, current_user), ' ') FROM (\
SELECT pg_catalog.string_agg(privilege, ', ') AS privileges, object::text FROM (VALUES \
('change_history', 'SELECT'), ('change_history', 'INSERT'), ('change_history', 'DELETE'), \
('replication_checkpoint', 'SELECT'), ('replication_checkpoint', 'INSERT'), \
('replication_checkpoint', 'UPDATE'), ('replication_migration', 'SELECT')) \
AS needed (object, privilege) WHERE pg_catalog.to_regclass(object) IS NOT NULL \
AND NOT pg_catalog.has_table_privilege(pg_catalog.to_regclass(object), privilege) GROUP BY object \
UNION ALL SELECT 'UPDATE', 'SEQUENCE change_history_id_seq' \
WHERE pg_catalog.to_regclass('change_history_id_seq') IS NOT NULL \
AND NOT pg_catalog.has_sequence_privilege(pg_catalog.to_regclass('change_history_id_seq'), 'UPDATE')) missing";
    let grants: Option<String> = connection.query_one(MISSING, &[]).await?.get(0)?;
    let Some(grants) = grants else { return Ok(()) };
    let message =
        "the role lacks privileges on the tables of the change feed, which another role owns";
    Err(Error::new(Category::Permission, "grants_missing", message)
        .with_remedy(format!("as their owner, run {grants}")))
}
