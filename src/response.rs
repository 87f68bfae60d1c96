//! Error responses, in the one form that the Worker and the object share:
//! `{"error": {"code", "message", "retryable", "remedy"}}`.
//!
//! A handler returns [`Result`] and uses `?` on every error that it meets. [`or_error`] turns what is
//! left at the end into the response.

use std::rc::Rc;

use serde_json::{Value, json};
use worker::{Response, ResponseBuilder};

use crate::clients::FrameError;
use crate::error::{Category, Error};
use crate::routes::NoRoute;

/// The result of handling a request.
pub(crate) type Result<T> = std::result::Result<T, HttpError>;

/// Why a request is not answered with what it asked for.
#[derive(Debug)]
pub(crate) enum HttpError {
    /// The client is told why.
    Response(ErrorResponse),
    /// The platform failed, and answers itself.
    Platform(worker::Error),
}

/// An error response before it is sent.
#[derive(Debug)]
pub(crate) struct ErrorResponse {
    status: u16,
    code: String,
    message: String,
    is_retryable: bool,
    remedy: Option<String>,
    headers: Vec<(&'static str, String)>,
}

/// The response, or the error as a response.
pub(crate) fn or_error(result: Result<Response>) -> worker::Result<Response> {
    match result {
        Ok(response) => Ok(response),
        Err(HttpError::Response(error)) => error.into_response(),
        Err(HttpError::Platform(error)) => Err(error),
    }
}

impl ErrorResponse {
    /// An error that a retry of the same request cannot fix. `code` is stable and machine-readable.
    pub(crate) fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            is_retryable: false,
            remedy: None,
            headers: Vec::new(),
        }
    }

    /// The same request may succeed later.
    #[must_use]
    pub(crate) fn retryable(mut self) -> Self {
        self.is_retryable = true;
        self
    }

    /// As [`Self::retryable`], after this many seconds (RFC 9110, section 10.2.3).
    #[must_use]
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        self.retryable()
            .with_header("Retry-After", seconds.to_string())
    }

    /// Adds how to fix the cause, in plain words or SQL.
    #[must_use]
    pub(crate) fn with_remedy(mut self, remedy: Option<&str>) -> Self {
        self.remedy = remedy.map(str::to_owned);
        self
    }

    fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The response.
    pub(crate) fn into_response(self) -> worker::Result<Response> {
        let response = ResponseBuilder::new()
            .with_status(self.status)
            .from_json(&self.body())?;
        for (name, value) in &self.headers {
            response.headers().set(name, value)?;
        }
        Ok(response)
    }

    fn body(&self) -> Value {
        let mut error = json!({
            "code": self.code,
            "message": self.message,
            "retryable": self.is_retryable,
        });
        if let (Some(remedy), Value::Object(fields)) = (&self.remedy, &mut error) {
            fields.insert("remedy".into(), remedy.as_str().into());
        }
        json!({"error": error})
    }
}

/// An error of the feed, with the status that fits its category.
impl From<&Error> for ErrorResponse {
    fn from(error: &Error) -> Self {
        let (status, is_retryable) = match error.category() {
            Category::Configuration => match error.code() {
                "invalid_config" => (400, false),
                _ => (409, false),
            },
            Category::Permission | Category::Authentication => (409, false),
            Category::PublicationMissing => (424, false),
            _ => (503, true),
        };
        Self {
            is_retryable,
            ..Self::new(status, error.code(), error.to_string()).with_remedy(error.remedy())
        }
    }
}

/// A query or a body that is refused. The message names the field.
impl From<&FrameError> for ErrorResponse {
    fn from(error: &FrameError) -> Self {
        let status = match error {
            FrameError::NotAllowed { .. } => 403,
            FrameError::TooLarge { field, .. } if field == "body" => 413,
            _ => 400,
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl From<&NoRoute> for ErrorResponse {
    fn from(error: &NoRoute) -> Self {
        let message = error.to_string();
        match error {
            NoRoute::NotFound => Self::new(404, "not_found", message),
            // The header is required (RFC 9110, section 15.5.6).
            NoRoute::MethodNotAllowed { allow } => {
                Self::new(405, "method_not_allowed", message).with_header("Allow", allow.clone())
            }
        }
    }
}

impl From<ErrorResponse> for HttpError {
    fn from(error: ErrorResponse) -> Self {
        Self::Response(error)
    }
}

impl From<Error> for HttpError {
    fn from(error: Error) -> Self {
        Self::Response((&error).into())
    }
}

impl From<Rc<Error>> for HttpError {
    fn from(error: Rc<Error>) -> Self {
        Self::Response((&*error).into())
    }
}

impl From<FrameError> for HttpError {
    fn from(error: FrameError) -> Self {
        Self::Response((&error).into())
    }
}

impl From<NoRoute> for HttpError {
    fn from(error: NoRoute) -> Self {
        Self::Response((&error).into())
    }
}

impl From<worker::Error> for HttpError {
    fn from(error: worker::Error) -> Self {
        Self::Platform(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_a_remedy_only_where_one_is_known() {
        let error = ErrorResponse::new(404, "not_found", "no");
        let expected = json!({"error": {"code": "not_found", "message": "no", "retryable": false}});
        assert_eq!(error.body(), expected);
        let error = Error::new(Category::PublicationMissing, "gone", "no publication");
        let error = ErrorResponse::from(&error.with_remedy("CREATE PUBLICATION"));
        assert_eq!(error.status, 424);
        assert_eq!(error.body()["error"]["remedy"], "CREATE PUBLICATION");
    }

    #[test]
    fn a_method_that_is_not_allowed_is_answered_with_those_that_are() {
        let allow = "GET, POST".to_owned();
        let error = ErrorResponse::from(&NoRoute::MethodNotAllowed { allow });
        assert_eq!(error.status, 405);
        assert_eq!(error.headers, [("Allow", "GET, POST".to_owned())]);
    }

    #[test]
    fn what_can_pass_by_itself_is_retryable_and_what_an_operator_must_change_is_not() {
        let of = |category, code| {
            let error = ErrorResponse::from(&Error::new(category, code, ""));
            (error.status, error.is_retryable)
        };
        assert_eq!(of(Category::Connection, "x"), (503, true));
        assert_eq!(of(Category::Permission, "x"), (409, false));
        assert_eq!(of(Category::Configuration, "invalid_config"), (400, false));
        assert_eq!(of(Category::Configuration, "not_initialized"), (409, false));
    }
}
