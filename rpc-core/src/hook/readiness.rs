//! Waiting for one of many: poll, ppoll, epoll_wait and its kin; `select` is next door.
//!
//! Knows:         descriptor sets, the coroutine that waits for them.
//! Does not know: what happens on a descriptor once it is ready.
//!
//! poll registers with every descriptor and waits once. epoll_wait asks with timeout 0 and
//! waits for the epoll descriptor itself, which the kernel calls readable when events are due.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::time::Duration;

use libc::{epoll_event, nfds_t, pollfd, sigset_t, timespec};

use super::description::Handle;
use super::raw::{answer_int, c_int, failure, original};
use super::{cut, fairness, sleep, table};
use crate::base::time::Instant;
use crate::runtime::park::park;
use crate::runtime::reactor::{Dir, Io, Wait};
use crate::runtime::{self, Reason, TaskRef};

/// `poll(2)`; in a coroutine it waits for the coroutine alone.
///
/// # Safety
/// - As for libc's `poll`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poll(fds: *mut pollfd, count: nfds_t, millis: c_int) -> c_int {
    let timeout = u64::try_from(millis).ok().map(Duration::from_millis);
    let set = Polled {
        fds,
        count,
        mask: std::ptr::null(),
    };
    answer_int(set.poll(timeout))
}

/// `ppoll(2)`.
///
/// # Safety
/// - As for libc's `ppoll`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the program's own promise.
    let timeout = unsafe { timeout.as_ref() };
    if timeout.is_some_and(|t| !sleep::is_valid(t)) {
        return answer_int(failure(libc::EINVAL));
    }
    let set = Polled { fds, count, mask };
    answer_int(set.poll(timeout.map(sleep::duration_of)))
}

/// `__poll_chk`: `poll` under `_FORTIFY_SOURCE`.
///
/// # Safety
/// - As for libc's `poll`; `room` is the size of the array in bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __poll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    millis: c_int,
    room: usize,
) -> c_int {
    super::input::check(count as usize <= room / size_of::<pollfd>());
    // SAFETY: the program's own promise.
    unsafe { poll(fds, count, millis) }
}

/// `__ppoll_chk`: `ppoll` under `_FORTIFY_SOURCE`.
///
/// # Safety
/// - As for libc's `ppoll`; `room` is the size of the array in bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __ppoll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    room: usize,
) -> c_int {
    super::input::check(count as usize <= room / size_of::<pollfd>());
    // SAFETY: the program's own promise.
    unsafe { ppoll(fds, count, timeout, mask) }
}

/// `epoll_wait(2)`; in a coroutine it waits for the coroutine alone. Deadlines do not reach it.
///
/// # Safety
/// - As for libc's `epoll_wait`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    room: c_int,
    millis: c_int,
) -> c_int {
    // SAFETY: the program's own promise.
    unsafe { epoll_pwait(epoll, events, room, millis, std::ptr::null()) }
}

/// `epoll_pwait(2)`.
///
/// # Safety
/// - As for libc's `epoll_pwait`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_pwait(
    epoll: c_int,
    events: *mut epoll_event,
    room: c_int,
    millis: c_int,
    mask: *const sigset_t,
) -> c_int {
    let ask = |millis: c_int| {
        original!(
            SYS_epoll_pwait,
            epoll,
            events,
            room,
            millis,
            mask,
            SIGSET_SIZE
        )
    };
    let current = runtime::current();
    if current.is_some() {
        fairness::count_call();
    }
    let (Some(task), true) = (current, millis != 0) else {
        return answer_int(ask(millis));
    };
    let timeout = u64::try_from(millis).ok().map(Duration::from_millis);
    answer_int(epoll_in_coroutine(task, epoll, timeout, || ask(0)))
}

/// `epoll_pwait2(2)`.
///
/// # Safety
/// - As for libc's `epoll_pwait2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_pwait2(
    epoll: c_int,
    events: *mut epoll_event,
    room: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let ask = |timeout: *const timespec| {
        original!(
            SYS_epoll_pwait2,
            epoll,
            events,
            room,
            timeout,
            mask,
            SIGSET_SIZE
        )
    };
    // SAFETY: the program's own promise.
    let length = unsafe { timeout.as_ref() };
    let Some(task) = runtime::current().filter(|_| length.is_none_or(sleep::is_valid)) else {
        return answer_int(ask(timeout));
    };
    let at_once = sleep::timespec_of(Duration::ZERO);
    let length = length.map(sleep::duration_of);
    answer_int(epoll_in_coroutine(task, epoll, length, || {
        ask(&raw const at_once)
    }))
}

