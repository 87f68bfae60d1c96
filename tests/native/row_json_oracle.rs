//! Compares the JSON of rows with that of an oracle, Postgres's own `to_jsonb(row)`.
//!
//! Each type has a table with columns of the type itself, an array, a domain, a composite, and an
//! array of that composite. Rows are inserted, updated and deleted. What arrives through the slot is
//! sent back to Postgres, which compares it as `jsonb`. The run prints how many values were compared.
//!
//! The values are generated from a seed, which is printed; `ROW_JSON_SEED` repeats a run.

mod samples;
mod values;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::hash::BuildHasher as _;
use std::io::Write as _;

use crate::support::random::Random;
use crate::support::server::Version;
use crate::support::slot_reader::{Captured, SlotReader};
use pg_change_feed::postgres::{ArrayParam, Element, Param, escape_identifier};
use samples::Sample;

/// How many values of each type are generated.
const ROWS: i64 = 2_000;
/// How many of the rows are updated and then deleted.
const CHANGED_ROWS: i64 = 500;

/// How many rows are read with limits of their own.
const GROWING_ROWS: usize = 100;

const ORACLE: &str = include_str!("row_json_oracle/oracle.sql");

/// Types without an input function, so that no table has values of them.
const WITHOUT_INPUT: [&str; 7] = [
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
];

fn seed() -> u64 {
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *SEED.get_or_init(|| {
        let given = std::env::var("ROW_JSON_SEED").ok();
        let seed = given.map_or_else(
            || std::collections::hash_map::RandomState::new().hash_one(0),
            |seed| seed.parse().unwrap(),
        );
        say(&format!("row JSON: ROW_JSON_SEED={seed}"));
        seed
    })
}

/// Prints even if the test passes, when the harness hides the output of `println!`.
fn say(line: &str) {
    writeln!(std::io::stdout().lock(), "{line}").unwrap();
}

/// Splits a file into its statements. Only their ends have a semicolon and an empty line after it.
fn statements(file: &str) -> Vec<&str> {
    let ends = file.split_inclusive(";\n\n");
    ends.collect()
}

const SETUP: [&str; 14] = [
    "CREATE SCHEMA published",
    "CREATE UNLOGGED TABLE expected (step text, side text, id int8, row jsonb)",
    "CREATE UNLOGGED TABLE actual (step text, side text, id int8, row jsonb)",
    "CREATE EXTENSION hstore",
    "CREATE EXTENSION citext",
    "CREATE EXTENSION ltree",
    "CREATE TYPE mood AS ENUM ('ok', 'it''s \"fine\"', 'schön 😀', 'a,b}\\')",
    "CREATE TYPE textrange AS RANGE (subtype = text, multirange_type_name = textmultirange)",
    "CREATE TYPE floatrange AS RANGE (subtype = float8)",
    // The settings of the session must override those of the database.
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET DateStyle = ''German, DMY''', current_database()); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Kathmandu''', current_database()); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET IntervalStyle = iso_8601', current_database()); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET bytea_output = escape', current_database()); END $$",
    "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET extra_float_digits = -15', current_database()); END $$",
];

/// A line of the table that the run prints.
struct Tally {
    column: String,
    compared: i64,
    differences: i64,
    example: Option<String>,
}

/// A type that is tested, and the names of what is created for it.
struct Case<'a> {
    sample: &'a Sample,
    table: String,
    domain: String,
    inner: String,
    pair: String,
}

impl<'a> Case<'a> {
    fn new(sample: &'a Sample) -> Self {
        let named = |kind: &str| escape_identifier(&format!("{kind} of {}", sample.type_name));
        Self {
            sample,
            table: format!("published.{}", named("tàble")),
            domain: named("domain"),
            inner: named("inner"),
            pair: named("pair"),
        }
    }

