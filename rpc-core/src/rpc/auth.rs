//! Who may call, by what callers say of themselves.
//!
//! Knows: credentials as bytes.   Does not know: where a protocol carries them.
//!
//! baidu_std carries a credential in the first message of a connection (`authentication_data`), which vouches for those
//! after it; a peer that is turned away is told ERPCAUTH and its connection is closed. gRPC and HTTP carry it in
//! each request (`authorization`) and are answered UNAUTHENTICATED, or 401; so are requests for the console's pages.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::status::Status;
use super::status_map::ERPCAUTH;

/// Decides who may call; made by [`ServerBuilder::authenticator`](super::server::ServerBuilder::authenticator).
#[derive(Clone)]
pub struct Authenticator(Arc<Verify>);

type Verify = dyn Fn(&[u8]) -> Result<(), String> + Send + Sync;

impl Authenticator {
    /// Asks `verify`, with the credential (empty = none was sent); the text of its refusal is what the peer is told. It
    /// runs on a worker's loop, so it must be short and never wait.
    pub fn new(verify: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(verify))
    }

    /// # Errors
    /// The peer may not call: what it is told.
    pub(in crate::rpc) fn verify(&self, credential: &[u8]) -> Result<(), Status> {
        (self.0)(credential)
            .map_err(|why| Status::from_errno(ERPCAUTH, format!("Fail to authenticate: {why}")))
    }
}
