//! The server's end of a PRPC connection.
//!
//! Stateless per call: a [`CallId`] carries the peer's correlation id and how its body was guarded, so an
//! answer needs no table.

mod streams;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use slab::Slab;

use self::streams::{STREAM_TAG, ServerStream};
use super::frame::{Frame, Framer};
use super::meta::{Meta, MetaOut, ResponseOut, StreamSettings};
use super::{HEADER, MAGIC};
use crate::base::buf::{SMALL, SendBuf};
use crate::base::time::Instant;
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::call::{
    Body, BodyFormat, CallId, Checksum, IncomingCall, Kind, RawBody, Reply, Route, Success,
    masked_crc, no_such_method,
};
use crate::rpc::protocol::{
    Bad, BadReason, EndOfInput, Room, ServerConfig, ServerEvent, ServerSession,
};
use crate::rpc::status::Status;
use crate::rpc::status_map::{EINTERNAL, ELIMIT, ELOGOFF, EREQUEST};

/// The server's end of a PRPC connection.
pub struct PrpcServer {
    config: Arc<ServerConfig>,
    frames: Framer,
    out: SendBuf,
    /// Names and number of the method called last: most connections call few.
    last_route: Option<LastRoute>,
    /// Calls given out and not yet answered; streams beside calls that go on.
    in_flight: usize,
    /// Calls that came with a stream; at most 65,536.
    streams: Slab<ServerStream>,
    /// Streams so far: with the slot's number it makes their ids.
    opened: u64,
    /// When the bytes now being parsed were read.
    now: Instant,
    /// New calls are refused.
    draining: bool,
    /// The connection cannot go on.
    bad: Option<Bad>,
    /// The peer has sent its last byte.
    ended: bool,
    /// The first message has vouched for the peer.
    known: bool,
}

struct LastRoute {
    service: Box<[u8]>,
    method: Box<[u8]>,
    route: Route,
}

