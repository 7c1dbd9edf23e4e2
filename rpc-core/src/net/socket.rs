//! One non-blocking connection, over TCP or a Unix socket.
//!
//! Knows: sockets, byte queues.   Does not know: what the bytes mean, when to try again.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use socket2::{SockAddr, TcpKeepalive, Type};

use crate::base::socket::{SEND_BUFFERS_MAX, recv_into, send_queue};

/// A connected (or connecting) stream socket; closes with its owner.
#[derive(Debug)]
pub struct Socket {
    stream: socket2::Socket,
}

/// What one attempt to receive gave.
#[derive(Debug)]
pub enum Received {
    /// So many bytes came. `drained` when the kernel has no more for now: the next edge will tell.
    Bytes {
        /// At least 1.
        count: usize,
        /// Less came than there was room for.
        drained: bool,
    },
    /// Nothing there; wait for the next edge.
    WouldBlock,
    /// The peer ended its stream in order.
    Ended,
    /// The connection is broken.
    Failed(io::Error),
}

/// What became of a queue that was to be sent.
#[derive(Debug)]
pub enum Sent {
    /// All of it is with the kernel.
    All,
    /// The socket is full; what is left stays in the queue, wait for the next writable edge.
    Blocked,
    /// The connection is broken.
    Failed(io::Error),
}

impl Socket {
    /// Takes over an accepted connection.
    ///
    /// # Errors
    /// The socket's flags could not be set.
    pub fn from_accepted(stream: socket2::Socket) -> io::Result<Self> {
        // By way of std, which needs one system call for this rather than two.
        let stream = TcpStream::from(stream);
        stream.set_nonblocking(true)?;
        let stream = socket2::Socket::from(stream);
        match stream.set_tcp_nodelay(true) {
            // A Unix socket: it delays nothing.
            Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => Err(error),
            _ => Ok(Self { stream }),
        }
    }

    /// Starts a connection. It is made or refused when the socket becomes writable: ask
    /// [`connect_result`](Self::connect_result) then.
    ///
    /// # Errors
    /// No socket could be made, or the address is refused at once.
    pub fn start_connect(addr: &SockAddr) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let stream = socket2::Socket::new(addr.domain(), kind, None)?;
        if addr.is_unix() {
            stream.connect(addr)?;
            return Ok(Self { stream });
        }
        stream.set_tcp_nodelay(true)?;
        // A peer that vanished without a word is noticed: probed while idle, given up on while sending.
        stream.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(PROBE_AFTER)
                .with_interval(PROBE_EVERY)
                .with_retries(PROBES),
        )?;
        stream.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        match stream.connect(addr) {
            Ok(()) => Ok(Self { stream }),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(Self { stream }),
            Err(error) => Err(error),
        }
    }

    /// How the connection attempt ended; `None` while it has not.
    pub fn connect_result(&self) -> Option<io::Result<()>> {
        match self.stream.take_error() {
            Ok(Some(error)) | Err(error) => return Some(Err(error)),
            Ok(None) => {}
        }
        match self.stream.peer_addr() {
            Ok(_) => Some(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Receives into the next free chunk of `buf`, at most `limit` bytes.
    pub fn receive(&self, buf: &mut dyn BufMut, limit: usize) -> Received {
        let room = buf.chunk_mut().len().min(limit);
        debug_assert!(
            room > 0,
            "receiving into nothing looks like an ended stream"
        );
        loop {
            let n = recv_into(self.fd(), buf, limit);
            match usize::try_from(n) {
                Ok(0) => return Received::Ended,
                Ok(count) => {
                    let drained = count < room;
                    return Received::Bytes { count, drained };
                }
                Err(_) => match -n as i32 {
                    libc::EINTR => {}
                    libc::EAGAIN => return Received::WouldBlock,
                    errno => return Received::Failed(io::Error::from_raw_os_error(errno)),
                },
            }
        }
    }

    /// Sends `queue` from its front until it is empty or the socket full, and takes out what was sent.
    pub fn send(&self, queue: &mut VecDeque<Bytes>) -> Sent {
        while !queue.is_empty() {
            let offered: usize = queue.iter().take(SEND_BUFFERS_MAX).map(Bytes::len).sum();
            let n = send_queue(self.fd(), queue);
            match usize::try_from(n) {
                Ok(count) => {
                    take_front(queue, count);
                    if count < offered {
                        // A short write filled the socket: trying again would only say EAGAIN.
                        return Sent::Blocked;
                    }
                }
                Err(_) => match -n as i32 {
                    libc::EINTR => {}
                    libc::EAGAIN => return Sent::Blocked,
                    errno => return Sent::Failed(io::Error::from_raw_os_error(errno)),
                },
            }
        }
        Sent::All
    }

    /// Ends our direction of the stream; the peer reads what was sent, then the end.
    pub fn end_sending(&self) {
        // Fails only where the connection is gone already, which reading will tell.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends both directions at once: whoever waits for this connection, here or there, is told.
    pub fn end_both(&self) {
        // As in `end_sending`.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The descriptor, for attaching to the reactor.
    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

/// Takes the first `count` bytes out of `queue`; there must be that many.
fn take_front(queue: &mut VecDeque<Bytes>, mut count: usize) {
    while count > 0 {
        let front = queue
            .front_mut()
            .expect("the kernel takes no more than it was offered");
        if front.len() > count {
            front.advance(count);
            return;
        }
        count -= front.len();
        queue.pop_front();
    }
    // Empty buffers at the front would make the next call send nothing.
    while queue.front().is_some_and(Bytes::is_empty) {
        queue.pop_front();
    }
}

/// Idle time before the first keep-alive probe, between probes, and how many go unanswered.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;
/// How long sent bytes may go unacknowledged.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn taking_out_what_was_sent_cuts_inside_a_buffer() {
        let mut queue: VecDeque<Bytes> = ["abc", "", "defg", "", "h"].map(Bytes::from).into();
        take_front(&mut queue, 5);
        assert_eq!(queue, ["fg", "", "h"].map(Bytes::from));
        take_front(&mut queue, 2);
        assert_eq!(queue, ["h"].map(Bytes::from));
    }

    #[test]
    fn a_peer_that_never_reads_blocks_the_queue_and_gets_all_of_it_later() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut peer = TcpStream::connect(listener.local_addr()?)?;
        let socket = Socket::from_accepted(listener.accept()?.0.into())?;
        let total = 64 << 20;
        let mut queue: VecDeque<Bytes> = (0..64)
            .map(|i| Bytes::from(vec![i as u8; total / 64]))
            .collect();
        assert!(matches!(socket.send(&mut queue), Sent::Blocked));
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; total];
            peer.read_exact(&mut got).map(|()| got)
        });
        while let Sent::Blocked = socket.send(&mut queue) {
            std::thread::yield_now();
        }
        let got = reader.join().expect("the reader does not panic")?;
        assert!(
            got.chunks(total / 64)
                .enumerate()
                .all(|(i, c)| c.iter().all(|b| *b == i as u8))
        );
        Ok(())
    }

    #[test]
    fn a_refused_connection_says_so() -> io::Result<()> {
        let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?.into();
        // The kernel refuses on loopback at once, or on the first look at the socket.
        let refused = match Socket::start_connect(&closed) {
            Err(error) => error,
            Ok(socket) => loop {
                match socket.connect_result() {
                    Some(result) => break result.expect_err("nobody listens there"),
                    None => std::thread::yield_now(),
                }
            },
        };
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        Ok(())
    }
}
