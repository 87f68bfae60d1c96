//! The query of `GET /changes`.

use super::client_message::{MAX_QUERY_BYTES, Start, read_tables};
use super::frame_error::{FrameError, shorten};
use super::subscription::Subscriptions;

/// The default and the maximum number of changes of a page.
const DEFAULT_LIMIT: u32 = 1_000;
const MAX_LIMIT: u32 = 10_000;

/// A request for a page of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesRequest {
    /// `after`; absent: from the oldest change that is kept.
    pub start: Start,
    /// `tables`; absent: all.
    pub wanted: Subscriptions,
    /// `limit`: 1 to 10,000; 1,000 when absent.
    pub limit: u32,
}

impl ChangesRequest {
    /// Reads the query, without its `?`. A parameter that is unknown or given twice is refused.
    pub fn parse(query: &str) -> Result<Self, FrameError> {
        FrameError::check_size("query", query.len(), MAX_QUERY_BYTES)?;
        let (mut after, mut tables, mut limit) = (None, None, None);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "after" => &mut after,
                "tables" => &mut tables,
                "limit" => &mut limit,
                _ => return Err(FrameError::field(shorten(&name), "unknown parameter")),
            };
            if slot.replace(value).is_some() {
                return Err(FrameError::field(name, "given more than once"));
            }
        }
        Ok(Self {
            start: match after {
                Some(text) => Start::parse("after", &text)?,
                None => Start::Earliest,
            },
            wanted: match tables {
                Some(text) => Subscriptions::Tables(read_tables(&text)?),
                None => Subscriptions::AllTables,
            },
            limit: match limit {
                None => DEFAULT_LIMIT,
                Some(text) => read_limit(&text)?,
            },
        })
    }
}

fn read_limit(text: &str) -> Result<u32, FrameError> {
    let limit = text.parse().ok();
    limit
        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
        .ok_or_else(|| FrameError::field("limit", format!("must be 1 to {MAX_LIMIT}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_with_the_oldest_change_by_default() {
        let request = ChangesRequest::parse("").unwrap();
        assert_eq!(request.start, Start::Earliest);
        assert_eq!(request.wanted, Subscriptions::AllTables);
        assert_eq!(request.limit, DEFAULT_LIMIT);
    }

    #[test]
    fn a_wrong_parameter_is_named() {
        for (field, query) in [
            ("limit", "limit=0"),
            ("limit", "limit=10001"),
            ("limit", "limit=1&limit=2"),
            ("after", "after=now"),
            ("tables", "tables="),
            ("table", "table=orders"),
        ] {
            let error = ChangesRequest::parse(query).unwrap_err().to_string();
            assert!(error.starts_with(field), "{query}: {error}");
        }
    }
}
