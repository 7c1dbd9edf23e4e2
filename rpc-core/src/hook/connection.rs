//! Making connections: accept, accept4, connect.
//!
//! Knows:         the two cases where O_NONBLOCK must be set in the kernel, and how it stays hidden.
//! Does not know: data transfer.
//!
//! A listener made here gets O_NONBLOCK once, when a coroutine first accepts on it; the flag is hidden
//! in F_GETFL, and OS threads that accept on it get a poll loop. `connect` sets it for its duration.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::os::fd::RawFd;
use std::time::Duration;

use libc::{sockaddr, socklen_t};

use super::classify;
use super::create;
use super::description::{self, Handle, Kind};
use super::exchange::Exchange;
use super::raw::{answer_int, c_int, failure, original};
use super::sleep;
use crate::base::time::Instant;
use crate::runtime::reactor::Dir;

/// `accept(2)`; in a coroutine it waits for the coroutine alone.
///
/// # Safety
/// - As for libc's `accept`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept(
    fd: c_int,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
) -> c_int {
    // SAFETY: the program's own promise.
    unsafe { accept4(fd, address, address_len, 0) }
}

/// `accept4(2)`.
///
/// # Safety
/// - As for libc's `accept4`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept4(
    fd: c_int,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    let attempt = || original!(SYS_accept4, fd, address, address_len, flags);
    let result = match Exchange::open(fd, Dir::Read) {
        Some(exchange) => accept_in_coroutine(exchange.outside_conversation(), attempt),
        None => accept_in_thread(fd, attempt),
    };
    if result >= 0 {
        create::accepted(fd, result as RawFd, flags);
    }
    answer_int(result)
}

fn accept_in_coroutine(mut exchange: Exchange, attempt: impl Fn() -> isize) -> isize {
    let hidden = match mode_of(exchange.handle()) {
        Mode::Refused => return attempt(),
        Mode::Hidden => true,
        Mode::Turns => false,
    };
    loop {
        exchange.observe();
        let result = if hidden {
            attempt()
        } else {
            exchange.in_turn(&attempt)
        };
        if result != failure(libc::EAGAIN) {
            return result;
        }
        if let Err(errno) = exchange.wait() {
            return failure(errno);
        }
    }
}

/// How a coroutine may try to accept.
enum Mode {
    /// Not a listener: the kernel says why, at once.
    Refused,
    /// Our O_NONBLOCK is on: an attempt never blocks.
    Hidden,
    /// Inherited, so that another process would see the flag: `poll(0)` first, one at a time.
    Turns,
}

fn mode_of(handle: &Handle) -> Mode {
    let description = handle.description;
    if description.has(description::HIDDEN) {
        return Mode::Hidden;
    }
    if !description.kind().is_socket() || !classify::is_listening(handle.fd) {
        return Mode::Refused;
    }
    if !description.has(description::MADE_HERE) {
        return Mode::Turns;
    }
    // First the mark, then the flag: a thread that meets the flag must find the mark.
    description.set(description::HIDDEN, true);
    if set_kernel_nonblocking(handle.fd, true) {
        Mode::Hidden
    } else {
        Mode::Turns
    }
}

/// An OS thread must not see EAGAIN because of our flag: it polls and tries again.
fn accept_in_thread(fd: c_int, attempt: impl Fn() -> isize) -> isize {
    let mut limit = None;
    loop {
        let result = attempt();
        if result != failure(libc::EAGAIN) {
            return result;
        }
        let Some(handle) = Handle::known(fd) else {
            return result;
        };
        let ours = handle.description.has(description::HIDDEN)
            && !handle.description.has(description::NONBLOCKING);
        if !ours {
            return result;
        }
        let until = *limit.get_or_insert_with(|| {
            let timeout = handle.description.timeout(Dir::Read);
            timeout.map_or(Instant::NEVER, Instant::after)
        });
        let polled = poll_readable(fd, until);
        if polled == 0 {
            return failure(libc::EAGAIN);
        }
        if polled < 0 {
            return polled;
        }
    }
}

/// Blocks the OS thread until `fd` is readable: > 0, or 0 at `until`, or `-errno`.
fn poll_readable(fd: RawFd, until: Instant) -> isize {
    let mut entry = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let left = sleep::timespec_of(until.saturating_since(Instant::now()));
    let time = if until.is_never() {
        std::ptr::null()
    } else {
        &raw const left
    };
    let place = &raw mut entry;
    original!(SYS_ppoll, place, 1, time, 0, 0)
}

/// `connect(2)`; in a coroutine it waits for the coroutine alone.
///
/// # Safety
/// - As for libc's `connect`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(
    fd: c_int,
    address: *const sockaddr,
    address_len: socklen_t,
) -> c_int {
    let attempt = || original!(SYS_connect, fd, address, address_len);
    let exchange = match Exchange::open(fd, Dir::Write) {
        // Connecting a datagram socket only notes an address.
        Some(exchange) if exchange.kind().is_stream_socket() => exchange,
        // Sequenced packets wait as streams do.
        Some(exchange) if is_sequenced(fd, &exchange) => exchange,
        _ => return answer_int(attempt()),
    };
    let handle = *exchange.handle();
    // Another coroutine may be at it already; the flag stays until the last one is done.
    let was_hidden = handle.description.set(description::HIDDEN, true);
    set_kernel_nonblocking(fd, true);
    let result = connect_in_coroutine(exchange.outside_conversation(), attempt);
    if !was_hidden && handle.is_current() {
        handle.description.set(description::HIDDEN, false);
        let wish = handle.description.has(description::NONBLOCKING);
        set_kernel_nonblocking(fd, wish);
    }
    answer_int(result)
}

fn connect_in_coroutine(mut exchange: Exchange, attempt: impl Fn() -> isize) -> isize {
    // How the kernel called the state of a connection that was not made at once.
    let mut started = None;
    let mut pause = FIRST_RETRY;
    loop {
        exchange.observe();
        let result = attempt();
        let errno = (-result) as c_int;
        match errno {
            // The connection is being made, or was already being made before us.
            libc::EINPROGRESS | libc::EALREADY => {
                let state = *started.get_or_insert(errno);
                if let Err(errno) = exchange.wait() {
                    // The socket's own timeout bears the state's name.
                    let own = errno == libc::EAGAIN;
                    return failure(if own { state } else { errno });
                }
            }
            libc::EISCONN if started.is_some() => return 0,
            // A Unix listener whose queue is full: no event tells when there is room.
            libc::EAGAIN => {
                if let Err(errno) = exchange.pause(pause) {
                    return failure(errno);
                }
                pause = (pause * 2).min(LAST_RETRY);
            }
            _ => return result,
        }
    }
}

fn is_sequenced(fd: RawFd, exchange: &Exchange) -> bool {
    exchange.kind() == Kind::Message && classify::socket_type(fd) == libc::SOCK_SEQPACKET
}

/// Sets O_NONBLOCK in the kernel and leaves the other flags alone.
pub(super) fn set_kernel_nonblocking(fd: RawFd, on: bool) -> bool {
    let value = c_int::from(on);
    let place = &raw const value;
    original!(SYS_ioctl, fd, libc::FIONBIO, place) == 0
}

/// First pause before a full Unix queue is tried again.
const FIRST_RETRY: Duration = Duration::from_micros(200);
/// A full Unix queue is tried again at least this often.
const LAST_RETRY: Duration = Duration::from_millis(20);
