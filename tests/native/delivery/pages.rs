//! `GET /changes`: a consumer that wants one page.

use std::rc::Rc;

use pg_change_feed::clients::{
    FrameError, Position, ResetReason, SchemaHistory, ServerMessage, Start, View,
};
use pg_change_feed::clock;
use pg_change_feed::delivery::{
    ConsumerState, Cursor, Disconnect, Engine, Flow, Frame, PageAnswer, PageSink, Sink, Work,
};
use pg_change_feed::postgres::Connection;
use serde_json::Value;
use tokio::net::TcpStream;

use super::harness::{MemoryStore, at, connection, publish, state, view, work};
use crate::support::feed::TestFeed;
use crate::support::server::Version;

on_each_version!(
    pages_follow_each_other_without_a_gap_and_keep_to_their_limit,
    an_empty_page_says_where_the_next_one_begins,
    a_page_that_is_not_kept_is_a_reset,
    a_page_with_a_bad_filter_is_refused,
);

/// The sink of a request.
#[derive(Debug)]
struct RequestSink(PageSink);

impl Sink for RequestSink {
    type Encoded = Rc<Frame>;

    fn encode(frame: Frame) -> Rc<Frame> {
        Rc::new(frame)
    }

    fn max_changes(&self) -> Option<u32> {
        Some(self.0.max_changes())
    }

    fn send(&self, frame: &Rc<Frame>) -> bool {
        self.0.send(frame)
    }

    fn tell(&self, message: &ServerMessage<'_>) -> bool {
        self.0.tell(message)
    }

    fn refuse(&self, error: &FrameError) -> bool {
        self.0.refuse(error)
    }

    fn persist(&self, state: &ConsumerState) -> bool {
        self.0.persist(state)
    }

    fn disconnect(&self, why: Disconnect) {
        self.0.disconnect(why);
    }
}

struct Requests {
    engine: Engine<RequestSink>,
    connection: Connection<TcpStream>,
}

impl Requests {
    async fn new(feed: &TestFeed, head: i64) -> Self {
        let schemas = SchemaHistory::new(Box::new(MemoryStore::default()), None);
        let engine = Engine::new(schemas, || 0.0);
        publish(&engine, at(head));
        Self {
            engine,
            connection: connection(feed).await,
        }
    }

    async fn page(&mut self, view: View, start: Start, limit: u32) -> PageAnswer {
        let (sink, answer) = PageSink::new(limit);
        let cursor = Cursor::new(start, Flow::Reconnects(u64::MAX));
        let state = state(self.engine.next_number(), view, cursor);
        self.engine.add(RequestSink(sink), state);
        work(&self.engine, &mut self.connection).await;
        assert_eq!(self.engine.work(clock::now_ms()), Work::None);
        assert!(self.engine.consumers().is_empty(), "it wants one page");
        answer.await.unwrap()
    }
}

/// The ids of a page, and the position at which the next one begins.
fn read(answer: PageAnswer, expected_head: i64) -> (Vec<i64>, Position) {
    let PageAnswer::Page { frame, next, head } = answer else {
        panic!("{answer:?}");
    };
    let changes = frame.as_ref().map_or("", |frame| frame.changes());
    assert_eq!(head, at(expected_head));
    let changes: Vec<Value> = serde_json::from_str(&format!("[{changes}]")).unwrap();
    let ids = changes.iter().map(|change| change["id"].as_i64().unwrap());
    (ids.collect(), next)
}

const TABLES: &str = "\
CREATE TABLE t (id int PRIMARY KEY, body text); CREATE TABLE quiet (id int PRIMARY KEY)";

/// Rows of `t` without the feed.
async fn fill(feed: &TestFeed, rows: i64) {
    feed.run(&format!(
        "INSERT INTO change_history (id, lsn, table_name, operation, data, epoch) \
         SELECT id, '0/1', 't', 'insert', jsonb_build_object('id', id), 1 \
         FROM generate_series(1, {rows}) AS id"
    ))
    .await;
}

async fn pages_follow_each_other_without_a_gap_and_keep_to_their_limit(version: Version) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE t").await;
    fill(&feed, 1_000).await;
    let mut requests = Requests::new(&feed, 1_000).await;
    for limit in [1, 7, 400, 1_000, 10_000] {
        let (mut start, mut all, mut pages) = (Start::Earliest, Vec::new(), 0);
        loop {
            let answer = requests.page(view(""), start, limit).await;
            let (ids, next) = read(answer, 1_000);
            assert!(ids.len() <= usize::try_from(limit).unwrap());
            if ids.is_empty() || pages == 20 {
                assert!(pages == 20 || next == at(1_000));
                break;
            }
            assert_eq!(ids.last(), Some(&next.id));
            all.extend(ids);
            pages += 1;
            start = Start::After(next);
        }
        let count = i64::from(limit).saturating_mul(20).min(1_000);
        assert_eq!(all, (1..=count).collect::<Vec<_>>());
    }
}

async fn an_empty_page_says_where_the_next_one_begins(version: Version) {
    const ROWS: i64 = 50_000;
    let feed = TestFeed::create(version, TABLES, "FOR TABLE t").await;
    fill(&feed, ROWS).await;
    let mut requests = Requests::new(&feed, ROWS).await;
    let mut start = Start::Earliest;
    loop {
        let wanted = view(r#"[{"table":"quiet"}]"#);
        let (ids, next) = read(requests.page(wanted, start, 10).await, ROWS);
        assert_eq!(ids, [] as [i64; 0]);
        if let Start::After(before) = start {
            assert!(next > before, "the next page begins where this one did");
        }
        if next == at(ROWS) {
            break;
        }
        start = Start::After(next);
    }
    // At the head the page is empty, and is returned at once.
    let (ids, next) = read(requests.page(view(""), Start::Now, 10).await, ROWS);
    assert_eq!((ids, next), (vec![], at(ROWS)));
}

async fn a_page_that_is_not_kept_is_a_reset(version: Version) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE t").await;
    fill(&feed, 100).await;
    feed.run("DELETE FROM change_history WHERE id <= 50").await;
    let mut requests = Requests::new(&feed, 100).await;
    let other_epoch = Position { epoch: 0, id: 60 };
    for (start, expected) in [
        (at(49), ResetReason::TooOld),
        (at(101), ResetReason::EpochChanged),
        (other_epoch, ResetReason::EpochChanged),
    ] {
        let answer = requests.page(view(""), Start::After(start), 10).await;
        let PageAnswer::Reset { reason, oldest } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!((reason, oldest), (expected, at(50)));
    }
    let answer = requests.page(view(""), Start::After(at(50)), 3).await;
    assert_eq!(read(answer, 100), (vec![51, 52, 53], at(53)));
}

async fn a_page_with_a_bad_filter_is_refused(version: Version) {
    let feed = TestFeed::create(version, TABLES, "FOR TABLE t").await;
    fill(&feed, 10).await;
    let mut requests = Requests::new(&feed, 10).await;
    let filter = |column| {
        view(&format!(
            r#"[{{"table":"t","filter":[{{"column":"{column}","op":"gt","value":8}}]}}]"#
        ))
    };
    let answer = requests.page(filter("absent"), Start::Earliest, 10).await;
    let PageAnswer::Refused(error) = answer else {
        panic!("{answer:?}");
    };
    assert!(error.to_string().contains("absent"), "{error}");
    let answer = requests.page(filter("id"), Start::Earliest, 10).await;
    // The table's schema at that time is unknown, so every row may match.
    let (ids, next) = read(answer, 10);
    assert!(ids.ends_with(&[9, 10]), "{ids:?}");
    assert_eq!(next, at(10));
}
