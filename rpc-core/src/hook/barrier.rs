//! pthread barriers: our own, in the object's memory.
//!
//! Knows: rounds, how many have come, how many are inside.   Does not know: who they are.
//!
//! `pthread_barrier_init` stays glibc's, whose layout this follows where that writes; process-shared
//! barriers are glibc's whole.
//!
//! Invariants
//! - A-1  Round and arrivals are one number: who comes next after the last one is of the next round.
//! - A-2  `pthread_barrier_destroy` returns when everybody has left: none looks at the object later.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use libc::pthread_barrier_t;

use super::futex;
use super::mutex::ALL;
use super::raw::c_int;
use super::symbol::{Symbol, behind};
use super::until::Until;

/// `pthread_barrier_wait(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_barrier_wait(barrier: *mut pthread_barrier_t) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { Barrier::ours(barrier) } {
        Some(ours) => ours.wait(),
        // SAFETY: as above.
        None => futex::held(|| unsafe {
            behind!(Symbol::new(c"pthread_barrier_wait"), barrier: *mut pthread_barrier_t)
        }),
    }
}

/// `pthread_barrier_destroy(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_barrier_destroy(barrier: *mut pthread_barrier_t) -> c_int {
    // SAFETY: the program's own promise.
    match unsafe { Barrier::ours(barrier) } {
        Some(ours) => ours.destroy(),
        // SAFETY: as above.
        None => unsafe {
            behind!(Symbol::new(c"pthread_barrier_destroy"), barrier: *mut pthread_barrier_t)
        },
    }
}

/// A `pthread_barrier_t` that is not process-shared.
#[repr(C)]
struct Barrier {
    /// arrivals in the low half, the round in the high half.
    arrivals: AtomicU64,
    /// How many make a round.
    count: AtomicU32,
    /// Not 0 for process-shared ones.
    shared: AtomicU32,
    /// Calls of wait under way, and [`DESTROYING`].
    inside: AtomicU32,
}

const _: () = assert!(size_of::<Barrier>() <= size_of::<pthread_barrier_t>());

impl Barrier {
    /// The barrier, unless it is glibc's.
    ///
    /// # Safety
    /// - The pointer is to a barrier that lives while it is used.
    unsafe fn ours<'a>(barrier: *mut pthread_barrier_t) -> Option<&'a Self> {
        // SAFETY: the caller's promise; all in it is atomic.
        let ours = unsafe { &*barrier.cast::<Self>() };
        (ours.shared.load(Ordering::Relaxed) == 0).then_some(ours)
    }

    fn wait(&self) -> c_int {
        let count = u64::from(self.count.load(Ordering::Relaxed));
        self.inside.fetch_add(1, Ordering::Relaxed);
        let mut seen = self.arrivals.load(Ordering::Relaxed);
        let last = loop {
            let last = (seen & LOW_HALF) + 1 >= count;
            let next = if last {
                (seen & !LOW_HALF).wrapping_add(ROUND)
            } else {
                seen + 1
            };
            // Release and Acquire: whoever leaves sees what everybody wrote before.
            let swapped = self.arrivals.compare_exchange_weak(
                seen,
                next,
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => break last,
                Err(now) => seen = now,
            }
        };
        let round = (seen >> 32) as u32;
        if last {
            futex::wake(self.address(), u32::MAX, ALL);
        } else {
            let same = || (self.arrivals.load(Ordering::SeqCst) >> 32) as u32 == round;
            while same() {
                futex::wait(self.address(), round, ALL, Until::Never, same);
            }
        }
        self.leave();
        if last {
            PTHREAD_BARRIER_SERIAL_THREAD
        } else {
            0
        }
    }

    /// the caller's last touch.
    fn leave(&self) {
        let address = self.inside.as_ptr().addr();
        if self.inside.fetch_sub(1, Ordering::SeqCst) == DESTROYING + 1 {
            futex::wake(address, u32::MAX, ALL);
        }
    }

    fn destroy(&self) -> c_int {
        let mut left = self.inside.fetch_or(DESTROYING, Ordering::SeqCst) | DESTROYING;
        while left != DESTROYING {
            let unchanged = || self.inside.load(Ordering::SeqCst) == left;
            let address = self.inside.as_ptr().addr();
            futex::wait(address, left, ALL, Until::Never, unchanged);
            left = self.inside.load(Ordering::SeqCst);
        }
        0
    }

    /// Of the half that names the round, which is what waiters wait on.
    fn address(&self) -> usize {
        let high_half = if cfg!(target_endian = "little") { 4 } else { 0 };
        self.arrivals.as_ptr().addr() + high_half
    }
}

const LOW_HALF: u64 = u32::MAX as u64;
const ROUND: u64 = 1 << 32;
/// `pthread_barrier_destroy` waits for the last one inside.
const DESTROYING: u32 = 1 << 31;
/// What one of each round gets.
const PTHREAD_BARRIER_SERIAL_THREAD: c_int = -1;
