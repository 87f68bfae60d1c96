//! The user that logs in.

use std::fmt;

/// The contents of the startup message, and the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its password, in the encoding of the server. None: the server must trust the role.
    pub password: Option<Vec<u8>>,
    /// The database.
    pub database: String,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// Command-line options of the session. Some hosts route by them (`options=endpoint%3D...`).
    pub options: Option<String>,
}

impl Login {
    /// The default application name.
    pub const APPLICATION_NAME: &'static str = "pg-change-feed";

    /// Creates a login of `user` to `database` with `password`.
    pub fn new(
        user: impl Into<String>,
        password: impl Into<Vec<u8>>,
        database: impl Into<String>,
    ) -> Self {
        Self {
            user: user.into(),
            password: Some(password.into()),
            database: database.into(),
            application_name: Self::APPLICATION_NAME.to_owned(),
            options: None,
        }
    }

    /// The parameters of the startup message. `client_encoding` is fixed, because every caller expects
    /// text in UTF-8.
    pub(super) fn startup_parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        [
            ("user", self.user.as_str()),
            ("database", &self.database),
            ("application_name", &self.application_name),
            ("client_encoding", "UTF8"),
        ]
        .into_iter()
        .chain(self.options.as_deref().map(|options| ("options", options)))
    }
}

impl fmt::Debug for Login {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("database", &self.database)
            .field("application_name", &self.application_name)
            .finish_non_exhaustive()
    }
}
