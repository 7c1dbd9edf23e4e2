//! Making descriptors: socket, socketpair, pipe, eventfd, timerfd, epoll, open and their kin.
//!
//! Knows:         what kind of file each call makes.
//! Does not know: waiting.
//!
//! Every maker overwrites the table's word, so that a number that was closed behind our back (by
//! `fclose`, a raw call, a library's own assembly) starts anew.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::os::fd::RawFd;

use libc::{c_char, c_uint, mode_t};

use super::description::{self, Handle, Kind, MADE_HERE, NONBLOCKING};
use super::raw::{answer_int, c_int, original};
use super::table::{self, Word};
use super::{is_on, pool};
use crate::runtime;

/// `socket(2)`.
///
/// # Safety
/// - As for libc's `socket`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let result = original!(SYS_socket, domain, kind, protocol);
    if result >= 0 {
        let made = Kind::of_socket(domain, kind & SOCKET_TYPE, protocol);
        register(result, made, kind & libc::SOCK_NONBLOCK != 0);
    }
    answer_int(result)
}

/// `socketpair(2)`.
///
/// # Safety
/// - As for libc's `socketpair`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn socketpair(
    domain: c_int,
    kind: c_int,
    protocol: c_int,
    ends: *mut c_int,
) -> c_int {
    let result = original!(SYS_socketpair, domain, kind, protocol, ends);
    if result == 0 {
        let made = Kind::of_socket(domain, kind & SOCKET_TYPE, protocol);
        // SAFETY: the call succeeded, so the kernel filled both places.
        unsafe { register_pair(ends, made, kind & libc::SOCK_NONBLOCK != 0) };
    }
    answer_int(result)
}

/// `pipe(2)`.
///
/// # Safety
/// - As for libc's `pipe`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pipe(ends: *mut c_int) -> c_int {
    // SAFETY: the program's own promise.
    unsafe { pipe2(ends, 0) }
}

/// `pipe2(2)`.
///
/// # Safety
/// - As for libc's `pipe2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pipe2(ends: *mut c_int, flags: c_int) -> c_int {
    let result = original!(SYS_pipe2, ends, flags);
    if result == 0 {
        // SAFETY: the call succeeded, so the kernel filled both places.
        unsafe { register_pair(ends, Kind::Nowait, flags & libc::O_NONBLOCK != 0) };
    }
    answer_int(result)
}

/// `eventfd(2)`.
///
/// # Safety
/// - As for libc's `eventfd`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn eventfd(initial: c_uint, flags: c_int) -> c_int {
    let result = original!(SYS_eventfd2, initial, flags);
    register(result, Kind::Nowait, flags & libc::EFD_NONBLOCK != 0);
    answer_int(result)
}

/// `timerfd_create(2)`.
///
/// # Safety
/// - As for libc's `timerfd_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn timerfd_create(clock: c_int, flags: c_int) -> c_int {
    let result = original!(SYS_timerfd_create, clock, flags);
    register(result, Kind::Nowait, flags & libc::TFD_NONBLOCK != 0);
    answer_int(result)
}

/// `epoll_create(2)`.
///
/// # Safety
/// - As for libc's `epoll_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_create(size: c_int) -> c_int {
    if size <= 0 {
        return answer_int(super::raw::failure(libc::EINVAL));
    }
    // SAFETY: the program's own promise.
    unsafe { epoll_create1(0) }
}

/// `epoll_create1(2)`.
///
/// # Safety
/// - As for libc's `epoll_create1`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_create1(flags: c_int) -> c_int {
    let result = original!(SYS_epoll_create1, flags);
    register(result, Kind::Polled, false);
    answer_int(result)
}

/// `signalfd(2)`.
///
/// # Safety
/// - As for libc's `signalfd`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn signalfd(fd: c_int, mask: *const libc::sigset_t, flags: c_int) -> c_int {
    let result = original!(SYS_signalfd4, fd, mask, SIGSET_SIZE, flags);
    if fd == -1 {
        register(result, Kind::Nowait, flags & libc::SFD_NONBLOCK != 0);
    }
    answer_int(result)
}

/// `inotify_init(2)`.
///
/// # Safety
/// - As for libc's `inotify_init`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inotify_init() -> c_int {
    // SAFETY: the program's own promise.
    unsafe { inotify_init1(0) }
}

/// `inotify_init1(2)`.
///
/// # Safety
/// - As for libc's `inotify_init1`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inotify_init1(flags: c_int) -> c_int {
    let result = original!(SYS_inotify_init1, flags);
    register(result, Kind::Nowait, flags & libc::IN_NONBLOCK != 0);
    answer_int(result)
}