impl PrpcServer {
    /// A session that has read nothing; allocates nothing until it does.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self {
            frames: Framer::new(&config.limits),
            config,
            out: SendBuf::new(),
            last_route: None,
            in_flight: 0,
            streams: Slab::new(),
            opened: 0,
            now: Instant::ZERO,
            draining: false,
            bad: None,
            ended: false,
            known: false,
        }
    }

    /// Bodies of 4 KiB or more of which bytes were moved.
    #[cfg(test)]
    pub fn copied_bodies(&self) -> u64 {
        self.frames.copied()
    }

    /// A frame as a call; `None` if it was answered here or ends the connection.
    fn call(&mut self, frame: Frame) -> Option<ServerEvent> {
        let Ok(meta) = Meta::read(&frame.bytes[..frame.meta]) else {
            self.fail(BadReason::MetaUnparsable);
            return None;
        };
        let Some(request) = &meta.request else {
            self.fail(BadReason::WrongDirection);
            return None;
        };
        let (Some(service), Some(method)) = (request.service, request.method) else {
            self.fail(BadReason::MetaUnparsable); // required fields
            return None;
        };
        let checksum = meta.checksum();
        let guard = checksum.map_or(Checksum::None, |(kind, _)| kind);
        let id = CallId::new(meta.correlation_id as u64, tag(guard, meta.content_type));
        let rest = frame.bytes.len() - frame.meta;
        let attachment = usize::try_from(meta.attachment_size).ok();
        let attachment = attachment.filter(|size| *size <= rest);
        let opened = self.accept(&meta, (service, method), attachment, rest);
        let (route, checksum, sum, stream) = match opened {
            Ok(opened) => opened,
            Err(status) => {
                self.write_failure(id, &status, true);
                return None;
            }
        };
        let data_end = frame.bytes.len() - attachment.unwrap_or(0);
        let timeout = request.timeout_ms.filter(|ms| *ms > 0);
        let compression = Compression::from_number(meta.compress_type);
        let format = match meta.content_type {
            CONTENT_PROTOBUF => BodyFormat::Protobuf,
            CONTENT_JSON => BodyFormat::PlainJson,
            CONTENT_PROTO_JSON => BodyFormat::Json,
            _ => BodyFormat::Text,
        };
        let (log_id, trace, metadata) = (request.log_id, request.trace(), meta.metadata());
        let attachment = part(&frame.bytes, data_end, frame.bytes.len());
        // The frame's own bytes become the data: no count is touched for it.
        let mut data = frame.bytes;
        data.truncate(data_end);
        data.advance(frame.meta);
        if route.kind.takes_stream() {
            data.clear();
        }
        self.in_flight += 1;
        Some(ServerEvent::Call(IncomingCall {
            id: stream.unwrap_or(id),
            route,
            format,
            body: RawBody {
                data,
                compression,
                checksum,
                sum,
            },
            offers_stream: stream.is_some() && route.kind == Kind::Unary,
            bound: None,
            attachment,
            metadata,
            log_id,
            trace,
            timeout: timeout.map(|ms| Duration::from_millis(ms.unsigned_abs().into())),
            arrived: self.now,
        }))
    }

    /// Checks a call in brpc's order (F-3) and enters its stream: the method, what guards the body, the sum,
    /// the stream's id if there is one.
    #[inline]
    fn accept(
        &mut self,
        meta: &Meta<'_>,
        (service, method): (&[u8], &[u8]),
        attachment: Option<usize>,
        rest: usize,
    ) -> Result<(Route, Checksum, u32, Option<CallId>), Status> {
        self.vouch(meta)?;
        self.admit(meta, attachment, rest)?;
        let route = self.find(service, method)?;
        let Some((checksum, sum)) = meta.checksum() else {
            let text = "Fail to parse request: the meta's checksum is of no known kind or length";
            return Err(Status::from_errno(EREQUEST, text));
        };
        let stream = self.offered(meta, route, checksum)?;
        Ok((route, checksum, sum, stream))
    }

    /// Whether the peer may call: its first message says why. One that may not is told, and left.
    fn vouch(&mut self, meta: &Meta<'_>) -> Result<(), Status> {
        if !self.known {
            let admitted = self.config.admits(Some(meta.authentication));
            admitted.inspect_err(|_| self.fail(BadReason::Unauthenticated))?;
            self.known = true;
        }
        Ok(())
    }

    /// The checks before the lookup.
    fn admit(&self, meta: &Meta<'_>, attachment: Option<usize>, rest: usize) -> Result<(), Status> {
        if self.draining {
            let text = "Server is stopping: it takes no new calls";
            return Err(Status::from_errno(ELOGOFF, text));
        }
        if self.in_flight >= self.config.limits.max_in_flight {
            let text = format!(
                "Reached the limit of {} calls under way on one connection",
                self.config.limits.max_in_flight
            );
            return Err(Status::from_errno(ELIMIT, text));
        }
        if attachment.is_none() {
            let text = format!(
                "attachment_size={} is larger than the {rest} bytes of the message",
                meta.attachment_size
            );
            return Err(Status::from_errno(EREQUEST, text));
        }
        if !(CONTENT_PROTOBUF..=CONTENT_PROTO_TEXT).contains(&meta.content_type) {
            let text = format!(
                "Fail to parse request: content_type {} is not spoken here, send 0 (protobuf), 1 (JSON), 2 (protobuf's JSON) or 3 (protobuf's text format)",
                meta.content_type
            );
            return Err(Status::from_errno(EREQUEST, text));
        }
        Ok(())
    }

    fn find(&mut self, service: &[u8], method: &[u8]) -> Result<Route, Status> {
        if let Some(last) = &self.last_route
            && *last.method == *method
            && *last.service == *service
        {
            return Ok(last.route);
        }
        let (Ok(service), Ok(method)) = (std::str::from_utf8(service), std::str::from_utf8(method))
        else {
            let service = String::from_utf8_lossy(service);
            return Err(no_such_method(&service, &String::from_utf8_lossy(method)));
        };
        let route = self.config.routes.find(service, method)?;
        self.last_route = Some(LastRoute {
            service: service.as_bytes().into(),
            method: method.as_bytes().into(),
            route,
        });
        Ok(route)
    }

    fn fail(&mut self, reason: BadReason) {
        if self.bad.is_none() {
            self.bad = Some(Bad::counted(reason));
        }
    }

    /// `stream`: the caller's stream is taken, by these settings.
    fn write_success(
        &mut self,
        id: CallId,
        mut success: Success<'_>,
        stream: Option<StreamSettings>,
    ) {
        if success.compression == Compression::Zstd {
            success.body = success.body.decompressed(Compression::Zstd);
            success.compression = Compression::None;
        }
        let fields = both(success.metadata, success.trailers);
        let mut meta = MetaOut {
            response: Some(ResponseOut {
                error_code: 0,
                error_text: "",
            }),
            compress_type: success.compression.number(),
            correlation_id: id.key() as i64,
            attachment_size: success.attachment.len(),
            stream,
            user_fields: Some(&fields),
            content_type: content_of(id),
            checksum: guard_of(id),
            ..MetaOut::default()
        };
        let size = success.body.len() + success.attachment.len();
        let limit = self.config.limits.max_body;
        if size > limit.min(i32::MAX as usize) {
            let text = format!(
                "the answer has {size} bytes, the limit for one message is {limit}: raise it or send less"
            );
            let status = Status::resource_exhausted(text);
            return self.write_failure(id, &status, true);
        }
        write_message(&mut self.out, &mut meta, success.body, success.attachment);
    }

    /// `refused`: the framework failed the call; the text then begins as brpc's do.
    fn write_failure(&mut self, id: CallId, status: &Status, refused: bool) {
        let text = self.failure_text(status, refused);
        let mut meta = MetaOut {
            response: Some(ResponseOut {
                error_code: status.errno(),
                error_text: truncate(&text, self.config.limits.max_meta / 2),
            }),
            correlation_id: id.key() as i64,
            user_fields: Some(status.metadata()),
            ..MetaOut::default()
        };
        write_message(
            &mut self.out,
            &mut meta,
            Body::Bytes(Bytes::new()),
            Bytes::new(),
        );
    }

    fn failure_text<'a>(&self, status: &'a Status, refused: bool) -> Cow<'a, str> {
        if !refused {
            return Cow::Borrowed(status.message());
        }
        let (identity, errno) = (&self.config.identity, status.errno());
        Cow::Owned(format!("[{identity}][E{errno}]{}", status.message()))
    }

    fn answer_plain(&mut self, id: CallId, reply: Reply<'_>) {
        match reply {
            Reply::Success(success) => self.write_success(id, success, None),
            Reply::Failed(status) => self.write_failure(id, status, false),
            Reply::Refused(status) => self.write_failure(id, status, true),
            Reply::Page(_) => {
                let status = Status::from_errno(EINTERNAL, "a page is no answer to a call");
                self.write_failure(id, &status, true);
            }
        }
    }
}

