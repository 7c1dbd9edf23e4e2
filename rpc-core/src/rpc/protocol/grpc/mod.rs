//! gRPC over HTTP/2 (grpc's PROTOCOL-HTTP2.md), all four kinds of calls.
//!
//! Knows: heads, messages with their five-byte prefix, trailers, compression names, timeouts.
//! Does not know: frames (`http2` does), sockets, the clock, services.
//!
//! Invariants
//! - G-1  A call that fails before its answer began is answered by trailers alone; one that fails later by
//!   its trailers.
//! - G-2  A failure says what it is: `grpc-status`, a percent-encoded `grpc-message`, the details in
//!   `grpc-status-details-bin`, the status's own metadata.
//! - G-3  A message is compressed only in a way that its receiver has said to take, or has used itself.
//! - G-4  What a peer makes a connection hold is bounded: a message by `Limits::max_body`, what its streams
//!   have not taken by a window each, all of it by four times that bound.
//!
//! Read first: `server.rs`, then `message.rs`.

mod client;
mod codings;
mod head;
mod message;
mod percent;
mod plain;
mod server;
#[cfg(test)]
mod tests;
mod trailers;

use std::sync::Arc;

use super::http2::{Bounds, frame};
use super::{Limits, Probe, Protocol, ServerConfig, ServerSession};

pub use client::GrpcClient;
pub use server::GrpcServer;

/// The protocol, for [`ServerConfig::protocols`].
#[derive(Debug, Default)]
pub struct Grpc;

impl Protocol for Grpc {
    fn name(&self) -> &'static str {
        "grpc"
    }

    fn alpn(&self) -> Option<&'static str> {
        Some("h2")
    }

    /// As much of HTTP/2's preface as no other protocol begins with; the session checks the rest.
    fn probe(&self, prefix: &[u8]) -> Probe {
        Probe::magic(prefix, &frame::PREFACE[..PREFIX])
    }

    fn session(&self, config: &Arc<ServerConfig>) -> Box<dyn ServerSession> {
        Box::new(GrpcServer::new(Arc::clone(config)))
    }
}

/// `PRI * HTTP/2`: no method of HTTP/1 is called so.
const PREFIX: usize = 12;

/// A client's session. `authority` is what the client calls the server: `HOST:PORT`.
pub fn client(limits: Limits, authority: &str) -> GrpcClient {
    GrpcClient::new(limits, authority)
}

/// Bytes that a connection holds of messages that are not complete or not taken, over all its streams, as
/// a multiple of `Limits::max_body`. The call that would go beyond is refused.
const HELD_MAX: usize = 4;

fn bounds(limits: &Limits) -> Bounds {
    Bounds {
        max_streams: limits.max_streams,
        max_head: limits.max_head,
        keepalive: limits.keepalive,
    }
}
