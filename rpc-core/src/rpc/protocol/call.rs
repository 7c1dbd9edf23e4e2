//! What travels through sessions: calls, answers, pages.

#![forbid(unsafe_code)]

use std::time::Duration;

use bytes::{BufMut, Bytes};

use crate::base::time::Instant;
use crate::rpc::compression::{self, Compression};
use crate::rpc::metadata::MetadataMap;
use crate::rpc::status::Status;
use crate::rpc::status_map::{ENOMETHOD, EREQUEST};

/// Names a call within its session. Only the session that made it can read it.
///
/// PRPC servers put the peer's correlation id and how to answer into it, so they need no table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CallId {
    key: u64,
    tag: u32,
}

impl CallId {
    /// An id with the session's own `key` and `tag`.
    pub const fn new(key: u64, tag: u32) -> Self {
        Self { key, tag }
    }

    /// The session's key.
    pub const fn key(self) -> u64 {
        self.key
    }

    /// The session's tag.
    pub const fn tag(self) -> u32 {
        self.tag
    }
}

/// How many messages each side of a call sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Kind {
    /// One request, one answer.
    #[default]
    Unary,
    /// A stream of requests, one answer.
    ClientStream,
    /// One request, a stream of answers.
    ServerStream,
    /// Streams both ways, each at its own pace.
    Bidi,
}

impl Kind {
    /// The kind of a method whose client, or server, sends a stream.
    pub const fn new(client_streaming: bool, server_streaming: bool) -> Self {
        match (client_streaming, server_streaming) {
            (false, false) => Self::Unary,
            (true, false) => Self::ClientStream,
            (false, true) => Self::ServerStream,
            (true, true) => Self::Bidi,
        }
    }

    /// True if the server takes a stream of requests.
    pub const fn takes_stream(self) -> bool {
        matches!(self, Self::ClientStream | Self::Bidi)
    }

    /// True if the server gives a stream of answers.
    pub const fn gives_stream(self) -> bool {
        matches!(self, Self::ServerStream | Self::Bidi)
    }
}

/// A method as a server's table has it; [`super::Routes::find`] gives it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Route {
    /// Its number in the table; the driver reads it.
    pub method: u32,
    /// Whether sessions collect its messages or pass them on.
    pub kind: Kind,
}

/// What a request of HTTP leads to by a rule of the schema; [`super::Routes::find_http`] gives it.
#[derive(Debug)]
pub enum HttpRoute {
    /// A method, by the rule with this number, and the values that the path gives.
    Rule(Route, u32, Vec<String>),
    /// Other methods of HTTP are answered under this path: a value for `Allow`.
    OtherMethod(String),
    /// No rule has this path.
    Nothing,
}

/// Where the parts of a request lie that is not all in the body: it came by a rule of the schema.
#[derive(Debug, PartialEq)]
pub struct Bound {
    /// The rule, from [`HttpRoute::Rule`].
    pub rule: u32,
    /// The values that the path gives.
    pub values: Vec<String>,
    /// The query as written.
    pub query: String,
}

/// How a body is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BodyFormat {
    /// Protocol Buffers.
    Protobuf,
    /// JSON after the canonical mapping of Protocol Buffers.
    Json,
    /// JSON as brpc's json2pb writes it: fields under the schema's names, 64-bit numbers as numbers.
    PlainJson,
    /// Protocol Buffers' text format.
    Text,
}

/// What guards a PRPC body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Checksum {
    /// Nothing.
    #[default]
    None,
    /// Masked CRC-32C over the data as on the wire (compressed).
    Data,
    /// The same, over the data and then the attachment.
    DataAndAttachment,
}

/// A body as it came: not yet checked, not yet decompressed. Opening it may take long for a large one,
/// so sessions leave it to whoever runs the call.
#[derive(Clone, Debug)]
pub struct RawBody {
    /// The bytes on the wire.
    pub data: Bytes,
    /// How they are compressed.
    pub compression: Compression,
    /// What [`RawBody::sum`] covers.
    pub checksum: Checksum,
    /// The masked CRC-32C the sender computed; meaningless without a checksum.
    pub sum: u32,
}

