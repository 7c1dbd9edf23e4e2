//! pthread condition variables: our own, in the object's memory.
//!
//! Knows:         a number that changes with each signal, how many wait.
//! Does not know: what the mutex is; it may be one that glibc handles.
//!
//! glibc releases the mutex inside its own wait, where a coroutine that waits for it would not be woken,
//! so these functions replace its own for all threads. A process-shared one is handed to glibc whole,
//! and needs a process-shared mutex.
//!
//! Invariants
//! - V-1  A waiter is counted while it still holds the mutex: whoever changes what it waits for under
//!   the mutex finds it counted. It reads the number before it unlocks.
//! - V-2  `pthread_cond_destroy` returns when the last waiter has left: none looks at the object later.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::sync::atomic::{AtomicU32, Ordering};

use libc::{clockid_t, pthread_cond_t, pthread_condattr_t, pthread_mutex_t, timespec};

use super::futex;
use super::mutex::{ALL, pthread_mutex_lock, pthread_mutex_unlock};
use super::raw::{c_int, failure};
use super::symbol::{Symbol, behind};
use super::until::Until;

/// `pthread_cond_init(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_init(
    condition: *mut pthread_cond_t,
    attributes: *const pthread_condattr_t,
) -> c_int {
    let (mut clock, mut shared) = (libc::CLOCK_REALTIME, 0);
    if !attributes.is_null() {
        // SAFETY: the program's own promise; both places are ours.
        unsafe { libc::pthread_condattr_getclock(attributes, &raw mut clock) };
        // SAFETY: as above.
        unsafe { libc::pthread_condattr_getpshared(attributes, &raw mut shared) };
    }
    if shared == libc::PTHREAD_PROCESS_SHARED {
        // SAFETY: as above.
        let error = unsafe {
            behind!(
                symbol(c"pthread_cond_init"),
                condition: *mut pthread_cond_t,
                attributes: *const pthread_condattr_t
            )
        };
        // SAFETY: initialised just now.
        let known = error != 0 || unsafe { Condition::ours(condition) }.is_none();
        // A C library that marks shared ones in another way: no call could tell them from ours.
        return if known { error } else { libc::ENOSYS };
    }
    let monotonic = clock == libc::CLOCK_MONOTONIC;
    let fresh = Condition::new(if monotonic { MONOTONIC } else { 0 });
    // SAFETY: as above; the object is the program's to initialise, and as large.
    unsafe { condition.cast::<Condition>().write(fresh) };
    0
}

/// `pthread_cond_destroy(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_destroy(condition: *mut pthread_cond_t) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { Condition::ours(condition) } {
        Some(ours) => ours.destroy(),
        // SAFETY: as above.
        None => unsafe { behind!(symbol(c"pthread_cond_destroy"), condition: *mut pthread_cond_t) },
    }
}

/// `pthread_cond_signal(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_signal(condition: *mut pthread_cond_t) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { Condition::ours(condition) } {
        Some(ours) => ours.wake(1),
        // SAFETY: as above.
        None => unsafe { behind!(symbol(c"pthread_cond_signal"), condition: *mut pthread_cond_t) },
    }
}

/// `pthread_cond_broadcast(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_broadcast(condition: *mut pthread_cond_t) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { Condition::ours(condition) } {
        Some(ours) => ours.wake(u32::MAX),
        // SAFETY: as above.
        None => unsafe {
            behind!(symbol(c"pthread_cond_broadcast"), condition: *mut pthread_cond_t)
        },
    }
}

/// `pthread_cond_wait(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_wait(
    condition: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
) -> c_int {
    // SAFETY: the program's own promise.
    unsafe {
        match Condition::ours(condition) {
            Some(ours) => ours.wait(mutex, Until::Never),
            None => futex::held(|| {
                behind!(
                    symbol(c"pthread_cond_wait"),
                    condition: *mut pthread_cond_t,
                    mutex: *mut pthread_mutex_t
                )
            }),
        }
    }
}

/// `pthread_cond_timedwait(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_timedwait(
    condition: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: the program's own promise.
    unsafe {
        match (Condition::ours(condition), time.as_ref()) {
            (Some(ours), Some(time)) => ours.wait(mutex, ours.until(time)),
            _ => futex::held(|| {
                behind!(
                    symbol(c"pthread_cond_timedwait"),
                    condition: *mut pthread_cond_t,
                    mutex: *mut pthread_mutex_t,
                    time: *const timespec
                )
            }),
        }
    }
}

/// `pthread_cond_clockwait(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_clockwait(
    condition: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    clock: clockid_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: the program's own promise.
    unsafe {
        match (Condition::ours(condition), time.as_ref()) {
            (Some(ours), Some(time)) => match Until::on(clock, time) {
                Ok(until) => ours.wait(mutex, until),
                Err(error) => error,
            },
            _ => futex::held(|| {
                behind!(
                    Symbol::new(c"pthread_cond_clockwait"),
                    condition: *mut pthread_cond_t,
                    mutex: *mut pthread_mutex_t,
                    clock: clockid_t,
                    time: *const timespec
                )
            }),
        }
    }
}

