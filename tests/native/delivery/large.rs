//! Catching up on rows that are large, and stored much smaller.

use pg_change_feed::clients::Start;

use super::fake_sink::inbox;
use super::harness::{at, engine, join_unlimited, publish, view, work};
use crate::support::faulty_stream::{Faults, FaultyStream};
use crate::support::feed::{Reader, TestFeed};
use crate::support::server::{Version, open_socket};

on_each_version!(large_rows_are_read_about_as_often_as_they_are_sent);

async fn large_rows_are_read_about_as_often_as_they_are_sent(version: Version) {
    const ROWS: i64 = 200;
    const ROW_BYTES: u64 = 100_000;
    let table = "CREATE TABLE t (id int PRIMARY KEY, body text)";
    let feed = TestFeed::create(version, table, "FOR TABLE t").await;
    // A hundredth of it is what Postgres stores.
    feed.run(&format!(
        "INSERT INTO t SELECT id, repeat('a', {ROW_BYTES}) FROM generate_series(1, {ROWS}) AS id"
    ))
    .await;
    let stream = FaultyStream::new(open_socket(feed.url()).await, Faults::default());
    let traffic = stream.traffic();
    let mut reader = Reader::resume(stream, &feed).await.unwrap();
    reader.drain().await.unwrap();

    let engine = engine();
    let client = join_unlimited(&engine, view(""), Start::Earliest);
    let before = traffic.read();
    publish(&engine, at(ROWS));
    work(&engine, &mut reader.connection).await;
    let expected: Vec<_> = (1..=ROWS).collect();
    assert_eq!(inbox(&client).ids(), expected);

    let (read, sent) = (traffic.read() - before, ROWS.unsigned_abs() * ROW_BYTES);
    println!("{read} bytes read for {sent}");
    // The first page, of which nothing is known, is all of it.
    assert!(read < sent * 3, "{read} bytes were read for {sent}");
}
