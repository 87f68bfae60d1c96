//! One request to a Sync Durable Object: `POST /replication/changes`.

use std::time::Duration;

use serde::Deserialize;
use worker::{Env, Headers, Method, Request, RequestInit, Response, Stub};

use crate::clients::{ClientId, ObjectName, Position, SyncClient};
use crate::clock;
use crate::error::{Category, Error, Result};

/// An object that does not answer for so long has failed.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of an answer that are looked at.
const MAX_ANSWER: usize = 1 << 10;

/// A request that is due.
#[derive(Debug)]
pub(in super::super) struct Callback {
    pub(super) client: ClientId,
    /// The registration that it belongs to: a newer one has a cursor of its own.
    pub(super) generation: u64,
    pub(super) kind: Kind,
    /// The frame, as a WebSocket client gets it.
    pub(super) body: String,
}

/// What follows from a 2xx.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// The cursor moves to this id.
    Changes { to: i64, bytes: usize },
    /// The client knows where it stands.
    Progress,
    /// The client knows that it must reload.
    Reset,
}

/// What the object answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// 2xx: it has what it was sent.
    Taken,
    /// 409 with a position: it stands elsewhere, and that is the truth.
    StandsAt(Position),
    /// 410: it wants nothing more.
    Gone,
}

#[derive(Deserialize)]
struct Conflict {
    position: Position,
}

/// The object's stub; fails where the binding or the object's id is not one.
pub(super) fn stub(env: &Env, client: &SyncClient) -> worker::Result<Stub> {
    let namespace = env.durable_object(&client.binding)?;
    match &client.object {
        ObjectName::Name(name) => namespace.get_by_name(name),
        ObjectName::ObjectId(id) => namespace.id_from_string(id)?.get_stub(),
    }
}

/// Makes the request and waits for its answer.
pub(super) async fn call(stub: &Stub, client: &ClientId, body: &str) -> Result<Answer> {
    let answered = clock::timeout(TIMEOUT, async {
        let request = request(client, body).map_err(|cause| failed(&cause))?;
        let mut response = stub
            .fetch_with_request(request)
            .await
            .map_err(|cause| failed(&cause))?;
        answer(&mut response).await
    });
    answered.await.map_err(|elapsed| {
        let message = format!("the object did not answer within {} s", TIMEOUT.as_secs());
        Error::new(Category::Notify, "callback_timeout", message).with_source(elapsed)
    })?
}

fn request(client: &ClientId, body: &str) -> worker::Result<Request> {
    let headers = Headers::new();
    headers.set("content-type", "application/json")?;
    headers.set("replication-client", client.as_str())?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_headers(headers)
        .with_body(Some(body.into()));
    // The host is nobody's: a stub takes the request to its object whatever it says.
    Request::new_with_init("https://sync-do/replication/changes", &init)
}

async fn answer(response: &mut Response) -> Result<Answer> {
    let status = response.status_code();
    match status {
        200..=299 => Ok(Answer::Taken),
        410 => Ok(Answer::Gone),
        409 => {
            let text = response.text().await.map_err(|cause| failed(&cause))?;
            let conflict = (text.len() <= MAX_ANSWER)
                .then(|| serde_json::from_str(&text).ok())
                .flatten();
            match conflict {
                Some(Conflict { position }) => Ok(Answer::StandsAt(position)),
                None => Err(refused(status)),
            }
        }
        _ => Err(refused(status)),
    }
}

fn refused(status: u16) -> Error {
    let message = format!("the object answered with status {status}");
    Error::new(Category::Notify, "callback_refused", message)
}

fn failed(cause: &worker::Error) -> Error {
    let message = format!("the object could not be called: {cause}");
    Error::new(Category::Notify, "callback_failed", message)
}
