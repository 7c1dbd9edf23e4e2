//! Threads by handle: joining them, and the calls that hand a thread's id to the kernel.
//!
//! glibc waits for a thread's end by a futex inside itself that no symbol of ours can catch: a coroutine
//! waits through a pidfd of the thread (Linux 6.9), or on the blocking pool. A thread that has ended is
//! joined at once. Deadlines do not cut it: std cannot bear an error there.
//!
//! A coroutine's thread id is known to nobody else: for calls about the coroutine itself the worker's
//! stands in its place. Affinity and scheduling are the worker's. Another coroutine's handle gives ESRCH,
//! but for `pthread_kill`, which sends to the process: who will run that coroutine is not known.
//!
//! Knows: pthread handles, ids, pidfds.   Does not know: what threads do.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::os::fd::RawFd;

use libc::{c_void, clockid_t, cpu_set_t, pthread_attr_t, pthread_t, sched_param, timespec};

use super::pool;
use super::raw::{c_int, original};
use super::symbol::{Symbol, behind};
use super::until::{Limit, Until};
use crate::base::sys;
use crate::coroutine::identity::Facts;
use crate::runtime;
use crate::runtime::reactor::{Dir, Io, Wait};

/// `pthread_join(3)`.
///
/// # Safety
/// - As for libc's `pthread_join`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_join(thread: pthread_t, value: *mut *mut c_void) -> c_int {
    let original = move |value: *mut *mut c_void| {
        // SAFETY: the program's own promise.
        unsafe { behind!(Symbol::new(c"pthread_join"), thread: pthread_t, value: *mut *mut c_void) }
    };
    // SAFETY: as above.
    unsafe { join(thread, value, Until::Never, original) }
}

/// `pthread_timedjoin_np(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_timedjoin_np(
    thread: pthread_t,
    value: *mut *mut c_void,
    time: *const timespec,
) -> c_int {
    // SAFETY: the program's own promise.
    unsafe { pthread_clockjoin_np(thread, value, libc::CLOCK_REALTIME, time) }
}

/// `pthread_clockjoin_np(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_clockjoin_np(
    thread: pthread_t,
    value: *mut *mut c_void,
    clock: clockid_t,
    time: *const timespec,
) -> c_int {
    // SAFETY: the program's own promise: null or a time.
    let until = unsafe { time.as_ref() }.copied();
    let original = move |value: *mut *mut c_void| {
        let time = until.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: as above.
        unsafe {
            behind!(
                Symbol::new(c"pthread_clockjoin_np"),
                thread: pthread_t,
                value: *mut *mut c_void,
                clock: clockid_t,
                time: *const timespec
            )
        }
    };
    match until
        .as_ref()
        .map_or(Ok(Until::Never), |time| Until::on(clock, time))
    {
        // SAFETY: as above.
        Ok(until) => unsafe { join(thread, value, until, original) },
        Err(error) => error,
    }
}

/// Joins as `original` does, which holds its thread while it waits.
///
/// # Safety
/// - As for libc's `pthread_join`.
unsafe fn join(
    thread: pthread_t,
    value: *mut *mut c_void,
    until: Until<'_>,
    original: impl Fn(*mut *mut c_void) -> c_int + Send + 'static,
) -> c_int {
    if runtime::current().is_none() {
        return original(value);
    }
    // EBUSY means that nothing was done.
    // SAFETY: the caller's promise.
    let try_join = || unsafe { pthread_tryjoin_np(thread, value) };
    let ended = try_join();
    if ended != libc::EBUSY {
        return ended;
    }
    if let Err(error) = until.check() {
        return error;
    }
    if let Some(joined) = through_pidfd(thread, &until.limit(), try_join) {
        return joined;
    }
    let joined = pool::run(move || {
        let mut value = std::ptr::null_mut();
        (original(&raw mut value), value.expose_provenance())
    });
    let Some((code, found)) = joined else {
        return libc::EAGAIN;
    };
    if code == 0 && !value.is_null() {
        // SAFETY: the program's place for the thread's value.
        unsafe { value.write(std::ptr::with_exposed_provenance_mut(found)) };
    }
    code
}

/// C11 `thrd_join`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn thrd_join(thread: pthread_t, value: *mut c_int) -> c_int {
    let mut found = std::ptr::null_mut();
    // SAFETY: the program's own promise.
    let error = unsafe { pthread_join(thread, &raw mut found) };
    if error == 0 && !value.is_null() {
        // SAFETY: as above. C11's threads return an int, kept in the pointer.
        unsafe { value.write(found.addr() as c_int) };
    }
    super::c11::result(error)
}

