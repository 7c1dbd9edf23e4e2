//! The streams of a server connection's calls: what waits to be read, who waits for whom.
//!
//! Knows: events of sessions, the coroutines that read and send.   Does not know: frames, messages.
//!
//! A call has a [`Flow`] from the moment its session gives it out until it ends, if either side of it is a
//! stream. Whoever reads or sends does so through a [`Line`].
//!
//! Invariants
//! - SS-1  All of it is behind the connection's lock. A waiter registers under the lock that was taken to
//!   see that it must wait.
//! - SS-2  What waits in a flow is bounded by its session's window; what waits for the socket by
//!   `unwritten_pause` and one message of each sender.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::connection::{Connection, Stage, State};
use crate::base::time::Instant;
use crate::net::Crowd;
use crate::net::wait::{self, GaveUp, Waiter, wait_for};
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{Body, CallId, IncomingCall, Kind, RawBody, Room, ServerEvent};
use crate::rpc::status::Status;
use crate::rpc::status_map::ECLOSE;
use crate::rpc::streaming::{Duplex, Pull, SendBytes};
use crate::runtime::{Reason, yield_now};

/// The streams of one connection; made with the first.
#[derive(Default)]
pub(super) struct Streams {
    flows: ByCall<Flow>,
    /// Where in [`State::running`] calls are that the peer can give up.
    places: ByCall<usize>,
    /// Calls that the peer gave up before they ran; each is open, so `open_calls` bounds them.
    given_up: ByCall<()>,
    /// Senders that wait for the socket.
    pub crowd: Crowd,
}

/// One call's streams.
#[derive(Default)]
struct Flow {
    inbox: VecDeque<RawBody>,
    /// No more messages will come.
    half_closed: bool,
    /// The peer gave the call up, or is gone.
    cancelled: bool,
    /// The session takes no more until it says so.
    full: bool,
    /// A stream held out beside a unary call: how far that is.
    offer: Offered,
    reader: Option<Waiter>,
    writer: Option<Waiter>,
}

/// How far a stream is that was held out beside a unary call.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Offered {
    /// The call's own kind has streams.
    #[default]
    No,
    Held,
    /// The handler took it; the call is not answered yet.
    Accepted,
    /// The call is answered, the stream goes on.
    Open,
}

impl Flow {
    fn wake_all(&mut self, woken: &mut Vec<Waiter>) {
        woken.extend(self.reader.take());
        woken.extend(self.writer.take());
    }
}

impl Streams {
    /// Makes room for the streams of a call that was given out.
    pub fn enter(streams: &mut Option<Box<Self>>, call: &IncomingCall) {
        if call.route.kind == Kind::Unary && !call.offers_stream {
            return;
        }
        let flow = Flow {
            offer: if call.offers_stream {
                Offered::Held
            } else {
                Offered::No
            },
            // Nothing can be sent on it before the call is answered.
            full: call.offers_stream,
            half_closed: !call.offers_stream && !call.route.kind.takes_stream(),
            ..Flow::default()
        };
        let streams = streams.get_or_insert_default();
        streams.flows.insert(call.id, flow);
    }

    /// A call runs at this place of [`State::running`]; false if the peer has given it up. `cancels`: it may do
    /// so whatever the call's kind.
    pub fn began(&mut self, id: CallId, place: usize, cancels: bool) -> bool {
        if self.given_up.contains_key(&id) {
            return false;
        }
        if cancels || self.flows.contains_key(&id) {
            self.places.insert(id, place);
        }
        true
    }

    /// The call ends; true if its stream goes on, as the handler took one that was held out.
    pub fn leave(&mut self, id: CallId, answered: bool) -> bool {
        self.given_up.remove(&id);
        self.places.remove(&id);
        if self.places.is_empty() && self.places.capacity() > PLACES_KEPT {
            self.places = HashMap::default();
        }
        let Some(flow) = self.flows.get_mut(&id) else {
            return false;
        };
        if answered && flow.offer == Offered::Accepted {
            flow.offer = Offered::Open;
            flow.full = false;
            wake(flow.reader.take());
            wake(flow.writer.take());
            return true;
        }
        if let Some(mut flow) = self.flows.remove(&id) {
            wake(flow.reader.take());
            wake(flow.writer.take());
        }
        false
    }

