//! HTTP/1.1 (RFC 9112): JSON or protobuf calls as `POST /pkg.Service/Method`, and plain pages.
//!
//! Knows: heads, bodies, pipelining, content types, which paths are calls.
//! Does not know: sockets, the clock, services, what a page shows.
//!
//! Invariants
//! - H-1  Answers leave in the order of the requests.
//! - H-2  A request whose length is not beyond doubt is refused and its connection closed: nothing after it
//!   is read as a request.
//! - H-3  A request that is refused gets an answer in JSON, `{"code":…,"message":…}`, behind those before it.
//! - H-4  After the first answer with `Connection: close` nothing is read or written any more.
//! - H-5  A call that gives a stream (as JSON lines, `application/x-ndjson`) is given out once every answer
//!   before its own has left, and nothing behind it is parsed before it has ended.
//! - H-6  A stream that failed ends with the line `{"error":{"code":…,"message":…}}` and never with a last
//!   chunk: its connection is closed, so that nobody takes what came for the whole.
//! - H-7  A peer that ends its side while it is sent a stream has given the call up.
//!
//! Read first: [`server`], then `head.rs`.

mod chunked;
mod head;
#[cfg(test)]
mod lines {
    mod tests;
}
#[cfg(test)]
mod refusals {
    mod tests;
}
pub mod server;
mod target;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use super::{Probe, Protocol, ServerConfig, ServerSession};

pub(super) use head::{Head, Length, is_https_own};
pub use server::Http1Server;
pub(super) use server::{bytes_of, call_of, response_of};
pub(super) use target::{Kind, Target};
pub(in crate::rpc) use write::Response;
pub(super) use write::{error_line, of_http, of_status, of_stream};

/// The protocol, for [`ServerConfig::protocols`].
#[derive(Debug, Default)]
pub struct Http1;

impl Protocol for Http1 {
    fn name(&self) -> &'static str {
        "http1"
    }

    fn alpn(&self) -> Option<&'static str> {
        Some("http/1.1")
    }

    /// A method and a space. `PRI` is HTTP/2's preface, and no method.
    fn probe(&self, prefix: &[u8]) -> Probe {
        let method = prefix
            .iter()
            .take_while(|byte| byte.is_ascii_uppercase())
            .count();
        match prefix.get(method) {
            _ if method > METHOD_MAX => Probe::No,
            None => Probe::NeedMore,
            Some(b' ') if method > 0 && &prefix[..method] != b"PRI" => Probe::Yes,
            Some(_) => Probe::No,
        }
    }

    fn session(&self, config: &Arc<ServerConfig>) -> Box<dyn ServerSession> {
        Box::new(Http1Server::new(Arc::clone(config)))
    }
}

/// Longest method of any registered use of HTTP is `UPDATEREDIRECTREF`.
const METHOD_MAX: usize = 17;
