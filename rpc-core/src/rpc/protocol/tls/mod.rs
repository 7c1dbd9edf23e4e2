//! TLS around other sessions: cipher text outside, a session in plain text inside.
//!
//! Knows: rustls, the traits of sessions.   Does not know: sockets, what the inner session speaks, where
//! certificates come from.
//!
//! ```text
//!  socket ─▶ recv_space ─▶ rustls ─▶ inner.recv_space          inner.transmit ─▶ rustls ─▶ transmit ─▶ socket
//! ```
//!
//! Invariants
//! - T-1  The inner session is given one piece of plain text at a time, and its events are taken before the
//!   next: it sees what it would see without TLS. While it wants no input, plain text waits in rustls, and
//!   the driver reads no more.
//! - T-2  A handshake that fails sends its alert, is counted ([`BadReason::Tls`]) and costs nobody else.
//!
//! Read first: [`Cipher`], then `server.rs`.

mod client;
mod server;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut, buf::Limit};
use rustls::{Connection, ServerConnection};

use super::call::fill;
use super::{Bad, BadReason, Probe, Protocol, ServerConfig, ServerSession, server_session};
use crate::rpc::error::Error;
use crate::rpc::tls::ServerTls;

pub(crate) use client::TlsClient;
use server::TlsServer;

/// The protocol, for [`ServerConfig::protocols`]: TLS outside, the first bytes inside decide again.
pub(crate) struct Tls {
    config: Arc<rustls::ServerConfig>,
    /// The protocols spoken inside; TLS is not among them, so it cannot be nested.
    protocols: Vec<Arc<dyn Protocol>>,
    /// The server's configuration with those; made with the first connection.
    inside: OnceLock<Arc<ServerConfig>>,
}

impl Tls {
    /// `protocols` inside TLS.
    ///
    /// # Errors
    /// rustls cannot make a configuration of `tls`.
    pub fn new(tls: &ServerTls, protocols: Vec<Arc<dyn Protocol>>) -> Result<Self, Error> {
        let alpn: Vec<&str> = protocols.iter().filter_map(|p| p.alpn()).collect();
        Ok(Self {
            config: tls.config(&alpn)?,
            protocols,
            inside: OnceLock::new(),
        })
    }
}

impl Protocol for Tls {
    fn name(&self) -> &'static str {
        "tls"
    }

    /// A handshake record of version 3.x (RFC 8446 §5.1).
    fn probe(&self, prefix: &[u8]) -> Probe {
        Probe::magic(prefix, &[0x16, 0x03])
    }

    fn session(&self, config: &Arc<ServerConfig>) -> Box<dyn ServerSession> {
        let inside = self.inside.get_or_init(|| {
            Arc::new(ServerConfig {
                // It came before TLS, where there is one.
                proxy_header: false,
                protocols: self.protocols.clone(),
                ..ServerConfig::clone(config)
            })
        });
        let tls = ServerConnection::new(Arc::clone(&self.config))
            .expect("a configuration that was made makes connections");
        Box::new(TlsServer::new(tls, server_session(inside)))
    }
}

/// One end of a TLS connection, and the cipher text on its way in and out.
struct Cipher {
    tls: Connection,
    input: Limit<BytesMut>,
    out: VecDeque<Bytes>,
    /// Both ends are told: nothing more is sent.
    said_goodbye: bool,
    /// The peer said that nothing more comes.
    peer_said_goodbye: bool,
}

impl Cipher {
    fn new(mut tls: Connection) -> Self {
        // The inner session's driver bounds what is unwritten.
        tls.set_buffer_limit(None);
        Self {
            tls,
            input: BytesMut::new().limit(0),
            out: VecDeque::new(),
            said_goodbye: false,
            peer_said_goodbye: false,
        }
    }

    fn recv_space(&mut self) -> &mut dyn BufMut {
        let input = self.input.get_mut();
        if input.capacity() - input.len() < ROOM / 4 {
            input.reserve(ROOM);
        }
        let room = input.capacity() - input.len();
        self.input.set_limit(room);
        &mut self.input
    }

    /// Takes in what was written into `recv_space`.
    ///
    /// # Errors
    /// What the peer did wrong; the alert is among what is sent.
    fn received(&mut self) -> Result<(), rustls::Error> {
        while !self.input.get_ref().is_empty() {
            let mut cipher_text = self.input.get_mut().reader();
            let taken = self.tls.read_tls(&mut cipher_text);
            let state = self.tls.process_new_packets()?;
            self.peer_said_goodbye |= state.peer_has_closed();
            // rustls takes no more while much plain text waits in it.
            if taken.is_err() || self.peer_said_goodbye {
                break;
            }
        }
        Ok(())
    }

    /// Moves plain text into `space`: how much; 0 = none waits.
    ///
    /// # Errors
    /// As [`Cipher::received`]: more cipher text may wait for the plain text to be taken.
    fn open_into(&mut self, space: &mut dyn BufMut) -> Result<usize, rustls::Error> {
        loop {
            // Nothing to read is said as an error, and so is an end without a goodbye.
            let mut reader = self.tls.reader();
            if let Ok(plain) = reader.fill_buf()
                && !plain.is_empty()
            {
                let taken = fill(space, plain);
                reader.consume(taken);
                return Ok(taken);
            }
            let waiting = self.input.get_ref().len();
            self.received()?;
            if self.input.get_ref().len() == waiting {
                return Ok(0);
            }
        }
    }

    /// Encrypts what the inner session has to send.
    fn seal(&mut self, plain: &mut VecDeque<Bytes>) {
        for piece in plain.drain(..) {
            let sealed = self.tls.writer().write_all(&piece);
            debug_assert!(sealed.is_ok(), "memory without a limit takes everything");
        }
    }

    /// Says that nothing more is sent.
    fn goodbye(&mut self) {
        if !std::mem::replace(&mut self.said_goodbye, true) {
            self.tls.send_close_notify();
        }
    }

    fn transmit(&mut self) -> &mut VecDeque<Bytes> {
        if self.tls.wants_write() {
            let mut sealed = Vec::new();
            while self.tls.wants_write() && self.tls.write_tls(&mut sealed).is_ok() {}
            self.out.push_back(sealed.into());
        }
        &mut self.out
    }

    /// True if neither end waits for bytes of the other.
    fn is_idle(&self) -> bool {
        !self.tls.is_handshaking()
            && self.input.get_ref().is_empty()
            && self.out.is_empty()
            && !self.tls.wants_write()
    }

    fn release(&mut self) {
        if self.input.get_ref().is_empty() {
            self.input = BytesMut::new().limit(0);
        }
        if self.out.is_empty() {
            self.out = VecDeque::new();
        }
    }
}

fn bad() -> Bad {
    Bad::counted(BadReason::Tls)
}

/// Room to read into; a whole record and its head fit.
const ROOM: usize = (16 << 10) + 512;
/// Time for a handshake from its first byte on.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