    /// True if the handler of the call took the stream that was held out.
    pub fn is_accepted(&self, id: CallId) -> bool {
        self.flows
            .get(&id)
            .is_some_and(|flow| flow.offer == Offered::Accepted)
    }

    /// The connection is gone.
    pub fn lose(&mut self) {
        for flow in self.flows.values_mut() {
            flow.cancelled = true;
            wake(flow.reader.take());
            wake(flow.writer.take());
        }
        for waiter in self.crowd.relieve() {
            waiter.wake();
        }
    }
}

/// Places for which a connection without such calls keeps room.
const PLACES_KEPT: usize = 64;

type ByCall<T> = HashMap<CallId, T, BuildHasherDefault<KeyHasher>>;

/// Keys of calls are numbers that sessions chose, or a peer did for its own connection alone.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, part: u32) {
        self.write_u64(part.into());
    }

    fn write_u64(&mut self, part: u64) {
        let mixed = (self.0 ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

fn wake(waiter: Option<Waiter>) {
    if let Some(waiter) = waiter {
        waiter.wake();
    }
}

impl State {
    /// A message of `size` bytes is about to be queued: stops the senders of streams where more than
    /// `pause` bytes wait.
    fn look_at_queue(&mut self, size: usize, pause: usize) {
        let streams = self.streams.as_mut();
        if !streams.is_some_and(|streams| streams.crowd.is_due(size)) {
            return;
        }
        let full = self.unwritten() > pause;
        if let Some(streams) = &mut self.streams {
            streams.crowd.set_full(full);
        }
    }

    /// An event about a call that was given out before; `woken` are to be woken without the lock.
    pub(super) fn stream_event(&mut self, event: ServerEvent, woken: &mut Vec<Waiter>) {
        let id = match &event {
            ServerEvent::Message { id, .. }
            | ServerEvent::HalfClosed { id }
            | ServerEvent::Cancelled { id }
            | ServerEvent::Writable { id } => *id,
            ServerEvent::Call(_) | ServerEvent::Page(_) | ServerEvent::Work(_) => return,
        };
        if matches!(event, ServerEvent::Cancelled { .. }) {
            let streams = self.streams.get_or_insert_default();
            let place = streams.places.get(&id);
            match place.and_then(|place| self.running.get(*place)) {
                // Under the lock: see SV-2.
                Some(running) => running.task.cancel(),
                None => drop(streams.given_up.insert(id, ())),
            }
        }
        let streams = self.streams.as_mut();
        // A call that has just ended has no flow any more.
        let Some(flow) = streams.and_then(|streams| streams.flows.get_mut(&id)) else {
            return;
        };
        match event {
            ServerEvent::Message { message, .. } => {
                flow.inbox.push_back(message);
                woken.extend(flow.reader.take());
            }
            ServerEvent::HalfClosed { .. } => {
                flow.half_closed = true;
                flow.wake_all(woken);
            }
            ServerEvent::Cancelled { .. } => {
                flow.cancelled = true;
                flow.wake_all(woken);
            }
            ServerEvent::Writable { .. } => {
                flow.full = false;
                woken.extend(flow.writer.take());
            }
            ServerEvent::Call(_) | ServerEvent::Page(_) | ServerEvent::Work(_) => {}
        }
    }
}

/// A call's streams, for whoever reads or sends.
#[derive(Clone)]
pub(super) struct Line {
    connection: Arc<Connection>,
    id: CallId,
    /// The call's own; the scope of whoever waits bounds it further.
    deadline: Instant,
}

impl Line {
    pub fn new(connection: Arc<Connection>, id: CallId, deadline: Instant) -> Self {
        Self {
            connection,
            id,
            deadline,
        }
    }

    /// Waits for the next message; `None` after the last one.
    fn next(&self) -> Option<Result<RawBody, Status>> {
        let until = self.deadline.min(wait::scope_deadline());
        let taken = wait_for(Reason::Other("a message"), until, || self.take());
        match taken {
            Ok(Ok(Some(message))) => {
                // The session may have told the peer of its new room.
                self.connection.ask_for_turn();
                Some(Ok(message))
            }
            Ok(Ok(None)) => None,
            Ok(Err(status)) => Some(Err(status)),
            Err(gave_up) => Some(Err(given_up(gave_up))),
        }
    }

    fn take(&self) -> Option<Result<Option<RawBody>, Status>> {
        let mut guard = self.connection.state.lock();
        let State { stage, streams, .. } = &mut *guard;
        let Some(flow) = streams.as_mut().and_then(|s| s.flows.get_mut(&self.id)) else {
            return Some(Err(over()));
        };
        if matches!(flow.offer, Offered::Held | Offered::Accepted) {
            // The answer goes first: what is told of messages taken must not overtake it.
            flow.reader = Some(Waiter::current());
            return None;
        }
        if let Some(message) = flow.inbox.pop_front() {
            if let Stage::Open(session) = stage {
                session.consumed(self.id, message.data.len());
            }
            Some(Ok(Some(message)))
        } else if flow.cancelled {
            Some(Err(cancelled()))
        } else if flow.half_closed {
            Some(Ok(None))
        } else {
            flow.reader = Some(Waiter::current());
            None
        }
    }

    /// Begins the call's answer stream.
    pub fn begin(&self, metadata: &MetadataMap, compression: Compression) {
        if let Stage::Open(session) = &mut self.connection.state.lock().stage {
            session.begin(self.id, metadata, compression);
        }
        self.connection.ask_for_turn();
    }

    /// Waits for room, then sends the next message.
    pub fn send(&self, message: Body<'_>, compression: Compression) -> Result<(), Status> {
        let core = self.connection.core();
        let (size, limit) = (message.len(), core.config.limits.max_body);
        if size > limit {
            return Err(Status::resource_exhausted(format!(
                "a message has {size} bytes, the limit for one is {limit}: raise it or send less"
            )));
        }
        let until = self.deadline.min(wait::scope_deadline());
        if !core.is_surely_before(until) && Instant::now() >= until {
            return Err(given_up(GaveUp::TimedOut));
        }
        let mut message = Some(message);
        let sent = wait_for(Reason::Other("room to send"), until, || {
            self.put(&mut message, compression)
        });
        match sent {
            Ok(Ok(write_now)) => {
                self.connection.ask_for_turn();
                if write_now {
                    self.connection.write_out();
                    // An iterator that never waits keeps the worker: let others run now and then.
                    yield_now();
                }
                Ok(())
            }
            Ok(Err(status)) => Err(status),
            Err(gave_up) => Err(given_up(gave_up)),
        }
    }

    fn put(
        &self,
        message: &mut Option<Body<'_>>,
        compression: Compression,
    ) -> Option<Result<bool, Status>> {
        let mut guard = self.connection.state.lock();
        let state = &mut *guard;
        let size = message.as_ref().map_or(0, Body::len);
        state.look_at_queue(size, self.connection.core().options.unwritten_pause);
        let Some(streams) = &mut state.streams else {
            return Some(Err(over()));
        };
        let Some(flow) = streams.flows.get_mut(&self.id) else {
            return Some(Err(over()));
        };
        let Stage::Open(session) = &mut state.stage else {
            return Some(Err(cancelled()));
        };
        if flow.cancelled {
            return Some(Err(cancelled()));
        }
        if flow.offer == Offered::Open && flow.half_closed {
            let text = "the peer has closed the stream";
            return Some(Err(Status::from_errno(ECLOSE, text)));
        }
        if flow.full {
            flow.writer = Some(Waiter::current());
            return None;
        }
        if streams.crowd.is_full() {
            streams.crowd.join();
            return None;
        }
        let message = message.take().expect("a message is sent once");
        flow.full = session.send(self.id, message, compression) == Room::Full;
        Some(Ok(state.count_answer()))
    }
}

/// The messages of a call's request stream.
pub(super) struct Requests {
    line: Line,
    ended: bool,
    compression: Compression,
}

impl Requests {
    pub fn new(line: Line) -> Self {
        Self {
            line,
            ended: false,
            compression: Compression::None,
        }
    }
}

static NO_METADATA: MetadataMap = MetadataMap::new();

impl Pull for Requests {
    fn next(&mut self) -> Option<Result<Bytes, Status>> {
        let max = self.line.connection.core().config.limits.max_decompressed;
        let next = self.line.next();
        self.ended = next.is_none();
        Some(next?.and_then(|body| {
            self.compression = body.compression;
            body.open(&Bytes::new(), max)
        }))
    }

    fn metadata(&mut self) -> Result<&MetadataMap, Status> {
        Ok(&NO_METADATA)
    }

    fn trailers(&self) -> Option<&MetadataMap> {
        self.ended.then_some(&NO_METADATA)
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}

/// A stream that is held out beside a unary call, or was taken there.
pub(super) struct Beside {
    end: Arc<End>,
    requests: Requests,
}

/// The end of a stream beside a unary call; the last handle closes it.
struct End {
    line: Line,
    taken: AtomicBool,
}

impl Beside {
    pub fn new(connection: Arc<Connection>, id: CallId) -> Self {
        // It outlives the call, and so its deadline.
        let line = Line::new(connection, id, Instant::NEVER);
        Self {
            requests: Requests::new(line.clone()),
            end: Arc::new(End {
                line,
                taken: AtomicBool::new(false),
            }),
        }
    }
}

impl Pull for Beside {
    fn next(&mut self) -> Option<Result<Bytes, Status>> {
        self.requests.next()
    }

    fn metadata(&mut self) -> Result<&MetadataMap, Status> {
        self.requests.metadata()
    }

    fn trailers(&self) -> Option<&MetadataMap> {
        self.requests.trailers()
    }
}

impl Duplex for Beside {
    fn accept(&mut self) {
        let line = &self.end.line;
        let mut state = line.connection.state.lock();
        let streams = state.streams.as_mut();
        if let Some(flow) = streams.and_then(|streams| streams.flows.get_mut(&line.id)) {
            flow.offer = Offered::Accepted;
            // Relaxed: only the handles themselves look at it.
            self.end.taken.store(true, Ordering::Relaxed);
        }
    }

    fn send(&mut self, message: Bytes) -> Result<(), Status> {
        self.end.send(message)
    }

    fn sender(&self) -> Box<dyn SendBytes> {
        Box::new(Sender(Arc::clone(&self.end)))
    }
}

struct Sender(Arc<End>);

impl SendBytes for Sender {
    fn send(&self, message: Bytes) -> Result<(), Status> {
        self.0.send(message)
    }
}

impl End {
    fn send(&self, message: Bytes) -> Result<(), Status> {
        self.line.send(Body::Bytes(message), Compression::None)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if *self.taken.get_mut() {
            self.line.connection.close_beside(self.line.id);
        }
    }
}

impl Connection {
    /// The last handle of a stream beside a unary call is gone.
    fn close_beside(&self, id: CallId) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(streams) = &mut state.streams else {
            return;
        };
        let Some(flow) = streams.flows.get_mut(&id) else {
            return;
        };
        if flow.offer != Offered::Open {
            // The call is not answered yet: it declines the stream now.
            flow.offer = Offered::Held;
            return;
        }
        streams.flows.remove(&id);
        if let Stage::Open(session) = &mut state.stage {
            session.finish(id, Ok(()), &NO_METADATA);
        }
        state.open_calls -= 1;
        drop(guard);
        self.core().release();
        self.ask_for_turn();
    }
}

fn cancelled() -> Status {
    Status::cancelled("the caller gave the call up")
}

/// A handle that outlived its call.
fn over() -> Status {
    Status::cancelled("the call has ended")
}

fn given_up(gave_up: GaveUp) -> Status {
    match gave_up {
        GaveUp::TimedOut => Status::deadline_exceeded("the call's time is over"),
        GaveUp::Cancelled => cancelled(),
    }
}
