//! Sending: write, writev, send, sendto, sendmsg, sendmmsg.
//!
//! Knows:         that a blocking write goes on until all is written, and what a part means.
//! Does not know: how to wait; that is `exchange`.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use libc::{c_void, iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t};

use super::description::Kind;
use super::exchange::{Exchange, Transfer};
use super::raw::{answer, answer_int, c_int, original};
use super::vector::{Vector, message_of};
use crate::runtime;
use crate::runtime::reactor::Dir;

/// `write(2)`; in a coroutine it waits for the coroutine alone.
///
/// # Safety
/// - As for libc's `write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buf: *const c_void, count: size_t) -> ssize_t {
    let mut exchange = match Exchange::open(fd, Dir::Write) {
        Some(exchange) if count > 0 => exchange,
        _ => return answer(original!(SYS_write, fd, buf, count)),
    };
    let whole = Single {
        any_file: true,
        ..Single::new(fd, buf.cast(), count, 0)
    };
    answer(whole.send(&mut exchange))
}

/// `writev(2)`.
///
/// # Safety
/// - As for libc's `writev`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the program vouches for `count` entries at `iov`.
    let vector = unsafe { Vector::new(iov, count) };
    let (Some(vector), Some(mut exchange)) = (vector, Exchange::open(fd, Dir::Write)) else {
        return answer(original!(SYS_writev, fd, iov, count));
    };
    if vector.total() == 0 {
        return answer(original!(SYS_writev, fd, iov, count));
    }
    let mut many = Many {
        fd,
        vector,
        flags: 0,
        any_file: true,
    };
    answer(many.send_rest(&mut exchange, 0))
}

/// `pwritev2(2)`; at the file's own position it is [`writev`].
///
/// # Safety
/// - As for libc's `pwritev2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev2(
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    if offset == -1 && flags == 0 && runtime::current().is_some() {
        // SAFETY: the program's own promise.
        return unsafe { writev(fd, iov, count) };
    }
    // The kernel takes the offset in two halves; on 64 bits the first holds it all.
    answer(original!(SYS_pwritev2, fd, iov, count, offset, 0, flags))
}

/// `pwritev64v2(2)`; see [`pwritev2`].
///
/// # Safety
/// - As for libc's `pwritev64v2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwritev64v2(
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own promise.
    unsafe { pwritev2(fd, iov, count, offset, flags) }
}

/// `send(2)`.
///
/// # Safety
/// - As for libc's `send`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(
    fd: c_int,
    buf: *const c_void,
    count: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own promise; no address is given.
    unsafe { sendto(fd, buf, count, flags, std::ptr::null(), 0) }
}

/// `sendto(2)`.
///
/// # Safety
/// - As for libc's `sendto`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendto(
    fd: c_int,
    buf: *const c_void,
    count: size_t,
    flags: c_int,
    address: *const sockaddr,
    address_len: socklen_t,
) -> ssize_t {
    let Some(mut exchange) = open(fd, flags) else {
        let result = original!(SYS_sendto, fd, buf, count, flags, address, address_len);
        return answer(result);
    };
    let whole = Single {
        address,
        address_len,
        ..Single::new(fd, buf.cast(), count, flags)
    };
    answer(whole.send(&mut exchange))
}

/// `sendmsg(2)`.
///
/// # Safety
/// - As for libc's `sendmsg`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    let Some(mut exchange) = open(fd, flags) else {
        return answer(original!(SYS_sendmsg, fd, message, flags));
    };
    let result = exchange.turn(&mut Message { fd, message, flags });
    // SAFETY: the program vouches for `message`.
    let header = unsafe { message.as_ref() };
    let (Some(header), true) = (header, exchange.kind().is_stream_socket()) else {
        return answer(result);
    };
    let parts = c_int::try_from(header.msg_iovlen).unwrap_or(c_int::MAX);
    // SAFETY: the program vouches for the entries.
    let Some(mut vector) = (unsafe { Vector::new(header.msg_iov, parts) }) else {
        return answer(result);
    };
    let wanted = vector.total();
    if result <= 0 || result as usize >= wanted {
        return answer(result);
    }
    // Address and control data went out with the first part.
    exchange.note(result as usize, wanted);
    vector.advance(result as usize);
    let mut rest = Many {
        fd,
        vector,
        flags,
        any_file: false,
    };
    answer(rest.send_rest(&mut exchange, result as usize))
}

/// `sendmmsg(2)`.
///
/// # Safety
/// - As for libc's `sendmmsg`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: libc::c_uint,
    flags: c_int,
) -> c_int {
    if open(fd, flags).is_none() {
        return answer_int(original!(SYS_sendmmsg, fd, messages, count, flags));
    }
    let mut done = 0;
    while done < count {
        // SAFETY: `done < count` entries are the program's.
        let entry = unsafe { messages.add(done as usize) };
        // SAFETY: as above; the header is passed on as `sendmsg` takes it.
        let sent = unsafe { sendmsg(fd, &raw const (*entry).msg_hdr, flags) };
        if sent < 0 {
            return if done > 0 { done as c_int } else { -1 };
        }
        // SAFETY: as above.
        unsafe { (*entry).msg_len = sent as libc::c_uint };
        done += 1;
    }
    done as c_int
}

/// Writes `count` bytes at `buf` as `write` does; the kernel's result.
pub(super) fn write_all(exchange: &mut Exchange, fd: c_int, buf: *const u8, count: usize) -> isize {
    let whole = Single {
        any_file: true,
        ..Single::new(fd, buf, count, 0)
    };
    whole.send(exchange)
}

/// Starts a send that may wait.
fn open(fd: c_int, flags: c_int) -> Option<Exchange> {
    if flags & (libc::MSG_DONTWAIT | libc::MSG_FASTOPEN) != 0 {
        return None;
    }
    Exchange::open(fd, Dir::Write)
}

