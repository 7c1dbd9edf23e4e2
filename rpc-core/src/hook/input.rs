//! Receiving: read, readv, recv, recvfrom, recvmsg, recvmmsg and their fortified twins.
//!
//! Knows:         the shapes a receive comes in, MSG_WAITALL, MSG_PEEK, passed descriptors.
//! Does not know: how to wait; that is `exchange`.

#![expect(unsafe_code, reason = "replaces libc functions that take raw pointers")]

use libc::{c_void, iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t};

use super::exchange::{Exchange, Transfer};
use super::raw::{answer, answer_int, c_int, original};
use super::vector::{Vector, message_of};
use super::{description::Kind, table};
use crate::base::time::Instant;
use crate::runtime;
use crate::runtime::reactor::Dir;

/// `read(2)`; in a coroutine it waits for the coroutine alone.
///
/// # Safety
/// - As for libc's `read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, buf: *mut c_void, count: size_t) -> ssize_t {
    let exchange = match Exchange::open(fd, Dir::Read) {
        Some(exchange) if count > 0 => exchange,
        _ => return answer(original!(SYS_read, fd, buf, count)),
    };
    answer(Single::any(fd, buf.cast(), count).receive(exchange))
}

/// `readv(2)`.
///
/// # Safety
/// - As for libc's `readv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the program vouches for `count` entries at `iov`.
    let vector = unsafe { Vector::new(iov, count) };
    let (Some(vector), Some(mut exchange)) = (vector, Exchange::open(fd, Dir::Read)) else {
        return answer(original!(SYS_readv, fd, iov, count));
    };
    let wanted = vector.total();
    if wanted == 0 {
        return answer(original!(SYS_readv, fd, iov, count));
    }
    let result = exchange.turn(&mut Many { fd, vector });
    note(&mut exchange, result, wanted);
    answer(result)
}

/// `preadv2(2)`; at the file's own position it is [`readv`].
///
/// # Safety
/// - As for libc's `preadv2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn preadv2(
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    if offset == -1 && flags == 0 && runtime::current().is_some() {
        // SAFETY: the program's own promise.
        return unsafe { readv(fd, iov, count) };
    }
    // The kernel takes the offset in two halves; on 64 bits the first holds it all.
    answer(original!(SYS_preadv2, fd, iov, count, offset, 0, flags))
}

/// `preadv64v2(2)`; see [`preadv2`].
///
/// # Safety
/// - As for libc's `preadv64v2`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn preadv64v2(
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the program's own promise.
    unsafe { preadv2(fd, iov, count, offset, flags) }
}

/// `recv(2)`.
///
/// # Safety
/// - As for libc's `recv`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recv(fd: c_int, buf: *mut c_void, count: size_t, flags: c_int) -> ssize_t {
    let none = std::ptr::null_mut();
    // SAFETY: the program's own promise; no address is asked for.
    unsafe { recvfrom(fd, buf, count, flags, none, std::ptr::null_mut()) }
}

/// `recvfrom(2)`.
///
/// # Safety
/// - As for libc's `recvfrom`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvfrom(
    fd: c_int,
    buf: *mut c_void,
    count: size_t,
    flags: c_int,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
) -> ssize_t {
    let exchange = if flags & NEVER_WAIT == 0 {
        Exchange::open(fd, Dir::Read)
    } else {
        None
    };
    let Some(exchange) = exchange else {
        let result = original!(SYS_recvfrom, fd, buf, count, flags, address, address_len);
        return answer(result);
    };
    let shape = Single {
        fd,
        buf: buf.cast(),
        count,
        flags,
        address,
        address_len,
        any_file: false,
    };
    answer(shape.receive(exchange))
}

/// `recvmsg(2)`.
///
/// # Safety
/// - As for libc's `recvmsg`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    let exchange = if flags & NEVER_WAIT == 0 {
        Exchange::open(fd, Dir::Read)
    } else {
        None
    };
    let result = match exchange {
        // SAFETY: the program vouches for `message`.
        Some(exchange) => unsafe { receive_message(exchange, fd, message, flags) },
        None => original!(SYS_recvmsg, fd, message, flags),
    };
    if result >= 0 {
        // SAFETY: the kernel has just filled `message`.
        unsafe { forget_passed_descriptors(message) };
    }
    answer(result)
}

/// `recvmmsg(2)`. Its timeout is looked at between messages, as in the kernel.
///
/// # Safety
/// - As for libc's `recvmmsg`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: libc::c_uint,
    flags: c_int,
    timeout: *mut libc::timespec,
) -> c_int {
    let exchange = if flags & NEVER_WAIT == 0 {
        Exchange::open(fd, Dir::Read)
    } else {
        None
    };
    let Some(mut exchange) = exchange else {
        return answer_int(original!(SYS_recvmmsg, fd, messages, count, flags, timeout));
    };
    // SAFETY: the program vouches for a valid or null timeout.
    let limit = unsafe { timeout.as_ref() }.map_or(Instant::NEVER, |t| {
        Instant::after(super::sleep::duration_of(t))
    });
    let mut done = 0;
    while done < count {
        let mut part = Batch {
            fd,
            // SAFETY: `done < count` entries are the program's.
            messages: unsafe { messages.add(done as usize) },
            count: count - done,
            flags,
        };
        let result = exchange.turn(&mut part);
        if result <= 0 {
            return answer_int(if done > 0 { done as isize } else { result });
        }
        done += result as libc::c_uint;
        if flags & libc::MSG_WAITFORONE != 0 || Instant::now() >= limit {
            break;
        }
    }
    done as c_int
}

