//! select and pselect, on poll's way of waiting.
//!
//! Knows:         descriptor sets as bit maps.
//! Does not know: how to wait; that is `readiness`.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::os::fd::RawFd;
use std::time::Duration;

use libc::{fd_set, sigset_t, timespec, timeval};

use super::raw::{answer_int, c_int, failure, original};
use super::readiness::{SIGSET_SIZE, wait_for};
use super::{classify, sleep};
use crate::base::time::Instant;
use crate::runtime;

/// `select(2)`.
///
/// # Safety
/// - As for libc's `select`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn select(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: the program's own promise.
    let place = unsafe { timeout.as_mut() };
    let length = place
        .as_ref()
        .map(|t| Duration::from_nanos(classify::timeval_nanos(t.tv_sec, t.tv_usec)));
    if place
        .as_ref()
        .is_some_and(|t| t.tv_sec < 0 || t.tv_usec < 0)
    {
        return answer_int(failure(libc::EINVAL));
    }
    let begun = Instant::now();
    let sets = [read, write, except];
    // SAFETY: the program's own promise.
    let result = unsafe { select_on(count, sets, length, std::ptr::null()) };
    if let (Some(place), Some(length)) = (place, length) {
        // Linux leaves the time that is left.
        let left = length.saturating_sub(begun.elapsed());
        place.tv_sec = left.as_secs() as libc::time_t;
        place.tv_usec = libc::suseconds_t::from(left.subsec_micros());
    }
    answer_int(result)
}

/// `pselect(2)`.
///
/// # Safety
/// - As for libc's `pselect`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pselect(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the program's own promise.
    let timeout = unsafe { timeout.as_ref() };
    if timeout.is_some_and(|t| !sleep::is_valid(t)) {
        return answer_int(failure(libc::EINVAL));
    }
    let length = timeout.map(sleep::duration_of);
    let sets = [read, write, except];
    // SAFETY: the program's own promise.
    answer_int(unsafe { select_on(count, sets, length, mask) })
}

/// # Safety
/// - As for libc's `pselect`.
unsafe fn select_on(
    count: c_int,
    sets: [*mut fd_set; 3],
    timeout: Option<Duration>,
    mask: *const sigset_t,
) -> isize {
    let ask = |sets: [*mut fd_set; 3], timeout: Option<Duration>| {
        let mut time = sleep::timespec_of(timeout.unwrap_or_default());
        let time = if timeout.is_some() {
            &raw mut time
        } else {
            std::ptr::null_mut()
        };
        let mask = [mask as usize, SIGSET_SIZE];
        let mask = mask.as_ptr();
        original!(SYS_pselect6, count, sets[0], sets[1], sets[2], time, mask)
    };
    let in_range = (0..=libc::FD_SETSIZE as c_int).contains(&count);
    let (Some(task), true) = (
        runtime::current(),
        in_range && timeout != Some(Duration::ZERO),
    ) else {
        return ask(sets, timeout);
    };
    // What the program wants; the kernel overwrites the sets with what is ready.
    // SAFETY: null or the program's sets.
    let wanted = sets.map(|set| unsafe { set.as_ref() }.copied());
    let attempt = || {
        let mut found = wanted;
        let places = found
            .each_mut()
            .map(|set| set.as_mut().map_or(std::ptr::null_mut(), |s| &raw mut *s));
        let result = ask(places, Some(Duration::ZERO));
        if result > 0 {
            publish(&sets, &found);
        }
        result
    };
    let result = attempt();
    if result != 0 {
        return result;
    }
    let until = timeout.map_or(Instant::NEVER, Instant::after);
    let result = wait_for(task, until, || members(count, &wanted), attempt);
    if result == 0 {
        publish(&sets, &wanted.map(|set| set.map(|_| EMPTY_SET)));
    }
    result
}

/// Gives the program its sets.
fn publish(sets: &[*mut fd_set; 3], values: &[Option<fd_set>; 3]) {
    for (place, value) in sets.iter().zip(values) {
        if let Some(value) = value {
            // SAFETY: a value stands here only for a set that the program passed.
            unsafe { place.write(*value) };
        }
    }
}

/// The descriptors in the sets, as poll would name them.
fn members(
    count: c_int,
    wanted: &[Option<fd_set>; 3],
) -> impl Iterator<Item = (RawFd, i16)> + use<'_> {
    (0..count).filter_map(move |fd| {
        let has = |i: usize| {
            wanted[i]
                .as_ref()
                // SAFETY: `fd` is below FD_SETSIZE.
                .is_some_and(|set| unsafe { libc::FD_ISSET(fd, set) })
        };
        let mut events = 0;
        if has(0) {
            events |= libc::POLLIN;
        }
        if has(1) {
            events |= libc::POLLOUT;
        }
        if has(2) {
            events |= libc::POLLPRI;
        }
        (events != 0).then_some((fd, events))
    })
}

// SAFETY: a set of no descriptors.
const EMPTY_SET: fd_set = unsafe { std::mem::zeroed() };
