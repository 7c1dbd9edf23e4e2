//! Keeping the table true: close, dup, fcntl, ioctl, setsockopt.
//!
//! Knows:         which calls end, share or change a descriptor.
//! Does not know: waiting. These run on every thread, coroutine or not.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::os::fd::RawFd;

use libc::{c_uint, c_ulong, c_void, off_t, socklen_t};

use super::classify;
use super::create;
use super::description::{self, HIDDEN, Handle, Kind, LOW_WATER, NONBLOCKING};
use super::raw::{answer_int, c_int, original};
use super::symbol::Symbol;
use super::{pool, table};
use crate::base::sys;
use crate::runtime;
use crate::runtime::reactor::Dir;

/// `close(2)`; coroutines that wait on the descriptor get EBADF.
///
/// # Safety
/// - As for libc's `close`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    let seen = table::word(fd);
    let result = original!(SYS_close, fd);
    // Whatever it returned but EBADF, Linux has freed the number.
    if result != super::raw::failure(libc::EBADF) {
        table::clear(fd, seen);
    }
    answer_int(result)
}

/// `close_range(2)`.
///
/// # Safety
/// - As for libc's `close_range`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    let result = original!(SYS_close_range, first, last, flags);
    if result == 0 && flags & libc::CLOSE_RANGE_CLOEXEC as c_int == 0 {
        table::forget_range(first, last);
    }
    answer_int(result)
}

/// `closefrom(3)`.
///
/// # Safety
/// - As for libc's `closefrom`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn closefrom(first: c_int) {
    let first = c_uint::try_from(first).unwrap_or(0);
    // SAFETY: the program's own promise.
    unsafe { close_range(first, c_uint::MAX, 0) };
}

/// `dup(2)`.
///
/// # Safety
/// - As for libc's `dup`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup(fd: c_int) -> c_int {
    let word = table::word(fd);
    let result = original!(SYS_dup, fd);
    share(word, result);
    answer_int(result)
}

/// `dup2(2)`; coroutines that wait on the old `to` get EBADF.
///
/// # Safety
/// - As for libc's `dup2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup2(from: c_int, to: c_int) -> c_int {
    if from == to {
        // The kernel's dup3 refuses equal numbers; dup2 checks that the number is open.
        let open = original!(SYS_fcntl, from, libc::F_GETFD);
        return answer_int(if open < 0 { open } else { to as isize });
    }
    // SAFETY: the program's own promise.
    unsafe { dup3(from, to, 0) }
}

/// `dup3(2)`.
///
/// # Safety
/// - As for libc's `dup3`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int {
    let word = table::word(from);
    let result = original!(SYS_dup3, from, to, flags);
    share(word, result);
    answer_int(result)
}

/// `fcntl(2)`. F_GETFL does not show an O_NONBLOCK of ours; file locks wait on the blocking pool.
///
/// # Safety
/// - As for libc's `fcntl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    let result = match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let word = table::word(fd);
            let result = original!(SYS_fcntl, fd, command, argument);
            share(word, result);
            result
        }
        libc::F_SETFL => set_flags(fd, argument),
        libc::F_GETFL => {
            let result = original!(SYS_fcntl, fd, command, argument);
            if result >= 0 && hides_nonblocking(fd) {
                result & !(libc::O_NONBLOCK as isize)
            } else {
                result
            }
        }
        // Locks belong to the process or to the open file, so that any thread may wait for them. The
        // coroutine stays until the pool is done with the structure.
        libc::F_SETLKW | libc::F_OFD_SETLKW if runtime::current().is_some() => {
            on_pool(move || original!(SYS_fcntl, fd, command, argument))
        }
        _ => original!(SYS_fcntl, fd, command, argument),
    };
    answer_int(result)
}

/// `flock(2)`; in a coroutine it waits on the blocking pool.
///
/// # Safety
/// - As for libc's `flock`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn flock(fd: c_int, operation: c_int) -> c_int {
    if operation & libc::LOCK_NB != 0 || runtime::current().is_none() {
        return answer_int(original!(SYS_flock, fd, operation));
    }
    let free = original!(SYS_flock, fd, operation | libc::LOCK_NB);
    if free != super::raw::failure(libc::EWOULDBLOCK) {
        return answer_int(free);
    }
    answer_int(on_pool(move || original!(SYS_flock, fd, operation)))
}

/// `lockf(3)`, on top of [`fcntl`] as in the C library, where it would wait inside.
///
/// # Safety
/// - As for libc's `lockf`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lockf(fd: c_int, command: c_int, length: off_t) -> c_int {
    let (kind, how) = match command {
        libc::F_ULOCK => (libc::F_UNLCK, libc::F_SETLK),
        libc::F_LOCK => (libc::F_WRLCK, libc::F_SETLKW),
        libc::F_TLOCK => (libc::F_WRLCK, libc::F_SETLK),
        libc::F_TEST => (libc::F_RDLCK, libc::F_GETLK),
        _ => return answer_int(super::raw::failure(libc::EINVAL)),
    };
    // SAFETY: zero is a valid empty lock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as _;
    lock.l_whence = libc::SEEK_CUR as _;
    lock.l_len = length;
    let place = (&raw mut lock).expose_provenance();
    // SAFETY: the structure lives until the call, which no deadline cuts, is done.
    let result = unsafe { fcntl(fd, how, place) };
    if result < 0 || command != libc::F_TEST {
        return result;
    }
    // SAFETY: takes nothing.
    let own = lock.l_pid == unsafe { libc::getpid() };
    if c_int::from(lock.l_type) == libc::F_UNLCK || own {
        return 0;
    }
    answer_int(super::raw::failure(libc::EACCES))
}

