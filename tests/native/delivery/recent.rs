//! Changes that are in memory, and clients that stand in the middle of them.

use std::rc::Rc;

use pg_change_feed::clients::{
    Flow, Head, Position, Pump, Start, Stretch, Subscriber, Subscriptions, View,
};
use pg_change_feed::history::Recent;
use tokio::net::TcpStream;

use super::recorder::{Recorder, join};
use crate::support::feed::{Reader, TestFeed};
use crate::support::server::Version;

on_each_version!(
    who_stands_anywhere_in_what_is_in_memory_gets_the_rest_of_it,
    who_takes_one_frame_at_a_time_of_what_is_in_memory_misses_nothing,
);

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, body text)";
const ROWS: i64 = 10;

/// A reader that has stored all the rows in one cycle, and what is in memory of it.
async fn stored(feed: &TestFeed, body: &str) -> (Reader<TcpStream>, Recent) {
    feed.run(&format!(
        "INSERT INTO t SELECT id, {body} FROM generate_series(1, {ROWS}) AS id"
    ))
    .await;
    let mut reader = feed.reader().await;
    let report = reader.poll().await.unwrap();
    assert_eq!(report.stored, u64::try_from(ROWS).unwrap());
    (reader, report.recent.unwrap())
}

fn head<'a>(id: i64, recent: Option<&'a Stretch<'a>>) -> Head<'a> {
    Head {
        position: Position { epoch: 1, id },
        recent,
        deadline: u64::MAX,
    }
}

fn come(start: Start, flow: Flow, pump: &Pump) -> [Rc<Subscriber<Recorder>>; 1] {
    let everything = View::new(Subscriptions::AllTables, None).unwrap();
    [Rc::new(join(everything, start, flow, pump.views()))]
}

async fn who_stands_anywhere_in_what_is_in_memory_gets_the_rest_of_it(version: Version) {
    let feed = TestFeed::create(version, TABLE, "FOR TABLE t").await;
    let (mut reader, recent) = stored(&feed, "'a'").await;
    let recent = Stretch::of_recent(&recent);
    let pump = Pump::default();
    for id in 0..=ROWS {
        let rest: Vec<_> = (id + 1..=ROWS).collect();
        let start = Start::After(Position { epoch: 1, id });
        let coming = come(start, Flow::ComesBack(u64::MAX), &pump);
        pump.deliver(&coming, &mut reader.connection, head(ROWS, Some(&recent)))
            .await
            .unwrap();
        assert_eq!(coming[0].outlet().0.ids(), rest, "who comes at {id}");

        let live = come(start, Flow::ComesBack(u64::MAX), &pump);
        pump.deliver(&live, &mut reader.connection, head(id, None))
            .await
            .unwrap();
        pump.deliver_recent(&live, head(ROWS, Some(&recent)))
            .unwrap();
        assert_eq!(live[0].outlet().0.ids(), rest, "who is live at {id}");
    }
}

async fn who_takes_one_frame_at_a_time_of_what_is_in_memory_misses_nothing(version: Version) {
    let feed = TestFeed::create(version, TABLE, "FOR TABLE t").await;
    let (mut reader, recent) = stored(&feed, "repeat('a', 190000)").await;
    let recent = Stretch::of_recent(&recent);
    let pump = Pump::default();
    // A frame holds about a mebibyte, and after one there is room for no other.
    let client = come(Start::Now, Flow::Waits(1), &pump);
    pump.deliver(&client, &mut reader.connection, head(0, None))
        .await
        .unwrap();
    let inbox = &client[0].outlet().0;
    let mut frames = 0;
    while inbox.ids().len() < usize::try_from(ROWS).unwrap() {
        pump.deliver(&client, &mut reader.connection, head(ROWS, Some(&recent)))
            .await
            .unwrap();
        frames += 1;
        let expected: Vec<_> = (1..).take(inbox.ids().len()).collect();
        assert_eq!(inbox.ids(), expected);
        assert!(frames < ROWS, "nothing comes");
        let position = inbox.position().unwrap();
        let ack = format!(r#"{{"type":"ack","position":"{position}"}}"#);
        client[0].hear(&ack, pump.views(), Some(position));
    }
    assert!(frames > 1, "all of it was one frame");
}
