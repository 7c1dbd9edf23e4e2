//! C11's threads.h: the same mutexes and condition variables under other names and codes.
//!
//! Knows: how C11 names results.   Does not know: how to wait; the pthread functions do.
//!
//! glibc's own call its pthread functions inside themselves, past ours. `mtx_init`, `mtx_destroy` and
//! what makes threads stay glibc's.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use libc::{pthread_cond_t, pthread_mutex_t, timespec};

use super::condition;
use super::mutex;
use super::raw::c_int;

/// One function of C11: its name, its arguments, what does it.
macro_rules! forward {
    ($($name:ident($($argument:ident: $kind:ty),+) = $does:path, $text:literal;)+) => {$(
        #[doc = $text]
        ///
        /// # Safety
        /// - As for libc's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $kind),+) -> c_int {
            // SAFETY: the program's own promise; the types are the same under other names.
            result(unsafe { $does($($argument),+) })
        }
    )+};
}

forward! {
    mtx_lock(mutex: *mut pthread_mutex_t) = mutex::pthread_mutex_lock, "C11 `mtx_lock`.";
    mtx_trylock(mutex: *mut pthread_mutex_t) = mutex::pthread_mutex_trylock, "C11 `mtx_trylock`.";
    mtx_timedlock(mutex: *mut pthread_mutex_t, time: *const timespec) = mutex::pthread_mutex_timedlock,
        "C11 `mtx_timedlock`.";
    mtx_unlock(mutex: *mut pthread_mutex_t) = mutex::pthread_mutex_unlock, "C11 `mtx_unlock`.";
    cnd_signal(condition: *mut pthread_cond_t) = condition::pthread_cond_signal, "C11 `cnd_signal`.";
    cnd_broadcast(condition: *mut pthread_cond_t) = condition::pthread_cond_broadcast,
        "C11 `cnd_broadcast`.";
    cnd_wait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) = condition::pthread_cond_wait,
        "C11 `cnd_wait`.";
    cnd_timedwait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, time: *const timespec) =
        condition::pthread_cond_timedwait, "C11 `cnd_timedwait`.";
}

/// C11 `cnd_init`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnd_init(condition: *mut pthread_cond_t) -> c_int {
    // SAFETY: the program's own promise.
    result(unsafe { condition::pthread_cond_init(condition, std::ptr::null()) })
}

/// C11 `cnd_destroy`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnd_destroy(condition: *mut pthread_cond_t) {
    // SAFETY: the program's own promise.
    unsafe { condition::pthread_cond_destroy(condition) };
}

/// What C11 calls an error of pthreads: `thrd_success`, `thrd_busy`, `thrd_nomem`, `thrd_timedout`,
/// `thrd_error`.
pub(super) fn result(error: c_int) -> c_int {
    match error {
        0 => 0,
        libc::EBUSY => 1,
        libc::ENOMEM => 3,
        libc::ETIMEDOUT => 4,
        _ => 2,
    }
}
