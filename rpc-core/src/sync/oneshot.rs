//! One value, once, from one to one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Cut, Place, Queue, Standing, WaitError, wait};
use super::select::Arm;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;

/// The two ends.
pub fn oneshot<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(SpinLock::new(State {
        value: None,
        sender_gone: false,
        receiver_gone: false,
        waiter: Queue::new(),
    }));
    let sender = Sender {
        shared: Arc::clone(&shared),
    };
    (sender, Receiver { shared })
}

/// Sends the value; dropping it unused closes the channel.
pub struct Sender<T> {
    shared: Arc<SpinLock<State<T>>>,
}

/// Waits for the value.
pub struct Receiver<T> {
    shared: Arc<SpinLock<State<T>>>,
}

struct State<T> {
    value: Option<T>,
    sender_gone: bool,
    receiver_gone: bool,
    /// The receiver, at most.
    waiter: Queue<Option<T>>,
}

impl<T> Sender<T> {
    /// Hands the value over; it comes back if the receiver is gone. Never waits.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut state = self.shared.lock();
        if state.receiver_gone {
            return Err(value);
        }
        let mut value = Some(value);
        let served = state.waiter.serve(|slot| *slot = value.take());
        // Nobody waits yet: it is found by the look before the wait.
        state.value = value;
        drop(state);
        if let Some(waiter) = served {
            waiter.wake();
        }
        Ok(())
    }
}

impl<T> Receiver<T> {
    /// Waits for the value. Fails when the sender is gone without one, at the scope's deadline and on
    /// cancellation.
    pub fn recv(self) -> Result<T, WaitError> {
        self.recv_until(Instant::NEVER)
    }

    /// As [`Receiver::recv`], for at most `duration`.
    pub fn recv_timeout(self, duration: Duration) -> Result<T, WaitError> {
        self.recv_until(Instant::after(duration))
    }

    /// The value, if it is there now.
    pub fn try_recv(&self) -> Option<T> {
        self.shared.lock().value.take()
    }

    fn recv_until(&self, until: Instant) -> Result<T, WaitError> {
        let mut state = self.shared.lock();
        if let Some(outcome) = state.look() {
            return outcome;
        }
        let how = (Reason::Channel, Cut::by_scope(until));
        let (outcome, value) = wait(state, |s| &mut s.waiter, None, how);
        outcome.and_then(|()| value.ok_or(WaitError::Closed))
    }

    #[doc(hidden)]
    pub fn __recv_arm(&self) -> Recv<'_, T> {
        Recv {
            place: Place::new(&self.shared, |s| &mut s.waiter, None),
            outcome: None,
        }
    }
}

impl<T> State<T> {
    /// What a receiver that does not wait gets.
    fn look(&mut self) -> Option<Result<T, WaitError>> {
        match self.value.take() {
            Some(value) => Some(Ok(value)),
            None => self.sender_gone.then_some(Err(WaitError::Closed)),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.sender_gone = true;
        let served = state.waiter.serve_all(true);
        drop(state);
        super::queue::wake_all(served);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver_gone = true;
        let orphan = state.value.take();
        drop(state);
        drop(orphan);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oneshot::Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oneshot::Receiver")
    }
}

/// `recv(receiver)` in a `select!`.
#[doc(hidden)]
pub struct Recv<'a, T> {
    place: Place<'a, State<T>, Option<T>>,
    outcome: Option<Result<T, WaitError>>,
}

impl<T> Recv<'_, T> {
    #[doc(hidden)]
    pub fn __take(self) -> Result<T, WaitError> {
        self.outcome.expect("a chosen arm has an outcome")
    }
}

impl<T> Arm for Recv<'_, T> {
    fn attempt(&mut self) -> bool {
        self.outcome = self.place.lock().lock().look();
        self.outcome.is_some()
    }

    fn join(&mut self, standing: &Standing<'_>) -> bool {
        let ready = |state: &mut State<T>| state.value.is_some() || state.sender_gone;
        self.place.join(standing, ready)
    }

    fn leave(&mut self) {
        self.place.leave();
    }

    fn served(&mut self, _closed: bool) {
        self.outcome = Some(self.place.payload().take().ok_or(WaitError::Closed));
    }

    fn cut(&mut self, error: WaitError) {
        self.outcome = Some(Err(error));
    }

    fn fails(&self) -> bool {
        true
    }
}
