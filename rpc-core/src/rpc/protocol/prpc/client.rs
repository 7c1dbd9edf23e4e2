//! The client's end of a PRPC connection.
//!
//! Invariants
//! - C-1  A correlation id is never used twice on a connection: a slot's number and how many calls there
//!   were before. A late answer therefore finds nothing, whoever has the slot now.

mod streams;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use slab::Slab;

use self::streams::ClientStream;
use super::frame::{Frame, Framer};
use super::meta::{Meta, MetaOut, RequestOut};
use super::server::{part, write_message};
use crate::base::buf::SendBuf;
use crate::base::time::Instant;
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::call::{
    Body, CallId, Checksum, IncomingReply, Kind, OutgoingCall, RawBody,
};
use crate::rpc::protocol::{Bad, BadReason, ClientEvent, ClientSession, Limits, Room, counters};
use crate::rpc::status::Status;
use crate::rpc::status_map::{ELIMIT, ERESPONSE};

/// Bits of a correlation id that name the slot.
const SLOT_BITS: u32 = 16;

/// The client's end of a PRPC connection.
pub struct PrpcClient {
    frames: Framer,
    out: SendBuf,
    pending: Slab<Pending>,
    /// Calls so far; 47 bits of it go into correlation ids.
    calls: u64,
    /// Events not yet told: calls that ended without an answer, what follows a stream's beginning.
    events: VecDeque<ClientEvent>,
    limits: Limits,
    /// When the bytes now being parsed were read.
    now: Instant,
    bad: Option<Bad>,
    /// What vouches for us, until the first message has carried it.
    credential: Bytes,
}

struct Pending {
    /// The correlation id, as in [`CallId::key`].
    key: u64,
    token: u64,
    /// The stream that the call holds out.
    stream: Option<Box<ClientStream>>,
}

impl PrpcClient {
    /// A session that has sent nothing; allocates nothing until it does.
    pub fn new(limits: Limits) -> Self {
        Self {
            frames: Framer::new(&limits),
            out: SendBuf::new(),
            pending: Slab::new(),
            calls: 0,
            events: VecDeque::new(),
            limits,
            now: Instant::ZERO,
            bad: None,
            credential: Bytes::new(),
        }
    }

    /// The same, with what vouches for us at the server; empty = nothing.
    pub fn with_credential(mut self, credential: Bytes) -> Self {
        self.credential = credential;
        self
    }

    /// Bodies of 4 KiB or more of which bytes were moved.
    #[cfg(test)]
    pub fn copied_bodies(&self) -> u64 {
        self.frames.copied()
    }

    /// A frame as the end of a call; `None` if it ends none.
    fn reply(&mut self, frame: Frame) -> Option<ClientEvent> {
        let Ok(meta) = Meta::read(&frame.bytes[..frame.meta]) else {
            self.fail(BadReason::MetaUnparsable);
            return None;
        };
        if meta.response.is_none() && meta.request.is_some() {
            self.fail(BadReason::WrongDirection);
            return None;
        }
        let key = meta.correlation_id as u64;
        match self.find(key) {
            Some(pending) if pending.stream.is_none() => {}
            Some(_) => return self.opened(key, frame, false),
            None => {
                counters::LATE_REPLIES.add(1);
                return None;
            }
        }
        let token = self.take(key)?.token;
        let id = CallId::new(key, 0);
        let shape = match outcome(&meta, frame.bytes.len() - frame.meta) {
            Ok(shape) => shape,
            Err(status) => {
                return Some(ClientEvent::Reply {
                    id,
                    token,
                    result: Err(status),
                });
            }
        };
        let compression = Compression::from_number(meta.compress_type);
        let metadata = meta.metadata();
        let result = Ok(reply_of(frame, &shape, compression, metadata, self.now));
        Some(ClientEvent::Reply { id, token, result })
    }

    /// The call with this correlation id.
    fn find(&mut self, key: u64) -> Option<&mut Pending> {
        find(&mut self.pending, key)
    }

    /// Ends the call with this correlation id.
    fn take(&mut self, key: u64) -> Option<Pending> {
        self.find(key)?;
        self.pending.try_remove(slot_of(key))
    }

    fn fail(&mut self, reason: BadReason) {
        if self.bad.is_none() {
            self.bad = Some(Bad::counted(reason));
        }
    }

    /// Why the call cannot be sent, if it cannot.
    fn refuse(&self, call: &OutgoingCall<'_>) -> Result<(), Status> {
        let max = self.limits.max_in_flight.min(1 << SLOT_BITS);
        if self.pending.len() >= max {
            let text = format!("{max} calls are under way on this connection: open another one");
            return Err(Status::from_errno(ELIMIT, text));
        }
        if call.compression == Compression::Zstd {
            let text = "baidu_std has no zstd: send gzip, zlib or none, or call with gRPC";
            return Err(Status::invalid_argument(text));
        }
        let size = call.body.len() + call.attachment.len();
        let limit = self.limits.max_body;
        if size > limit.min(i32::MAX as usize) {
            return Err(Status::resource_exhausted(format!(
                "the request has {size} bytes, the limit for one message is {limit}: raise it or send less"
            )));
        }
        let names = call.service.len() + call.method.len();
        let fields: usize = call
            .metadata
            .iter()
            .map(|(k, v)| k.len() + 2 * v.len() + 16)
            .sum();
        let fields = fields + self.credential.len();
        if names + fields > self.limits.max_meta / 2 {
            return Err(Status::invalid_argument(format!(
                "names and metadata of the call take {} bytes, the limit is {}",
                names + fields,
                self.limits.max_meta / 2
            )));
        }
        Ok(())
    }
}

