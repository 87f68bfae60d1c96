//! Runs the jobs of the queue: polls, maintenance and initialisations take turns.

use std::rc::Rc;

use super::Runtime;
use crate::config::Fields;
use crate::polling::Expect;
use crate::replication_do::job_queue::{Job, JobResult, RunToken, wait_for};

impl Runtime {
    /// Runs cycles until everything that committed before this call is stored, or the job's
    /// time is over ([`Outcome::Unfinished`](crate::polling::Outcome::Unfinished)). Calls that
    /// overlap share them.
    pub(in crate::replication_do) async fn poll(self: &Rc<Self>) -> JobResult {
        self.config()?;
        self.run(Job::Poll).await
    }

    /// As [`Self::poll`], for a caller that has just written.
    pub(in crate::replication_do) async fn nudge(self: &Rc<Self>) -> JobResult {
        self.memory.borrow_mut().expect = Expect::Changes;
        self.poll().await
    }

    /// Starts a poll without waiting for it: a failure is counted where it happens.
    pub(in crate::replication_do) fn start_polling(self: &Rc<Self>) {
        let runtime = Rc::clone(self);
        wasm_bindgen_futures::spawn_local(async move {
            let _ = runtime.poll().await;
        });
    }

    /// Applies the configuration and makes the database ready. Idempotent; calls with the same
    /// fields share one run.
    pub(in crate::replication_do) async fn initialize(self: &Rc<Self>, given: Fields) -> JobResult {
        // An invalid field is refused without waiting for a turn.
        self.merge(&given).map_err(Rc::new)?;
        self.run(Job::Initialize(given)).await
    }

    pub(super) async fn run(self: &Rc<Self>, job: Job) -> JobResult {
        let (token, result) = self.jobs.enqueue(job);
        if let Some(token) = token {
            // In a task of its own, so that a caller that disconnects does not end the job for the
            // others.
            let runtime = Rc::clone(self);
            self.state
                .wait_until(async move { runtime.run_jobs(token).await });
        }
        wait_for(result).await
    }

    async fn run_jobs(self: Rc<Self>, token: RunToken) {
        while let Some(job) = self.jobs.start_next(&token) {
            let result = match job {
                Job::Initialize(fields) => self.make_ready(&fields).await,
                Job::Poll => self.drain().await,
                Job::Maintain => self.maintain().await,
            };
            self.jobs.complete(&token, &result.map_err(Rc::new));
        }
    }
}
