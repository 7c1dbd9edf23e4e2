//! The relay itself: plain blocking code, four coroutines for a stream.
//!
//! ```text
//!  near ──read──▶ [ up: Pipe ] ──write──▶ far        near: whoever connected to the door
//!  near ◀─write── [ down: Pipe ] ◀──read── far       far: what the door's target accepted
//! ```
//! Locks are taken in the order pipe, line. Who changes a line takes each pipe's lock afterwards before waking it, so
//! nobody who has just looked at the line sleeps through the change.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rpc_core::base::rng::Rng;
use rpc_core::base::time::Instant;
use socket2::{Domain, SockRef, Socket, Type};

use super::lane::{Item, Lane, Line};
use super::matrix::{Matrix, MatrixError, Mode, Shape};
use crate::model::PrefixTable;

/// Streams at a time, those included of which one end was left behind; beyond, new ones are reset.
pub const STREAMS: usize = 4_096;
/// Bytes carried at once.
const CHUNK: usize = 16 << 10;
/// How long an opening may wait in a stalled line before it is reset, as a system gives up its SYNs.
const OPENING: Duration = Duration::from_secs(30);
/// How long the target may take to accept.
const ACCEPTANCE: Duration = Duration::from_secs(5);
/// Pause between looks at whether a stream is over, where its end takes no bytes.
const LOOK: Duration = Duration::from_millis(200);
/// Pause after the system had no descriptor for a connection.
const BREATH: Duration = Duration::from_millis(20);

/// A relay that runs. It ends with [`Relay::close`].
#[derive(Debug)]
pub struct Relay {
    matrix: Matrix,
    by_address: PrefixTable<usize>,
    /// Line `from → to` at `from * places + to`.
    lines: Vec<Mutex<Line>>,
    /// Where each door listens.
    doors: Vec<SocketAddr>,
    streams: Mutex<Streams>,
    refused: AtomicU64,
    strangers: AtomicU64,
    over: AtomicBool,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    open: HashMap<u64, Arc<Stream>>,
    /// Ends that a half-open line left behind, with that line.
    orphans: Vec<((usize, usize), TcpStream)>,
}

/// One connection through it.
#[derive(Debug)]
struct Stream {
    near: TcpStream,
    /// Set when the opening came through, under the lock of `up`, as is `over` where both are looked at.
    far: OnceLock<TcpStream>,
    up: Pipe,
    down: Pipe,
    over: AtomicBool,
}

/// One direction of it, and who waits for it.
#[derive(Debug)]
struct Pipe {
    /// The places of its line.
    from: usize,
    to: usize,
    lane: Mutex<Lane>,
    /// Its lane, its line or `Stream::over` changed.
    changed: Condvar,
}

/// What is done to lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// A place, or every one by [`super::matrix::EVERY`].
    pub from: String,
    /// As `from`.
    pub to: String,
    /// The way back as well.
    pub both: bool,
    /// `None` = as it was.
    pub mode: Option<Mode>,
    /// `None` = as it was.
    pub shape: Option<Shape>,
}

/// What a line is like now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineState {
    /// A place.
    pub from: String,
    /// A place.
    pub to: String,
    /// Whether it lets bytes pass.
    pub mode: Mode,
    /// What it does to time.
    pub shape: Shape,
    /// Bytes that came out of it.
    pub carried: u64,
}

/// Why a relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The matrix cannot be.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// A door's address cannot be had.
    #[error(
        "the door of {place} cannot listen on {listen}: {why}; give it a free address of this machine"
    )]
    Door {
        /// Where it is.
        place: String,
        /// The address.
        listen: SocketAddr,
        /// The system's words.
        why: std::io::Error,
    },
}

impl Change {
    /// Both ways between two places.
    #[must_use]
    pub fn both(from: &str, to: &str) -> Self {
        Self {
            both: true,
            ..Self::one_way(from, to)
        }
    }

    /// One way.
    #[must_use]
    pub fn one_way(from: &str, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            both: false,
            mode: None,
            shape: None,
        }
    }

    /// Whether bytes pass from now on.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// What it does to time from now on.
    #[must_use]
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = Some(shape);
        self
    }
}

