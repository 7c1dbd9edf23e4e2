//! Waiting for a condition that a [`Mutex`](super::Mutex) protects.

use std::time::Duration;

use super::mutex::MutexGuard;
use super::queue::{Cut, Queue, WaitError, wait_then, wake_all};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;

/// A condition variable for [`Mutex`](super::Mutex). Notified in order of arrival, never spuriously.
#[derive(Default)]
pub struct Condvar {
    waiters: SpinLock<Queue<()>>,
}

impl Condvar {
    /// A condition variable nobody waits for.
    pub const fn new() -> Self {
        Self {
            waiters: SpinLock::new(Queue::new()),
        }
    }

    /// Releases the mutex, waits for a notification, takes the mutex again. Nothing cuts it.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        // Nothing cuts it, hence it is served.
        let (guard, _) = self.wait_cut(guard, Cut::NEVER);
        guard
    }

    /// As [`Condvar::wait`], as long as `condition` holds.
    pub fn wait_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while condition(&mut guard) {
            guard = self.wait(guard);
        }
        guard
    }

    /// As [`Condvar::wait`], for at most `duration`, the scope's deadline or until cancelled; the
    /// error says which. The mutex is held again in every case.
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        duration: Duration,
    ) -> (MutexGuard<'a, T>, Result<(), WaitError>) {
        self.wait_cut(guard, Cut::by_scope(Instant::after(duration)))
    }

    /// Wakes the one that waits longest.
    pub fn notify_one(&self) {
        let served = self.waiters.lock().serve(|()| ());
        if let Some(waiter) = served {
            waiter.wake();
        }
    }

    /// Wakes everybody who waits now.
    pub fn notify_all(&self) {
        let served = self.waiters.lock().serve_all(false);
        wake_all(served);
    }

    fn wait_cut<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        cut: Cut,
    ) -> (MutexGuard<'a, T>, Result<(), WaitError>) {
        let mutex = guard.mutex();
        // In the queue before the mutex is free: whoever changes the condition then finds us.
        let waiters = self.waiters.lock();
        let how = (Reason::Lock, cut);
        let (outcome, ()) = wait_then(waiters, |queue| queue, (), how, || drop(guard));
        (mutex.lock(), outcome)
    }
}

impl std::fmt::Debug for Condvar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Condvar")
    }
}
