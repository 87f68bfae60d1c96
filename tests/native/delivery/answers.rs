//! Sinks that answer each frame, on the tests' own clock. Everything is in memory, so no database
//! is needed.

use std::rc::Rc;
use std::time::Duration;

use pg_change_feed::clients::{Position, Registration};
use pg_change_feed::delivery::{
    Answer, ConsumerState, Disconnect, Engine, Renewal, Target, Work, register, renew,
};
use pg_change_feed::error::{Category, Error};

use super::fake_sink::{Calls, FakeSink, inbox};
use super::harness::{
    Client, add, at, engine, evict, head_in_memory, join_answering, live_cursor, view,
};

/// When the tests begin, in milliseconds.
const START: u64 = 1_000_000;

fn failed() -> Answer {
    let error = Error::new(Category::Connection, "unreachable", "the object failed");
    Answer::Failed(Rc::new(error))
}

/// The call in flight ends with an answer.
fn answer(engine: &Engine<FakeSink>, client: &Client, answer: Answer, now: u64) {
    inbox(client).end_call();
    engine.answer(client.number(), answer, now);
}

fn position(client: &Client) -> Position {
    client.state().cursor.position().unwrap()
}

#[test]
fn frames_come_in_order_and_each_after_the_answer_to_the_one_before() {
    let engine = engine();
    let client = join_answering(&engine, view(""), at(0), &Calls::new(6));
    let mut tables = vec!["t"; 3];
    engine.publish(head_in_memory(&tables), START);
    assert_eq!(inbox(&client).ids(), [1, 2, 3]);
    assert_eq!(position(&client), at(0), "it moves with the answer");
    for _ in 0..4 {
        tables.push("t");
        engine.publish(head_in_memory(&tables), START);
        assert_eq!(inbox(&client).ids(), [1, 2, 3]);
    }
    answer(&engine, &client, Answer::Accepted, START);
    assert_eq!(inbox(&client).ids(), [1, 2, 3, 4, 5, 6, 7]);
    answer(&engine, &client, Answer::Accepted, START);
    assert_eq!(position(&client), at(7));
    assert_eq!(engine.work(START), Work::None);
}

#[test]
fn a_frame_whose_answer_is_lost_is_sent_again() {
    let before = engine();
    let client = join_answering(&before, view(""), at(0), &Calls::new(6));
    before.publish(head_in_memory(&["t", "t"]), START);
    let first = inbox(&client).frames.borrow()[0].clone();

    // The call fails, so it is unknown whether the object has the frame.
    answer(&before, &client, failed(), START);
    let Work::At(retry_at) = before.work(START) else {
        panic!("it is not tried again");
    };
    assert!(retry_at > START && inbox(&client).all("changes").len() == 1);
    before.work(retry_at);
    assert_eq!(
        inbox(&client).all("changes"),
        [first.clone(), first.clone()]
    );

    // The object is evicted while a call is in flight, and the answer never arrives.
    inbox(&client).end_call();
    let after = engine();
    let client = evict(&client, &after);
    after.publish(head_in_memory(&["t", "t"]), retry_at);
    let frames = inbox(&client).all("changes");
    assert_eq!(frames.len(), 3);
    assert_eq!(frames[2], first);
    answer(&after, &client, Answer::Accepted, retry_at);
    assert_eq!(position(&client), at(2));
}

#[test]
fn failures_back_off_and_an_accepted_frame_ends_that() {
    let engine = engine();
    let client = join_answering(&engine, view(""), at(0), &Calls::new(6));
    engine.publish(head_in_memory(&["t"]), START);
    let (mut now, mut waits) = (START, Vec::new());
    for _ in 0..9 {
        answer(&engine, &client, failed(), now);
        let Work::At(retry_at) = engine.work(now) else {
            panic!("it is not tried again");
        };
        engine.work(retry_at - 1);
        assert!(!inbox(&client).is_called());
        engine.work(retry_at);
        assert!(inbox(&client).is_called());
        waits.push(retry_at - now);
        now = retry_at;
    }
    let expected = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
    assert_eq!(waits, expected);

    answer(&engine, &client, Answer::Accepted, now);
    engine.publish(head_in_memory(&["t", "t"]), now);
    answer(&engine, &client, failed(), now);
    assert_eq!(engine.work(now), Work::At(now + 250));
}

#[test]
fn an_object_that_is_gone_is_sent_nothing_more() {
    let engine = engine();
    let client = join_answering(&engine, view(""), at(0), &Calls::new(6));
    engine.publish(head_in_memory(&["t"]), START);
    answer(&engine, &client, Answer::Gone, START);
    assert!(engine.consumers().is_empty());
    engine.publish(head_in_memory(&["t", "t"]), START);
    assert_eq!(engine.work(START), Work::None);
    assert_eq!(inbox(&client).ids(), [1]);
}

