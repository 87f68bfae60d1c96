//! Structured logs, one line of JSON for each event. They contain neither row values nor
//! credentials, since an [`Error`] contains neither.

use std::error::Error as _;

use serde_json::{Map, Value, json};
use worker::{console_error, console_log};

use crate::error::Error;

/// Logs an event with its context.
pub(crate) fn event(name: &str, context: Value) {
    console_log!("{}", line("info", name, context));
}

/// Logs an error with its whole chain of causes.
pub(crate) fn error(name: &str, error: &Error) {
    failure(name, error, json!({}));
}

/// As [`error`], with further context.
pub(crate) fn failure(name: &str, error: &Error, context: Value) {
    let mut causes = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(Value::String(cause.to_string()));
        source = cause.source();
    }
    let mut fields = json!({
        "category": error.category(),
        "code": error.code(),
        "message": error.to_string(),
        "sqlstate": error.sqlstate(),
        "remedy": error.remedy(),
        "causes": causes,
    });
    if let (Value::Object(fields), Value::Object(context)) = (&mut fields, context) {
        fields.extend(context);
    }
    console_error!("{}", line("error", name, fields));
}

fn line(level: &str, name: &str, context: Value) -> Value {
    let mut line = Map::new();
    line.insert("level".into(), level.into());
    line.insert("event".into(), name.into());
    if let Value::Object(fields) = context {
        line.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Value::Object(line)
}
