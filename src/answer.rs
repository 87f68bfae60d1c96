//! JSON answers of both the public route and the object.

use serde_json::{Value, json};
use worker::{Response, ResponseBuilder};

/// An error as `{"error": {...}}`. `remedy`: what to do about it, in plain words or SQL.
pub(crate) fn error(
    status: u16,
    code: &str,
    message: &str,
    retryable: bool,
    remedy: Option<&str>,
) -> worker::Result<Response> {
    let mut error = json!({"code": code, "message": message, "retryable": retryable});
    if let (Some(remedy), Value::Object(fields)) = (remedy, &mut error) {
        fields.insert("remedy".into(), remedy.into());
    }
    ResponseBuilder::new()
        .with_status(status)
        .from_json(&json!({"error": error}))
}
