//! The Durable Object: its event handlers, and the state that they share.
//!
//! ```text
//! fetch -> endpoints -+
//! alarm --------------+--> JobQueue: one job at a time --> cycles --> Hub: the clients
//! websocket_message --+        ^                              |
//!                              +------- the one alarm <-------+
//! ```

mod client_endpoints;
mod endpoints;
mod health;
mod hub;
mod initial_poll;
mod job_queue;
mod metrics;
mod request;
mod runtime;
mod status;

use std::rc::Rc;

use js_sys::Promise;
use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen_futures::future_to_promise;
use worker::{DurableObject, Env, Request, Response, State, durable_object};

use self::runtime::Runtime;

/// One feed: polls the slot, stores the changes, and sends them to clients.
#[durable_object(alarm)]
#[derive(Debug)]
pub struct ReplicationDO {
    runtime: Rc<Runtime>,
}

impl DurableObject for ReplicationDO {
    fn new(state: State, env: Env) -> Self {
        Self {
            runtime: Runtime::new(state, env),
        }
    }

    async fn fetch(&self, request: Request) -> worker::Result<Response> {
        self.runtime.watch().await;
        endpoints::respond(&self.runtime, request).await
    }

    /// Always succeeds: the platform deletes an alarm after its handler has failed six times.
    async fn alarm(&self) -> worker::Result<Response> {
        self.runtime.on_alarm().await;
        Response::empty()
    }
}

/// The events of WebSockets. The `worker` crate's own handlers copy every message into
/// WebAssembly's memory before its size can be checked.
#[wasm_bindgen]
impl ReplicationDO {
    /// A message of a client.
    #[expect(clippy::needless_pass_by_value, reason = "wasm-bindgen hands it over")]
    #[wasm_bindgen(js_name = webSocketMessage)]
    pub fn web_socket_message(&self, socket: web_sys::WebSocket, message: JsValue) -> Promise {
        if self.runtime.hub.on_message(&socket.into(), &message) {
            self.runtime.wake_delivery();
        }
        self.watch()
    }

    /// A client's connection was closed.
    #[wasm_bindgen(js_name = webSocketClose)]
    pub fn web_socket_close(&self, socket: web_sys::WebSocket) -> Promise {
        self.runtime.hub.on_close(&socket.into());
        self.runtime.wake_delivery();
        self.watch()
    }

    /// A client's connection has failed.
    #[wasm_bindgen(js_name = webSocketError)]
    pub fn web_socket_error(&self, socket: web_sys::WebSocket) -> Promise {
        self.web_socket_close(socket)
    }

    fn watch(&self) -> Promise {
        let runtime = Rc::clone(&self.runtime);
        future_to_promise(async move {
            runtime.watch().await;
            Ok(JsValue::UNDEFINED)
        })
    }
}
