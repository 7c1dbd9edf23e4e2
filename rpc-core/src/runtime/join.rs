//! The result of something spawned, and how to wait for it.

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::park::{Waiter, park};
use super::task::{self, Lose, Reason, Run, TaskRef};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;

/// Waits for a coroutine or a blocking job. Dropping it detaches: the work goes on.
pub struct JoinHandle<T> {
    slot: Arc<dyn HasSlot<T>>,
}

/// Why there is no value.
pub enum JoinError {
    /// The closure panicked; the payload is the panic's.
    Panicked(Box<dyn Any + Send>),
    /// It never ran: cancelled first, or the runtime ended.
    Cancelled,
    /// It never ran: the system gave no stack, mapping or thread to run it on.
    Refused(io::Error),
    /// It was still waiting when its runtime ended, and was left behind.
    Lost,
}

impl<T> JoinHandle<T> {
    /// Waits for the end and returns the closure's value, or why there is none.
    ///
    /// Not cut by deadlines or cancellation.
    pub fn join(self) -> Result<T, JoinError> {
        loop {
            {
                let mut slot = self.slot.slot().lock();
                if let Some(outcome) = slot.outcome.take() {
                    return outcome;
                }
                slot.waiter = Some(Waiter::current());
            }
            park(Reason::Join, Instant::NEVER);
        }
    }

    /// A second handle, to cancel by.
    pub(super) fn another(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
        }
    }

    /// Whether the value is there.
    pub fn is_finished(&self) -> bool {
        self.slot.slot().lock().outcome.is_some()
    }

    /// Asks the work to end: what has not started never will; a running coroutine's waiting calls
    /// fail with "cancelled". A job of the blocking pool that has started is not disturbed.
    pub fn cancel(&self) {
        let mut slot = self.slot.slot().lock();
        slot.cancelled = true;
        let task = slot.task;
        // Still under the lock: the task cannot finish and take up another job meanwhile.
        if let Some(task) = task {
            task.cancel();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}

impl JoinError {
    /// Goes on with the panic, or panics for a cancelled job.
    pub fn resume(self) -> ! {
        match self {
            Self::Panicked(payload) => std::panic::resume_unwind(payload),
            Self::Cancelled => panic!("the coroutine was cancelled before it ran"),
            Self::Refused(error) => panic!("the coroutine could not start: {error}"),
            Self::Lost => panic!("the coroutine was left behind when its runtime ended"),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(payload) => write!(f, "panicked: {}", panic_text(payload.as_ref())),
            Self::Cancelled => f.write_str("cancelled before it ran"),
            Self::Refused(error) => write!(f, "could not start: {error}"),
            Self::Lost => f.write_str("left behind when its runtime ended"),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl std::error::Error for JoinError {}

/// What a panic said, as far as it said it in words.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

/// A closure and its result in one allocation, shared by the scheduler and the handle.
pub(super) struct Packet<F, T> {
    /// Taken by the one who runs it.
    closure: SpinLock<Option<F>>,
    slot: SpinLock<Slot<T>>,
}

struct Slot<T> {
    /// Set once, at the end.
    outcome: Option<Result<T, JoinError>>,
    /// Who waits in `join`.
    waiter: Option<Waiter>,
    /// The coroutine while the closure runs on one.
    task: Option<TaskRef>,
    cancelled: bool,
}

trait HasSlot<T>: Send + Sync {
    fn slot(&self) -> &SpinLock<Slot<T>>;
}

impl<F, T> Packet<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    /// The two ends of a job.
    pub(super) fn split(closure: F) -> (Arc<dyn Run>, JoinHandle<T>) {
        let packet = Arc::new(Self {
            closure: SpinLock::new(Some(closure)),
            slot: SpinLock::new(Slot {
                outcome: None,
                waiter: None,
                task: None,
                cancelled: false,
            }),
        });
        let handle = JoinHandle {
            slot: Arc::clone(&packet) as Arc<dyn HasSlot<T>>,
        };
        (packet, handle)
    }

    fn finish(&self, outcome: Result<T, JoinError>) {
        let mut slot = self.slot.lock();
        slot.task = None;
        slot.outcome = Some(outcome);
        let waiter = slot.waiter.take();
        drop(slot);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl<F, T> Run for Packet<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    fn run(self: Arc<Self>) {
        let closure = self.closure.lock().take();
        let Some(closure) = closure else { return };
        {
            let mut slot = self.slot.lock();
            if slot.cancelled {
                drop(slot);
                drop(closure);
                return self.finish(Err(JoinError::Cancelled));
            }
            slot.task = task::running();
        }
        // The closure is consumed and its result handed on: nothing half-done stays visible.
        let job = || catch_unwind(AssertUnwindSafe(closure));
        let outcome = match task::running() {
            Some(task) => {
                let outcome = task.watched(&*self, job);
                // As with threads: who has joined finds the thread-locals gone.
                task.end_locals();
                outcome
            }
            None => job(),
        };
        self.finish(outcome.map_err(JoinError::Panicked));
    }

    fn abandon(self: Arc<Self>) {
        drop(self.closure.lock().take());
        self.finish(Err(JoinError::Cancelled));
    }

    fn refuse(self: Arc<Self>, why: io::Error) {
        drop(self.closure.lock().take());
        self.finish(Err(JoinError::Refused(why)));
    }
}

impl<F, T> Lose for Packet<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    fn lose(&self) {
        self.finish(Err(JoinError::Lost));
    }
}

impl<F: Send, T: Send> HasSlot<T> for Packet<F, T> {
    fn slot(&self) -> &SpinLock<Slot<T>> {
        &self.slot
    }
}
