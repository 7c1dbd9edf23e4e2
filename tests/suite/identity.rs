//! A coroutine is a thread to whatever asks: C's locks, thread-locals, keys, thread ids, signals, fork.
//!
//! Tests run on one worker where nothing else is said: a call that blocked the worker instead of its
//! coroutine would hang, and a hang ends the run with the test's name.
//!
//! Knows: libc, the C compiler.   Does not know: the runtime's inside.

#![expect(
    unsafe_code,
    reason = "calls C functions by name, as C libraries would"
)]

mod async_runtimes;
mod c_library;
mod conditions;
mod ids;
mod locks;
mod signals;
mod thread_locals;

use std::cell::UnsafeCell;

use crate::hooks::{let_others_run, on_one_worker, on_workers};

/// A C object that coroutines and threads share; lives for ever.
struct Object<T: 'static>(&'static UnsafeCell<T>);

// SAFETY: the C functions that get the pointer are made for sharing.
unsafe impl<T> Send for Object<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Object<T> {}

impl<T> Clone for Object<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Object<T> {}

impl<T> Object<T> {
    fn new(value: T) -> Self {
        Self(Box::leak(Box::new(UnsafeCell::new(value))))
    }

    /// All bytes zero, as C's static initialisers leave it.
    fn zeroed() -> Self {
        // SAFETY: used for C structures of numbers and pointers alone.
        Self::new(unsafe { std::mem::zeroed() })
    }

    fn get(self) -> *mut T {
        self.0.get()
    }
}

/// `millis` from now on `clock`.
fn in_millis(clock: libc::clockid_t, millis: i64) -> libc::timespec {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a place for the time.
    assert_eq!(unsafe { libc::clock_gettime(clock, &raw mut time) }, 0);
    let nanos = time.tv_nsec + millis * 1_000_000;
    time.tv_sec += nanos.div_euclid(1_000_000_000);
    time.tv_nsec = nanos.rem_euclid(1_000_000_000);
    time
}

/// Runs every closure as a coroutine of its own and waits for all.
fn all_of<T, F>(count: u32, make: impl Fn(u32) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let handles: Vec<_> = (0..count).map(|i| rpc_core::spawn(make(i))).collect();
    handles.into_iter().map(|h| h.join().unwrap()).collect()
}