fn epoll_in_coroutine(
    task: TaskRef,
    epoll: RawFd,
    timeout: Option<Duration>,
    ask: impl Fn() -> isize,
) -> isize {
    let result = ask();
    if result != 0 || timeout == Some(Duration::ZERO) {
        return result;
    }
    let until = timeout.map_or(Instant::NEVER, Instant::after);
    let Some(handle) = Handle::find(epoll) else {
        return result;
    };
    let acquired = handle.io_or_acquire(Dir::Read);
    let Some(acquired) = acquired else {
        return failure(libc::ENOMEM);
    };
    let (io, mut seen) = (acquired.io, acquired.seen);
    let mut ask_again = !acquired.fresh;
    loop {
        if ask_again {
            seen = io.tick(Dir::Read);
            let result = ask();
            if result != 0 {
                return result;
            }
        }
        ask_again = true;
        if Instant::now() >= until {
            return 0;
        }
        if !handle.is_current() {
            return failure(libc::EBADF);
        }
        match io.wait_exempt(epoll, Dir::Read, seen, until) {
            Wait::Ready | Wait::TimedOut | Wait::Cancelled => {}
            Wait::Closed => return failure(libc::EBADF),
            // Not even the watcher has room: look at it now and then.
            Wait::Unsupported => park(Reason::Io(epoll, Dir::Read), slice(until)),
        }
        debug_assert!(runtime::current() == Some(task), "a coroutine stays itself");
    }
}

/// The arguments of a poll.
struct Polled {
    fds: *mut pollfd,
    count: nfds_t,
    mask: *const sigset_t,
}

impl Polled {
    fn poll(&self, timeout: Option<Duration>) -> isize {
        let Some(task) = runtime::current() else {
            return self.ask(timeout);
        };
        fairness::count_call();
        if timeout == Some(Duration::ZERO) {
            return self.ask(timeout);
        }
        self.in_coroutine(task, timeout)
    }

    /// The kernel's answer.
    fn ask(&self, timeout: Option<Duration>) -> isize {
        let mut time = sleep::timespec_of(timeout.unwrap_or_default());
        let time = if timeout.is_some() {
            &raw mut time
        } else {
            std::ptr::null_mut()
        };
        original!(
            SYS_ppoll,
            self.fds,
            self.count,
            time,
            self.mask,
            SIGSET_SIZE
        )
    }

    fn in_coroutine(&self, task: TaskRef, timeout: Option<Duration>) -> isize {
        let result = self.ask(Some(Duration::ZERO));
        if result != 0 {
            return result;
        }
        let until = timeout.map_or(Instant::NEVER, Instant::after);
        // SAFETY: the kernel has just read `count` entries there.
        let entries = unsafe { entries_at(self.fds, self.count as usize) };
        wait_for(
            task,
            until,
            || entries.iter().map(|e| (e.fd, e.events)),
            || self.ask(Some(Duration::ZERO)),
        )
    }
}

/// # Safety
/// - `count` entries at `fds`, which may be null for none.
unsafe fn entries_at<'a>(fds: *const pollfd, count: usize) -> &'a [pollfd] {
    if count == 0 || fds.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(fds, count) }
}

/// Waits until `ask` says something else than 0, for the descriptors and events of `entries`.
pub(super) fn wait_for<I: Iterator<Item = (RawFd, i16)>>(
    task: TaskRef,
    until: Instant,
    entries: impl Fn() -> I,
    ask: impl Fn() -> isize,
) -> isize {
    let wanted = entries().filter(|(fd, _)| *fd >= 0).count();
    if wanted == 0 {
        // No descriptor: a sleep, and exempt like one.
        while Instant::now() < until {
            park(Reason::Sleep, until);
        }
        return 0;
    }
    let Some(mut sources) = Sources::with_room(wanted * 2) else {
        return failure(libc::ENOMEM);
    };
    loop {
        sources.fill(entries());
        // Edges up to here are counted: what comes later ends the wait.
        if !sources.all_fresh {
            let result = ask();
            if result != 0 {
                return result;
            }
        }
        if Instant::now() >= until {
            return 0;
        }
        let limit = until.min(task.deadline());
        let limit = if sources.complete {
            limit
        } else {
            slice(limit)
        };
        match Io::wait_any(sources.slice(), limit) {
            Wait::Cancelled => return cut_short(entries(), libc::ECANCELED),
            Wait::Unsupported => park(Reason::Sleep, slice(until)),
            Wait::Ready | Wait::Closed | Wait::TimedOut => {}
        }
        let result = ask();
        if result != 0 {
            return result;
        }
        let now = Instant::now();
        if now >= until {
            return 0;
        }
        if now >= task.deadline() {
            return cut_short(entries(), libc::ETIMEDOUT);
        }
    }
}

