//! Error responses, in the one form that the Worker and the object share: `{"error": {...}}`.

use serde_json::{Value, json};
use worker::{Response, ResponseBuilder};

use crate::clients::FrameError;
use crate::error::{Category, Error};

/// A response with the body `{"error": {"code", "message", "retryable", "remedy"}}`. `remedy` says
/// how to fix the cause, in plain words or SQL.
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

/// The response for an error of the feed, with the status that fits its category.
pub(crate) fn error_response(error: &Error) -> worker::Result<Response> {
    let (status, retryable) = match error.category() {
        Category::Configuration => match error.code() {
            "invalid_config" => (400, false),
            _ => (409, false),
        },
        Category::Permission | Category::Authentication => (409, false),
        Category::PublicationMissing => (424, false),
        _ => (503, true),
    };
    self::error(
        status,
        error.code(),
        &error.to_string(),
        retryable,
        error.remedy(),
    )
}

/// The response for a query or body that is refused. The message names the field.
pub(crate) fn frame_error_response(error: &FrameError) -> worker::Result<Response> {
    let status = match error {
        FrameError::NotAllowed { .. } => 403,
        FrameError::TooLarge { field, .. } if field == "body" => 413,
        _ => 400,
    };
    self::error(status, error.code(), &error.to_string(), false, None)
}
