//! Messages from clients: the query of the upgrade, and the frames after it.

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::frame_error::{FrameError, shorten};
use super::position::Position;
use super::subscription::{
    MAX_SUBSCRIPTIONS, RawSubscription, Subscription, Subscriptions, check_bytes,
    read_subscriptions, read_table,
};

/// The version of the protocol that this server speaks: `?v=1`.
pub const PROTOCOL_VERSION: &str = "1";
/// Bytes of one frame of a client.
pub const MAX_MESSAGE_BYTES: usize = 16 << 10;
/// Bytes of the query of an upgrade.
pub const MAX_QUERY_BYTES: usize = 8 << 10;
/// Characters of a client's name.
pub const MAX_CLIENT_ID: usize = 64;

/// Where a client wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With what is stored from now on.
    Now,
    /// With the oldest change that is kept.
    Earliest,
    /// With the change after this position.
    After(Position),
}

/// The name that a client gave itself, or that the server made: it identifies connections in
/// `/clients` and in logs, and grants nothing. 1 to 64 letters, digits and `.`, `_`, `:`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ClientId(String);

/// The query of `GET /ws`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// `after`; absent: from now on.
    pub start: Start,
    /// `tables`; absent: all.
    pub wanted: Subscriptions,
    /// `client`; absent: the server makes one.
    pub client: Option<ClientId>,
    /// `ack=1`: the client acknowledges what it receives, and is sent at most one window beyond it.
    pub acknowledges: bool,
}

/// A frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// The client replaces its subscriptions.
    Subscribe {
        /// A list that is never empty: [`Subscriptions::AllTables`] is only for a query without
        /// `tables`.
        wanted: Subscriptions,
        /// Where to begin; `None`: from its current position.
        start: Option<Start>,
    },
    /// The client has everything up to here.
    Ack(Position),
}

impl ClientId {
    /// `None` if the text is not a valid name.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=MAX_CLIENT_ID).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte));
        fits.then(|| Self(text.to_owned()))
    }

    /// A name for a client that did not give one.
    pub fn random() -> Self {
        // Without random numbers names repeat, which is harmless: they grant nothing.
        Self(format!("c{:016x}", getrandom::u64().unwrap_or_default()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClientId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("1 to 64 letters, digits and . _ : -")
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Start {
    pub(super) fn parse(field: &str, text: &str) -> Result<Self, FrameError> {
        if text == "earliest" {
            return Ok(Self::Earliest);
        }
        let wrong = |error: super::ParsePositionError| {
            FrameError::field(field, format!("{error}, or \"earliest\""))
        };
        text.parse().map(Self::After).map_err(wrong)
    }
}

impl ConnectRequest {
    /// Reads the query of `GET /ws`, without its `?`. A parameter that is unknown or given twice is
    /// refused: a misspelt `tables` would otherwise mean all of them.
    pub fn parse(query: &str) -> Result<Self, FrameError> {
        FrameError::check_size("query", query.len(), MAX_QUERY_BYTES)?;
        let mut given = Parameters::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "v" => &mut given.version,
                "after" => &mut given.after,
                "tables" => &mut given.tables,
                "client" => &mut given.client,
                "ack" => &mut given.ack,
                _ => return Err(FrameError::field(shorten(&name), "unknown parameter")),
            };
            if slot.replace(value).is_some() {
                return Err(FrameError::field(name, "given more than once"));
            }
        }
        given.read()
    }
}

#[derive(Default)]
struct Parameters<'a> {
    version: Option<Cow<'a, str>>,
    after: Option<Cow<'a, str>>,
    tables: Option<Cow<'a, str>>,
    client: Option<Cow<'a, str>>,
    ack: Option<Cow<'a, str>>,
}

impl Parameters<'_> {
    fn read(self) -> Result<ConnectRequest, FrameError> {
        if self.version.as_deref() != Some(PROTOCOL_VERSION) {
            let problem = format!("this server speaks version {PROTOCOL_VERSION} only");
            return Err(FrameError::field("v", problem));
        }
        let client = |text: Cow<'_, str>| {
            let problem = "must be 1 to 64 letters, digits and . _ : -";
            ClientId::parse(&text).ok_or_else(|| FrameError::field("client", problem))
        };
        Ok(ConnectRequest {
            start: match self.after {
                Some(text) => Start::parse("after", &text)?,
                None => Start::Now,
            },
            wanted: match self.tables {
                Some(text) => Subscriptions::Tables(read_tables(&text)?),
                None => Subscriptions::AllTables,
            },
            client: self.client.map(client).transpose()?,
            acknowledges: match self.ack.as_deref() {
                None | Some("0") => false,
                Some("1") => true,
                Some(_) => return Err(FrameError::field("ack", "must be 0 or 1")),
            },
        })
    }
}

pub(super) fn read_tables(text: &str) -> Result<Vec<Subscription>, FrameError> {
    let names = text.split(',');
    FrameError::check_size("tables", names.clone().count(), MAX_SUBSCRIPTIONS)?;
    let tables = names.map(|name| read_table("tables", name).map(Subscription::whole_table));
    let tables = tables.collect::<Result<Vec<_>, _>>()?;
    check_bytes("tables", &tables)?;
    Ok(tables)
}

impl ClientMessage {
    /// Reads a text frame.
    pub fn parse(text: &str) -> Result<Self, FrameError> {
        FrameError::check_size("message", text.len(), MAX_MESSAGE_BYTES)?;
        let head: Head<'_> = serde_json::from_str(text).map_err(|error| {
            if error.is_data() {
                FrameError::NoType
            } else {
                let problem = error.to_string();
                FrameError::NotJson { problem }
            }
        })?;
        match &*head.kind {
            "subscribe" => {
                let frame: SubscribeFrame = read_frame(text)?;
                Ok(Self::Subscribe {
                    wanted: Subscriptions::Tables(read_subscriptions(
                        "subscriptions",
                        frame.subscriptions,
                    )?),
                    start: frame
                        .after
                        .map(|text| Start::parse("after", &text))
                        .transpose()?,
                })
            }
            "ack" => read_frame(text).map(|frame: AckFrame| Self::Ack(frame.position)),
            other => Err(FrameError::UnknownType {
                found: shorten(other),
            }),
        }
    }
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscribeFrame {
    #[serde(rename = "type")]
    _kind: String,
    subscriptions: Vec<RawSubscription>,
    after: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AckFrame {
    #[serde(rename = "type")]
    _kind: String,
    position: Position,
}

/// Reads JSON that is known to be well-formed; an error says which field is wrong.
pub(super) fn read_frame<T: DeserializeOwned>(text: &str) -> Result<T, FrameError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let problem = error.inner().to_string();
        // Serde adds a line and a column, which are useless for a frame of one line.
        let problem = problem.split(" at line ").next().unwrap_or_default();
        match error.path().to_string().as_str() {
            "." => FrameError::field("message", problem),
            path => FrameError::field(shorten(path), problem),
        }
    })
}
