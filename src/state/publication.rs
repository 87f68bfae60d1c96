//! The publication: which tables are captured.

use postgres_protocol::escape::escape_identifier;

use crate::config::TableName;
use crate::error::{Category, Error, Result};
use crate::postgres::{Connection, Param, SqlState, Stream};

/// Checks that the publication exists. Creates it if it does not and `tables` are given.
///
/// An existing publication is never altered, since others may use it too.
pub(super) async fn ensure<S: Stream>(
    connection: &mut Connection<S>,
    publication: &str,
    tables: &[TableName],
) -> Result<()> {
    if exists(connection, publication).await? {
        return Ok(());
    }
    if tables.is_empty() {
        return Err(missing(publication, tables));
    }
    let create = create_statement(publication, tables);
    connection.execute(&create, &[]).await.map_err(|cause| {
        let error = Error::from(cause);
        let is_table_missing = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME]
            .iter()
            .any(|state| error.sqlstate() == Some(state.as_str()));
        match error.category() {
            _ if is_table_missing => Error::new(
                Category::Configuration,
                "table_missing",
                "a table named in `tables` does not exist",
            )
            .with_source(error)
            .with_remedy("correct the field tables, or create the table first"),
            Category::Permission => {
                error.with_remedy(format!("as the owner of the tables, run {create};"))
            }
            _ => error,
        }
    })?;
    Ok(())
}

/// Whether this database has a publication of that name.
pub(super) async fn exists<S: Stream>(
    connection: &mut Connection<S>,
    publication: &str,
) -> Result<bool> {
    const EXISTS: &str =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $1::text)";
    Ok(connection
        .query_one(EXISTS, &[Param::Text(publication)])
        .await?
        .get(0)?)
}

/// The error for a missing publication, with the SQL that creates it.
pub(super) fn missing(publication: &str, tables: &[TableName]) -> Error {
    let message = format!("the publication {publication} does not exist");
    let create = create_statement(publication, tables);
    Error::new(Category::PublicationMissing, "publication_missing", message).with_remedy(format!(
        "run {create}; with your tables, or call POST /init with `tables`"
    ))
}

fn create_statement(publication: &str, tables: &[TableName]) -> String {
    let publication = escape_identifier(publication);
    let tables: Vec<String> = tables
        .iter()
        .map(|name| {
            format!(
                "{}.{}",
                escape_identifier(&name.schema),
                escape_identifier(&name.table)
            )
        })
        .collect();
    let tables = if tables.is_empty() {
        "...".to_owned()
    } else {
        tables.join(", ")
    };
    format!("CREATE PUBLICATION {publication} FOR TABLE {tables}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted_whatever_they_contain() {
        let tables = [TableName {
            schema: "public".into(),
            table: "a\"; DROP TABLE b; --".into(),
        }];
        assert_eq!(
            create_statement("p", &tables),
            "CREATE PUBLICATION \"p\" FOR TABLE \"public\".\"a\"\"; DROP TABLE b; --\""
        );
    }
}
