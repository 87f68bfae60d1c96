use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use crate::clients::bearer::{
    BearerError, MAX_CREDENTIAL_BYTES, from_authorization, from_subprotocols, is_token,
};

#[test]
fn the_authorization_header_carries_the_token() {
    for header in ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "] {
        assert_eq!(from_authorization(header), Ok("s3cret"), "{header:?}");
    }
    for header in [
        "",
        "Bearer",
        "Bearer ",
        "Basic czpw",
        "s3cret",
        "Bearer a b",
        "Bearer é",
    ] {
        assert_eq!(
            from_authorization(header),
            Err(BearerError::Scheme),
            "{header:?}"
        );
    }
}

#[test]
fn the_subprotocols_carry_the_token() {
    // The base64url of "s3cret?".
    for header in [
        "replication.v1, bearer.czNjcmV0Pw",
        "replication.v1,bearer.czNjcmV0Pw",
        "bearer.czNjcmV0Pw , other , replication.v1",
    ] {
        assert_eq!(
            from_subprotocols(header),
            Ok(Some("s3cret?".into())),
            "{header:?}"
        );
    }
    assert_eq!(from_subprotocols("replication.v1"), Ok(None));
}

#[test]
fn subprotocols_that_are_not_as_documented_are_refused() {
    for (header, error) in [
        ("", BearerError::Subprotocol),
        ("bearer.czNjcmV0Pw", BearerError::Subprotocol),
        (
            "replication.v2, bearer.czNjcmV0Pw",
            BearerError::Subprotocol,
        ),
        ("replication.v1, bearer.", BearerError::Encoding),
        ("replication.v1, bearer.czNjcmV0Pw==", BearerError::Encoding),
        ("replication.v1, bearer.cz+j", BearerError::Encoding),
        ("replication.v1, bearer._w", BearerError::Encoding), // the byte FF
        (
            "replication.v1, bearer.YQ, bearer.Yg",
            BearerError::Encoding,
        ),
    ] {
        assert_eq!(from_subprotocols(header), Err(error), "{header:?}");
    }
}

#[test]
fn credentials_that_are_too_long_are_refused() {
    let long = format!("Bearer {}", "x".repeat(MAX_CREDENTIAL_BYTES));
    assert_eq!(from_authorization(&long), Err(BearerError::TooLong));
    assert_eq!(from_subprotocols(&long), Err(BearerError::TooLong));
}

#[test]
fn an_empty_secret_lets_nobody_in() {
    assert!(!is_token("", ""));
    assert!(!is_token("x", ""));
}

proptest! {
    #[test]
    fn only_the_expected_token_is_the_token(given in ".{0,40}", expected in ".{1,40}") {
        prop_assert_eq!(is_token(&given, &expected), given == expected);
        prop_assert!(is_token(&expected, &expected));
    }

    #[test]
    fn every_token_reads_back_from_its_subprotocol(token in ".{1,40}") {
        let header = format!("replication.v1, bearer.{}", URL_SAFE_NO_PAD.encode(&token));
        prop_assert_eq!(from_subprotocols(&header), Ok(Some(token)));
    }

    #[test]
    fn no_header_panics(header in ".{0,60}") {
        let _ = (from_authorization(&header), from_subprotocols(&header));
    }
}
