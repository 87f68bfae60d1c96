//! Thousands of joins, leaves, evictions and reconnects while rows are written.

use pg_change_feed::clients::{Position, Start};
use pg_change_feed::clock;
use pg_change_feed::delivery::{Engine, Flow, Head};
use pg_change_feed::history::Recent;
use tokio::net::TcpStream;

use super::fake_sink::{FakeSink, inbox};
use super::harness::{
    Client, acknowledge, at, engine, evict, join, join_unlimited, publish, view, work,
};
use crate::support::feed::{Reader, TestFeed};
use crate::support::random::Random;
use crate::support::server::Version;

on_each_version!(
    every_client_gets_what_change_history_holds_for_it,
    a_slow_acknowledger_is_sent_no_more_than_its_window_and_loses_nothing,
    a_client_whose_changes_were_pruned_is_reset,
);

const TABLES: &str = "\
CREATE TABLE a (id int PRIMARY KEY, n int NOT NULL, body text); ALTER TABLE a REPLICA IDENTITY FULL; \
CREATE TABLE b (id int PRIMARY KEY, n int NOT NULL, body text); \
CREATE SCHEMA \"s.t\"; CREATE TABLE \"s.t\".\"c\"\"d\" (id int PRIMARY KEY, n int, body text)";

/// What a client may ask for, and the SQL that says which changes that is.
const WANTED: [(&str, &str); 5] = [
    ("", "true"),
    (r#"[{"table":"a"}]"#, "table_name = 'a'"),
    (
        r#"[{"table":"a","filter":[{"column":"n","op":"gte","value":50}]}]"#,
        "table_name = 'a' AND (operation = 'truncate' OR (data->>'n')::int >= 50 \
         OR (old_data->>'n')::int >= 50)",
    ),
    (
        r#"[{"table":"b"},{"table":"a","filter":[{"column":"n","op":"in","value":[1,2,3]}]}]"#,
        "table_name = 'b' OR table_name = 'a' AND (operation = 'truncate' \
         OR (data->>'n')::int IN (1, 2, 3) OR (old_data->>'n')::int IN (1, 2, 3))",
    ),
    (
        r#"[{"table":"\"s.t\".\"c\"\"d\""}]"#,
        r#"table_name = '"s.t"."c""d"'"#,
    ),
];

/// One client across all its connections.
struct Member {
    client: Client,
    wanted: usize,
    /// What it received over earlier connections.
    ids: Vec<i64>,
    /// Where it began, once it is known.
    began: Option<i64>,
    /// Its position when it last came back.
    resumed: Option<i64>,
}

struct Crowd {
    engine: Engine<FakeSink>,
    members: Vec<Member>,
    random: Random,
    head: Position,
    recent: Option<Recent>,
}

impl Crowd {
    fn join(&mut self) {
        let wanted = self.random.index(WANTED.len());
        let (start, began) = match self.random.below(3) {
            0 => (Start::Now, Some(self.head.id)),
            1 => (Start::Earliest, Some(0)),
            _ => {
                let id = i64::try_from(self.random.below(self.head.id.unsigned_abs() + 1)).unwrap();
                (Start::After(Position { id, ..self.head }), Some(id))
            }
        };
        let flow = if self.random.one_in(2) {
            Flow::Waits(4 << 10)
        } else {
            Flow::Reconnects(32 << 10)
        };
        self.members.push(Member {
            client: join(&self.engine, view(WANTED[wanted].0), start, flow),
            wanted,
            ids: Vec::new(),
            // The first delivery determines what "now" is.
            began: began.filter(|_| start != Start::Now),
            resumed: None,
        });
    }

    /// Evicts the object: what was not persisted is forgotten.
    fn evict(&mut self) {
        self.engine = engine();
        self.recent = None;
        for member in &mut self.members {
            member.client = evict(&member.client, &self.engine);
        }
    }

    fn leave(&mut self) -> Member {
        let leaving = self.random.index(self.members.len());
        let member = self.members.swap_remove(leaving);
        member.client.leave();
        member
    }

    fn reconnect(&mut self, index: usize) {
        let member = &mut self.members[index];
        let inbox = inbox(&member.client);
        let Some(position) = inbox.position() else {
            return;
        };
        inbox.refuse_doubles();
        member.ids.extend(inbox.ids());
        member.resumed = Some(position.id);
        member.client.leave();
        let again = view(WANTED[member.wanted].0);
        let flow = Flow::Reconnects(32 << 10);
        member.client = join(&self.engine, again, Start::After(position), flow);
    }

    /// A client that does not acknowledge is disconnected once it was sent its limit.
    fn reconnect_disconnected(&mut self) -> u32 {
        let is_closed = |member: &Member| inbox(&member.client).is_dead.get();
        let closed = (0..self.members.len()).filter(|index| is_closed(&self.members[*index]));
        let closed: Vec<usize> = closed.collect();
        for index in &closed {
            self.reconnect(*index);
        }
        u32::try_from(closed.len()).unwrap()
    }

    fn acknowledge(&self) {
        for member in &self.members {
            acknowledge(&self.engine, &member.client);
        }
    }

    /// Delivers what is in memory, and with `reads_pages` all the rest.
    async fn deliver(&mut self, reader: &mut Reader<TcpStream>, reads_pages: bool) {
        let head = Head {
            position: self.head,
            recent: self.recent.clone(),
        };
        self.engine.publish(head, clock::now_ms());
        if reads_pages {
            work(&self.engine, &mut reader.connection).await;
        } else {
            self.engine.step(&mut reader.connection).await.unwrap();
        }
        for member in &mut self.members {
            let at = member.client.state().cursor.position();
            // A welcome to "now" is a welcome to this head.
            let welcomed = at.map(|_| self.head.id);
            member.began = member.began.or(welcomed);
        }
    }
}

/// A transaction or two.
async fn write(client: &tokio_postgres::Client, random: &mut Random, next: &mut i64) {
    let table = random.pick(&["a", "b", "\"s.t\".\"c\"\"d\""]);
    let n = random.below(100);
    let sql = match random.below(10) {
        0..5 => {
            let rows = 1 + i64::try_from(random.below(40)).unwrap();
            let (from, to) = (*next, *next + rows - 1);
            *next += rows;
            format!(
                "INSERT INTO {table} SELECT id, (id * 7 + {n}) % 100, repeat('x', {n} * 3) \
                 FROM generate_series({from}, {to}) AS id"
            )
        }
        5..8 => format!(
            "UPDATE {table} SET n = (n + {n}) % 100 WHERE id % 17 = {}",
            n % 17
        ),
        8 => format!("DELETE FROM {table} WHERE id % 23 = {}", n % 23),
        _ if random.one_in(10) => format!("TRUNCATE {table}"),
        _ => format!("UPDATE {table} SET id = -id WHERE n = {n}"),
    };
    client.batch_execute(&sql).await.unwrap();
}

async fn every_client_gets_what_change_history_holds_for_it(version: Version) {
    let seed = Random::seed();
    let feed = TestFeed::create(version, TABLES, "FOR ALL TABLES").await;
    let writer = feed.client().await;
    let mut reader = feed.reader().await;
    let mut crowd = Crowd {
        engine: engine(),
        members: Vec::new(),
        random: Random::new(seed),
        head: Position {
            epoch: reader.cycle.checkpoint.epoch,
            id: 0,
        },
        recent: None,
    };
    let mut gone = Vec::new();
    let mut next = 1;
    let mut happened = [0_u32; 5];
    for _ in 0..1_200 {
        match crowd.random.below(8) {
            0..3 => write(&writer, &mut crowd.random, &mut next).await,
            3 => {
                for _ in 0..4 {
                    crowd.join();
                    happened[0] += 1;
                }
            }
            4 => {
                while crowd.members.len() > 25 {
                    gone.push(crowd.leave());
                    happened[1] += 1;
                }
            }
            5 if crowd.random.one_in(3) => {
                crowd.evict();
                happened[2] += 1;
            }
            6 if !crowd.members.is_empty() => {
                for _ in 0..4 {
                    let index = crowd.random.index(crowd.members.len());
                    crowd.reconnect(index);
                    happened[3] += 1;
                }
            }
            _ => crowd.acknowledge(),
        }
        if crowd.random.one_in(2) {
            let report = reader.poll().await.unwrap();
            crowd.head.id = reader.cycle.checkpoint.last_id;
            crowd.recent = report.recent;
            // Sometimes there is time for one step only, and the next delivery continues.
            let reads_pages = !crowd.random.one_in(4);
            crowd.deliver(&mut reader, reads_pages).await;
            happened[4] += crowd.reconnect_disconnected();
        }
        if crowd.random.one_in(2) {
            // What was sent since may otherwise be forgotten, and is sent again.
            for member in &crowd.members {
                member.client.persist();
            }
        }
    }
    while reader.drain().await.unwrap() > 0 {}
    crowd.head.id = reader.cycle.checkpoint.last_id;
    crowd.recent = None;
    loop {
        crowd.acknowledge();
        crowd.deliver(&mut reader, true).await;
        happened[4] += crowd.reconnect_disconnected();
        let head = crowd.head;
        let lags = |member: &Member| member.client.state().cursor.position() != Some(head);
        if !crowd.members.iter().any(lags) {
            break;
        }
    }
    let [joins, leaves, evictions, reconnects, disconnected] = happened;
    let (changes, clients) = (crowd.head.id, crowd.members.len() + gone.len());
    println!("{joins} joins, {leaves} leaves, {evictions} evictions, {reconnects} reconnects");
    println!("{disconnected} disconnected");
    assert!(disconnected > 100, "{disconnected}");
    println!("{changes} changes, {clients} clients");
    assert!(joins > 400 && leaves > 300 && evictions > 20 && reconnects > 400 && changes > 1_000);
    let mut received = 0;
    let stayed = crowd.members.iter().map(|member| (member, false));
    for (member, has_left) in stayed.chain(gone.iter().map(|member| (member, true))) {
        received += check(&writer, member, has_left, crowd.head.id).await;
    }
    assert!(received > 10_000, "{received}");
}

/// Compares what a client received with `change_history`. Returns the number of changes.
async fn check(
    client: &tokio_postgres::Client,
    member: &Member,
    has_left: bool,
    head: i64,
) -> usize {
    let inbox = inbox(&member.client);
    inbox.refuse_doubles();
    let mut ids = member.ids.clone();
    ids.extend(inbox.ids());
    // After an eviction some changes may come twice, but none out of order: each is either the next
    // one, or one that the client already has.
    let mut once: Vec<i64> = Vec::new();
    for id in ids {
        match once.last() {
            Some(last) if id <= *last => assert!(once.binary_search(&id).is_ok(), "{id} is late"),
            _ => once.push(id),
        }
    }
    let Some(began) = member.began else {
        assert!(once.is_empty());
        return 0;
    };
    let last_sent = inbox.position().map(|position| position.id);
    let through = if has_left {
        last_sent.or(member.resumed).unwrap_or(began)
    } else {
        head
    };
    let sql = format!(
        "SELECT coalesce(array_agg(id ORDER BY id), '{{}}') FROM change_history \
         WHERE id > {began} AND id <= {through} AND ({})",
        WANTED[member.wanted].1
    );
    let expected: Vec<i64> = client.query_one(&sql, &[]).await.unwrap().get(0);
    assert_eq!(
        once, expected,
        "{} from {began} to {through}",
        WANTED[member.wanted].0
    );
    once.len()
}

/// A history of 3,000 rows, about six mebibytes.
async fn large_history(version: Version) -> (TestFeed, Reader<TcpStream>) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE a").await;
    feed.run("INSERT INTO a SELECT i, 0, repeat('x', 2000) FROM generate_series(1, 3000) i")
        .await;
    let mut reader = feed.reader().await;
    reader.drain().await.unwrap();
    (feed, reader)
}

