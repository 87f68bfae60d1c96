//! Parses `DATABASE_URL`.

use std::borrow::Cow;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::{Category, Error as FeedError};
use crate::postgres::Login;

const DEFAULT_PORT: u16 = 5432;

/// Whether a direct connection must use TLS, as libpq's `sslmode`.
///
/// Workers' sockets always verify the certificate, so `Require` is as strict as `VerifyFull` there
/// (Workers documentation, "TCP sockets").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it. The default.
    Prefer,
    /// Always.
    Require,
    /// Always, and the certificate and the host name are verified.
    VerifyFull,
}

/// The address of a database and the login, parsed from
/// `postgres://user:password@host:port/database?sslmode=require`
/// (PostgreSQL documentation, "Connection URIs").
///
/// The parameters `sslmode`, `application_name` and `options` are used. The others configure libpq
/// itself and are ignored. So is `channel_binding`, because Workers' sockets do not expose the
/// certificate to bind to; the verified certificate protects the login instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseUrl {
    /// A DNS name, or an IP address without brackets.
    pub host: String,
    /// The TCP port; the default is 5432.
    pub port: u16,
    /// The login. The default database has the user's name.
    pub login: Login,
    /// The default is `prefer`.
    pub ssl_mode: SslMode,
}

/// What is wrong with `DATABASE_URL`. Quotes only its sslmode, since the rest may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("DATABASE_URL: {field}: {reason}")]
pub struct DatabaseUrlError {
    field: &'static str,
    reason: Cow<'static, str>,
}

impl DatabaseUrlError {
    fn new(field: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        let reason = reason.into();
        Self { field, reason }
    }

    /// The wrong part of the URL: `scheme`, `host`, `sslmode` and so on.
    pub fn field(&self) -> &'static str {
        self.field
    }
}

impl From<DatabaseUrlError> for FeedError {
    fn from(error: DatabaseUrlError) -> Self {
        Self::new(
            Category::Configuration,
            "invalid_database_url",
            error.to_string(),
        )
        .with_remedy(
            "Set DATABASE_URL to postgres://user:password@host:5432/database?sslmode=require; \
             percent-encode characters such as @ : / ? # % in the user or the password.",
        )
        .with_source(error)
    }
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, DatabaseUrlError> {
        let url = Url::parse(text.trim()).map_err(|error| {
            // An unencoded # / ? in the password ends the host too early: "invalid port number".
            DatabaseUrlError::new(
                "url",
                format!("{error}; is every special character in the password percent-encoded?"),
            )
        })?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            let reason = "must be postgres:// or postgresql://";
            return Err(DatabaseUrlError::new("scheme", reason));
        }
        let user = decode("user", url.username())?;
        if user.is_empty() {
            return Err(DatabaseUrlError::new("user", "is missing"));
        }
        let path = url.path();
        let database = match decode("database", path.strip_prefix('/').unwrap_or(path))? {
            name if name.is_empty() => user.clone(),
            name => name,
        };
        let mut login = Login {
            user,
            password: url
                .password()
                .map(|text| percent_decode_str(text).collect()),
            database,
            application_name: Login::APPLICATION_NAME.to_owned(),
            options: None,
        };
        let mut ssl_mode = SslMode::Prefer;
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "sslmode" => ssl_mode = value.parse()?,
                "application_name" => login.application_name = no_nul("application_name", value)?,
                "options" => login.options = Some(no_nul("options", value)?),
                _ => {}
            }
        }
        Ok(Self {
            host: host(&url)?,
            port: url.port().unwrap_or(DEFAULT_PORT),
            login,
            ssl_mode,
        })
    }
}

impl FromStr for SslMode {
    type Err = DatabaseUrlError;

    fn from_str(name: &str) -> Result<Self, DatabaseUrlError> {
        Ok(match name {
            "disable" => Self::Disable,
            "prefer" => Self::Prefer,
            "require" => Self::Require,
            // Workers cannot verify the certificate without the host name. Verifying both is
            // stricter.
            "verify-ca" | "verify-full" => Self::VerifyFull,
            other => {
                let other: String = other.chars().take(20).collect();
                let reason =
                    format!("{other:?} is not disable, prefer, require, verify-ca or verify-full");
                return Err(DatabaseUrlError::new("sslmode", reason));
            }
        })
    }
}

fn host(url: &Url) -> Result<String, DatabaseUrlError> {
    let host = decode("host", url.host_str().unwrap_or_default())?;
    let reason = if host.is_empty() {
        "is missing"
    } else if host.starts_with('/') {
        "a Unix socket is not supported; use a DNS name"
    } else if host.contains(',') {
        "must be a single host"
    } else {
        return Ok(host.trim_matches(['[', ']']).to_owned());
    };
    Err(DatabaseUrlError::new("host", reason))
}

fn decode(field: &'static str, text: &str) -> Result<String, DatabaseUrlError> {
    let decoded = percent_decode_str(text).decode_utf8();
    no_nul(
        field,
        decoded.map_err(|_| DatabaseUrlError::new(field, "is not UTF-8"))?,
    )
}

