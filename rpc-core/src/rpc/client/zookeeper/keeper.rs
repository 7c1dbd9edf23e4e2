//! What keeps a session alive: the thread that connects, connects again, and hears what comes.
//!
//! Knows: sockets, time, who waits for which answer.   Does not know: what is asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::wire::{self, Incoming, Ticket};
use super::{Event, Fault, PENDING, WATCHES};
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::rpc::client::backoff::Backoff;
use crate::runtime::without_hooks;
use crate::sync::oneshot::{Receiver, Sender, oneshot};
use crate::sync::{Condvar, Mutex, WaitError};

/// Bytes of a request; servers close the connection on one of 1 MiB unless they are told otherwise.
const REQUEST_MAX: usize = (1 << 20) - 1024;
/// Bounds of the time for one attempt to connect, and for a write.
const ATTEMPT: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(2));
/// Longest pause between two rounds through the servers.
const PAUSE: Duration = Duration::from_secs(1);
/// A connection that stood for so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(1);

/// What the session's handle and its thread share.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// The phase has changed, or `events` has a new one.
    news: Condvar,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// At most [`WATCHES`].
    watched: BTreeSet<String>,
    /// At most one for each watched path, one of the connection, and the end.
    events: VecDeque<Event>,
}

#[derive(Default)]
enum Phase {
    /// The first attempt, or the first after a loss: calls wait.
    #[default]
    Connecting,
    /// Calls go here.
    Connected(Arc<Line>),
    /// No server gave a connection, for this reason; it is tried again. Calls fail.
    Away(String),
    /// A server has ended the session.
    Expired,
    /// Its handle was dropped.
    Closed,
}

impl Shared {
    /// The connection, as soon as there is one.
    pub fn connected(&self, until: Instant) -> Result<Arc<Line>, Fault> {
        let mut state = self.state.lock();
        loop {
            match &state.phase {
                Phase::Connected(line) => return Ok(Arc::clone(line)),
                Phase::Away(why) => return Err(Fault::Unreachable(why.clone())),
                Phase::Expired => return Err(Fault::Expired),
                Phase::Closed => {
                    return Err(Fault::Unreachable("the session was closed".to_owned()));
                }
                Phase::Connecting => {}
            }
            let (guard, waited) = self.news.wait_timeout(state, until - Instant::now());
            state = guard;
            waited.map_err(|cut| Fault::Unreachable(why(cut)))?;
        }
    }

    /// From now on the path is watched on every connection.
    pub fn remember(&self, path: &str) -> Result<(), Fault> {
        let mut state = self.state.lock();
        if state.watched.len() >= WATCHES && !state.watched.contains(path) {
            return Err(Fault::Full);
        }
        state.watched.insert(path.to_owned());
        Ok(())
    }

    pub fn next_event(&self, until: Instant) -> Option<Event> {
        let mut state = self.state.lock();
        loop {
            if let Some(event) = state.events.pop_front() {
                return Some(event);
            }
            let (guard, waited) = self.news.wait_timeout(state, until - Instant::now());
            state = guard;
            if waited.is_err() {
                return state.events.pop_front();
            }
        }
    }

    /// A server has ended the session, whoever heard of it first.
    pub fn expire(&self) {
        let mut state = self.state.lock();
        if !state.is_over() {
            state.phase = Phase::Expired;
            state.tell(Event::Expired);
            self.news.notify_all();
        }
    }

    /// The handle is dropped.
    pub fn close(&self) {
        let phase = std::mem::replace(&mut self.state.lock().phase, Phase::Closed);
        if let Phase::Connected(line) = phase {
            line.close();
        }
    }

    fn is_over(&self) -> bool {
        self.state.lock().is_over()
    }

    /// Calls go to `line` from now on; false if there will be none.
    fn enter(&self, line: &Arc<Line>, first: bool) -> bool {
        let watched = self.state.lock().watched.clone();
        // Before anybody reads over this connection: what changes after that is told.
        for path in &watched {
            line.write(&wire::add_watch(wire::REWATCH, path));
        }
        let mut state = self.state.lock();
        if state.is_over() {
            return false;
        }
        state.phase = Phase::Connected(Arc::clone(line));
        if !first {
            state.tell(Event::Connected);
        }
        for path in watched {
            state.tell(Event::Changed(path));
        }
        self.news.notify_all();
        true
    }

    /// The connection is lost.
    fn leave(&self) {
        let mut state = self.state.lock();
        if !state.is_over() {
            state.phase = Phase::Connecting;
            state.tell(Event::Disconnected);
            self.news.notify_all();
        }
    }