/// `__read_chk`: `read` under `_FORTIFY_SOURCE`.
///
/// # Safety
/// - As for libc's `read`; `room` is the size of the buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __read_chk(
    fd: c_int,
    buf: *mut c_void,
    count: size_t,
    room: size_t,
) -> ssize_t {
    check(count <= room);
    // SAFETY: the program's own promise.
    unsafe { read(fd, buf, count) }
}

/// `__recv_chk`: `recv` under `_FORTIFY_SOURCE`.
///
/// # Safety
/// - As for libc's `recv`; `room` is the size of the buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __recv_chk(
    fd: c_int,
    buf: *mut c_void,
    count: size_t,
    room: size_t,
    flags: c_int,
) -> ssize_t {
    check(count <= room);
    // SAFETY: the program's own promise.
    unsafe { recv(fd, buf, count, flags) }
}

/// `__recvfrom_chk`: `recvfrom` under `_FORTIFY_SOURCE`.
///
/// # Safety
/// - As for libc's `recvfrom`; `room` is the size of the buffer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __recvfrom_chk(
    fd: c_int,
    buf: *mut c_void,
    count: size_t,
    room: size_t,
    flags: c_int,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
) -> ssize_t {
    check(count <= room);
    // SAFETY: the program's own promise.
    unsafe { recvfrom(fd, buf, count, flags, address, address_len) }
}

/// What a fortified function does on an overflow: end the program.
pub(super) fn check(fits: bool) {
    if !fits {
        // SAFETY: takes nothing, never returns.
        unsafe { libc::abort() };
    }
}

/// Flags whose calls never wait, or that ask for it.
const NEVER_WAIT: c_int = libc::MSG_DONTWAIT | libc::MSG_OOB | libc::MSG_ERRQUEUE;

/// One buffer: read, recv, recvfrom.
#[derive(Clone, Copy)]
struct Single {
    fd: c_int,
    buf: *mut u8,
    count: usize,
    flags: c_int,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
    /// `read`, which takes any file; otherwise `recvfrom`, which takes sockets.
    any_file: bool,
}

impl Single {
    const fn any(fd: c_int, buf: *mut u8, count: usize) -> Self {
        Self {
            fd,
            buf,
            count,
            flags: 0,
            address: std::ptr::null_mut(),
            address_len: std::ptr::null_mut(),
            any_file: true,
        }
    }

    #[inline(always)]
    fn receive(mut self, mut exchange: Exchange) -> isize {
        let all = self.flags & libc::MSG_WAITALL != 0 && exchange.kind().is_stream_socket();
        if !all {
            let result = exchange.turn(&mut self);
            if self.flags & libc::MSG_PEEK == 0 {
                note(&mut exchange, result, self.count);
            }
            return result;
        }
        self.flags &= !libc::MSG_WAITALL;
        if self.flags & libc::MSG_PEEK != 0 {
            return self.peek_all(&mut exchange);
        }
        self.fill(&mut exchange)
    }

    /// MSG_WAITALL: until the buffer is full, the stream ends, or an error comes after a part.
    #[inline(never)]
    fn fill(mut self, exchange: &mut Exchange) -> isize {
        let mut done = 0;
        loop {
            let result = exchange.turn(&mut self);
            if result <= 0 {
                return if done > 0 { done as isize } else { result };
            }
            note(exchange, result, self.count);
            done += result as usize;
            if result as usize >= self.count {
                return done as isize;
            }
            self.buf = self.buf.wrapping_add(result as usize);
            self.count -= result as usize;
        }
    }

    /// MSG_WAITALL | MSG_PEEK: looks again at each edge until enough is there.
    #[inline(never)]
    fn peek_all(mut self, exchange: &mut Exchange) -> isize {
        loop {
            let result = exchange.turn(&mut self);
            if result <= 0 || result as usize >= self.count || exchange.hung_up() {
                return result;
            }
            if exchange.wait().is_err() {
                return result;
            }
        }
    }
}

impl Transfer for Single {
    fn on_socket(&mut self) -> isize {
        let flags = self.flags | libc::MSG_DONTWAIT;
        let (address, address_len) = (self.address, self.address_len);
        original!(
            SYS_recvfrom,
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
            iov_base: self.buf.cast(),
            iov_len: self.count,
        };
        let place = &raw const part;
        original!(
            SYS_preadv2,
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
            return original!(SYS_read, self.fd, self.buf, self.count);
        }
        let (address, address_len) = (self.address, self.address_len);
        original!(
            SYS_recvfrom,
            self.fd,
            self.buf,
            self.count,
            self.flags,
            address,
            address_len
        )
    }
}

