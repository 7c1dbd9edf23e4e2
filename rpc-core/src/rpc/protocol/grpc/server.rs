//! The server's end of a gRPC connection.
//!
//! Knows: which head is a call, its messages, how it is answered.   Does not know: handlers, sockets.
//!
//! A [`CallId`]'s key is the stream's id. Requests that are not gRPC are in `plain.rs`.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::codings::{self, Accepted};
use super::head::{Encoding, Head, Subtype, Timeout};
use super::message::{Assembler, Message, PREFIX, TooLong, prefix};
use super::trailers::{Tail, put_metadata};
use super::{HELD_MAX, bounds};
use crate::base::time::Instant;
use crate::rpc::compression::Compression;
use crate::rpc::cors::Grant;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::http2::hpack::encode::{Encoder, Handle};
use crate::rpc::protocol::http2::{Event, Inbox, Role, Session};
use crate::rpc::protocol::{
    Bad, Body, CallId, Checksum, EndOfInput, IncomingCall, Kind, PageRequest, RawBody, Reply, Room,
    Route, ServerConfig, ServerEvent, ServerSession, Success, http1,
};
use crate::rpc::status::Status;
use crate::rpc::status_map::ELIMIT;

/// The server's end of a gRPC connection.
pub struct GrpcServer {
    pub(super) config: Arc<ServerConfig>,
    pub(super) session: Session<Call>,
    /// The block that the session read last.
    pub(super) head: Head,
    pub(super) ready: VecDeque<ServerEvent>,
    /// Calls and pages given out and not ended, those of streams that were reset included.
    pub(super) in_flight: usize,
    /// Bytes of messages that are not complete or not taken, over all streams.
    pub(super) held: usize,
    /// The path called last and where it leads: most connections call few.
    last_route: Option<(Box<[u8]>, Route)>,
    repeated: Repeated,
}

/// Fields that every answer has.
#[derive(Default)]
struct Repeated {
    content_type: [Handle; Subtype::NAMES.len()],
    status_ok: Handle,
    encoding: Handle,
    accepted: Handle,
}

/// What a stream is for, and how far it is.
#[derive(Default)]
pub(super) struct Call {
    pub assembler: Assembler,
    /// The call, until its message is complete or it was given out.
    pub waiting: Option<Box<IncomingCall>>,
    /// The same of a page.
    pub page: Option<Box<PageRequest>>,
    /// What a plain request is answered once its body has come: a client in the middle of sending it may
    /// take an early end for a failure of the connection.
    pub refusal: Option<Box<http1::Response>>,
    /// The waiting call's message is complete.
    complete: bool,
    pub purpose: Purpose,
    /// How the request's messages are compressed.
    compression: Compression,
    /// How the answer's may be.
    accepted: Accepted,
    /// Announced in the answer's head.
    announced: Compression,
    kind: Kind,
    /// Given to the driver, and not ended by it.
    pub running: bool,
    /// The answer's head has left.
    pub begun: bool,
    /// What a web page of another origin is told.
    pub grant: Option<Box<Grant>>,
    /// Bytes of messages given out and not taken.
    untaken: usize,
    /// What of [`GrpcServer::held`] is this stream's.
    pub held: usize,
}

/// How a stream's answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Answered already; what still comes is passed over.
    #[default]
    Over,
    Grpc(Subtype),
    /// A call in JSON (or protobuf without prefixes), or a page.
    Plain {
        kind: Option<http1::Kind>,
        /// The answer's body is left out.
        head_only: bool,
    },
}

impl Inbox for Call {
    fn space(&mut self, most: usize) -> Option<&mut dyn BufMut> {
        self.assembler.space(most)
    }
}

