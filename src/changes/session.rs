//! The settings that determine the text of values.

/// Settings (name, value) for the session that reads the slot, so that the text of values does not
/// depend on the settings of the role or the database.
///
/// pgoutput calls the types' output functions, and converts to the client's encoding, in the session
/// that peeks (PostgreSQL documentation, "Client Connection Defaults").
pub const SESSION_SETTINGS: [(&str, &str); 6] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
];