impl RawBody {
    /// A body without compression and checksum.
    pub const fn plain(data: Bytes) -> Self {
        Self {
            data,
            compression: Compression::None,
            checksum: Checksum::None,
            sum: 0,
        }
    }

    /// Checks the checksum, then decompresses to at most `max` bytes. A plain body comes back as it is.
    ///
    /// # Errors
    /// Damage, a compression not spoken here, or more than `max` bytes: brpc's EREQUEST. Callers on the
    /// client's side turn it into ERESPONSE.
    #[inline]
    pub fn open(self, attachment: &Bytes, max: usize) -> Result<Bytes, Status> {
        if self.checksum == Checksum::None && self.compression == Compression::None {
            return Ok(self.data);
        }
        self.open_guarded(attachment, max)
    }

    fn open_guarded(self, attachment: &Bytes, max: usize) -> Result<Bytes, Status> {
        let found = masked_crc(self.checksum, &[&self.data], attachment);
        if self.checksum != Checksum::None && found != self.sum {
            return Err(Status::from_errno(
                EREQUEST,
                format!(
                    "the body's checksum is {found:#010x}, its sender computed {:#010x}: damaged on the way",
                    self.sum
                ),
            ));
        }
        compression::decompress(self.compression, &self.data, max)
            .map_err(|error| Status::from_errno(EREQUEST, error.to_string()))
    }
}

/// The masked CRC-32C (LevelDB's mask) over `data` and, if `kind` says so, the attachment.
pub(crate) fn masked_crc(kind: Checksum, data: &[&[u8]], attachment: &[u8]) -> u32 {
    if kind == Checksum::None {
        return 0;
    }
    let mut crc = 0;
    for part in data {
        crc = crc32c::crc32c_append(crc, part);
    }
    if kind == Checksum::DataAndAttachment {
        crc = crc32c::crc32c_append(crc, attachment);
    }
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// What ties a call to others in traces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// brpc's `trace_id`; 0 = none.
    pub trace_id: i64,
    /// brpc's `span_id`; 0 = none.
    pub span_id: i64,
    /// brpc's `parent_span_id`; 0 = none.
    pub parent_span_id: i64,
    /// HTTP's `x-request-id`; empty = none.
    pub request_id: String,
}

/// A call that arrived.
#[derive(Debug)]
pub struct IncomingCall {
    /// What to answer under.
    pub id: CallId,
    /// The method, from [`super::Routes::find`].
    pub route: Route,
    /// How the body is written, and how the answer's body has to be.
    pub format: BodyFormat,
    /// The request message as it came; see [`RawBody::open`]. Empty where the requests are a stream:
    /// their messages follow as [`super::ServerEvent::Message`].
    pub body: RawBody,
    /// The caller of a [`Kind::Unary`] method holds out a stream that would outlive the answer (brpc's
    /// streaming_rpc); [`Success::accepts_stream`] takes it.
    pub offers_stream: bool,
    /// Where the rest of the request is; `None` = the body is all of it.
    pub bound: Option<Box<Bound>>,
    /// Raw bytes after the message; empty = none.
    pub attachment: Bytes,
    /// brpc's `user_fields`, or HTTP headers that are not HTTP's own.
    pub metadata: MetadataMap,
    /// The caller's number for its logs.
    pub log_id: Option<i64>,
    /// Trace ids, if the caller sent any.
    pub trace: Option<Box<Trace>>,
    /// Time the caller gives the call, counted from [`IncomingCall::arrived`]. Zero = expired already.
    pub timeout: Option<Duration>,
    /// When its bytes were read: waiting behind a busy worker counts from here.
    pub arrived: Instant,
}

