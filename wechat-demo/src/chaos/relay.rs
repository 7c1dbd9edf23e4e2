//! The network between terminals and access, as a thing that can fail: every byte passes through here.
//!
//! A connection has two pumps, one for each direction. A direction can be stopped (the bytes stay, both ends
//! believe in the connection) or slowed; connections can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections at a time; beyond, new ones are refused.
const CONNECTIONS: usize = 2_048;
/// Pause between looks at a direction that is stopped.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes carried at once.
const CHUNK: usize = 16 << 10;

/// The way a byte takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the terminal.
    Up,
    /// To the terminal.
    Down,
}

/// A relay before one address.
#[derive(Debug)]
pub(crate) struct Relay {
    target: String,
    address: String,
    up: Lane,
    down: Lane,
    /// Both ends of every connection.
    open: Mutex<Vec<(u64, TcpStream, TcpStream)>>,
    next: AtomicU64,
    over: AtomicBool,
}

/// What happens to one direction now.
#[derive(Debug, Default)]
struct Lane {
    stopped: AtomicBool,
    /// Added to every chunk, ms.
    delay: AtomicU64,
    /// Bytes carried.
    carried: AtomicU64,
}

impl Relay {
    /// Listens on a free port and carries to `target`.
    pub(crate) fn start(target: &str) -> std::io::Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let relay = Arc::new(Self {
            target: target.to_owned(),
            address: listener.local_addr()?.to_string(),
            up: Lane::default(),
            down: Lane::default(),
            open: Mutex::default(),
            next: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let accepting = relay.clone();
        rpc_core::spawn(move || accepting.accept(&listener));
        Ok(relay)
    }

    /// HOST:PORT that terminals connect to.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Bytes carried up and down so far.
    pub(crate) fn carried(&self) -> (u64, u64) {
        let carried = |lane: &Lane| lane.carried.load(Ordering::Acquire);
        (carried(&self.up), carried(&self.down))
    }

    /// Stops or frees a direction.
    pub(super) fn stop(&self, direction: Direction, stopped: bool) {
        self.lane(direction)
            .stopped
            .store(stopped, Ordering::Release);
    }

    /// Slows both directions by so much each.
    pub(super) fn delay(&self, delay: Duration) {
        for lane in [&self.up, &self.down] {
            lane.delay
                .store(delay.as_millis() as u64, Ordering::Release);
        }
    }

    /// Cuts every connection.
    pub(super) fn cut(&self) {
        for (_, terminal, access) in self.open().drain(..) {
            // They fail only where the other end was faster.
            let _ = terminal.shutdown(Shutdown::Both);
            let _ = access.shutdown(Shutdown::Both);
        }
    }

    /// Ends it: nothing is carried any more.
    pub(crate) fn close(&self) {
        self.over.store(true, Ordering::Release);
        self.cut();
        // Wakes the listener.
        drop(TcpStream::connect(&self.address));
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((terminal, _)) = listener.accept() {
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let relay = self.clone();
            rpc_core::spawn(move || {
                // A terminal whose way on does not open finds its connection closed.
                let _ = relay.carry(terminal);
            });
        }
    }

    fn carry(self: &Arc<Self>, terminal: TcpStream) -> std::io::Result<()> {
        if self.open().len() >= CONNECTIONS {
            return Ok(());
        }
        let access = TcpStream::connect(&self.target)?;
        terminal.set_nodelay(true)?;
        access.set_nodelay(true)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let ends = (terminal.try_clone()?, access.try_clone()?);
        self.open().push((number, ends.0, ends.1));
        let (back, from, to) = (self.clone(), access.try_clone()?, terminal.try_clone()?);
        let down = rpc_core::spawn(move || back.pump(Direction::Down, from, to));
        self.pump(Direction::Up, terminal, access);
        // It ends when its sockets do, which the pump above has seen to.
        let _ = down.join();
        self.open().retain(|(open, ..)| *open != number);
        Ok(())
    }

    fn pump(&self, direction: Direction, mut from: TcpStream, mut to: TcpStream) {
        let lane = self.lane(direction);
        let mut bytes = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            while lane.stopped.load(Ordering::Acquire) && !self.over.load(Ordering::Acquire) {
                std::thread::sleep(LOOK);
            }
            let delay = lane.delay.load(Ordering::Acquire);
            if delay > 0 {
                std::thread::sleep(Duration::from_millis(delay));
            }
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
            lane.carried.fetch_add(length as u64, Ordering::AcqRel);
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<(u64, TcpStream, TcpStream)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An echo behind the relay, and a connection to it.
    fn echo() -> (Arc<Relay>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap().to_string();
        rpc_core::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).unwrap();
            }
        });
        let relay = Relay::start(&target).unwrap();
        let stream = TcpStream::connect(relay.address()).unwrap();
        (relay, stream)
    }

    #[rpc_core::test]
    fn bytes_pass_wait_and_pass_again() {
        let (relay, mut stream) = echo();
        let mut byte = [0];
        stream.write_all(b"a").unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"a");

        relay.stop(Direction::Down, true);
        stream.write_all(b"b").unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        assert!(stream.read_exact(&mut byte).is_err(), "nothing comes down");
        relay.stop(Direction::Down, false);
        stream.set_read_timeout(None).unwrap();
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
        relay.close();
    }

    #[rpc_core::test]
    fn a_cut_is_seen_by_the_terminal() {
        let (relay, mut stream) = echo();
        let mut byte = [0];
        stream.write_all(b"a").unwrap();
        stream.read_exact(&mut byte).unwrap();
        relay.cut();
        assert!(!matches!(stream.read(&mut byte), Ok(1)));
        relay.close();
    }
}
