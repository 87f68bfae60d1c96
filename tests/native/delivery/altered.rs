//! Tables that are altered while clients filter them: the catalogue at the time of delivery differs
//! from the one at the time of writing.

use std::collections::BTreeMap;

use pg_change_feed::clients::{
    ClientMessage, Position, SchemaChanges, Start, Subscription, Subscriptions, View,
};
use pg_change_feed::clock;
use pg_change_feed::delivery::{Engine, Head};
use pg_change_feed::history::Recent;
use serde_json::Value;
use tokio::net::TcpStream;

use super::fake_sink::{FakeSink, frames, inbox};
use super::harness::{Client, MemoryStore, evict, join_unlimited, work};
use crate::support::feed::{Reader, TestFeed};
use crate::support::random::Random;
use crate::support::server::Version;

on_each_version!(
    whatever_is_altered_a_ticket_shows_nothing_else_and_a_filter_loses_nothing,
    whatever_is_altered_while_nobody_looked_a_ticket_shows_nothing_else,
    a_client_is_told_when_what_its_welcome_warned_of_has_changed,
    a_filter_whose_column_has_gone_hides_from_tickets_and_shows_to_others,
);

/// The clients' filters, and the same as SQL on `r`, a row's JSON; `is_number` says whether `code`
/// was numeric when the row was written.
const FILTERS: [(&str, &str); 5] = [
    (
        r#"{"column":"owner","op":"eq","value":"a"}"#,
        "r->>'owner' = 'a'",
    ),
    (
        r#"{"column":"code","op":"lt","value":"95"}"#,
        "CASE WHEN is_number THEN (r->>'code')::numeric < 95 \
         ELSE (r->>'code') COLLATE \"C\" < '95' END",
    ),
    (
        r#"{"column":"id","op":"lt","value":50}"#,
        "(r->>'id')::int < 50",
    ),
    (
        r#"{"column":"code","op":"in","value":["9007199254740993.0","5"]},{"column":"owner","op":"neq","value":"b"}"#,
        "r->>'owner' <> 'b' AND CASE WHEN is_number \
         THEN (r->>'code')::numeric IN (9007199254740993, 5) \
         ELSE r->>'code' IN ('9007199254740993.0', '5') END",
    ),
    (
        r#"{"column":"u","op":"gte","value":500}"#,
        "(r->>'u')::int >= 500",
    ),
];

/// The table, and a witness: one row for each change, in the same order, that says which filters
/// the new and the old row match by the types of that moment.
fn tables() -> String {
    let matches: Vec<_> = FILTERS.iter().map(|(_, sql)| format!("({sql})")).collect();
    format!(
        "CREATE TABLE t (id int PRIMARY KEY, owner text, code text, u int NOT NULL UNIQUE); \
         CREATE TABLE witness (id bigserial PRIMARY KEY, new bool[], old bool[]); \
         CREATE FUNCTION matches(r jsonb, is_number bool) RETURNS bool[] LANGUAGE sql AS \
         $$ SELECT ARRAY[{}] $$; \
         CREATE FUNCTION attest() RETURNS trigger LANGUAGE plpgsql AS $$ \
         DECLARE is_number bool := (SELECT atttypid = 'numeric'::regtype FROM pg_attribute \
           WHERE attrelid = 't'::regclass AND attname = 'code'); \
         BEGIN INSERT INTO witness (new, old) VALUES ( \
           CASE WHEN TG_OP <> 'DELETE' THEN matches(to_jsonb(NEW), is_number) END, \
           CASE WHEN TG_OP <> 'INSERT' THEN matches(to_jsonb(OLD), is_number) END); \
         RETURN NULL; END $$; \
         CREATE TRIGGER attest AFTER INSERT OR UPDATE OR DELETE ON t \
         FOR EACH ROW EXECUTE FUNCTION attest()",
        matches.join(", ")
    )
}

