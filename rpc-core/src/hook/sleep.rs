//! The sleep family: sleep, usleep, nanosleep, clock_nanosleep.
//!
//! Knows:         clocks and timespecs.
//! Does not know: deadlines and cancellation: std and C cannot bear an error here, so sleeps are exempt.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::time::Duration;

use libc::{c_uint, clockid_t, timespec, useconds_t};

use super::raw::{answer_int, c_int, failure, original};
use crate::base::time::Instant;
use crate::runtime::park::park;
use crate::runtime::{self, Reason};

/// `sleep(3)`.
///
/// # Safety
/// - As for libc's `sleep`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sleep(seconds: c_uint) -> c_uint {
    if runtime::current().is_some() {
        sleep_for(Duration::from_secs(u64::from(seconds)));
        return 0;
    }
    let mut left = timespec_of(Duration::from_secs(u64::from(seconds)));
    let place = &raw mut left;
    let result = original!(SYS_clock_nanosleep, libc::CLOCK_REALTIME, 0, place, place);
    if result == 0 {
        return 0;
    }
    // Interrupted: whole seconds left, rounded to the nearest as glibc's sleep gives them back.
    let half = c_uint::from(left.tv_nsec >= 500_000_000);
    c_uint::try_from(left.tv_sec).unwrap_or(0) + half
}

/// `usleep(3)`.
///
/// # Safety
/// - As for libc's `usleep`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn usleep(micros: useconds_t) -> c_int {
    let length = timespec_of(Duration::from_micros(u64::from(micros)));
    // SAFETY: `length` lives across the call; no remainder is asked for.
    unsafe { nanosleep(&raw const length, std::ptr::null_mut()) }
}

/// `nanosleep(2)`.
///
/// # Safety
/// - As for libc's `nanosleep`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nanosleep(length: *const timespec, left: *mut timespec) -> c_int {
    // SAFETY: the program's own promise.
    let result = unsafe { clock_sleep(libc::CLOCK_REALTIME, 0, length, left) };
    answer_int(result)
}

/// `clock_nanosleep(2)`, which returns the error instead of setting `errno`.
///
/// # Safety
/// - As for libc's `clock_nanosleep`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_nanosleep(
    clock: clockid_t,
    flags: c_int,
    length: *const timespec,
    left: *mut timespec,
) -> c_int {
    // SAFETY: the program's own promise.
    let result = unsafe { clock_sleep(clock, flags, length, left) };
    -result as c_int
}

/// # Safety
/// - As for libc's `clock_nanosleep`.
unsafe fn clock_sleep(
    clock: clockid_t,
    flags: c_int,
    length: *const timespec,
    left: *mut timespec,
) -> isize {
    let wall = matches!(
        clock,
        libc::CLOCK_REALTIME | libc::CLOCK_BOOTTIME | libc::CLOCK_TAI
    );
    // Clocks that count processor time cannot be slept on with a timer of ours.
    let ours = wall || clock == libc::CLOCK_MONOTONIC;
    // SAFETY: the caller's promise.
    let wanted = unsafe { length.as_ref() };
    let (Some(wanted), true, Some(_)) = (wanted, ours, runtime::current()) else {
        return original!(SYS_clock_nanosleep, clock, flags, length, left);
    };
    if !is_valid(wanted) {
        return failure(libc::EINVAL);
    }
    if flags & libc::TIMER_ABSTIME == 0 {
        sleep_for(duration_of(wanted));
    } else if wall {
        sleep_until_wall(clock, wanted);
    } else {
        sleep_until(Instant::ZERO + duration_of(wanted));
    }
    0
}

/// Parks the coroutine for `length`.
fn sleep_for(length: Duration) {
    if length.is_zero() {
        runtime::yield_now();
        return;
    }
    sleep_until(Instant::after(length));
}

/// Parks the coroutine until `until`, whatever wakes it in between.
fn sleep_until(until: Instant) {
    while Instant::now() < until {
        park(Reason::Sleep, until);
    }
}

/// A clock that can be set is read again each second.
fn sleep_until_wall(clock: clockid_t, wanted: &timespec) {
    loop {
        let left = until_on_clock(clock, wanted);
        if left.is_zero() {
            return;
        }
        sleep_until(Instant::after(left.min(RECHECK)));
    }
}

/// Time left until `wanted` on `clock`; zero when it has come.
pub(super) fn until_on_clock(clock: clockid_t, wanted: &timespec) -> Duration {
    let now = crate::base::sys::clock_gettime(clock);
    duration_of(wanted).saturating_sub(duration_of(&now))
}

/// True for times the kernel accepts.
pub(super) fn is_valid(spec: &timespec) -> bool {
    spec.tv_sec >= 0 && (0..1_000_000_000).contains(&spec.tv_nsec)
}

/// A timespec as a duration; negative parts count as zero.
pub(super) fn duration_of(spec: &timespec) -> Duration {
    let seconds = u64::try_from(spec.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(spec.tv_nsec).unwrap_or(0);
    Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos))
}

/// A duration as the kernel takes it.
pub(super) fn timespec_of(length: Duration) -> timespec {
    crate::base::sys::to_timespec(length)
}

/// How long a change of a settable clock may go unseen.
pub(super) const RECHECK: Duration = Duration::from_secs(1);
