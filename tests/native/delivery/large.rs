//! Catching up on large rows whose stored form is much smaller.

use pg_change_feed::clients::Start;

use super::fake_sink::inbox;
use super::harness::{
    at, counted_connection, engine, join_unlimited, publish, view, work, work_counting,
};
use crate::support::faulty_stream::{Faults, FaultyStream};
use crate::support::feed::{Reader, TestFeed};
use crate::support::server::{Version, open_socket};

on_each_version!(
    large_rows_are_read_about_as_often_as_they_are_sent,
    large_old_rows_are_read_a_page_at_a_time_and_others_are_served_between_the_pages,
);

async fn large_rows_are_read_about_as_often_as_they_are_sent(version: Version) {
    const ROWS: i64 = 200;
    const ROW_BYTES: u64 = 100_000;
    let table = "CREATE TABLE t (id int PRIMARY KEY, body text)";
    let feed = TestFeed::create(version, table, "FOR TABLE t").await;
    // Postgres stores it in a hundredth of its size.
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
    // The first page covers all of it, since nothing is known about the rows yet.
    assert!(read < sent * 3, "{read} bytes were read for {sent}");
}

async fn large_old_rows_are_read_a_page_at_a_time_and_others_are_served_between_the_pages(
    version: Version,
) {
    const ROWS: i64 = 500;
    const OTHERS: i64 = 10;
    let tables = "CREATE TABLE t (id int PRIMARY KEY, body text); \
        ALTER TABLE t REPLICA IDENTITY FULL; CREATE TABLE u (id int PRIMARY KEY)";
    // 32,000 bytes that hardly compress, or that compress to nearly nothing.
    for body in [
        "(SELECT string_agg(md5(id || '-' || n), '') FROM generate_series(1, 1000) AS n)",
        "repeat('a', 32000)",
    ] {
        let feed = TestFeed::create(version, tables, "FOR TABLE t, u").await;
        feed.run(&format!(
            "INSERT INTO change_history (id, lsn, table_name, operation, data, old_data, epoch) \
             SELECT id, '0/1', 't', 'update', jsonb_build_object('id', id, 'body', 'short'), \
             jsonb_build_object('id', id, 'body', {body}), 1 FROM generate_series(1, {ROWS}) AS id; \
             INSERT INTO change_history (id, lsn, table_name, operation, data, epoch) \
             SELECT {ROWS} + id, '0/1', 'u', 'insert', jsonb_build_object('id', id), 1 \
             FROM generate_series(1, {OTHERS}) AS id"
        ))
        .await;
        let engine = engine();
        let large = join_unlimited(&engine, view(r#"[{"table":"t"}]"#), Start::Earliest);
        let small = join_unlimited(&engine, view(r#"[{"table":"u"}]"#), Start::Earliest);
        let (mut connection, traffic) = counted_connection(&feed).await;
        let counted = (&mut connection, &traffic);
        publish(&engine, at(ROWS + OTHERS));

        let is_served = || inbox(&small).ids().len() == usize::try_from(OTHERS).unwrap();
        let mut steps = work_counting(&engine, counted, is_served).await;
        let sent_meanwhile = inbox(&large).ids().len();
        assert!(sent_meanwhile < 100, "{sent_meanwhile} rows came first");

        let counted = (&mut connection, &traffic);
        let is_done = || large.state().cursor.position() == Some(at(ROWS + OTHERS));
        steps.extend(work_counting(&engine, counted, is_done).await);
        assert_eq!(inbox(&large).ids(), (1..=ROWS).collect::<Vec<_>>());
        let (read, most) = (steps.iter().sum::<u64>(), *steps.iter().max().unwrap());
        let sent = inbox(&large).bytes.get() as u64;
        println!("{read} bytes read for {sent}, {most} at most in one step");
        assert!(
            sent > 16_000_000 && read < sent * 3 / 2,
            "{read} for {sent}"
        );
        // A page of about a mebibyte.
        assert!(most < 2 << 20, "{most} bytes in one step");
    }
}