/// One buffer: write, send, sendto.
#[derive(Clone, Copy)]
struct Single {
    fd: c_int,
    buf: *const u8,
    count: usize,
    flags: c_int,
    address: *const sockaddr,
    address_len: socklen_t,
    /// `write`, which takes any file; otherwise `sendto`, which takes sockets.
    any_file: bool,
}

impl Single {
    const fn new(fd: c_int, buf: *const u8, count: usize, flags: c_int) -> Self {
        Self {
            fd,
            buf,
            count,
            flags,
            address: std::ptr::null(),
            address_len: 0,
            any_file: false,
        }
    }

    /// Sends until all is sent; an error after a part returns the part.
    #[inline(always)]
    fn send(mut self, exchange: &mut Exchange) -> isize {
        let mut done = 0;
        loop {
            let result = exchange.turn(&mut self);
            if result < 0 {
                return if done > 0 { done as isize } else { result };
            }
            let sent = result as usize;
            done += sent;
            if sent >= self.count || sent == 0 || exchange.kind() == Kind::Message {
                return done as isize;
            }
            exchange.note(sent, self.count);
            self.buf = self.buf.wrapping_add(sent);
            self.count -= sent;
            // The kernel raises no SIGPIPE for a call that has sent a part.
            self.flags |= libc::MSG_NOSIGNAL;
        }
    }
}

impl Transfer for Single {
    fn on_socket(&mut self) -> isize {
        let flags = self.flags | libc::MSG_DONTWAIT;
        let (address, address_len) = (self.address, self.address_len);
        original!(
            SYS_sendto,
            self.fd,
            self.buf,
            self.count,
            flags,
            address,
            address_len
        )
    }

    fn nowait(&mut self) -> isize {
        if !self.any_file {
            return self.plain();
        }
        let part = iovec {
            iov_base: self.buf.cast_mut().cast(),
            iov_len: self.count,
        };
        let place = &raw const part;
        original!(
            SYS_pwritev2,
            self.fd,
            place,
            1,
            -1_isize,
            -1_isize,
            libc::RWF_NOWAIT
        )
    }

    fn plain(&mut self) -> isize {
        if self.any_file {
            return original!(SYS_write, self.fd, self.buf, self.count.min(POLLED_WRITE));
        }
        let (address, address_len) = (self.address, self.address_len);
        original!(
            SYS_sendto,
            self.fd,
            self.buf,
            self.count,
            self.flags,
            address,
            address_len
        )
    }
}

/// Many buffers: writev, and what is left of a sendmsg.
struct Many {
    fd: c_int,
    vector: Vector,
    flags: c_int,
    /// `writev`, which takes any file.
    any_file: bool,
}

impl Many {
    /// Sends what is left; `done` bytes went before.
    fn send_rest(&mut self, exchange: &mut Exchange, mut done: usize) -> isize {
        loop {
            let wanted = self.vector.total();
            if wanted == 0 {
                return done as isize;
            }
            if done > 0 {
                self.flags |= libc::MSG_NOSIGNAL;
            }
            let result = exchange.turn(self);
            if result < 0 {
                return if done > 0 { done as isize } else { result };
            }
            let sent = result as usize;
            done += sent;
            if sent == 0 || exchange.kind() == Kind::Message {
                return done as isize;
            }
            // In the middle of an entry only that entry was offered.
            if self.vector.is_at_start_of_entry() {
                exchange.note(sent, wanted);
            }
            self.vector.advance(sent);
        }
    }

    /// The rest of an entry that went out in part, if there is one.
    fn started_entry(&mut self) -> Option<Single> {
        if self.vector.is_at_start_of_entry() {
            return None;
        }
        let (buf, count) = self.vector.first()?;
        let mut part = Single::new(self.fd, buf, count, self.flags);
        part.any_file = self.any_file;
        Some(part)
    }
}

impl Transfer for Many {
    fn on_socket(&mut self) -> isize {
        if let Some(mut part) = self.started_entry() {
            return part.on_socket();
        }
        let message = message_of(self.vector.rest());
        let place = &raw const message;
        original!(SYS_sendmsg, self.fd, place, self.flags | libc::MSG_DONTWAIT)
    }

    fn nowait(&mut self) -> isize {
        if let Some(mut part) = self.started_entry() {
            return part.nowait();
        }
        let (iov, count) = self.vector.rest();
        original!(
            SYS_pwritev2,
            self.fd,
            iov,
            count,
            -1_isize,
            -1_isize,
            libc::RWF_NOWAIT
        )
    }

    fn plain(&mut self) -> isize {
        if let Some(mut part) = self.started_entry() {
            return part.plain();
        }
        let (iov, count) = self.vector.rest();
        if self.vector.total() <= POLLED_WRITE {
            return original!(SYS_writev, self.fd, iov, count);
        }
        match self.vector.first() {
            Some((buf, count)) => {
                let mut part = Single::new(self.fd, buf, count, self.flags);
                part.any_file = true;
                part.plain()
            }
            None => original!(SYS_writev, self.fd, iov, count),
        }
    }
}

/// A message with address and control data: sendmsg.
struct Message {
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
}

impl Transfer for Message {
    fn on_socket(&mut self) -> isize {
        let flags = self.flags | libc::MSG_DONTWAIT;
        original!(SYS_sendmsg, self.fd, self.message, flags)
    }

    fn nowait(&mut self) -> isize {
        self.plain()
    }

    fn plain(&mut self) -> isize {
        original!(SYS_sendmsg, self.fd, self.message, self.flags)
    }
}

/// What a file that `poll` calls writable is offered at once: PIPE_BUF, the room that it vouches for.
const POLLED_WRITE: usize = 4096;
