//! A coroutine whose calls never have to wait must still let the others run.
//!
//! Knows: how many calls went by without a wait.   Does not know: which calls.

use std::cell::Cell;

use crate::runtime;

thread_local! {
    /// Calls this coroutine may still make before it goes to the end of the queue.
    static LEFT: Cell<u32> = const { Cell::new(CALLS) };
}

/// Counts a call that may wait; from time to time the coroutine gives way before it.
#[inline]
pub(super) fn count_call() {
    let left = LEFT.get();
    if left == 0 {
        give_way();
    } else {
        LEFT.set(left - 1);
    }
}

/// The coroutine has waited, so that others ran.
#[inline]
pub(super) fn waited() {
    LEFT.set(CALLS);
}

#[cold]
fn give_way() {
    LEFT.set(CALLS);
    runtime::yield_now();
}

/// Calls in a row without a wait: some 50 µs of system calls.
const CALLS: u32 = 128;
