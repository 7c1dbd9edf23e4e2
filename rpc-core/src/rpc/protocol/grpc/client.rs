//! The client's end of a gRPC connection.
//!
//! Knows: which call has which stream, what an answer says.   Does not know: who waits for it, sockets.
//!
//! Invariants
//! - GC-1  A [`CallId`]'s key is never used twice on a connection: a slot's number and how many calls there
//!   were before. A late event finds nothing, whoever has the slot now.
//! - GC-2  Calls above what the server takes at a time wait here, in order; they count as under way.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes};
use slab::Slab;

use super::bounds;
use super::codings;
use super::head::{Encoding, Head, Subtype};
use super::message::{Assembler, Message, PREFIX, TooLong, prefix};
use super::trailers::{put_metadata, size};
use crate::base::time::Instant;
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::http2::frame::ErrorCode;
use crate::rpc::protocol::http2::hpack::encode::{Encoder, Handle};
use crate::rpc::protocol::http2::{Event, Inbox, Role, Session};
use crate::rpc::protocol::{
    Bad, Body, CallId, Checksum, ClientEvent, ClientSession, IncomingReply, Kind, Limits,
    OutgoingCall, RawBody, Room, timeout,
};
use crate::rpc::status::{Code, Status};
use crate::rpc::status_map::{ELIMIT, ELOGOFF, EREJECT, grpc_code_of_http};

/// Bits of a key that name the slot.
const SLOT_BITS: u32 = 16;

/// The client's end of a gRPC connection.
pub struct GrpcClient {
    session: Session<Answer>,
    /// The block that the session read last.
    head: Head,
    calls: Slab<Call>,
    /// Calls so far; they go into the keys.
    made: u64,
    /// Keys of calls that wait for a stream.
    waiting: VecDeque<u64>,
    ready: VecDeque<ClientEvent>,
    limits: Limits,
    authority: Box<str>,
    /// The connection is inside TLS.
    secure: bool,
    /// What vouches for us at the server, in each call; empty = nothing.
    credential: Bytes,
    repeated: Repeated,
}

/// Fields that every request has.
#[derive(Default)]
struct Repeated {
    authority: Handle,
    /// The path called last.
    path: (String, Handle),
    content_type: Handle,
    te: Handle,
    agent: Handle,
    accepted: Handle,
}

/// A call under way.
struct Call {
    key: u64,
    token: u64,
    kind: Kind,
    stream: Stream,
}

/// A call's stream, or what is to go out on it.
enum Stream {
    Open(u32),
    Waiting(Box<Waiting>),
}

/// A call that waits for a stream.
struct Waiting {
    path: String,
    head: OwnHead,
    /// Messages with their prefixes.
    messages: VecDeque<Bytes>,
    half_closed: bool,
}

/// What is beside a request's message, and how messages are compressed.
#[derive(Default)]
struct OwnHead {
    timeout: Option<String>,
    compression: Compression,
    log_id: Option<i64>,
    request_id: Option<String>,
    metadata: MetadataMap,
}

/// An answer on its way.
#[derive(Default)]
struct Answer {
    key: u64,
    kind: Kind,
    assembler: Assembler,
    compression: Compression,
    /// How the answer will fail, as its head says already.
    doomed: Option<Status>,
    metadata: MetadataMap,
    message: Option<RawBody>,
    /// Bytes of messages given out and not taken.
    untaken: usize,
}

impl Inbox for Answer {
    fn space(&mut self, most: usize) -> Option<&mut dyn BufMut> {
        self.assembler.space(most)
    }
}

impl GrpcClient {
    /// A session that has sent nothing but its preface. `authority` is `HOST:PORT`.
    pub fn new(limits: Limits, authority: &str) -> Self {
        Self {
            session: Session::new(Role::Client, bounds(&limits)),
            head: Head::default(),
            calls: Slab::new(),
            made: 0,
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            limits,
            authority: authority.into(),
            secure: false,
            credential: Bytes::new(),
            repeated: Repeated::default(),
        }
    }

    /// Tells servers that the connection is inside TLS (`:scheme`).
    pub fn secure(mut self, secure: bool) -> Self {
        self.secure = secure;
        self
    }

