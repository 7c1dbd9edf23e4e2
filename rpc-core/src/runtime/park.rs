//! Waiting, from a coroutine or from an OS thread alike. Everything above waits through this file.

use std::thread::Thread;
use std::time::Duration;

use super::task::{self, Reason, TaskRef};
use crate::base::time::Instant;

/// Whoever waits: to be woken once the reason for waiting is gone.
#[derive(Clone)]
pub(crate) enum Waiter {
    /// A coroutine.
    Task(TaskRef),
    /// An OS thread.
    Thread(Thread),
}

impl Waiter {
    /// The caller. On a worker's own stack nobody may wait, so nobody may ask.
    pub(crate) fn current() -> Self {
        task::current().map_or_else(|| Self::Thread(std::thread::current()), Self::Task)
    }

    /// Ends the waiter's `park`, or its next one.
    pub(crate) fn wake(&self) {
        match self {
            Self::Task(task) => task.unpark(),
            Self::Thread(thread) => thread.unpark(),
        }
    }
}

/// Waits until woken or until `until`. May return for no reason: loop on the condition.
///
/// Looks at neither the scope's deadline nor cancellation; see [`limit`] and [`cancelled`].
pub(crate) fn park(reason: Reason, until: Instant) {
    if let Some(task) = task::current() {
        return task.park(reason, until);
    }
    debug_assert!(!super::worker::on_loop(), "P7: the worker loop never parks");
    if until.is_never() {
        return std::thread::park();
    }
    let left = until.saturating_since(Instant::now());
    if left > Duration::ZERO {
        std::thread::park_timeout(left);
    }
}

/// The earlier of `own` and the running scope's deadline.
pub(crate) fn limit(own: Instant) -> Instant {
    own.min(super::deadline::current())
}

/// Whether the running coroutine was cancelled; never on OS threads.
pub(crate) fn cancelled() -> bool {
    task::current().is_some_and(TaskRef::cancelled)
}
