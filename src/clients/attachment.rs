//! What a socket carries, so that a client outlives the object's eviction.

use std::rc::Rc;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};

use super::client_message::ClientId;
use super::cursor::Cursor;
use super::subscription::View;

/// Bytes that the platform keeps with a socket (Durable Objects documentation,
/// "`serializeAttachment`").
pub const MAX_ATTACHMENT_BYTES: usize = 16 << 10;

/// All that is known of one client. Its JSON is to be attached as bytes, not as a string: the
/// platform counts a string with one character beyond Latin-1 twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The client's name.
    #[serde(rename = "id")]
    pub client: ClientId,
    /// Tells this connection from all others of the object.
    #[serde(rename = "n")]
    pub connection: u64,
    /// What it wants and may see.
    #[serde(rename = "view")]
    pub view: Rc<View>,
    /// Where it stands.
    #[serde(rename = "cur")]
    pub cursor: Cursor,
    /// When it connected, in milliseconds since 1970.
    #[serde(rename = "since")]
    pub connected_at: u64,
    /// When its ticket expires, in seconds since 1970; `None` without a ticket.
    #[serde(rename = "exp", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// Bytes on a socket that no version of this server that can be read attached.
#[derive(Debug, thiserror::Error)]
#[error("the socket's attachment cannot be read")]
pub struct AttachmentError(#[from] serde_json::Error);

impl Attachment {
    /// The bytes to attach: at most [`MAX_ATTACHMENT_BYTES`], by the limits of what is in them.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Nothing here can fail: no map with other keys than strings, no failing `Serialize`.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AttachmentError> {
        read(bytes)
    }

    /// Reads of it only which connection it is, for each message that comes.
    pub fn connection_of(bytes: &[u8]) -> Result<u64, AttachmentError> {
        #[derive(Deserialize)]
        struct Connection {
            n: u64,
        }
        read(bytes).map(|Connection { n }| n)
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, AttachmentError> {
    // By way of text, which everything else is read from too: reading bytes would be compiled
    // once more for each type.
    let text = str::from_utf8(bytes).map_err(serde_json::Error::custom)?;
    Ok(serde_json::from_str(text)?)
}
