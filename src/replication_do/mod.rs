//! The Durable Object: its event handlers, and the state that they share.
//!
//! ```text
//! fetch -> endpoints -+
//! alarm --------------+--> JobQueue: one job at a time --> cycles --> Hub: the clients
//! websocket_message --+        ^                              |
//!                              +------- the one alarm <-------+
//! ```

mod catch_up;
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

use worker::{
    DurableObject, Env, Request, Response, State, WebSocket, WebSocketIncomingMessage,
    durable_object,
};

use self::runtime::Runtime;

/// One feed: polls the slot, stores the changes, and sends them to clients.
#[durable_object]
#[derive(Debug)]
pub struct ReplicationDO {
    runtime: Rc<Runtime>,
}

impl DurableObject for ReplicationDO {
    fn new(state: State, env: Env) -> Self {
        Self {
            runtime: Rc::new(Runtime::new(state, env)),
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

    async fn websocket_message(
        &self,
        socket: WebSocket,
        message: WebSocketIncomingMessage,
    ) -> worker::Result<()> {
        if self.runtime.hub.on_message(&socket, &message) {
            self.runtime.start_polling();
        }
        self.runtime.watch().await;
        Ok(())
    }

    async fn websocket_close(
        &self,
        socket: WebSocket,
        _code: usize,
        _reason: String,
        _was_clean: bool,
    ) -> worker::Result<()> {
        self.runtime.hub.on_close(&socket);
        Ok(())
    }

    async fn websocket_error(
        &self,
        socket: WebSocket,
        _error: worker::Error,
    ) -> worker::Result<()> {
        self.runtime.hub.on_close(&socket);
        Ok(())
    }
}
