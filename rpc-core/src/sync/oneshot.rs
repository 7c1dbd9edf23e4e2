//! One value, once, from one to one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Queue, WaitError};
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
    waiter: Queue,
}

impl<T> Sender<T> {
    /// Hands the value over; it comes back if the receiver is gone. Never waits.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut state = self.shared.lock();
        if state.receiver_gone {
            return Err(value);
        }
        state.value = Some(value);
        Ok(())
        // Dropping `self` wakes the receiver.
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

    fn recv_until(self, until: Instant) -> Result<T, WaitError> {
        let node = {
            let mut state = self.shared.lock();
            if let Some(value) = state.value.take() {
                return Ok(value);
            }
            if state.sender_gone {
                return Err(WaitError::Closed);
            }
            state.waiter.join()
        };
        let outcome = node.wait_until(Reason::Channel, until);
        let mut state = self.shared.lock();
        state.waiter.leave(&node);
        match (state.value.take(), outcome) {
            (Some(value), _) => Ok(value),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(WaitError::Closed),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.sender_gone = true;
        state.waiter.serve_all();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.lock().receiver_gone = true;
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
