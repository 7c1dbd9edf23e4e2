//! pthread_once and C11's call_once: our own, in the flag's memory.
//!
//! Knows: the flag.   Does not know: what is run.
//!
//! Invariants
//! - N-1  The flag is 0 before, [`DONE`] after, else [`RUNNING`] plus the number of forks that this
//!   process has behind it: a child finds that whoever ran the function does not exist here, and runs
//!   it anew.
//! - N-2  Where the function unwinds (C++ does, through `std::call_once`), the flag is 0 again.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::sync::atomic::{AtomicU32, Ordering};

use libc::pthread_once_t;

use super::futex;
use super::mutex::ALL;
use super::raw::c_int;
use super::until::Until;

type Function = unsafe extern "C-unwind" fn();

/// `pthread_once(3)`. What the function throws goes on to the caller: the one hook that unwinds.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn pthread_once(once: *mut pthread_once_t, run: Function) -> c_int {
    // SAFETY: the program's own promise: an aligned `int` that lives for ever.
    let flag = unsafe { AtomicU32::from_ptr(once.cast()) };
    // Acquire pairs with the store in `End::drop`: we see what the function wrote.
    while flag.load(Ordering::Acquire) != DONE {
        let running = RUNNING | FORKS.load(Ordering::Relaxed);
        let seen = flag.load(Ordering::Acquire);
        if seen == running {
            let unchanged = || flag.load(Ordering::SeqCst) == running;
            let address = flag.as_ptr().addr();
            futex::wait(address, running, ALL, Until::Never, unchanged);
            continue;
        }
        let ours = seen != DONE
            && flag
                .compare_exchange(seen, running, Ordering::Acquire, Ordering::Relaxed)
                .is_ok();
        if ours {
            let mut end = End { flag, value: 0 };
            // SAFETY: the program's own promise.
            unsafe { run() };
            end.value = DONE;
        }
    }
    0
}

/// `call_once(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn call_once(flag: *mut pthread_once_t, run: Function) {
    // SAFETY: the program's own promise; a once_flag is one int, as a pthread_once_t.
    unsafe { pthread_once(flag, run) };
}

/// Tells the others when dropped (N-2).
struct End<'a> {
    flag: &'a AtomicU32,
    value: u32,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        let address = self.flag.as_ptr().addr();
        // Pairs with the Acquire loads of the others.
        self.flag.store(self.value, Ordering::SeqCst);
        futex::wake(address, u32::MAX, ALL);
    }
}

/// N-1, in a forked child.
pub(super) fn forked() {
    FORKS.fetch_add(FORK, Ordering::Relaxed);
}

static FORKS: AtomicU32 = AtomicU32::new(0);
const RUNNING: u32 = 1;
const DONE: u32 = 2;
/// Leaves the two low bits alone.
const FORK: u32 = 4;