impl GrpcServer {
    /// A session that has read nothing.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self {
            session: Session::new(Role::Server, bounds(&config.limits)),
            config,
            head: Head::default(),
            ready: VecDeque::new(),
            in_flight: 0,
            held: 0,
            last_route: None,
            repeated: Repeated::default(),
        }
    }

    fn handle(&mut self, event: Event<Call>) {
        match event {
            Event::Head { id, end } => self.on_head(id, end),
            Event::HeadTooLarge { id, .. } => {
                let max = self.config.limits.max_head;
                let text = format!("the request's fields are above the limit of {max} bytes");
                self.answer_plainly(id, http1::of_http(431, &text, None), false);
            }
            Event::Data { id, data, end } => self.on_data(id, data, end),
            Event::Placed { id, end } => self.on_data(id, Bytes::new(), end),
            Event::Trailers { id } => self.on_end(id),
            Event::Reset { id, inbox, .. } => {
                self.held -= inbox.held;
                if inbox.running {
                    let id = CallId::new(id.into(), 0);
                    self.ready.push_back(ServerEvent::Cancelled { id });
                }
            }
            Event::Writable { id } => {
                // What is left of an answer that has ended leaves by itself.
                if self.session.inbox(id).is_some_and(|call| call.running) {
                    let id = CallId::new(id.into(), 0);
                    self.ready.push_back(ServerEvent::Writable { id });
                }
            }
            Event::Unprocessed { .. } | Event::GoingAway => {}
        }
    }

    fn on_head(&mut self, id: u32, end: bool) {
        let Some(subtype) = Subtype::of(&self.head.content_type) else {
            return self.on_plain_head(id, end);
        };
        if self.head.method != b"POST" {
            let response = http1::of_http(405, "call with POST", Some("POST"));
            return self.answer_plainly(id, response, false);
        }
        if let Some(call) = self.session.inbox(id) {
            call.purpose = Purpose::Grpc(subtype);
            call.accepted = self.head.accepted;
        }
        match self.admit(id, subtype) {
            Ok(call) => self.take_in(id, call, end),
            Err(status) => self.fail(id, &status),
        }
    }

    /// The call that a head begins, or why it is refused.
    fn admit(&mut self, id: u32, subtype: Subtype) -> Result<IncomingCall, Status> {
        let credential = self.head.metadata.get_bytes("authorization");
        self.config.admits(credential.map(|bytes| &bytes[..]))?;
        let limits = &self.config.limits;
        if self.in_flight >= limits.max_in_flight {
            let text = format!(
                "Reached the limit of {} calls under way on one connection",
                limits.max_in_flight
            );
            return Err(Status::from_errno(ELIMIT, text));
        }
        let route = self.find()?;
        let head = &mut self.head;
        let timeout = match head.timeout {
            Timeout::None => None,
            Timeout::After(timeout) => Some(timeout),
            Timeout::Unreadable => {
                let text = "grpc-timeout is no number of at most eight digits and a unit";
                return Err(Status::invalid_argument(text));
            }
        };
        let compression = match &head.encoding {
            Encoding::Absent => Compression::None,
            Encoding::Known(compression) => *compression,
            Encoding::Foreign(name) => {
                let text = format!(
                    "messages in {name} are not spoken here: send {} or none",
                    codings::OURS
                );
                return Err(Status::unimplemented(text));
            }
        };
        if let Some(call) = self.session.inbox(id) {
            call.kind = route.kind;
            call.compression = compression;
            call.accepted.allow(compression);
        }
        Ok(IncomingCall {
            id: CallId::new(id.into(), 0),
            route,
            format: subtype.format(),
            body: RawBody::plain(Bytes::new()),
            offers_stream: false,
            bound: None,
            attachment: Bytes::new(),
            metadata: std::mem::take(&mut head.metadata),
            log_id: head.log_id,
            trace: head.trace(),
            timeout,
            arrived: self.session.now(),
        })
    }

    fn find(&mut self) -> Result<Route, Status> {
        if let Some((path, route)) = &self.last_route
            && **path == *self.head.path
        {
            return Ok(*route);
        }
        let Some((service, method)) = self.head.names() else {
            let path = String::from_utf8_lossy(&self.head.path);
            let text = format!("{path} is no path of a call: /package.Service/Method is");
            return Err(Status::unimplemented(text));
        };
        let route = self.config.routes.find(service, method)?;
        self.last_route = Some((self.head.path.as_slice().into(), route));
        Ok(route)
    }

    /// A call was admitted: its messages follow, or it is over already.
    fn take_in(&mut self, id: u32, call: IncomingCall, end: bool) {
        if call.route.kind.takes_stream() {
            self.give_out(id, call);
            if end {
                self.on_end(id);
            }
            return;
        }
        if let Some(inbox) = self.session.inbox(id) {
            inbox.waiting = Some(Box::new(call));
        }
        if end {
            self.on_end(id);
        }
    }

    fn give_out(&mut self, id: u32, call: IncomingCall) {
        self.give(id, ServerEvent::Call(call));
    }

    /// Gives the driver something to run and to end.
    pub(super) fn give(&mut self, id: u32, event: ServerEvent) {
        if let Some(inbox) = self.session.inbox(id) {
            inbox.running = true;
            self.in_flight += 1;
            self.ready.push_back(event);
        }
    }

    fn on_data(&mut self, id: u32, mut data: Bytes, end: bool) {
        let max = self.config.limits.max_body;
        loop {
            let Some(call) = self.session.inbox(id) else {
                return;
            };
            if call.purpose == Purpose::Over {
                return;
            }
            let max = match call.refusal {
                Some(_) => REFUSED_BODY_MAX.min(max),
                None => max,
            };
            let pushed = match call.assembler.complete() {
                Some(message) => Ok(Some(message)),
                None => call.assembler.push(&mut data, max),
            };
            match pushed {
                Ok(Some(message)) => self.on_message(id, message),
                Ok(None) => break,
                Err(TooLong(_)) if matches!(call.purpose, Purpose::Plain { .. }) => {
                    return self.refuse_plain_body(id);
                }
                Err(TooLong(length)) => {
                    let text = format!(
                        "a message of {length} bytes is above the limit of {max}: send less"
                    );
                    return self.fail(id, &Status::resource_exhausted(text));
                }
            }
        }
        self.settle(id);
        if end {
            self.on_end(id);
        }
    }

    /// Counts what a stream holds, and gives the peer credit for what nobody has to take first.
    fn settle(&mut self, id: u32) {
        let Some(call) = self.session.inbox(id) else {
            return;
        };
        let waiting = call.waiting.as_ref().map_or(0, |call| call.body.data.len());
        let held = call.assembler.held() + waiting + call.untaken;
        self.held = self.held - call.held + held;
        call.held = held;
        let free = call.untaken == 0;
        if free {
            self.session.credit(id, usize::MAX);
        }
        let most = self.config.limits.max_body.saturating_mul(HELD_MAX);
        if self.held > most {
            let text = format!(
                "the connection holds {most} bytes of messages that are not complete or not taken"
            );
            self.fail(id, &Status::resource_exhausted(text));
        }
    }

    fn on_message(&mut self, id: u32, message: Message) {
        let Some(call) = self.session.inbox(id) else {
            return;
        };
        if message.compressed && call.compression == Compression::None {
            let text = "a message says that it is compressed, its call does not say how";
            return self.fail(id, &Status::internal(text));
        }
        let body = RawBody {
            data: message.data,
            compression: match message.compressed {
                true => call.compression,
                false => Compression::None,
            },
            checksum: Checksum::None,
            sum: 0,
        };
        if call.kind.takes_stream() {
            call.untaken += body.data.len() + PREFIX;
            let id = CallId::new(id.into(), 0);
            self.ready
                .push_back(ServerEvent::Message { id, message: body });
        } else if let Some(waiting) = call.waiting.as_mut().filter(|_| !call.complete) {
            waiting.body = body;
            call.complete = true;
        } else {
            let text = "the call has more than one message; its method takes one";
            self.fail(id, &Status::unimplemented(text));
        }
    }

    /// The peer has sent its last message.
    fn on_end(&mut self, id: u32) {
        let Some(call) = self.session.inbox(id) else {
            return;
        };
        match call.purpose {
            Purpose::Over => return,
            Purpose::Plain { .. } => return self.on_plain_end(id),
            Purpose::Grpc(_) => {}
        }
        if call.assembler.is_mid_message() {
            let text = "the call ended in the middle of a message";
            return self.fail(id, &Status::internal(text));
        }
        if call.kind.takes_stream() {
            let id = CallId::new(id.into(), 0);
            self.ready.push_back(ServerEvent::HalfClosed { id });
        } else if !call.complete {
            let text = "the call has no message; its method takes one";
            self.fail(id, &Status::unimplemented(text));
        } else if let Some(waiting) = call.waiting.take() {
            self.held -= std::mem::take(&mut call.held);
            self.give_out(id, *waiting);
        }
    }

    /// Ends a call of which the driver knows nothing, or that it has to give up.
    pub(super) fn fail(&mut self, id: u32, status: &Status) {
        let running = self.session.inbox(id).is_some_and(|call| call.running);
        self.write_end(id, Err(status), &MetadataMap::new());
        if running {
            let id = CallId::new(id.into(), 0);
            self.ready.push_back(ServerEvent::Cancelled { id });
        }
    }

    /// The compression, if the caller takes it.
    fn takeable(&mut self, id: u32, compression: Compression) -> Compression {
        match self.session.inbox(id) {
            Some(call) if call.accepted.takes(compression) => compression,
            _ => Compression::None,
        }
    }

    /// Sends the head of an answer, if it has not left yet. Its messages may be compressed so.
    fn begin_with(&mut self, id: u32, metadata: &MetadataMap, compression: Compression) {
        let Some(call) = self.session.inbox(id).filter(|call| !call.begun) else {
            return;
        };
        let subtype = match call.purpose {
            Purpose::Over => return,
            Purpose::Plain { .. } => return self.begin_plain_stream(id, metadata),
            Purpose::Grpc(subtype) => subtype,
        };
        call.begun = true;
        call.announced = compression;
        let repeated = &mut self.repeated;
        self.session.block(id, false, |encoder, out| {
            Encoder::fixed(STATUS_200, out);
            repeated.content_type(subtype, encoder, out);
            if let (true, Some(name)) =
                (compression != Compression::None, codings::name(compression))
            {
                let name = name.as_bytes();
                encoder.repeated(&mut repeated.encoding, b"grpc-encoding", name, out);
                let ours = codings::OURS.as_bytes();
                encoder.repeated(&mut repeated.accepted, b"grpc-accept-encoding", ours, out);
            }
            put_metadata(metadata, encoder, out);
        });
    }

    /// Sends a message of an answer whose head has left; true if there is room for another.
    fn put_message(&mut self, id: u32, body: Body<'_>, compression: Compression) -> bool {
        let Some(call) = self.session.inbox(id) else {
            return true;
        };
        if let Purpose::Plain { head_only, .. } = call.purpose {
            return head_only || self.put_line(id, body.decompressed(compression));
        }
        if compression == Compression::None || compression == call.announced {
            let compressed = compression != Compression::None;
            let prefix = prefix(compressed, body.len());
            return self.session.data(id, &prefix, body, false);
        }
        // The head has announced something else: it leaves as it was before.
        let plain = body.decompressed(compression);
        let prefix = prefix(false, plain.len());
        self.session.data(id, &prefix, plain, false)
    }

    fn succeed(&mut self, id: u32, success: Success<'_>) {
        if !success.attachment.is_empty() {
            let text =
                "the answer has an attachment, which gRPC does not carry: call with baidu_std";
            return self.write_end(id, Err(&Status::unimplemented(text)), &MetadataMap::new());
        }
        let (size, max) = (success.body.len(), self.config.limits.max_body);
        if size > max.min(u32::MAX as usize) {
            let text = format!(
                "the answer has {size} bytes, the limit for one message is {max}: raise it or send less"
            );
            return self.write_end(
                id,
                Err(&Status::resource_exhausted(text)),
                &MetadataMap::new(),
            );
        }
        let announced = self.takeable(id, success.compression);
        self.begin_with(id, success.metadata, announced);
        self.put_message(id, success.body, success.compression);
        self.write_end(id, Ok(()), success.trailers);
    }

    /// Sends the trailers, alone if nothing was sent before; the call is over.
    fn write_end(&mut self, id: u32, result: Result<(), &Status>, trailers: &MetadataMap) {
        let Some(call) = self.session.inbox(id) else {
            return;
        };
        let subtype = match call.purpose {
            Purpose::Over => return,
            Purpose::Grpc(subtype) => subtype,
            Purpose::Plain { .. } if call.begun => {
                return self.end_plain_stream(id, result, trailers);
            }
            Purpose::Plain { kind, .. } => {
                let Err(status) = result else { return };
                return self.answer_plain(id, kind, Reply::Failed(status));
            }
        };
        call.purpose = Purpose::Over;
        call.waiting = None;
        call.running = false;
        let begun = call.begun;
        self.held -= std::mem::take(&mut call.held);
        if !self.session.is_clear(id) {
            let tail = Tail::new(result, trailers);
            let write = move |encoder: &mut Encoder, out: &mut Vec<u8>| tail.write(encoder, out);
            return self.session.end_later(id, Box::new(write));
        }
        let repeated = &mut self.repeated;
        self.session.block(id, true, |encoder, out| {
            if !begun {
                Encoder::fixed(STATUS_200, out);
                repeated.content_type(subtype, encoder, out);
            }
            match result {
                Ok(()) => {
                    encoder.repeated(&mut repeated.status_ok, b"grpc-status", b"0", out);
                    put_metadata(trailers, encoder, out);
                }
                Err(_) => Tail::new(result, trailers).write(encoder, out),
            }
        });
    }

    /// The id of a call that the driver ends now; `None` if its stream is gone.
    fn ended(&mut self, id: CallId) -> Option<u32> {
        debug_assert!(self.in_flight > 0, "a call is ended once");
        self.in_flight = self.in_flight.saturating_sub(1);
        let id = id.key() as u32;
        self.session.inbox(id).filter(|call| call.running)?;
        Some(id)
    }
}