    /// No server gave a connection.
    fn away(&self, why: String) {
        let mut state = self.state.lock();
        if !state.is_over() {
            state.phase = Phase::Away(why);
            self.news.notify_all();
        }
    }

    fn changed(&self, path: String) {
        let mut state = self.state.lock();
        if state.watched.contains(&path) {
            state.tell(Event::Changed(path));
            self.news.notify_all();
        }
    }
}

impl State {
    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Expired | Phase::Closed)
    }

    fn tell(&mut self, event: Event) {
        let of_connection = |event: &Event| matches!(event, Event::Connected | Event::Disconnected);
        if of_connection(&event) {
            // Only how it is now is of use to anybody.
            self.events.retain(|event| !of_connection(event));
        } else if self.events.contains(&event) {
            return;
        }
        self.events.push_back(event);
    }
}

/// A connection that has its session.
pub(super) struct Line {
    stream: TcpStream,
    sending: Mutex<Sending>,
}

struct Sending {
    /// The next request's number, from 1.
    next: i32,
    /// Who waits for which answer, at most [`PENDING`]; `None` = the connection is lost.
    pending: Option<BTreeMap<i32, Sender<Answer>>>,
}

type Answer = Result<Bytes, Fault>;

impl Line {
    fn new(stream: TcpStream) -> Self {
        let sending = Sending {
            next: 1,
            pending: Some(BTreeMap::new()),
        };
        Self {
            stream,
            sending: Mutex::new(sending),
        }
    }

    /// Sends a request.
    pub fn ask(&self, request: impl FnOnce(i32) -> Vec<u8>) -> Result<Receiver<Answer>, Fault> {
        let mut sending = self.sending.lock();
        let number = sending.next;
        let frame = request(number);
        if frame.len() > REQUEST_MAX {
            return Err(Fault::Invalid);
        }
        let lost = || Fault::Unreachable("the connection is lost".to_owned());
        let pending = sending.pending.as_mut().ok_or_else(lost)?;
        if pending.len() >= PENDING {
            return Err(Fault::Full);
        }
        let (sender, receiver) = oneshot();
        pending.insert(number, sender);
        sending.next = number.checked_add(1).unwrap_or(1);
        self.write_locked(&frame);
        Ok(receiver)
    }

    /// Asks for the end of the session; the server closes the connection then.
    fn close(&self) {
        let sending = self.sending.lock();
        self.write_locked(&wire::close(sending.next));
    }

    fn write(&self, frame: &[u8]) {
        let _sending = self.sending.lock();
        self.write_locked(frame);
    }

    /// Writes a frame; the lock of `sending` keeps frames apart. It is the plain system call, which takes as long as the
    /// socket's own timeout allows: a caller that is cancelled or out of time would cut the connection for all. It
    /// waits only where a server has stopped reading.
    fn write_locked(&self, frame: &[u8]) {
        if without_hooks(|| (&self.stream).write_all(frame)).is_err() {
            // Half a frame may be out: the reader finds the end and fails what waits.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    fn answer(&self, number: i32, answer: Answer) {
        let mut sending = self.sending.lock();
        let waiting = sending
            .pending
            .as_mut()
            .and_then(|pending| pending.remove(&number));
        drop(sending);
        if let Some(waiting) = waiting {
            // Whoever asked may have given up.
            let _ = waiting.send(answer);
        }
    }

    /// No more requests; those under way are lost.
    fn lose(&self, why: &str) {
        let _ = self.stream.shutdown(Shutdown::Both);
        let pending = self.sending.lock().pending.take();
        for waiting in pending.into_iter().flatten().map(|(_, waiting)| waiting) {
            let _ = waiting.send(Err(Fault::Lost(why.to_owned())));
        }
    }
}

/// The thread.
pub(super) struct Keeper {
    addresses: Arc<[String]>,
    shared: Arc<Shared>,
    ticket: Ticket,
    /// The newest change that a server has told of: one that is behind it is not gone on with.
    seen: i64,
    rng: Rng,
}

impl Keeper {
    pub fn new(addresses: Arc<[String]>, shared: Arc<Shared>, timeout: Duration) -> Self {
        let ticket = Ticket {
            id: 0,
            password: vec![0; 16],
            timeout: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
        };
        Self {
            addresses,
            shared,
            ticket,
            seen: 0,
            rng: Rng::from_entropy(),
        }
    }

