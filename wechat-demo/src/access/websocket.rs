//! The long link's packets inside WebSocket (RFC 6455), for browsers: `GET /link` with an upgrade.
//!
//! Knows:       how tungstenite is fed from memory.
//! Does not know: packets, links.
//!
//! The payloads of binary messages, joined, are the stream of packets; where one message ends and the next
//! begins means nothing. Incoming messages are bounded by [`MESSAGE`], because tungstenite keeps a buffer of
//! the largest: a packet above that comes in several. Each outgoing message holds whole packets.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rpc_core::rpc::protocol::Probe;
use tungstenite::handshake::server::{NoCallback, ServerHandshake};
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Error, Message};

use super::link::Transport;
use super::session::{Closing, Inbound};

/// Bytes of an incoming message at most.
const MESSAGE: usize = 64 << 10;
/// Bytes of the buffer that tungstenite keeps from the start.
const KEPT: usize = 512;
/// Bytes read at once.
const READ: usize = 1 << 10;

/// What the connection's first bytes are; the rest of the head is tungstenite's to judge.
const FIRST: &[u8] = b"GET /link ";

/// To a request that is no upgrade.
const NO_UPGRADE: &[u8] =
    b"HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\nconnection: close\r\n\
    content-length: 0\r\n\r\n";

/// One connection's state.
#[derive(Default)]
pub(super) struct WebSocket {
    stage: Stage,
}

enum Stage {
    /// `None` only while the handshake is being made.
    Opening(Option<Box<MidHandshake<ServerHandshake<Pipe, NoCallback>>>>),
    Open(Box<tungstenite::WebSocket<Pipe>>),
}

impl Default for Stage {
    fn default() -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(KEPT)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE))
            .max_frame_size(Some(MESSAGE));
        let handshake = ServerHandshake::start(Pipe::default(), NoCallback, Some(config));
        Self::Opening(Some(Box::new(handshake)))
    }
}

/// The socket, as far as tungstenite sees one.
#[derive(Debug, Default)]
struct Pipe {
    input: BytesMut,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = room.len().min(self.input.len());
        self.input.copy_to_slice(&mut room[..taken]);
        Ok(taken)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WebSocket {
    fn pipe(&mut self) -> &mut Pipe {
        match &mut self.stage {
            Stage::Opening(handshake) => {
                let handshake = handshake.as_mut().expect("it is put back or ends the link");
                handshake.get_mut().get_mut()
            }
            Stage::Open(socket) => socket.get_mut(),
        }
    }

    fn hand_over(&mut self, out: &mut VecDeque<Bytes>) {
        let output = &mut self.pipe().output;
        if !output.is_empty() {
            out.push_back(std::mem::take(output).into());
        }
    }

    /// Goes on with the handshake.
    fn shake(&mut self, out: &mut VecDeque<Bytes>) -> Result<(), Closing> {
        let Stage::Opening(handshake) = &mut self.stage else {
            return Ok(());
        };
        let handshake = handshake.take().ok_or(Closing::BadWebSocket)?;
        match handshake.handshake() {
            Ok(socket) => self.stage = Stage::Open(Box::new(socket)),
            Err(HandshakeError::Interrupted(rest)) => {
                self.stage = Stage::Opening(Some(Box::new(rest)));
                return Ok(());
            }
            Err(HandshakeError::Failure(_)) => {
                self.stage = Stage::default();
                out.push_back(Bytes::from_static(NO_UPGRADE));
                return Err(Closing::BadWebSocket);
            }
        }
        self.hand_over(out);
        Ok(())
    }
}

impl Transport for WebSocket {
    const NAME: &'static str = "websocket";

    fn probe(prefix: &[u8]) -> Probe {
        Probe::magic(prefix, FIRST)
    }

    fn recv_space<'a>(&'a mut self, _: &'a mut Inbound) -> &'a mut dyn BufMut {
        let input = &mut self.pipe().input;
        input.reserve(READ);
        input
    }

    fn received(
        &mut self,
        inbound: &mut Inbound,
        out: &mut VecDeque<Bytes>,
    ) -> Result<(), Closing> {
        self.shake(out)?;
        let Stage::Open(socket) = &mut self.stage else {
            return Ok(());
        };
        let ended = loop {
            match socket.read() {
                Ok(Message::Binary(packets)) => inbound.feed(&packets),
                Ok(Message::Text(_)) => break Err(Closing::BadWebSocket),
                // Pings are answered by the library.
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => break Err(Closing::Gone),
                Err(_) => break Err(Closing::BadWebSocket),
            }
        };
        // Into memory: what fails is a connection that is closed already.
        let _ = socket.flush();
        self.hand_over(out);
        ended
    }

    fn send(&mut self, packets: Bytes, out: &mut VecDeque<Bytes>) {
        // Beside the socket, whose buffer would keep the size of the largest.
        let mut message = Vec::new();
        let frame = Frame::message(packets, OpCode::Data(Data::Binary), true);
        let formatted = frame.format(&mut message);
        debug_assert!(formatted.is_ok(), "memory takes everything");
        out.push_back(message.into());
    }

    fn goodbye(&mut self, out: &mut VecDeque<Bytes>) {
        if let Stage::Open(socket) = &mut self.stage {
            // It fails where the browser has said goodbye before.
            let _ = socket.close(None);
            let _ = socket.flush();
            self.hand_over(out);
        }
    }

    fn is_idle(&self) -> bool {
        match &self.stage {
            Stage::Opening(_) => false,
            Stage::Open(socket) => socket.get_ref().input.is_empty(),
        }
    }

    fn release(&mut self) {
        self.pipe().input = BytesMut::new();
    }
}
