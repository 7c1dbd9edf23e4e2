//! Protocols as sessions: bytes in, events out; answers in, bytes out.
//!
//! Knows:         frames, calls under way on one connection, limits, what to answer to bad input.
//! Does not know: sockets, threads, the clock, services (only their names, through [`Routes`]).
//!
//! A session is one connection's protocol state. Its driver
//! 1. writes what it read into [`ServerSession::recv_space`] (which advances as it is written to), then
//!    calls [`ServerSession::received`] with the number of bytes and the time;
//! 2. takes events with [`ServerSession::next_event`] until there is none;
//! 3. gives each call its [`ServerSession::answer`], in any order, from whatever thread holds the session;
//!    a call that gives a stream gets any number of [`ServerSession::send`] and one
//!    [`ServerSession::finish`] instead (or an answer that is a failure, before its stream began);
//! 4. writes out and pops what [`ServerSession::transmit`] holds;
//! 5. closes when [`ServerSession::received`] said [`Bad`] or [`ServerSession::is_finished`] says so, after
//!    transmit is written.
//!
//! Invariants
//! - P-1  A prefix shorter than a protocol's magic still matches it ([`Probe::NeedMore`]): PRPC, PRI, POST,
//!   PUT and PATCH all begin with `P`.
//! - P-2  Bad input ends in an answer to that caller alone or in [`Bad`] with a counted reason.
//! - P-3  A body of 4 KiB or more that came alone into its buffer is never copied; one that straddled two
//!   buffers is moved at most once and counted ([`counters::COPIED_BODIES`]).
//! - P-4  Everything a peer can make a session hold is bounded by [`Limits`].
//!
//! - P-5  Streams push back. A sender stops at [`Room::Full`] until it is told of room; a receiver says what
//!   it has taken ([`ServerSession::consumed`]), and the session lets its peer send no more than that and a
//!   window. So what waits for a slow reader is bounded by the window, per stream.
//!
//! Read first: [`call`] (what travels), then `prpc/mod.rs`.

#![forbid(unsafe_code)]

mod base64;
pub mod call;
pub mod counters;
mod detect;
pub mod grpc;
#[cfg(test)]
mod harness;
pub mod http1;
mod http2;
mod proxy;
pub mod prpc;
pub mod requests;
mod timeout;
pub(crate) mod tls;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{BufMut, Bytes};

use super::auth::Authenticator;
use super::compression::Compression;
use super::cors::Cors;
use super::metadata::MetadataMap;
use super::status::Status;
use super::tls::Peer;
use crate::base::time::Instant;

pub use call::{
    Body, BodyFormat, Bound, CallId, Checksum, Encode, HttpRoute, IncomingCall, IncomingReply,
    Kind, OutgoingCall, Page, PageRequest, RawBody, Reply, Route, Success, Trace,
};
pub use counters::BadReason;
pub use detect::server_session;

/// Whether the first bytes of a connection belong to a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// They do not, whatever follows.
    No,
    /// They may; more bytes will tell.
    NeedMore,
    /// They do.
    Yes,
}

impl Probe {
    /// Compares the first bytes of a connection with a protocol's magic.
    pub fn magic(prefix: &[u8], magic: &[u8]) -> Self {
        let common = prefix.len().min(magic.len());
        if prefix[..common] != magic[..common] {
            Self::No
        } else if common < magic.len() {
            Self::NeedMore
        } else {
            Self::Yes
        }
    }
}

/// A protocol a server's port speaks. New ones are one file that implements this and [`ServerSession`].
pub trait Protocol: Send + Sync + 'static {
    /// Short lower-case name for logs and metrics, such as `baidu_std`.
    fn name(&self) -> &'static str;

    /// Its name in TLS' negotiation (ALPN), where it has one.
    fn alpn(&self) -> Option<&'static str> {
        None
    }

    /// Whether a connection that begins with `prefix` (at least one byte) speaks this protocol.
    fn probe(&self, prefix: &[u8]) -> Probe;

    /// The session of a connection that does. Its first bytes follow through
    /// [`ServerSession::recv_space`].
    fn session(&self, config: &Arc<ServerConfig>) -> Box<dyn ServerSession>;
}

