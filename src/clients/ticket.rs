//! Client tickets: what a client may see, signed by the application that admits it.
//!
//! A ticket is a JSON Web Token (RFC 7519) signed with HS256 under a secret that the application
//! and this server share. Claims:
//!
//! ```json
//! {"exp": 1767225600, "tables": [
//!     {"table": "orders", "filter": [{"column": "customer_id", "op": "eq", "value": 42}]},
//!     {"table": "products"}]}
//! ```
//!
//! `exp` and `tables` are required, `nbf` is obeyed, `sub` says whose limits count, other claims
//! are ignored.

use std::sync::Once;

use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, new_error};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::Sha256;

use super::client_message::read_frame;
use super::credential::CredentialId;
use super::frame_error::FrameError;
use super::subscription::{RawSubscription, Subscription, read_subscriptions};

/// The most bytes of a ticket: it must fit a request's headers beside the others.
pub const MAX_TICKET_BYTES: usize = 12 << 10;
/// The fewest bytes of the shared secret (RFC 7518, section 3.2: as many as the hash has).
pub const MIN_TICKET_SECRET_BYTES: usize = 32;
/// Seconds that a ticket may be valid from now on: it cannot be revoked.
pub const MAX_TICKET_LIFETIME: u64 = 24 * 60 * 60;
/// Seconds by which the signer's clock may be ahead of this server's.
const LEEWAY: u64 = 30;

/// The shared secret.
pub struct TicketKey(DecodingKey);

/// A ticket that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What its bearer may see; never empty.
    pub allowed: Vec<Subscription>,
    /// The time at which it expires, in seconds since 1970.
    pub expires_at: u64,
    /// Whose it is.
    pub credential: CredentialId,
}

/// The secret is too short to sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret has {0} bytes: HS256 needs at least 32")]
pub struct WeakSecret(pub usize);

/// Why a ticket is refused. Its claims are not read before its signature has been verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It is not three parts of base64url with JSON in the first two, has the algorithm "none", or
    /// is too long.
    #[error("the ticket is not a JSON Web Token of an algorithm that is known here")]
    Malformed,
    /// It is signed with something other than HS256, or not at all.
    #[error("the ticket is not signed with HS256")]
    Algorithm,
    /// The signature was not made with the shared secret.
    #[error("the ticket's signature is wrong")]
    Signature,
    /// It has expired.
    #[error("the ticket has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the ticket is not valid yet")]
    NotYetValid,
    /// It would be valid for longer than [`MAX_TICKET_LIFETIME`].
    #[error("the ticket is valid for more than 24 hours")]
    TooLongLived,
    /// A claim is missing, or not as documented.
    #[error("the ticket's claims: {0}")]
    Claims(#[source] FrameError),
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
    nbf: Option<u64>,
    sub: Option<String>,
    tables: Vec<RawSubscription>,
}

impl TicketKey {
    /// A key of the secret's bytes.
    pub fn new(secret: &[u8]) -> Result<Self, WeakSecret> {
        if secret.len() < MIN_TICKET_SECRET_BYTES {
            return Err(WeakSecret(secret.len()));
        }
        Ok(Self(DecodingKey::from_secret(secret)))
    }

    /// Checks a ticket. `now`: seconds since 1970.
    pub fn verify(&self, ticket: &str, now: u64) -> Result<Ticket, TicketError> {
        if ticket.len() > MAX_TICKET_BYTES {
            return Err(TicketError::Malformed);
        }
        install_hs256();
        let mut validation = Validation::new(Algorithm::HS256);
        // The time is checked here, against the caller's clock; audiences are not used.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let token = jsonwebtoken::decode::<Box<RawValue>>(ticket, &self.0, &validation)
            .map_err(|error| TicketError::from_kind(error.kind()))?;
        if token.header.crit.is_some() {
            // Extensions that must be understood (RFC 7515, section 4.1.11); none is supported.
            return Err(TicketError::Malformed);
        }
        let claims: Claims = read_frame(token.claims.get()).map_err(TicketError::Claims)?;
        // Without leeway: open sockets are closed by the same clock.
        if claims.exp <= now {
            return Err(TicketError::Expired);
        }
        if claims.exp > now.saturating_add(MAX_TICKET_LIFETIME + LEEWAY) {
            return Err(TicketError::TooLongLived);
        }
        if claims
            .nbf
            .is_some_and(|nbf| nbf > now.saturating_add(LEEWAY))
        {
            return Err(TicketError::NotYetValid);
        }
        Ok(Ticket {
            allowed: read_subscriptions("tables", claims.tables).map_err(TicketError::Claims)?,
            expires_at: claims.exp,
            credential: match claims.sub {
                Some(subject) => CredentialId::of_subject(&subject),
                None => CredentialId::of_ticket(ticket),
            },
        })
    }
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey(..)")
    }
}

impl TicketError {
    fn from_kind(kind: &ErrorKind) -> Self {
        match kind {
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::InvalidAlgorithm
            | ErrorKind::InvalidAlgorithmName
            | ErrorKind::UnsupportedAlgorithm
            | ErrorKind::MissingAlgorithm => Self::Algorithm,
            _ => Self::Malformed,
        }
    }
}

/// Provides `jsonwebtoken` with the one algorithm that tickets use. Its own provider includes RSA
/// and elliptic curves, which would be most of this server's WASM.
fn install_hs256() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        // Tickets are signed by the application, never here.
        signer_factory: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
        verifier_factory: |algorithm, key: &DecodingKey| {
            let mac = Hs256::new(*algorithm, key.try_get_as_bytes()?)?;
            Ok(Box::new(mac) as Box<dyn JwtVerifier>)
        },
        key_utils: KeyUtils::new_unimplemented(),
    };
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // Fails only if another provider is already installed, which then does the same.
        let _ = PROVIDER.install_default();
    });
}

struct Hs256(Hmac<Sha256>);

impl Hs256 {
    fn new(algorithm: Algorithm, key: &[u8]) -> jsonwebtoken::errors::Result<Self> {
        if algorithm != Algorithm::HS256 {
            return Err(new_error(ErrorKind::UnsupportedAlgorithm));
        }
        let mac = Hmac::new_from_slice(key);
        mac.map(Self)
            .map_err(|_| new_error(ErrorKind::InvalidKeyFormat))
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        // In constant time.
        let mac = self.0.clone().chain_update(message);
        mac.verify_slice(signature)
            .map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}