/// A refused plain request's body is read up to this size.
const REFUSED_BODY_MAX: usize = 64 << 10;

/// `:status: 200` in HPACK's static table.
pub(super) const STATUS_200: usize = 8;

impl Repeated {
    fn content_type(&mut self, subtype: Subtype, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let name = Subtype::NAMES[subtype as usize].as_bytes();
        let handle = &mut self.content_type[subtype as usize];
        encoder.repeated(handle, b"content-type", name, out);
    }
}

impl ServerSession for GrpcServer {
    fn recv_space(&mut self) -> &mut dyn BufMut {
        self.session.recv_space()
    }

    fn received(&mut self, n: usize, now: Instant) -> Result<(), Bad> {
        self.session.received(n, now);
        self.session.bad().map_or(Ok(()), Err)
    }

    fn next_event(&mut self) -> Option<ServerEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let event = self.session.next(&mut self.head)?;
            self.handle(event);
        }
    }

    fn carries(&self, _kind: Kind) -> bool {
        true
    }

    fn cancels(&self) -> bool {
        true
    }

    fn answer(&mut self, id: CallId, reply: Reply<'_>) {
        let Some(id) = self.ended(id) else {
            return;
        };
        let purpose = self.session.inbox(id).map(|call| call.purpose);
        if let Some(Purpose::Plain { kind, .. }) = purpose {
            return self.answer_plain(id, kind, reply);
        }
        match reply {
            Reply::Success(success) => self.succeed(id, success),
            Reply::Failed(status) | Reply::Refused(status) => {
                self.write_end(id, Err(status), &MetadataMap::new());
            }
            Reply::Page(_) => {
                let status = Status::internal("a page is no answer to a call");
                self.write_end(id, Err(&status), &MetadataMap::new());
            }
        }
    }

    fn begin(&mut self, id: CallId, metadata: &MetadataMap, compression: Compression) {
        let id = id.key() as u32;
        let announced = self.takeable(id, compression);
        self.begin_with(id, metadata, announced);
    }

    fn send(&mut self, id: CallId, message: Body<'_>, compression: Compression) -> Room {
        self.begin(id, &MetadataMap::new(), compression);
        match self.put_message(id.key() as u32, message, compression) {
            true => Room::Open,
            false => Room::Full,
        }
    }

    fn finish(&mut self, id: CallId, result: Result<(), &Status>, trailers: &MetadataMap) {
        if result.is_ok() {
            self.begin(id, &MetadataMap::new(), Compression::None);
        }
        if let Some(id) = self.ended(id) {
            self.write_end(id, result, trailers);
        }
    }

    fn consumed(&mut self, id: CallId, bytes: usize) {
        let id = id.key() as u32;
        let Some(call) = self.session.inbox(id) else {
            return;
        };
        let bytes = (bytes + PREFIX).min(call.untaken);
        call.untaken -= bytes;
        self.session.credit(id, bytes);
        self.settle(id);
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        self.session.transmit()
    }

    fn deadline(&self) -> Option<Instant> {
        self.session.deadline()
    }

    fn timed_out(&mut self, now: Instant) -> Result<(), Bad> {
        self.session.timed_out(now);
        self.session.bad().map_or(Ok(()), Err)
    }

    fn wants_input(&self) -> bool {
        self.session.bad().is_none()
    }

    fn end_of_input(&mut self) -> EndOfInput {
        EndOfInput::Abandon
    }

    fn drain(&mut self) {
        self.session.drain();
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.ready.is_empty() && self.session.is_idle()
    }

    fn is_finished(&self) -> bool {
        self.session.bad().is_some() || self.session.has_left() && self.in_flight == 0
    }

    fn release(&mut self) {
        if self.is_idle() {
            self.session.release();
            self.head = Head::default();
            self.ready = VecDeque::new();
        }
    }
}
