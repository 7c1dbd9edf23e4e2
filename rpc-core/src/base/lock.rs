//! A spin lock for sections of a few dozen instructions.
//!
//! It is the only lock that the worker loop and the hooks take: a lock that can park would let a
//! coroutine hold what its own worker waits for.
//!
//! Invariants
//! - L-1  A holder never parks, never calls foreign code, never takes a second spin lock of the same
//!   kind without an order stated where it does.
//! - L-2  A guard is dropped on the thread that took it; nothing here is re-entrant.

#![expect(
    unsafe_code,
    reason = "a lock hands out &mut through a shared reference"
)]

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use super::sys;

/// Mutual exclusion by spinning; gives the processor away after a short while.
#[derive(Default)]
pub struct SpinLock<T: ?Sized> {
    /// True while a guard lives.
    locked: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, and one guard exists at a time.
unsafe impl<T: ?Sized + Send> Send for SpinLock<T> {}
// SAFETY: as above; `T: Send` is enough because only one thread at a time sees the value.
unsafe impl<T: ?Sized + Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// An unlocked lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            locked: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Waits for the lock and takes it.
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        if !self.take() {
            self.lock_slow();
        }
        SpinGuard { lock: self }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        self.take().then(|| SpinGuard { lock: self })
    }

    #[inline]
    fn take(&self) -> bool {
        // Acquire pairs with the Release in `SpinGuard::drop`: we see what the last holder wrote.
        self.locked
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[cold]
    fn lock_slow(&self) {
        let mut spins = 0_u32;
        while !self.take() {
            while self.locked.load(Ordering::Relaxed) {
                spins += 1;
                if spins.is_multiple_of(SPINS_BEFORE_YIELD) {
                    // The holder may have lost its processor; spinning on would keep it away.
                    sys::sched_yield();
                } else {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// Access to the value of a [`SpinLock`]; dropping it unlocks.
pub struct SpinGuard<'a, T: ?Sized> {
    lock: &'a SpinLock<T>,
}

impl<'a, T: ?Sized> SpinGuard<'a, T> {
    /// Unlocks; gives the lock, to be taken again.
    pub fn unlock(guard: Self) -> &'a SpinLock<T> {
        guard.lock
    }
}

impl<T: ?Sized> Deref for SpinGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only access to the value while it lives.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` makes this borrow unique.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Release pairs with the Acquire in `take`.
        self.lock.locked.store(false, Ordering::Release);
    }
}

/// Spins between two `sched_yield`s; about 2 µs.
const SPINS_BEFORE_YIELD: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn increments_of_many_threads_all_count() {
        let counter = Arc::new(SpinLock::new(0_u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || (0..10_000).for_each(|_| *counter.lock() += 1))
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*counter.lock(), 40_000);
    }

    #[test]
    fn a_held_lock_is_not_taken_twice() {
        let lock = SpinLock::new(());
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        assert!(lock.try_lock().is_none(), "a failed try leaves it held");
        drop(held);
        assert!(lock.try_lock().is_some());
    }
}