impl Relay {
    /// Opens every door. Jitter and stalls are drawn from `seed`. Call it on a runtime.
    ///
    /// # Errors
    /// A matrix that cannot be, an address that cannot be had.
    pub fn start(matrix: Matrix, seed: u64) -> Result<Arc<Self>, RelayError> {
        matrix.check()?;
        let mut listeners = Vec::new();
        for door in &matrix.doors {
            let wrong = |why| RelayError::Door {
                place: door.place.clone(),
                listen: door.listen,
                why,
            };
            let listener = TcpListener::bind(door.listen).map_err(wrong)?;
            let address = listener.local_addr().map_err(wrong)?;
            listeners.push((listener, address));
        }
        let mut seeds = Rng::from_seed(seed);
        let count = matrix.places.len() * matrix.places.len();
        let lines = (0..count).map(|_| Mutex::new(Line::new(seeds.next_u64())));
        let relay = Arc::new(Self {
            by_address: matrix.addresses()?,
            lines: lines.collect(),
            doors: listeners.iter().map(|(_, address)| *address).collect(),
            streams: Mutex::default(),
            refused: AtomicU64::new(0),
            strangers: AtomicU64::new(0),
            over: AtomicBool::new(false),
            matrix,
        });
        for row in &relay.matrix.lines {
            for line in relay.matrix.between(&row.from, &row.to, row.both)? {
                relay.line(line).reshape(row.shape);
            }
        }
        for (door, (listener, _)) in listeners.into_iter().enumerate() {
            let relay = relay.clone();
            rpc_core::spawn(move || relay.accept(door, &listener));
        }
        Ok(relay)
    }

    /// Where a door listens, by its place in the matrix.
    #[must_use]
    pub fn door(&self, index: usize) -> SocketAddr {
        self.doors[index]
    }

    /// Bytes that came out of a line so far.
    ///
    /// # Errors
    /// A place that is not there.
    pub fn carried(&self, from: &str, to: &str) -> Result<u64, MatrixError> {
        let line = (self.matrix.named(from)?, self.matrix.named(to)?);
        Ok(self.line(line).carried)
    }

    /// Changes lines, all of them or none.
    ///
    /// # Errors
    /// The first change that cannot be.
    pub fn set(&self, changes: &[Change]) -> Result<(), MatrixError> {
        let mut all = Vec::new();
        for change in changes {
            if let Some(shape) = &change.shape {
                shape.check(&change.from, &change.to)?;
            }
            let lines = self.matrix.between(&change.from, &change.to, change.both)?;
            all.extend(lines.into_iter().map(|line| (line, change)));
        }
        for (line, change) in all {
            self.change(line, change);
        }
        Ok(())
    }

    fn change(&self, at: (usize, usize), change: &Change) {
        {
            let mut line = self.line(at);
            line.mode = change.mode.unwrap_or(line.mode);
            if let Some(shape) = change.shape {
                line.reshape(shape);
            }
        }
        let mut streams = self.streams();
        if matches!(change.mode, Some(Mode::Open | Mode::Reset)) {
            for (_, end) in streams.orphans.extract_if(.., |(line, _)| *line == at) {
                reset(&end);
            }
        }
        let mut left_behind = Vec::new();
        for stream in streams.open.values() {
            let is = |pipe: &Pipe| (pipe.from, pipe.to) == at;
            match change.mode {
                _ if !is(&stream.up) && !is(&stream.down) => {}
                Some(Mode::Reset) => stream.break_off(),
                Some(Mode::HalfOpen) => {
                    left_behind.extend(stream.leave_behind(is(&stream.up)).map(|end| (at, end)));
                }
                _ => stream.wake(),
            }
        }
        streams.orphans.extend(left_behind);
    }

    /// Every line that carried something or is not as it would be by itself.
    #[must_use]
    pub fn show(&self) -> Vec<LineState> {
        let places = &self.matrix.places;
        let all = (0..places.len()).flat_map(|from| (0..places.len()).map(move |to| (from, to)));
        let states = all.map(|(from, to)| {
            let line = self.line((from, to));
            LineState {
                from: places[from].name.clone(),
                to: places[to].name.clone(),
                mode: line.mode,
                shape: line.shape,
                carried: line.carried,
            }
        });
        let plain = |state: &LineState| {
            state.carried == 0 && state.mode == Mode::Open && state.shape == Shape::default()
        };
        states.filter(|state| !plain(state)).collect()
    }

    /// Streams that are open, and ends left behind.
    #[must_use]
    pub fn streams_now(&self) -> usize {
        let streams = self.streams();
        streams.open.len() + streams.orphans.len()
    }

