//! Moving bytes between stream sockets and byte buffers, and signals into eventfds.
//!
//! Knows: file descriptors, the kernel's calls.   Does not know: who waits, protocols.
//!
//! The calls never wait (`MSG_DONTWAIT`) and never raise SIGPIPE (`MSG_NOSIGNAL`), whatever the flags
//! of the descriptor are. They return what the kernel returns: bytes, or `-errno`.

#![expect(
    unsafe_code,
    reason = "the kernel writes into memory that was not initialised, and reads many buffers in one call"
)]

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use bytes::{BufMut, Bytes};

use super::sys::syscall;

/// Buffers that one [`send_queue`] hands to the kernel at most. More would only grow the stack frame:
/// past a few dozen the cost per buffer no longer falls.
pub const SEND_BUFFERS_MAX: usize = 64;

/// Receives into the next free chunk of `buf`, at most `limit` bytes, and advances it.
/// 0 means that the peer ended its stream (or that there was no room, which the caller rules out).
pub fn recv_into(fd: RawFd, buf: &mut dyn BufMut, limit: usize) -> isize {
    let chunk = buf.chunk_mut();
    let room = chunk.len().min(limit);
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: pointer and length describe the free chunk, which lives across the call.
    let n = unsafe {
        syscall!(
            libc::SYS_recvfrom,
            fd,
            chunk.as_mut_ptr(),
            room,
            flags,
            0,
            0
        )
    };
    if let Ok(received) = usize::try_from(n) {
        // SAFETY: the kernel has just written that many bytes at the start of the chunk.
        unsafe { buf.advance_mut(received) };
    }
    n
}

/// Sends the front of `queue`, up to [`SEND_BUFFERS_MAX`] buffers, in one call. The queue is left as it
/// was: the caller takes out what was sent.
pub fn send_queue(fd: RawFd, queue: &VecDeque<Bytes>) -> isize {
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; SEND_BUFFERS_MAX];
    let mut count = 0;
    for (vector, buffer) in vectors.iter_mut().zip(queue) {
        vector.write(libc::iovec {
            iov_base: buffer.as_ptr().cast_mut().cast(),
            iov_len: buffer.len(),
        });
        count += 1;
    }
    if count == 1
        && let Some(only) = queue.front()
    {
        return send(fd, only);
    }
    // SAFETY: all-zero is a valid msghdr: no name, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = vectors.as_mut_ptr().cast();
    message.msg_iovlen = count;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the first `count` vectors are initialised and describe buffers that live in `queue`.
    unsafe { syscall!(libc::SYS_sendmsg, fd, &raw const message, flags) }
}

fn send(fd: RawFd, data: &[u8]) -> isize {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `data`.
    unsafe { syscall!(libc::SYS_sendto, fd, data.as_ptr(), data.len(), flags, 0, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn many_buffers_leave_in_one_call_and_arrive_in_order() {
        let (left, right) = UnixStream::pair().unwrap();
        let queue: VecDeque<Bytes> = ["one ", "two ", "three"].map(Bytes::from).into();
        assert_eq!(send_queue(left.as_raw_fd(), &queue), 13);
        let mut got = BytesMut::with_capacity(64);
        assert_eq!(recv_into(right.as_raw_fd(), &mut got, 64), 13);
        assert_eq!(&got[..], b"one two three");
    }

    #[test]
    fn receiving_never_waits_and_keeps_to_its_limit() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut got = BytesMut::with_capacity(64);
        let empty = recv_into(right.as_raw_fd(), &mut got, 64);
        assert_eq!(empty, -(libc::EAGAIN as isize));
        assert_eq!(send(left.as_raw_fd(), b"abcdef"), 6);
        assert_eq!(recv_into(right.as_raw_fd(), &mut got, 4), 4);
        assert_eq!(&got[..], b"abcd");
    }

    #[test]
    fn sending_to_a_closed_peer_is_an_error_and_no_signal() {
        let (left, right) = UnixStream::pair().unwrap();
        drop(right);
        assert_eq!(send(left.as_raw_fd(), b"x"), -(libc::EPIPE as isize));
    }
}
