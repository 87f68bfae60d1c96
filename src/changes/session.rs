//! The settings that the text of values depends on.

/// Settings (name, value) of the session that reads the slot, so that a value's text does not
/// depend on what the role or the database has set.
///
/// pgoutput calls the types' output functions and converts to the client's encoding in the session
/// that peeks (PostgreSQL documentation, "Client Connection Defaults").
pub const SESSION_SETTINGS: [(&str, &str); 6] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
];