    async fn create(&self, reader: &mut SlotReader) {
        let Self {
            table,
            domain,
            inner,
            pair,
            ..
        } = self;
        let name = self.sample.type_name;
        reader.run(&[
            &format!("CREATE DOMAIN {domain} AS {name}"),
            &format!(r#"CREATE TYPE {inner} AS ("it's ""quoted""" {name}, text text)"#),
            &format!(
                "CREATE TYPE {pair} AS (plain {name}, list {name}[], gone int, inside {inner}, d {domain})"
            ),
            &format!("ALTER TYPE {pair} DROP ATTRIBUTE gone"),
            &format!(
                r#"CREATE TABLE {table} (id int8 PRIMARY KEY, gone int, value {name}, list {name}[],
                domain {domain}, pair {pair}, "päirs ""quoted""" {pair}[])"#
            ),
            &format!("ALTER TABLE {table} DROP gone, REPLICA IDENTITY FULL"),
        ])
        .await;
    }

    /// Inserts generated rows, updates some to the values of others, and deletes the updated ones.
    /// Around each step the oracle's JSON is stored.
    async fn make_changes(&self, reader: &mut SlotReader, random: &mut Random) {
        let Self {
            table,
            domain,
            inner,
            pair,
            sample,
        } = self;
        let name = sample.type_name;
        let delimiter = if name == "box" { ';' } else { ',' };
        let mut values = ArrayParam::new(Element::Text);
        let mut lists = ArrayParam::new(Element::Text);
        for _ in 0..ROWS {
            if random.one_in(20) {
                values.push_null();
                lists.push_null();
            } else {
                values.push_text(&(sample.make)(random));
                lists.push_text(&values::array(random, delimiter, sample.make));
            }
        }
        let insert = format!(
            "INSERT INTO {table} SELECT id, v::{name}, a::{name}[], v::{name}::{domain}, pair,
                CASE id % 5 WHEN 0 THEN '{{}}' ELSE ARRAY[pair, NULL, pair] END
            FROM unnest($1, $2) WITH ORDINALITY AS made (v, a, id),
            LATERAL (SELECT CASE id % 7 WHEN 0 THEN NULL ELSE
                ROW(v::{name}, a::{name}[], ROW(v::{name}, v)::{inner}, v::{name})::{pair} END AS pair)
            AS paired"
        );
        let params = [Param::Array(&values), Param::Array(&lists)];
        let inserted = reader.connection.execute(&insert, &params).await;
        inserted.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        self.store_expected(reader, "insert", "data", ROWS).await;
        self.store_expected(reader, "update", "old", CHANGED_ROWS)
            .await;
        let update = format!(
            r#"UPDATE {table} changed SET (value, list, domain, pair, "päirs ""quoted""") =
                (o.value, o.list, o.domain, o.pair, o."päirs ""quoted""")
            FROM {table} o WHERE changed.id <= {CHANGED_ROWS} AND o.id = changed.id + {CHANGED_ROWS}"#
        );
        reader.run(&[&update]).await;
        self.store_expected(reader, "update", "data", CHANGED_ROWS)
            .await;
        self.store_expected(reader, "delete", "data", CHANGED_ROWS)
            .await;
        reader
            .run(&[&format!("DELETE FROM {table} WHERE id <= {CHANGED_ROWS}")])
            .await;
    }

    /// Stores the oracle's JSON of the first `rows` rows as they are now.
    async fn store_expected(&self, reader: &mut SlotReader, step: &str, side: &str, rows: i64) {
        let table = &self.table;
        let row = if self.sample.has_inexact_numbers() {
            "(SELECT jsonb_object_agg(attname, with_exact_numbers(to_jsonb(t) -> attname, atttypid))
            FROM pg_attribute WHERE attrelid = t.tableoid AND attnum > 0 AND NOT attisdropped)"
        } else {
            "to_jsonb(t)"
        };
        let sql = format!(
            "INSERT INTO expected SELECT '{step}', '{side}', id, {row} FROM {table} t WHERE id <= {rows}"
        );
        reader.run(&[&sql]).await;
    }
}