impl IncomingCall {
    /// A call with nothing beside its body, in protobuf.
    pub const fn new(id: CallId, route: Route, body: RawBody, arrived: Instant) -> Self {
        Self {
            id,
            route,
            format: BodyFormat::Protobuf,
            body,
            offers_stream: false,
            bound: None,
            attachment: Bytes::new(),
            metadata: MetadataMap::new(),
            log_id: None,
            trace: None,
            timeout: None,
            arrived,
        }
    }

    /// When the call's time is over; [`Instant::NEVER`] if the caller set none.
    pub fn deadline(&self) -> Instant {
        self.timeout
            .map_or(Instant::NEVER, |timeout| self.arrived + timeout)
    }
}

/// A message that can write itself behind others into one buffer.
///
/// Object-safe, so that sessions need no type parameter per message.
pub trait Encode {
    /// Exact number of bytes [`Encode::encode`] writes.
    fn encoded_len(&self) -> usize;

    /// Writes the message into `out`, which is [`Encode::encoded_len`] long.
    fn encode(&self, out: &mut [u8]);
}

impl<M: prost::Message> Encode for M {
    fn encoded_len(&self) -> usize {
        prost::Message::encoded_len(self)
    }

    fn encode(&self, mut out: &mut [u8]) {
        self.encode_raw(&mut out);
    }
}

/// A body to send.
#[derive(Clone)]
pub enum Body<'a> {
    /// Bytes that are ready: sent without a copy if they are 4 KiB or more.
    Bytes(Bytes),
    /// A message that is encoded straight into the send buffer. Meant for small ones: it happens while
    /// the session is locked.
    Message(&'a dyn Encode),
}

impl Body<'_> {
    /// Bytes this body takes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Message(message) => message.encoded_len(),
        }
    }

    /// True for a body without any bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The body as it was before it was compressed, for a peer that does not take it so.
    pub(in crate::rpc) fn decompressed(self, compression: Compression) -> Self {
        match self {
            Self::Bytes(bytes) => {
                // It was compressed in this process: it comes out whole.
                let plain = compression::decompress(compression, &bytes, usize::MAX);
                Self::Bytes(plain.unwrap_or_default())
            }
            Self::Message(message) => Self::Message(message),
        }
    }
}

/// The answer of a call that succeeded.
pub struct Success<'a> {
    /// The response message, compressed already if [`Success::compression`] says so.
    pub body: Body<'a>,
    /// How the body is compressed.
    pub compression: Compression,
    /// Raw bytes after the message; empty = none.
    pub attachment: Bytes,
    /// Key-value pairs beside the message.
    pub metadata: &'a MetadataMap,
    /// Key-value pairs after the message; beside it too, where a protocol does not tell that apart.
    pub trailers: &'a MetadataMap,
    /// The stream that the caller held out ([`IncomingCall::offers_stream`]) is taken: the call goes on
    /// until [`super::ServerSession::finish`].
    pub accepts_stream: bool,
}

impl<'a> Success<'a> {
    /// An answer with nothing beside the message.
    pub const fn new(body: Body<'a>) -> Self {
        static EMPTY: MetadataMap = MetadataMap::new();
        Self {
            body,
            compression: Compression::None,
            attachment: Bytes::new(),
            metadata: &EMPTY,
            trailers: &EMPTY,
            accepts_stream: false,
        }
    }
}

