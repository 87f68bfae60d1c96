use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::Sha256;

use super::subscriptions;
use crate::clients::{CredentialId, MAX_TICKET_BYTES, Ticket, TicketError, TicketKey, WeakSecret};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const EXPIRES: u64 = 2_000_000_000;
const NOW: u64 = EXPIRES - 600;

/// Made by another implementation (Python's hmac and base64).
const FOREIGN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjIwMDAwMDAwMDAsInRhYmxlcyI6W3sidGFibGUiOiJvcmRlcnMifV19.HL-gbto-X6xJQG7cUaqwiklnPinikrkKFqYWCOeGRQc";

fn sign(header: &str, claims: &str, secret: &[u8]) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let message = format!("{}.{}", encode(header), encode(claims));
    let mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    let signature = mac.chain_update(&message).finalize().into_bytes();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn ticket(claims: &Value) -> String {
    sign(
        r#"{"alg":"HS256","typ":"JWT"}"#,
        &claims.to_string(),
        SECRET,
    )
}

fn verify(ticket: &str) -> Result<Ticket, TicketError> {
    TicketKey::new(SECRET).unwrap().verify(ticket, NOW)
}

#[test]
fn a_ticket_of_another_implementation_is_accepted() {
    let expected = Ticket {
        allowed: subscriptions(&json!([{"table": "orders"}])),
        expires_at: EXPIRES,
        credential: CredentialId::of_ticket(FOREIGN),
    };
    assert_eq!(verify(FOREIGN), Ok(expected));
}

#[test]
fn a_ticket_carries_tables_and_filters_and_other_claims_are_ignored() {
    let tables = json!([{"table": "orders",
        "filter": [{"column": "customer", "op": "eq", "value": 42}]}, {"table": "s.t"}]);
    let claims = json!({"exp": EXPIRES, "iat": NOW, "sub": "u", "aud": "x", "tables": tables});
    let ticket = verify(&ticket(&claims)).unwrap();
    assert_eq!(ticket.allowed, subscriptions(&tables));
    assert_eq!(ticket.credential, CredentialId::of_subject("u"));
}

#[test]
fn an_unsigned_ticket_and_one_of_another_algorithm_are_refused() {
    let claims = json!({"exp": EXPIRES, "tables": [{"table": "orders"}]}).to_string();
    for alg in [
        "none", "None", "NONE", "HS384", "HS512", "RS256", "ES256", "HS257", "",
    ] {
        let header = json!({"alg": alg, "typ": "JWT"}).to_string();
        let signed = sign(&header, &claims, SECRET);
        let unsigned = format!("{}.", signed.rsplit_once('.').unwrap().0);
        for ticket in [signed, unsigned] {
            let error = verify(&ticket).unwrap_err();
            assert!(
                matches!(error, TicketError::Malformed | TicketError::Algorithm),
                "{alg}: {error}"
            );
        }
    }
    let unsigned = format!("{}.", FOREIGN.rsplit_once('.').unwrap().0);
    assert_eq!(verify(&unsigned), Err(TicketError::Signature));
}

#[test]
fn a_ticket_of_another_secret_is_refused() {
    let key = TicketKey::new(b"0123456789abcdef0123456789abcdeF").unwrap();
    assert_eq!(key.verify(FOREIGN, NOW), Err(TicketError::Signature));
}

#[test]
fn extensions_that_must_be_understood_are_refused() {
    let header = r#"{"alg":"HS256","crit":["b64"],"b64":false}"#;
    let claims = json!({"exp": EXPIRES, "tables": [{"table": "orders"}]}).to_string();
    assert_eq!(
        verify(&sign(header, &claims, SECRET)),
        Err(TicketError::Malformed)
    );
}

#[test]
fn a_ticket_is_worth_something_only_in_its_time() {
    let key = TicketKey::new(SECRET).unwrap();
    let tables = json!([{"table": "orders"}]);
    let expiring = ticket(&json!({"exp": EXPIRES, "tables": tables}));
    for (now, expected) in [
        (EXPIRES - 24 * 3600 - 31, Some(TicketError::TooLongLived)),
        (EXPIRES - 24 * 3600, None),
        (EXPIRES - 1, None),
        // Open sockets are closed at this time, too.
        (EXPIRES, Some(TicketError::Expired)),
        (EXPIRES + 29, Some(TicketError::Expired)),
        (u64::MAX, Some(TicketError::Expired)),
    ] {
        assert_eq!(key.verify(&expiring, now).err(), expected, "{now}");
    }
    let later = ticket(&json!({"exp": EXPIRES, "nbf": NOW, "tables": tables}));
    assert_eq!(key.verify(&later, NOW - 31), Err(TicketError::NotYetValid));
    assert!(key.verify(&later, NOW - 30).is_ok());
}

#[test]
fn claims_that_are_missing_or_wrong_are_named() {
    let tables = json!([{"table": "orders"}]);
    for (claims, says) in [
        (json!({"tables": tables}), "missing field `exp`"),
        (json!({"exp": EXPIRES}), "missing field `tables`"),
        (
            json!({"exp": "2033", "tables": tables}),
            "exp: invalid type",
        ),
        (json!({"exp": -1, "tables": tables}), "exp: invalid value"),
        (
            json!({"exp": EXPIRES, "nbf": "x", "tables": tables}),
            "nbf: invalid type",
        ),
        (
            json!({"exp": EXPIRES, "tables": []}),
            "tables: must name at least one table",
        ),
        (
            json!({"exp": EXPIRES, "tables": "orders"}),
            "tables: invalid type",
        ),
        (
            json!({"exp": EXPIRES, "tables": ["orders"]}),
            "tables[0]: invalid type",
        ),
        (
            json!({"exp": EXPIRES, "tables": [{"table": "orders", "filters": []}]}),
            "unknown field",
        ),
        (
            json!({"exp": EXPIRES, "tables": [{"table": "orders", "filter": [
                {"column": "c", "op": "eq", "value": {}}]}]}),
            "tables[0].filter[0].value: must be",
        ),
        (
            json!({"exp": EXPIRES, "tables": [{"table": "orders", "filter": [
                {"column": "c", "op": "eq", "value": 1, "identity": true}]}]}),
            "tables[0].filter[0].identity: unknown field",
        ),
    ] {
        let error = verify(&ticket(&claims)).unwrap_err();
        assert!(matches!(error, TicketError::Claims(_)), "{claims}: {error}");
        assert!(error.to_string().contains(says), "{claims}: {error}");
    }
}

#[test]
fn a_secret_that_is_too_short_to_sign_with_is_refused() {
    assert_eq!(TicketKey::new(&SECRET[1..]).unwrap_err(), WeakSecret(31));
    assert_eq!(
        format!("{:?}", TicketKey::new(SECRET).unwrap()),
        "TicketKey(..)"
    );
}

#[test]
fn a_non_ticket_is_refused() {
    let long = "x".repeat(MAX_TICKET_BYTES + 1);
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b",
        &long,
        FOREIGN.trim_start_matches("ey"),
    ] {
        assert_eq!(verify(text), Err(TicketError::Malformed), "{text:.20}");
    }
}

proptest! {
    #[test]
    fn a_ticket_with_any_character_changed_is_refused(
        at in 0..FOREIGN.len(),
        character in prop::sample::select("AZaz09-_.=+ ".chars().collect::<Vec<_>>()),
    ) {
        let mut ticket = FOREIGN.to_owned();
        ticket.replace_range(at..=at, &character.to_string());
        if ticket != FOREIGN {
            prop_assert!(verify(&ticket).is_err());
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,60}") {
        prop_assert!(verify(&text).is_err());
    }
}