impl ClientSession for PrpcClient {
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

    fn next_event(&mut self) -> Option<ClientEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
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
                self.reply(frame)
            };
            if event.is_some() {
                return event;
            }
        }
        None
    }

    fn call(&mut self, call: OutgoingCall<'_>) -> Result<CallId, Status> {
        self.refuse(&call)?;
        let slot = self.pending.vacant_entry();
        self.calls += 1;
        let key = (self.calls << SLOT_BITS | slot.key() as u64) & i64::MAX as u64;
        let streams = call.offers_stream || call.kind != Kind::Unary;
        let stream = streams.then(|| ClientStream::new(key, call.kind));
        let settings = stream.as_ref().map(|stream| stream.flow.settings());
        slot.insert(Pending {
            key,
            token: call.token,
            stream,
        });
        let credential = std::mem::take(&mut self.credential);
        let mut meta = MetaOut {
            authentication: &credential,
            request: Some(RequestOut {
                service: call.service,
                method: call.method,
                log_id: call.log_id,
                trace: call.trace,
                timeout_ms: call.timeout.map(whole_millis),
            }),
            compress_type: call.compression.number(),
            correlation_id: key as i64,
            attachment_size: call.attachment.len(),
            stream: settings,
            user_fields: Some(call.metadata),
            checksum: call.checksum,
            ..MetaOut::default()
        };
        write_message(&mut self.out, &mut meta, call.body, call.attachment);
        Ok(CallId::new(key, 0))
    }

    fn send(&mut self, id: CallId, message: Body<'_>, compression: Compression) -> Room {
        self.send_on_stream(id, message, compression)
    }

    fn half_close(&mut self, id: CallId) {
        self.end_requests(id);
    }

    fn consumed(&mut self, id: CallId, bytes: usize) {
        self.consumed_from_stream(id, bytes);
    }

    fn cancel(&mut self, id: CallId) -> bool {
        let Some(pending) = self.take(id.key()) else {
            return false;
        };
        if let Some(stream) = pending.stream {
            stream.give_up(&mut self.out);
        }
        true
    }

    fn abort(&mut self, status: &Status) {
        for pending in self.pending.drain() {
            let (id, token) = (CallId::new(pending.key, 0), pending.token);
            self.events.push_back(match pending.stream {
                Some(stream) => stream.failed(id, token, status.clone()),
                None => ClientEvent::Reply {
                    id,
                    token,
                    result: Err(status.clone()),
                },
            });
        }
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        self.out.pieces()
    }

    fn in_flight(&self) -> usize {
        self.pending.len()
    }

    fn is_idle(&self) -> bool {
        self.pending.is_empty() && !self.frames.holds_bytes() && self.out.is_empty()
    }

    fn is_finished(&self) -> bool {
        self.bad.is_some()
    }

    fn release(&mut self) {
        self.frames.release();
        self.out.release();
        if self.pending.is_empty() {
            self.pending = Slab::new();
        }
    }
}

fn slot_of(key: u64) -> usize {
    (key & ((1 << SLOT_BITS) - 1)) as usize
}

fn find(pending: &mut Slab<Pending>, key: u64) -> Option<&mut Pending> {
    pending
        .get_mut(slot_of(key))
        .filter(|pending| pending.key == key)
}

/// The answer that a frame is.
fn reply_of(
    frame: Frame,
    shape: &Shape,
    compression: Compression,
    metadata: MetadataMap,
    arrived: Instant,
) -> IncomingReply {
    let data_end = frame.bytes.len() - shape.attachment;
    let attachment = part(&frame.bytes, data_end, frame.bytes.len());
    // The frame's own bytes become the data: no count is touched for it.
    let mut data = frame.bytes;
    data.truncate(data_end);
    data.advance(frame.meta);
    IncomingReply {
        body: RawBody {
            data,
            compression,
            checksum: shape.checksum,
            sum: shape.sum,
        },
        attachment,
        metadata,
        trailers: MetadataMap::new(),
        stream_accepted: false,
        arrived,
    }
}

/// What an answer that succeeded says about its body.
struct Shape {
    /// Bytes of the attachment.
    attachment: usize,
    checksum: Checksum,
    sum: u32,
}

/// Whether an answer with `rest` bytes after its meta succeeded. A meta without a response part did, as
/// brpc reads it.
fn outcome(meta: &Meta<'_>, rest: usize) -> Result<Shape, Status> {
    if let Some(status) = meta.failure() {
        return Err(status);
    }
    let bad = |text: String| Err(Status::from_errno(ERESPONSE, text));
    let size = meta.attachment_size;
    let attachment = usize::try_from(size).unwrap_or(usize::MAX);
    if attachment > rest {
        return bad(format!(
            "attachment_size={size} is larger than the {rest} bytes of the answer"
        ));
    }
    if meta.content_type != 0 {
        return bad(format!(
            "the answer has content_type {}, asked for 0",
            meta.content_type
        ));
    }
    match meta.checksum() {
        Some((checksum, sum)) => Ok(Shape {
            attachment,
            checksum,
            sum,
        }),
        None => {
            bad("Fail to parse response: the meta's checksum is of no known kind or length".into())
        }
    }
}

/// The wire's whole milliseconds, rounded up: a call never gets less time than its caller gave.
fn whole_millis(timeout: Duration) -> i32 {
    let part = u64::from(timeout.subsec_nanos().div_ceil(1_000_000));
    let millis = timeout.as_secs().saturating_mul(1000).saturating_add(part);
    i32::try_from(millis).unwrap_or(i32::MAX).max(1)
}