    /// Connections that were not carried: those of a full or cut network, and those from an address of no place.
    #[must_use]
    pub fn turned_away(&self) -> (u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.refused), count(&self.strangers))
    }

    /// Ends it: every stream is reset, nothing is accepted any more.
    pub fn close(&self) {
        self.over.store(true, Ordering::Release);
        let mut streams = self.streams();
        streams.open.values().for_each(|stream| stream.break_off());
        streams.orphans.drain(..).for_each(|(_, end)| reset(&end));
        drop(streams);
        for door in &self.doors {
            // Wakes the listener; it fails where that has ended.
            drop(TcpStream::connect_timeout(door, ACCEPTANCE));
        }
    }

    fn accept(self: &Arc<Self>, door: usize, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.over.load(Ordering::Acquire) {
                return;
            }
            match accepted {
                Ok((near, peer)) => self.admit(door, near, peer.ip()),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    std::thread::sleep(BREATH);
                }
            }
        }
    }

    /// Starts a stream, or resets it.
    fn admit(self: &Arc<Self>, door: usize, near: TcpStream, peer: IpAddr) {
        let entry = &self.matrix.doors[door];
        let known = |name: &str| self.matrix.named(name).expect("the matrix was checked");
        let place = match &entry.from {
            Some(from) => Some(known(from)),
            None => self.by_address.find(peer).copied(),
        };
        let Some(from) = place else {
            if self.strangers.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::warn!(%peer, "somebody connects from an address of no place and is reset; give its place the address, or the door a `from`");
            }
            reset(&near);
            return;
        };
        let to = known(&entry.place);
        let stream = Arc::new(Stream {
            near,
            far: OnceLock::new(),
            up: Pipe::new(from, to),
            down: Pipe::new(to, from),
            over: AtomicBool::new(false),
        });
        let number = {
            let mut streams = self.streams();
            let cut = [(from, to), (to, from)]
                .iter()
                .any(|line| self.line(*line).mode == Mode::Reset);
            if cut || streams.open.len() + streams.orphans.len() >= STREAMS {
                self.refused.fetch_add(1, Ordering::Relaxed);
                reset(&stream.near);
                return;
            }
            streams.next += 1;
            let number = streams.next;
            streams.open.insert(number, stream.clone());
            number
        };
        let (relay, target) = (self.clone(), entry.target);
        rpc_core::spawn(move || {
            if let Err(error) = relay.carry(&stream, target, peer) {
                tracing::debug!(%target, %error, "a stream did not open");
                reset(&stream.near);
            }
            relay.streams().open.remove(&number);
        });
    }

    /// Opens a stream and carries until it is over.
    fn carry(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        target: SocketAddr,
        peer: IpAddr,
    ) -> std::io::Result<()> {
        let until = Instant::now() + OPENING;
        self.pass_open(stream, &stream.up, until)?;
        let far = connect(target, peer);
        // A refusal takes its way back as well.
        self.pass_open(stream, &stream.down, until)?;
        let far = far?;
        stream.near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        for end in [&stream.near, &far] {
            end.set_write_timeout(Some(LOOK))?;
        }
        let broken = {
            let _held = stream.up.lane();
            stream.far.get_or_init(|| far);
            stream.is_over()
        };
        let far = stream.far();
        if broken {
            // That was before this end could be reset with the other.
            reset(far);
            return Ok(());
        }
        let up = self.spawn(stream, |relay, stream| {
            relay.read(stream, &stream.near, &stream.up)
        });
        let down = self.spawn(stream, |relay, stream| {
            relay.read(stream, stream.far(), &stream.down)
        });
        let back = self.spawn(stream, |relay, stream| {
            relay.write(stream, &stream.down, &stream.near, &stream.up);
        });
        self.write(stream, &stream.up, far, &stream.down);
        for pump in [up, down, back] {
            if let Err(error) = pump.join() {
                tracing::error!(%error, "a pump panicked");
            }
        }
        Ok(())
    }

    fn spawn(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        pump: impl FnOnce(&Self, &Stream) + Send + 'static,
    ) -> rpc_core::JoinHandle<()> {
        let (relay, stream) = (self.clone(), stream.clone());
        rpc_core::spawn(move || pump(&relay, &stream))
    }

    /// Takes an opening through a line.
    fn pass_open(&self, stream: &Stream, pipe: &Pipe, until: Instant) -> std::io::Result<()> {
        self.put(pipe, Item::Open);
        match self.next(stream, pipe, until) {
            Some(_) => Ok(()),
            None => Err(ErrorKind::TimedOut.into()),
        }
    }

    /// Reads until the end, as fast as there is room.
    fn read(&self, stream: &Stream, mut from: &TcpStream, pipe: &Pipe) {
        let mut bytes = vec![0; CHUNK];
        loop {
            let Some(room) = self.room(stream, pipe) else {
                return;
            };
            match from.read(&mut bytes[..room.min(CHUNK)]) {
                Ok(0) => return self.put(pipe, Item::End),
                Ok(length) => self.put(pipe, Item::Bytes(bytes[..length].to_vec())),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.put(pipe, Item::Reset),
            }
        }
    }

    /// Writes what arrives until the stream is over. What cannot be delivered is told `back`.
    fn write(&self, stream: &Stream, pipe: &Pipe, to: &TcpStream, back: &Pipe) {
        while let Some(item) = self.next(stream, pipe, Instant::NEVER) {
            match item {
                Item::Open => {}
                Item::Bytes(bytes) => {
                    if !write_all(stream, to, &bytes) {
                        return self.put(back, Item::Reset);
                    }
                }
                Item::End => {
                    // It fails where that end is gone, which its reader tells.
                    let _ = to.shutdown(Shutdown::Write);
                    if pipe.ended_after(back) {
                        return stream.finish();
                    }
                }
                Item::Reset => return stream.break_off(),
            }
        }
    }

    fn put(&self, pipe: &Pipe, item: Item) {
        let mut lane = pipe.lane();
        lane.put(item, &mut self.line((pipe.from, pipe.to)), Instant::now());
        pipe.changed.notify_all();
    }

    /// Waits for room; `None` = the stream is over.
    fn room(&self, stream: &Stream, pipe: &Pipe) -> Option<usize> {
        let mut lane = pipe.lane();
        while !stream.is_over() {
            match lane.room() {
                0 => lane = wait(&pipe.changed, lane, None),
                room => return Some(room),
            }
        }
        None
    }

    /// Waits for what arrives next; `None` = the stream is over, or it is `until`.
    fn next(&self, stream: &Stream, pipe: &Pipe, until: Instant) -> Option<Item> {
        let mut lane = pipe.lane();
        loop {
            let now = Instant::now();
            if stream.is_over() || now >= until {
                return None;
            }
            let mut line = self.line((pipe.from, pipe.to));
            if let Some(item) = lane.take(&mut line, now) {
                pipe.changed.notify_all();
                return Some(item);
            }
            let due = if line.flows() { lane.due() } else { None };
            drop(line);
            let wake = due.unwrap_or(Instant::NEVER).min(until);
            let pause = (!wake.is_never()).then(|| wake - now);
            lane = wait(&pipe.changed, lane, pause);
        }
    }

    fn line(&self, (from, to): (usize, usize)) -> MutexGuard<'_, Line> {
        let line = &self.lines[from * self.matrix.places.len() + to];
        line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn far(&self) -> &TcpStream {
        self.far
            .get()
            .expect("pumps start when both ends are there")
    }

    /// Both ends are reset.
    fn break_off(&self) {
        let far = {
            let _held = self.up.lane();
            self.over.store(true, Ordering::Release);
            self.far.get()
        };
        reset(&self.near);
        far.into_iter().for_each(reset);
        self.wake();
    }

    /// Both directions came to their ends: the pumps go.
    fn finish(&self) {
        self.over.store(true, Ordering::Release);
        self.wake();
    }

    /// Resets the end that the line leads to; gives back the other, which is not told. `None` = there is nothing to
    /// leave behind: it had not opened, and is reset.
    fn leave_behind(&self, up: bool) -> Option<TcpStream> {
        let Some(far) = self.far.get() else {
            self.break_off();
            return None;
        };
        let (left, told) = if up {
            (&self.near, far)
        } else {
            (far, &self.near)
        };
        let behind = left.try_clone();
        reset(told);
        // Wakes its reader; nothing of it is seen on the wire, since a descriptor stays open.
        let _ = left.shutdown(Shutdown::Read);
        self.finish();
        behind.ok()
    }

    fn wake(&self) {
        for pipe in [&self.up, &self.down] {
            let _held = pipe.lane();
            pipe.changed.notify_all();
        }
    }
}