/// How a call is answered.
pub enum Reply<'a> {
    /// The handler's answer.
    Success(Success<'a>),
    /// The handler's failure: its text goes out as it is.
    Failed(&'a Status),
    /// A failure of the framework (limits, bad body, expired): PRPC puts `[ip:port][E1003]` before the
    /// text, as brpc does.
    Refused(&'a Status),
    /// The answer to a [`super::ServerEvent::Page`].
    Page(Page),
}

/// A plain HTTP request.
#[derive(Debug)]
pub struct PageRequest {
    /// What to answer under.
    pub id: CallId,
    /// The method as written: `GET`, `HEAD`, `POST`, …
    pub method: String,
    /// The path with percent-escapes as written, without the query: `/status`.
    pub path: String,
    /// What follows `?`; empty = none.
    pub query: String,
    /// The headers, in order.
    pub headers: MetadataMap,
    /// The body; empty = none.
    pub body: Bytes,
    /// When it was read.
    pub arrived: Instant,
}

/// A plain HTTP answer.
#[derive(Clone, Debug)]
pub struct Page {
    /// HTTP status, 200..=599.
    pub status: u16,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// Other headers. Length and connection headers are the session's.
    pub headers: MetadataMap,
    /// The body; not sent in answer to HEAD.
    pub body: Bytes,
}

impl Page {
    /// A plain-text page.
    pub fn text(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            headers: MetadataMap::new(),
            body: body.into(),
        }
    }
}

/// A call to send.
pub struct OutgoingCall<'a> {
    /// Full name of the service: `example.EchoService`.
    pub service: &'a str,
    /// Name of the method: `Echo`.
    pub method: &'a str,
    /// How many messages each side sends.
    pub kind: Kind,
    /// Holds out a stream beside a call of [`Kind::Unary`]; see [`IncomingCall::offers_stream`].
    pub offers_stream: bool,
    /// The request message (unused where the requests are a stream), compressed already if [`OutgoingCall::compression`] says so.
    pub body: Body<'a>,
    /// How the body is compressed.
    pub compression: Compression,
    /// What guards the body. The answer is guarded the same way by peers that mirror it.
    pub checksum: Checksum,
    /// Raw bytes after the message; empty = none.
    pub attachment: Bytes,
    /// Key-value pairs beside the message.
    pub metadata: &'a MetadataMap,
    /// The caller's number for its logs.
    pub log_id: Option<i64>,
    /// Trace ids.
    pub trace: Option<&'a Trace>,
    /// Time left for the call; sent to the peer, enforced by the driver.
    pub timeout: Option<Duration>,
    /// Given back with the answer.
    pub token: u64,
}

impl<'a> OutgoingCall<'a> {
    /// A call with nothing beside the message.
    pub const fn new(service: &'a str, method: &'a str, body: Body<'a>) -> Self {
        static EMPTY: MetadataMap = MetadataMap::new();
        Self {
            service,
            method,
            kind: Kind::Unary,
            offers_stream: false,
            body,
            compression: Compression::None,
            checksum: Checksum::None,
            attachment: Bytes::new(),
            metadata: &EMPTY,
            log_id: None,
            trace: None,
            timeout: None,
            token: 0,
        }
    }
}

/// The answer of a call that succeeded, as it came.
#[derive(Debug)]
pub struct IncomingReply {
    /// The response message; see [`RawBody::open`].
    pub body: RawBody,
    /// Raw bytes after the message; empty = none.
    pub attachment: Bytes,
    /// brpc's `user_fields`; what came before the message in protocols that tell that apart.
    pub metadata: MetadataMap,
    /// What came after the message; always empty in protocols that do not tell it apart.
    pub trailers: MetadataMap,
    /// The stream that the call held out was taken: its events follow, up to
    /// [`super::ClientEvent::End`].
    pub stream_accepted: bool,
    /// When its bytes were read.
    pub arrived: Instant,
}

/// What brpc 1.17 answers to a name that leads nowhere, unknown service or unknown method alike.
pub fn no_such_method(service: &str, method: &str) -> Status {
    Status::from_errno(ENOMETHOD, format!("Fail to find method={service}/{method}"))
}

/// Appends what a driver has in hand to a session's space; for tests and drivers without a socket.
/// Returns how many bytes fitted.
pub fn fill(space: &mut dyn BufMut, data: &[u8]) -> usize {
    let mut taken = 0;
    while taken < data.len() && space.has_remaining_mut() {
        let n = space.chunk_mut().len().min(data.len() - taken);
        space.put_slice(&data[taken..taken + n]);
        taken += n;
    }
    taken
}
