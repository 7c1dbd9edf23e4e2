//! What a connection has to send, and who is sending it.
//!
//! Knows: byte queues, sockets.   Does not know: what fills the queue, when a turn ends.
//!
//! Many coroutines on many workers add to one connection's queue under its spin lock. Whoever flushes
//! takes the whole queue out and writes it with the lock released, so that nobody spins for the length
//! of a system call; what was added meanwhile goes with the next round of the same flush.
//!
//! Invariants
//! - O-1  One flush at a time holds bytes outside the lock (`writing`): the order of the queue is the
//!   order on the wire.
//! - O-2  `blocked` is only set when no writable edge came since the attempt began (`edges`): no edge
//!   is lost between "the socket is full" and "wait for it".

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use super::{Sent, Socket};
use crate::base::lock::SpinLock;
use crate::base::time::Instant;

/// The sending side of a connection's state. Lives under the connection's lock.
#[derive(Debug)]
pub struct Outflow {
    /// An empty queue, kept for its allocation.
    spare: VecDeque<Bytes>,
    /// A flush is writing outside the lock (O-1).
    writing: bool,
    /// The socket is full; the next writable edge goes on.
    blocked: bool,
    /// Writable edges seen.
    edges: u32,
    /// Since when `blocked` holds without a byte having left; `NEVER` while it does not.
    stalled_since: Instant,
}

/// How a flush ended.
#[derive(Debug)]
pub enum Flushed {
    /// Everything is with the kernel.
    Done,
    /// The rest waits for a writable edge, or another flush is at it.
    Waiting,
    /// The connection is broken.
    Failed(io::Error),
}

/// Connection state that holds a queue to send.
pub trait Queued {
    /// The sending side, and the queue that it sends: two different fields.
    fn outflow(&mut self) -> (&mut Outflow, &mut VecDeque<Bytes>);
}

impl Default for Outflow {
    fn default() -> Self {
        Self {
            spare: VecDeque::new(),
            writing: false,
            blocked: false,
            edges: 0,
            stalled_since: Instant::NEVER,
        }
    }
}

impl Outflow {
    /// Takes note of a writable edge; true if a flush should follow.
    pub fn writable(&mut self) -> bool {
        self.edges = self.edges.wrapping_add(1);
        std::mem::take(&mut self.blocked)
    }

    /// True while the socket is full.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// True while bytes are outside the queue, in the hands of a flush.
    pub fn is_writing(&self) -> bool {
        self.writing
    }

    /// Since when nothing could be written; `NEVER` while the socket takes bytes.
    pub fn stalled_since(&self) -> Instant {
        self.stalled_since
    }
}

/// Sends what `state` has queued, until the queue is empty or the socket full.
pub fn flush<S: Queued>(socket: &Socket, state: &SpinLock<S>) -> Flushed {
    let (mut batch, mut edges) = {
        let mut state = state.lock();
        let (out, queue) = state.outflow();
        if out.writing || out.blocked {
            return Flushed::Waiting;
        }
        if queue.is_empty() {
            return Flushed::Done;
        }
        out.writing = true;
        let batch = std::mem::replace(queue, std::mem::take(&mut out.spare));
        (batch, out.edges)
    };
    loop {
        let before = batch.len();
        let sent = socket.send(&mut batch);
        let mut state = state.lock();
        let (out, queue) = state.outflow();
        match sent {
            Sent::All => {
                out.stalled_since = Instant::NEVER;
                if queue.is_empty() {
                    out.writing = false;
                    out.spare = trimmed(batch);
                    return Flushed::Done;
                }
                std::mem::swap(queue, &mut batch);
            }
            Sent::Blocked if out.edges != edges => edges = out.edges,
            Sent::Blocked => {
                if batch.len() < before || out.stalled_since.is_never() {
                    out.stalled_since = Instant::now();
                }
                while let Some(last) = batch.pop_back() {
                    queue.push_front(last);
                }
                out.writing = false;
                out.blocked = true;
                return Flushed::Waiting;
            }
            Sent::Failed(error) => {
                out.writing = false;
                return Flushed::Failed(error);
            }
        }
    }
}

/// An idle connection keeps no more than a small queue.
fn trimmed(queue: VecDeque<Bytes>) -> VecDeque<Bytes> {
    if queue.capacity() > SPARE_MAX {
        return VecDeque::new();
    }
    queue
}

/// Buffers that a spare queue may have room for: 256 bytes of memory.
const SPARE_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    struct State(Outflow, VecDeque<Bytes>);

    impl Queued for State {
        fn outflow(&mut self) -> (&mut Outflow, &mut VecDeque<Bytes>) {
            (&mut self.0, &mut self.1)
        }
    }

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (
            Socket::from_accepted(listener.accept().unwrap().0.into()).unwrap(),
            peer,
        )
    }

    #[test]
    fn a_full_socket_keeps_the_order_and_goes_on_at_the_writable_edge() {
        let (socket, mut peer) = pair();
        let blocks: Vec<Bytes> = (0..64_u8).map(|i| Bytes::from(vec![i; 1 << 18])).collect();
        let state = SpinLock::new(State(Outflow::default(), blocks.iter().cloned().collect()));
        assert!(matches!(flush(&socket, &state), Flushed::Waiting));
        assert!(state.lock().0.is_blocked() && !state.lock().0.stalled_since().is_never());
        // Without an edge nothing is tried, with one it goes on.
        assert!(matches!(flush(&socket, &state), Flushed::Waiting));
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 64 << 18];
            peer.read_exact(&mut got).map(|()| got)
        });
        while !matches!(flush(&socket, &state), Flushed::Done) {
            state.lock().0.writable();
            std::thread::yield_now();
        }
        assert_eq!(reader.join().unwrap().unwrap(), blocks.concat());
        assert!(state.lock().0.stalled_since().is_never());
    }

    #[test]
    fn a_broken_connection_fails_the_flush() {
        let (socket, peer) = pair();
        drop(peer);
        let state = SpinLock::new(State(Outflow::default(), VecDeque::new()));
        let failed = (0..1000).any(|_| {
            state
                .lock()
                .1
                .push_back(Bytes::from_static(b"into the void"));
            matches!(flush(&socket, &state), Flushed::Failed(_))
        });
        assert!(failed);
    }
}
