//! The part of a consumer that survives the object's eviction.

use std::rc::Rc;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::answers::Answers;
use super::cursor::Cursor;
use crate::clients::{ClientId, CredentialId, View};

/// Bytes that the platform keeps with a socket (Durable Objects documentation,
/// "`serializeAttachment`").
pub const MAX_ATTACHMENT_BYTES: usize = 16 << 10;

/// The state of one consumer. For a WebSocket it is the socket's attachment: bytes, not a string,
/// because the platform counts two bytes a character once one character is beyond Latin-1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerState {
    /// The client's name.
    #[serde(rename = "id")]
    pub client: ClientId,
    /// Tells this consumer from all others of the object.
    #[serde(rename = "n")]
    pub number: u64,
    /// What it asked for and may see.
    #[serde(rename = "view")]
    pub view: Rc<View>,
    /// Its position and flow control.
    #[serde(rename = "cur")]
    pub cursor: Cursor,
    /// How it has answered; only for a sink that answers.
    #[serde(rename = "ans", default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
    /// When it connected or registered, in milliseconds since 1970.
    #[serde(rename = "since")]
    pub connected_at: u64,
    /// When its ticket or its registration expires, in milliseconds since 1970.
    #[serde(rename = "exp", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// Whose it is; `None` for an operator's.
    #[serde(rename = "cred", default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialId>,
}

/// The attachment was not written by a version that this build can read.
#[derive(Debug, thiserror::Error)]
#[error("the socket's attachment cannot be read")]
pub struct AttachmentError(#[from] serde_json::Error);

impl ConsumerState {
    /// The bytes to attach: at most [`MAX_ATTACHMENT_BYTES`], which the limits of the fields
    /// ensure.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Nothing here can fail: every map has string keys, and no `Serialize` fails.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AttachmentError> {
        read(bytes)
    }

    /// Reads only the consumer's number, for each message that arrives.
    pub fn number_of(bytes: &[u8]) -> Result<u64, AttachmentError> {
        #[derive(Deserialize)]
        struct Number {
            n: u64,
        }
        read(bytes).map(|Number { n }| n)
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, AttachmentError> {
    // Everything else is parsed from text; parsing bytes would compile the parser once more for
    // each type.
    let text = str::from_utf8(bytes).map_err(serde_json::Error::custom)?;
    Ok(serde_json::from_str(text)?)
}
