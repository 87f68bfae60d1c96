//! A hibernatable WebSocket of the platform (Durable Objects documentation, "WebSocket
//! Hibernation API").

use js_sys::{JsString, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen::{JsCast, JsValue};
use worker::{State, WebSocket, WebSocketPair};

use crate::delivery::ConsumerState;

#[wasm_bindgen]
extern "C" {
    #[derive(Debug)]
    type Raw;
    #[wasm_bindgen(method, catch)]
    fn send(this: &Raw, text: &JsString) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    fn close(this: &Raw, code: u16, reason: &str) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = serializeAttachment)]
    fn serialize_attachment(this: &Raw, value: &Uint8Array) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch, js_name = deserializeAttachment)]
    fn deserialize_attachment(this: &Raw) -> Result<JsValue, JsValue>;
}

/// The server's end of a client's WebSocket.
#[derive(Debug)]
pub(crate) struct ClientSocket {
    raw: Raw,
}

impl ClientSocket {
    /// A socket that the platform hands to an event handler, or keeps for the object.
    pub(crate) fn of(socket: &WebSocket) -> Self {
        let socket: &web_sys::WebSocket = socket.as_ref();
        Self {
            raw: socket.clone().unchecked_into(),
        }
    }

    /// A new pair: the end that the platform keeps over evictions, and the client's.
    pub(crate) fn accept(state: &State) -> worker::Result<(Self, WebSocket)> {
        let pair = WebSocketPair::new()?;
        state.as_raw().accept_websocket(pair.server.as_ref())?;
        Ok((Self::of(&pair.server), pair.client))
    }

    /// What was attached to a socket that outlived an eviction, when this version can read it.
    pub(crate) fn attachment(&self) -> Option<ConsumerState> {
        ConsumerState::from_bytes(&self.attached()?).ok()
    }

    /// The number of the consumer, when there is one that this version can read.
    pub(crate) fn number(&self) -> Option<u64> {
        ConsumerState::number_of(&self.attached()?).ok()
    }

    /// Sends a text frame. False when the client is gone.
    pub(crate) fn send(&self, text: &JsString) -> bool {
        self.raw.send(text).is_ok()
    }

    /// Keeps bytes with the socket over the object's eviction. False when that failed.
    pub(crate) fn attach(&self, bytes: &[u8]) -> bool {
        let bytes = Uint8Array::from(bytes);
        self.raw.serialize_attachment(&bytes).is_ok()
    }

    /// Ends the connection (RFC 6455, section 7.4).
    pub(crate) fn close(&self, code: u16, reason: &str) {
        // A socket that has failed needs no closing.
        self.raw.close(code, reason).ok();
    }

    fn attached(&self) -> Option<Vec<u8>> {
        let attached = self.raw.deserialize_attachment().ok()?;
        let bytes: Uint8Array = attached.dyn_into().ok()?;
        Some(bytes.to_vec())
    }
}