    /// Says what vouches for us (`authorization`) in each call that does not say so itself.
    pub fn with_credential(mut self, credential: Bytes) -> Self {
        self.credential = credential;
        self
    }

    fn handle(&mut self, event: Event<Answer>) {
        match event {
            Event::Head { id, end } => self.on_head(id, end),
            Event::Data { id, data, end } => self.on_data(id, data, end),
            Event::Placed { id, end } => self.on_data(id, Bytes::new(), end),
            Event::Trailers { id } => {
                let outcome = self.head.outcome();
                self.on_end(id, outcome);
            }
            Event::Reset { code, inbox, .. } => self.conclude(inbox, Err(of_reset(code))),
            Event::Unprocessed { inbox, .. } => {
                let text = "the server is going away and did not look at the call";
                self.conclude(inbox, Err(Status::from_errno(ELOGOFF, text)));
            }
            Event::Writable { id } => {
                let found = self.session.inbox(id).map(|answer| answer.key);
                if let Some((id, call)) = found.and_then(|key| self.find(key))
                    && call.kind.takes_stream()
                {
                    let token = call.token;
                    self.ready.push_back(ClientEvent::Writable { id, token });
                }
            }
            Event::GoingAway => self.go_away(),
            Event::HeadTooLarge { .. } => {}
        }
        self.open_waiting();
    }

    fn find(&mut self, key: u64) -> Option<(CallId, &mut Call)> {
        let slot = (key & ((1 << SLOT_BITS) - 1)) as usize;
        let call = self.calls.get_mut(slot).filter(|call| call.key == key)?;
        Some((CallId::new(key, 0), call))
    }

    fn take(&mut self, key: u64) -> Option<Call> {
        self.find(key)?;
        Some(self.calls.remove((key & ((1 << SLOT_BITS) - 1)) as usize))
    }

    fn on_head(&mut self, id: u32, end: bool) {
        let grpc = Subtype::of(&self.head.content_type).is_some();
        let outcome = match (grpc, self.head.status) {
            (true, 200) | (true, _)
                if self.head.grpc_status.is_some() || self.head.status == 200 =>
            {
                None
            }
            (_, status) => Some(not_grpc(status, &self.head.content_type)),
        };
        if end {
            let outcome = outcome.map_or_else(|| self.head.outcome(), |status| Some(Err(status)));
            return self.on_end(id, outcome);
        }
        let Some(answer) = self.session.inbox(id) else {
            return;
        };
        answer.doomed = outcome;
        answer.compression = match &self.head.encoding {
            Encoding::Absent => Compression::None,
            Encoding::Known(compression) => *compression,
            Encoding::Foreign(name) => {
                let text = format!("the answer is compressed with {name}, which was not asked for");
                answer.doomed = Some(Status::internal(text));
                Compression::None
            }
        };
        answer.metadata = std::mem::take(&mut self.head.metadata);
        if answer.doomed.is_none() && answer.kind.gives_stream() {
            let (key, metadata) = (answer.key, std::mem::take(&mut answer.metadata));
            if let Some((id, call)) = self.find(key) {
                let token = call.token;
                self.ready.push_back(ClientEvent::Head {
                    id,
                    token,
                    metadata,
                });
            }
        }
    }

    fn on_data(&mut self, id: u32, mut data: Bytes, end: bool) {
        loop {
            let Some(answer) = self.session.inbox(id) else {
                return;
            };
            if answer.doomed.is_some() {
                break; // the body of an answer that is not gRPC's
            }
            let pushed = match answer.assembler.complete() {
                Some(message) => Ok(Some(message)),
                None => answer.assembler.push(&mut data, self.limits.max_body),
            };
            match pushed {
                Ok(Some(message)) => self.on_message(id, message),
                Ok(None) => break,
                Err(TooLong(length)) => {
                    let text = format!(
                        "the answer has a message of {length} bytes, the limit is {}: raise it",
                        self.limits.max_body
                    );
                    return self.give_up(id, Status::resource_exhausted(text));
                }
            }
        }
        if let Some(answer) = self.session.inbox(id)
            && answer.untaken == 0
        {
            self.session.credit(id, usize::MAX);
        }
        if end {
            self.on_end(id, None);
        }
    }

