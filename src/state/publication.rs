//! The publication: which tables are captured.

use postgres_protocol::escape::escape_identifier;

use crate::config::TableName;
use crate::error::{Category, Error, Result};
use crate::postgres::{Connection, Param, Stream};

/// Checks that the publication is there; makes it when it is not and `tables` are given.
///
/// An existing publication is never altered: it may serve others too.
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
        match error.sqlstate() {
            Some("42P01" | "3F000") => Error::new(
                Category::Configuration,
                "table_missing",
                "a table named in `tables` does not exist",
            )
            .with_source(error)
            .with_remedy("correct the field tables, or make the table first"),
            _ if error.category() == Category::Permission => {
                error.with_remedy(format!("as the owner of the tables, run {create};"))
            }
            _ => error,
        }
    })?;
    Ok(())
}

/// Whether a publication of that name is in this database.
pub(super) async fn exists<S: Stream>(
    connection: &mut Connection<S>,
    publication: &str,
) -> Result<bool> {
    const EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1::text)";
    Ok(connection
        .query_one(EXISTS, &[Param::Text(publication)])
        .await?
        .get(0)?)
}

/// The error of a publication that is not there, with the SQL that makes it.
pub(super) fn missing(publication: &str, tables: &[TableName]) -> Error {
    let message = format!("the publication {publication} does not exist");
    let create = create_statement(publication, tables);
    Error::new(Category::PublicationMissing, "publication_missing", message).with_remedy(format!(
        "run {create}; naming your tables, or call POST /init with `tables`"
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
    fn identifiers_are_quoted_whatever_they_hold() {
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
