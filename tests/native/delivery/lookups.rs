//! Looking up the columns that filters name: what it costs, and which consumers it delays.

use std::fmt::Write as _;

use pg_change_feed::clients::Start;
use pg_change_feed::clock;
use pg_change_feed::delivery::{Head, Work};

use super::fake_sink::inbox;
use super::harness::{
    at, counted_connection, engine, head_in_memory, join_unlimited, publish, view, work_counting,
    work_until,
};
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(
    a_filter_on_wide_tables_reads_only_the_columns_that_it_names,
    a_lookup_that_fails_costs_nobody_else_anything,
);

async fn a_filter_on_wide_tables_reads_only_the_columns_that_it_names(version: Version) {
    const TABLES: usize = 64;
    let feed = TestFeed::create(version, "", "FOR ALL TABLES").await;
    // 83,200 columns whose names have 60 bytes each.
    feed.run(&format!(
        "DO $$ BEGIN FOR n IN 1..{TABLES} LOOP \
         EXECUTE (SELECT format('CREATE TABLE w%s (id int, %s)', n, \
           string_agg(rpad('c' || i, 60, '_') || ' int', ', ')) FROM generate_series(1, 1299) AS i); \
         END LOOP; END $$"
    ))
    .await;
    let mut wanted = String::new();
    for n in 1..=TABLES {
        let comma = if n > 1 { "," } else { "" };
        let condition = r#"{"column":"id","op":"gt","value":0}"#;
        write!(
            wanted,
            r#"{comma}{{"table":"w{n}","filter":[{condition}]}}"#
        )
        .unwrap();
    }
    let engine = engine();
    let client = join_unlimited(&engine, view(&format!("[{wanted}]")), Start::Now);
    let newcomer = join_unlimited(&engine, view(""), Start::Now);
    let (mut connection, traffic) = counted_connection(&feed).await;
    publish(&engine, at(0));
    let is_done = || engine.work(clock::now_ms()) == Work::None;
    let steps = work_counting(&engine, (&mut connection, &traffic), is_done).await;
    for client in [&client, &newcomer] {
        assert_eq!(inbox(client).kinds(), ["welcome", "caught_up"]);
    }
    let read: u64 = steps.iter().sum();
    println!("{read} bytes were read");
    assert!(read < 64 << 10, "{read} bytes were read");
}

const TABLES: &str = "\
CREATE TABLE plain (id int PRIMARY KEY); \
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); \
CREATE TABLE part PARTITION OF parted DEFAULT";

async fn a_lookup_that_fails_costs_nobody_else_anything(version: Version) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE plain, parted").await;
    feed.run("INSERT INTO plain VALUES (1), (2), (3)").await;
    feed.drain().await;
    // A migration holds the partitions, which a lookup has to lock, and takes its time.
    let migration = feed.client().await;
    migration
        .batch_execute("BEGIN; LOCK TABLE parted IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let filtered = |table: &str| {
        view(&format!(
            r#"[{{"table":"{table}","filter":[{{"column":"id","op":"gt","value":1}}]}}]"#
        ))
    };
    let engine = engine();
    let live = join_unlimited(&engine, view(""), Start::Now);
    publish(&engine, at(3));
    work_until(&engine, &feed, || !inbox(&live).frames.borrow().is_empty()).await;
    let concerned = join_unlimited(&engine, filtered("parted"), Start::Now);
    let others: Vec<_> = (0..5)
        .map(|_| join_unlimited(&engine, filtered("plain"), Start::Earliest))
        .collect();
    let everything = join_unlimited(&engine, view(""), Start::Earliest);

    let are_served = || {
        let mut all = others.iter().chain([&everything]);
        all.all(|client| client.state().cursor.position() == Some(at(3)))
    };
    let failures = work_until(&engine, &feed, are_served).await;
    println!("{failures:?}");
    // The first lookup is for all new clients together; then each has its own.
    assert!((1..=2).contains(&failures.len()), "{failures:?}");
    assert!(failures.iter().all(|error| error.contains("lock timeout")));
    assert!(
        others
            .iter()
            .all(|client| inbox(client).ids().ends_with(&[2, 3]))
    );
    assert_eq!(inbox(&everything).ids(), [1, 2, 3]);
    assert!(
        inbox(&concerned).frames.borrow().is_empty(),
        "not yet welcome"
    );

    // Clients that have caught up continue from memory.
    let head = Head {
        position: at(4),
        ..head_in_memory(&["plain"; 4])
    };
    engine.publish(head, clock::now_ms());
    assert_eq!(inbox(&live).ids(), [4]);
    assert_eq!(inbox(&everything).ids(), [1, 2, 3, 4]);

    migration.batch_execute("COMMIT").await.unwrap();
    let is_welcome = || !inbox(&concerned).all("welcome").is_empty();
    work_until(&engine, &feed, is_welcome).await;
    assert_eq!(inbox(&concerned).all("error").len(), 0);
}