    fn on_message(&mut self, id: u32, message: Message) {
        let Some(answer) = self.session.inbox(id) else {
            return;
        };
        if message.compressed && answer.compression == Compression::None {
            let text = "a message says that it is compressed, its answer does not say how";
            return self.give_up(id, Status::internal(text));
        }
        let body = RawBody {
            data: message.data,
            compression: match message.compressed {
                true => answer.compression,
                false => Compression::None,
            },
            checksum: Checksum::None,
            sum: 0,
        };
        if !answer.kind.gives_stream() {
            if answer.message.replace(body).is_some() {
                let text = "the answer has more than one message; its method gives one";
                self.give_up(id, Status::unimplemented(text));
            }
            return;
        }
        answer.untaken += body.data.len() + PREFIX;
        let key = answer.key;
        if let Some((id, call)) = self.find(key) {
            let token = call.token;
            self.ready.push_back(ClientEvent::Message {
                id,
                token,
                message: body,
            });
        }
    }

    /// The server has sent its last byte on a stream; `outcome`: what its trailers say.
    fn on_end(&mut self, id: u32, outcome: Option<Result<MetadataMap, Status>>) {
        let Some(answer) = self.session.end_from_peer(id) else {
            return;
        };
        let broken = answer.assembler.is_mid_message();
        let outcome = match outcome {
            Some(Err(status)) => Err(status),
            _ if answer.doomed.is_some() => Err(answer
                .doomed
                .clone()
                .unwrap_or_else(|| Status::internal("the answer is not gRPC's"))),
            Some(Ok(_)) if broken => Err(Status::internal(
                "the answer ended in the middle of a message",
            )),
            Some(Ok(trailers)) => Ok(trailers),
            None => Err(Status::internal("the answer ended without a status")),
        };
        self.conclude(answer, outcome);
    }

    /// Ends a call for what the server sent.
    fn give_up(&mut self, id: u32, status: Status) {
        if let Some(answer) = self.session.reset(id, ErrorCode::CANCEL) {
            self.conclude(answer, Err(status));
        }
    }

    /// Tells how a call ended.
    fn conclude(&mut self, answer: Answer, outcome: Result<MetadataMap, Status>) {
        let Some(call) = self.take(answer.key) else {
            return;
        };
        let arrived = self.session.now();
        let event = end_of(&call, outcome, |trailers| match answer.message {
            Some(body) => Ok(IncomingReply {
                body,
                attachment: Bytes::new(),
                metadata: answer.metadata,
                trailers,
                arrived,
                stream_accepted: false,
            }),
            None => Err(Status::unimplemented(
                "the answer has no message; its method gives one",
            )),
        });
        self.ready.push_back(event);
    }

    /// The server takes no more calls: those that wait for a stream never left.
    fn go_away(&mut self) {
        self.ready.push_back(ClientEvent::GoingAway);
        let text = "the server is going away; the call was not sent";
        for key in std::mem::take(&mut self.waiting) {
            if let Some(call) = self.take(key) {
                let status = Status::from_errno(ELOGOFF, text);
                self.ready.push_back(end_of(&call, Err(status), no_message));
            }
        }
    }

    /// Gives streams to the calls that wait, as far as the server takes more.
    fn open_waiting(&mut self) {
        while self.session.can_open()
            && let Some(key) = self.waiting.pop_front()
        {
            let Some((_, call)) = self.find(key) else {
                continue; // given up
            };
            let kind = call.kind;
            let Some(id) = self.session.open(Answer {
                key,
                kind,
                ..Answer::default()
            }) else {
                return;
            };
            let Some((call_id, call)) = self.find(key) else {
                continue;
            };
            let Stream::Waiting(waiting) = std::mem::replace(&mut call.stream, Stream::Open(id))
            else {
                continue;
            };
            let token = call.token;
            self.put_head(
                id,
                &waiting.path,
                &waiting.head.borrowed(&waiting.head.metadata),
            );
            let mut room = true;
            for message in waiting.messages {
                room &= self.session.data(id, &[], Body::Bytes(message), false);
            }
            if waiting.half_closed {
                self.session.end(id);
            } else if room && kind.takes_stream() {
                let id = call_id;
                self.ready.push_back(ClientEvent::Writable { id, token });
            }
        }
    }

