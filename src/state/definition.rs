//! What a publication publishes, and whether it has published less since the feed last looked.
//!
//! Postgres decodes a change with the publication as it was when the change was written, and skips
//! without a word what was not published then. The catalogue of now is the only sign of that:
//! adding a table, or changing its filter or its columns, gives its entry a new OID.

use serde_json::{Map, Value};

use crate::changes::FeedTables;
use crate::error::Result;
use crate::postgres::{Connection, Param, Row, Stream};

/// Describes the publication `$2` as JSON; null if it does not exist.
///
/// `options` has its columns apart from names and owners, and `tables` and `schemas` have the OID of
/// each entry, and whether it is as old as the publication. (`xmin` is the transaction that wrote a
/// row. It changes when the publication's options or its owner do, and then at worst an entry no
/// longer counts as that old.)
const DEFINITION: &str = "\
(SELECT pg_catalog.jsonb_build_object('options', \
pg_catalog.to_jsonb(p) - '{oid,pubname,pubowner}'::pg_catalog.text[], \
'oid', p.oid::pg_catalog.text, \
'tables', (SELECT pg_catalog.jsonb_object_agg(prrelid::pg_catalog.text, \
pg_catalog.jsonb_build_array(r.oid::pg_catalog.text, r.xmin = p.xmin)) \
FROM pg_catalog.pg_publication_rel r WHERE prpubid = p.oid), \
'schemas', (SELECT pg_catalog.jsonb_object_agg(pnnspid::pg_catalog.text, \
pg_catalog.jsonb_build_array(n.oid::pg_catalog.text, n.xmin = p.xmin)) \
FROM pg_catalog.pg_publication_namespace n WHERE pnpubid = p.oid)) \
FROM pg_catalog.pg_publication p WHERE pubname = $2::pg_catalog.text)";

/// The SQL of the publication's [`Fingerprint`], as one column. `$2` is its name. It is part of every
/// cycle, so it has less in it than [`DEFINITION`].
pub(crate) const FINGERPRINT: &str = "\
(SELECT pg_catalog.hashtextextended(pg_catalog.concat_ws('/', p::pg_catalog.text, \
(SELECT pg_catalog.string_agg(r.oid::pg_catalog.text, ',' ORDER BY r.oid) \
FROM pg_catalog.pg_publication_rel r WHERE prpubid = p.oid), 'schemas', \
(SELECT pg_catalog.string_agg(n.oid::pg_catalog.text, ',' ORDER BY n.oid) \
FROM pg_catalog.pg_publication_namespace n WHERE pnpubid = p.oid)), 0) \
FROM pg_catalog.pg_publication p WHERE pubname = $2::pg_catalog.text)";

/// Stands for a definition: a look at it is enough for most cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(i64);

impl Fingerprint {
    /// Reads the column of [`FINGERPRINT`]; `None` if the publication does not exist.
    pub(crate) fn from_column(row: &Row, column: usize) -> Result<Option<Self>> {
        Ok(row.get::<Option<i64>>(column)?.map(Self))
    }
}

/// The publication of a feed, as the catalogue has it and as the checkpoint remembers it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Published {
    pub(super) fingerprint: Fingerprint,
    /// As the catalogue has it now. What the feed has once published and no longer does is in it,
    /// with a null.
    now: Value,
    /// `None`: the checkpoint has no column for it, which `POST /init` creates.
    remembered: Option<Value>,
    /// Something that was published no longer is, or was not for a while.
    pub(super) has_gap: bool,
    /// The tables of feeds, which are never captured.
    pub(super) feed_tables: FeedTables,
}

/// Reads the publication; `None` if it does not exist.
pub(super) async fn read<S: Stream>(
    connection: &mut Connection<S>,
    slot: &str,
    publication: &str,
) -> Result<Option<Published>> {
    let sql = format!(
        "SELECT {DEFINITION}::pg_catalog.text, {FINGERPRINT}, \
         checkpoint OPERATOR(pg_catalog.?) 'publication', \
         (checkpoint OPERATOR(pg_catalog.->) 'publication')::pg_catalog.text, {}, {}, {} \
         FROM (SELECT pg_catalog.to_jsonb(c) AS checkpoint FROM replication_checkpoint c \
         WHERE c.slot = $1::pg_catalog.text) AS stored",
        gone("tables", "pg_class"),
        gone("schemas", "pg_namespace"),
        FeedTables::OIDS_SQL
    );
    let names = [Param::Text(slot), Param::Text(publication)];
    let Some(row) = connection.query_optional(&sql, &names).await? else {
        return Ok(None);
    };
    let definition: Option<String> = row.get(0)?;
    let (Some(definition), Some(fingerprint)) = (definition, Fingerprint::from_column(&row, 1)?)
    else {
        return Ok(None);
    };
    let remembered: Option<String> = row.get(3)?;
    let remembered = remembered.map_or(Value::Null, |text| parse(&text));
    let mut now = parse(&definition);
    let gone_tables: Option<String> = row.get(4)?;
    let gone_schemas: Option<String> = row.get(5)?;
    let has_gap = compare(
        &remembered,
        &mut now,
        &gone_tables.unwrap_or_default(),
        &gone_schemas.unwrap_or_default(),
    );
    let has_column: Option<bool> = row.get(2)?;
    let feed_tables: Option<String> = row.get(6)?;
    Ok(Some(Published {
        fingerprint,
        now,
        remembered: has_column.unwrap_or(false).then_some(remembered),
        has_gap,
        feed_tables: FeedTables::parse(&feed_tables.unwrap_or_default()),
    }))
}