/// Many buffers: readv.
struct Many {
    fd: c_int,
    vector: Vector,
}

impl Transfer for Many {
    fn on_socket(&mut self) -> isize {
        let mut message = message_of(self.vector.rest());
        let place = &raw mut message;
        original!(SYS_recvmsg, self.fd, place, libc::MSG_DONTWAIT)
    }

    fn nowait(&mut self) -> isize {
        let (iov, count) = self.vector.rest();
        original!(
            SYS_preadv2,
            self.fd,
            iov,
            count,
            -1_isize,
            -1_isize,
            libc::RWF_NOWAIT
        )
    }

    fn plain(&mut self) -> isize {
        let (iov, count) = self.vector.rest();
        original!(SYS_readv, self.fd, iov, count)
    }
}

/// A message with address and control data: recvmsg.
struct Message {
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
}

impl Transfer for Message {
    fn on_socket(&mut self) -> isize {
        let flags = self.flags | libc::MSG_DONTWAIT;
        original!(SYS_recvmsg, self.fd, self.message, flags)
    }

    fn nowait(&mut self) -> isize {
        self.plain()
    }

    fn plain(&mut self) -> isize {
        original!(SYS_recvmsg, self.fd, self.message, self.flags)
    }
}

/// Several messages: recvmmsg.
struct Batch {
    fd: c_int,
    messages: *mut mmsghdr,
    count: libc::c_uint,
    flags: c_int,
}

impl Transfer for Batch {
    fn on_socket(&mut self) -> isize {
        let flags = self.flags | libc::MSG_DONTWAIT;
        original!(SYS_recvmmsg, self.fd, self.messages, self.count, flags, 0)
    }

    fn nowait(&mut self) -> isize {
        self.plain()
    }

    fn plain(&mut self) -> isize {
        original!(
            SYS_recvmmsg,
            self.fd,
            self.messages,
            self.count,
            self.flags,
            0
        )
    }
}

/// # Safety
/// - `message` is as `recvmsg` wants it.
unsafe fn receive_message(
    mut exchange: Exchange,
    fd: c_int,
    message: *mut msghdr,
    flags: c_int,
) -> isize {
    let mut whole = Message { fd, message, flags };
    let result = exchange.turn(&mut whole);
    if result <= 0 {
        return result;
    }
    // SAFETY: the kernel has just taken the header and what it names, and has not changed these two.
    let (iov, parts) = unsafe { ((*message).msg_iov, (*message).msg_iovlen) };
    // SAFETY: as above.
    let vector = unsafe { Vector::new(iov, c_int::try_from(parts).unwrap_or(c_int::MAX)) };
    let Some(mut vector) = vector else {
        return result;
    };
    let all = flags & libc::MSG_WAITALL != 0
        && flags & libc::MSG_PEEK == 0
        && exchange.kind().is_stream_socket();
    if flags & libc::MSG_PEEK == 0 {
        note(&mut exchange, result, vector.total());
    }
    // Descriptors that came along end a receive early, as in the kernel.
    // SAFETY: as above; the kernel has just filled the header.
    let with_control = unsafe { (*message).msg_controllen } > 0;
    if !all || with_control {
        return result;
    }
    let mut done = result;
    vector.advance(result as usize);
    while let Some((buf, count)) = vector.first() {
        let mut part = Single::any(fd, buf, count);
        part.any_file = false;
        part.flags = flags & !libc::MSG_WAITALL;
        let result = part.fill(&mut exchange);
        if result <= 0 {
            break;
        }
        done += result;
        vector.advance(result as usize);
        if (result as usize) < count {
            break;
        }
    }
    done
}

/// a TCP socket that gave less than asked is empty.
#[inline]
fn note(exchange: &mut Exchange, result: isize, wanted: usize) {
    if result > 0 && exchange.kind() == Kind::Tcp {
        exchange.note(result as usize, wanted);
    }
}

/// Descriptors that arrive by SCM_RIGHTS are new here: whatever the table says of their numbers is old.
///
/// # Safety
/// - `message` was filled by a successful `recvmsg`.
unsafe fn forget_passed_descriptors(message: *const msghdr) {
    // SAFETY: the caller's promise; the CMSG functions walk within the control buffer.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !control.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return headers inside the buffer or null.
        let header = unsafe { &*control };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: pure address arithmetic on the header.
            let data = unsafe { libc::CMSG_DATA(control) }.cast::<c_int>();
            let bytes = (header.cmsg_len as usize).saturating_sub(size_of::<libc::cmsghdr>());
            for i in 0..bytes / size_of::<c_int>() {
                // SAFETY: `cmsg_len` says that so many descriptors follow the header.
                table::forget(unsafe { data.add(i).read_unaligned() });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        control = unsafe { libc::CMSG_NXTHDR(message, control) };
    }
}
