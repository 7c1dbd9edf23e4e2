//! streaming_rpc, brpc's streams of messages beside a call, on the connection of the call.
//!
//! ```text
//! 0     'S' 'T' 'R' 'M'
//! 4     u32 BE   body: everything after these 12 bytes
//! 8     u32 BE   meta
//! 12    meta     StreamFrameMeta: the receiver's id of the stream, the sender's, what the frame is
//! …     payload
//! ```
//!
//! A call offers a stream by `stream_settings` in its meta. A server that takes it sends its whole answer as
//! the payload of a first DATA frame; one that does not answers plainly. Each further DATA frame is one
//! message (or a piece of one, where `has_continuation` says so). A sender stops when 2 MiB have not been
//! acknowledged by FEEDBACK, which carries all that was taken so far. CLOSE ends both directions, RST breaks
//! them off.
//!
//! # Methods with streams
//! brpc knows no such methods. Where the schema says that a method has streams, a call offers a stream, the
//! server takes it at once, with an empty answer, and each payload begins with one byte that says what
//! follows it:
//!
//! | byte | follows | from |
//! |---|---|---|
//! | 0x00 … 0x0f | a message; the byte is its brpc compress type | both |
//! | 0x40 | `RpcMeta`; its `user_fields` are the metadata before the messages | the server, at most once, first |
//! | 0x80 | nothing: no more requests | the client |
//! | 0x80 | `RpcMeta`: status in `response`, trailers in `user_fields` (nothing = success); then CLOSE | the server |
//!
//! The request of a method without a request stream is the body of the call itself; the answer of one
//! without an answer stream is the one message. A CLOSE or RST before that gives the call up.
//!
//! Knows: frames, credit, payloads.   Does not know: which calls there are; sessions do.
//!
//! Invariants
//! - T-1  A stream's id is never used twice on a connection (a slot's number and how many there were before),
//!   so that late frames find nothing.
//! - T-2  Messages not yet taken are charged for with their own size and [`OVERHEAD`], and bounded by
//!   [`UNREAD_MAX`]; those below 4 KiB own their bytes rather than hold a receive buffer.
//! - T-3  An RST answers DATA alone: one that answered FEEDBACK would break off what is on its way.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::meta::{Meta, MetaOut, Reader, StreamSettings, Unparsable, Writer, int_len, sized};
use super::{HEADER, STREAM_MAGIC};
use crate::base::buf::{SMALL, SendBuf};
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::Room;
use crate::rpc::protocol::call::{Body, RawBody};
use crate::rpc::status::Status;

/// Bytes that may be under way to a peer before it acknowledges; brpc's `max_buf_size`.
const WINDOW: u64 = 2 << 20;

/// What messages may take that nobody has taken yet; brpc's window of messages of three bytes fits.
const UNREAD_MAX: usize = 64 << 20;

/// What a message takes beside its bytes.
const OVERHEAD: usize = 64;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameType {
    Rst,
    Close,
    Data,
    Feedback,
}

impl FrameType {
    const fn number(self) -> u64 {
        match self {
            Self::Rst => 1,
            Self::Close => 2,
            Self::Data => 3,
            Self::Feedback => 4,
        }
    }
}

/// A frame's meta as read.
#[derive(Debug, Default, PartialEq)]
pub struct FrameMeta {
    /// The receiver's id.
    pub stream: i64,
    /// The sender's id, where it says so.
    pub source: Option<i64>,
    /// `None` = a kind that nobody defines.
    pub kind: Option<FrameType>,
    /// The message goes on in the next DATA frame.
    pub more: bool,
    /// Of FEEDBACK: all bytes taken so far.
    pub consumed: i64,
}

impl FrameMeta {
    pub fn read(bytes: &[u8]) -> Result<Self, Unparsable> {
        let mut meta = Self::default();
        let mut named = false;
        let mut rest = Reader(bytes);
        while let Some(&key) = rest.0.first() {
            match key {
                0x08 => {
                    meta.stream = rest.int()? as i64;
                    named = true;
                }
                0x10 => meta.source = Some(rest.int()? as i64),
                0x18 => {
                    meta.kind = match rest.int()? {
                        1 => Some(FrameType::Rst),
                        2 => Some(FrameType::Close),
                        3 => Some(FrameType::Data),
                        4 => Some(FrameType::Feedback),
                        _ => None,
                    }
                }
                0x20 => meta.more = rest.int()? != 0,
                0x2a => {
                    let mut feedback = Reader(rest.field()?);
                    while let Some(&key) = feedback.0.first() {
                        match key {
                            0x08 => meta.consumed = feedback.int()? as i64,
                            _ => feedback.skip()?,
                        }
                    }
                }
                _ => rest.skip()?,
            }
        }
        if named { Ok(meta) } else { Err(Unparsable) }
    }
}

/// What the payload of a DATA frame is, in a stream of a method with streams.
#[derive(Debug)]
pub enum Payload {
    Message(RawBody),
    /// What precedes the messages.
    Head(MetadataMap),
    /// The sender has said everything; a server with this result.
    End(Result<MetadataMap, Status>),
    /// None of these.
    Bad,
}

