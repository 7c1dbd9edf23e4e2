//! Waiting for a condition that a [`Mutex`](super::Mutex) protects.

use std::time::Duration;

use super::mutex::MutexGuard;
use super::queue::{Queue, WaitError};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;

/// A condition variable for [`Mutex`](super::Mutex). Notified in order of arrival, never spuriously.
#[derive(Default)]
pub struct Condvar {
    waiters: SpinLock<Queue>,
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
        let mutex = guard.mutex();
        let node = self.waiters.lock().join();
        drop(guard);
        node.wait(Reason::Lock);
        mutex.lock()
    }

    /// As [`Condvar::wait`], for at most `duration`, the scope's deadline or until cancelled; the
    /// error says which. The mutex is held again in every case.
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        duration: Duration,
    ) -> (MutexGuard<'a, T>, Result<(), WaitError>) {
        let mutex = guard.mutex();
        let node = self.waiters.lock().join();
        drop(guard);
        let mut outcome = node.wait_until(Reason::Lock, Instant::after(duration));
        if outcome.is_err() && !self.waiters.lock().leave(&node) {
            // Notified at the last moment: the notification is ours and counts.
            outcome = Ok(());
        }
        (mutex.lock(), outcome)
    }

    /// Wakes the one that waits longest.
    pub fn notify_one(&self) {
        self.waiters.lock().serve_one();
    }

    /// Wakes everybody who waits now.
    pub fn notify_all(&self) {
        self.waiters.lock().serve_all();
    }
}

impl std::fmt::Debug for Condvar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Condvar")
    }
}
