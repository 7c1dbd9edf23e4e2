//! Mutual exclusion across parks, handed over in order.

#![expect(
    unsafe_code,
    reason = "a lock hands out &mut through a shared reference"
)]

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

use super::queue::{Cut, Queue, wait};
use crate::base::lock::SpinLock;
use crate::runtime::Reason;

/// A mutex whose holder may park. Fair: the longest waiting gets it next. Not poisoned by panics.
#[derive(Default)]
pub struct Mutex<T: ?Sized> {
    state: SpinLock<State>,
    value: UnsafeCell<T>,
}

#[derive(Default)]
struct State {
    locked: bool,
    waiters: Queue<()>,
}

// SAFETY: the value is reached only through a guard, and one guard exists at a time.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above; `T: Send` is enough because one holder at a time sees the value.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// An unlocked mutex.
    pub const fn new(value: T) -> Self {
        let state = State {
            locked: false,
            waiters: Queue::new(),
        };
        Self {
            state: SpinLock::new(state),
            value: UnsafeCell::new(value),
        }
    }

    /// The value, once nobody shares the mutex.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the mutex, however long it takes: deadlines and cancellation do not cut it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.locked, true) {
            // Served by `unlock`, which leaves `locked` set for us.
            let _ = wait(state, |s| &mut s.waiters, (), (Reason::Lock, Cut::NEVER));
        }
        MutexGuard { mutex: self }
    }

    /// The value, of a mutex that nobody else sees.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Takes the mutex if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let was_locked = std::mem::replace(&mut self.state.lock().locked, true);
        (!was_locked).then(|| MutexGuard { mutex: self })
    }

    fn unlock(&self) {
        let mut state = self.state.lock();
        match state.waiters.serve(|()| ()) {
            Some(next) => {
                drop(state);
                next.wake();
            }
            None => state.locked = false,
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(value) => f.debug_tuple("Mutex").field(&&*value).finish(),
            None => f.write_str("Mutex(locked)"),
        }
    }
}

/// Access to a [`Mutex`]'s value; dropping it hands the mutex on.
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard is the only access to the value while it lives.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` makes this borrow unique.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.unlock();
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
