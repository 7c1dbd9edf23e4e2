//! A queue between any number of senders and receivers, with a bound or without.
//!
//! Knows: the queue of waiters.   Does not know: what the values are.
//!
//! Invariants
//! - CH-1  A receiver waits only while no value is kept and no sender waits; then a sender hands its
//!   value straight to the receiver that waits longest.
//! - CH-2  A sender waits, with its value in its node, only while `bound` values are kept; a receiver
//!   that takes one keeps the value of the sender that waits longest in its place.
//!
//! So a sender's values stay in order, and none is lost: each is in a node that was served, among the
//! values kept, or back with its sender.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Cut, Place, Queue, Standing, WaitError, wait, wake_all};
use super::select::Arm;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::runtime::Reason;
use crate::runtime::park::Waiter;

/// A channel that keeps at most `bound` values; a sender waits for room. With a bound of 0 a sender
/// waits for the receiver that takes its value.
pub fn channel<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
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

/// A channel whose senders never wait. Its bound is memory: only for values whose number something
/// else bounds.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    channel(usize::MAX)
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

/// A value that [`Sender::try_send`] could not send.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// No room now.
    Full(T),
    /// No receiver is left.
    Closed(T),
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

pub struct State<T> {
    /// At most `bound`.
    values: VecDeque<T>,
    bound: usize,
    senders: usize,
    receivers: usize,
    want_value: Queue<Option<T>>,
    /// Each with the value it wants to send.
    want_room: Queue<Option<T>>,
}

impl<T> Sender<T> {
    /// Waits for room and sends. Fails when no receiver is left, at the scope's deadline and on
    /// cancellation; the error carries the value.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.send_until(value, Instant::NEVER)
    }

    /// As [`Sender::send`], for at most `duration`.
    pub fn send_timeout(&self, value: T, duration: Duration) -> Result<(), SendError<T>> {
        self.send_until(value, Instant::after(duration))
    }

    /// Sends if there is room now.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut state = self.shared.0.lock();
        if state.receivers == 0 {
            return Err(TrySendError::Closed(value));
        }
        match state.put(value) {
            Ok(served) => {
                drop(state);
                wake(served);
                Ok(())
            }
            Err(value) => Err(TrySendError::Full(value)),
        }
    }

    fn send_until(&self, value: T, until: Instant) -> Result<(), SendError<T>> {
        let mut state = self.shared.0.lock();
        if state.receivers == 0 {
            let error = WaitError::Closed;
            return Err(SendError { value, error });
        }
        let value = match state.put(value) {
            Ok(served) => {
                drop(state);
                wake(served);
                return Ok(());
            }
            Err(value) => value,
        };
        let how = (Reason::Channel, Cut::by_scope(until));
        match wait(state, |s| &mut s.want_room, Some(value), how) {
            (Err(error), Some(value)) => Err(SendError { value, error }),
            _ => Ok(()),
        }
    }

    #[doc(hidden)]
    pub fn __send_arm<'a>(&'a self, value: &'a mut Option<T>) -> Send<'a, T> {
        Send {
            place: Place::new(&self.shared.0, |s| &mut s.want_room, None),
            value,
            outcome: None,
        }
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
            Some((value, served)) => {
                drop(state);
                wake(served);
                Ok(value)
            }
            None if state.senders == 0 => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Values until no sender is left, or the scope is cut.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }

    fn recv_until(&self, until: Instant) -> Result<T, WaitError> {
        let mut state = self.shared.0.lock();
        if let Some((value, served)) = state.take() {
            drop(state);
            wake(served);
            return Ok(value);
        }
        if state.senders == 0 {
            return Err(WaitError::Closed);
        }
        let how = (Reason::Channel, Cut::by_scope(until));
        let (outcome, value) = wait(state, |s| &mut s.want_value, None, how);
        outcome.and_then(|()| value.ok_or(WaitError::Closed))
    }

    #[doc(hidden)]
    pub fn __recv_arm(&self) -> Recv<'_, T> {
        Recv {
            place: Place::new(&self.shared.0, |s| &mut s.want_value, None),
            outcome: None,
        }
    }
}