    fn put_head(&mut self, id: u32, path: &str, head: &OutHead<'_>) {
        let (repeated, authority) = (&mut self.repeated, self.authority.as_bytes());
        let scheme = if self.secure {
            SCHEME_HTTPS
        } else {
            SCHEME_HTTP
        };
        let credential = &self.credential;
        self.session.block(id, false, |encoder, out| {
            Encoder::fixed(METHOD_POST, out);
            Encoder::fixed(scheme, out);
            if repeated.path.0 != path {
                repeated.path = (path.to_owned(), Handle::default());
            }
            encoder.repeated(&mut repeated.path.1, b":path", path.as_bytes(), out);
            encoder.repeated(&mut repeated.authority, b":authority", authority, out);
            encoder.repeated(&mut repeated.te, b"te", b"trailers", out);
            let grpc = Subtype::NAMES[0].as_bytes();
            encoder.repeated(&mut repeated.content_type, b"content-type", grpc, out);
            encoder.repeated(&mut repeated.agent, b"user-agent", AGENT, out);
            let ours = codings::OURS.as_bytes();
            encoder.repeated(&mut repeated.accepted, b"grpc-accept-encoding", ours, out);
            if let Some(timeout) = head.timeout {
                encoder.once(b"grpc-timeout", timeout.as_bytes(), out);
            }
            if let (true, Some(name)) = (
                head.compression != Compression::None,
                codings::name(head.compression),
            ) {
                encoder.field(b"grpc-encoding", name.as_bytes(), out);
            }
            if let Some(log_id) = head.log_id {
                encoder.once(b"log-id", log_id.to_string().as_bytes(), out);
            }
            if let Some(request_id) = head.request_id {
                encoder.once(b"x-request-id", request_id.as_bytes(), out);
            }
            if !credential.is_empty() && head.metadata.get_bytes("authorization").is_none() {
                encoder.field(b"authorization", credential, out);
            }
            put_metadata(head.metadata, encoder, out);
        });
    }

    /// Why the call cannot be sent, if it cannot.
    fn refuse(&self, call: &OutgoingCall<'_>) -> Result<(), Status> {
        if self.session.is_spent() {
            let text = "the server is going away; the call was not sent";
            return Err(Status::from_errno(ELOGOFF, text));
        }
        let max = self.limits.max_in_flight.min(1 << SLOT_BITS);
        if self.calls.len() >= max {
            let text = format!("{max} calls are under way on this connection: open another one");
            return Err(Status::from_errno(ELIMIT, text));
        }
        if !call.attachment.is_empty() {
            let text = "gRPC carries no attachment: send it in the message, or call with baidu_std";
            return Err(Status::invalid_argument(text));
        }
        if call.offers_stream {
            let text = "gRPC streams are part of their method; only baidu_std holds one out";
            return Err(Status::invalid_argument(text));
        }
        let (length, limit) = (call.body.len(), self.limits.max_body);
        if length > limit.min(u32::MAX as usize) {
            return Err(Status::resource_exhausted(format!(
                "the request has {length} bytes, the limit for one message is {limit}: raise it or send less"
            )));
        }
        if codings::name(call.compression).is_none() {
            let text = format!(
                "{} is no compression of gRPC: {}",
                call.compression,
                codings::OURS
            );
            return Err(Status::invalid_argument(text));
        }
        let fields = call.service.len() + call.method.len() + size(call.metadata);
        let most = self.limits.max_head / 2;
        if fields > most {
            return Err(Status::invalid_argument(format!(
                "names and metadata of the call take {fields} bytes, the limit is {most}"
            )));
        }
        Ok(())
    }

    fn send_now(&mut self, id: u32, path: &str, head: &OutHead<'_>, call: &OutgoingCall<'_>) {
        self.put_head(id, path, head);
        if !call.kind.takes_stream() {
            let compressed = call.compression != Compression::None;
            let prefix = prefix(compressed, call.body.len());
            self.session.data(id, &prefix, call.body.clone(), true);
        }
    }
}

