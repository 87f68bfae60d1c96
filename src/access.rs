//! Authenticates requests: an operator has the secret `REPLICATION_TOKEN`; a client has a ticket that
//! was signed with the secret `REPLICATION_TICKET_SECRET`.
//!
//! ```text
//! Worker   authorize: may this caller call this endpoint? ---+
//! object   ticket:    what does the caller's ticket allow? --+--> authenticate
//! ```

use worker::{Env, Request};

use crate::clients::bearer::{self, BearerError};
use crate::clients::{Ticket, TicketError, TicketKey};
use crate::clock;
use crate::response::{ErrorResponse, HttpError, Result};
use crate::routes;

/// The owner of a valid credential.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Caller {
    /// May do everything.
    Operator,
    /// Sees what the ticket allows.
    TicketHolder(Ticket),
}

/// Why a request is turned away. Never repeats what the request carried.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("a bearer token or a ticket is required")]
    Missing,
    #[error("the token is wrong")]
    Wrong,
    #[error(transparent)]
    Bearer(#[from] BearerError),
    #[error(transparent)]
    Ticket(#[from] TicketError),
    #[error("the secret {secret} {problem}, so every request with {credential} is refused")]
    Unconfigured {
        secret: &'static str,
        problem: &'static str,
        credential: &'static str,
    },
    /// A valid ticket, for an endpoint that is open to operators only.
    #[error("a ticket does not open this endpoint")]
    Forbidden,
    /// A request without a credential, from a page of another site.
    #[error(
        "this development server runs without a token, so it refuses requests from the pages of \
         other sites"
    )]
    ForeignPage,
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match refusal {
            Refusal::Ticket(TicketError::Expired) => (401, "ticket_expired"),
            Refusal::Forbidden | Refusal::ForeignPage => (403, "forbidden"),
            _ => (401, "unauthorized"),
        };
        ErrorResponse::new(status, code, refusal.to_string()).into()
    }
}

/// Checks, in the Worker, that the request's caller may call its endpoint.
///
/// Without the secret `REPLICATION_TOKEN` every request is refused, unless the variable
/// `REPLICATION_DEV_NO_AUTH` says that this is a developer's own machine.
pub(crate) fn authorize(request: &Request, env: &Env) -> Result<()> {
    match authenticate(request, env)? {
        Some(Caller::Operator) => Ok(()),
        Some(Caller::TicketHolder(_))
            if routes::is_open_to_tickets(&method(request), &request.path()) =>
        {
            Ok(())
        }
        Some(Caller::TicketHolder(_)) => Err(Refusal::Forbidden.into()),
        None => authorize_anonymous(request, env),
    }
}

fn authorize_anonymous(request: &Request, env: &Env) -> Result<()> {
    if !is_local_development(env) {
        return Err(Refusal::Missing.into());
    }
    if is_foreign_page(request)? {
        return Err(Refusal::ForeignPage.into());
    }
    Ok(())
}

/// The ticket that limits a request inside the object; `None` when nothing does.
///
/// A request without a credential is not limited. Either [`authorize`] let it pass, or it comes from
/// a Worker that has a binding to the object, and that Worker is trusted.
pub(crate) fn ticket(request: &Request, env: &Env) -> Result<Option<Ticket>> {
    Ok(match authenticate(request, env)? {
        Some(Caller::TicketHolder(ticket)) => Some(ticket),
        Some(Caller::Operator) | None => None,
    })
}

/// The method as it was sent. [`Request::method`] turns every unknown one into GET.
pub(crate) fn method(request: &Request) -> String {
    request.inner().method()
}

/// Whose credential the request carries; `None` without one. An invalid credential is an error.
fn authenticate(request: &Request, env: &Env) -> Result<Option<Caller>> {
    let header = request.headers().get("Authorization")?;
    let protocols = request.headers().get("Sec-WebSocket-Protocol")?;
    let credential = match (&header, &protocols) {
        (Some(header), _) => bearer::from_authorization(header).map(|token| Some(token.to_owned())),
        (None, Some(protocols)) => bearer::from_subprotocols(protocols),
        (None, None) => Ok(None),
    };
    match credential.map_err(Refusal::from)? {
        Some(credential) => Ok(Some(identify(&credential, env)?)),
        None => Ok(None),
    }
}

fn identify(credential: &str, env: &Env) -> std::result::Result<Caller, Refusal> {
    let secret = |name| env.secret(name).map(|secret| secret.to_string()).ok();
    let token = secret("REPLICATION_TOKEN");
    if let Some(token) = &token
        && bearer::is_token(credential, token)
    {
        return Ok(Caller::Operator);
    }
    // A ticket has two dots. A token may have some too, hence it is compared first.
    if credential.bytes().filter(|byte| *byte == b'.').count() == 2 {
        let unusable = |problem| Refusal::Unconfigured {
            secret: "REPLICATION_TICKET_SECRET",
            problem,
            credential: "a ticket",
        };
        let secret = secret("REPLICATION_TICKET_SECRET").ok_or(unusable("is not set"))?;
        let key =
            TicketKey::new(secret.as_bytes()).map_err(|_| unusable("has fewer than 32 bytes"))?;
        let ticket = key.verify(credential, clock::now_ms() / 1_000)?;
        return Ok(Caller::TicketHolder(ticket));
    }
    match token {
        Some(_) => Err(Refusal::Wrong),
        None => Err(Refusal::Unconfigured {
            secret: "REPLICATION_TOKEN",
            problem: "is not set",
            credential: "a token",
        }),
    }
}

fn is_local_development(env: &Env) -> bool {
    env.var("REPLICATION_DEV_NO_AUTH")
        .is_ok_and(|value| value.to_string() == "true")
}

/// Whether a browser sent the request for a page of another site: any page that the developer opens
/// could otherwise read the feed of the server on the same machine.
fn is_foreign_page(request: &Request) -> worker::Result<bool> {
    let Some(origin) = request.headers().get("Origin")? else {
        return Ok(false);
    };
    let host = url::Url::parse(&origin)
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned));
    Ok(!matches!(
        host.as_deref(),
        Some("localhost" | "127.0.0.1" | "[::1]")
    ))
}