/// `lockf64(3)`; see [`lockf`].
///
/// # Safety
/// - As for libc's `lockf`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lockf64(fd: c_int, command: c_int, length: off_t) -> c_int {
    // SAFETY: the program's own promise; lengths are 64 bits wide here.
    unsafe { lockf(fd, command, length) }
}

/// `fclose(3)`, which closes its descriptor inside the C library.
///
/// # Safety
/// - As for libc's `fclose`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fclose(stream: *mut libc::FILE) -> c_int {
    let Some(address) = FCLOSE.find() else {
        return answer_int(super::raw::failure(libc::ENOSYS));
    };
    // SAFETY: the symbol of that name in the C library has this type.
    let original = unsafe {
        std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut libc::FILE) -> c_int>(
            address.as_ptr(),
        )
    };
    let errno = sys::errno();
    // SAFETY: the program's own promise. A stream in memory has no number, and says so.
    let fd = unsafe { libc::fileno(stream) };
    sys::set_errno(errno);
    let seen = table::word(fd);
    // SAFETY: the program's own promise.
    let result = unsafe { original(stream) };
    table::clear(fd, seen);
    result
}

static FCLOSE: Symbol = Symbol::new(c"fclose");

/// Finds the originals in advance.
pub(super) fn prepare() {
    let _ = FCLOSE.find();
}

fn on_pool(call: impl FnOnce() -> isize + Send + 'static) -> isize {
    pool::run(call).unwrap_or(super::raw::failure(libc::EAGAIN))
}

/// `fcntl64(2)`; the same call on 64-bit systems.
///
/// # Safety
/// - As for libc's `fcntl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the program's own promise.
    unsafe { fcntl(fd, command, argument) }
}

/// `ioctl(2)`.
///
/// # Safety
/// - As for libc's `ioctl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
    if request != libc::FIONBIO {
        return answer_int(original!(SYS_ioctl, fd, request, argument));
    }
    let Some(handle) = Handle::known(fd) else {
        return answer_int(original!(SYS_ioctl, fd, request, argument));
    };
    if handle.description.has(HIDDEN) {
        // The kernel's flag is ours for now; only the wish changes.
        let place = std::ptr::with_exposed_provenance::<c_int>(argument);
        // SAFETY: the program passes the address of an int, as FIONBIO wants.
        let Some(wish) = (unsafe { place.as_ref() }) else {
            return answer_int(super::raw::failure(libc::EFAULT));
        };
        handle.description.set(NONBLOCKING, *wish != 0);
        return 0;
    }
    let result = original!(SYS_ioctl, fd, request, argument);
    if result == 0 {
        let place = std::ptr::with_exposed_provenance::<c_int>(argument);
        // SAFETY: the kernel has just read the int there.
        handle.description.set(NONBLOCKING, unsafe { *place } != 0);
    }
    answer_int(result)
}

/// `setsockopt(2)`.
///
/// # Safety
/// - As for libc's `setsockopt`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    option: c_int,
    value: *const c_void,
    size: socklen_t,
) -> c_int {
    let result = original!(SYS_setsockopt, fd, level, option, value, size);
    if result == 0
        && let Some(handle) = Handle::known(fd)
    {
        // SAFETY: the kernel has accepted `size` bytes at `value`.
        unsafe { note_option(&handle, level, option, value, size as usize) };
    }
    answer_int(result)
}

/// # Safety
/// - `size` readable bytes at `value`.
unsafe fn note_option(
    handle: &Handle,
    level: c_int,
    option: c_int,
    value: *const c_void,
    size: usize,
) {
    let description = handle.description;
    match (level, option) {
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO)
            if size >= size_of::<libc::timeval>() =>
        {
            // SAFETY: the caller's promise, and the size is enough.
            let limit = unsafe { value.cast::<libc::timeval>().read_unaligned() };
            let dir = if option == libc::SO_RCVTIMEO {
                Dir::Read
            } else {
                Dir::Write
            };
            description.set_timeout(dir, classify::timeval_nanos(limit.tv_sec, limit.tv_usec));
        }
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) if size >= size_of::<c_int>() => {
            // SAFETY: as above.
            let bytes = unsafe { value.cast::<c_int>().read_unaligned() };
            description.set(LOW_WATER, bytes > 1);
        }
        // A protocol on top of TCP (kernel TLS) returns a record at a time: short says nothing.
        (libc::IPPROTO_TCP, libc::TCP_ULP) => description.set_kind(Kind::Stream),
        _ => {}
    }
}

/// F_SETFL: the wish is the program's, the kernel's flag is ours while hidden.
fn set_flags(fd: RawFd, flags: usize) -> isize {
    let Some(handle) = Handle::known(fd) else {
        return original!(SYS_fcntl, fd, libc::F_SETFL, flags);
    };
    let hidden = handle.description.has(HIDDEN);
    let in_kernel = if hidden {
        flags | libc::O_NONBLOCK as usize
    } else {
        flags
    };
    let result = original!(SYS_fcntl, fd, libc::F_SETFL, in_kernel);
    if result == 0 {
        let wish = flags & libc::O_NONBLOCK as usize != 0;
        handle.description.set(NONBLOCKING, wish);
    }
    result
}

fn hides_nonblocking(fd: RawFd) -> bool {
    Handle::known(fd).is_some_and(|h| h.description.has(HIDDEN) && !h.description.has(NONBLOCKING))
}

/// `result` is a dup of the descriptor that had `word`.
fn share(word: table::Word, result: isize) {
    let Ok(fd) = RawFd::try_from(result) else {
        return;
    };
    if fd < 0 {
        return;
    }
    if word != table::Word::UNKNOWN && description::add_share(word) {
        table::replace(fd, word);
    } else {
        create::renewed(result);
    }
}
