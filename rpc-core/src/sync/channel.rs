//! A bounded queue between any number of senders and receivers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Queue, WaitError};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;

/// A channel that holds at most `bound` values; a sender waits for room.
///
/// # Panics
/// If `bound` is 0: a channel without room has nothing to hand over from.
pub fn channel<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
    assert!(bound > 0, "a channel holds at least one value");
    let shared = Arc::new(Shared(SpinLock::new(State {
        values: VecDeque::new(),
        bound,
        senders: 1,
        receivers: 1,
        want_value: Queue::new(),
        want_room: Queue::new(),
    })));
    let sender = Sender {
        shared: Arc::clone(&shared),
    };
    (sender, Receiver { shared })
}

/// The sending end. Clones share the channel.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving end. Clones share the channel: each value goes to one of them.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// A value that could not be sent, and why.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SendError<T> {
    /// The value, back to its sender.
    pub value: T,
    /// Why it was not taken.
    pub error: WaitError,
}

/// Why [`Receiver::try_recv`] has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// Nothing there now.
    Empty,
    /// Nothing there, and no sender left.
    Closed,
}

struct Shared<T>(SpinLock<State<T>>);

struct State<T> {
    /// At most `bound`.
    values: VecDeque<T>,
    bound: usize,
    senders: usize,
    receivers: usize,
    want_value: Queue,
    want_room: Queue,
}

impl<T> Sender<T> {
    /// Waits for room and sends. Fails when no receiver is left, at the scope's deadline and on
    /// cancellation; the error carries the value.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        loop {
            let node = {
                let mut state = self.shared.0.lock();
                if state.receivers == 0 {
                    let error = WaitError::Closed;
                    return Err(SendError { value, error });
                }
                if state.values.len() < state.bound {
                    state.values.push_back(value);
                    state.want_value.serve_one();
                    return Ok(());
                }
                state.want_room.join()
            };
            if let Err(error) = node.wait_until(Reason::Channel, Instant::NEVER) {
                let mut state = self.shared.0.lock();
                if !state.want_room.leave(&node) {
                    // Y-1: the room that was kept for us is the next sender's.
                    state.want_room.serve_one();
                }
                return Err(SendError { value, error });
            }
        }
    }

    /// Sends if there is room now. Fails with [`WaitError::TimedOut`] if there is none, with
    /// [`WaitError::Closed`] if no receiver is left.
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        let mut state = self.shared.0.lock();
        let error = match state.receivers {
            0 => WaitError::Closed,
            _ if state.values.len() >= state.bound => WaitError::TimedOut,
            _ => {
                state.values.push_back(value);
                state.want_value.serve_one();
                return Ok(());
            }
        };
        Err(SendError { value, error })
    }
}

impl<T> Receiver<T> {
    /// Waits for a value. Fails when none is left and no sender either, at the scope's deadline and on
    /// cancellation.
    pub fn recv(&self) -> Result<T, WaitError> {
        self.recv_until(Instant::NEVER)
    }

    /// As [`Receiver::recv`], for at most `duration`.
    pub fn recv_timeout(&self, duration: Duration) -> Result<T, WaitError> {
        self.recv_until(Instant::after(duration))
    }

    /// A value that is there now.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = self.shared.0.lock();
        match state.take() {
            Some(value) => Ok(value),
            None if state.senders == 0 => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Values until no sender is left, or the scope is cut.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }

    fn recv_until(&self, until: Instant) -> Result<T, WaitError> {
        loop {
            let node = {
                let mut state = self.shared.0.lock();
                if let Some(value) = state.take() {
                    return Ok(value);
                }
                if state.senders == 0 {
                    return Err(WaitError::Closed);
                }
                state.want_value.join()
            };
            if let Err(error) = node.wait_until(Reason::Channel, until) {
                let mut state = self.shared.0.lock();
                if !state.want_value.leave(&node) && !state.values.is_empty() {
                    // Y-1: the value that we were woken for is the next receiver's.
                    state.want_value.serve_one();
                }
                return Err(error);
            }
        }
    }
}

impl<T> State<T> {
    fn take(&mut self) -> Option<T> {
        let value = self.values.pop_front()?;
        self.want_room.serve_one();
        Some(value)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.0.lock().senders += 1;
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.0.lock().receivers += 1;
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.0.lock();
        state.senders -= 1;
        if state.senders == 0 {
            state.want_value.serve_all();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.0.lock();
        state.receivers -= 1;
        if state.receivers == 0 {
            state.want_room.serve_all();
            // Values nobody can receive any more; dropped outside the lock.
            let orphans = std::mem::take(&mut state.values);
            drop(state);
            drop(orphans);
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendError({:?})", self.error)
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not sent: {}", self.error)
    }
}

impl<T> std::error::Error for SendError<T> {}