/// What is beside a request's message.
struct OutHead<'a> {
    timeout: Option<&'a str>,
    compression: Compression,
    log_id: Option<i64>,
    request_id: Option<&'a str>,
    metadata: &'a MetadataMap,
}

impl OwnHead {
    fn borrowed<'a>(&'a self, metadata: &'a MetadataMap) -> OutHead<'a> {
        OutHead {
            timeout: self.timeout.as_deref(),
            compression: self.compression,
            log_id: self.log_id,
            request_id: self.request_id.as_deref(),
            metadata,
        }
    }
}

/// The event that ends a call, by its kind.
fn end_of(
    call: &Call,
    outcome: Result<MetadataMap, Status>,
    reply: impl FnOnce(MetadataMap) -> Result<IncomingReply, Status>,
) -> ClientEvent {
    let (id, token) = (CallId::new(call.key, 0), call.token);
    match call.kind.gives_stream() {
        true => ClientEvent::End {
            id,
            token,
            result: outcome,
        },
        false => ClientEvent::Reply {
            id,
            token,
            result: outcome.and_then(reply),
        },
    }
}

fn no_message(_trailers: MetadataMap) -> Result<IncomingReply, Status> {
    Err(Status::internal("the call ended without a message"))
}

/// A stream that the server reset (PROTOCOL-HTTP2.md, "Errors").
fn of_reset(code: ErrorCode) -> Status {
    let text = format!(
        "the server reset the call's stream with HTTP/2 error {}",
        code.0
    );
    match code {
        ErrorCode::REFUSED_STREAM => {
            Status::from_errno(EREJECT, "the server refused the call before it ran")
        }
        ErrorCode::CANCEL => Status::cancelled(text),
        ErrorCode::ENHANCE_YOUR_CALM => Status::new(Code::ResourceExhausted, text),
        ErrorCode::INADEQUATE_SECURITY => Status::permission_denied(text),
        _ => Status::internal(text),
    }
}

/// An answer of something that does not speak gRPC: a proxy, a web server.
fn not_grpc(status: u16, content_type: &[u8]) -> Status {
    let content_type = String::from_utf8_lossy(content_type);
    let text =
        format!("the answer is not gRPC's: HTTP status {status}, content type {content_type:?}");
    Status::new(grpc_code_of_http(status), text)
}

/// In HPACK's static table.
const METHOD_POST: usize = 3;
const SCHEME_HTTP: usize = 6;
const SCHEME_HTTPS: usize = 7;

const AGENT: &[u8] = concat!("grpc-rust-rpc-core/", env!("CARGO_PKG_VERSION")).as_bytes();

impl ClientSession for GrpcClient {
    fn recv_space(&mut self) -> &mut dyn BufMut {
        self.session.recv_space()
    }

    fn received(&mut self, n: usize, now: Instant) -> Result<(), Bad> {
        self.session.received(n, now);
        self.session.bad().map_or(Ok(()), Err)
    }

