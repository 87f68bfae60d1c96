//! The schema of the system's own tables: `migrations/*.sql`, embedded, each applied once and in
//! order, all in the transaction of the caller.

use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{Category, Error, Result};
use crate::postgres::{Connection, Param};

/// Each statement of a file ends with a semicolon at the end of a line.
const MIGRATIONS: [(&str, &str); 2] = [
    (
        "0001_change_history",
        include_str!("../../migrations/0001_change_history.sql"),
    ),
    (
        "0002_replication_checkpoint",
        include_str!("../../migrations/0002_replication_checkpoint.sql"),
    ),
];

const TABLE: &str = "\
CREATE TABLE replication_migration (\
version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW())";

/// Applies what is missing. The caller holds the transaction and the lock that keeps two
/// initialisations apart.
///
/// Fails with `schema_too_new` when the database has migrations that this build does not know.
pub(super) async fn apply<S>(connection: &mut Connection<S>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Without the right to create, CREATE TABLE IF NOT EXISTS fails also where the table exists.
    let exists = "SELECT to_regclass('replication_migration') IS NOT NULL";
    if !connection.query_one(exists, &[]).await?.get::<bool>(0)? {
        connection
            .execute(TABLE, &[])
            .await
            .map_err(explain_create)?;
    }
    let newest = "SELECT COALESCE(max(version), 0) FROM replication_migration";
    let applied: i32 = connection.query_one(newest, &[]).await?.get(0)?;
    if usize::try_from(applied).is_ok_and(|applied| applied > MIGRATIONS.len()) {
        return Err(too_new(applied));
    }
    for (version, (name, sql)) in (1_i32..).zip(MIGRATIONS) {
        if version <= applied {
            continue;
        }
        for statement in statements(sql) {
            connection
                .execute(statement, &[])
                .await
                .map_err(explain_create)?;
        }
        let record = "INSERT INTO replication_migration (version, name) VALUES ($1, $2)";
        connection
            .execute(record, &[Param::Int4(version), Param::Text(name)])
            .await?;
    }
    Ok(())
}

fn statements(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(";\n")
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
}

fn too_new(applied: i32) -> Error {
    let known = MIGRATIONS.len();
    let message =
        format!("the database's schema is at version {applied}, this build knows {known}");
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

    #[test]
    fn each_migration_splits_into_whole_statements() {
        for (name, sql) in MIGRATIONS {
            for statement in statements(sql) {
                let code = statement
                    .lines()
                    .find(|line| !line.starts_with("--"))
                    .unwrap();
                assert!(code.starts_with("CREATE "), "{name}: {code}");
            }
        }
    }

    #[test]
    fn migrations_are_numbered_in_the_order_they_are_applied() {
        for (number, (name, _)) in (1..).zip(MIGRATIONS) {
            assert!(name.starts_with(&format!("{number:04}_")), "{name}");
        }
    }
}
