//! Copies between two descriptors: sendfile, splice.
//!
//! Knows:         when either side may make a coroutine wait.
//! Does not know: how to wait; that is `exchange`.
//!
//! The kernel has no non-blocking form of a copy into a socket that is not non-blocking itself. So
//! sendfile reads the file and writes as `write` does; splice moves, within the kernel, what `poll` says is
//! there into what `poll` says has room.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use std::mem::MaybeUninit;

use libc::{loff_t, off_t, size_t, ssize_t};

use super::description::{Handle, NONBLOCKING};
use super::exchange::Exchange;
use super::output::write_all;
use super::raw::{answer, c_int, failure, original};
use crate::runtime;
use crate::runtime::reactor::Dir;

/// `sendfile(2)`; in a coroutine it waits for the coroutine alone.
///
/// # Safety
/// - As for libc's `sendfile`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile(
    out: c_int,
    input: c_int,
    offset: *mut off_t,
    count: size_t,
) -> ssize_t {
    let Some(mut exchange) = Exchange::open(out, Dir::Write) else {
        return answer(original!(SYS_sendfile, out, input, offset, count));
    };
    // SAFETY: null or the program's place for the offset.
    let place = unsafe { offset.as_mut() };
    let start = match &place {
        Some(offset) => **offset as isize,
        None => original!(SYS_lseek, input, 0, libc::SEEK_CUR),
    };
    if start < 0 {
        // No positions: into a pipe it is a splice, into a socket it is refused, as in the kernel.
        let none = std::ptr::null_mut();
        return answer(match start == failure(libc::ESPIPE) {
            true if exchange.kind().is_socket() => failure(libc::EINVAL),
            true => spliced(input, none, out, none, count, 0),
            false => start,
        });
    }
    let (moved, error) = copy(&mut exchange, out, input, start as usize, count);
    let end = start + moved as isize;
    match place {
        Some(offset) => *offset = end as off_t,
        None => {
            original!(SYS_lseek, input, end, libc::SEEK_SET);
        }
    }
    answer(if moved > 0 { moved as isize } else { error })
}

/// Bytes copied, and what ended the copy: 0, or an error in the kernel's shape.
fn copy(
    exchange: &mut Exchange,
    out: c_int,
    input: c_int,
    start: usize,
    count: usize,
) -> (usize, isize) {
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; COPIED_AT_ONCE];
    let mut moved = 0;
    while moved < count {
        let room = (count - moved).min(COPIED_AT_ONCE);
        let place = buffer.as_mut_ptr().cast::<u8>();
        let read = original!(SYS_pread64, input, place, room, start + moved);
        if read <= 0 {
            // What cannot be read at a position cannot be sent from.
            let refused = [libc::ESPIPE, libc::EISDIR].map(failure).contains(&read);
            let error = if refused { failure(libc::EINVAL) } else { read };
            return (moved, error);
        }
        let sent = write_all(exchange, out, place, read as usize);
        if sent < 0 {
            return (moved, sent);
        }
        moved += sent as usize;
        if sent < read {
            break;
        }
    }
    (moved, 0)
}

/// `sendfile64(2)`; see [`sendfile`].
///
/// # Safety
/// - As for libc's `sendfile64`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendfile64(
    out: c_int,
    input: c_int,
    offset: *mut off_t,
    count: size_t,
) -> ssize_t {
    // SAFETY: the program's own promise; both offsets are 64 bits wide here.
    unsafe { sendfile(out, input, offset, count) }
}

/// `splice(2)`; in a coroutine it waits for the coroutine alone.
///
/// # Safety
/// - As for libc's `splice`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn splice(
    input: c_int,
    input_offset: *mut loff_t,
    out: c_int,
    out_offset: *mut loff_t,
    count: size_t,
    flags: libc::c_uint,
) -> ssize_t {
    answer(spliced(input, input_offset, out, out_offset, count, flags))
}

fn spliced(
    input: c_int,
    input_offset: *mut loff_t,
    out: c_int,
    out_offset: *mut loff_t,
    count: size_t,
    flags: libc::c_uint,
) -> isize {
    let attempt = |count: size_t, flags: libc::c_uint| {
        original!(
            SYS_splice,
            input,
            input_offset,
            out,
            out_offset,
            count,
            flags
        )
    };
    let waits = flags & libc::SPLICE_F_NONBLOCK == 0
        && runtime::current().is_some()
        && !wants_no_wait(input)
        && !wants_no_wait(out);
    if !waits || count == 0 {
        return attempt(count, flags);
    }
    let mut sides = [
        Exchange::open(input, Dir::Read),
        Exchange::open(out, Dir::Write),
    ];
    let is_socket = |side: &Option<Exchange>| side.as_ref().is_some_and(|s| s.kind().is_socket());
    if sides.iter().all(is_socket) {
        // One side must be a pipe: refused at once.
        return attempt(count, flags);
    }
    // The room that "writable" vouches for; a socket's side of a splice would wait for more.
    let count = if is_socket(&sides[1]) {
        count.min(COPIED_AT_ONCE)
    } else {
        count
    };
    let mut ready = |sockets: bool| {
        sides
            .iter_mut()
            .flatten()
            .filter(|side| side.kind().is_socket() == sockets)
            .try_for_each(Exchange::until_ready)
    };
    loop {
        // Sockets would wait in the kernel; a pipe says EAGAIN, after it has been judged.
        if let Err(errno) = ready(true) {
            return failure(errno);
        }
        let result = attempt(count, flags | libc::SPLICE_F_NONBLOCK);
        if result != failure(libc::EAGAIN) {
            return result;
        }
        if let Err(errno) = ready(false) {
            return failure(errno);
        }
        // Where both were ready somebody else was faster.
        runtime::yield_now();
    }
}

/// The program made the descriptor non-blocking: then the copy is, too.
fn wants_no_wait(fd: c_int) -> bool {
    Handle::find(fd).is_some_and(|handle| handle.description.has(NONBLOCKING))
}

/// Bytes that lie on the coroutine's stack for a moment.
const COPIED_AT_ONCE: usize = 16 << 10;