    fn next_event(&mut self) -> Option<ClientEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let Some(event) = self.session.next(&mut self.head) else {
                // Settings, or calls that were given up, may have made room without an event.
                self.open_waiting();
                return self.ready.pop_front();
            };
            self.handle(event);
        }
    }

    fn call(&mut self, call: OutgoingCall<'_>) -> Result<CallId, Status> {
        self.refuse(&call)?;
        let path = ["/", call.service, "/", call.method].concat();
        let timeout = call.timeout.map(timeout::format);
        let head = OutHead {
            timeout: timeout.as_deref(),
            compression: call.compression,
            log_id: call.log_id,
            request_id: call
                .trace
                .map(|trace| &*trace.request_id)
                .filter(|id| !id.is_empty()),
            metadata: call.metadata,
        };
        let slot = self.calls.vacant_key();
        self.made += 1;
        let key = self.made << SLOT_BITS | slot as u64;
        let kind = call.kind;
        let opened = match self.waiting.is_empty() {
            true => self.session.open(Answer {
                key,
                kind,
                ..Answer::default()
            }),
            false => None,
        };
        let stream = match opened {
            Some(id) => {
                self.send_now(id, &path, &head, &call);
                Stream::Open(id)
            }
            None => {
                self.waiting.push_back(key);
                Stream::Waiting(Box::new(waiting(path, &head, &call)))
            }
        };
        self.calls.insert(Call {
            key,
            token: call.token,
            kind,
            stream,
        });
        Ok(CallId::new(key, 0))
    }

    fn send(&mut self, id: CallId, message: Body<'_>, compression: Compression) -> Room {
        let prefix = prefix(compression != Compression::None, message.len());
        let Some((_, call)) = self.find(id.key()) else {
            return Room::Open; // it has ended
        };
        match &mut call.stream {
            Stream::Open(id) => {
                let id = *id;
                match self.session.data(id, &prefix, message, false) {
                    true => Room::Open,
                    false => Room::Full,
                }
            }
            Stream::Waiting(waiting) => {
                waiting.messages.push_back(owned(&prefix, message));
                Room::Full
            }
        }
    }

    fn half_close(&mut self, id: CallId) {
        let Some((_, call)) = self.find(id.key()) else {
            return;
        };
        match &mut call.stream {
            Stream::Open(id) => {
                let id = *id;
                self.session.end(id);
            }
            Stream::Waiting(waiting) => waiting.half_closed = true,
        }
    }

    fn consumed(&mut self, id: CallId, bytes: usize) {
        let Some((_, call)) = self.find(id.key()) else {
            return;
        };
        let Stream::Open(id) = call.stream else {
            return;
        };
        if let Some(answer) = self.session.inbox(id) {
            let bytes = (bytes + PREFIX).min(answer.untaken);
            answer.untaken -= bytes;
            let all = answer.untaken == 0;
            self.session
                .credit(id, if all { usize::MAX } else { bytes });
        }
    }

    fn cancel(&mut self, id: CallId) -> bool {
        let Some(call) = self.take(id.key()) else {
            return false;
        };
        match call.stream {
            Stream::Open(id) => drop(self.session.reset(id, ErrorCode::CANCEL)),
            Stream::Waiting(_) => self.waiting.retain(|key| *key != call.key),
        }
        self.open_waiting();
        true
    }

    fn abort(&mut self, status: &Status) {
        self.waiting.clear();
        for call in self.calls.drain() {
            let event = end_of(&call, Err(status.clone()), no_message);
            self.ready.push_back(event);
        }
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

    fn in_flight(&self) -> usize {
        self.calls.len()
    }

    fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.ready.is_empty() && self.session.is_idle()
    }

    fn is_finished(&self) -> bool {
        self.session.bad().is_some()
    }

    fn release(&mut self) {
        if self.is_idle() {
            self.session.release();
            self.head = Head::default();
            self.calls = Slab::new();
            self.ready = VecDeque::new();
        }
    }
}

/// What a call that waits for a stream has to keep.
fn waiting(path: String, head: &OutHead<'_>, call: &OutgoingCall<'_>) -> Waiting {
    let unary = !call.kind.takes_stream();
    let mut messages = VecDeque::new();
    if unary {
        let compressed = call.compression != Compression::None;
        let prefix = prefix(compressed, call.body.len());
        messages.push_back(owned(&prefix, call.body.clone()));
    }
    Waiting {
        path,
        head: OwnHead {
            timeout: head.timeout.map(str::to_owned),
            compression: head.compression,
            log_id: head.log_id,
            request_id: head.request_id.map(str::to_owned),
            metadata: head.metadata.clone(),
        },
        messages,
        half_closed: unary,
    }
}

/// Prefix and message in one.
fn owned(prefix: &[u8], body: Body<'_>) -> Bytes {
    let mut whole = vec![0; prefix.len() + body.len()];
    let (front, back) = whole.split_at_mut(prefix.len());
    front.copy_from_slice(prefix);
    match body {
        Body::Bytes(bytes) => back.copy_from_slice(&bytes),
        Body::Message(message) => message.encode(back),
    }
    whole.into()
}
