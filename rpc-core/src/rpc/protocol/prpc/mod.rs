//! baidu_std, brpc's own protocol: `PRPC`, two lengths, a meta, a body, an attachment.
//!
//! ```text
//! 0     'P' 'R' 'P' 'C'
//! 4     u32 BE   body: everything after these 12 bytes
//! 8     u32 BE   meta
//! 12    meta     RpcMeta
//! …     data     the message, compressed if the meta says so
//! …     attachment
//! ```
//!
//! Knows: frames, metas, correlation ids, what brpc 1.17 answers to bad calls.
//! Does not know: sockets, the clock, services.
//!
//! Invariants
//! - F-1  A frame is contiguous: meta, data and attachment are slices of one allocation.
//! - F-2  Answers match calls by correlation id, in any order.
//! - F-3  The order in which a request is refused is brpc's: server leaving (ELOGOFF), too many calls
//!   (ELIMIT), attachment longer than the message (EREQUEST), no such method (ENOMETHOD), then, by whoever
//!   opens the body, a body that cannot be opened (EREQUEST).
//!
//! Streams share the connection: `stream.rs`.
//!
//! Read first: `frame.rs`, then `server.rs`.

mod client;
#[cfg(test)]
mod credentials {
    mod tests;
}
mod frame;
#[cfg(test)]
pub(super) mod golden {
    pub(in crate::rpc::protocol) mod tests;
}
mod meta;
#[cfg(test)]
mod schema;
mod server;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{Limits, Probe, Protocol, ServerConfig, ServerSession};

pub use client::PrpcClient;
pub use server::PrpcServer;

/// Begins every message.
const MAGIC: &[u8; 4] = b"PRPC";

/// Begins every frame of the streaming protocol, which shares PRPC's connections.
const STREAM_MAGIC: &[u8; 4] = b"STRM";

/// Magic, body length, meta length.
const HEADER: usize = 12;

/// The protocol, for [`ServerConfig::protocols`].
#[derive(Debug, Default)]
pub struct Prpc;

impl Protocol for Prpc {
    fn name(&self) -> &'static str {
        "baidu_std"
    }

    fn probe(&self, prefix: &[u8]) -> Probe {
        Probe::magic(prefix, MAGIC)
    }

    fn session(&self, config: &Arc<ServerConfig>) -> Box<dyn ServerSession> {
        Box::new(PrpcServer::new(Arc::clone(config)))
    }
}

/// A client's session, to drive a connection with.
pub fn client(limits: Limits) -> PrpcClient {
    PrpcClient::new(limits)
}
