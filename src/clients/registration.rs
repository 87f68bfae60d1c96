//! The body of `POST /clients`: registers a Durable Object of an application, which is then called
//! with changes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client_message::{ClientId, Start, read_frame};
use super::frame_error::FrameError;
use super::subscription::{
    RawSubscription, Subscription, Subscriptions, View, check_bytes, read_subscriptions, read_table,
};

/// Bytes of the body of a registration.
pub const MAX_REGISTRATION_BYTES: usize = 16 << 10;
/// Sync Durable Objects of one feed.
pub const MAX_SYNC_CLIENTS: usize = 1_000;
/// Seconds that a registration lasts: default, maximum and minimum.
const DEFAULT_TTL: u64 = 24 * 60 * 60;
const MAX_TTL: u64 = 30 * 24 * 60 * 60;
const MIN_TTL: u64 = 10;
/// The most bytes of a binding's or an object's name.
const MAX_NAME: usize = 256;

/// Which object is called: of the namespace that is bound as `binding`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ObjectName {
    /// `idFromName` (Durable Objects documentation, "Durable Object Namespace").
    Name(String),
    /// `idFromString`.
    ObjectId(String),
}

/// The body of `POST /clients`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The client's name; registering it again replaces the registration.
    pub id: ClientId,
    /// The Durable Object binding of this Worker.
    pub binding: String,
    /// The object.
    pub object: ObjectName,
    /// What it asked for.
    pub view: View,
    /// Where to begin; `None`: from its current position, or from now on.
    pub start: Option<Start>,
    /// How long the registration lasts, unless it is renewed.
    pub ttl: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Body {
    id: String,
    binding: String,
    name: Option<String>,
    object_id: Option<String>,
    tables: Option<Vec<String>>,
    subscriptions: Option<Vec<RawSubscription>>,
    after: Option<String>,
    ttl_seconds: Option<u64>,
}

impl Registration {
    /// Reads the body. An error names the field.
    pub fn parse(body: &str) -> Result<Self, FrameError> {
        FrameError::check_size("body", body.len(), MAX_REGISTRATION_BYTES)?;
        let body: Body = read_frame(body)?;
        let ttl = body.ttl_seconds.unwrap_or(DEFAULT_TTL);
        if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
            let problem = format!("must be {MIN_TTL} to {MAX_TTL}");
            return Err(FrameError::field("ttlSeconds", problem));
        }
        let start = body.after.map(|text| Start::parse("after", &text));
        Ok(Self {
            id: ClientId::parse(&body.id).ok_or_else(|| {
                FrameError::field("id", "must be 1 to 64 letters, digits and . _ : -")
            })?,
            binding: short("binding", body.binding)?,
            object: match (body.name, body.object_id) {
                (Some(name), None) => ObjectName::Name(short("name", name)?),
                (None, Some(id)) => ObjectName::ObjectId(short("objectId", id)?),
                _ => {
                    let problem = "give either name or objectId of the object to call";
                    return Err(FrameError::field("name", problem));
                }
            },
            view: View::new(wanted(body.tables, body.subscriptions)?, None)?,
            start: start.transpose()?,
            ttl: Duration::from_secs(ttl),
        })
    }
}

fn short(field: &str, text: String) -> Result<String, FrameError> {
    if (1..=MAX_NAME).contains(&text.len()) {
        return Ok(text);
    }
    let problem = format!("must be 1 to {MAX_NAME} bytes");
    Err(FrameError::field(field, problem))
}

fn wanted(
    tables: Option<Vec<String>>,
    subscriptions: Option<Vec<RawSubscription>>,
) -> Result<Subscriptions, FrameError> {
    let tables = match (tables, subscriptions) {
        (None, None) => return Ok(Subscriptions::AllTables),
        (None, Some(list)) => read_subscriptions("subscriptions", list)?,
        (Some(names), None) => {
            let read = |name: &String| read_table("tables", name).map(Subscription::whole_table);
            let tables = names.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            if tables.is_empty() {
                return Err(FrameError::field("tables", "must name at least one table"));
            }
            check_bytes("tables", &tables)?;
            tables
        }
        (Some(_), Some(_)) => {
            let problem = "give either tables or subscriptions";
            return Err(FrameError::field("tables", problem));
        }
    };
    Ok(Subscriptions::Tables(tables))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Registration, String> {
        Registration::parse(body).map_err(|error| error.to_string())
    }

    #[test]
    fn a_registration_names_its_object_and_begins_where_it_says() {
        let body = r#"{"id":"a","binding":"SYNC","name":"room","after":"1-42","ttlSeconds":60}"#;
        let registration = parse(body).unwrap();
        assert_eq!(registration.object, ObjectName::Name("room".into()));
        assert!(matches!(registration.start, Some(Start::After(at)) if at.id == 42));
        assert_eq!(registration.ttl, Duration::from_mins(1));
    }

    #[test]
    fn a_wrong_registration_names_the_field() {
        for (field, body) in [
            ("id", r#"{"id":"","binding":"S","name":"n"}"#),
            ("binding", r#"{"id":"a","binding":"","name":"n"}"#),
            ("name", r#"{"id":"a","binding":"S"}"#),
            (
                "name",
                r#"{"id":"a","binding":"S","name":"n","objectId":"o"}"#,
            ),
            (
                "after",
                r#"{"id":"a","binding":"S","name":"n","after":"x"}"#,
            ),
            (
                "ttlSeconds",
                r#"{"id":"a","binding":"S","name":"n","ttlSeconds":1}"#,
            ),
            (
                "tables",
                r#"{"id":"a","binding":"S","name":"n","tables":[]}"#,
            ),
            (
                "subscriptions",
                r#"{"id":"a","binding":"S","name":"n","subscriptions":[{"table":""}]}"#,
            ),
            ("message", "[]"),
            ("extra", r#"{"id":"a","binding":"S","name":"n","extra":1}"#),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(field), "{body}: {error}");
        }
    }
}
