//! HTTP/2 (RFC 9113) as a session without I/O, for both ends of a connection.
//!
//! Knows: frames, header compression, streams, windows in both directions, what a peer may not do.
//! Does not know: sockets, the clock, what a request is for (`grpc` does).
//!
//! ```text
//!  bytes ─▶ receive.rs ─▶ Event { Head, Data, Trailers, Reset, … } ─▶ the user
//!  bytes ◀─ SendBuf ◀──── send.rs ◀── head, data, trailers, reset, credit ──┘
//! ```
//!
//! Invariants
//! - H2-1  Blocks are encoded in the order in which they leave, and every block that comes is decoded.
//! - H2-2  Data leaves within both windows. What does not fit waits with its stream; streams that wait for
//!   the connection's window take turns, a frame each.
//! - H2-3  The connection's window is given back as bytes come, in batches; a stream's when its user says
//!   so. So one slow reader does not stop the others, and holds at most a window and a message.
//! - H2-4  Bad input on a stream ends that stream; bad input that loses the connection's state ends the
//!   connection with GOAWAY and a counted reason. What costs us more than the peer has a budget.
//! - H2-5  Payloads of 4 KiB or more are not copied on their way out, nor on their way in where their user
//!   offers the place ([`Inbox::space`]) or they lie whole in what was read.
//!
//! Priorities are not heeded (RFC 9113 §5.3.2), and nothing is pushed.
//!
//! Read first: [`Session`], then `receive.rs`.

mod check;
pub mod frame;
mod guard;
pub mod hpack;
mod receive;
mod send;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::buf::Limit;
use bytes::{BufMut, Bytes, BytesMut};

use self::frame::{
    ErrorCode, FrameHead, HEADER, MOST, Settings, WINDOW_DEFAULT, flag, kind, setting,
};
use self::guard::Budgets;
use self::hpack::decode::Decoder;
use self::hpack::encode::Encoder;
use self::receive::{Continued, Incoming};
use self::stream::Streams;
use super::{Bad, BadReason};
use crate::base::buf::SendBuf;
use crate::base::time::Instant;

pub use check::Fields;
pub use stream::Inbox;

/// Which end of the connection this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Client,
    Server,
}

/// Bounds of a session.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Streams open at a time that the peer began.
    pub max_streams: usize,
    /// Bytes of a list of fields by RFC 9113's count.
    pub max_head: usize,
    /// How long a peer may be silent while streams are open before it is asked for a sign of life, which
    /// it has [`PING_TIME`] for; `None` = never asked.
    pub keepalive: Option<Duration>,
}

/// What a session has for its user. Blocks of fields were given to the [`Fields`] of
/// [`Session::next`] just before.
#[derive(Debug)]
pub enum Event<T> {
    /// A request or an answer begins; `end`: and is over. Its fields were given.
    Head { id: u32, end: bool },
    /// A request whose list of fields is above the limit: answer it and end it.
    HeadTooLarge { id: u32 },
    /// Data came.
    Data { id: u32, data: Bytes, end: bool },
    /// Bytes were received into what [`Inbox::space`] gave.
    Placed { id: u32, end: bool },
    /// The peer's last fields; it sends no more.
    Trailers { id: u32 },
    /// The stream is gone: reset by the peer, or by us for what it sent.
    Reset { id: u32, code: ErrorCode, inbox: T },
    /// The peer never looked at this stream and never will: it is going away.
    Unprocessed { inbox: T },
    /// What [`Session::data`] could not send has left.
    Writable { id: u32 },
    /// The peer is going away: open no more streams.
    GoingAway,
}

