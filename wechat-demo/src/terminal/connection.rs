//! A link before it speaks for somebody: one request at a time, in plain blocking code.
//!
//! Knows:       std sockets, frames, how a reply is told from a push.
//! Does not know: users, syncing, reconnecting.
//!
//! Registering and logging in need no more than this; [`super::link::Link`] takes over what AUTH made
//! of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::base::time::Instant;

use super::error::TerminalError;
use crate::longlink::{Decoder, Frame};
use crate::proto::terminal as pb;

/// Mars' time for one attempt to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Time for the answer to a request; longer than what access gives the backend.
pub const ANSWER: Duration = Duration::from_secs(20);
/// Time for the kernel to take a packet.
const WRITE: Duration = Duration::from_secs(10);
/// Bytes read at once.
pub(super) const READ: usize = 4 << 10;

/// A connected stream with its decoder.
#[derive(Debug)]
pub struct Connection {
    pub(super) stream: TcpStream,
    pub(super) decoder: Decoder,
    /// Seq of the next request; starts at 1, since 0 is a push.
    pub(super) next_seq: u32,
}

impl Connection {
    /// Connects to the first address of `address` that answers.
    ///
    /// # Errors
    /// [`TerminalError::Unreachable`] with the last address's fault.
    pub fn open(address: &str) -> Result<Self, TerminalError> {
        let unreachable = |why: String| TerminalError::Unreachable {
            address: address.to_owned(),
            why,
        };
        let resolved = address
            .to_socket_addrs()
            .map_err(|error| unreachable(error.to_string()))?;
        let mut why = "the name has no address".to_owned();
        for candidate in resolved {
            match TcpStream::connect_timeout(&candidate, CONNECT) {
                Ok(stream) => {
                    let set = stream
                        .set_nodelay(true)
                        .and_then(|()| stream.set_write_timeout(Some(WRITE)));
                    set.map_err(|error| unreachable(error.to_string()))?;
                    return Ok(Self {
                        stream,
                        decoder: Decoder::default(),
                        next_seq: 1,
                    });
                }
                Err(error) => why = error.to_string(),
            }
        }
        Err(unreachable(why))
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// What went wrong; after anything but a refusal the connection is of no more use.
    pub fn call<Reply: Message + Default>(
        &mut self,
        command: pb::Command,
        request: &impl Message,
    ) -> Result<Reply, TerminalError> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let packet = Frame::of(command as u32, seq, request)?.to_bytes();
        (&self.stream)
            .write_all(&packet)
            .map_err(|error| lost(&error))?;
        let until = Instant::now() + ANSWER;
        loop {
            let frame = self.read_frame(until)?;
            if frame.seq == seq {
                return open_reply(&frame.body);
            }
        }
    }

    fn read_frame(&mut self, until: Instant) -> Result<Frame, TerminalError> {
        let mut bytes = [0; READ];
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            let left = until.saturating_since(Instant::now());
            if left.is_zero() {
                return Err(TerminalError::Timeout(ANSWER));
            }
            self.stream
                .set_read_timeout(Some(left))
                .map_err(|error| lost(&error))?;
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(TerminalError::Lost("the other end closed it".to_owned())),
                Ok(length) => self.decoder.feed(&bytes[..length]),
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(lost(&error)),
            }
        }
    }
}

/// Creates an account.
///
/// # Errors
/// Refused with [`super::error::code::ALREADY_EXISTS`] when the name is somebody else's.
pub fn register(
    address: &str,
    name: &str,
    password: &str,
    nickname: &str,
) -> Result<u64, TerminalError> {
    let request = pb::RegisterRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        nickname: nickname.to_owned(),
    };
    let mut connection = Connection::open(address)?;
    let reply: pb::RegisterReply = connection.call(pb::Command::Register, &request)?;
    Ok(reply.user_id)
}

/// Makes a device known and gets its token.
///
/// # Errors
/// Refused when name or password are wrong.
pub fn login(
    address: &str,
    name: &str,
    password: &str,
    device: &str,
) -> Result<pb::LoginReply, TerminalError> {
    let request = pb::LoginRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        device: device.to_owned(),
    };
    Connection::open(address)?.call(pb::Command::Login, &request)
}

/// The message inside a reply, or the refusal it is.
pub(super) fn open_reply<Reply: Message + Default>(body: &Bytes) -> Result<Reply, TerminalError> {
    let nonsense = |error: prost::DecodeError| TerminalError::Nonsense(error.to_string());
    let reply = pb::Reply::decode(body.clone()).map_err(nonsense)?;
    if reply.code != 0 {
        return Err(TerminalError::Refused {
            code: reply.code,
            text: reply.error,
        });
    }
    Reply::decode(reply.body).map_err(nonsense)
}

pub(super) fn lost(error: &std::io::Error) -> TerminalError {
    TerminalError::Lost(error.to_string())
}

/// A read that only ran into its timeout.
pub(super) fn is_pause(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
