//! Many readers or one writer, in order of arrival.

#![expect(
    unsafe_code,
    reason = "a lock hands out references through a shared one"
)]

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::queue::{Cut, Queue, wait, wake_all};
use crate::base::lock::{SpinGuard, SpinLock};
use crate::runtime::Reason;

/// A lock for many readers or one writer, whose holders may park. Fair: a reader that comes after a
/// waiting writer waits behind it, so who holds a read lock must not take another. Not poisoned by
/// panics.
#[derive(Default)]
pub struct RwLock<T: ?Sized> {
    state: SpinLock<State>,
    value: UnsafeCell<T>,
}

#[derive(Default)]
struct State {
    /// Read guards that live, or were granted to waiters.
    readers: usize,
    /// A write guard lives, or was granted; then `readers` is 0.
    writer: bool,
    waiters: Queue<Wish>,
}

/// What a waiter waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Read,
    Write,
}

// SAFETY: the value goes with the lock.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: readers share the value between threads, a writer has it alone.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        let state = State {
            readers: 0,
            writer: false,
            waiters: Queue::new(),
        };
        Self {
            state: SpinLock::new(state),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, once nobody shares the lock.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits to read, however long it takes: deadlines and cancellation do not cut it.
    pub fn read(&self) -> ReadGuard<'_, T> {
        self.lock(Wish::Read);
        ReadGuard { lock: self }
    }

    /// Waits to write, however long it takes.
    pub fn write(&self) -> WriteGuard<'_, T> {
        self.lock(Wish::Write);
        WriteGuard { lock: self }
    }

    /// Reads if nobody writes or waits to.
    pub fn try_read(&self) -> Option<ReadGuard<'_, T>> {
        let taken = self.state.lock().take(Wish::Read);
        taken.then(|| ReadGuard { lock: self })
    }

    /// Writes if nobody reads or writes.
    pub fn try_write(&self) -> Option<WriteGuard<'_, T>> {
        let taken = self.state.lock().take(Wish::Write);
        taken.then(|| WriteGuard { lock: self })
    }

    /// The value, of a lock that nobody else sees.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn lock(&self, wish: Wish) {
        let mut state = self.state.lock();
        if !state.take(wish) {
            // Served by `pass_on`, which counts us before it wakes us.
            let how = (Reason::Lock, Cut::NEVER);
            let _ = wait(state, |s| &mut s.waiters, wish, how);
        }
    }
}

impl State {
    /// Takes the lock if it is free for `wish` and nobody waits.
    fn take(&mut self, wish: Wish) -> bool {
        let free = self.waiters.is_empty() && self.is_free_for(wish);
        if free {
            self.count(wish);
        }
        free
    }

    fn is_free_for(&self, wish: Wish) -> bool {
        !self.writer && (wish == Wish::Read || self.readers == 0)
    }

    fn count(&mut self, wish: Wish) {
        match wish {
            Wish::Read => self.readers += 1,
            Wish::Write => self.writer = true,
        }
    }
}

/// Gives what was released to the first that wait: one writer, or the readers up to the next writer.
fn pass_on(mut state: SpinGuard<'_, State>) {
    let mut served = Vec::new();
    while let Some(wish) = state.waiters.first().map(|wish| *wish)
        && state.is_free_for(wish)
    {
        state.count(wish);
        served.extend(state.waiters.serve(|_| ()));
    }
    drop(state);
    wake_all(served);
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_read() {
            Some(value) => f.debug_tuple("RwLock").field(&&*value).finish(),
            None => f.write_str("RwLock(locked)"),
        }
    }
}

/// Shared access to a [`RwLock`]'s value.
pub struct ReadGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
}

/// Sole access to a [`RwLock`]'s value.
pub struct WriteGuard<'a, T: ?Sized> {
    lock: &'a RwLock<T>,
}

// SAFETY: a guard is a `&T`, and its release may come from any thread.
unsafe impl<T: ?Sized + Sync> Send for ReadGuard<'_, T> {}
// SAFETY: a guard is a `&mut T`.
unsafe impl<T: ?Sized + Send> Send for WriteGuard<'_, T> {}
// SAFETY: sharing the guard shares the value.
unsafe impl<T: ?Sized + Sync> Sync for ReadGuard<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for WriteGuard<'_, T> {}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: counted as a reader; no writer exists meanwhile.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard is the only access to the value while it lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` makes this borrow unique.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        let mut state = self.lock.state.lock();
        state.readers -= 1;
        pass_on(state);
    }
}

impl<T: ?Sized> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        let mut state = self.lock.state.lock();
        state.writer = false;
        pass_on(state);
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