impl Sample {
    fn has_inexact_numbers(&self) -> bool {
        ["bigint", "numeric", "numeric(12,2)"].contains(&self.type_name)
    }
}

/// Sends what arrived through the slot back to Postgres, which compares it with the oracle's JSON.
async fn compare(reader: &mut SlotReader, changes: &[Captured]) -> Vec<Tally> {
    let mut columns = [Element::Text, Element::Text, Element::Jsonb].map(ArrayParam::new);
    let [steps, sides, rows] = &mut columns;
    for change in changes {
        let old = change.old.as_deref().map(|old| ("old", old));
        for (side, row) in [Some(("data", change.data.as_str())), old]
            .into_iter()
            .flatten()
        {
            steps.push_text(change.operation);
            sides.push_text(side);
            rows.push_text(row);
        }
    }
    let [steps, sides, rows] = &columns;
    let params = [steps, sides, rows].map(Param::Array);
    let sql = "INSERT INTO actual SELECT step, side, (row ->> 'id')::int8, row
        FROM unnest($1, $2, $3) AS came (step, side, row)";
    reader.connection.execute(sql, &params).await.unwrap();
    let sql = "
        SELECT key, count(*), count(*) FILTER (WHERE differs), min(example) FILTER (WHERE differs)
        FROM expected FULL JOIN actual USING (step, side, id),
        LATERAL (SELECT jsonb_object_keys(expected.row) UNION SELECT jsonb_object_keys(actual.row))
            AS keys (key),
        LATERAL (SELECT expected.row -> key IS DISTINCT FROM actual.row -> key,
            format('%s %s of %s: expected %s, got %s', step, side, id, expected.row -> key, actual.row -> key))
            AS judged (differs, example)
        GROUP BY key ORDER BY key";
    let tallies = reader.connection.query(sql, &[]).await.unwrap();
    reader.run(&["TRUNCATE expected, actual"]).await;
    let tallies = tallies.iter().map(|row| Tally {
        column: row.get(0).unwrap(),
        compared: row.get(1).unwrap(),
        differences: row.get(2).unwrap(),
        example: row.get(3).unwrap(),
    });
    tallies.collect()
}

async fn start(version: Version) -> SlotReader {
    let mut reader = SlotReader::start(version, &SETUP, "FOR TABLES IN SCHEMA published").await;
    reader.run(&statements(ORACLE)).await;
    reader
}

async fn every_type_equals_the_oracle(version: Version) {
    let mut reader = start(version).await;
    let mut random = Random::new(seed());
    let mut lines = vec![line(
        "type, and the types made of it",
        version,
        &"values compared",
        &"differences",
    )];
    let (mut total, mut wrong, mut examples) = (0, 0, Vec::new());
    for sample in samples::BUILT_IN.iter().chain(&samples::MADE) {
        let name = sample.type_name;
        let case = Case::new(sample);
        case.create(&mut reader).await;
        case.make_changes(&mut reader, &mut random).await;
        let changes = reader.take().await;
        let as_text = changes.iter().find(|change| !change.as_text.is_empty());
        assert_eq!(as_text, None, "{name}");
        let tallies = compare(&mut reader, &changes).await;
        let compared: i64 = tallies.iter().map(|tally| tally.compared).sum();
        let differences: i64 = tallies.iter().map(|tally| tally.differences).sum();
        // Six columns: the id and the five of the type.
        assert_eq!(compared, 6 * (ROWS + 3 * CHANGED_ROWS), "{name}");
        total += compared;
        wrong += differences;
        lines.push(line(name, version, &compared, &differences));
        let found = tallies.into_iter().filter_map(|tally| {
            let example = tally.example?;
            Some(format!("{name}.{}: {example}", tally.column))
        });
        examples.extend(found);
    }
    lines.push(line("all", version, &total, &wrong));
    say(&lines.join("\n"));
    let examples = examples.join("\n");
    assert!(examples.is_empty(), "ROW_JSON_SEED={}\n{examples}", seed());
}

