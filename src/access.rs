//! Who asks: the operator, who has the secret `REPLICATION_TOKEN`, or a client with a ticket that was
//! signed under the secret `REPLICATION_TICKET_SECRET`.

use worker::{Env, Method, Request};

use crate::clients::bearer::{self, BearerError};
use crate::clients::{Ticket, TicketError, TicketKey};
use crate::clock;

/// What a request may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everything.
    Operator,
    /// Get what the ticket allows.
    Client(Ticket),
}

/// Why a request is turned away. Says nothing of what it carried.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a bearer token or a ticket is needed")]
    Missing,
    #[error("the token is wrong")]
    Wrong,
    #[error(transparent)]
    Bearer(#[from] BearerError),
    #[error(transparent)]
    Ticket(#[from] TicketError),
    #[error("the secret {secret} {problem}, so every request with {what} is refused")]
    Unconfigured {
        secret: &'static str,
        problem: &'static str,
        what: &'static str,
    },
    /// A ticket was presented where only the operator may go.
    #[error("a ticket only opens /ws and /changes")]
    Forbidden,
    /// A page of another site asks, and nobody must show who they are.
    #[error("without a token, pages of other sites are refused: this is a developer's own server")]
    ForeignPage,
}

impl Refusal {
    /// Status, and stable code.
    pub(crate) fn status(&self) -> (u16, &'static str) {
        match self {
            Self::Ticket(TicketError::Expired) => (401, "ticket_expired"),
            Self::Forbidden | Self::ForeignPage => (403, "forbidden"),
            _ => (401, "unauthorized"),
        }
    }
}

/// What a request of the public route may do.
///
/// Without the secret everything is refused, unless the variable `REPLICATION_DEV_NO_AUTH` says
/// that this is a developer's own machine.
pub(crate) fn of_public(request: &Request, env: &Env) -> worker::Result<Result<Access, Refusal>> {
    let access = match of_credential(request, env)? {
        Ok(Some(access)) => access,
        Ok(None) if is_local_development(env) => {
            if is_foreign_page(request)? {
                return Ok(Err(Refusal::ForeignPage));
            }
            Access::Operator
        }
        Ok(None) => return Ok(Err(Refusal::Missing)),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let path = request.path();
    let is_for_clients = request.method() == Method::Get && (path == "/ws" || path == "/changes");
    if matches!(access, Access::Client(_)) && !is_for_clients {
        return Ok(Err(Refusal::Forbidden));
    }
    Ok(Ok(access))
}

/// What the request's credential opens; `None` without one. Such a request has been let through by
/// [`of_public`], or comes from a Worker that holds a binding to the object, which is trusted.
pub(crate) fn of_credential(
    request: &Request,
    env: &Env,
) -> worker::Result<Result<Option<Access>, Refusal>> {
    let header = request.headers().get("Authorization")?;
    let protocols = request.headers().get("Sec-WebSocket-Protocol")?;
    let given = match (&header, &protocols) {
        (Some(header), _) => bearer::from_authorization(header).map(|it| Some(it.to_owned())),
        (None, Some(protocols)) => bearer::from_subprotocols(protocols),
        (None, None) => Ok(None),
    };
    Ok(match given {
        Ok(Some(given)) => check(&given, env).map(Some),
        Ok(None) => Ok(None),
        Err(error) => Err(error.into()),
    })
}

fn check(given: &str, env: &Env) -> Result<Access, Refusal> {
    let secret = |name| env.secret(name).map(|secret| secret.to_string()).ok();
    // A ticket has two dots. A token may have some too, and is then compared all the same.
    let looks_like_ticket = given.bytes().filter(|byte| *byte == b'.').count() == 2;
    let token = secret("REPLICATION_TOKEN");
    if let Some(token) = &token
        && bearer::is_token(given, token)
    {
        return Ok(Access::Operator);
    }
    if looks_like_ticket {
        let unusable = |problem| Refusal::Unconfigured {
            secret: "REPLICATION_TICKET_SECRET",
            problem,
            what: "a ticket",
        };
        let secret = secret("REPLICATION_TICKET_SECRET").ok_or(unusable("is not set"))?;
        let key =
            TicketKey::new(secret.as_bytes()).map_err(|_| unusable("has fewer than 32 bytes"))?;
        return Ok(Access::Client(key.verify(given, clock::now_ms() / 1_000)?));
    }
    match token {
        Some(_) => Err(Refusal::Wrong),
        None => Err(Refusal::Unconfigured {
            secret: "REPLICATION_TOKEN",
            problem: "is not set",
            what: "a token",
        }),
    }
}

fn is_local_development(env: &Env) -> bool {
    env.var("REPLICATION_DEV_NO_AUTH")
        .is_ok_and(|value| value.to_string() == "true")
}

/// A browser says which site's page asks. Any page that the developer happens to look at could
/// otherwise read the feed of the server on the same machine.
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
