//! One listening socket.
//!
//! Knows: binding, accepting, which errors of `accept(2)` pass by themselves.
//! Does not know: who serves the connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use socket2::{SockAddr, Type};

use super::{Socket, address};

/// Connections that the kernel holds for us between two accepts; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A bound, listening, non-blocking socket.
#[derive(Debug)]
pub struct Listener {
    inner: socket2::Socket,
    addr: SockAddr,
    /// What a socket in the file system leaves behind; removed with the listener.
    _file: Option<SocketFile>,
}

/// What one attempt to accept gave.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, and who is at its other end; over a Unix socket nobody with an address.
    Connection(Socket, Option<SocketAddr>),
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
    /// Binds and listens. `addr` is `HOST:PORT`, where port 0 takes a free one, or `unix:PATH`, where a file
    /// that a dead server left is replaced.
    ///
    /// # Errors
    /// The address does not resolve, is in use, or is not ours; the text names it.
    pub fn bind(addr: &str) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse if address::is_local(addr) => {
                    " (stop its user, or choose another path)"
                }
                io::ErrorKind::AddrInUse => " (stop its user, or choose another port)",
                io::ErrorKind::InvalidInput => " (expected HOST:PORT or unix:PATH)",
                _ => "",
            };
            io::Error::new(
                error.kind(),
                format!("cannot listen on {addr}: {error}{hint}"),
            )
        };
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no such host");
        for candidate in address::resolve(addr).map_err(explain)? {
            match Self::bind_one(&candidate) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(explain(last))
    }

    fn bind_one(addr: &SockAddr) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = socket2::Socket::new(addr.domain(), kind, None)?;
        let path = addr.as_pathname();
        if !addr.is_unix() {
            socket.set_reuse_address(true)?;
        }
        let mut bound = socket.bind(addr);
        if let (Err(error), Some(path)) = (&bound, path)
            && error.kind() == io::ErrorKind::AddrInUse
            && is_abandoned(path, addr)
        {
            std::fs::remove_file(path)?;
            bound = socket.bind(addr);
        }
        bound?;
        let file = path.map(SocketFile::of).transpose()?;
        socket.listen(BACKLOG)?;
        let addr = socket.local_addr()?;
        Ok(Self {
            inner: socket,
            addr,
            _file: file,
        })
    }

    /// Where it listens, with the port that was chosen; `0.0.0.0:0` for a Unix socket.
    pub fn local_addr(&self) -> SocketAddr {
        let none = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.addr.as_socket().unwrap_or(none)
    }

    /// Where it listens, as [`address::resolve`] takes it.
    pub fn name(&self) -> String {
        address::text_of(&self.addr)
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
                    Ok(socket) => return Accepted::Connection(socket, peer.as_socket()),
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

/// A socket's file, as it was made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and number: another file of that name is not ours to remove.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let identity = Self::identity(path)?;
        let path = path.to_owned();
        Ok(Self { path, identity })
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        let about = path.symlink_metadata()?;
        Ok((about.dev(), about.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Nothing is lost if it stays: the next server finds it abandoned.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// True if a socket lies there and nobody listens at it.
fn is_abandoned(path: &Path, addr: &SockAddr) -> bool {
    // A file of another kind refuses connections as well.
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|about| about.file_type().is_socket());
    let refused = Socket::start_connect(addr).err();
    is_socket && refused.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
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
    fn a_dead_servers_file_is_replaced_and_a_living_ones_is_not() {
        let folder = std::env::temp_dir().join(format!("listener-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let name = format!("unix:{}", path.display());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library's leaves its file");
        let living = Listener::bind(&name).unwrap();
        assert_eq!(living.name(), name);
        let text = Listener::bind(&name).unwrap_err().to_string();
        assert!(
            text.contains(&name) && text.contains("another path"),
            "{text}"
        );
        drop(living);
        assert!(!path.exists());
        std::fs::write(&path, "no socket").unwrap();
        assert!(
            Listener::bind(&name).is_err(),
            "a file of another kind is never removed"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_address_without_a_port_says_what_was_expected() {
        let text = Listener::bind("127.0.0.1").unwrap_err().to_string();
        assert!(text.contains("HOST:PORT"), "{text}");
    }
}