impl Pipe {
    fn new(from: usize, to: usize) -> Self {
        Self {
            from,
            to,
            lane: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Notes that this direction has ended; whether the other had.
    fn ended_after(&self, other: &Self) -> bool {
        self.lane().ended = true;
        other.lane().ended
    }

    fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits to be told, at most for `pause`.
fn wait<'a>(
    changed: &Condvar,
    lane: MutexGuard<'a, Lane>,
    pause: Option<Duration>,
) -> MutexGuard<'a, Lane> {
    match pause {
        None => changed.wait(lane).unwrap_or_else(PoisonError::into_inner),
        Some(pause) => {
            let woken = changed.wait_timeout(lane, pause);
            woken.unwrap_or_else(PoisonError::into_inner).0
        }
    }
}

/// Whether all of it was taken. The write timeout is there to look at whether the stream is over.
fn write_all(stream: &Stream, mut to: &TcpStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return false,
            Ok(length) => bytes = &bytes[length..],
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    if !stream.is_over() => {}
                _ => return false,
            },
        }
    }
    true
}

/// From the address that the peer has, where that is one of this machine's own: so the target sees who it is.
fn connect(target: SocketAddr, peer: IpAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    if peer.is_loopback() && peer.is_ipv4() == target.is_ipv4() {
        socket.bind(&SocketAddr::new(peer, 0).into())?;
    }
    socket.connect_timeout(&target.into(), ACCEPTANCE)?;
    Ok(socket.into())
}

/// The peer will see a reset, when the last descriptor of this end is closed; its reader here wakes at once.
fn reset(end: &TcpStream) {
    // Both fail only where the connection is gone already.
    let _ = SockRef::from(end).set_linger(Some(Duration::ZERO));
    let _ = end.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests;