#[test]
fn what_is_not_for_an_object_moves_it_on_with_one_call_a_second() {
    let engine = engine();
    let wanted = view(r#"[{"table":"quiet"}]"#);
    let client = join_answering(&engine, wanted, at(0), &Calls::new(6));
    let mut tables = Vec::new();
    for tick in 0..50 {
        tables.push("busy");
        let now = START + tick * 100;
        engine.publish(head_in_memory(&tables), now);
        if inbox(&client).is_called() {
            answer(&engine, &client, Answer::Accepted, now);
        }
    }
    let sent = inbox(&client).all("progress").len();
    assert!((4..=6).contains(&sent), "{sent} calls in five seconds");
    assert_eq!(inbox(&client).kinds().len(), sent);

    // A failed one is made up for.
    engine.work(START + 10_000);
    answer(&engine, &client, failed(), START + 10_000);
    engine.work(START + 20_000);
    let sent = inbox(&client).all("progress");
    assert_eq!(sent.last().unwrap()["position"], at(50).to_string());
    answer(&engine, &client, Answer::Accepted, START + 20_000);
    assert_eq!(engine.work(START + 30_000), Work::None);
}

/// Runs `ticks`. In each one a change is stored and all calls in flight are answered; too little
/// time passes for a fresh position to be due. Returns how far each client lagged at most.
fn steady_load(engine: &Engine<FakeSink>, clients: &[Client], ticks: usize) -> Vec<i64> {
    let mut tables = Vec::new();
    let mut lags = vec![0; clients.len()];
    for tick in 0..ticks {
        tables.push("busy");
        let now = START + tick as u64;
        engine.publish(head_in_memory(&tables), now);
        let called: Vec<_> = clients
            .iter()
            .filter(|client| inbox(client).is_called())
            .collect();
        for client in called {
            answer(engine, client, Answer::Accepted, now);
        }
        for (client, lag) in clients.iter().zip(&mut lags) {
            let head = i64::try_from(tables.len()).unwrap();
            *lag = (*lag).max(head - position(client).id);
        }
    }
    lags
}

#[test]
fn twelve_objects_with_room_for_six_calls_all_advance_under_steady_load() {
    let engine = engine();
    let calls = Calls::new(6);
    let join = |_| join_answering(&engine, view(""), at(0), &calls);
    let clients: Vec<_> = (0..12).map(join).collect();
    let lags = steady_load(&engine, &clients, 300);
    println!("{lags:?}");
    assert!(lags.iter().all(|lag| *lag <= 3), "{lags:?}");
    for client in &clients {
        inbox(client).refuse_doubles();
    }
}

#[test]
fn objects_that_wait_for_a_fresh_position_hold_up_nobody() {
    let engine = engine();
    let calls = Calls::new(1);
    let join = |wanted| join_answering(&engine, view(wanted), at(0), &calls);
    let quiet: Vec<_> = (0..6).map(|_| join(r#"[{"table":"quiet"}]"#)).collect();
    let busy = join(r#"[{"table":"busy"}]"#);
    // All are sent a position now, and most of them skip what is stored next.
    engine.publish(head_in_memory(&["other"]), START);
    for client in quiet.iter().chain([&busy]) {
        answer(&engine, client, Answer::Accepted, START);
    }
    let now = START + 1;
    let mut head = head_in_memory(&["other", "busy", "busy", "busy"]);
    let recent = head.recent.as_mut().unwrap();
    for change in &mut recent.changes {
        // Each fills a frame.
        let body = format!(r#""data":{{"body":"{}","#, "a".repeat(1 << 20));
        change.json = change.json.replace(r#""data":{"#, &body);
    }
    engine.publish(head, now);
    for id in 2..=4 {
        assert_eq!(inbox(&busy).ids(), (2..=id).collect::<Vec<_>>());
        answer(&engine, &busy, Answer::Accepted, now);
    }
    assert_eq!(position(&busy), at(4));
    assert!(quiet.iter().all(|client| position(client) == at(4)));
}

#[test]
fn objects_whose_turn_is_far_ahead_after_failures_hold_up_nobody() {
    let engine = engine();
    let calls = Calls::new(2);
    let join = |_| join_answering(&engine, view(""), at(0), &calls);
    let clients: Vec<_> = (0..6).map(join).collect();
    let (broken, sound) = clients.split_at(4);
    let mut tables = Vec::new();
    for tick in 0..200 {
        tables.push("t");
        let now = START + tick * 10;
        engine.publish(head_in_memory(&tables), now);
        for client in broken.iter().filter(|client| inbox(client).is_called()) {
            answer(&engine, client, failed(), now);
        }
        for client in sound {
            if inbox(client).is_called() {
                answer(&engine, client, Answer::Accepted, now);
            }
        }
    }
    for client in sound {
        assert!(position(client).id > 190, "{}", position(client));
    }
    for client in broken {
        let calls = inbox(client).frames.borrow().len();
        assert!((2..=5).contains(&calls), "{calls} calls in two seconds");
    }
}

#[test]
fn a_registration_that_has_expired_is_ended_on_time() {
    let engine = engine();
    let state = ConsumerState {
        expires_at: Some(START + 60_000),
        ..registered("", 1)
    };
    let client = add(&engine, FakeSink::answering(&Calls::new(6)), state);
    engine.publish(head_in_memory(&["t"]), START);
    answer(&engine, &client, Answer::Accepted, START);
    assert_eq!(engine.work(START), Work::At(START + 60_000));
    assert_eq!(inbox(&client).disconnected.get(), None);
    // Nothing is sent to it after that, whatever happens next.
    engine.publish(head_in_memory(&["t", "t"]), START + 60_000);
    assert_eq!(inbox(&client).ids(), [1]);
    engine.work(START + 60_000);
    let why = inbox(&client).disconnected.get();
    assert_eq!(why, Some(Disconnect::Expired));
    assert!(engine.consumers().is_empty());
}

fn registration(more: &str) -> Registration {
    let body = format!(r#"{{"id":"a","binding":"SYNC","name":"room","ttlSeconds":60{more}}}"#);
    Registration::parse(&body).unwrap()
}

/// A registered client that has caught up.
fn registered(more: &str, number: u64) -> ConsumerState {
    let (_, state) = register(registration(more), number, START);
    ConsumerState {
        cursor: live_cursor(at(0)),
        ..state
    }
}

fn target() -> Target {
    register(registration(""), 0, START).0
}

#[test]
fn a_renewal_only_extends_and_leaves_the_call_that_is_out_alone() {
    let engine = engine();
    let client = add(
        &engine,
        FakeSink::answering(&Calls::new(6)),
        registered("", engine.next_number()),
    );
    engine.publish(head_in_memory(&["t"]), START);
    let mut tables = vec!["t"];
    for second in 1..100 {
        let now = START + second * 1_000;
        let renewal = renew(
            (&target(), &client.state()),
            registration(""),
            engine.next_number(),
            now,
        );
        let Renewal::Extend { expires_at } = renewal else {
            panic!("it is the same registration");
        };
        client.extend(expires_at);
        tables.push("t");
        engine.publish(head_in_memory(&tables), now);
        engine.work(now);
        // `FakeSink` fails when a second call begins.
        assert!(inbox(&client).is_called());
        assert_eq!(inbox(&client).frames.borrow().len(), 1);
    }
    assert_eq!(inbox(&client).disconnected.get(), None);
    answer(&engine, &client, Answer::Accepted, START + 100_000);
    assert_eq!(inbox(&client).ids().len(), 100);
}

#[test]
fn an_answer_to_a_replaced_registration_changes_nothing() {
    for late in [
        Answer::Accepted,
        Answer::Gone,
        Answer::StandsAt(at(9)),
        failed(),
    ] {
        let engine = engine();
        let sink = FakeSink::answering(&Calls::new(6));
        let first = add(&engine, sink, registered("", engine.next_number()));
        engine.publish(head_in_memory(&["a", "b"]), START);

        let other = registration(r#","tables":["b"]"#);
        let number = engine.next_number();
        let renewal = renew((&target(), &first.state()), other, number, START);
        let Renewal::Replace(replaced) = renewal else {
            panic!("it wants another table");
        };
        let state = ConsumerState {
            // Needs no page, hence no database.
            cursor: live_cursor(at(0)),
            ..replaced.1
        };
        first.leave();
        let second = add(&engine, first.sink().of_the_same_object(), state);
        engine.publish(head_in_memory(&["a", "b", "b"]), START);
        assert!(inbox(&second).frames.borrow().is_empty(), "a second call");

        let what = format!("{late:?}");
        let before = second.state().clone();
        inbox(&first).end_call();
        // The engine wakes the second one: its object is free now.
        engine.answer(first.number(), late, START);
        engine.serve_from_memory(START);
        assert!(!second.is_gone(), "{what}");
        assert_eq!(second.state().cursor, before.cursor, "{what}");
        assert_eq!(inbox(&second).ids(), [2, 3], "{what}");
        answer(&engine, &second, Answer::Accepted, START);
        assert_eq!(position(&second), at(3), "{what}");
        assert_eq!(inbox(&first).ids(), [1, 2], "{what}");
    }
}

#[test]
fn a_ttl_is_counted_from_each_renewal() {
    let state = registered("", 1);
    let later = START + 7;
    let renewal = renew((&target(), &state), registration(""), 2, later);
    let ttl = u64::try_from(Duration::from_mins(1).as_millis()).unwrap();
    let expected = Renewal::Extend {
        expires_at: later + ttl,
    };
    assert_eq!(renewal, expected);
}