fn subscriptions(conditions: &str) -> Vec<Subscription> {
    let frame = format!(
        r#"{{"type":"subscribe","subscriptions":[{{"table":"t","filter":[{conditions}]}}]}}"#
    );
    match ClientMessage::parse(&frame).unwrap() {
        ClientMessage::Subscribe {
            wanted: Subscriptions::Tables(tables),
            ..
        } => tables,
        other => panic!("{other:?}"),
    }
}

fn view(conditions: &str, has_ticket: bool) -> View {
    let filtered = subscriptions(conditions);
    if has_ticket {
        View::new(Subscriptions::AllTables, Some(filtered)).unwrap()
    } else {
        View::new(Subscriptions::Tables(filtered), None).unwrap()
    }
}

struct Member {
    client: Client,
    filter: usize,
    has_ticket: bool,
    began: i64,
}

/// Plays the object's part: polls, describes what it has read, and delivers.
struct Object {
    reader: Reader<TcpStream>,
    engine: Engine<FakeSink>,
    store: MemoryStore,
    recent: Option<Recent>,
}

impl Object {
    async fn new(feed: &TestFeed) -> Self {
        let store = MemoryStore::default();
        Self {
            reader: feed.reader().await,
            engine: store.engine(None),
            store,
            recent: None,
        }
    }

    fn at(&self, id: i64) -> Position {
        Position {
            epoch: self.reader.cycle.checkpoint.epoch,
            id,
        }
    }

    fn head(&self) -> Position {
        self.at(self.reader.cycle.checkpoint.last_id)
    }

    async fn poll(&mut self) {
        let report = self.reader.poll().await.unwrap();
        let changes = SchemaChanges {
            after: self.at(report.after),
            through: self.head(),
            relations: &report.relations,
        };
        self.engine.describe(&changes).unwrap();
        self.recent = report.recent;
    }

    async fn deliver(&mut self) {
        let head = Head {
            position: self.head(),
            recent: self.recent.clone(),
        };
        self.engine.publish(head, clock::now_ms());
        work(&self.engine, &mut self.reader.connection).await;
    }
}

struct World {
    object: Object,
    members: Vec<Member>,
    random: Random,
    next: u64,
    is_number: bool,
    /// How many alterations are left: those before the last 16 are forgotten.
    alterations: u32,
}

impl World {
    fn join(&mut self) {
        let filter = self.random.index(FILTERS.len());
        let has_ticket = self.random.below(2) == 0;
        let head = self.object.head();
        let began = i64::try_from(self.random.below(head.id.unsigned_abs() + 1)).unwrap();
        let start = Start::After(self.object.at(began));
        let view = view(FILTERS[filter].0, has_ticket);
        self.members.push(Member {
            client: join_unlimited(&self.object.engine, view, start),
            filter,
            has_ticket,
            began,
        });
    }

    /// The object's next instance, with or without the table descriptions that it had persisted.
    fn evict(&mut self, remembers: bool) {
        if !remembers {
            self.object.store = MemoryStore::default();
        }
        let through = remembers.then(|| self.object.head());
        self.object.engine = self.object.store.engine(through);
        self.object.recent = None;
        for member in &mut self.members {
            member.client.persist();
            member.client = evict(&member.client, &self.object.engine);
        }
    }

    /// A transaction, in which the table may be altered between two writes.
    async fn write(&mut self, client: &tokio_postgres::Client) {
        let mut sql = String::from("BEGIN; ");
        for _ in 0..=self.random.below(4) {
            sql += &self.statement();
            sql += "; ";
        }
        client.batch_execute(&(sql + "COMMIT")).await.unwrap();
    }