/// One end of an HTTP/2 connection.
pub struct Session<T> {
    role: Role,
    bounds: Bounds,
    /// What was read and not yet parsed.
    input: Limit<BytesMut>,
    /// Size of the next buffer to read into.
    want: usize,
    incoming: Incoming,
    /// The last [`Session::recv_space`] was a stream's own.
    direct: bool,
    /// A block of which CONTINUATION frames are still to come.
    continued: Option<Continued>,
    out: SendBuf,
    decoder: Decoder,
    encoder: Encoder,
    streams: Streams<T>,
    /// The highest id that the peer has used.
    last_peer: u32,
    /// The next id of ours.
    next_own: u32,
    /// Streams that wait for the connection's window.
    blocked: VecDeque<u32>,
    /// Bytes the peer takes on all streams together.
    send_window: i64,
    /// Bytes the peer may still send on all streams together.
    recv_window: i64,
    /// Bytes that came and were not yet given back to it.
    arrived: u32,
    /// What the peer has said.
    peer: Settings,
    budgets: Budgets,
    events: VecDeque<Event<T>>,
    /// An empty vector for blocks on their way out, kept for its allocation.
    block: Vec<u8>,
    leaving: Leaving,
    /// The peer has said that it is going away: the highest of our streams that it looks at.
    peer_leaving: Option<u32>,
    /// When the bytes now being parsed were read.
    now: Instant,
    /// Since when a head is incomplete; `NEVER` while none is.
    head_since: Instant,
    /// When a ping for a sign of life was sent; `NEVER` while none is under way.
    asked: Instant,
    bad: Option<Bad>,
}

/// How far we are in going away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaving {
    No,
    /// Said so, with the highest id there is; the peer's answer to a PING will tell that it knows.
    Announced,
    /// Streams above this one are not looked at.
    From(u32),
}

/// A stream's window towards us.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// The connection's window towards us.
pub const CONNECTION_WINDOW: u32 = 4 << 20;
/// The largest payload we take.
const FRAME_MAX: usize = 256 << 10;
/// How long a peer has to answer a ping.
pub const PING_TIME: Duration = Duration::from_secs(20);
/// How long the preface and each block of fields may take.
const HEAD_TIME: Duration = Duration::from_secs(15);

/// What our pings carry.
const DRAIN_PING: [u8; 8] = *b"draining";
const ALIVE_PING: [u8; 8] = *b"alive  ?";

impl<T: Inbox> Session<T> {
    /// A session that has read nothing. Its own settings are the first that it sends.
    pub fn new(role: Role, bounds: Bounds) -> Self {
        let mut session = Self {
            role,
            bounds,
            input: BytesMut::new().limit(0),
            want: receive::FIRST,
            incoming: match role {
                Role::Server => Incoming::Preface,
                Role::Client => Incoming::FirstSettings,
            },
            direct: false,
            continued: None,
            out: SendBuf::new(),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            streams: Streams::default(),
            last_peer: 0,
            next_own: 1,
            blocked: VecDeque::new(),
            send_window: WINDOW_DEFAULT.into(),
            recv_window: CONNECTION_WINDOW.into(),
            arrived: 0,
            peer: Settings::default(),
            budgets: Budgets::default(),
            events: VecDeque::new(),
            block: Vec::new(),
            leaving: Leaving::No,
            peer_leaving: None,
            now: Instant::ZERO,
            head_since: Instant::NEVER,
            asked: Instant::NEVER,
            bad: None,
        };
        session.introduce();
        session
    }

