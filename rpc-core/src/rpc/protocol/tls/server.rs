//! The server's end.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use bytes::{BufMut, Bytes};
use rustls::{Connection, ServerConnection};

use super::{Cipher, HANDSHAKE_TIME, bad};
use crate::base::time::Instant;
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{
    Bad, Body, CallId, Driver, EndOfInput, Kind, Reply, Room, ServerEvent, ServerSession,
};
use crate::rpc::status::Status;
use crate::rpc::tls::Peer;

/// A server session inside TLS.
pub(crate) struct TlsServer {
    cipher: Cipher,
    inner: Box<dyn ServerSession>,
    /// Known once the handshake is done.
    peer: Option<Arc<Peer>>,
    /// When the bytes now being parsed were read.
    now: Instant,
    /// When the handshake must be done; `NEVER` afterwards, and before the first byte.
    handshake_until: Instant,
    /// The inner session met what ends the connection.
    broken: bool,
}

impl TlsServer {
    /// `inner` inside `tls`.
    pub fn new(tls: ServerConnection, inner: Box<dyn ServerSession>) -> Self {
        Self {
            cipher: Cipher::new(Connection::Server(tls)),
            inner,
            peer: None,
            now: Instant::ZERO,
            handshake_until: Instant::NEVER,
            broken: false,
        }
    }

    /// Gives the inner session its next piece of plain text (T-1). False if there is none for now.
    fn feed(&mut self) -> bool {
        if self.broken || !self.inner.wants_input() {
            return false;
        }
        let fed = match self.cipher.open_into(self.inner.recv_space()) {
            Ok(0) => return false,
            Ok(count) => self.inner.received(count, self.now),
            Err(error) => Err(failed(&error)),
        };
        self.broken = fed.is_err();
        true
    }

    fn handshake_done(&mut self) {
        self.handshake_until = Instant::NEVER;
        let Connection::Server(tls) = &self.cipher.tls else {
            return;
        };
        let certificates = tls.peer_certificates().unwrap_or_default();
        self.peer = Some(Arc::new(Peer {
            address: None,
            certificates: certificates.iter().map(|der| der.to_vec()).collect(),
            server_name: tls.server_name().map(str::to_owned),
        }));
    }

    /// Nothing more is said inside.
    fn is_through(&self) -> bool {
        self.broken
            || self.inner.is_finished()
            || (self.cipher.peer_said_goodbye && self.inner.is_idle())
    }
}

impl ServerSession for TlsServer {
    fn attached(&mut self, driver: Weak<dyn Driver>, accepted: Instant) {
        self.inner.attached(driver, accepted);
    }

    fn recv_space(&mut self) -> &mut dyn BufMut {
        self.cipher.recv_space()
    }

    fn received(&mut self, _n: usize, now: Instant) -> Result<(), Bad> {
        self.now = now;
        if self.peer.is_none() && self.handshake_until.is_never() {
            self.handshake_until = now + HANDSHAKE_TIME;
        }
        self.cipher.received().map_err(|error| failed(&error))?;
        if self.peer.is_none() && !self.cipher.tls.is_handshaking() {
            self.handshake_done();
        }
        Ok(())
    }

    fn next_event(&mut self) -> Option<ServerEvent> {
        loop {
            if let Some(event) = self.inner.next_event() {
                return Some(event);
            }
            if !self.feed() {
                return None;
            }
        }
    }

    fn peer(&self) -> Option<&Arc<Peer>> {
        self.peer.as_ref()
    }

    fn carries(&self, kind: Kind) -> bool {
        self.inner.carries(kind)
    }

    fn answer(&mut self, id: CallId, reply: Reply<'_>) {
        self.inner.answer(id, reply);
    }

    fn cancels(&self) -> bool {
        self.inner.cancels()
    }

    fn begin(&mut self, id: CallId, metadata: &MetadataMap, compression: Compression) {
        self.inner.begin(id, metadata, compression);
    }

    fn send(&mut self, id: CallId, message: Body<'_>, compression: Compression) -> Room {
        self.inner.send(id, message, compression)
    }

    fn finish(&mut self, id: CallId, result: Result<(), &Status>, trailers: &MetadataMap) {
        self.inner.finish(id, result, trailers);
    }

    fn consumed(&mut self, id: CallId, bytes: usize) {
        self.inner.consumed(id, bytes);
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        self.cipher.seal(self.inner.transmit());
        if self.is_through() {
            self.cipher.goodbye();
        }
        self.cipher.transmit()
    }

    fn deadline(&self) -> Option<Instant> {
        match self.handshake_until.is_never() {
            true => self.inner.deadline(),
            false => Some(self.handshake_until),
        }
    }

    fn timed_out(&mut self, now: Instant) -> Result<(), Bad> {
        match now >= self.handshake_until {
            true => Err(bad()),
            false => self.inner.timed_out(now),
        }
    }

    fn wants_input(&self) -> bool {
        self.inner.wants_input() && !self.is_through()
    }

    fn end_of_input(&mut self) -> EndOfInput {
        self.inner.end_of_input()
    }

    fn drain(&mut self) {
        self.inner.drain();
    }

    fn is_idle(&self) -> bool {
        self.cipher.is_idle() && self.inner.is_idle()
    }

    fn is_finished(&self) -> bool {
        self.is_through()
    }

    fn release(&mut self) {
        self.inner.release();
        self.cipher.release();
    }
}

fn failed(error: &rustls::Error) -> Bad {
    tracing::debug!("a TLS connection failed: {error}");
    bad()
}
