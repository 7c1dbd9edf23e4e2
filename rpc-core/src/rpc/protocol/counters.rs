//! What sessions count: why connections were closed, what was dropped, what was copied.

#![forbid(unsafe_code)]

use crate::base::metric::Counter;

/// Bodies of 4 KiB or more of which bytes were moved in user space between the kernel and the handler.
pub static COPIED_BODIES: Counter = Counter::new();

/// Answers that came after their call had been given up, or for a call that never was.
pub static LATE_REPLIES: Counter = Counter::new();

/// Messages of streams that are not known: given up already, or never opened.
pub static STRAY_STREAM_MESSAGES: Counter = Counter::new();

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal, $explain:literal;)*) => {
        /// Why a connection was closed on account of what the peer sent.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum BadReason {
            $($(#[doc = $doc])* $variant,)*
        }

        impl BadReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The value of the label `reason` in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The reason in words.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$variant => $explain,)* }
            }
        }

        static COUNTS: [Counter; BadReason::ALL.len()] =
            [const { Counter::new() }; BadReason::ALL.len()];
    };
}

reasons! {
    /// A connection of a server behind a proxy that does not begin with a PROXY header, or a malformed one.
    ProxyHeader = "proxy_header", "the connection does not begin with a PROXY header of version 2, or it is malformed";
    /// The first bytes belong to no protocol of this port.
    UnknownProtocol = "unknown_protocol", "the first bytes belong to no protocol spoken here";
    /// HTTP/2: a frame that may not come here, or a preface that is none.
    Http2Protocol = "http2_protocol", "the HTTP/2 frames break the protocol";
    /// HTTP/2: a frame of a length that its type does not have, or above what was allowed.
    Http2FrameSize = "http2_frame_size", "an HTTP/2 frame has a length it may not have";
    /// HTTP/2: more data than the window, or a window above 2³¹.
    Http2Flow = "http2_flow", "HTTP/2 flow control was not heeded";
    /// HTTP/2: a block of fields that cannot be decoded.
    Http2Compression = "http2_compression", "HTTP/2 fields cannot be decoded";
    /// HTTP/2: streams opened and reset, by the peer or for what it sent, faster than any use of it.
    Http2RapidReset = "http2_rapid_reset", "too many HTTP/2 streams were reset";
    /// HTTP/2: a block of fields in too many frames, or of too many bytes.
    Http2Continuation = "http2_continuation", "HTTP/2 fields come in too many frames";
    /// HTTP/2: PING frames faster than any use of them.
    Http2Ping = "http2_ping", "too many HTTP/2 PING frames";
    /// HTTP/2: SETTINGS frames faster than any use of them.
    Http2Settings = "http2_settings", "too many HTTP/2 SETTINGS frames";
    /// HTTP/2: DATA frames that carry and end nothing.
    Http2Empty = "http2_empty", "too many empty HTTP/2 DATA frames";
    /// HTTP/2: other frames without use.
    Http2Idle = "http2_idle", "too many HTTP/2 frames without use";
    /// HTTP/2: a peer with calls under way gave no sign of life when asked for one.
    Http2Silent = "http2_silent", "the HTTP/2 peer gave no sign of life";
    /// A TLS handshake that failed or took too long, or a damaged record.
    Tls = "tls", "TLS failed: the handshake, or a record";
    /// A later message of a PRPC connection has another magic.
    BadMagic = "bad_magic", "a message does not begin with PRPC";
    /// A message above `Limits::max_body`.
    BodyTooLarge = "body_too_large", "a message is above the size limit";
    /// A meta above `Limits::max_meta`.
    MetaTooLarge = "meta_too_large", "a message's meta is above the size limit";
    /// The header says that the meta is longer than the whole.
    MetaBeyondBody = "meta_beyond_body", "a message's meta is longer than the message";
    /// The meta is no RpcMeta.
    MetaUnparsable = "meta_unparsable", "a message's meta cannot be parsed";
    /// A request where an answer was due, or the reverse.
    WrongDirection = "wrong_direction", "a message is a request where an answer was due, or the reverse";
    /// The first message's credential was turned away.
    Unauthenticated = "unauthenticated", "the first message's credential was turned away";
    /// The peer did not send the rest of a message in time.
    Slow = "slow", "the rest of a message did not come in time";
    /// The connection ended in the middle of a message.
    Truncated = "truncated", "the connection ended in the middle of a message";
    /// The HTTP request line or a header cannot be parsed.
    HttpMalformed = "http_malformed", "the HTTP request cannot be parsed";
    /// The HTTP head is above `Limits::max_head`.
    HttpHeadTooLarge = "http_head_too_large", "the HTTP request's head is above the size limit";
    /// A chunked body is malformed.
    HttpBadChunk = "http_bad_chunk", "a chunk of an HTTP body is malformed";
    /// Both Content-Length and Transfer-Encoding, or several lengths: request smuggling.
    HttpAmbiguousLength = "http_ambiguous_length", "the HTTP request's length is ambiguous";
    /// An HTTP version other than 1.0 and 1.1.
    HttpVersion = "http_version", "the HTTP version is not spoken here";
    /// A transfer coding other than chunked.
    HttpTransferCoding = "http_transfer_coding", "the transfer coding is not spoken here";
    /// The peer did not send the rest of a request in time.
    HttpSlow = "http_slow", "the rest of an HTTP request did not come in time";
}

impl BadReason {
    /// Adds one to the reason's counter.
    pub fn count(self) {
        COUNTS[self as usize].add(1);
    }

    /// How often connections were closed for this reason.
    pub fn counted(self) -> u64 {
        COUNTS[self as usize].get()
    }
}
