//! Coroutines that borrow from the one that started them.
//!
//! Knows: spawning, join handles.   Does not know: workers.
//!
//! Invariant S-1: `scope` returns, also by a panic, only after every coroutine of the scope has dropped
//! its closure and handed over or dropped its value. `Done` says so, and is the last thing that a child drops.

#![expect(unsafe_code, reason = "promises that borrows outlive their coroutines")]

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::Builder;
use super::deadline::{self, Deadline};
use super::join::{JoinError, JoinHandle};
use super::park::{Waiter, cancelled, park};
use super::task::Reason;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;

/// Runs `f`, which may spawn coroutines that borrow what lives around the call, and waits for all of them.
///
/// As `std::thread::scope`: a panic of `f` goes on here once all have ended, and a coroutine that
/// panicked and was not joined makes this panic. The coroutines keep the deadline under which they were
/// spawned. Cancelling the caller while it waits here cancels them; it still waits.
///
/// ```
/// # let runtime = rpc_core::Runtime::builder().workers(1).build().unwrap();
/// # runtime.block_on(|| {
/// let words = ["one", "two", "three"];
/// let lengths = rpc_core::scope(|s| {
///     let all: Vec<_> = words.iter().map(|word| s.spawn(|| word.len())).collect();
///     all.into_iter().map(|one| one.join().unwrap()).sum::<usize>()
/// });
/// assert_eq!(lengths, 11);
/// # });
/// ```
pub fn scope<'env, T>(f: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T) -> T {
    let scope = Scope {
        data: Arc::default(),
        scope: PhantomData,
        env: PhantomData,
    };
    // Nothing of `f` is looked at after a panic but what it borrows, and that is the caller's affair.
    let outcome = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    scope.data.wait();
    match outcome {
        Err(payload) => resume_unwind(payload),
        Ok(_) if scope.data.panicked.load(Ordering::Relaxed) => {
            panic!("a coroutine of the scope panicked")
        }
        Ok(value) => value,
    }
}

/// Spawns coroutines that end before [`scope`] returns.
pub struct Scope<'scope, 'env: 'scope> {
    data: Arc<Data>,
    /// Invariant, so that 'scope cannot shrink to the closure's own locals.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

#[derive(Default)]
struct Data {
    /// Children that have not ended.
    running: AtomicUsize,
    /// One ended by a panic that nobody joined.
    panicked: AtomicBool,
    /// The owner, once it waits.
    waiter: SpinLock<Option<Waiter>>,
    /// To cancel them by; those that have ended are taken out before it grows.
    children: SpinLock<Vec<JoinHandle<()>>>,
}

impl<'scope> Scope<'scope, '_> {
    /// Runs `f` as a coroutine of this scope.
    ///
    /// # Panics
    /// Outside a runtime.
    #[track_caller]
    pub fn spawn<T: Send + 'scope>(
        &'scope self,
        f: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        Builder::new().spawn_scoped(self, f)
    }
}

impl Builder {
    /// Runs `f` as a coroutine of `scope`.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn spawn_scoped<'scope, T: Send + 'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        f: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        let data = &scope.data;
        data.running.fetch_add(1, Ordering::Relaxed);
        let until = deadline::current();
        let packet = Arc::new(Packet {
            outcome: SpinLock::new(None),
            data: Arc::clone(data),
        });
        let child = Child {
            body: move || Deadline::until(until, f),
            packet: Arc::clone(&packet),
            done: Done(Arc::clone(data)),
        };
        let job: Box<dyn FnOnce() + Send + 'scope> = Box::new(move || child.run());
        // SAFETY: S-1: whatever happens to the job, what it borrows is not used after `done` is dropped,
        // and `scope`, whose return ends 'scope, waits for that.
        let job = unsafe {
            std::mem::transmute::<
                Box<dyn FnOnce() + Send + 'scope>,
                Box<dyn FnOnce() + Send + 'static>,
            >(job)
        };
        let handle = self.spawn(job);
        let mut children = data.children.lock();
        if children.len() == children.capacity() {
            children.retain(|child| !child.is_finished());
        }
        children.push(handle.another());
        drop(children);
        ScopedJoinHandle {
            handle,
            packet,
            scope: PhantomData,
        }
    }
}

impl Data {
    fn wait(&self) {
        let mut told = false;
        loop {
            *self.waiter.lock() = Some(Waiter::current());
            // Acquire pairs with the Release in `Done`: what the children did is visible.
            if self.running.load(Ordering::Acquire) == 0 {
                return;
            }
            if !told && cancelled() {
                told = true;
                let children = std::mem::take(&mut *self.children.lock());
                children.iter().for_each(JoinHandle::cancel);
            }
            park(Reason::Join, Instant::NEVER);
        }
    }
}

/// The closure of one child and whom to tell. Dropped in this order if it never runs (S-1).
struct Child<F, T> {
    body: F,
    packet: Arc<Packet<T>>,
    done: Done,
}

impl<F: FnOnce() -> T, T> Child<F, T> {
    fn run(self) {
        let Self { body, packet, done } = self;
        let end = (packet, done);
        // The closure is consumed and its result handed on: nothing half-done stays visible.
        let outcome = catch_unwind(AssertUnwindSafe(body));
        *end.0.outcome.lock() = Some(outcome);
        // Fields in order: the packet, and with it a value that nobody will join, then `done`.
        drop(end);
    }
}

/// The value on its way to whoever joins.
struct Packet<T> {
    outcome: SpinLock<Option<Result<T, Box<dyn Any + Send>>>>,
    data: Arc<Data>,
}

impl<T> Drop for Packet<T> {
    fn drop(&mut self) {
        if let Some(Err(_)) = *self.outcome.lock() {
            self.data.panicked.store(true, Ordering::Relaxed);
        }
    }
}

/// Counts a child as running until it is dropped.
struct Done(Arc<Data>);

impl Drop for Done {
    fn drop(&mut self) {
        // Release pairs with the Acquire in `wait`.
        if self.0.running.fetch_sub(1, Ordering::Release) == 1 {
            let waiter = self.0.waiter.lock().take();
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        }
    }
}

/// Waits for a coroutine of a [`Scope`]. Dropping it leaves the waiting to the scope.
pub struct ScopedJoinHandle<'scope, T> {
    handle: JoinHandle<()>,
    packet: Arc<Packet<T>>,
    scope: PhantomData<&'scope ()>,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits for the end and returns the closure's value, or why there is none. Not cut by deadlines or
    /// cancellation.
    pub fn join(self) -> Result<T, JoinError> {
        self.handle.join()?;
        let outcome = self.packet.outcome.lock().take();
        outcome.map_or(Err(JoinError::Cancelled), |o| {
            o.map_err(JoinError::Panicked)
        })
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// As [`JoinHandle::cancel`].
    pub fn cancel(&self) {
        self.handle.cancel();
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running = self.data.running.load(Ordering::Relaxed);
        f.debug_struct("Scope").field("running", &running).finish()
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}