impl<T> State<T> {
    /// Hands the value to a receiver that waits (CH-1) or keeps it; gives it back if there is no room.
    fn put(&mut self, value: T) -> Result<Option<Waiter>, T> {
        let mut value = Some(value);
        let served = self.want_value.serve(|slot| *slot = value.take());
        match value {
            None => Ok(served),
            Some(value) if self.values.len() < self.bound => {
                self.values.push_back(value);
                Ok(None)
            }
            Some(value) => Err(value),
        }
    }

    /// The oldest value, and the sender whose value takes its place (CH-2).
    fn take(&mut self) -> Option<(T, Option<Waiter>)> {
        let mut moved = None;
        let served = self.want_room.serve(|slot| moved = slot.take());
        self.values.extend(moved);
        Some((self.values.pop_front()?, served))
    }
}

fn wake(served: Option<Waiter>) {
    if let Some(waiter) = served {
        waiter.wake();
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
            let served = state.want_value.serve_all(true);
            drop(state);
            wake_all(served);
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.0.lock();
        state.receivers -= 1;
        if state.receivers == 0 {
            let served = state.want_room.serve_all(true);
            // Values nobody can receive any more; dropped outside the lock.
            let orphans = std::mem::take(&mut state.values);
            drop(state);
            wake_all(served);
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

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "not sent: the channel is full",
            Self::Closed(_) => "not sent: no receiver is left",
        })
    }
}

impl<T> std::error::Error for TrySendError<T> {}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the channel is empty",
            Self::Closed => "the channel is empty and no sender is left",
        })
    }
}

impl std::error::Error for TryRecvError {}

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
        let mut state = self.place.lock().lock();
        match state.take() {
            Some((value, served)) => {
                drop(state);
                wake(served);
                self.outcome = Some(Ok(value));
            }
            None if state.senders == 0 => self.outcome = Some(Err(WaitError::Closed)),
            None => {}
        }
        self.outcome.is_some()
    }

    fn join(&mut self, standing: &Standing<'_>) -> bool {
        let ready = |s: &mut State<T>| {
            s.senders == 0 || !s.values.is_empty() || s.want_room.has_other(standing)
        };
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

/// `send(sender, value)` in a `select!`: `value` is an `Option` that is empty once it is sent.
#[doc(hidden)]
pub struct Send<'a, T> {
    /// Holds the value while the place is taken.
    place: Place<'a, State<T>, Option<T>>,
    value: &'a mut Option<T>,
    outcome: Option<Result<(), WaitError>>,
}

impl<T> Send<'_, T> {
    #[doc(hidden)]
    pub fn __take(self) -> Result<(), WaitError> {
        self.outcome.expect("a chosen arm has an outcome")
    }
}

impl<T> Arm for Send<'_, T> {
    fn attempt(&mut self) -> bool {
        let Some(value) = self.value.take() else {
            return false;
        };
        let mut state = self.place.lock().lock();
        let outcome = if state.receivers == 0 {
            Err((value, Some(WaitError::Closed)))
        } else {
            state.put(value).map_err(|value| (value, None))
        };
        drop(state);
        match outcome {
            Ok(served) => {
                wake(served);
                self.outcome = Some(Ok(()));
            }
            Err((value, error)) => {
                *self.value = Some(value);
                self.outcome = error.map(Err);
            }
        }
        self.outcome.is_some()
    }

    fn join(&mut self, standing: &Standing<'_>) -> bool {
        if self.value.is_none() {
            return true;
        }
        *self.place.payload() = self.value.take();
        let ready = |s: &mut State<T>| {
            s.receivers == 0 || s.values.len() < s.bound || s.want_value.has_other(standing)
        };
        self.place.join(standing, ready)
    }

    fn leave(&mut self) {
        self.place.leave();
        if self.value.is_none() {
            *self.value = self.place.payload().take();
        }
    }

    fn served(&mut self, closed: bool) {
        self.outcome = Some(if closed {
            Err(WaitError::Closed)
        } else {
            Ok(())
        });
    }

    fn cut(&mut self, error: WaitError) {
        self.outcome = Some(Err(error));
    }

    fn fails(&self) -> bool {
        true
    }
}