    fn statement(&mut self) -> String {
        let codes = [
            "1",
            "5",
            "94",
            "96",
            "9007199254740993",
            "90071992547409930",
            "-7",
        ];
        let (code, owner) = (self.random.pick(&codes), self.random.pick(&["a", "b", "c"]));
        let (row, n) = (self.random.below(100), self.random.below(1_000));
        let some = format!("id IN (SELECT id FROM t ORDER BY (id * 37 + {n}) % 101 LIMIT 1)");
        let kinds = if self.alterations > 0 && self.random.below(8) == 0 {
            self.alterations -= 1;
            9..14
        } else {
            0..9
        };
        match kinds.start + self.random.below(kinds.end - kinds.start) {
            0..4 => {
                self.next += 1;
                let u = (self.next * 617) % 1_000_003;
                format!(
                    "INSERT INTO t VALUES ({row}, '{owner}', '{code}', {u} % 1000 + {u} / 1000 * 1000) \
                     ON CONFLICT DO NOTHING"
                )
            }
            4 => format!("UPDATE t SET owner = '{owner}' WHERE {some}"),
            5 => format!("UPDATE t SET code = '{code}' WHERE {some}"),
            6 => format!(
                "UPDATE t SET id = {row} WHERE {some} AND NOT EXISTS (SELECT FROM t WHERE id = {row})"
            ),
            7 => format!(
                "UPDATE t SET u = {n} WHERE {some} AND NOT EXISTS (SELECT FROM t WHERE u = {n})"
            ),
            8 => format!("DELETE FROM t WHERE {some}"),
            9 | 10 => "ALTER TABLE t REPLICA IDENTITY FULL".into(),
            11 => "ALTER TABLE t REPLICA IDENTITY DEFAULT".into(),
            12 => "ALTER TABLE t REPLICA IDENTITY USING INDEX t_u_key".into(),
            _ => {
                self.is_number = !self.is_number;
                let to = if self.is_number { "numeric" } else { "text" };
                format!("ALTER TABLE t ALTER code TYPE {to} USING code::{to}")
            }
        }
    }
}

async fn live(feed: &TestFeed, forgets: bool) {
    let seed = Random::seed();
    let writer = feed.client().await;
    let mut world = World {
        object: Object::new(feed).await,
        members: Vec::new(),
        random: Random::new(seed),
        next: 0,
        is_number: false,
        alterations: 15,
    };
    for _ in 0..900 {
        match world.random.below(10) {
            0..4 => world.write(&writer).await,
            4 if world.members.len() < 120 => world.join(),
            5 if world.random.below(4) == 0 => {
                let remembers = !forgets || world.random.below(2) == 0;
                world.evict(remembers);
            }
            6..8 => {
                world.object.poll().await;
                world.object.deliver().await;
            }
            _ => {
                // What was written before is delivered after, from the history.
                world.object.poll().await;
            }
        }
    }
    world.object.poll().await;
    world.object.recent = None;
    world.object.deliver().await;
    check(&writer, &world, forgets).await;
}

/// A change's id, and which filters its new and its old row matched when it was written.
type Witness = (i64, Option<Vec<bool>>, Option<Vec<bool>>);

async fn check(client: &tokio_postgres::Client, world: &World, forgets: bool) {
    let rows = client.query("SELECT id, new, old FROM witness ORDER BY id", &[]);
    let witnesses: Vec<Witness> = rows
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    assert_eq!(
        i64::try_from(witnesses.len()).unwrap(),
        world.object.head().id
    );
    let (mut shown, mut hidden) = (0, 0);
    for member in &world.members {
        let filter = FILTERS[member.filter].0;
        let changes = inbox(&member.client).changes();
        let seen: BTreeMap<i64, &Value> = changes
            .iter()
            .map(|change| (change["id"].as_i64().unwrap(), change))
            .collect();
        for (index, (_, new, old)) in witnesses.iter().enumerate() {
            let id = i64::try_from(index).unwrap() + 1;
            let matches =
                |row: &Option<Vec<bool>>| row.as_ref().is_some_and(|row| row[member.filter]);
            let (new, old) = (matches(new), matches(old));
            let Some(change) = seen.get(&id).filter(|_| id > member.began) else {
                hidden += 1;
                let is_due = id > member.began
                    && if member.has_ticket {
                        new && !forgets
                    } else {
                        new || old
                    };
                assert!(
                    !is_due,
                    "change {id} is missing: {filter} {}",
                    member.has_ticket
                );
                continue;
            };
            shown += 1;
            if member.has_ticket {
                let is_delete = change["operation"] == "delete";
                assert!(if is_delete { old } else { new }, "{filter} shows {change}");
                assert!(
                    change["old"].is_null() || old,
                    "{filter} shows the old row of {change}"
                );
            }
        }
    }
    println!(
        "{} changes, {} clients: {shown} shown, {hidden} not",
        witnesses.len(),
        world.members.len()
    );
    assert!(witnesses.len() > 200 && shown > 2_000 && hidden > 2_000);
}