/// A subquery for the OIDs of what the checkpoint remembers as published and `catalog` no longer
/// has, separated by commas; null if there are none. `kind` is `tables` or `schemas`.
fn gone(kind: &str, catalog: &str) -> String {
    let remembered = format!("checkpoint OPERATOR(pg_catalog.#>) '{{publication,{kind}}}'");
    format!(
        "(SELECT pg_catalog.string_agg(key, ',') FROM pg_catalog.jsonb_object_keys(CASE \
         pg_catalog.jsonb_typeof({remembered}) WHEN 'object' THEN {remembered} END) key \
         WHERE NOT EXISTS (SELECT FROM pg_catalog.{catalog} c WHERE c.oid = key::pg_catalog.oid))"
    )
}

impl Published {
    /// The checkpoint should remember what is published now.
    pub(super) fn is_news(&self) -> bool {
        self.remembered.as_ref().is_some_and(|old| *old != self.now)
    }

    /// Makes the checkpoint remember it, in the caller's transaction.
    pub(super) async fn remember<S: Stream>(
        &self,
        connection: &mut Connection<S>,
        slot: &str,
    ) -> Result<()> {
        const REMEMBER: &str = "UPDATE replication_checkpoint \
            SET publication = $2::pg_catalog.text::pg_catalog.jsonb WHERE slot = $1::pg_catalog.text";
        if self.is_news() {
            let params = [Param::Text(slot), Param::Text(&self.now.to_string())];
            connection.execute(REMEMBER, &params).await?;
        }
        Ok(())
    }
}

/// What the database itself has made is JSON; anything else is not remembered.
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// Whether changes of what `before` published may have been skipped before `now`. Marks in `now` what
/// is published no longer. `gone_tables` and `gone_schemas` have been dropped, and with them what
/// they published.
fn compare(before: &Value, now: &mut Value, gone_tables: &str, gone_schemas: &str) -> bool {
    // While there is no publication of the name, decoding itself reports what it cannot publish. So
    // only what a new one lacked at its creation can be skipped.
    let is_recreated = before.get("oid") != now.get("oid");
    let tables = compare_entries(before, now, "tables", gone_tables, is_recreated);
    let schemas = compare_entries(before, now, "schemas", gone_schemas, is_recreated);
    let options = !before.is_null() && before.get("options") != now.get("options");
    tables || schemas || options
}

fn compare_entries(
    before: &Value,
    now: &mut Value,
    kind: &str,
    gone: &str,
    is_recreated: bool,
) -> bool {
    let none = Map::new();
    let before = before.get(kind).and_then(Value::as_object).unwrap_or(&none);
    let mut entries = match now.get_mut(kind).map(Value::take) {
        Some(Value::Object(entries)) => entries,
        _ => Map::new(),
    };
    let mut has_gap = false;
    for (oid, old) in before {
        if gone.split(',').any(|gone| gone == oid) {
            continue;
        }
        let Some(new) = entries.get(oid) else {
            has_gap |= !old.is_null();
            entries.insert(oid.clone(), Value::Null);
            continue;
        };
        let is_as_old = is_recreated && !old.is_null() && new.get(1) == Some(&Value::Bool(true));
        has_gap |= !is_as_old && old.get(0) != new.get(0);
    }
    if let Some(now) = now.as_object_mut() {
        now.insert(kind.to_owned(), Value::Object(entries));
    }
    has_gap
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn publication(oid: &str, tables: &Value) -> Value {
        json!({"oid": oid, "options": {"pubinsert": true}, "tables": tables, "schemas": null})
    }

    /// Whether there is a gap from one to the next, and what is remembered then.
    fn step(before: &Value, mut now: Value, gone: &str) -> (bool, Value) {
        let has_gap = compare(before, &mut now, gone, "");
        let tables = now["tables"].clone();
        (has_gap, tables)
    }

    #[test]
    fn a_table_that_is_added_is_no_gap_and_one_that_was_away_is() {
        let one = publication("1", &json!({"7": ["70", true]}));
        let two = publication("1", &json!({"7": ["70", true], "8": ["80", false]}));
        assert!(!step(&Value::Null, one.clone(), "").0);
        assert!(!step(&one, two.clone(), "").0);
        let (has_gap, remembered) = step(&two, one.clone(), "");
        assert!(has_gap && remembered["8"].is_null());
        let away = publication("1", &remembered);
        assert_eq!(step(&away, one.clone(), ""), (false, remembered.clone()));
        assert!(step(&away, two.clone(), "").0, "it is back");
        assert!(
            step(
                &two,
                publication("1", &json!({"7": ["71", false], "8": ["80", false]})),
                ""
            )
            .0
        );
        let (has_gap, remembered) = step(&two, one, "8");
        assert!(!has_gap && remembered.get("8").is_none(), "it was dropped");
    }

    #[test]
    fn a_new_publication_is_no_gap_if_it_had_the_tables_from_its_creation() {
        let old = publication("1", &json!({"7": ["70", true]}));
        assert!(!step(&old, publication("2", &json!({"7": ["71", true]})), "").0);
        assert!(step(&old, publication("2", &json!({"7": ["71", false]})), "").0);
        assert!(step(&old, publication("2", &json!(null)), "").0);
    }

    #[test]
    fn other_options_are_a_gap() {
        let old = publication("1", &json!({"7": ["70", true]}));
        let mut new = old.clone();
        new["options"] = json!({"pubinsert": false});
        assert!(step(&old, new, "").0);
    }
}