/// Where calls lead: the names of the services a server has.
pub trait Routes: Send + Sync + 'static {
    /// The number of the method, or why there is none (see [`call::no_such_method`]).
    ///
    /// `service` is the full name (`example.EchoService`) or, from old peers, the last part of it.
    ///
    /// # Errors
    /// No such service or method: what the caller is told.
    fn find(&self, service: &str, method: &str) -> Result<Route, Status>;

    /// What the schema says of a request of HTTP whose path names no method (`google.api.http`). `path` is
    /// as written, without the query.
    ///
    /// # Errors
    /// The path fits a rule and cannot be read.
    fn find_http(&self, _method: &str, _path: &str) -> Result<HttpRoute, Status> {
        Ok(HttpRoute::Nothing)
    }
}

/// What sessions of one server share.
#[derive(Clone)]
pub struct ServerConfig {
    /// Bounds on what a peer can make a session hold.
    pub limits: Limits,
    /// `ip:port` of the server, as brpc puts it before the texts of its own failures.
    pub identity: String,
    /// Every connection begins with a header of the PROXY protocol.
    pub proxy_header: bool,
    /// Where calls lead.
    pub routes: Arc<dyn Routes>,
    /// The protocols of the port, in the order they are asked.
    pub protocols: Vec<Arc<dyn Protocol>>,
    /// Who may call; `None` = everybody.
    pub authenticator: Option<Authenticator>,
    /// Which web pages may call over HTTP; `None` = those of the server's own origin.
    pub cors: Option<Cors>,
}

impl ServerConfig {
    /// Whether the sender of `credential` may call.
    ///
    /// # Errors
    /// It may not.
    pub(in crate::rpc) fn admits(&self, credential: Option<&[u8]>) -> Result<(), Status> {
        let Some(authenticator) = &self.authenticator else {
            return Ok(());
        };
        authenticator.verify(credential.unwrap_or_default())
    }
}

/// Bounds on what a peer can make a session hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of one message with its attachment, as on the wire. Default 64 MiB (brpc's `max_body_size`).
    pub max_body: usize,
    /// Bytes of a message after decompression. Default 64 MiB.
    pub max_decompressed: usize,
    /// Bytes of one PRPC meta. Default 64 KiB.
    pub max_meta: usize,
    /// Bytes of one HTTP head, request line included. Default 16 KiB.
    pub max_head: usize,
    /// Calls under way on one connection; those above are refused with ELIMIT. Default 16,384.
    pub max_in_flight: usize,
    /// HTTP/2 streams open at a time on one connection; those above are refused. Default 1,024.
    pub max_streams: usize,
    /// HTTP/2: how long a peer may be silent while it has calls under way before it is asked for a sign of
    /// life; without one within 20 s its connection is closed. `None` = never asked. Default 60 s.
    pub keepalive: Option<Duration>,
    /// HTTP requests read ahead of their answers on one connection. Default 64.
    pub max_pipelined: usize,
    /// How long a new connection may say nothing; then it is closed. `None` = for ever. Default `None`:
    /// clients may connect ahead of their first call.
    pub first_bytes: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 64 << 20,
            max_decompressed: 64 << 20,
            max_meta: 64 << 10,
            max_head: 16 << 10,
            max_in_flight: 16_384,
            max_streams: 1024,
            keepalive: Some(Duration::from_secs(60)),
            max_pipelined: 64,
            first_bytes: None,
        }
    }
}

/// A connection that cannot go on: the driver writes out what [`ServerSession::transmit`] still holds
/// (the answer to the bad input may be among it), then closes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bad {
    /// What was wrong; already counted.
    pub reason: BadReason,
}

