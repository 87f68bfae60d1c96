//! The time, timers and timeouts.
//!
//! In WASM they are the platform's `Date.now` and `setTimeout`, natively those of std and Tokio. On
//! Workers the time stands still between I/O, so durations measured here are of waiting, not of
//! computing (Workers documentation, "Performance and timers").

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
        since_epoch.map_or(0, millis)
    }
}

/// Milliseconds since `since_ms`, which is a time that [`now_ms`] has returned. 0 if the clock was
/// set back.
pub fn elapsed_ms(since_ms: u64) -> u64 {
    now_ms().saturating_sub(since_ms)
}

/// The time `duration` after `at_ms`.
pub fn after(at_ms: u64, duration: Duration) -> u64 {
    at_ms.saturating_add(millis(duration))
}

/// The duration in whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether at least `limit` has passed since `since_ms`, which is a time that [`now_ms`] has
/// returned.
pub fn has_elapsed(since_ms: u64, limit: Duration) -> bool {
    u128::from(elapsed_ms(since_ms)) >= limit.as_millis()
}

/// Resolves after `duration`.
pub async fn sleep(duration: Duration) {
    #[cfg(target_arch = "wasm32")]
    worker::Delay::from(duration).await;
    #[cfg(not(target_arch = "wasm32"))]
    tokio::time::sleep(duration).await;
}

/// The future did not finish in time. It has been dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not finished within {} ms", .0.as_millis())]
pub struct Elapsed(pub Duration);

/// Runs `future` for at most `limit`, and drops it then.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    match select(std::pin::pin!(future), std::pin::pin!(sleep(limit))).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(((), _)) => Err(Elapsed(limit)),
    }
}
