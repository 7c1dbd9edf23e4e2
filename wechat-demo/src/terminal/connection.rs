//! A link before it speaks for somebody: one request at a time, in plain blocking code.
//!
//! Knows:       std sockets, frames, how a reply is told from a push.
//! Does not know: users, syncing, reconnecting.
//!
//! Registering and logging in need no more than this; [`super::link::Link`] takes over what AUTH made
//! of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::base::time::Instant;
use socket2::{Domain, Socket, Type};

use super::error::TerminalError;
use super::race::{self, ADDRESSES, History, Race, Step};
use crate::longlink::{Decoder, Frame, SEQ_NOOP};
use crate::proto::terminal as pb;
use crate::task::spawn;

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
    /// Connects to whichever address of `address` (HOST:PORT, or several with commas between) answers first.
    ///
    /// # Errors
    /// [`TerminalError::Unreachable`] with the last address's fault.
    pub fn open(address: &str) -> Result<Self, TerminalError> {
        let addresses = resolve(address)?;
        let way = Way {
            local: None,
            asks: addresses.len() > 1,
        };
        Self::race(&addresses, way, &Mutex::default(), &mut Vec::new())
    }

    /// Connects to whichever of `addresses` answers first, leaving out what failed too often and noting
    /// what fails now. What the attempts took is added to `attempts`.
    ///
    /// # Errors
    /// [`TerminalError::Unreachable`] with the last address's fault.
    pub(super) fn race(
        addresses: &[SocketAddr],
        way: Way,
        history: &Mutex<History>,
        attempts: &mut Vec<Attempt>,
    ) -> Result<Self, TerminalError> {
        let unreachable = |why: String| TerminalError::Unreachable {
            address: listed(addresses),
            why,
        };
        let (stream, decoder) = first_of(addresses, way, history, attempts).map_err(unreachable)?;
        let set = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_write_timeout(Some(WRITE)));
        set.map_err(|error| unreachable(error.to_string()))?;
        Ok(Self {
            stream,
            decoder,
            next_seq: 1,
        })
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

/// How attempts are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// The address to connect from; `None` = as the system chooses.
    pub(super) local: Option<IpAddr>,
    /// An attempt is won by an answer: a connection alone says no more than that something on the way took it, and
    /// that as soon as it could.
    pub(super) asks: bool,
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) address: SocketAddr,
    /// Until it ended.
    pub(super) took: Duration,
    pub(super) ok: bool,
}

/// The addresses of HOST:PORT, or of several with commas between.
pub(super) fn resolve(address: &str) -> Result<Vec<SocketAddr>, TerminalError> {
    let mut resolved = Vec::new();
    let mut why = "the name has no address".to_owned();
    for one in address.split(',') {
        match one.to_socket_addrs() {
            Ok(addresses) => resolved.extend(addresses),
            Err(error) => why = error.to_string(),
        }
    }
    if resolved.is_empty() {
        let address = address.to_owned();
        return Err(TerminalError::Unreachable { address, why });
    }
    Ok(resolved)
}

/// A connection from `local`, or from wherever the system chooses.
pub(super) fn connect(
    address: SocketAddr,
    local: Option<IpAddr>,
    limit: Duration,
) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(local) = local {
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    socket.connect_timeout(&address.into(), limit)?;
    Ok(socket.into())
}

/// Runs the race over `addresses`; the last failure if nobody wins.
fn first_of(
    addresses: &[SocketAddr],
    way: Way,
    history: &Mutex<History>,
    attempts: &mut Vec<Attempt>,
) -> Result<(TcpStream, Decoder), String> {
    let history = || history.lock().unwrap_or_else(PoisonError::into_inner);
    let order = history().order(addresses, Instant::now());
    let mut race = Race::new(&order, Instant::now());
    let mut why = format!("no answer within {:?}", race::ATTEMPT);
    let (ended, results) = sync_channel(ADDRESSES);
    loop {
        let now = Instant::now();
        match race.step(now) {
            Step::Over => return Err(why),
            Step::Start(address) => {
                let ended = ended.clone();
                let attempt = move || {
                    let result = attempt(address, way);
                    let took = now.elapsed();
                    // Nobody listens once another has won.
                    let _ = ended.try_send((address, took, result));
                };
                if order.len() == 1 {
                    attempt();
                } else {
                    spawn("terminal-connect", attempt);
                }
            }
            Step::Wait(until) => match results.recv_timeout(until.saturating_since(now)) {
                Ok((address, took, result)) => {
                    let ok = result.is_ok();
                    history().note(address, ok, now);
                    attempts.push(Attempt { address, took, ok });
                    match result {
                        Ok(won) => return Ok(won),
                        Err(error) => {
                            why = error.to_string();
                            race.failed(address);
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            },
        }
    }
}

/// One attempt; where it asks, until a heartbeat is answered.
fn attempt(address: SocketAddr, way: Way) -> std::io::Result<(TcpStream, Decoder)> {
    let until = Instant::now() + race::ATTEMPT;
    let stream = connect(address, way.local, race::ATTEMPT)?;
    let mut decoder = Decoder::default();
    if !way.asks {
        return Ok((stream, decoder));
    }
    let beat = Frame {
        cmd: pb::Command::Noop as u32,
        seq: SEQ_NOOP,
        body: Bytes::new(),
    };
    stream.set_write_timeout(Some(race::ATTEMPT))?;
    (&stream).write_all(&beat.to_bytes())?;
    let mut bytes = [0; READ];
    loop {
        match decoder.next_frame() {
            Ok(Some(frame)) if frame.seq == SEQ_NOOP => return Ok((stream, decoder)),
            Ok(Some(_)) => {}
            Ok(None) => {
                let left = until.saturating_since(Instant::now());
                if left.is_zero() {
                    return Err(ErrorKind::TimedOut.into());
                }
                stream.set_read_timeout(Some(left))?;
                match (&stream).read(&mut bytes)? {
                    0 => return Err(ErrorKind::UnexpectedEof.into()),
                    length => decoder.feed(&bytes[..length]),
                }
            }
            Err(bad) => return Err(std::io::Error::other(bad.to_string())),
        }
    }
}

fn listed(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
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
