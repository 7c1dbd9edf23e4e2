//! The server's end of an HTTP/1.1 connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Limit};

use super::chunked::{Chunked, too_large};
use super::head::{Head, Length, Refusal};
use super::target::{Kind, Target};
use super::write::{
    Response, Say, end_of_head, error_line, last_chunk, of_http, of_page, of_status, of_stream,
};
use crate::base::buf::{SMALL, SendBuf};
use crate::base::time::Instant;
use crate::rpc::compression::Compression;
use crate::rpc::cors::Grant;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{
    Bad, BadReason, Body, CallId, Checksum, EndOfInput, IncomingCall, PageRequest, RawBody, Reply,
    Room, Route, ServerConfig, ServerEvent, ServerSession, Success, Trace, call, counters,
};
use crate::rpc::status::Status;

/// The server's end of an HTTP/1.1 connection.
pub struct Http1Server {
    config: Arc<ServerConfig>,
    /// What was read and not yet parsed.
    input: Limit<BytesMut>,
    stage: Stage,
    /// Requests not yet answered, or answered before one ahead of them; oldest first.
    slots: VecDeque<Slot>,
    /// Key of the first slot's [`CallId`].
    first: u64,
    out: SendBuf,
    /// When the bytes now being parsed were read.
    now: Instant,
    /// When the rest of the current request must be here; `NEVER` between requests.
    deadline: Instant,
    /// A `100 Continue` is owed once the answers before it have left.
    owes_continue: bool,
    draining: bool,
    /// The peer has sent its last byte.
    ended: bool,
    /// The first slot's answer is a stream (H-5).
    streaming: bool,
    /// A call whose answer will be one, until it is first.
    held: Option<Box<IncomingCall>>,
}

/// Where in a request the input is.
enum Stage {
    Head,
    Body(Box<Request>, Part),
    /// Nothing more is read.
    Done,
}

/// A request whose head is read.
struct Request {
    head: Head,
    target: Target,
}

/// A body on its way in.
enum Part {
    /// Its final allocation, limited to what is missing.
    Exact(Limit<BytesMut>),
    Chunked(Chunked),
}

/// A request's place in the order of answers.
struct Slot {
    /// How a call's answer is written; `None` for a page.
    kind: Option<Kind>,
    head_only: bool,
    http10: bool,
    /// The connection ends with this answer.
    close: bool,
    /// What a page of another origin is told.
    grant: Option<Grant>,
    ready: Option<Response>,
    /// The head of a stream has left.
    begun: bool,
}

/// What a step of parsing came to.
enum Step {
    Event(ServerEvent),
    Again,
    /// More bytes are needed, or none are wanted.
    Wait,
}

/// Time for a head from its first byte on.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// Longest pause inside a body.
const BODY_PAUSE: Duration = Duration::from_secs(30);
/// A refused request's body up to this size is read to keep the connection.
const REFUSED_BODY_MAX: usize = 64 << 10;
/// Least room to read into.
const ROOM: usize = 4 << 10;

