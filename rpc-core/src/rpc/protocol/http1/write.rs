//! Responses as bytes.

use bytes::Bytes;

use super::head::is_https_own;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{Page, base64};
use crate::rpc::status::{Code, Status};
use crate::rpc::status_map;

/// A response whose connection headers and end of head are still to come ([`end_of_head`]).
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Status line and headers, without the last line's end.
    pub head: Vec<u8>,
    /// Left out in answer to HEAD.
    pub body: Bytes,
}

impl Response {
    /// Appends a header.
    pub fn push(&mut self, name: &str, value: &str) {
        push(&mut self.head, &["\r\n", name, ": ", value]);
    }

    /// The headers, for versions of HTTP that write them otherwise.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.head.split(|byte| *byte == b'\n').skip(1);
        lines.filter_map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        })
    }
}

/// What a response says beside its body.
pub struct Say<'a> {
    pub status: u16,
    pub content_type: &'a str,
    pub headers: &'a MetadataMap,
    /// brpc's number of a failure; 0 = none.
    pub errno: i32,
    /// The methods that would be allowed.
    pub allow: Option<&'a str>,
}

impl Say<'_> {
    /// The response with `body`.
    pub fn with(&self, body: Bytes) -> Response {
        let mut head = Vec::with_capacity(192);
        let reason = reason(self.status);
        push(
            &mut head,
            &["HTTP/1.1 ", &self.status.to_string(), " ", reason],
        );
        let bodiless = matches!(self.status, 100..=199 | 204 | 304);
        if !bodiless {
            push(
                &mut head,
                &["\r\nContent-Length: ", &body.len().to_string()],
            );
            push(&mut head, &["\r\nContent-Type: ", self.content_type]);
        }
        if self.errno != 0 {
            push(
                &mut head,
                &["\r\nx-bd-error-code: ", &self.errno.to_string()],
            );
        }
        if let Some(method) = self.allow {
            push(&mut head, &["\r\nAllow: ", method]);
        }
        for (name, value) in self.headers.iter() {
            header(&mut head, name, value);
        }
        let body = if bodiless { Bytes::new() } else { body };
        Response {
            status: self.status,
            head,
            body,
        }
    }

    /// The response with a failure in JSON.
    fn failing(&self, code: Code, text: &str) -> Response {
        let body = serde_json::json!({ "code": code.name(), "message": text });
        self.with(body.to_string().into())
    }
}

/// An answer without a body.
pub fn of_nothing() -> Response {
    let say = Say {
        status: 204,
        content_type: "",
        headers: &MetadataMap::new(),
        errno: 0,
        allow: None,
    };
    say.with(Bytes::new())
}

/// The head of a stream of JSON lines.
pub fn of_stream(metadata: &MetadataMap) -> Response {
    let mut head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson".to_vec();
    for (name, value) in metadata.iter() {
        header(&mut head, name, value);
    }
    Response {
        status: 200,
        head,
        body: Bytes::new(),
    }
}

/// The line that a stream ends with whose call failed.
pub fn error_line(status: &Status) -> Bytes {
    let error = serde_json::json!({ "code": status.code().name(), "message": status.message() });
    serde_json::json!({ "error": error }).to_string().into()
}

/// What ends a body in chunks.
pub fn last_chunk(trailers: &MetadataMap) -> Vec<u8> {
    let mut end = b"0".to_vec();
    for (name, value) in trailers.iter() {
        header(&mut end, name, value);
    }
    end.extend_from_slice(b"\r\n\r\n");
    end
}

/// What ends a head: how the connection goes on.
pub const fn end_of_head(close: bool, http10: bool) -> &'static [u8] {
    match (close, http10) {
        (true, _) => b"\r\nConnection: close\r\n\r\n",
        (false, true) => b"\r\nConnection: keep-alive\r\n\r\n",
        (false, false) => b"\r\n\r\n",
    }
}

/// A call's failure.
pub fn of_status(status: &Status) -> Response {
    let say = Say {
        status: status_map::http_of_status(status),
        content_type: "application/json",
        headers: status.metadata(),
        errno: status.errno(),
        allow: None,
    };
    say.failing(status.code(), status.message())
}

/// A refusal of the protocol's own.
pub fn of_http(http: u16, text: &str, allow: Option<&str>) -> Response {
    let say = Say {
        status: http,
        content_type: "application/json",
        headers: &MetadataMap::new(),
        errno: 0,
        allow,
    };
    say.failing(status_map::code_of_http(http), text)
}

/// A page.
pub fn of_page(page: Page) -> Response {
    let say = Say {
        status: page.status,
        content_type: page.content_type,
        headers: &page.headers,
        errno: 0,
        allow: None,
    };
    say.with(page.body)
}

/// Appends a header; one that would break the head or contradict it is left out.
fn header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let value = base64::encode_if_binary(name, value);
    let clean = value
        .iter()
        .all(|byte| *byte >= b' ' && *byte != 0x7f || *byte == b'\t');
    if name.is_empty() || !name.bytes().all(token) || !clean || is_https_own(name) {
        return;
    }
    push(head, &["\r\n", name, ": "]);
    head.extend_from_slice(&value);
}

fn push(head: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        head.extend_from_slice(part.as_bytes());
    }
}

/// The phrase for a status (RFC 9110 §15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        422 => "Unprocessable Content",
        423 => "Locked",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Other",
    }
}
