//! The committer: the one thread that writes, and the queue before it.
//!
//! Requests come from coroutines; the thread takes all that wait into one round, so the longer a sync
//! takes the more requests share the next one. While the backup is away the round waits for it, the queue
//! fills, and what no longer fits is told `Unavailable` at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{
    copies::Fatal,
    ops::{Op, Refusal, RefusalKind},
    shard::Moved,
    store::{Job, Reply, Round, Store},
};
use crate::model::limits::WAITING_REQUESTS;

/// The way to a committer; cheap to clone.
#[derive(Clone, Default)]
pub struct Submit {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Oldest first, at most [`WAITING_REQUESTS`].
    jobs: VecDeque<Job>,
    /// Nothing more is taken; the committer ends when the queue is empty.
    closed: bool,
}

impl Submit {
    /// A way to a committer that is yet to [`run`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands a request over. `reply` is called once it is committed or refused, on the committer's thread;
    /// it is dropped uncalled if the store ends before.
    pub fn submit(&self, op: Op, reply: Reply) -> Result<(), Refusal> {
        let mut queue = self.queue();
        if queue.closed {
            return Err(Refusal::new(
                RefusalKind::Unavailable,
                "the store is closing; try again soon",
            ));
        }
        if queue.jobs.len() >= WAITING_REQUESTS {
            let text =
                format!("{WAITING_REQUESTS} requests wait for the store already; try again soon");
            return Err(Refusal::new(RefusalKind::Unavailable, text));
        }
        queue.jobs.push_back(Job { op, reply });
        let first = queue.jobs.len() == 1;
        drop(queue);
        if first {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Ends the committer after what waits is done.
    pub fn close(&self) {
        self.queue().closed = true;
        self.shared.wake.notify_all();
    }

    /// Waits for jobs unless `busy`; false when the committer is to end.
    fn take(&self, jobs: &mut VecDeque<Job>, busy: bool) -> bool {
        let mut queue = self.queue();
        while queue.jobs.is_empty() && !busy && jobs.is_empty() && !queue.closed {
            queue = self
                .shared
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if jobs.is_empty() {
            // The emptied buffer goes back: no allocation per round.
            std::mem::swap(jobs, &mut queue.jobs);
        }
        !(queue.closed && jobs.is_empty() && !busy)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A holder of the lock only moves jobs; the queue is whole even after a panic.
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs rounds on the calling thread until the way is closed or the store fails. `moved` gets what
/// becomes visible, after the answers; it must not wait.
pub fn run(
    mut store: Store,
    submit: &Submit,
    mut moved: impl FnMut(Vec<Moved>),
) -> Result<(), Fatal> {
    let mut jobs = VecDeque::new();
    while submit.take(&mut jobs, store.has_work()) {
        let Round {
            answers,
            moved: items,
        } = store.round(&mut jobs)?;
        for (reply, answer) in answers {
            reply(answer);
        }
        if !items.is_empty() {
            moved(items);
        }
    }
    Ok(())
}