async fn a_slow_acknowledger_is_sent_no_more_than_its_window_and_loses_nothing(version: Version) {
    let (_feed, mut reader) = large_history(version).await;
    let engine = engine();
    let window = 2 << 20;
    let client = join(&engine, view(""), Start::Earliest, Flow::Waits(window));
    publish(&engine, at(3000));
    let mut rounds = 0;
    while client.state().cursor.position() != Some(at(3000)) || rounds == 0 {
        work(&engine, &mut reader.connection).await;
        let unacknowledged = client.state().cursor.unacknowledged().unwrap();
        // One frame may exceed it.
        assert!(
            unacknowledged <= window + (1 << 20) + 4096,
            "{unacknowledged}"
        );
        acknowledge(&engine, &client);
        rounds += 1;
    }
    assert!(rounds >= 2, "everything was sent at once");
    assert_eq!(inbox(&client).ids(), (1..=3000).collect::<Vec<i64>>());
}

async fn a_client_whose_changes_were_pruned_is_reset(version: Version) {
    let (feed, mut reader) = large_history(version).await;
    let engine = engine();
    let resuming = Start::After(at(5));
    let slow = join(&engine, view(""), resuming, Flow::Waits(1));
    publish(&engine, at(3000));
    // One frame, and then it waits for its acknowledgement.
    work(&engine, &mut reader.connection).await;
    let sent = inbox(&slow).ids().len();
    assert!(sent > 0 && sent < 2900);
    feed.run("DELETE FROM change_history WHERE id < 2990").await;
    let too_old = join_unlimited(&engine, view(""), resuming);
    acknowledge(&engine, &slow);
    work(&engine, &mut reader.connection).await;
    for (client, reason) in [(&slow, "slow_consumer"), (&too_old, "too_old")] {
        let resets = inbox(client).all("reset");
        assert_eq!(resets.len(), 1);
        assert_eq!(resets[0]["reason"], reason);
        assert_eq!(resets[0]["oldest"], at(2989).to_string());
        assert_eq!(resets[0]["head"], at(3000).to_string());
    }
    assert!(inbox(&too_old).ids().is_empty());
}