impl Http1Server {
    /// A session that has read nothing; allocates nothing until it does.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            input: BytesMut::new().limit(0),
            stage: Stage::Head,
            slots: VecDeque::new(),
            first: 0,
            out: SendBuf::new(),
            now: Instant::ZERO,
            deadline: Instant::NEVER,
            owes_continue: false,
            draining: false,
            ended: false,
            streaming: false,
            held: None,
        }
    }

    fn step(&mut self) -> Step {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Head => self.step_head(),
            Stage::Body(request, Part::Exact(body)) if body.has_remaining_mut() => {
                self.wait(Stage::Body(request, Part::Exact(body)))
            }
            Stage::Body(request, Part::Exact(body)) => {
                self.finish(*request, body.into_inner().freeze())
            }
            Stage::Body(request, Part::Chunked(mut chunked)) => {
                let max = self.config.limits.max_body;
                match chunked.take(self.input.get_mut(), max) {
                    Ok(Some(body)) => self.finish(*request, body),
                    Ok(None) => self.wait(Stage::Body(request, Part::Chunked(chunked))),
                    Err(refusal) => self.refuse(&refusal),
                }
            }
            Stage::Done => Step::Wait,
        }
    }

    /// Stays in `stage` until more comes, or counts that no more will.
    fn wait(&mut self, stage: Stage) -> Step {
        if self.ended {
            BadReason::Truncated.count();
            return Step::Wait; // the stage is Done
        }
        self.stage = stage;
        Step::Wait
    }

    fn step_head(&mut self) -> Step {
        let input = self.input.get_mut();
        // RFC 9112 §2.2: empty lines before a request are passed over.
        while input
            .first()
            .is_some_and(|byte| matches!(byte, b'\r' | b'\n'))
        {
            input.advance(1);
        }
        if input.is_empty() {
            self.deadline = Instant::NEVER;
            if !self.ended {
                self.stage = Stage::Head;
            }
            return Step::Wait;
        }
        match Head::parse(input, &self.config.limits) {
            Ok(Some((head, length))) => {
                input.advance(length);
                self.begin(head)
            }
            Ok(None) => {
                if self.deadline.is_never() {
                    self.deadline = self.now + HEAD_TIME;
                }
                self.wait(Stage::Head)
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// A head is complete: finds out what it is for and prepares for its body.
    fn begin(&mut self, head: Head) -> Step {
        let target = Target::of(&head, &self.config);
        let max = self.config.limits.max_body;
        let (length, chunked) = match head.body {
            Length::Absent => (0, false),
            Length::Exact(length) => (length, false),
            Length::Chunked => (0, true),
        };
        if length > max {
            return self.refuse(&too_large(max));
        }
        let awaited = chunked || length > self.input.get_ref().len();
        let unwelcome = chunked || length > REFUSED_BODY_MAX || head.expects_continue;
        let continues = awaited && head.expects_continue && !head.http10;
        let mut request = Request { head, target };
        if awaited && unwelcome && matches!(request.target, Target::Refused(_)) {
            request.head.keep_alive = false; // the body is never read
            return self.finish(request, Bytes::new());
        }
        if continues {
            self.owes_continue = true;
            self.pay_continue();
        }
        self.deadline = self.now + BODY_PAUSE;
        if chunked {
            self.stage = Stage::Body(Box::new(request), Part::Chunked(Chunked::default()));
            return Step::Again;
        }
        if !awaited {
            let body = self.input.get_mut().split_to(length).freeze();
            return self.finish(request, body);
        }
        let early = self.input.get_mut().split();
        if !early.is_empty() && length >= SMALL {
            counters::COPIED_BODIES.add(1);
        }
        let mut body = BytesMut::with_capacity(length);
        body.extend_from_slice(&early);
        let missing = length - early.len();
        self.stage = Stage::Body(Box::new(request), Part::Exact(body.limit(missing)));
        Step::Again
    }

    /// A request is complete: its place in the order is taken, and the driver gets it.
    fn finish(&mut self, request: Request, body: Bytes) -> Step {
        self.deadline = Instant::NEVER;
        self.owes_continue = false;
        let Request { head, target } = request;
        let id = CallId::new(self.first + self.slots.len() as u64, 0);
        if head.keep_alive {
            self.stage = Stage::Head;
        }
        self.slots.push_back(Slot {
            kind: match target {
                Target::Call { kind, .. } => Some(kind),
                Target::Page | Target::Refused(_) => None,
            },
            head_only: head.method == "HEAD",
            http10: head.http10,
            close: !head.keep_alive,
            grant: target.grant(&head, &self.config),
            ready: None,
            begun: false,
        });
        match target {
            Target::Call {
                route,
                kind,
                compression,
                bound,
            } => {
                let body = RawBody {
                    data: body,
                    compression,
                    checksum: Checksum::None,
                    sum: 0,
                };
                let mut call = call_of(id, &head, route, kind, body, self.now);
                call.bound = bound;
                if route.kind != call::Kind::ServerStream {
                    return Step::Event(ServerEvent::Call(call));
                }
                self.held = Some(Box::new(call));
                self.held_call()
            }
            Target::Page => Step::Event(ServerEvent::Page(PageRequest {
                id,
                method: head.method,
                path: head.path,
                query: head.query,
                headers: head.headers,
                body,
                arrived: self.now,
            })),
            Target::Refused(response) => {
                self.ready(id, response);
                Step::Again
            }
        }
    }

    /// Answers bad input behind everything before it; nothing more is read.
    fn refuse(&mut self, refusal: &Refusal) -> Step {
        refusal.reason.count();
        self.stage = Stage::Done;
        self.deadline = Instant::NEVER;
        self.owes_continue = false;
        self.input = BytesMut::new().limit(0);
        let id = CallId::new(self.first + self.slots.len() as u64, 0);
        self.slots.push_back(Slot {
            kind: None,
            head_only: false,
            http10: false,
            close: true,
            grant: None,
            ready: None,
            begun: false,
        });
        self.ready(id, of_http(refusal.status, &refusal.text, None));
        Step::Wait
    }

    /// Gives out the call that is held, once it is first (H-5).
    fn held_call(&mut self) -> Step {
        match self.held.take_if(|_| self.slots.len() == 1) {
            Some(call) => {
                self.streaming = true;
                Step::Event(ServerEvent::Call(*call))
            }
            None => Step::Wait,
        }
    }

    /// Puts an answer into its slot and sends what can be sent in order.
    fn ready(&mut self, id: CallId, mut response: Response) {
        let index = id.key().wrapping_sub(self.first);
        let slot = usize::try_from(index)
            .ok()
            .and_then(|i| self.slots.get_mut(i));
        let Some(slot) = slot.filter(|slot| slot.ready.is_none()) else {
            debug_assert!(false, "a request is answered once");
            return;
        };
        if let Some(grant) = &slot.grant {
            grant.write(&mut response);
        }
        slot.ready = Some(response);
        self.streaming = false;
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.ready.is_some()) {
            self.first += 1;
            let last = self.slots.is_empty() && matches!(self.stage, Stage::Head);
            let close = slot.close || self.draining && last && self.input.get_ref().is_empty();
            if let Some(response) = slot.ready {
                self.out.put(&response.head);
                self.out.put(end_of_head(close, slot.http10));
                if !slot.head_only {
                    self.out.push(response.body);
                }
            }
            if close {
                self.stage = Stage::Done;
            }
        }
        self.pay_continue();
    }

    /// Writes the head of the first slot's stream, once.
    fn begin_stream(&mut self, metadata: &MetadataMap) -> bool {
        let Some(slot) = self.slots.front_mut().filter(|_| self.streaming) else {
            debug_assert!(false, "a stream is the first answer that is due");
            return false;
        };
        if std::mem::replace(&mut slot.begun, true) {
            return true;
        }
        let mut response = of_stream(metadata);
        if let Some(grant) = &slot.grant {
            grant.write(&mut response);
        }
        self.out.put(&response.head);
        if !slot.http10 {
            self.out.put(b"\r\nTransfer-Encoding: chunked");
        }
        slot.close |= slot.http10; // its end is the connection's
        self.out.put(end_of_head(slot.close, slot.http10));
        true
    }

    /// Writes a line of the first slot's stream.
    fn put_line(&mut self, line: Bytes) {
        let Some(slot) = self.slots.front().filter(|slot| !slot.head_only) else {
            return;
        };
        if slot.http10 {
            self.out.push(line);
            return self.out.put(b"\n");
        }
        self.out.put(format!("{:x}\r\n", line.len() + 1).as_bytes());
        self.out.push(line);
        self.out.put(b"\n\r\n");
    }

    /// The first slot's stream is over. One that failed says so in a line and lacks its last chunk (H-6).
    fn end_stream(&mut self, result: Result<(), &Status>, trailers: &MetadataMap) {
        if !self.begin_stream(&NO_METADATA) {
            return;
        }
        if let Err(status) = result {
            self.put_line(error_line(status));
        }
        self.streaming = false;
        self.first += 1;
        let Some(slot) = self.slots.pop_front() else {
            return;
        };
        if result.is_ok() && !slot.http10 && !slot.head_only {
            self.out.put(&last_chunk(trailers));
        }
        let idle = matches!(self.stage, Stage::Head) && self.input.get_ref().is_empty();
        if slot.close || result.is_err() || self.draining && idle {
            self.stage = Stage::Done;
        }
    }

    /// Prepares the input for reading.
    fn make_room(&mut self) {
        let input = self.input.get_mut();
        if input.capacity() - input.len() < ROOM / 4 {
            input.reserve(ROOM.max(input.len()));
        }
        let room = input.capacity() - input.len();
        self.input.set_limit(room);
    }

    /// Sends the `100 Continue` that is owed, if nothing is before it.
    fn pay_continue(&mut self) {
        if self.owes_continue && self.slots.is_empty() {
            self.owes_continue = false;
            self.out.put(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }
}

/// The call that a request makes.
pub fn call_of(
    id: CallId,
    head: &Head,
    route: Route,
    kind: Kind,
    body: RawBody,
    arrived: Instant,
) -> IncomingCall {
    let request_id = head.headers.get("x-request-id");
    let log_id = head.headers.get("log-id");
    IncomingCall {
        id,
        route,
        format: kind.format(),
        body,
        offers_stream: false,
        bound: None,
        attachment: Bytes::new(),
        metadata: head.metadata(),
        log_id: log_id.and_then(|text| text.trim().parse().ok()),
        trace: request_id.map(|id| {
            Box::new(Trace {
                request_id: id.into(),
                ..Trace::default()
            })
        }),
        timeout: head.timeout(),
        arrived,
    }
}

/// What a reply is as a response; `kind` is that of the call, `None` for a page.
pub fn response_of(kind: Option<Kind>, reply: Reply<'_>) -> Response {
    match (kind, reply) {
        (_, Reply::Failed(status) | Reply::Refused(status)) => of_status(status),
        (None, Reply::Page(page)) => of_page(page),
        (Some(kind), Reply::Success(success)) => success_of(kind, success),
        (Some(_), Reply::Page(_)) => of_status(&Status::internal("a page is no answer to a call")),
        (None, Reply::Success(_)) => {
            of_status(&Status::internal("a message is no answer to a page"))
        }
    }
}

/// A call's answer.
fn success_of(kind: Kind, success: Success<'_>) -> Response {
    if !success.attachment.is_empty() {
        return of_status(&Status::unimplemented(
            "the answer has an attachment, which HTTP does not carry: call with baidu_std",
        ));
    }
    let body = bytes_of(success.body.decompressed(success.compression));
    let say = Say {
        status: 200,
        content_type: kind.content_type(),
        headers: success.metadata,
        errno: 0,
        allow: None,
    };
    say.with(body)
}

/// A body as bytes of its own.
pub fn bytes_of(body: Body<'_>) -> Bytes {
    match body {
        Body::Bytes(bytes) => bytes,
        Body::Message(message) => {
            let mut bytes = vec![0; message.encoded_len()];
            message.encode(&mut bytes);
            bytes.into()
        }
    }
}

static NO_METADATA: MetadataMap = MetadataMap::new();

impl ServerSession for Http1Server {
    fn recv_space(&mut self) -> &mut dyn BufMut {
        if matches!(self.stage, Stage::Done) {
            self.input.get_mut().clear(); // whatever still comes is not looked at
        }
        if !matches!(&self.stage, Stage::Body(_, Part::Exact(_))) {
            self.make_room();
        }
        match &mut self.stage {
            Stage::Body(_, Part::Exact(body)) if body.has_remaining_mut() => body,
            _ => &mut self.input,
        }
    }

    fn received(&mut self, _n: usize, now: Instant) -> Result<(), Bad> {
        self.now = now;
        if matches!(self.stage, Stage::Body(..)) {
            self.deadline = now + BODY_PAUSE;
        }
        Ok(())
    }

    fn next_event(&mut self) -> Option<ServerEvent> {
        if self.streaming {
            return None;
        }
        if self.held.is_some() {
            return match self.held_call() {
                Step::Event(event) => Some(event),
                Step::Again | Step::Wait => None,
            };
        }
        while self.slots.len() < self.config.limits.max_pipelined {
            match self.step() {
                Step::Event(event) => return Some(event),
                Step::Again => {}
                Step::Wait => return None,
            }
        }
        None
    }

    fn carries(&self, kind: call::Kind) -> bool {
        !kind.takes_stream()
    }

    fn begin(&mut self, _id: CallId, metadata: &MetadataMap, _compression: Compression) {
        self.begin_stream(metadata);
    }

    /// What the peer does not take waits in the socket's queue, which the driver bounds.
    fn send(&mut self, _id: CallId, message: Body<'_>, compression: Compression) -> Room {
        if self.begin_stream(&NO_METADATA) {
            self.put_line(bytes_of(message.decompressed(compression)));
        }
        Room::Open
    }

    fn finish(&mut self, _id: CallId, result: Result<(), &Status>, trailers: &MetadataMap) {
        self.end_stream(result, trailers);
    }

    fn answer(&mut self, id: CallId, reply: Reply<'_>) {
        let index = id.key().wrapping_sub(self.first);
        let kind = usize::try_from(index)
            .ok()
            .and_then(|index| self.slots.get(index)?.kind);
        let response = response_of(kind, reply);
        self.ready(id, response);
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        self.out.pieces()
    }

    fn deadline(&self) -> Option<Instant> {
        (!self.deadline.is_never()).then_some(self.deadline)
    }

    fn timed_out(&mut self, now: Instant) -> Result<(), Bad> {
        if now >= self.deadline {
            let text = "the rest of the request did not come in time";
            self.refuse(&Refusal::new(408, BadReason::HttpSlow, text));
        }
        Ok(())
    }

    fn wants_input(&self) -> bool {
        if self.ended || self.held.is_some() {
            return false;
        }
        if self.streaming {
            // Only to learn that nobody listens any more.
            return self.input.get_ref().is_empty();
        }
        !matches!(self.stage, Stage::Done) && self.slots.len() < self.config.limits.max_pipelined
    }

    fn end_of_input(&mut self) -> EndOfInput {
        self.ended = true;
        if self.streaming {
            return EndOfInput::Abandon; // H-7
        }
        let between = matches!(self.stage, Stage::Head) && self.input.get_ref().is_empty();
        if between {
            self.stage = Stage::Done;
        }
        match self.is_finished() && self.out.is_empty() {
            true => EndOfInput::Abandon,
            false => EndOfInput::Finish,
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        if self.is_idle() {
            self.stage = Stage::Done;
        }
    }

    fn is_idle(&self) -> bool {
        self.slots.is_empty()
            && !matches!(self.stage, Stage::Body(..))
            && self.input.get_ref().is_empty()
            && self.out.is_empty()
    }

    fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Done) && self.slots.is_empty()
    }

    fn release(&mut self) {
        if self.input.get_ref().is_empty() {
            self.input = BytesMut::new().limit(0);
        }
        self.out.release();
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
    }
}