fn line(name: &str, version: Version, compared: &dyn Display, differences: &dyn Display) -> String {
    format!("{name:34} {version:?} {compared:>15} {differences:>11}")
}

/// Documents that `jsonb` accepts are embedded. Others that only `json` accepts are strings of their
/// text, and their column is named.
async fn documents_that_jsonb_refuses_are_text(version: Version) {
    let mut reader = start(version).await;
    let mut random = Random::new(seed());
    let mut documents = ArrayParam::new(Element::Text);
    for _ in 0..ROWS {
        documents.push_text(&values::doubtful_json(&mut random));
    }
    reader
        .run(&["CREATE TABLE published.documents (id int8 PRIMARY KEY, value json)"])
        .await;
    for sql in [
        "INSERT INTO published.documents SELECT id, value::json
        FROM unnest($1) WITH ORDINALITY AS made (value, id)",
        "INSERT INTO expected SELECT 'insert', 'data', id, jsonb_build_object(
            'id', id, 'value', coalesce(held_by_jsonb(value), to_jsonb(value::text)))
        FROM published.documents WHERE $1 IS NOT NULL",
    ] {
        let params = [Param::Array(&documents)];
        reader.connection.execute(sql, &params).await.unwrap();
    }
    let sql = "SELECT id FROM published.documents WHERE held_by_jsonb(value) IS NULL ORDER BY id";
    let refused = reader.connection.query(sql, &[]).await.unwrap();
    let refused: Vec<i64> = refused.iter().map(|row| row.get(0).unwrap()).collect();
    let changes = reader.take().await;
    let flagged = (1..)
        .zip(&changes)
        .filter(|(_, change)| change.as_text == ["value"]);
    let flagged: Vec<i64> = flagged.map(|(id, _)| id).collect();
    assert_eq!(flagged, refused, "{version:?}: ROW_JSON_SEED={}", seed());
    assert!(refused.len() > 100 && refused.len() < changes.len() - 100);
    for tally in compare(&mut reader, &changes).await {
        assert_eq!(tally.compared, ROWS);
        assert_eq!(tally.differences, 0, "{version:?}: {:?}", tally.example);
    }
}

/// Types whose values grow when they are read back: numbers with exponents, and values with commas and
/// colons.
const GROWING: [&str; 2] = [
    "CREATE TYPE reading AS (at int, value float8)",
    "CREATE TABLE growing (id int PRIMARY KEY, floats float8[], readings reading[], document json, \
     documents json[], labels hstore, note text)",
];