const HEAD: u8 = 0x40;
const END: u8 = 0x80;

impl Payload {
    pub fn read(mut bytes: Bytes) -> Self {
        let Some(&first) = bytes.first() else {
            return Self::Bad;
        };
        bytes::Buf::advance(&mut bytes, 1);
        match first {
            0..=0x0f => Self::Message(RawBody {
                compression: Compression::from_number(first.into()),
                ..RawBody::plain(bytes)
            }),
            HEAD => match Meta::read(&bytes) {
                Ok(meta) => Self::Head(meta.metadata()),
                Err(Unparsable) => Self::Bad,
            },
            END => match Meta::read(&bytes) {
                Ok(meta) => Self::End(match meta.failure() {
                    Some(status) => Err(status),
                    None => Ok(meta.metadata()),
                }),
                Err(Unparsable) => Self::Bad,
            },
            _ => Self::Bad,
        }
    }
}

/// More came than a stream may hold unread.
#[derive(Debug)]
pub struct Overflow;

/// One side's state of one stream: its ids, its credit both ways.
pub struct Flow {
    local: i64,
    /// The peer's id; `None` before it took the stream.
    remote: Option<i64>,
    /// Payloads begin with the byte that says what they are.
    framed: bool,
    /// Payload bytes sent, and those that the peer has acknowledged.
    sent: u64,
    acked: u64,
    /// The sender was told to stop.
    full: bool,
    /// Payload bytes taken here; told to a peer that wants to know.
    taken: u64,
    feeds: bool,
    /// What unread messages take (T-2).
    unread: usize,
    /// The message whose rest is to come.
    partial: BytesMut,
    /// Payloads that wait for the peer to take the stream; within the window.
    held: VecDeque<Bytes>,
}

impl Flow {
    pub fn new(local: i64, framed: bool) -> Self {
        Self {
            local,
            remote: None,
            framed,
            sent: 0,
            acked: 0,
            full: false,
            taken: 0,
            feeds: false,
            unread: 0,
            partial: BytesMut::new(),
            held: VecDeque::new(),
        }
    }

    /// The stream's id at this side.
    pub fn local(&self) -> i64 {
        self.local
    }

    pub fn is_framed(&self) -> bool {
        self.framed
    }

    pub fn is_open(&self) -> bool {
        self.remote.is_some()
    }

    /// What this side says when it opens or takes the stream.
    pub fn settings(&self) -> StreamSettings {
        StreamSettings {
            stream_id: self.local,
            need_feedback: true,
            writable: true,
        }
    }

    /// The peer has opened or taken the stream.
    pub fn open(&mut self, peer: StreamSettings, out: &mut SendBuf) {
        self.remote = Some(peer.stream_id);
        self.feeds = peer.need_feedback;
        for payload in std::mem::take(&mut self.held) {
            self.write(None, Body::Bytes(payload), out);
        }
    }

    /// Sends an answer to the call as the first payload; it takes no credit.
    pub fn answer(&self, answer: &mut SendBuf, out: &mut SendBuf) {
        self.write_head(FrameType::Data, answer.len(), out);
        for piece in answer.pieces().drain(..) {
            out.push(piece);
        }
    }

    /// Sends a message.
    pub fn message(
        &mut self,
        message: Body<'_>,
        compression: Compression,
        out: &mut SendBuf,
    ) -> Room {
        let (message, compression) = if self.framed && compression != Compression::Zstd {
            (message, compression)
        } else {
            (message.decompressed(compression), Compression::None)
        };
        let first = self.framed.then(|| compression.number() as u8);
        self.payload(first, message, out)
    }

    /// Sends what precedes the messages.
    pub fn head(&mut self, metadata: &MetadataMap, out: &mut SendBuf) {
        let meta = MetaOut {
            user_fields: Some(metadata),
            ..MetaOut::default()
        };
        let rest = if metadata.is_empty() {
            Bytes::new()
        } else {
            meta.to_bytes()
        };
        let _ = self.payload(Some(HEAD), Body::Bytes(rest), out);
    }

    /// Sends the end of this side's messages; `meta` = nothing for a client and for plain success.
    pub fn end(&mut self, meta: Bytes, out: &mut SendBuf) {
        let _ = self.payload(Some(END), Body::Bytes(meta), out);
    }

    pub fn close(&self, out: &mut SendBuf) {
        self.write_head(FrameType::Close, 0, out);
    }

    /// Breaks the stream off, as far as the peer knows it.
    pub fn reset(&self, out: &mut SendBuf) {
        if let Some(remote) = self.remote {
            reset(remote, out);
        }
    }

