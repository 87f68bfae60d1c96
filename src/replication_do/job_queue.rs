//! Jobs that read or write the feed's database run one at a time. Callers that wait for the same
//! job share one run.
//!
//! ```text
//! enqueue(job) -> waiting -- start_next --> running -- complete --> each of its waiters gets the result
//!                    ^                         |
//!                    +-- enqueued meanwhile: --+
//!                        the next run
//! ```
//!
//! A poll that is requested while one is running waits for the next: the running one may have
//! peeked before the caller's write committed. A running initialisation is joined, because it is
//! idempotent.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;

use crate::clock;
use crate::config::Fields;
use crate::error::{Category, Error};
use crate::polling::Outcome;

/// The result of a job, shared by all its waiters.
pub(super) type JobResult = Result<Outcome, Rc<Error>>;

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Job {
    /// No clients: check the slot and prune the history.
    Maintain,
    /// Drain the slot. Also completes the waiters of [`Self::Maintain`].
    Poll,
    /// Apply these fields and prepare the database.
    Initialize(Fields),
}

/// The platform ends every event after 15 minutes. A job that runs in it ends too, without
/// completing.
const LOST_AFTER: Duration = Duration::from_mins(16);

type Waiter = oneshot::Sender<JobResult>;

#[derive(Debug)]
struct Run {
    /// `None` until [`JobQueue::start_next`] has chosen one.
    job: Option<Job>,
    token: u64,
    started_at: u64,
}

#[derive(Debug, Default)]
struct State {
    run: Option<Run>,
    last_token: u64,
    /// Wait for the running job.
    joined: Vec<Waiter>,
    /// Wait for a job that has not started.
    waiting: Vec<(Job, Waiter)>,
}

/// The jobs of one object.
#[derive(Debug, Default)]
pub(super) struct JobQueue {
    state: RefCell<State>,
}

/// The right to run jobs. It ends when no job is waiting, or when the run is considered lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RunToken(u64);

impl JobQueue {
    /// Adds a job. A caller that gets a [`RunToken`] must run jobs until [`Self::start_next`]
    /// returns `None`.
    pub(super) fn enqueue(&self, job: Job) -> (Option<RunToken>, oneshot::Receiver<JobResult>) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        let joins = matches!(job, Job::Initialize(_))
            && (state.run.as_ref()).is_some_and(|run| run.job.as_ref() == Some(&job));
        if joins {
            state.joined.push(sender);
        } else {
            state.waiting.push((job, sender));
        }
        let now = clock::now_ms();
        let is_lost = |run: &Run| clock::has_elapsed(run.started_at, LOST_AFTER);
        if state.run.as_ref().is_some_and(|run| !is_lost(run)) {
            return (None, receiver);
        }
        state.last_token += 1;
        let token = state.last_token;
        // The waiters of a lost run learn that its result is unknown.
        state.joined.clear();
        state.run = Some(Run {
            job: None,
            token,
            started_at: now,
        });
        (Some(RunToken(token)), receiver)
    }

    /// Starts the most urgent job, for all its waiters. `None` when no job waits, or when the token is
    /// stale; the caller must then stop.
    pub(super) fn start_next(&self, token: &RunToken) -> Option<Job> {
        let mut state = self.state.borrow_mut();
        if state.run.as_ref()?.token != token.0 {
            return None;
        }
        let Some(job) = most_urgent(&state.waiting) else {
            state.run = None;
            return None;
        };
        let is_served =
            |other: &Job| *other == job || (job == Job::Poll && *other == Job::Maintain);
        let (joined, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|(other, _)| is_served(other));
        state.waiting = waiting;
        state.joined = joined.into_iter().map(|(_, waiter)| waiter).collect();
        state.run = Some(Run {
            job: Some(job.clone()),
            token: token.0,
            started_at: clock::now_ms(),
        });
        Some(job)
    }

    /// Hands the running job's result to all its waiters.
    pub(super) fn complete(&self, token: &RunToken, result: &JobResult) {
        let mut state = self.state.borrow_mut();
        if state.run.as_ref().is_none_or(|run| run.token != token.0) {
            return;
        }
        let joined = std::mem::take(&mut state.joined);
        drop(state);
        for waiter in joined {
            // Fails when the caller is gone.
            let _ = waiter.send(result.clone());
        }
    }

    /// Waits for the running job; `None` when no job is running.
    pub(super) fn join(&self) -> Option<oneshot::Receiver<JobResult>> {
        let mut state = self.state.borrow_mut();
        state.run.as_ref()?;
        let (sender, receiver) = oneshot::channel();
        state.joined.push(sender);
        Some(receiver)
    }

    /// Whether a job is waiting to start.
    pub(super) fn has_waiting(&self) -> bool {
        !self.state.borrow().waiting.is_empty()
    }

    /// Whether a job is running.
    pub(super) fn is_running(&self) -> bool {
        self.state.borrow().run.is_some()
    }

    /// Whether a long drain must stop because an initialisation is waiting.
    pub(super) fn must_yield(&self) -> bool {
        let waiting = &self.state.borrow().waiting;
        (waiting.iter()).any(|(job, _)| matches!(job, Job::Initialize(_)))
    }
}

