//! A consumer that records what it is sent, and which state would be persisted.

use std::cell::{Cell, Ref, RefCell};
use std::rc::{Rc, Weak};

use pg_change_feed::clients::{Position, ServerMessage};
use pg_change_feed::delivery::{Consumer, ConsumerState, Disconnect, Engine, Frame, Sink};
use serde_json::Value;

/// The consumer's end.
#[derive(Debug, Default)]
pub struct Inbox {
    pub frames: RefCell<Vec<Value>>,
    /// Bytes of all `changes` frames.
    pub bytes: Cell<usize>,
    pub persisted: RefCell<Vec<u8>>,
    pub disconnected: Cell<Option<Disconnect>>,
    /// From then on nothing can be sent.
    pub is_dead: Cell<bool>,
    /// What the client sends while it is handed its next frame of changes.
    pub says: RefCell<Option<Interruption>>,
    /// The calls of a sink that answers.
    calls: Option<Calls>,
    /// A call to the object is in flight.
    is_called: Rc<Cell<bool>>,
}

/// A message that a client sends in the middle of something.
#[derive(Debug)]
pub struct Interruption {
    pub engine: Weak<Engine<FakeSink>>,
    pub number: u64,
    pub text: String,
}

/// The calls that all answering sinks share.
#[derive(Clone, Debug)]
pub struct Calls(Rc<Cell<usize>>);

impl Calls {
    /// Room for `capacity` calls at a time.
    pub fn new(capacity: usize) -> Self {
        Self(Rc::new(Cell::new(capacity)))
    }

    /// How many calls can be made now.
    pub fn capacity(&self) -> usize {
        self.0.get()
    }
}

/// The server's end.
#[derive(Clone, Debug)]
pub struct FakeSink(pub Rc<Inbox>);

impl FakeSink {
    /// The sink of a socket.
    pub fn new() -> Self {
        Self(Rc::default())
    }

    /// The sink of an object that answers calls.
    pub fn answering(calls: &Calls) -> Self {
        Self(Rc::new(Inbox {
            calls: Some(calls.clone()),
            ..Inbox::default()
        }))
    }

    /// The sink of another registration of the same object.
    pub fn of_the_same_object(&self) -> Self {
        Self(Rc::new(Inbox {
            calls: self.0.calls.clone(),
            is_called: Rc::clone(&self.0.is_called),
            ..Inbox::default()
        }))
    }

    fn record(&self, frame: Value) -> bool {
        self.0.frames.borrow_mut().push(frame);
        if let Some(calls) = &self.0.calls {
            assert!(!self.0.is_called.replace(true), "a second call at a time");
            let left = calls.capacity().checked_sub(1);
            calls
                .0
                .set(left.expect("more calls than there is room for"));
        }
        !self.0.is_dead.get()
    }
}

impl Sink for FakeSink {
    type Encoded = String;

    fn encode(frame: Frame) -> String {
        frame.text
    }

    fn answers(&self) -> bool {
        self.0.calls.is_some()
    }

    fn capacity(&self) -> usize {
        self.0.calls.as_ref().map_or(usize::MAX, Calls::capacity)
    }

    fn is_free(&self) -> bool {
        !self.0.is_called.get()
    }

    fn send(&self, frame: &String) -> bool {
        self.0.bytes.set(self.0.bytes.get() + frame.len());
        let is_sent = self.record(serde_json::from_str(frame).unwrap());
        let said = self.0.says.borrow_mut().take();
        if let Some(said) = said {
            let engine = said.engine.upgrade().unwrap();
            let consumer = engine.consumers().find(said.number).unwrap();
            engine.on_message(&consumer, &said.text, 0, |_| Ok(()));
        }
        is_sent
    }

    fn tell(&self, message: &ServerMessage<'_>) -> bool {
        self.record(serde_json::from_str(&message.to_json()).unwrap())
    }

    fn persist(&self, state: &ConsumerState) -> bool {
        *self.0.persisted.borrow_mut() = state.to_bytes();
        true
    }

    fn disconnect(&self, why: Disconnect) {
        self.0.disconnected.set(Some(why));
        self.0.is_dead.set(true);
    }
}

impl Inbox {
    /// The call in flight has ended. The engine has yet to be given its answer.
    pub fn end_call(&self) {
        assert!(self.is_called.replace(false), "no call is out");
        let calls = self.calls.as_ref().unwrap();
        calls.0.set(calls.capacity() + 1);
    }

    /// Whether a call is in flight.
    pub fn is_called(&self) -> bool {
        self.is_called.get()
    }

    /// All frames of one type.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        let frames = self.frames.borrow();
        let of_kind = frames.iter().filter(|frame| frame["type"] == kind);
        of_kind.cloned().collect()
    }

    /// The types of all frames.
    pub fn kinds(&self) -> Vec<String> {
        let frames = self.frames.borrow();
        let kinds = frames.iter().map(|frame| frame["type"].as_str().unwrap());
        kinds.map(str::to_owned).collect()
    }

    /// All changes so far, in order of arrival.
    pub fn changes(&self) -> Vec<Value> {
        let frames = self.all("changes");
        let changes = frames
            .iter()
            .flat_map(|frame| frame["changes"].as_array().unwrap().clone());
        changes.collect()
    }

    /// The ids of all changes so far, in order of arrival.
    pub fn ids(&self) -> Vec<i64> {
        let changes = self.changes();
        let ids = changes.iter().map(|change| change["id"].as_i64().unwrap());
        ids.collect()
    }

    /// Fails if a change came twice or late, except after an eviction, which lets the object
    /// forget.
    pub fn refuse_doubles(&self) {
        let mut last = 0;
        for frame in self.frames.borrow().iter() {
            if frame["type"] == "evicted" {
                last = 0;
            }
            for change in frame["changes"].as_array().into_iter().flatten() {
                let id = change["id"].as_i64().unwrap();
                assert!(id > last, "{id} comes after {last}");
                last = id;
            }
        }
    }

    /// Where the client would resume from: what it was sent last.
    pub fn position(&self) -> Option<Position> {
        let frames = self.frames.borrow();
        let last_sent = frames.iter().rev().find_map(|frame| {
            let key = match frame["type"].as_str().unwrap() {
                "changes" => "to",
                "welcome" | "caught_up" | "progress" => "position",
                _ => return None,
            };
            frame[key].as_str().map(str::to_owned)
        });
        last_sent.map(|position| position.parse().unwrap())
    }
}

/// What a consumer was sent.
pub fn inbox(consumer: &Consumer<FakeSink>) -> &Inbox {
    &consumer.sink().0
}

/// The frames of a consumer.
pub fn frames(consumer: &Consumer<FakeSink>) -> Ref<'_, Vec<Value>> {
    consumer.sink().0.frames.borrow()
}
