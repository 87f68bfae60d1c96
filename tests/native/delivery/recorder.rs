//! A client that writes down what it is sent, and what would be attached to its socket.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pg_change_feed::clients::{
    Attachment, ClientId, Cursor, Flow, Outlet, Position, Start, Subscriber, View, Views,
};
use serde_json::Value;

/// The client's end.
#[derive(Debug, Default)]
pub struct Inbox {
    pub frames: RefCell<Vec<Value>>,
    pub attached: RefCell<Vec<u8>>,
    /// From then on nothing can be sent.
    pub is_dead: Cell<bool>,
}

/// The server's end.
#[derive(Debug)]
pub struct Recorder(pub Rc<Inbox>);

impl Outlet for Recorder {
    type Text = String;

    fn text(frame: &str) -> String {
        frame.to_owned()
    }

    fn send(&self, text: &String) -> bool {
        let frame = serde_json::from_str(text).unwrap();
        self.0.frames.borrow_mut().push(frame);
        !self.0.is_dead.get()
    }

    fn attach(&self, bytes: &[u8]) -> bool {
        *self.0.attached.borrow_mut() = bytes.to_vec();
        true
    }

    fn close(&self, _code: u16, _reason: &str) {
        self.0.is_dead.set(true);
    }
}

impl Inbox {
    /// The ids of all changes so far, as they came.
    pub fn ids(&self) -> Vec<i64> {
        let frames = self.frames.borrow();
        let changes = frames.iter().filter(|it| it["type"] == "changes");
        let changes = changes.flat_map(|it| it["changes"].as_array().unwrap().clone());
        changes.map(|it| it["id"].as_i64().unwrap()).collect()
    }

    /// Fails where a change came twice or late, but for what an eviction lets the object forget.
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

    /// Where the client would resume from: what it was told last.
    pub fn position(&self) -> Option<Position> {
        let frames = self.frames.borrow();
        let told = frames.iter().rev().find_map(|frame| {
            let key = match frame["type"].as_str().unwrap() {
                "changes" => "to",
                "caught_up" | "progress" => "position",
                _ => return None,
            };
            frame[key].as_str().map(str::to_owned)
        });
        told.map(|position| position.parse().unwrap())
    }
}

/// A client that has just come.
pub fn join(view: View, start: Start, flow: Flow, views: &Views) -> Subscriber<Recorder> {
    let attachment = Attachment {
        client: ClientId::random(),
        connection: 1,
        view: Rc::new(view),
        cursor: Cursor::new(start, flow),
        connected_at: 0,
        expires_at: None,
    };
    let client = Subscriber::arriving(Recorder(Rc::default()), attachment, views);
    client.keep();
    client
}

/// The same client in the object's next life.
pub fn evict(client: &Subscriber<Recorder>, views: &Views) -> Subscriber<Recorder> {
    let inbox = Rc::clone(&client.outlet().0);
    let attachment = Attachment::from_bytes(&inbox.attached.borrow()).unwrap();
    let evicted = serde_json::json!({"type": "evicted"});
    inbox.frames.borrow_mut().push(evicted);
    Subscriber::resuming(Recorder(inbox), attachment, views)
}
