//! One listening socket.
//!
//! Knows: binding, accepting, which errors of `accept(2)` pass by themselves.
//! Does not know: who serves the connections.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, Type};

use super::Socket;

/// Connections that the kernel holds for us between two accepts; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A bound, listening, non-blocking socket.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    addr: SocketAddr,
}

/// What one attempt to accept gave.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, and who is at its other end.
    Connection(Socket, SocketAddr),
    /// None waits; wait for the next edge.
    WouldBlock,
    /// A connection was gone again before we took it (`ECONNABORTED` and its kin); try the next.
    Vanished(io::Error),
    /// The process or the machine is out of descriptors or memory. The connection still waits, and no
    /// new edge will come for it: try again after a while.
    Exhausted(io::Error),
    /// The listener is unusable.
    Failed(io::Error),
}

impl Listener {
    /// Binds and listens. `addr` is `HOST:PORT`; port 0 takes a free one.
    ///
    /// # Errors
    /// The address does not resolve, is in use, or is not ours; the text names it.
    pub fn bind(addr: &str) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => " (stop its user, or choose another port)",
                io::ErrorKind::InvalidInput => " (expected HOST:PORT)",
                _ => "",
            };
            io::Error::new(
                error.kind(),
                format!("cannot listen on {addr}: {error}{hint}"),
            )
        };
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no such host");
        for candidate in addr.to_socket_addrs().map_err(explain)? {
            match Self::bind_one(candidate) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(explain(last))
    }

    fn bind_one(addr: SocketAddr) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = socket2::Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        let inner = TcpListener::from(socket);
        let addr = inner.local_addr()?;
        Ok(Self { inner, addr })
    }

    /// Where it listens, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The descriptor, for attaching to the reactor.
    pub fn fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }

    /// Takes the next connection, if one waits.
    pub fn accept(&self) -> Accepted {
        loop {
            let error = match self.inner.accept() {
                Ok((stream, peer)) => match Socket::from_accepted(stream) {
                    Ok(socket) => return Accepted::Connection(socket, peer),
                    Err(error) => return Accepted::Vanished(error),
                },
                Err(error) => error,
            };
            return match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::EAGAIN) => Accepted::WouldBlock,
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    Accepted::Exhausted(error)
                }
                Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => {
                    Accepted::Failed(error)
                }
                // accept(2): errors of the new connection's network are passed on; treat like a retry.
                _ => Accepted::Vanished(error),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_port_is_one_line_that_names_the_address_and_what_to_do() {
        let first = Listener::bind("127.0.0.1:0").unwrap();
        let addr = first.local_addr().to_string();
        let text = Listener::bind(&addr).unwrap_err().to_string();
        assert!(
            text.contains(&addr) && text.contains("another port"),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }

    #[test]
    fn an_address_without_a_port_says_what_was_expected() {
        let text = Listener::bind("127.0.0.1").unwrap_err().to_string();
        assert!(text.contains("HOST:PORT"), "{text}");
    }
}
