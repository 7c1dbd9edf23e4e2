//! The client's end.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes};
use rustls::{ClientConnection, Connection};

use super::{Cipher, bad};
use crate::base::time::Instant;
use crate::rpc::compression::Compression;
use crate::rpc::protocol::{Bad, Body, CallId, ClientEvent, ClientSession, OutgoingCall, Room};
use crate::rpc::status::Status;

/// A client session inside TLS. The handshake begins with the first [`ClientSession::transmit`]; calls
/// wait inside until it is done.
pub(crate) struct TlsClient {
    cipher: Cipher,
    inner: Box<dyn ClientSession>,
    now: Instant,
    /// Why the connection ended, in words.
    failure: Option<String>,
    /// The inner session met what ends the connection.
    broken: bool,
}

impl TlsClient {
    /// `inner` inside `tls`.
    pub fn new(tls: ClientConnection, inner: Box<dyn ClientSession>) -> Self {
        Self {
            cipher: Cipher::new(Connection::Client(tls)),
            inner,
            now: Instant::ZERO,
            failure: None,
            broken: false,
        }
    }

    /// Gives the inner session its next piece of plain text (T-1). False if there is none for now.
    fn feed(&mut self) -> bool {
        if self.broken {
            return false;
        }
        let fed = match self.cipher.open_into(self.inner.recv_space()) {
            Ok(0) => return false,
            Ok(count) => self.inner.received(count, self.now),
            Err(error) => Err(self.failed(&error)),
        };
        self.broken = fed.is_err();
        true
    }

    fn failed(&mut self, error: &rustls::Error) -> Bad {
        self.failure = Some(format!("TLS with the server failed: {error}"));
        bad()
    }
}

impl ClientSession for TlsClient {
    fn recv_space(&mut self) -> &mut dyn BufMut {
        self.cipher.recv_space()
    }

    fn received(&mut self, _n: usize, now: Instant) -> Result<(), Bad> {
        self.now = now;
        self.cipher.received().map_err(|error| self.failed(&error))
    }

    fn next_event(&mut self) -> Option<ClientEvent> {
        loop {
            if let Some(event) = self.inner.next_event() {
                return Some(event);
            }
            if !self.feed() {
                return None;
            }
        }
    }

    fn call(&mut self, call: OutgoingCall<'_>) -> Result<CallId, Status> {
        self.inner.call(call)
    }

    fn send(&mut self, id: CallId, message: Body<'_>, compression: Compression) -> Room {
        self.inner.send(id, message, compression)
    }

    fn half_close(&mut self, id: CallId) {
        self.inner.half_close(id);
    }

    fn consumed(&mut self, id: CallId, bytes: usize) {
        self.inner.consumed(id, bytes);
    }

    fn cancel(&mut self, id: CallId) -> bool {
        self.inner.cancel(id)
    }

    fn abort(&mut self, status: &Status) {
        self.inner.abort(status);
    }

    fn failure(&self) -> Option<&str> {
        self.failure.as_deref().or_else(|| self.inner.failure())
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        self.cipher.seal(self.inner.transmit());
        self.cipher.transmit()
    }

    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }

    fn timed_out(&mut self, now: Instant) -> Result<(), Bad> {
        self.inner.timed_out(now)
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn is_idle(&self) -> bool {
        self.cipher.is_idle() && self.inner.is_idle()
    }

    fn is_finished(&self) -> bool {
        self.broken || self.inner.is_finished() || self.cipher.peer_said_goodbye
    }

    fn release(&mut self) {
        self.inner.release();
        self.cipher.release();
    }
}
