//! What a cycle did, and what is still in flight when it returns.

use super::cycle_state::CycleState;
use crate::changes::DescribedRelation;
use crate::clock;
use crate::error::Error;
use crate::history::Recent;
use crate::pipeline::Queued;
use crate::postgres::{Connection, Stream};

/// What one cycle did.
#[derive(Debug, Default)]
pub struct Report {
    /// The number of changes stored.
    pub stored: u64,
    /// The peek was complete: everything that had committed before the cycle began is stored.
    pub complete: bool,
    /// Nothing had been written since the last complete peek, so nothing was read.
    pub idle: bool,
    /// Where the time went.
    pub phases: Phases,
    /// The stored changes, if they are few enough to be kept in memory for live clients.
    pub recent: Option<Recent>,
    /// The id before the first change that was stored.
    pub after: i64,
    /// The relations that were described, each with the id of the first change that it applies to.
    pub relations: Vec<(i64, DescribedRelation)>,
    /// The second connection could not be opened, so a backlog was stored over a single one.
    pub second_connection_error: Option<Error>,
    /// The slot could not be advanced. Harmless: the next cycle tries again. Set by
    /// [`PendingAdvance::finish`].
    pub advance_error: Option<Error>,
    /// No snapshot of the running transactions could be logged. Harmless: it is not tried again.
    /// Set by [`PendingAdvance::finish`].
    pub snapshot_error: Option<Error>,
}

/// Milliseconds of a cycle, by what they were spent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Asking whether anything was written.
    pub probe: u64,
    /// Decoding in Postgres, up to the first slice.
    pub peek: u64,
    /// Reading, transforming and inserting.
    pub store: u64,
    /// Updating the checkpoint and committing.
    pub commit: u64,
    /// Advancing the slot. Set by [`PendingAdvance::finish`].
    pub advance: u64,
}

/// The statements that were sent after a cycle's COMMIT and have not been answered: the slot's
/// advance and the logging of a snapshot. The caller may notify clients meanwhile, but must call
/// [`finish`](Self::finish) before it uses the connection for anything else.
#[must_use = "the connection cannot be used before the advance has finished"]
#[derive(Debug, Default)]
pub struct PendingAdvance {
    pub(super) advance: Option<SentAdvance>,
    pub(super) snapshot: Option<Queued>,
}

/// The slot's advance.
#[derive(Debug)]
pub(super) struct SentAdvance {
    queued: Queued,
    /// Milliseconds since the Unix epoch.
    sent_at: u64,
}

impl SentAdvance {
    pub(super) fn now(queued: Queued) -> Self {
        Self {
            queued,
            sent_at: clock::now_ms(),
        }
    }
}

impl PendingAdvance {
    /// Waits for the answers and completes the report.
    ///
    /// A failure does no harm to what is stored, since the next peek skips what it finds again. But
    /// the connection is unusable afterwards: `report` then has an `advance_error` or a
    /// `snapshot_error`.
    pub async fn finish<S: Stream>(
        self,
        connection: &mut Connection<S>,
        cycle: &mut CycleState,
        report: &mut Report,
    ) {
        if let Some(advance) = self.advance {
            match advance.queued.finish(connection).await {
                Ok(_) => {
                    cycle.unconsumed = false;
                    cycle.advanced_at = clock::now_ms();
                }
                Err(error) => report.advance_error = Some(error.into()),
            }
            report.phases.advance = clock::elapsed_ms(advance.sent_at);
        }
        if let Some(snapshot) = self.snapshot
            && report.advance_error.is_none()
            && let Err(error) = snapshot.finish(connection).await
        {
            cycle.may_log_snapshots = false;
            report.snapshot_error = Some(error.into());
        }
    }
}