fn most_urgent(waiting: &[(Job, Waiter)]) -> Option<Job> {
    let urgency = |job: &Job| match job {
        Job::Initialize(_) => 0,
        Job::Poll => 1,
        Job::Maintain => 2,
    };
    let jobs = waiting.iter().map(|(job, _)| job);
    jobs.min_by_key(|job| urgency(job)).cloned()
}

/// Waits for the result of an enqueued or joined job.
pub(super) async fn wait_for(receiver: oneshot::Receiver<JobResult>) -> JobResult {
    receiver.await.unwrap_or_else(|oneshot::Canceled| {
        let message = "the object was restarted while it polled";
        Err(Rc::new(Error::new(Category::Timeout, "restarted", message)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(slot: &str) -> Fields {
        [("slot".to_owned(), slot.into())].into_iter().collect()
    }

    #[test]
    fn polls_requested_while_one_is_running_share_the_next_run() {
        let queue = JobQueue::default();
        let (token, mut first) = queue.enqueue(Job::Poll);
        let token = token.unwrap();
        assert_eq!(queue.start_next(&token), Some(Job::Poll));
        let (none, mut second) = queue.enqueue(Job::Poll);
        let (also_none, mut third) = queue.enqueue(Job::Poll);
        assert_eq!((none, also_none), (None, None));
        queue.complete(&token, &Ok(Outcome::Idle));
        assert!(first.try_recv().unwrap().is_some());
        assert!(second.try_recv().unwrap().is_none());
        assert_eq!(queue.start_next(&token), Some(Job::Poll));
        queue.complete(&token, &Ok(Outcome::Idle));
        assert!(second.try_recv().unwrap().is_some() && third.try_recv().unwrap().is_some());
        assert_eq!(queue.start_next(&token), None);
        assert!(queue.enqueue(Job::Poll).0.is_some());
    }

    #[test]
    fn a_poll_also_serves_maintenance_and_an_initialisation_runs_before_both() {
        let queue = JobQueue::default();
        let (token, mut maintenance) = queue.enqueue(Job::Maintain);
        let token = token.unwrap();
        let (_, mut poll) = queue.enqueue(Job::Poll);
        let _initialisation = queue.enqueue(Job::Initialize(fields("a")));
        assert!(queue.must_yield());
        assert_eq!(queue.start_next(&token), Some(Job::Initialize(fields("a"))));
        queue.complete(&token, &Ok(Outcome::Unfinished));
        assert!(maintenance.try_recv().unwrap().is_none() && !queue.must_yield());
        assert_eq!(queue.start_next(&token), Some(Job::Poll));
        queue.complete(&token, &Ok(Outcome::Idle));
        assert!(maintenance.try_recv().unwrap().is_some() && poll.try_recv().unwrap().is_some());
        assert_eq!(queue.start_next(&token), None);
    }

    #[test]
    fn the_same_initialisation_is_joined_and_a_different_one_waits_for_its_turn() {
        let queue = JobQueue::default();
        let (token, _first) = queue.enqueue(Job::Initialize(fields("a")));
        let token = token.unwrap();
        queue.start_next(&token);
        let (_, mut same) = queue.enqueue(Job::Initialize(fields("a")));
        let (_, mut different) = queue.enqueue(Job::Initialize(fields("b")));
        queue.complete(&token, &Ok(Outcome::Unfinished));
        assert!(same.try_recv().unwrap().is_some() && different.try_recv().unwrap().is_none());
        assert_eq!(queue.start_next(&token), Some(Job::Initialize(fields("b"))));
    }
}