/// A `pthread_cond_t` that is not process-shared. All zero is a fresh one.
#[repr(C)]
struct Condition {
    /// Changes with each signal; what waiters wait on.
    signals: AtomicU32,
    /// Calls of wait under way (V-1), and [`DESTROYING`].
    waiters: AtomicU32,
    _unused: [u32; 7],
    /// [`SHARED`] and [`MONOTONIC`], where glibc has them.
    flags: AtomicU32,
    _rest: [u32; 2],
}

const _: () = assert!(size_of::<Condition>() <= size_of::<pthread_cond_t>());

impl Condition {
    const fn new(flags: u32) -> Self {
        Self {
            signals: AtomicU32::new(0),
            waiters: AtomicU32::new(0),
            _unused: [0; 7],
            flags: AtomicU32::new(flags),
            _rest: [0; 2],
        }
    }

    /// The condition variable, unless it is glibc's.
    ///
    /// # Safety
    /// - The pointer is to a condition variable that lives while it is used.
    unsafe fn ours<'a>(condition: *mut pthread_cond_t) -> Option<&'a Self> {
        // SAFETY: the caller's promise; all that is shared in it is atomic.
        let ours = unsafe { &*condition.cast::<Self>() };
        (ours.flags.load(Ordering::Relaxed) & SHARED == 0).then_some(ours)
    }

    fn until<'a>(&self, time: &'a timespec) -> Until<'a> {
        if self.flags.load(Ordering::Relaxed) & MONOTONIC != 0 {
            Until::Monotonic(time)
        } else {
            Until::Wall(time)
        }
    }

    /// # Safety
    /// - The caller holds `mutex`.
    unsafe fn wait(&self, mutex: *mut pthread_mutex_t, until: Until<'_>) -> c_int {
        if until.check() == Err(libc::EINVAL) {
            return libc::EINVAL;
        }
        // V-1.
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let seen = self.signals.load(Ordering::SeqCst);
        // SAFETY: the caller's promise.
        let unlocked = unsafe { pthread_mutex_unlock(mutex) };
        if unlocked != 0 {
            self.leave();
            return unlocked;
        }
        let result = self.wait_for_change(seen, until);
        self.leave();
        // SAFETY: as above.
        let locked = unsafe { pthread_mutex_lock(mutex) };
        if locked != 0 { locked } else { result }
    }

    /// Until the number is no longer `seen`: 0 or ETIMEDOUT.
    fn wait_for_change(&self, seen: u32, until: Until<'_>) -> c_int {
        let address = self.signals.as_ptr().addr();
        loop {
            if let Err(error) = until.check() {
                return error;
            }
            let unchanged = || self.signals.load(Ordering::SeqCst) == seen;
            let result = futex::wait(address, seen, ALL, until, unchanged);
            if result == failure(libc::ETIMEDOUT) {
                return libc::ETIMEDOUT;
            }
            if result != failure(libc::EINTR) {
                return 0;
            }
        }
    }

    /// V-2: the waiter's last touch.
    fn leave(&self) {
        let address = self.waiters.as_ptr().addr();
        if self.waiters.fetch_sub(1, Ordering::SeqCst) == DESTROYING + 1 {
            futex::wake(address, u32::MAX, ALL);
        }
    }

    fn wake(&self, wanted: u32) -> c_int {
        // V-1.
        if self.waiters.load(Ordering::SeqCst) & !DESTROYING != 0 {
            self.signals.fetch_add(1, Ordering::SeqCst);
            futex::wake(self.signals.as_ptr().addr(), wanted, ALL);
        }
        0
    }

    fn destroy(&self) -> c_int {
        let mut left = self.waiters.fetch_or(DESTROYING, Ordering::SeqCst) | DESTROYING;
        while left != DESTROYING {
            let unchanged = || self.waiters.load(Ordering::SeqCst) == left;
            let address = self.waiters.as_ptr().addr();
            futex::wait(address, left, ALL, Until::Never, unchanged);
            left = self.waiters.load(Ordering::SeqCst);
        }
        0
    }
}

/// glibc's own, of the version that uses 48 bytes; before 2.3.2 there were others of that name.
const fn symbol(name: &'static std::ffi::CStr) -> Symbol {
    Symbol::versioned(name, VERSION)
}

#[cfg(target_arch = "x86_64")]
const VERSION: &std::ffi::CStr = c"GLIBC_2.3.2";
#[cfg(not(target_arch = "x86_64"))]
const VERSION: &std::ffi::CStr = c"";

/// `__PTHREAD_COND_SHARED_MASK` of glibc 2.25 and later.
const SHARED: u32 = 1;
/// `__PTHREAD_COND_CLOCK_MONOTONIC_MASK`.
const MONOTONIC: u32 = 2;
/// `pthread_cond_destroy` waits for the last waiter.
const DESTROYING: u32 = 1 << 31;
