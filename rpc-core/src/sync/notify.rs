//! "Something has happened": a wake-up without a value.

use std::fmt;
use std::time::Duration;

use super::queue::{Cut, Place, Queue, Standing, WaitError, wait, wake_all};
use super::select::Arm;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;

/// Tells one waiter, or all of them, to look again.
///
/// One notification is remembered while nobody waits, so that a look before the wait misses nothing:
/// look, wait, look again.
#[derive(Default)]
pub struct Notify {
    state: SpinLock<State>,
}

#[derive(Default)]
struct State {
    /// A notification that nobody has had yet; then nobody waits.
    pending: bool,
    waiters: Queue<()>,
}

impl Notify {
    /// Nothing has happened yet.
    pub const fn new() -> Self {
        Self {
            state: SpinLock::new(State {
                pending: false,
                waiters: Queue::new(),
            }),
        }
    }

    /// Wakes the one that waits longest, or the next that will.
    pub fn notify_one(&self) {
        let mut state = self.state.lock();
        match state.waiters.serve(|()| ()) {
            Some(waiter) => {
                drop(state);
                waiter.wake();
            }
            None => state.pending = true,
        }
    }

    /// Wakes everybody who waits now.
    pub fn notify_all(&self) {
        let served = self.state.lock().waiters.serve_all(false);
        wake_all(served);
    }

    /// Waits for a notification. Fails at the scope's deadline and on cancellation.
    pub fn wait(&self) -> Result<(), WaitError> {
        self.wait_until(Instant::NEVER)
    }

    /// As [`Notify::wait`], for at most `duration`.
    pub fn wait_timeout(&self, duration: Duration) -> Result<(), WaitError> {
        self.wait_until(Instant::after(duration))
    }

    fn wait_until(&self, until: Instant) -> Result<(), WaitError> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.pending) {
            return Ok(());
        }
        let how = (Reason::Other("a notification"), Cut::by_scope(until));
        wait(state, |s| &mut s.waiters, (), how).0
    }

    #[doc(hidden)]
    pub fn __arm(&self) -> Notified<'_> {
        Notified(Place::new(&self.state, |s| &mut s.waiters, ()))
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = self.state.lock().pending;
        f.debug_struct("Notify").field("pending", &pending).finish()
    }
}

/// `notified(notify)` in a `select!`.
#[doc(hidden)]
pub struct Notified<'a>(Place<'a, State, ()>);

impl Notified<'_> {
    #[doc(hidden)]
    pub fn __take(self) {}
}

impl Arm for Notified<'_> {
    fn attempt(&mut self) -> bool {
        std::mem::take(&mut self.0.lock().lock().pending)
    }

    fn join(&mut self, standing: &Standing<'_>) -> bool {
        self.0.join(standing, |state| state.pending)
    }

    fn leave(&mut self) {
        self.0.leave();
    }

    fn served(&mut self, _closed: bool) {}
}