impl Bad {
    /// Counts `reason` and carries it to the driver.
    pub fn counted(reason: BadReason) -> Self {
        reason.count();
        Self { reason }
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection closed: {}", self.reason.explain())
    }
}

impl std::error::Error for Bad {}

/// Whether a stream takes more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a sender that does not stop at `Full` piles up what its peer does not take"]
pub enum Room {
    /// The next message may follow.
    Open,
    /// The message was taken; the next one waits for `Writable`. A session holds at most one message
    /// above its window for a stream.
    Full,
}

/// Whoever drives a session, to those who have news for it.
pub trait Driver: Send + Sync {
    /// The session has something new to transmit, wants input again, or is finished: the driver looks, at
    /// the end of its worker's turn. From any thread that does not hold the session.
    fn wake(&self);
}

/// Something a session wants done in a coroutine: see [`ServerEvent::Work`].
pub struct Work(Box<dyn FnOnce() + Send>);

impl Work {
    /// `run`, once. It may wait; what it finds out it tells the session by a way of their own, and then
    /// [wakes](Driver::wake) the driver.
    pub fn new(run: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(run))
    }

    /// Does it.
    pub fn run(self) {
        (self.0)();
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

/// What a server session has for its driver. All but [`ServerEvent::Page`] and [`ServerEvent::Work`] are
/// about a call, whose id is unlike that of any other call under way.
#[derive(Debug)]
pub enum ServerEvent {
    /// A call to run and to end once: with [`ServerSession::answer`], or with [`ServerSession::finish`]
    /// where it gives a stream. Where it takes a stream it comes at once, and its messages follow.
    Call(IncomingCall),
    /// A plain HTTP request (console, health, metrics) to answer once with [`Reply::Page`].
    Page(PageRequest),
    /// Work to be done in a coroutine of its own, of which the driver knows nothing else: requests of a
    /// protocol that are no calls. A drain waits for it; the session bounds how much is under way. If the
    /// runtime ends first it is dropped.
    Work(Work),
    /// The next message of a call's request stream.
    Message {
        /// The call.
        id: CallId,
        /// The message as it came.
        message: RawBody,
    },
    /// No more messages of the call's request stream will come.
    HalfClosed {
        /// The call.
        id: CallId,
    },
    /// The peer gave the call up, whatever its kind. The driver cancels what runs it; the end that it
    /// still gives the call is ignored.
    Cancelled {
        /// The call.
        id: CallId,
    },
    /// After [`Room::Full`]: the call's answer stream takes the next message.
    Writable {
        /// The call.
        id: CallId,
    },
}

/// What becomes of the calls under way when the peer has sent its last byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndOfInput {
    /// The peer is gone: cancel them and close.
    Abandon,
    /// The peer still reads: answer them, close when [`ServerSession::is_finished`].
    Finish,
}

/// The server's end of one connection.
pub trait ServerSession: Send {
    /// Comes first: the connection was accepted at `accepted`, and `driver` is how the session is told of
    /// what happens elsewhere. Sessions that only answer have no use for it.
    fn attached(&mut self, _driver: Weak<dyn Driver>, _accepted: Instant) {}

    /// Where the next bytes go: either the receive buffer or, once a header announced it, the final
    /// allocation of a body. Writing advances it. Never empty, except while the session wants no input
    /// ([`ServerSession::wants_input`]).
    fn recv_space(&mut self) -> &mut dyn BufMut;

    /// Parses after `n` bytes were written into [`ServerSession::recv_space`]. `now` stamps the arrival
    /// of the calls found.
    ///
    /// # Errors
    /// The connection cannot go on; see [`Bad`].
    fn received(&mut self, n: usize, now: Instant) -> Result<(), Bad>;

    /// The next thing for the driver to do; `None` until more bytes come, or an answer makes room for
    /// requests that were read already: the driver asks again after an answer to a session that did not
    /// [want input](ServerSession::wants_input).
    fn next_event(&mut self) -> Option<ServerEvent>;

    /// Who is at the other end, where the protocol tells; not before the first event.
    fn peer(&self) -> Option<&Arc<Peer>> {
        None
    }

