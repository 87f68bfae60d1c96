//! The credential of a request: where it is found, and whether it is the expected one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The subprotocol that the server answers an upgrade with.
pub const SUBPROTOCOL: &str = "replication.v1";
const BEARER_PREFIX: &str = "bearer.";

/// Bytes of a header that carries a credential.
pub const MAX_CREDENTIAL_BYTES: usize = 16 << 10;

/// A header that does not carry a credential as documented. Does not reveal the header's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BearerError {
    /// `Authorization` is present, but is not `Bearer <token>`.
    #[error("the header Authorization must be: Bearer <token>")]
    Scheme,
    /// The client offers no subprotocol that this server speaks.
    #[error("the subprotocol {SUBPROTOCOL} must be offered")]
    Subprotocol,
    /// The subprotocol `bearer.` is present more than once, or what follows it is not base64url
    /// (without padding) of UTF-8.
    #[error("the subprotocol of the token must be: bearer.<base64url of the token>")]
    Encoding,
    /// The header is longer than [`MAX_CREDENTIAL_BYTES`].
    #[error("the credential is too long")]
    TooLong,
}

/// The token of an `Authorization` header (RFC 6750, section 2.1).
pub fn from_authorization(header: &str) -> Result<&str, BearerError> {
    if header.len() > MAX_CREDENTIAL_BYTES {
        return Err(BearerError::TooLong);
    }
    let (scheme, token) = header.trim().split_once(' ').ok_or(BearerError::Scheme)?;
    let token = token.trim_start();
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if scheme.eq_ignore_ascii_case("bearer") && is_token {
        Ok(token)
    } else {
        Err(BearerError::Scheme)
    }
}

/// The token among the subprotocols of an upgrade, `replication.v1, bearer.<base64url>`, since
/// browsers cannot set headers on a WebSocket; `None` where only `replication.v1` is offered.
/// `header` is `Sec-WebSocket-Protocol`, several joined by commas (RFC 6455, section 11.3.4).
pub fn from_subprotocols(header: &str) -> Result<Option<String>, BearerError> {
    if header.len() > MAX_CREDENTIAL_BYTES {
        return Err(BearerError::TooLong);
    }
    let offered = || header.split(',').map(str::trim);
    if !offered().any(|protocol| protocol == SUBPROTOCOL) {
        return Err(BearerError::Subprotocol);
    }
    let mut tokens = offered().filter_map(|protocol| protocol.strip_prefix(BEARER_PREFIX));
    let Some(encoded) = tokens.next() else {
        return Ok(None);
    };
    let token = URL_SAFE_NO_PAD.decode(encoded).ok();
    let token = token.and_then(|bytes| String::from_utf8(bytes).ok());
    match token {
        Some(token) if !token.is_empty() && tokens.next().is_none() => Ok(Some(token)),
        _ => Err(BearerError::Encoding),
    }
}

/// Whether `given` is the expected token. The time taken does not depend on the content of either,
/// and on their lengths only through hashing.
pub fn is_token(given: &str, expected: &str) -> bool {
    let digest = |token: &str| Sha256::digest(token.as_bytes());
    let is_equal: bool = digest(given).ct_eq(&digest(expected)).into();
    // An empty secret is a deployment's mistake, and must admit nobody.
    is_equal && !expected.is_empty()
}
