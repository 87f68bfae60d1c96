//! The two things asked of a clock: what time it is, and to be woken later.
//!
//! In WASM these are the platform's `Date.now` and `setTimeout`; natively Tokio's. Workers' time
//! stands still between I/O, so durations measured here count waiting, not computing
//! (Workers documentation, "Performance and timers").

use std::future::Future;
use std::time::Duration;

use futures_util::future::{Either, select};

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    #[cfg(target_arch = "wasm32")]
    {
        worker::Date::now().as_millis()
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_epoch.map_or(0, |elapsed| {
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
        })
    }
}

/// Resolves after `duration`.
pub async fn sleep(duration: Duration) {
    #[cfg(target_arch = "wasm32")]
    worker::Delay::from(duration).await;
    #[cfg(not(target_arch = "wasm32"))]
    tokio::time::sleep(duration).await;
}

/// The future was not done in time. It has been dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not done within {} ms", .0.as_millis())]
pub struct Elapsed(pub Duration);

/// Runs `future`, but no longer than `limit`; at the limit it is dropped.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    match select(std::pin::pin!(future), std::pin::pin!(sleep(limit))).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(((), _)) => Err(Elapsed(limit)),
    }
}
