//! Streams at the client's end: how they open, what their frames mean.
//!
//! A stream's id is the correlation id of its call: one table has both.

use bytes::{Buf, Bytes};

use super::super::frame::Frame;
use super::super::meta::Meta;
use super::super::stream::{self, Flow, FrameMeta, FrameType, Payload};
use super::{PrpcClient, outcome, reply_of};
use crate::base::buf::SendBuf;
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::call::{Body, CallId, IncomingReply, Kind, RawBody};
use crate::rpc::protocol::{BadReason, ClientEvent, Room, counters};
use crate::rpc::status::Status;
use crate::rpc::status_map::{ECLOSE, ERESPONSE};

/// The stream that a call holds out.
pub(super) struct ClientStream {
    pub flow: Flow,
    kind: Kind,
    /// What precedes the messages has come; where there is one answer it is kept here.
    head: Option<MetadataMap>,
    /// The one answer of a method without a stream of them, once it has come.
    reply: Option<RawBody>,
    /// The driver has the answer of the call, the stream beside it goes on.
    replied: bool,
}

impl ClientStream {
    pub fn new(key: u64, kind: Kind) -> Box<Self> {
        Box::new(Self {
            flow: Flow::new(key as i64, kind != Kind::Unary),
            kind,
            head: None,
            reply: None,
            replied: false,
        })
    }

    /// Tells the server that nobody is there any more, as far as it has taken the stream.
    pub fn give_up(&self, out: &mut SendBuf) {
        if self.replied {
            self.flow.close(out);
        } else {
            self.flow.reset(out);
        }
    }

    /// How a call ends that failed.
    pub fn failed(&self, id: CallId, token: u64, status: Status) -> ClientEvent {
        if self.kind.gives_stream() || self.replied {
            let result = Err(status);
            ClientEvent::End { id, token, result }
        } else {
            let result = Err(status);
            ClientEvent::Reply { id, token, result }
        }
    }
}

impl PrpcClient {
    /// An answer to a call that holds a stream out: plain, or in the stream's first frame.
    pub(super) fn opened(
        &mut self,
        key: u64,
        frame: Frame,
        in_stream: bool,
    ) -> Option<ClientEvent> {
        let id = CallId::new(key, 0);
        let Ok(meta) = Meta::read(&frame.bytes[..frame.meta]) else {
            self.fail(BadReason::MetaUnparsable);
            return None;
        };
        if meta.correlation_id as u64 != key {
            self.fail(BadReason::WrongDirection);
            return None;
        }
        let outcome = outcome(&meta, frame.bytes.len() - frame.meta);
        let settings = meta.stream.filter(|_| in_stream);
        let compression = Compression::from_number(meta.compress_type);
        let metadata = meta.metadata();
        let pending = self.find(key)?;
        let token = pending.token;
        let mut stream = pending.stream.take()?;
        let framed = stream.flow.is_framed();
        let shape = match outcome {
            Ok(_) if framed && settings.is_none() => {
                self.take(key);
                let text = "the server answered without taking the stream: its method has none";
                return Some(stream.failed(id, token, Status::from_errno(ERESPONSE, text)));
            }
            Ok(shape) => shape,
            Err(status) => {
                self.take(key);
                return Some(stream.failed(id, token, status));
            }
        };
        if let Some(settings) = settings {
            stream.flow.open(settings, &mut self.out);
            stream.replied = !framed;
            let room = stream.flow.is_relieved();
            self.find(key)?.stream = Some(stream);
            if framed {
                return room.then_some(ClientEvent::Writable { id, token });
            }
        } else {
            self.take(key);
        }
        let mut reply = reply_of(frame, &shape, compression, metadata, self.now);
        reply.stream_accepted = settings.is_some();
        let result = Ok(reply);
        Some(ClientEvent::Reply { id, token, result })
    }

    /// A frame of a stream as an event.
    pub(super) fn stream_frame(&mut self, frame: Frame) -> Option<ClientEvent> {
        let Ok(meta) = FrameMeta::read(&frame.bytes[..frame.meta]) else {
            self.fail(BadReason::MetaUnparsable);
            return None;
        };
        let key = meta.stream as u64;
        let max = self.limits.max_body;
        let Some((stream, token)) = self.stream(key) else {
            if meta.kind == Some(FrameType::Data) {
                counters::STRAY_STREAM_MESSAGES.add(1);
                if let Some(source) = meta.source {
                    stream::reset(source, &mut self.out);
                }
            }
            return None;
        };
        let id = CallId::new(key, 0);
        match meta.kind? {
            FrameType::Data => {
                let mut data = frame.bytes;
                data.advance(frame.meta);
                if !stream.flow.is_open() {
                    let Some(answer) = Frame::whole(data) else {
                        self.fail(BadReason::MetaUnparsable);
                        return None;
                    };
                    return self.opened(key, answer, true);
                }
                match stream.flow.data(data, meta.more, max) {
                    Ok(Some(message)) => self.stream_message(id, token, message),
                    Ok(None) => None,
                    Err(stream::Overflow) => {
                        let text =
                            "the server sent more than the stream's credit or a message's limit";
                        self.break_off(id, Status::resource_exhausted(text))
                    }
                }
            }
            FrameType::Feedback => {
                let room = stream.flow.acknowledged(meta.consumed);
                room.then_some(ClientEvent::Writable { id, token })
            }
            FrameType::Close if stream.replied => {
                self.take(key);
                let result = Ok(MetadataMap::new());
                Some(ClientEvent::End { id, token, result })
            }
            FrameType::Close => {
                let text = "the server closed the stream without an answer";
                self.end(id, Status::from_errno(ECLOSE, text))
            }
            FrameType::Rst => self.end(id, Status::cancelled("the server broke the stream off")),
        }
    }

