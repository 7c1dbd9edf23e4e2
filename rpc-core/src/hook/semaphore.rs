//! POSIX semaphores: glibc's protocol, with waits that park coroutines.
//!
//! Knows:         the count, and how many wait for it.
//! Does not know: deadlines and cancellation.
//!
//! Count and waiters are one number, as in glibc, so that a post does not touch a semaphore that its
//! waiter has taken and destroyed meanwhile; and a process-shared semaphore means the same to programs
//! without these hooks. A post by a signal handler wakes through `bell`. `sem_init`, `sem_getvalue`, `sem_open` and their kin stay glibc's.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use libc::{clockid_t, sem_t, timespec};

use super::mutex::ALL;
use super::raw::{answer_int, c_int, failure, original};
use super::until::Until;
use super::{bell, futex, signal};
use crate::runtime;

/// `sem_post(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_post(semaphore: *mut sem_t) -> c_int {
    // SAFETY: the program's own promise.
    answer_int(unsafe { Semaphore::at(semaphore) }.post())
}

/// `sem_wait(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_wait(semaphore: *mut sem_t) -> c_int {
    // SAFETY: the program's own promise.
    answer_int(unsafe { Semaphore::at(semaphore) }.wait(Until::Never))
}

/// `sem_trywait(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_trywait(semaphore: *mut sem_t) -> c_int {
    // SAFETY: the program's own promise.
    let taken = unsafe { Semaphore::at(semaphore) }.take(0);
    answer_int(if taken { 0 } else { failure(libc::EAGAIN) })
}

/// `sem_timedwait(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_timedwait(semaphore: *mut sem_t, time: *const timespec) -> c_int {
    // SAFETY: the program's own promise.
    answer_int(unsafe { Semaphore::at(semaphore).wait(Until::Wall(&*time)) })
}

/// `sem_clockwait(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sem_clockwait(
    semaphore: *mut sem_t,
    clock: clockid_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: the program's own promise.
    let (semaphore, time) = unsafe { (Semaphore::at(semaphore), &*time) };
    answer_int(match Until::on(clock, time) {
        Ok(until) => semaphore.wait(until),
        Err(error) => failure(error),
    })
}

/// A `sem_t`, in glibc's layout for 64 bits.
#[repr(C)]
struct Semaphore {
    /// The count in the low half, calls that wait in the high half.
    data: AtomicU64,
    /// Not 0 for process-shared ones.
    shared: AtomicU32,
}

impl Semaphore {
    /// # Safety
    /// - The pointer is to a semaphore that lives while it is used.
    unsafe fn at<'a>(semaphore: *mut sem_t) -> &'a Self {
        // SAFETY: the caller's promise; all in it is atomic.
        unsafe { &*semaphore.cast::<Self>() }
    }

    fn post(&self) -> isize {
        let (address, shared) = (self.address(), self.is_shared());
        let mut seen = self.data.load(Ordering::Relaxed);
        loop {
            if seen & COUNT == COUNT_MAX {
                return failure(libc::EOVERFLOW);
            }
            // SeqCst: a waiter links itself before it looks at the count (F-3).
            match self.data.compare_exchange_weak(
                seen,
                seen + 1,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        // From here on the semaphore may be gone.
        if seen >= WAITER {
            if shared {
                original!(SYS_futex, address, libc::FUTEX_WAKE, 1);
            } else if signal::in_handler() {
                let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
                original!(SYS_futex, address, operation, 1);
                bell::ring(address);
            } else {
                futex::wake(address, 1, ALL);
            }
        }
        0
    }

    /// Takes one, and `waiters` waiters out with it, if there is one to take.
    fn take(&self, waiters: u64) -> bool {
        let mut seen = self.data.load(Ordering::SeqCst);
        while seen & COUNT != 0 {
            // Acquire pairs with the exchange in `post`.
            match self.data.compare_exchange_weak(
                seen,
                seen - 1 - waiters,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    fn wait(&self, until: Until<'_>) -> isize {
        if self.take(0) {
            return 0;
        }
        if let Err(error) = until.check() {
            return failure(error);
        }
        self.data.fetch_add(WAITER, Ordering::SeqCst);
        let in_kernel = self.is_shared() || (runtime::current().is_some() && !bell::listen());
        while !self.take(WAITER) {
            let unchanged = || self.data.load(Ordering::SeqCst) & COUNT == 0;
            let result = if in_kernel {
                futex::wait_in_kernel(self.address(), 0, until, self.is_shared())
            } else {
                futex::wait(self.address(), 0, ALL, until, unchanged)
            };
            if result < 0 && result != failure(libc::EAGAIN) {
                self.data.fetch_sub(WAITER, Ordering::Relaxed);
                return result;
            }
        }
        0
    }

    fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed) != 0
    }

    /// Of the half that counts, which is what waiters wait on.
    fn address(&self) -> usize {
        let low_half = if cfg!(target_endian = "little") { 0 } else { 4 };
        self.data.as_ptr().addr() + low_half
    }
}

const COUNT: u64 = u32::MAX as u64;
/// `SEM_VALUE_MAX`.
const COUNT_MAX: u64 = i32::MAX as u64;
const WAITER: u64 = 1 << 32;
