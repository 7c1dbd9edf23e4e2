//! The latest value of something, and word of its changes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Cut, Place, Queue, Standing, WaitError, wait, wake_all};
use super::select::Arm;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;

/// The two ends, around a first value.
pub fn watch<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(SpinLock::new(State {
        value: Arc::new(value),
        version: 0,
        sender_gone: false,
        waiters: Queue::new(),
    }));
    let receiver = Receiver {
        shared: Arc::clone(&shared),
        seen: 0,
    };
    (Sender { shared }, receiver)
}

/// Sets the value. Dropping it says that no change will come.
pub struct Sender<T> {
    shared: Arc<SpinLock<State<T>>>,
}

/// Sees the value. Clones see it on their own.
#[derive(Clone)]
pub struct Receiver<T> {
    shared: Arc<SpinLock<State<T>>>,
    /// Version of the value looked at last.
    seen: u64,
}

struct State<T> {
    value: Arc<T>,
    /// How often it was set.
    version: u64,
    sender_gone: bool,
    waiters: Queue<()>,
}

impl<T> Sender<T> {
    /// Sets the value. Receivers that are slow miss those before it.
    pub fn send(&self, value: T) {
        let mut state = self.shared.lock();
        let old = std::mem::replace(&mut state.value, Arc::new(value));
        state.version += 1;
        let served = state.waiters.serve_all(false);
        drop(state);
        wake_all(served);
        // Outside the lock: dropping it may run anything.
        drop(old);
    }

    /// The value now.
    pub fn latest(&self) -> Arc<T> {
        Arc::clone(&self.shared.lock().value)
    }

    /// A receiver that has seen the value of now.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver {
            shared: Arc::clone(&self.shared),
            seen: self.shared.lock().version,
        }
    }
}

impl<T> Receiver<T> {
    /// The value now, which counts as seen.
    pub fn latest(&mut self) -> Arc<T> {
        let state = self.shared.lock();
        self.seen = state.version;
        Arc::clone(&state.value)
    }

    /// Whether the value was set since it was last seen.
    pub fn has_changed(&self) -> bool {
        self.shared.lock().version != self.seen
    }

    /// Waits until there is a value that was not seen; it then counts as seen. Fails when the sender is
    /// gone, at the scope's deadline and on cancellation.
    pub fn changed(&mut self) -> Result<(), WaitError> {
        self.changed_until(Instant::NEVER)
    }

    /// As [`Receiver::changed`], for at most `duration`.
    pub fn changed_timeout(&mut self, duration: Duration) -> Result<(), WaitError> {
        self.changed_until(Instant::after(duration))
    }

    fn changed_until(&mut self, until: Instant) -> Result<(), WaitError> {
        let state = self.shared.lock();
        if let Some(outcome) = state.news(&mut self.seen) {
            return outcome;
        }
        let how = (Reason::Channel, Cut::by_scope(until));
        wait(state, |s| &mut s.waiters, (), how).0?;
        self.seen = self.shared.lock().version;
        Ok(())
    }

    #[doc(hidden)]
    pub fn __changed_arm(&mut self) -> Changed<'_, T> {
        Changed {
            place: Place::new(&self.shared, |s| &mut s.waiters, ()),
            seen: &mut self.seen,
            outcome: None,
        }
    }
}

impl<T> State<T> {
    /// Whether `changed` need not wait, and its outcome.
    fn news(&self, seen: &mut u64) -> Option<Result<(), WaitError>> {
        if self.version != *seen {
            *seen = self.version;
            return Some(Ok(()));
        }
        self.sender_gone.then_some(Err(WaitError::Closed))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.sender_gone = true;
        let served = state.waiters.serve_all(true);
        drop(state);
        wake_all(served);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("watch::Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("watch::Receiver")
    }
}

/// `changed(receiver)` in a `select!`.
#[doc(hidden)]
pub struct Changed<'a, T> {
    place: Place<'a, State<T>, ()>,
    seen: &'a mut u64,
    outcome: Option<Result<(), WaitError>>,
}

impl<T> Changed<'_, T> {
    #[doc(hidden)]
    pub fn __take(self) -> Result<(), WaitError> {
        self.outcome.expect("a chosen arm has an outcome")
    }
}

impl<T> Arm for Changed<'_, T> {
    fn attempt(&mut self) -> bool {
        self.outcome = self.place.lock().lock().news(self.seen);
        self.outcome.is_some()
    }

    fn join(&mut self, standing: &Standing<'_>) -> bool {
        let mut seen = *self.seen;
        let ready = |state: &mut State<T>| state.news(&mut seen).is_some();
        self.place.join(standing, ready)
    }

    fn leave(&mut self) {
        self.place.leave();
    }

    fn served(&mut self, closed: bool) {
        if closed {
            self.outcome = Some(Err(WaitError::Closed));
        } else {
            *self.seen = self.place.lock().lock().version;
            self.outcome = Some(Ok(()));
        }
    }

    fn cut(&mut self, error: WaitError) {
        self.outcome = Some(Err(error));
    }

    fn fails(&self) -> bool {
        true
    }
}
