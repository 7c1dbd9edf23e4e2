//! The head of a request: what it asks for, and how long its body is.
//!
//! Knows: RFC 9112's rules for lengths and connections.   Does not know: what the path means.

use std::time::Duration;

use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{BadReason, Limits, base64, timeout};

/// A request's head.
#[derive(Debug, PartialEq)]
pub struct Head {
    /// As written.
    pub method: String,
    /// Without the query; begins with `/`, or is `*`.
    pub path: String,
    /// What follows `?`.
    pub query: String,
    /// Every header, in order; values under `…-bin` are bytes.
    pub headers: MetadataMap,
    pub body: Length,
    pub keep_alive: bool,
    /// HTTP/1.0: staying open has to be said.
    pub http10: bool,
    pub expects_continue: bool,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Neither length nor chunks: there is no body.
    Absent,
    Exact(usize),
    Chunked,
}

/// Why a request is refused.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    pub text: String,
    /// The reason to count, if the connection is closed for it.
    pub reason: BadReason,
}

impl Refusal {
    pub fn new(status: u16, reason: BadReason, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            reason,
        }
    }
}

/// More headers than this are refused.
const HEADERS_MAX: usize = 100;

/// Longer request lines are refused.
const LINE_MAX: usize = 8 << 10;

impl Head {
    /// The head at the start of `bytes` and its length; `None` until it is complete.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Option<(Self, usize)>, Refusal> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= limits.max_head => {
                Self::of(&request).map(|head| Some((head, length)))
            }
            Ok(httparse::Status::Partial) if bytes.len() < limits.max_head => {
                if !bytes.contains(&b'\n') && bytes.len() > LINE_MAX {
                    return Err(line_too_long());
                }
                Ok(None)
            }
            Ok(_) if !bytes[..bytes.len().min(limits.max_head)].contains(&b'\n') => {
                Err(line_too_long())
            }
            Ok(_) => Err(too_large(format!("{} bytes", limits.max_head))),
            Err(httparse::Error::TooManyHeaders) => {
                Err(too_large(format!("{HEADERS_MAX} headers")))
            }
            Err(httparse::Error::Version) => Err(Refusal::new(
                505,
                BadReason::HttpVersion,
                "the HTTP version is not spoken here: use HTTP/1.1",
            )),
            Err(error) => Err(malformed(format!(
                "the request's head is malformed: {error}"
            ))),
        }
    }

    /// The head of a request that came over HTTP/2.
    pub fn of_http2(method: String, target: &str, headers: MetadataMap, body: Length) -> Self {
        let (path, query) = split_target(target);
        let expect = headers.get("expect");
        Self {
            method,
            path: path.into(),
            query: query.into(),
            expects_continue: expect.is_some_and(|it| it.eq_ignore_ascii_case("100-continue")),
            headers,
            body,
            keep_alive: true,
            http10: false,
        }
    }

    fn of(request: &httparse::Request<'_, '_>) -> Result<Self, Refusal> {
        let (method, target, version) = match (request.method, request.path, request.version) {
            (Some(method), Some(target), Some(version)) => (method, target, version),
            _ => return Err(malformed("the request line is incomplete".into())),
        };
        let (path, query) = split_target(target);
        let mut head = Self {
            method: method.into(),
            path: path.into(),
            query: query.into(),
            headers: MetadataMap::new(),
            body: Length::Absent,
            keep_alive: version == 1,
            http10: version == 0,
            expects_continue: false,
        };
        let mut hosts = 0;
        for header in request.headers.iter() {
            hosts += usize::from(header.name.eq_ignore_ascii_case("host"));
            head.take(header.name, header.value)?;
        }
        if hosts != 1 && version == 1 {
            return Err(malformed(format!(
                "the request has {hosts} Host headers, not one"
            )));
        }
        Ok(head)
    }

    /// Heeds a header and keeps it.
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), Refusal> {
        if name.eq_ignore_ascii_case("content-length") {
            self.take_length(value)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if self.http10 || self.body != Length::Absent {
                return Err(ambiguous());
            }
            if !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::new(
                    501,
                    BadReason::HttpTransferCoding,
                    "the only transfer coding spoken here is chunked",
                ));
            }
            self.body = Length::Chunked;
        } else if name.eq_ignore_ascii_case("connection") {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if token.eq_ignore_ascii_case(b"close") {
                    self.keep_alive = false;
                } else if token.eq_ignore_ascii_case(b"keep-alive") && self.http10 {
                    self.keep_alive = true;
                }
            }
        } else if name.eq_ignore_ascii_case("expect") {
            self.expects_continue = value.trim_ascii().eq_ignore_ascii_case(b"100-continue");
        }
        match base64::decode_if_binary(name, value) {
            Some(bytes) => self.headers.append_bytes(name, bytes),
            None => self.headers.append_bytes(name, value.to_vec()),
        }
        Ok(())
    }

    fn take_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let value = value.trim_ascii();
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(malformed("the Content-Length is no number".into()));
        }
        // A number too large for us is above every limit.
        let length = value.iter().fold(0_usize, |sum, digit| {
            sum.saturating_mul(10)
                .saturating_add(usize::from(digit - b'0'))
        });
        match self.body {
            Length::Absent => self.body = Length::Exact(length),
            Length::Exact(before) if before == length => {}
            _ => return Err(ambiguous()),
        }
        Ok(())
    }

    /// How the body is compressed; `None` for a coding not spoken here.
    pub fn compression(&self) -> Option<Compression> {
        match self.headers.get("content-encoding").map(str::trim) {
            None | Some("" | "identity") => Some(Compression::None),
            Some("gzip" | "x-gzip") => Some(Compression::Gzip),
            Some("deflate") => Some(Compression::Zlib),
            Some(_) => None,
        }
    }

    /// Time the caller gives the call: `grpc-timeout` (gRPC's form) or `connect-timeout-ms`.
    pub fn timeout(&self) -> Option<Duration> {
        if let Some(text) = self.headers.get("connect-timeout-ms") {
            return text.trim().parse().ok().map(Duration::from_millis);
        }
        timeout::parse(self.headers.get("grpc-timeout")?.trim().as_bytes())
    }

    /// The headers that are not HTTP's own, as a call's metadata.
    pub fn metadata(&self) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (name, value) in self.headers.iter() {
            if !is_https_own(name) {
                map.append_bytes(name, value.clone());
            }
        }
        map
    }
}

