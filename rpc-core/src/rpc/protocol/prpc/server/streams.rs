//! Streams at the server's end: what their frames mean, how they are answered.
//!
//! A stream is in the table from the call that opens it to its end; its call's id is the stream's, so that
//! two calls with one correlation id do not meet.

use bytes::{Buf, Bytes};

use super::super::frame::Frame;
use super::super::meta::{Meta, MetaOut, ResponseOut};
use super::super::stream::{self, Flow, FrameMeta, FrameType, Payload};
use super::{PrpcServer, both, truncate};
use crate::base::buf::SendBuf;
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::call::{Body, CallId, Checksum, Kind, RawBody, Reply, Route};
use crate::rpc::protocol::{BadReason, Room, ServerEvent, counters};
use crate::rpc::status::Status;
use crate::rpc::status_map::{EINTERNAL, ELIMIT, EREQUEST};

/// The tag of a call's id that is a stream's; odd, unlike those of [`super::tag`].
pub(super) const STREAM_TAG: u32 = 1;

/// Bits of a stream's id that name its slot.
const SLOT_BITS: u32 = 16;

/// A call that came with a stream.
pub(super) struct ServerStream {
    flow: Flow,
    kind: Kind,
    /// The id of its answer as a plain one.
    plain: CallId,
    /// The peer has said everything.
    half_closed: bool,
}

impl PrpcServer {
    /// Enters the stream that a call opens: the call's id; `None` for a call without one.
    pub(super) fn offered(
        &mut self,
        meta: &Meta<'_>,
        route: Route,
        guard: Checksum,
    ) -> Result<Option<CallId>, Status> {
        let Some(settings) = meta.stream else {
            if route.kind == Kind::Unary {
                return Ok(None);
            }
            let text = "the method has streams: open one with the call (stream_settings)";
            return Err(Status::from_errno(EREQUEST, text));
        };
        let framed = route.kind != Kind::Unary;
        if framed && meta.content_type != 0 {
            let text = "the messages of streams are protobuf: send content_type 0";
            return Err(Status::from_errno(EREQUEST, text));
        }
        let entry = self.streams.vacant_entry();
        if entry.key() >> SLOT_BITS != 0 {
            let text = "Reached the limit of 65536 streams on one connection";
            return Err(Status::from_errno(ELIMIT, text));
        }
        let local = (self.opened << SLOT_BITS | entry.key() as u64) & i64::MAX as u64;
        self.opened += 1;
        let mut flow = Flow::new(local as i64, framed);
        flow.open(settings, &mut self.out);
        if framed {
            // Taken at once: a stream of requests would not begin otherwise.
            let mut answer = SendBuf::new();
            let mut taken = MetaOut {
                response: Some(ResponseOut {
                    error_code: 0,
                    error_text: "",
                }),
                correlation_id: meta.correlation_id,
                stream: Some(flow.settings()),
                ..MetaOut::default()
            };
            let nothing = Body::Bytes(Bytes::new());
            super::write_message(&mut answer, &mut taken, nothing, Bytes::new());
            flow.answer(&mut answer, &mut self.out);
        }
        entry.insert(ServerStream {
            flow,
            kind: route.kind,
            plain: CallId::new(
                meta.correlation_id as u64,
                super::tag(guard, meta.content_type),
            ),
            half_closed: false,
        });
        Ok(Some(CallId::new(local, STREAM_TAG)))
    }

    /// A frame of a stream as an event.
    pub(super) fn stream_frame(&mut self, frame: Frame) -> Option<ServerEvent> {
        let Ok(meta) = FrameMeta::read(&frame.bytes[..frame.meta]) else {
            self.fail(BadReason::MetaUnparsable);
            return None;
        };
        let id = CallId::new(meta.stream as u64, STREAM_TAG);
        let data = meta.kind == Some(FrameType::Data);
        let Some(stream) = self.stream(id) else {
            if data {
                counters::STRAY_STREAM_MESSAGES.add(1);
                if let Some(source) = meta.source {
                    stream::reset(source, &mut self.out);
                }
            }
            return None;
        };
        match meta.kind? {
            FrameType::Data => {
                let mut data = frame.bytes;
                data.advance(frame.meta);
                self.stream_data(id, data, meta.more)
            }
            FrameType::Feedback => {
                let room = stream.flow.acknowledged(meta.consumed);
                room.then_some(ServerEvent::Writable { id })
            }
            FrameType::Close if !stream.flow.is_framed() => {
                let before = std::mem::replace(&mut stream.half_closed, true);
                (!before).then_some(ServerEvent::HalfClosed { id })
            }
            FrameType::Close | FrameType::Rst => {
                self.take_stream(id);
                Some(ServerEvent::Cancelled { id })
            }
        }
    }

    fn stream_data(&mut self, id: CallId, data: Bytes, more: bool) -> Option<ServerEvent> {
        let max = self.config.limits.max_body;
        let stream = self.stream(id)?;
        let message = match stream.flow.data(data, more, max) {
            Ok(Some(message)) if !stream.half_closed => message,
            Ok(None) => return None,
            _ => return self.break_off(id),
        };
        if !stream.flow.is_framed() {
            let message = RawBody::plain(message);
            return Some(ServerEvent::Message { id, message });
        }
        match Payload::read(message) {
            Payload::Message(message) if stream.kind.takes_stream() => {
                Some(ServerEvent::Message { id, message })
            }
            Payload::End(_) if stream.kind.takes_stream() => {
                stream.half_closed = true;
                Some(ServerEvent::HalfClosed { id })
            }
            _ => self.break_off(id),
        }
    }