    /// Preface, settings and the connection's window.
    fn introduce(&mut self) {
        if self.role == Role::Client {
            self.out.put(frame::PREFACE);
        }
        let streams = u32::try_from(self.bounds.max_streams).unwrap_or(u32::MAX);
        let list = u32::try_from(self.bounds.max_head).unwrap_or(u32::MAX);
        let first = match self.role {
            Role::Client => (setting::ENABLE_PUSH, 0),
            Role::Server => (setting::MAX_CONCURRENT_STREAMS, streams),
        };
        let all = [
            first,
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_FRAME_SIZE, FRAME_MAX as u32),
            (setting::MAX_HEADER_LIST_SIZE, list),
        ];
        self.put_head(all.len() * 6, kind::SETTINGS, 0, 0);
        for (number, value) in all {
            self.out.put(&number.to_be_bytes());
            self.out.put(&value.to_be_bytes());
        }
        self.put_window(0, CONNECTION_WINDOW - WINDOW_DEFAULT);
    }

    /// What the user keeps with a stream; `None` once it is gone.
    pub fn inbox(&mut self, id: u32) -> Option<&mut T> {
        self.streams.get_mut(&id).map(|stream| &mut stream.inbox)
    }

    /// When the bytes now being parsed were read.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The bytes to write, in order.
    pub fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        self.out.pieces()
    }

    /// Why the connection cannot go on, if it cannot.
    pub fn bad(&self) -> Option<Bad> {
        self.bad
    }

    /// When [`Session::timed_out`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        if self.bad.is_some() {
            return None;
        }
        if !self.head_since.is_never() {
            return Some(self.head_since + HEAD_TIME);
        }
        if !self.asked.is_never() {
            return Some(self.asked + PING_TIME);
        }
        let keepalive = self.bounds.keepalive?;
        (!self.streams.is_empty()).then(|| self.now + keepalive)
    }

    /// [`Session::deadline`] has come: the peer is asked for a sign of life, or given up.
    pub fn timed_out(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        if !self.head_since.is_never() {
            self.fail(BadReason::HttpSlow, ErrorCode::NO_ERROR);
        } else if !self.asked.is_never() {
            self.fail(BadReason::Http2Silent, ErrorCode::NO_ERROR);
        } else {
            self.asked = now;
            self.put_frame(kind::PING, 0, 0, &ALIVE_PING);
        }
    }

    /// Goes away gently: says so, lets the streams that the peer opens before it knows run, and says then
    /// which one was the last.
    pub fn drain(&mut self) {
        if self.leaving == Leaving::No && self.bad.is_none() {
            self.leaving = Leaving::Announced;
            self.put_goaway(MOST, ErrorCode::NO_ERROR, b"");
            self.put_frame(kind::PING, 0, 0, &DRAIN_PING);
        }
    }

    /// True once we have gone: no stream is open and none will be looked at.
    pub fn has_left(&self) -> bool {
        matches!(self.leaving, Leaving::From(_)) && self.streams.is_empty()
    }

    /// True with no stream, nothing half received and nothing to send.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
            && self.events.is_empty()
            && self.continued.is_none()
            && !self.incoming.is_mid_frame()
            && self.input.get_ref().is_empty()
            && self.out.is_empty()
    }

    /// Gives back the memory that an idle connection does not need.
    pub fn release(&mut self) {
        if !self.is_idle() {
            return;
        }
        self.input = BytesMut::new().limit(0);
        self.want = receive::FIRST;
        self.out.release();
        self.streams = Streams::default();
        self.events = VecDeque::new();
        self.blocked = VecDeque::new();
        self.block = Vec::new();
        self.decoder.release();
        self.encoder.release();
    }

    /// Bytes of heap an idle session holds.
    #[cfg(test)]
    pub fn footprint(&self) -> usize {
        self.decoder.footprint()
            + self.encoder.footprint()
            + self.input.get_ref().capacity()
            + self.block.capacity()
            + self.streams.capacity() * size_of::<(u32, stream::Stream<T>)>()
    }

    /// The connection cannot go on.
    fn fail(&mut self, reason: BadReason, code: ErrorCode) {
        if self.bad.is_none() {
            self.bad = Some(Bad::counted(reason));
            let last = self.last_peer;
            self.put_goaway(last, code, reason.name().as_bytes());
        }
    }

    fn put_head(&mut self, len: usize, kind: u8, flags: u8, id: u32) {
        self.out.put(&FrameHead::new(len, kind, flags, id).bytes());
    }

    fn put_frame(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let space = self.out.space(HEADER + payload.len());
        space[..HEADER].copy_from_slice(&FrameHead::new(payload.len(), kind, flags, id).bytes());
        space[HEADER..].copy_from_slice(payload);
    }

    fn put_window(&mut self, id: u32, more: u32) {
        self.put_frame(kind::WINDOW_UPDATE, 0, id, &more.to_be_bytes());
    }

    fn put_goaway(&mut self, last: u32, code: ErrorCode, text: &[u8]) {
        let payload = [&last.to_be_bytes(), &code.0.to_be_bytes(), text].concat();
        self.put_frame(kind::GOAWAY, 0, 0, &payload);
    }

    fn put_ping_answer(&mut self, payload: [u8; 8]) {
        self.put_frame(kind::PING, flag::ACK, 0, &payload);
    }
}