async fn whatever_is_altered_a_ticket_shows_nothing_else_and_a_filter_loses_nothing(
    version: Version,
) {
    let feed = TestFeed::create(version, &tables(), "FOR TABLE t").await;
    live(&feed, false).await;
}

async fn whatever_is_altered_while_nobody_looked_a_ticket_shows_nothing_else(version: Version) {
    let feed = TestFeed::create(version, &tables(), "FOR TABLE t").await;
    live(&feed, true).await;
}

async fn a_client_is_told_when_what_its_welcome_warned_of_has_changed(version: Version) {
    let feed = TestFeed::create(version, &tables(), "FOR TABLE t").await;
    let mut object = Object::new(&feed).await;
    let join = |view| join_unlimited(&object.engine, view, Start::Now);
    let owner = join(view(FILTERS[0].0, false));
    let key = join(view(FILTERS[2].0, true));
    object.deliver().await;
    let mut alter = async |sql: &str, row: u32| {
        let insert = format!("{sql}; INSERT INTO t VALUES ({row}, 'a', '1', {row})");
        feed.run(&insert).await;
        object.poll().await;
        object.deliver().await;
    };
    alter("SELECT 1", 1).await;
    alter("ALTER TABLE t REPLICA IDENTITY FULL", 2).await;
    alter("SELECT 1", 3).await;
    alter("ALTER TABLE t REPLICA IDENTITY USING INDEX t_u_key", 4).await;
    let sent = |client: &Client| -> Vec<String> {
        let frames = frames(client);
        let sent = frames
            .iter()
            .map(|frame| match frame["type"].as_str().unwrap() {
                kind @ ("welcome" | "warnings") => {
                    let columns = frame["warnings"].as_array().map_or(0, Vec::len);
                    format!("{kind} {columns}")
                }
                kind => kind.to_owned(),
            });
        sent.collect()
    };
    let expected = [
        "welcome 1",
        "caught_up",
        "changes",
        "warnings 0",
        "changes",
        "changes",
        "warnings 1",
        "changes",
    ];
    assert_eq!(sent(&owner), expected);
    let expected = [
        "welcome 0",
        "caught_up",
        "changes",
        "changes",
        "changes",
        "warnings 1",
        "changes",
    ];
    assert_eq!(sent(&key), expected);
}

async fn a_filter_whose_column_has_gone_hides_from_tickets_and_shows_to_others(version: Version) {
    let feed = TestFeed::create(
        version,
        "CREATE TABLE t (id int PRIMARY KEY, owner text)",
        "FOR TABLE t",
    )
    .await;
    let mut object = Object::new(&feed).await;
    let join = |has_ticket| {
        let view = view(FILTERS[0].0, has_ticket);
        join_unlimited(&object.engine, view, Start::Now)
    };
    let (ticket, plain) = (join(true), join(false));
    object.deliver().await;
    feed.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')").await;
    feed.run("ALTER TABLE t DROP owner; INSERT INTO t VALUES (3)")
        .await;
    feed.run("ALTER TABLE t ADD owner text DEFAULT 'a'; INSERT INTO t VALUES (4, 'a')")
        .await;
    object.poll().await;
    object.deliver().await;
    assert_eq!(inbox(&ticket).ids(), [1, 4]);
    assert_eq!(inbox(&plain).ids(), [1, 3, 4]);
    assert_eq!(inbox(&plain).all("error"), [] as [Value; 0]);
}
