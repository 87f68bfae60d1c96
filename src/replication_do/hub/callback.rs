//! One request to a Sync Durable Object: `POST /replication/changes`.

use std::rc::Rc;
use std::time::Duration;

use js_sys::JsString;
use serde::Deserialize;
use worker::{Env, Headers, Method, Request, RequestInit, Response, Stub};

use crate::clients::{ClientId, ObjectName, Position};
use crate::clock;
use crate::delivery::{Answer, Target};
use crate::error::{Category, Error, Result};

/// An object that does not answer within this time has failed.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: usize = 1 << 10;

#[derive(Deserialize)]
struct Conflict {
    position: Position,
}

/// The object's stub; fails if the binding or the object's id is invalid.
pub(super) fn stub(env: &Env, target: &Target) -> worker::Result<Stub> {
    let namespace = env.durable_object(&target.binding)?;
    match &target.object {
        ObjectName::Name(name) => namespace.get_by_name(name),
        ObjectName::ObjectId(id) => namespace.id_from_string(id)?.get_stub(),
    }
}

/// Makes the request and waits for its answer.
pub(super) async fn call(stub: &Stub, client: &ClientId, body: &JsString) -> Answer {
    let answered = clock::timeout(TIMEOUT, async {
        let request = request(client, body).map_err(|cause| failed(&cause))?;
        let mut response = stub
            .fetch_with_request(request)
            .await
            .map_err(|cause| failed(&cause))?;
        answer(&mut response).await
    });
    let answer = answered.await.unwrap_or_else(|elapsed| {
        let message = format!("the object did not answer within {} s", TIMEOUT.as_secs());
        Err(Error::new(Category::Notify, "callback_timeout", message).with_source(elapsed))
    });
    answer.unwrap_or_else(|error| Answer::Failed(Rc::new(error)))
}

fn request(client: &ClientId, body: &JsString) -> worker::Result<Request> {
    let headers = Headers::new();
    headers.set("content-type", "application/json")?;
    headers.set("replication-client", client.as_str())?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_headers(headers)
        .with_body(Some(body.clone().into()));
    // A stub sends the request to its object, whatever the host is.
    Request::new_with_init("https://sync-do/replication/changes", &init)
}

async fn answer(response: &mut Response) -> Result<Answer> {
    let status = response.status_code();
    match status {
        200..=299 => Ok(Answer::Accepted),
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

pub(super) fn failed(cause: &worker::Error) -> Error {
    let message = format!("the object could not be called: {cause}");
    Error::new(Category::Notify, "callback_failed", message)
}