impl ServerSession for PrpcServer {
    fn recv_space(&mut self) -> &mut dyn BufMut {
        self.frames.recv_space()
    }

    fn received(&mut self, _n: usize, now: Instant) -> Result<(), Bad> {
        self.now = now;
        if let Err(reason) = self.frames.received() {
            self.fail(reason);
        }
        self.bad.map_or(Ok(()), Err)
    }

    fn next_event(&mut self) -> Option<ServerEvent> {
        while self.bad.is_none() {
            let Some(frame) = self.frames.next() else {
                if let Some(reason) = self.frames.bad() {
                    self.fail(reason);
                }
                return None;
            };
            let event = if frame.stream {
                self.stream_frame(frame)
            } else {
                self.call(frame)
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn carries(&self, _kind: Kind) -> bool {
        true
    }

    fn answer(&mut self, id: CallId, reply: Reply<'_>) {
        debug_assert!(self.in_flight > 0, "a call is answered once");
        if id.tag() == STREAM_TAG {
            let goes_on = self.answer_stream(id, reply);
            self.in_flight -= usize::from(!goes_on);
            return;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        self.answer_plain(id, reply);
    }

    fn begin(&mut self, id: CallId, metadata: &MetadataMap, _compression: Compression) {
        self.begin_stream(id, metadata);
    }

    fn send(&mut self, id: CallId, message: Body<'_>, compression: Compression) -> Room {
        self.send_on_stream(id, message, compression)
    }

    fn finish(&mut self, id: CallId, result: Result<(), &Status>, trailers: &MetadataMap) {
        debug_assert!(self.in_flight > 0, "a stream ends once");
        self.in_flight = self.in_flight.saturating_sub(1);
        self.finish_stream(id, result, trailers);
    }

    fn consumed(&mut self, id: CallId, bytes: usize) {
        self.consumed_from_stream(id, bytes);
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        self.out.pieces()
    }

    fn deadline(&self) -> Option<Instant> {
        (self.frames.in_frame() && self.bad.is_none()).then(|| self.now + FRAME_PAUSE)
    }

    fn timed_out(&mut self, now: Instant) -> Result<(), Bad> {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.fail(BadReason::Slow);
        }
        self.bad.map_or(Ok(()), Err)
    }

    fn end_of_input(&mut self) -> EndOfInput {
        if self.frames.in_frame() && self.bad.is_none() {
            self.fail(BadReason::Truncated);
        }
        self.ended = true;
        EndOfInput::Abandon
    }

    fn drain(&mut self) {
        self.draining = true;
    }

    fn is_idle(&self) -> bool {
        self.in_flight == 0 && !self.frames.holds_bytes() && self.out.is_empty()
    }

    fn is_finished(&self) -> bool {
        self.bad.is_some() || self.ended
    }

    fn release(&mut self) {
        self.frames.release();
        self.out.release();
        if self.streams.is_empty() {
            self.streams = Slab::new();
        }
    }
}

/// Longest pause inside a frame.
const FRAME_PAUSE: Duration = Duration::from_secs(30);

/// Bytes `start..end` of a frame; without any, nothing is shared.
pub fn part(bytes: &Bytes, start: usize, end: usize) -> Bytes {
    if start == end {
        return Bytes::new();
    }
    bytes.slice(start..end)
}

/// brpc's `ContentType`.
const CONTENT_PROTOBUF: i32 = 0;
/// JSON as json2pb writes it.
const CONTENT_JSON: i32 = 1;
/// JSON in the canonical mapping of Protocol Buffers.
const CONTENT_PROTO_JSON: i32 = 2;
/// The text format of Protocol Buffers.
const CONTENT_PROTO_TEXT: i32 = 3;

/// How a request's body was guarded and written, for its id's tag: its answer's is the same. Always even.
const fn tag(guard: Checksum, content_type: i32) -> u32 {
    (guard as u32 | (content_type as u32 & 3) << 2) << 1
}

fn guard_of(id: CallId) -> Checksum {
    [Checksum::None, Checksum::Data, Checksum::DataAndAttachment][(id.tag() >> 1 & 3) as usize % 3]
}

const fn content_of(id: CallId) -> i32 {
    (id.tag() >> 3 & 3) as i32
}

/// What precedes and what follows a message, where the two are not told apart.
fn both<'a>(metadata: &'a MetadataMap, trailers: &MetadataMap) -> Cow<'a, MetadataMap> {
    if trailers.is_empty() {
        return Cow::Borrowed(metadata);
    }
    let mut all = metadata.clone();
    for (key, value) in trailers.iter() {
        all.append_bytes(key, value.clone());
    }
    Cow::Owned(all)
}

/// At most `max` bytes of `text`, cut between characters.
fn truncate(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Appends one message: header, meta, body, attachment. The checksum's value is filled in here.
pub fn write_message(out: &mut SendBuf, meta: &mut MetaOut<'_>, body: Body<'_>, attachment: Bytes) {
    // The sum's length does not depend on its value, so it can be filled in once the body is encoded.
    let lengths = meta.measure();
    let meta_len = lengths.meta;
    let body_len = body.len();
    let total = meta_len + body_len + attachment.len();
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(MAGIC);
    header[4..8].copy_from_slice(&(total as u32).to_be_bytes());
    header[8..].copy_from_slice(&(meta_len as u32).to_be_bytes());
    let inline = match &body {
        Body::Bytes(bytes) if bytes.len() >= SMALL => 0,
        _ => body_len,
    };
    let space = out.space(HEADER + meta_len + inline);
    let (head, data) = space.split_at_mut(HEADER + meta_len);
    head[..HEADER].copy_from_slice(&header);
    match &body {
        Body::Message(message) => message.encode(data),
        Body::Bytes(bytes) if inline > 0 => data.copy_from_slice(bytes),
        Body::Bytes(_) => {}
    }
    if meta.checksum != Checksum::None {
        let large = match &body {
            Body::Bytes(bytes) if inline == 0 => &bytes[..],
            _ => &[],
        };
        meta.sum = masked_crc(meta.checksum, &[data, large], &attachment);
    }
    let written = meta.write(&lengths, &mut head[HEADER..]);
    debug_assert_eq!(written, meta_len, "a meta is as long as it says");
    if let Body::Bytes(bytes) = body
        && bytes.len() >= SMALL
    {
        out.push(bytes);
    }
    out.push(attachment);
}