    /// Whether calls of this kind can be carried. The driver refuses those that cannot (UNIMPLEMENTED).
    fn carries(&self, kind: Kind) -> bool {
        kind == Kind::Unary
    }

    /// Whether the peer can give up calls of [`Kind::Unary`] one by one ([`ServerEvent::Cancelled`]): the
    /// driver then keeps them where it finds them.
    fn cancels(&self) -> bool {
        false
    }

    /// Ends a call: its answer is encoded behind those before it. Small bodies share one growing buffer,
    /// large ones travel as they are. A call that gives a stream is ended so only by a failure, before
    /// [`ServerSession::begin`] and the first [`ServerSession::send`].
    fn answer(&mut self, id: CallId, reply: Reply<'_>);

    /// Begins the stream that answers a call, with what precedes its messages and how these may be
    /// compressed.
    fn begin(&mut self, _id: CallId, _metadata: &MetadataMap, _compression: Compression) {}

    /// Sends the next message of the stream that answers a call, begun or not; compressed already if
    /// `compression` says so. The message is always taken.
    fn send(&mut self, _id: CallId, _message: Body<'_>, _compression: Compression) -> Room {
        debug_assert!(false, "only a session that carries streams is sent to");
        Room::Open
    }

    /// Ends the stream that answers a call, with its status and what follows its messages (a failure's
    /// own metadata follows too). The default serves sessions that carry no streams.
    fn finish(&mut self, id: CallId, result: Result<(), &Status>, _trailers: &MetadataMap) {
        let none = Status::unimplemented("this protocol carries no streams");
        self.answer(id, Reply::Refused(result.err().unwrap_or(&none)));
    }

    /// The driver is done with a message of the call's request stream, whose data had this length: the
    /// peer may send as much again. What a call that ended has not taken, the session gives back itself.
    fn consumed(&mut self, _id: CallId, _bytes: usize) {}

    /// The bytes to write, in order. The driver pops what is written (and [`bytes::Buf::advance`]s what
    /// is written in part).
    fn transmit(&mut self) -> &mut VecDeque<Bytes>;

    /// When the session wants [`ServerSession::timed_out`]; `None` = never.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// [`ServerSession::deadline`] has come.
    ///
    /// # Errors
    /// The connection cannot go on; see [`Bad`].
    fn timed_out(&mut self, _now: Instant) -> Result<(), Bad> {
        Ok(())
    }

    /// False while too much is under way: the driver stops reading until the next
    /// [`ServerSession::answer`].
    fn wants_input(&self) -> bool {
        true
    }

    /// The peer has sent its last byte.
    fn end_of_input(&mut self) -> EndOfInput;

    /// From now on new calls are refused (PRPC: ELOGOFF; HTTP: `Connection: close` after the next answer);
    /// those under way still get their answers.
    fn drain(&mut self);

    /// True with no call under way, no half-received message and nothing to send: then
    /// [`ServerSession::release`] leaves no buffer.
    fn is_idle(&self) -> bool;

    /// True once nothing more will be read and every answer is in [`ServerSession::transmit`]: the driver
    /// writes that and closes.
    fn is_finished(&self) -> bool;

    /// Gives empty buffers back. The driver calls it when its turn with an idle session ends.
    fn release(&mut self);
}

/// What a client session has for its driver.
#[derive(Debug)]
pub enum ClientEvent {
    /// A call ended that has one answer ([`Kind::Unary`], [`Kind::ClientStream`]). Where its requests are
    /// a stream, that may come before all of them were sent; then no more are.
    Reply {
        /// The call.
        id: CallId,
        /// What [`OutgoingCall::token`] was.
        token: u64,
        /// Its answer, or why there is none.
        result: Result<IncomingReply, Status>,
    },
    /// The stream that answers a call begins. Comes before its messages, and before an end without a
    /// failure.
    Head {
        /// The call.
        id: CallId,
        /// What [`OutgoingCall::token`] was.
        token: u64,
        /// What precedes the messages.
        metadata: MetadataMap,
    },
    /// The next message of the stream that answers a call.
    Message {
        /// The call.
        id: CallId,
        /// What [`OutgoingCall::token`] was.
        token: u64,
        /// The message as it came.
        message: RawBody,
    },
    /// A call ended that was answered by a stream.
    End {
        /// The call.
        id: CallId,
        /// What [`OutgoingCall::token`] was.
        token: u64,
        /// What follows the messages, or why the call failed.
        result: Result<MetadataMap, Status>,
    },
    /// After [`Room::Full`]: the call's request stream takes the next message.
    Writable {
        /// The call.
        id: CallId,
        /// What [`OutgoingCall::token`] was.
        token: u64,
    },
    /// The server is going away: calls under way go on, new ones belong on another connection.
    GoingAway,
}

impl ClientEvent {
    /// What [`OutgoingCall::token`] was of the call that it is about; `None` if it is about none.
    pub fn token(&self) -> Option<u64> {
        match self {
            Self::Reply { token, .. }
            | Self::Head { token, .. }
            | Self::Message { token, .. }
            | Self::End { token, .. }
            | Self::Writable { token, .. } => Some(*token),
            Self::GoingAway => None,
        }
    }
}

/// The client's end of one connection.
pub trait ClientSession: Send {
    /// As [`ServerSession::recv_space`].
    fn recv_space(&mut self) -> &mut dyn BufMut;