/// `memfd_create(2)`.
///
/// # Safety
/// - As for libc's `memfd_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn memfd_create(name: *const c_char, flags: c_uint) -> c_int {
    let result = original!(SYS_memfd_create, name, flags);
    renewed(result);
    answer_int(result)
}

/// `open(2)`.
///
/// # Safety
/// - As for libc's `open`; `mode` is read only where `flags` creates a file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the program's own promise.
    unsafe { openat(libc::AT_FDCWD, path, flags, mode) }
}

/// `open64(2)`.
///
/// # Safety
/// - As for [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the program's own promise.
    unsafe { openat(libc::AT_FDCWD, path, flags | libc::O_LARGEFILE, mode) }
}

/// `openat(2)`.
///
/// # Safety
/// - As for [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    let creates = flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE;
    // Where nothing is created the argument was never passed: what stands in its register is noise.
    let mode = if creates { mode } else { 0 };
    let open = move || original!(SYS_openat, dir, path, flags, mode);
    let result = if runtime::current().is_some() && may_wait(flags) && is_fifo(dir, path) {
        // Waits for the other end, which no event announces. The path stays while the coroutine does.
        let path = path.expose_provenance();
        pool::run(move || original!(SYS_openat, dir, path, flags, mode)).unwrap_or_else(open)
    } else {
        open()
    };
    renewed(result);
    answer_int(result)
}

/// `openat64(2)`.
///
/// # Safety
/// - As for [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the program's own promise.
    unsafe { openat(dir, path, flags | libc::O_LARGEFILE, mode) }
}

/// True for flags with which opening a FIFO waits for its other end.
const fn may_wait(flags: c_int) -> bool {
    let never = libc::O_NONBLOCK | libc::O_PATH | libc::O_DIRECTORY | libc::O_EXCL;
    flags & never == 0 && flags & libc::O_ACCMODE != libc::O_RDWR
}

fn is_fifo(dir: c_int, path: *const c_char) -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    if original!(SYS_newfstatat, dir, path, stat.as_mut_ptr(), 0) != 0 {
        return false;
    }
    // SAFETY: the call succeeded, so the kernel filled the structure.
    let stat = unsafe { stat.assume_init() };
    stat.st_mode & libc::S_IFMT == libc::S_IFIFO
}

/// `pidfd_open(2)`.
///
/// # Safety
/// - As for libc's `pidfd_open`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pidfd_open(pid: libc::pid_t, flags: c_uint) -> c_int {
    let result = original!(SYS_pidfd_open, pid, flags);
    renewed(result);
    answer_int(result)
}

/// A connection came out of `listener`.
pub(super) fn accepted(listener: RawFd, fd: RawFd, flags: c_int) {
    match Handle::known(listener) {
        Some(parent) if parent.description.kind().is_socket() => {
            let kind = parent.description.kind();
            register(fd as isize, kind, flags & libc::SOCK_NONBLOCK != 0);
            // Linux hands the listener's timeouts down to the connection.
            if let Some(child) = Handle::known(fd) {
                child.description.inherit_timeouts(parent.description);
            }
        }
        _ => table::forget(fd),
    }
}

/// The number in `result` names a new file that nobody knows yet.
pub(super) fn renewed(result: isize) {
    if let Ok(fd) = RawFd::try_from(result)
        && fd >= 0
    {
        table::forget(fd);
    }
}

/// Both ends of a pair.
///
/// # Safety
/// - `ends` points to two descriptors.
unsafe fn register_pair(ends: *const c_int, kind: Kind, nonblocking: bool) {
    for i in 0..2 {
        // SAFETY: the caller's promise.
        let fd = unsafe { ends.add(i).read() };
        register(fd as isize, kind, nonblocking);
    }
}

/// Tells the table what the number in `result` is, if the call made one.
fn register(result: isize, kind: Kind, nonblocking: bool) {
    let Ok(fd) = RawFd::try_from(result) else {
        return;
    };
    if fd < 0 {
        return;
    }
    if !is_on() {
        table::forget(fd);
        return;
    }
    let wish = if nonblocking { NONBLOCKING } else { 0 };
    let word = description::create(kind, MADE_HERE | wish).unwrap_or(Word::UNKNOWN);
    table::replace(fd, word);
}

/// Bytes of the kernel's signal set.
const SIGSET_SIZE: usize = 8;
/// Bits of a socket's type that are no flags.
const SOCKET_TYPE: c_int = 0xf;