    /// Runs until the session is over.
    pub fn run(mut self) {
        let servers = self.addresses.len();
        let mut turn = self.rng.below(servers as u64) as usize;
        let mut backoff = Backoff::up_to(PAUSE.min(self.timeout() / 4), Rng::from_entropy());
        loop {
            let mut trouble = None;
            for _ in 0..servers {
                if self.shared.is_over() {
                    return;
                }
                turn = (turn + 1) % servers;
                let first = self.ticket.id == 0;
                match self.connect(turn) {
                    Ok(Some((line, rest))) => {
                        let since = Instant::now();
                        if !self.shared.enter(&line, first) {
                            return line.close();
                        }
                        let why = self.hear(&line, rest);
                        line.lose(&format!("{}: {why}", self.addresses[turn]));
                        self.shared.leave();
                        if since.elapsed() > GOOD_AFTER {
                            backoff.reset();
                        }
                        trouble = None;
                        break;
                    }
                    Ok(None) => return self.shared.expire(),
                    Err(error) => trouble = Some(format!("{}: {error}", self.addresses[turn])),
                }
            }
            if let Some(why) = trouble {
                self.shared.away(why);
            }
            std::thread::sleep(backoff.next());
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.ticket.timeout.max(1) as u64)
    }

    /// Connects to a server and has it take the session, or begin one; with what else it sent. `None` when
    /// the session is over.
    fn connect(&mut self, server: usize) -> io::Result<Option<(Arc<Line>, BytesMut)>> {
        let limit = (self.timeout() / 3).clamp(ATTEMPT.0, ATTEMPT.1);
        let mut attempt = Err(io::Error::other("the name has no address"));
        for addr in self.addresses[server].to_socket_addrs()? {
            attempt = TcpStream::connect_timeout(&addr, limit);
            if attempt.is_ok() {
                break;
            }
        }
        let stream = attempt?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(limit))?;
        (&stream).write_all(&wire::connect(&self.ticket, self.seen))?;
        let mut buffer = BytesMut::new();
        let until = Instant::after(limit);
        let frame = next_frame(&stream, &mut buffer, until)?.ok_or_else(|| {
            let text = format!("no session within {limit:?}");
            io::Error::new(io::ErrorKind::TimedOut, text)
        })?;
        match wire::connected(frame) {
            Ok(Some(ticket)) => {
                self.ticket = ticket;
                Ok(Some((Arc::new(Line::new(stream)), buffer)))
            }
            Ok(None) => Ok(None),
            Err(_) => Err(io::Error::other(NONSENSE)),
        }
    }

    /// Hears what the server says and gives signs of life, until the connection is lost: why.
    fn hear(&mut self, line: &Line, mut buffer: BytesMut) -> String {
        let third = self.timeout() / 3;
        let mut heard = Instant::now();
        let mut ping = heard + third;
        loop {
            let silent = heard + third * 2;
            let frame = match next_frame(&line.stream, &mut buffer, ping.min(silent)) {
                Ok(frame) => frame,
                Err(error) => return error.to_string(),
            };
            let now = Instant::now();
            if let Some(frame) = frame {
                heard = now;
                let Ok((incoming, seen)) = wire::incoming(frame) else {
                    return NONSENSE.to_owned();
                };
                self.seen = seen.unwrap_or(self.seen);
                match incoming {
                    Incoming::Changed(path) => self.shared.changed(path),
                    Incoming::Answer(number, answer) => line.answer(number, answer),
                }
            } else if now >= silent {
                return format!("silent for {:?}", third * 2);
            }
            if now >= ping {
                line.write(&wire::ping());
                ping = now + third;
            }
        }
    }
}

const NONSENSE: &str = "what answers there is no ZooKeeper server of version 3.6 or later";

/// The next whole frame, or `None` when there is none until then.
fn next_frame(
    mut stream: &TcpStream,
    buffer: &mut BytesMut,
    until: Instant,
) -> io::Result<Option<Bytes>> {
    loop {
        if let Some(length) = buffer.first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            if length > wire::FRAME_MAX {
                return Err(io::Error::other(NONSENSE));
            }
            if buffer.len() >= 4 + length {
                let frame = buffer.split_to(4 + length).freeze();
                return Ok(Some(frame.slice(4..)));
            }
        }
        let left = until - Instant::now();
        if left.is_zero() {
            return Ok(None);
        }
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut chunk = [0; 8 << 10];
        match stream.read(&mut chunk) {
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server closed the connection",
                ));
            }
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::TimedOut
                | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
    }
}

/// What cut a wait short.
pub(super) fn why(cut: WaitError) -> String {
    match cut {
        WaitError::Closed => "the connection is lost".to_owned(),
        cut => cut.to_string(),
    }
}
