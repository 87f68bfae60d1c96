//! The schema of the system's own tables: `migrations/*.sql`, which are embedded. Each is applied
//! once and in order, all in the caller's transaction.

use super::OWN_TABLES;
use super::server::Server;
use crate::changes::FeedTables;
use crate::error::{Category, Error, Result};
use crate::postgres::{Connection, Param, Stream};

/// One file, and the table that it creates or alters.
struct Migration {
    name: &'static str,
    table: &'static str,
    /// Each statement ends with a semicolon at the end of a line.
    sql: &'static str,
}

const MIGRATIONS: [Migration; 3] = [
    Migration {
        name: "0001_change_history",
        table: "change_history",
        sql: include_str!("../../migrations/0001_change_history.sql"),
    },
    Migration {
        name: "0002_replication_checkpoint",
        table: "replication_checkpoint",
        sql: include_str!("../../migrations/0002_replication_checkpoint.sql"),
    },
    Migration {
        name: "0003_checkpoint_publication",
        table: "replication_checkpoint",
        sql: include_str!("../../migrations/0003_checkpoint_publication.sql"),
    },
];

const TABLE: &str = "\
CREATE TABLE replication_migration (\
version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW())";

/// Applies the migrations that were never applied, and those of tables that have been dropped
/// since. The caller holds the transaction and the lock that keeps concurrent initialisations
/// apart.
///
/// Fails with `schema_too_new` if the database has migrations that this build does not know.
pub(super) async fn apply<S: Stream>(connection: &mut Connection<S>) -> Result<()> {
    // Without the CREATE privilege, CREATE TABLE IF NOT EXISTS fails even if the table exists.
    if !exists(connection, "replication_migration").await? {
        connection
            .execute(TABLE, &[])
            .await
            .map_err(explain_create)?;
    }
    let newest = "SELECT COALESCE(pg_catalog.max(version), 0) FROM replication_migration";
    let applied: i32 = connection.query_one(newest, &[]).await?.get(0)?;
    if usize::try_from(applied).is_ok_and(|applied| applied > MIGRATIONS.len()) {
        return Err(too_new(applied));
    }
    let mut dropped = Vec::new();
    for table in OWN_TABLES {
        if !exists(connection, table).await? {
            dropped.push(table);
        }
    }
    for (version, migration) in (1_i32..).zip(&MIGRATIONS) {
        if version > applied || dropped.contains(&migration.table) {
            apply_one(connection, version, migration).await?;
        }
    }
    Ok(())
}

/// The indexes that the migrations name.
const OWN_INDEXES: [&str; 2] = ["change_history_lsn", "change_history_created_at"];

/// Checks that nothing else has the name of one of the feed's, where the feed would create it.
///
/// Fails with `name_taken` and two ways out.
pub(super) async fn check_names<S: Stream>(
    connection: &mut Connection<S>,
    server: &Server,
) -> Result<()> {
    let sql = format!(
        "SELECT pg_catalog.string_agg(pg_catalog.format('%I.%I', n.nspname, c.relname), ', '), \
         pg_catalog.string_agg(pg_catalog.format('ALTER %s %I.%I RENAME TO %I', \
         CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' \
         WHEN 'S' THEN 'SEQUENCE' WHEN 'i' THEN 'INDEX' ELSE 'TABLE' END, \
         n.nspname, c.relname, c.relname || '_of_the_application'), '; '), \
         pg_catalog.quote_ident(current_user), \
         pg_catalog.quote_ident(pg_catalog.current_database()) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1::pg_catalog.text AND c.relname = ANY ($2::pg_catalog.text[]) \
         AND COALESCE((SELECT indrelid FROM pg_catalog.pg_index i WHERE i.indexrelid = c.oid), \
         c.oid)::pg_catalog.text <> ALL (pg_catalog.string_to_array(COALESCE({}, ''), ','))",
        FeedTables::OIDS_SQL
    );
    let names = format!("{{{},{}}}", OWN_TABLES.join(","), OWN_INDEXES.join(","));
    let params = [Param::Text(&server.schema), Param::Text(&names)];
    let row = connection.query_one(&sql, &params).await?;
    let (Some(taken), Some(rename)) =
        (row.get::<Option<String>>(0)?, row.get::<Option<String>>(1)?)
    else {
        return Ok(());
    };
    let (role, database): (String, String) = (row.get(2)?, row.get(3)?);
    let message =
        format!("what the feed needs to create has a name that is already taken: {taken}");
    Err(Error::new(Category::Configuration, "name_taken", message).with_remedy(format!(
        "either rename what has the name: {rename}; or give the feed a schema of its own: CREATE \
         SCHEMA change_feed AUTHORIZATION {role}; ALTER ROLE {role} IN DATABASE {database} SET \
         search_path = change_feed; and call POST /init again"
    )))
}