    fn stream_message(&mut self, id: CallId, token: u64, message: Bytes) -> Option<ClientEvent> {
        let now = self.now;
        let (stream, _) = self.stream(id.key())?;
        if !stream.flow.is_framed() {
            let message = RawBody::plain(message);
            return Some(ClientEvent::Message { id, token, message });
        }
        let size = message.len();
        let many = stream.kind.gives_stream();
        let event = match Payload::read(message) {
            Payload::Message(message) if many => ClientEvent::Message { id, token, message },
            Payload::Message(message) if stream.reply.is_none() => {
                stream.flow.swallow(size);
                stream.reply = Some(message);
                return None;
            }
            Payload::Head(metadata) if stream.head.is_none() => {
                stream.flow.swallow(size);
                if !many {
                    stream.head = Some(metadata);
                    return None;
                }
                stream.head = Some(MetadataMap::new());
                return Some(ClientEvent::Head {
                    id,
                    token,
                    metadata,
                });
            }
            Payload::End(result) if many => {
                let begins = stream.head.is_none() && result.is_ok();
                self.take(id.key());
                return self.after_head(begins, ClientEvent::End { id, token, result });
            }
            Payload::End(result) => {
                let (metadata, reply) = (stream.head.take(), stream.reply.take());
                self.take(id.key());
                let result = result.and_then(|trailers| {
                    let text = "the server ended the call without an answer";
                    let body = reply.ok_or_else(|| Status::from_errno(ERESPONSE, text))?;
                    Ok(IncomingReply {
                        body,
                        attachment: Bytes::new(),
                        metadata: metadata.unwrap_or_default(),
                        trailers,
                        stream_accepted: false,
                        arrived: now,
                    })
                });
                return Some(ClientEvent::Reply { id, token, result });
            }
            _ => {
                let text = "the server sent what has no place in the stream";
                return self.break_off(id, Status::from_errno(ERESPONSE, text));
            }
        };
        let begins = stream.head.is_none();
        stream.head.get_or_insert_default();
        self.after_head(begins, event)
    }

    /// The event, after a beginning of the stream that nobody sent.
    fn after_head(&mut self, begins: bool, event: ClientEvent) -> Option<ClientEvent> {
        let (ClientEvent::Message { id, token, .. } | ClientEvent::End { id, token, .. }) = event
        else {
            return Some(event);
        };
        if !begins {
            return Some(event);
        }
        self.events.push_back(event);
        let metadata = MetadataMap::new();
        Some(ClientEvent::Head {
            id,
            token,
            metadata,
        })
    }

    /// The server does not keep to the protocol, or to its credit.
    fn break_off(&mut self, id: CallId, status: Status) -> Option<ClientEvent> {
        let pending = self.take(id.key())?;
        let stream = pending.stream?;
        stream.flow.reset(&mut self.out);
        Some(stream.failed(id, pending.token, status))
    }

    fn end(&mut self, id: CallId, status: Status) -> Option<ClientEvent> {
        let pending = self.take(id.key())?;
        let stream = pending.stream?;
        Some(stream.failed(id, pending.token, status))
    }

    pub(super) fn send_on_stream(
        &mut self,
        id: CallId,
        message: Body<'_>,
        compression: Compression,
    ) -> Room {
        let Self { out, pending, .. } = self;
        match super::find(pending, id.key()).and_then(|pending| pending.stream.as_mut()) {
            Some(stream) => stream.flow.message(message, compression, out),
            None => Room::Open, // it has ended
        }
    }

    /// No more requests; a stream beside a call has no such end.
    pub(super) fn end_requests(&mut self, id: CallId) {
        let Self { out, pending, .. } = self;
        let pending = super::find(pending, id.key());
        if let Some(stream) = pending.and_then(|pending| pending.stream.as_mut())
            && stream.flow.is_framed()
        {
            stream.flow.end(Bytes::new(), out);
        }
    }

    pub(super) fn consumed_from_stream(&mut self, id: CallId, bytes: usize) {
        let Self { out, pending, .. } = self;
        let pending = super::find(pending, id.key());
        if let Some(stream) = pending.and_then(|pending| pending.stream.as_mut()) {
            stream.flow.consumed(bytes, out);
        }
    }

    fn stream(&mut self, key: u64) -> Option<(&mut ClientStream, u64)> {
        let pending = self.find(key)?;
        let token = pending.token;
        Some((pending.stream.as_mut()?, token))
    }
}