/// Parks until `try_join` has an answer or the time is up; `None` where the kernel has no pidfd of threads,
/// or a cancelled coroutine cannot wait for one.
fn through_pidfd(thread: pthread_t, limit: &Limit, try_join: impl Fn() -> c_int) -> Option<c_int> {
    let tid = Facts::known()?.tid_of(thread as usize);
    let pidfd = original!(SYS_pidfd_open, tid, PIDFD_THREAD);
    if pidfd < 0 {
        return None;
    }
    super::create::renewed(pidfd);
    let pidfd = pidfd as RawFd;
    let joined = Io::acquire().and_then(|io| {
        let joined = until_joined(io, pidfd, limit, try_join);
        io.release();
        joined
    });
    original!(SYS_close, pidfd);
    joined
}

fn until_joined(
    io: &'static Io,
    pidfd: RawFd,
    limit: &Limit,
    try_join: impl Fn() -> c_int,
) -> Option<c_int> {
    loop {
        let seen = io.tick(Dir::Read);
        let joined = try_join();
        if joined != libc::EBUSY {
            return Some(joined);
        }
        let (next, is_over) = limit.next();
        if is_over {
            return Some(libc::ETIMEDOUT);
        }
        match io.wait(pidfd, Dir::Read, seen, next) {
            Wait::Ready | Wait::TimedOut => {}
            Wait::Cancelled | Wait::Closed | Wait::Unsupported => return None,
        }
    }
}

/// Calls about one thread that hand its id to the kernel.
macro_rules! by_id {
    ($($name:ident, $symbol:literal, $text:literal, ($($argument:ident: $kind:ty),*);)+) => {$(
        #[doc = $text]
        ///
        /// # Safety
        /// - As for libc's function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(thread: pthread_t, $($argument: $kind),*) -> c_int {
            // SAFETY: the program's own promise.
            with_real_id(thread, || unsafe {
                behind!(Symbol::new($symbol), thread: pthread_t $(, $argument: $kind)*)
            })
        }
    )+};
}

by_id! {
    pthread_getattr_np, c"pthread_getattr_np", "`pthread_getattr_np(3)`.", (attr: *mut pthread_attr_t);
    pthread_getaffinity_np, c"pthread_getaffinity_np", "`pthread_getaffinity_np(3)`.",
        (size: usize, set: *mut cpu_set_t);
    pthread_setaffinity_np, c"pthread_setaffinity_np", "`pthread_setaffinity_np(3)`.",
        (size: usize, set: *const cpu_set_t);
    pthread_getschedparam, c"pthread_getschedparam", "`pthread_getschedparam(3)`.",
        (policy: *mut c_int, param: *mut sched_param);
    pthread_setschedparam, c"pthread_setschedparam", "`pthread_setschedparam(3)`.",
        (policy: c_int, param: *const sched_param);
    pthread_setschedprio, c"pthread_setschedprio", "`pthread_setschedprio(3)`.", (priority: c_int);
    pthread_getcpuclockid, c"pthread_getcpuclockid", "`pthread_getcpuclockid(3)`.", (clock: *mut clockid_t);
}

/// `pthread_kill(3)`.
///
/// # Safety
/// - As for libc's function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_kill(thread: pthread_t, signal: c_int) -> c_int {
    let coroutine = Facts::known().is_some_and(|facts| facts.is_block(thread as usize));
    if coroutine && !is_caller(thread) {
        return -original!(SYS_kill, sys::getpid(), signal) as c_int;
    }
    // glibc asks the kernel for the caller's own id.
    // SAFETY: the program's own promise.
    unsafe { behind!(Symbol::new(c"pthread_kill"), thread: pthread_t, signal: c_int) }
}

fn is_caller(thread: pthread_t) -> bool {
    // SAFETY: no arguments.
    thread == unsafe { libc::pthread_self() }
}

/// Runs `call` while the calling coroutine's block, if `thread` is that, holds the worker's id.
pub(super) fn with_real_id<T>(thread: pthread_t, call: impl FnOnce() -> T) -> T {
    match Facts::known() {
        Some(facts) if is_caller(thread) && facts.is_block(thread as usize) => {
            // SAFETY: the caller's own block; nobody else looks at it meanwhile, and `call` is glibc's.
            unsafe { facts.with_tid(thread as usize, sys::gettid(), call) }
        }
        _ => call(),
    }
}

/// Finds in advance what signal handlers may call.
pub(super) fn prepare() {
    // SAFETY: signal 0 is sent to nobody.
    unsafe { pthread_kill(libc::pthread_self(), 0) };
}

/// `PIDFD_THREAD` of linux/pidfd.h.
const PIDFD_THREAD: c_int = libc::O_EXCL;

unsafe extern "C" {
    fn pthread_tryjoin_np(thread: pthread_t, value: *mut *mut c_void) -> c_int;
}