async fn apply_one<S: Stream>(
    connection: &mut Connection<S>,
    version: i32,
    migration: &Migration,
) -> Result<()> {
    const RECORD: &str = "\
INSERT INTO replication_migration (version, name) VALUES ($1, $2) \
ON CONFLICT (version) DO UPDATE SET applied_at = pg_catalog.now()";
    for statement in statements(migration.sql) {
        connection
            .execute(statement, &[])
            .await
            .map_err(explain_create)?;
    }
    let params = [Param::Int4(version), Param::Text(migration.name)];
    connection.execute(RECORD, &params).await?;
    Ok(())
}

async fn exists<S: Stream>(connection: &mut Connection<S>, table: &str) -> Result<bool> {
    const EXISTS: &str = "SELECT pg_catalog.to_regclass($1::text) IS NOT NULL";
    let row = connection.query_one(EXISTS, &[Param::Text(table)]).await?;
    Ok(row.get(0)?)
}

fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(";\n")
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
}

fn too_new(applied: i32) -> Error {
    let known = MIGRATIONS.len();
    let message = format!(
        "the database's schema is at version {applied}; this build knows versions up to {known}"
    );
    Error::new(Category::Configuration, "schema_too_new", message)
        .with_remedy("deploy the newer build again; this one has changed nothing")
}

fn explain_create(cause: crate::postgres::Error) -> Error {
    let error = Error::from(cause);
    if error.category() == Category::Permission {
        error.with_remedy(
            "run GRANT USAGE, CREATE ON SCHEMA public TO the role (or give it a schema of its own \
             and set its search_path); or call POST /init once with the owner's login, and then \
             grant this role SELECT, INSERT, UPDATE and DELETE on change_history, \
             replication_checkpoint and replication_migration, and UPDATE on the sequence \
             change_history_id_seq",
        )
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the statement was cut at a semicolon inside of a string, a body or parentheses.
    fn is_cut(statement: &str) -> bool {
        let code: Vec<&str> = statement
            .lines()
            .filter(|line| !line.trim_start().starts_with("--"))
            .collect();
        let code = code.join("\n");
        let count = |text| code.matches(text).count();
        count("(") != count(")") || count("'") % 2 == 1 || count("$$") % 2 == 1
    }

    #[test]
    fn each_migration_splits_into_whole_statements() {
        for Migration { name, sql, .. } in MIGRATIONS {
            assert!(sql.ends_with(";\n"), "{name}");
            assert!(statements(sql).count() > 0, "{name}");
            for statement in statements(sql) {
                assert!(!is_cut(statement), "{name}: {statement}");
            }
        }
        assert!(is_cut("INSERT INTO t VALUES ('a"));
        assert!(is_cut("DO $$ BEGIN SELECT 1"));
    }

    #[test]
    fn migrations_are_numbered_in_the_order_in_which_they_are_applied() {
        for (number, Migration { name, .. }) in (1..).zip(MIGRATIONS) {
            assert!(name.starts_with(&format!("{number:04}_")), "{name}");
        }
    }
}