/// A document of which `jsonb` prints no part shorter: it has no white space, no repeated keys, and
/// neither `1e1` nor `0e9`.
fn growing_document(random: &mut Random, depth: u32) -> String {
    let items = (0..random.below(5)).map(|index| (index, random.bits()));
    let items: Vec<_> = items.collect();
    let make = |seed: u64| growing_document(&mut Random::new(seed), depth + 1);
    match random.below(if depth < 3 { 5 } else { 3 }) {
        0 => random
            .pick(&["true", "null", r#""\n\"\u0001é""#, "0e-99", "-12.50e9"])
            .to_owned(),
        1 => {
            let (digits, exponent) = (random.integer(40) * 10 + 1, random.between(20, 3_000));
            format!("{digits}e{}{exponent}", random.pick(&["", "-"]))
        }
        2 => format!("{}.{}", random.integer(20), random.below(1_000)),
        3 => {
            let items: Vec<_> = items.iter().map(|&(_, seed)| make(seed)).collect();
            format!("[{}]", items.join(","))
        }
        _ => {
            let member = |&(index, seed): &(u64, u64)| format!(r#""k{index}":{}"#, make(seed));
            let members: Vec<_> = items.iter().map(member).collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

async fn insert_growing_row(reader: &mut SlotReader, random: &mut Random) {
    let floats = values::array(random, ',', values::double);
    let readings = values::array(random, ',', |random| {
        format!("({},{})", random.integer(20), values::double(random))
    });
    let document = growing_document(random, 0);
    let more = [growing_document(random, 0), growing_document(random, 0)];
    let params = [&floats, &readings, &document, &more[0], &more[1]].map(|text| Param::Text(text));
    let sql = "INSERT INTO growing VALUES (1, ($1::text)::float8[], ($2::text)::reading[], \
        ($3::text)::json, ARRAY[$4::text, $5::text]::json[], 'a=>1,b=>NULL', 'note')";
    let inserted = reader.connection.execute(sql, &params).await;
    inserted.unwrap_or_else(|error| panic!("{params:?}: {error:?}"));
}

/// The length in bytes of a change's rows when they are read back.
async fn printed_len(reader: &mut SlotReader, change: &Captured) -> usize {
    let sql = "SELECT octet_length($1::jsonb::text) + octet_length($2::jsonb::text)";
    let old = change.old.as_deref().unwrap();
    let params = [Param::Text(&change.data), Param::Text(old)];
    let rows = reader.connection.query(sql, &params).await.unwrap();
    usize::try_from(rows[0].get::<i32>(0).unwrap()).unwrap()
}

async fn a_row_fits_a_limit_of_its_size_as_it_is_read_back_and_not_a_smaller_one(version: Version) {
    let published = "FOR TABLE growing WITH (publish = 'update')";
    let setup = ["CREATE EXTENSION hstore", GROWING[0], GROWING[1]];
    let mut reader = SlotReader::start(version, &setup, published).await;
    reader
        .run(&["ALTER TABLE growing REPLICA IDENTITY FULL"])
        .await;
    let mut random = Random::new(seed());
    let unlimited = reader.limits;
    for _ in 0..GROWING_ROWS {
        reader.run(&["TRUNCATE growing"]).await;
        insert_growing_row(&mut reader, &mut random).await;
        let update = ["UPDATE growing SET note = note"];
        reader.limits = unlimited;
        reader.run(&update).await;
        let whole = reader.take().await.remove(0);
        let printed = printed_len(&mut reader, &whole).await;

        // Each row counts one byte more, since jsonb prints no space before the first member.
        reader.limits.max_row_bytes = printed + 2;
        reader.run(&update).await;
        let fitting = reader.take().await.remove(0);
        let context = format!("{version:?}: ROW_JSON_SEED={}, {whole:?}", seed());
        assert!(
            (&fitting.data, &fitting.old) == (&whole.data, &whole.old),
            "{context}, {fitting:?}"
        );

        reader.limits.max_row_bytes = printed - 1;
        reader.run(&update).await;
        let cut = reader.take().await.remove(0);
        assert!(cut.omitted.len() + cut.as_text.len() > 0, "{context}");
        let printed_cut = printed_len(&mut reader, &cut).await;
        assert!(
            printed_cut < printed,
            "{printed_cut} and {printed} bytes, {context}"
        );
    }
}

async fn no_built_in_type_is_left_out(version: Version) {
    let mut reader = start(version).await;
    let mut names = ArrayParam::new(Element::Text);
    for sample in &samples::BUILT_IN {
        names.push_text(sample.type_name);
    }
    let sql = "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace
        AND typtype IN ('b', 'r', 'm') AND typname !~ '^_'
        AND oid NOT IN (SELECT name::regtype FROM unnest($1) AS names (name))";
    let rows = reader
        .connection
        .query(sql, &[Param::Array(&names)])
        .await
        .unwrap();
    let untested: BTreeSet<String> = rows.iter().map(|row| row.get(0).unwrap()).collect();
    assert_eq!(
        untested,
        WITHOUT_INPUT.map(str::to_owned).into(),
        "{version:?}"
    );
}

on_each_version!(
    every_type_equals_the_oracle,
    documents_that_jsonb_refuses_are_text,
    a_row_fits_a_limit_of_its_size_as_it_is_read_back_and_not_a_smaller_one,
    no_built_in_type_is_left_out,
);
