//! The time by which the current scope must be done.

use std::cell::Cell;
use std::time::Duration;

use super::task;
use crate::base::time::Instant;

thread_local! {
    /// The scope's deadline on an OS thread; coroutines keep theirs in the task.
    static OF_THREAD: Cell<Instant> = const { Cell::new(Instant::NEVER) };
}

/// Bounds every waiting call made in a scope: hooked reads, writes, connects and accepts, our own
/// channels, and remote calls with all that they cause elsewhere.
#[derive(Debug)]
pub struct Deadline(());

impl Deadline {
    /// Runs `f` with at most `duration` to wait in. An enclosing earlier deadline stays in force.
    pub fn within<T>(duration: Duration, f: impl FnOnce() -> T) -> T {
        Self::until(Instant::after(duration).min(current()), f)
    }

    /// Runs `f` free of the enclosing deadline, for clean-up that must not be cut.
    pub fn shield<T>(f: impl FnOnce() -> T) -> T {
        Self::until(Instant::NEVER, f)
    }

    /// Time left in the current scope; `None` if it has no deadline.
    pub fn remaining() -> Option<Duration> {
        let at = current();
        (!at.is_never()).then(|| at.saturating_since(Instant::now()))
    }

    pub(super) fn until<T>(deadline: Instant, f: impl FnOnce() -> T) -> T {
        struct Restore(Instant);
        impl Drop for Restore {
            fn drop(&mut self) {
                replace(self.0);
            }
        }
        let _restore = Restore(replace(deadline));
        f()
    }
}

/// The current scope's deadline; [`Instant::NEVER`] if none.
pub(crate) fn current() -> Instant {
    task::running().map_or_else(|| OF_THREAD.get(), task::TaskRef::deadline)
}

/// Sets the current scope's deadline, returns the old one.
pub(crate) fn replace(deadline: Instant) -> Instant {
    match task::running() {
        Some(task) => task.set_deadline(deadline),
        None => OF_THREAD.replace(deadline),
    }
}