    /// A DATA frame came: a whole message, or `None` while more of it is to come.
    pub fn data(&mut self, data: Bytes, more: bool, max: usize) -> Result<Option<Bytes>, Overflow> {
        if self.unread > UNREAD_MAX || self.partial.len() + data.len() > max {
            return Err(Overflow);
        }
        self.unread += data.len();
        if more || !self.partial.is_empty() {
            self.partial.extend_from_slice(&data);
            if more {
                return Ok(None);
            }
            self.unread += OVERHEAD;
            return Ok(Some(std::mem::take(&mut self.partial).freeze()));
        }
        self.unread += OVERHEAD;
        Ok(Some(if data.len() < SMALL {
            Bytes::copy_from_slice(&data)
        } else {
            data
        }))
    }

    /// A payload that the session took for itself: nobody will say that it was consumed.
    pub fn swallow(&mut self, payload: usize) {
        self.taken += payload as u64;
        self.unread = self.unread.saturating_sub(payload + OVERHEAD);
    }

    /// A message was taken by whom it was for.
    pub fn consumed(&mut self, message: usize, out: &mut SendBuf) {
        self.swallow(message + usize::from(self.framed));
        if let Some(remote) = self.remote
            && self.feeds
        {
            write_feedback(remote, self.local, self.taken, out);
        }
    }

    /// FEEDBACK came; true if there is room again for a sender that was stopped.
    pub fn acknowledged(&mut self, consumed: i64) -> bool {
        let consumed = u64::try_from(consumed).unwrap_or(0).min(self.sent);
        self.acked = self.acked.max(consumed);
        let room = self.full && self.sent - self.acked < WINDOW;
        self.full &= !room;
        room
    }

    fn payload(&mut self, first: Option<u8>, body: Body<'_>, out: &mut SendBuf) -> Room {
        self.sent += (usize::from(first.is_some()) + body.len()) as u64;
        if self.remote.is_some() {
            self.write(first, body, out);
        } else {
            self.held.push_back(joined(first, body));
        }
        // A payload that is held takes memory beside its bytes.
        let held = (self.held.len() * OVERHEAD) as u64;
        self.full = self.sent - self.acked + held >= WINDOW;
        if self.full { Room::Full } else { Room::Open }
    }

    /// True if a sender that was stopped before the stream was taken may go on.
    pub fn is_relieved(&mut self) -> bool {
        let relieved = self.full && self.sent - self.acked < WINDOW;
        self.full &= !relieved;
        relieved
    }

    fn write(&self, first: Option<u8>, body: Body<'_>, out: &mut SendBuf) {
        let size = usize::from(first.is_some()) + body.len();
        self.write_head(FrameType::Data, size, out);
        if let Some(first) = first {
            out.put(&[first]);
        }
        match body {
            Body::Message(message) => message.encode(out.space(message.encoded_len())),
            Body::Bytes(bytes) => out.push(bytes),
        }
    }

    fn write_head(&self, kind: FrameType, payload: usize, out: &mut SendBuf) {
        let remote = self.remote.unwrap_or(0);
        let data = kind == FrameType::Data;
        let meta = int_len(remote as u64) + int_len(self.local as u64) + 2 + 2 * usize::from(data);
        let mut to = Writer::new(header(meta, payload, out));
        to.int(0x08, remote as u64);
        to.int(0x10, self.local as u64);
        to.int(0x18, kind.number());
        if data {
            to.int(0x20, 0);
        }
    }
}

fn joined(first: Option<u8>, body: Body<'_>) -> Bytes {
    let mut bytes = Vec::with_capacity(1 + body.len());
    bytes.extend(first);
    match body {
        Body::Bytes(body) if bytes.is_empty() => return body,
        Body::Bytes(body) => bytes.extend_from_slice(&body),
        Body::Message(message) => {
            let start = bytes.len();
            bytes.resize(start + message.encoded_len(), 0);
            message.encode(&mut bytes[start..]);
        }
    }
    bytes.into()
}

/// Tells a peer that a stream, by its own id, is not known here.
pub fn reset(remote: i64, out: &mut SendBuf) {
    let meta = int_len(remote as u64) + 2;
    let mut to = Writer::new(header(meta, 0, out));
    to.int(0x08, remote as u64);
    to.int(0x18, FrameType::Rst.number());
}

fn write_feedback(remote: i64, local: i64, consumed: u64, out: &mut SendBuf) {
    let feedback = int_len(consumed);
    let meta = int_len(remote as u64) + int_len(local as u64) + 2 + sized(feedback);
    let mut to = Writer::new(header(meta, 0, out));
    to.int(0x08, remote as u64);
    to.int(0x10, local as u64);
    to.int(0x18, FrameType::Feedback.number());
    to.open(0x2a, feedback);
    to.int(0x08, consumed);
}

/// Writes a frame's header; room for its meta.
fn header(meta: usize, payload: usize, out: &mut SendBuf) -> &mut [u8] {
    let (head, rest) = out.space(HEADER + meta).split_at_mut(HEADER);
    head[..4].copy_from_slice(STREAM_MAGIC);
    head[4..8].copy_from_slice(&((meta + payload) as u32).to_be_bytes());
    head[8..].copy_from_slice(&(meta as u32).to_be_bytes());
    rest
}

#[cfg(test)]
mod tests;