/// A NUL ends a string on the wire.
fn no_nul(field: &'static str, text: Cow<'_, str>) -> Result<String, DatabaseUrlError> {
    if text.contains('\0') {
        return Err(DatabaseUrlError::new(field, "contains a NUL character"));
    }
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> DatabaseUrl {
        text.parse().unwrap()
    }

    fn refused_field(text: &str) -> &'static str {
        text.parse::<DatabaseUrl>().unwrap_err().field()
    }

    #[test]
    fn every_part_of_a_url_is_read() {
        let url = parse(
            "postgresql://al%69ce:s3cret@db.example.com:6543/orders?sslmode=verify-full\
             &application_name=feed%20one&options=endpoint%3Dep-1&channel_binding=require",
        );
        let expected = DatabaseUrl {
            host: "db.example.com".to_owned(),
            port: 6543,
            login: Login {
                user: "alice".to_owned(),
                password: Some(b"s3cret".to_vec()),
                database: "orders".to_owned(),
                application_name: "feed one".to_owned(),
                options: Some("endpoint=ep-1".to_owned()),
            },
            ssl_mode: SslMode::VerifyFull,
        };
        assert_eq!(url, expected);
    }

    #[test]
    fn missing_parts_have_libpqs_defaults() {
        let url = parse("postgres://alice@db");
        assert_eq!((url.host.as_str(), url.port), ("db", 5432));
        assert_eq!(url.ssl_mode, SslMode::Prefer);
        assert_eq!(url.login.database, "alice");
        assert_eq!(url.login.password, None);
        assert_eq!(parse("postgres://alice@db/").login.database, "alice");
    }

    #[test]
    fn unusual_passwords_are_kept_as_they_are() {
        for (written, meant) in [
            ("p%40ss", "p@ss".as_bytes()),
            ("p@ss", b"p@ss"),
            ("a:b", b"a:b"),
            ("%2F%3F%23%25%5B%5D", b"/?#%[]"),
            ("100%", b"100%"),
            ("%zz", b"%zz"),
            ("sp%20ace+plus", b"sp ace+plus"),
            ("p\u{e4}ss\u{1f600}", "p\u{e4}ss\u{1f600}".as_bytes()),
            ("%FF%00", b"\xff\0"),
            ("'\"\\`$(x)", b"'\"\\`$(x)"),
            ("", b""),
        ] {
            let url = parse(&format!("postgres://alice:{written}@db/orders"));
            let password = url.login.password.unwrap_or_default();
            assert_eq!(password, meant, "{written}");
            assert_eq!(url.host, "db", "{written}");
        }
    }

    #[test]
    fn ip_addresses_have_no_brackets() {
        assert_eq!(
            parse("postgres://a@[2001:db8::1]:6432/x").host,
            "2001:db8::1"
        );
        assert_eq!(parse("postgres://a@127.0.0.1/x").host, "127.0.0.1");
    }

    #[test]
    fn the_wrong_part_is_named() {
        assert_eq!(refused_field("mysql://a@db/x"), "scheme");
        assert_eq!(refused_field("orders"), "url");
        assert_eq!(refused_field("postgres://db/x"), "user");
        assert_eq!(refused_field("postgres:///x"), "user");
        assert_eq!(refused_field("postgres:x"), "user");
        assert_eq!(refused_field("postgres://a:b@/x"), "url");
        assert_eq!(refused_field("postgres://a:x#y@db/x"), "url");
        assert_eq!(refused_field("postgres://a@db:70000/x"), "url");
        assert_eq!(refused_field("postgres://a@%2Fvar%2Frun/x"), "host");
        assert_eq!(refused_field("postgres://a@one,two/x"), "host");
        assert_eq!(refused_field("postgres://a%00@db/x"), "user");
        assert_eq!(refused_field("postgres://%ff@db/x"), "user");
        assert_eq!(refused_field("postgres://a@db/x?sslmode=allow"), "sslmode");
        assert_eq!(refused_field("postgres://a@db/x?sslmode="), "sslmode");
    }

    #[test]
    fn neither_an_error_nor_debug_shows_the_password() {
        let error = "postgres://a:hunter2#y@db/x"
            .parse::<DatabaseUrl>()
            .unwrap_err();
        let feed_error = FeedError::from(error.clone());
        let shown = format!("{error} {error:?} {feed_error} {feed_error:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        let shown = format!("{:?}", parse("postgres://a:hunter2@db/x"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            let _ = text.parse::<DatabaseUrl>();
            let _ = format!("postgres://{text}").parse::<DatabaseUrl>();
        }

        #[test]
        fn every_encoded_user_password_and_database_reads_back(
            user in "[^\0]{1,20}", password in any::<Vec<u8>>(), database in "[^\0]{1,20}",
        ) {
            use percent_encoding::{NON_ALPHANUMERIC, percent_encode, utf8_percent_encode};
            // A URL cannot contain these two, which are path segments with a meaning of their own.
            prop_assume!(database != "." && database != "..");
            let url = format!(
                "postgres://{}:{}@db/{}",
                utf8_percent_encode(&user, NON_ALPHANUMERIC),
                percent_encode(&password, NON_ALPHANUMERIC),
                utf8_percent_encode(&database, NON_ALPHANUMERIC),
            );
            let login = parse(&url).login;
            prop_assert_eq!(login.user, user);
            prop_assert_eq!(login.password.unwrap_or_default(), password);
            prop_assert_eq!(login.database, database);
        }
    }
}