/// Headers that belong to the connection or the body, not to the call.
pub fn is_https_own(name: &str) -> bool {
    const OWN: [&str; 19] = [
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "content-length",
        "content-type",
        "content-encoding",
        "accept",
        "accept-encoding",
        "accept-language",
        "grpc-timeout",
        "connect-timeout-ms",
        "log-id",
        "x-request-id",
    ];
    OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// Path and query of a request target; the absolute form loses its scheme and authority.
fn split_target(target: &str) -> (&str, &str) {
    let mut rest = target;
    if let Some((scheme, after)) = target.split_once("://")
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        rest = after.find(['/', '?']).map_or("/", |at| &after[at..]);
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    (if path.is_empty() { "/" } else { path }, query)
}

fn malformed(text: String) -> Refusal {
    Refusal::new(400, BadReason::HttpMalformed, text)
}

fn ambiguous() -> Refusal {
    let text = "the length of the request is ambiguous: send one Content-Length, or chunks";
    Refusal::new(400, BadReason::HttpAmbiguousLength, text)
}

fn line_too_long() -> Refusal {
    let text = format!("the request line is above the limit of {LINE_MAX} bytes");
    Refusal::new(414, BadReason::HttpHeadTooLarge, text)
}

fn too_large(what: String) -> Refusal {
    let text = format!("the request's head is above the limit of {what}");
    Refusal::new(431, BadReason::HttpHeadTooLarge, text)
}