/// The scope ends a poll: the conversations it watched are out of step.
fn cut_short(entries: impl Iterator<Item = (RawFd, i16)>, errno: c_int) -> isize {
    for (fd, _) in entries {
        if let Some(handle) = Handle::known(fd)
            && handle.description.kind().is_stream_socket()
            && !super::classify::is_listening(fd)
        {
            cut::end_conversation(&handle);
        }
    }
    cut::before_failing();
    failure(errno)
}

type Source = (&'static Io, RawFd, Dir, u32);

/// Slots to wait on: a few on the stack, many in memory straight from the kernel.
struct Sources {
    inline: [MaybeUninit<Source>; INLINE],
    mapped: *mut MaybeUninit<Source>,
    room: usize,
    len: usize,
    /// No slot had counted an edge before the last `fill`.
    all_fresh: bool,
    /// Every descriptor has a slot: nothing can happen unseen.
    complete: bool,
}

impl Sources {
    /// `None` when the kernel has no memory.
    fn with_room(room: usize) -> Option<Self> {
        let mapped = if room > INLINE {
            table::map(room * size_of::<Source>())?.cast()
        } else {
            std::ptr::null_mut()
        };
        Some(Self {
            inline: [const { MaybeUninit::uninit() }; INLINE],
            mapped,
            room,
            len: 0,
            all_fresh: true,
            complete: true,
        })
    }

    fn places(&mut self) -> &mut [MaybeUninit<Source>] {
        if self.mapped.is_null() {
            return &mut self.inline;
        }
        // SAFETY: `with_room` mapped that many places, ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.mapped, self.room) }
    }

    fn slice(&self) -> &[Source] {
        let start = if self.mapped.is_null() {
            self.inline.as_ptr()
        } else {
            self.mapped.cast_const()
        };
        // SAFETY: `fill` wrote the first `len` places.
        unsafe { std::slice::from_raw_parts(start.cast(), self.len) }
    }

    fn fill(&mut self, entries: impl Iterator<Item = (RawFd, i16)>) {
        self.len = 0;
        self.all_fresh = true;
        self.complete = true;
        for (fd, events) in entries {
            if fd < 0 {
                continue;
            }
            let Some(handle) = Handle::find(fd) else {
                self.complete = false;
                continue;
            };
            if events & libc::POLLOUT != 0 {
                self.add(&handle, Dir::Write);
            }
            // Hang-ups and errors are reported unasked, and come with the read direction.
            if events & !libc::POLLOUT != 0 || events == 0 {
                self.add(&handle, Dir::Read);
            }
        }
    }

    fn add(&mut self, handle: &Handle, dir: Dir) {
        let Some(acquired) = handle.io_or_acquire(dir) else {
            self.complete = false;
            return;
        };
        self.all_fresh &= acquired.fresh;
        let at = self.len;
        let Some(place) = self.places().get_mut(at) else {
            self.complete = false;
            return;
        };
        place.write((acquired.io, handle.fd, dir, acquired.seen));
        self.len += 1;
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        if !self.mapped.is_null() {
            table::unmap(self.mapped.cast(), self.room * size_of::<Source>());
        }
    }
}

/// A short while at most, for what has no slot to wait in: a million descriptors are waited for.
fn slice(until: Instant) -> Instant {
    until.min(Instant::after(SLICE))
}

/// Bytes of the kernel's signal set.
pub(super) const SIGSET_SIZE: usize = 8;
const INLINE: usize = 32;
const SLICE: Duration = Duration::from_millis(5);
