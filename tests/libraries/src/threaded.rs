//! A server with a thread for each connection: the other side of what is tried on coroutines.
//!
//! Knows: sockets, threads. Does not know: what is said on a connection.
//!
//! Invariant: dropping a [`Threaded`] ends its listener; the threads of its connections end with them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use socket2::{Domain, Socket, Type};

/// A listener on a free port of the loopback interface, and its thread.
#[derive(Debug)]
pub struct Threaded {
    addr: SocketAddr,
    over: Arc<AtomicBool>,
    listening: Option<thread::JoinHandle<()>>,
}

impl Threaded {
    /// Runs `serve` on a thread of its own for each connection. What it returns is the end of that
    /// connection and of nothing else: its client sees it.
    ///
    /// # Errors
    /// What the operating system says about sockets and threads.
    pub fn start<E>(
        serve: impl Fn(TcpStream) -> Result<(), E> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        // std listens with room for 128, and a thousand come at once.
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let addr = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let (ends, serve) = (Arc::clone(&over), Arc::new(serve));
        let listening = thread::Builder::new()
            .name("listener".into())
            .spawn(move || listen(&listener, &ends, &serve))?;
        Ok(Self {
            addr,
            over,
            listening: Some(listening),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn listen<E>(
    listener: &TcpListener,
    over: &AtomicBool,
    serve: &Arc<impl Fn(TcpStream) -> Result<(), E> + Send + Sync + 'static>,
) {
    for stream in listener.incoming() {
        // Release by who drops the server, before the connection that wakes us.
        if over.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let serve = Arc::clone(serve);
        let small = thread::Builder::new().stack_size(STACK);
        let started = small.spawn(move || serve(stream).map_err(drop));
        if let Err(error) = started {
            eprintln!("no thread for a connection: {error}");
        }
    }
}

impl Drop for Threaded {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        let woken = TcpStream::connect(self.addr).is_ok();
        if let (Some(listening), true) = (self.listening.take(), woken) {
            // It ends by returning; a panic there has been printed.
            let _ = listening.join();
        }
    }
}

const BACKLOG: i32 = 4096;
/// A TLS handshake fits.
const STACK: usize = 256 << 10;