    /// As [`ServerSession::received`].
    ///
    /// # Errors
    /// The connection cannot go on: the driver takes the events, then [`ClientSession::abort`]s the rest.
    fn received(&mut self, n: usize, now: Instant) -> Result<(), Bad>;

    /// The next thing for the driver to do.
    fn next_event(&mut self) -> Option<ClientEvent>;

    /// Encodes a call into [`ClientSession::transmit`]. Where its requests are a stream, they follow.
    ///
    /// # Errors
    /// Too many calls under way, or one that cannot be written (too large, of a kind that the protocol
    /// does not carry).
    fn call(&mut self, call: OutgoingCall<'_>) -> Result<CallId, Status>;

    /// Sends the next message of a call's request stream; compressed already if `compression` says so.
    /// The message is always taken; one for a call that ended is dropped.
    fn send(&mut self, _id: CallId, _message: Body<'_>, _compression: Compression) -> Room {
        Room::Open
    }

    /// No more messages of the call's request stream will come.
    fn half_close(&mut self, _id: CallId) {}

    /// As [`ServerSession::consumed`], for the stream that answers a call.
    fn consumed(&mut self, _id: CallId, _bytes: usize) {}

    /// Forgets a call: the peer is told where the protocol can; a late answer is dropped and counted. No
    /// event about it follows. True if it was under way.
    fn cancel(&mut self, id: CallId) -> bool;

    /// The connection is lost: every call under way ends with `status`, as events.
    fn abort(&mut self, status: &Status);

    /// What ended the connection, in words, where [`Bad::reason`] says too little.
    fn failure(&self) -> Option<&str> {
        None
    }

    /// As [`ServerSession::transmit`].
    fn transmit(&mut self) -> &mut VecDeque<Bytes>;

    /// As [`ServerSession::deadline`].
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// As [`ServerSession::timed_out`].
    ///
    /// # Errors
    /// As [`ClientSession::received`].
    fn timed_out(&mut self, _now: Instant) -> Result<(), Bad> {
        Ok(())
    }

    /// Calls under way.
    fn in_flight(&self) -> usize;

    /// True with no call under way, no half-received message and nothing to send.
    fn is_idle(&self) -> bool;

    /// True once bad input was met, be it in [`ClientSession::received`] or in
    /// [`ClientSession::next_event`]: the driver closes and [`ClientSession::abort`]s.
    fn is_finished(&self) -> bool;

    /// As [`ServerSession::release`].
    fn release(&mut self);
}