    /// The peer does not keep to the protocol, or to its credit.
    fn break_off(&mut self, id: CallId) -> Option<ServerEvent> {
        let stream = self.take_stream(id)?;
        stream.flow.reset(&mut self.out);
        Some(ServerEvent::Cancelled { id })
    }

    /// Answers a call that came with a stream; true if the stream goes on.
    pub(super) fn answer_stream(&mut self, id: CallId, reply: Reply<'_>) -> bool {
        let Some(stream) = self.stream(id) else {
            return false; // given up meanwhile
        };
        if stream.flow.is_framed() {
            self.answer_framed(id, reply);
            return false;
        }
        let (plain, settings) = (stream.plain, stream.flow.settings());
        match reply {
            Reply::Success(success) if success.accepts_stream => {
                let out = std::mem::take(&mut self.out);
                self.write_success(plain, success, Some(settings));
                let mut answer = std::mem::replace(&mut self.out, out);
                let index = self.slot(id);
                if let Some(stream) = index.and_then(|index| self.streams.get(index)) {
                    stream.flow.answer(&mut answer, &mut self.out);
                }
                true
            }
            reply => {
                self.take_stream(id);
                self.answer_plain(plain, reply);
                false
            }
        }
    }

    fn answer_framed(&mut self, id: CallId, reply: Reply<'_>) {
        let Some(mut stream) = self.take_stream(id) else {
            return;
        };
        let limit = self.config.limits.max_body;
        let end = match reply {
            Reply::Success(success) if success.body.len() > limit => {
                let text =
                    format!("the answer is above the limit of {limit} bytes for one message");
                self.failure(&Status::resource_exhausted(text), true, success.trailers)
            }
            Reply::Success(success) => {
                if !success.metadata.is_empty() {
                    stream.flow.head(success.metadata, &mut self.out);
                }
                // The last message: nobody waits for room.
                let _ = stream
                    .flow
                    .message(success.body, success.compression, &mut self.out);
                trailing(success.trailers)
            }
            Reply::Failed(status) => self.failure(status, false, status.metadata()),
            Reply::Refused(status) => self.failure(status, true, status.metadata()),
            Reply::Page(_) => {
                let status = Status::from_errno(EINTERNAL, "a page is no answer to a call");
                self.failure(&status, true, status.metadata())
            }
        };
        stream.flow.end(end, &mut self.out);
        stream.flow.close(&mut self.out);
    }

    /// Begins the answers to a call of a method with streams.
    pub(super) fn begin_stream(&mut self, id: CallId, metadata: &MetadataMap) {
        if let Some(index) = self.slot(id)
            && self.streams[index].flow.is_framed()
        {
            self.streams[index].flow.head(metadata, &mut self.out);
        }
    }

    pub(super) fn send_on_stream(
        &mut self,
        id: CallId,
        message: Body<'_>,
        compression: Compression,
    ) -> Room {
        match self.slot(id) {
            Some(index) => self.streams[index]
                .flow
                .message(message, compression, &mut self.out),
            None => Room::Open, // given up meanwhile
        }
    }

    pub(super) fn finish_stream(
        &mut self,
        id: CallId,
        result: Result<(), &Status>,
        trailers: &MetadataMap,
    ) {
        let Some(mut stream) = self.take_stream(id) else {
            return; // given up meanwhile
        };
        if stream.flow.is_framed() {
            let end = match result {
                Ok(()) => trailing(trailers),
                Err(status) => {
                    let fields = both(status.metadata(), trailers);
                    self.failure(status, false, &fields)
                }
            };
            stream.flow.end(end, &mut self.out);
        }
        stream.flow.close(&mut self.out);
    }

    pub(super) fn consumed_from_stream(&mut self, id: CallId, bytes: usize) {
        if let Some(index) = self.slot(id) {
            self.streams[index].flow.consumed(bytes, &mut self.out);
        }
    }

    /// A failure as the meta of a stream's end.
    fn failure(&self, status: &Status, refused: bool, fields: &MetadataMap) -> Bytes {
        let text = self.failure_text(status, refused);
        let meta = MetaOut {
            response: Some(ResponseOut {
                error_code: status.errno(),
                error_text: truncate(&text, self.config.limits.max_meta / 2),
            }),
            user_fields: Some(fields),
            ..MetaOut::default()
        };
        meta.to_bytes()
    }

    fn slot(&self, id: CallId) -> Option<usize> {
        let index = (id.key() & ((1 << SLOT_BITS) - 1)) as usize;
        let stream = self.streams.get(index)?;
        (stream.flow.local() == id.key() as i64).then_some(index)
    }

    fn stream(&mut self, id: CallId) -> Option<&mut ServerStream> {
        let index = self.slot(id)?;
        self.streams.get_mut(index)
    }

    fn take_stream(&mut self, id: CallId) -> Option<ServerStream> {
        let index = self.slot(id)?;
        Some(self.streams.remove(index))
    }
}

/// Trailers as the meta of a stream's end; nothing where there are none.
fn trailing(trailers: &MetadataMap) -> Bytes {
    if trailers.is_empty() {
        return Bytes::new();
    }
    let meta = MetaOut {
        user_fields: Some(trailers),
        ..MetaOut::default()
    };
    meta.to_bytes()
}
