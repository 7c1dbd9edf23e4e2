//! A link that speaks for somebody: requests from many coroutines, one reader.
//!
//! Knows:       the stream, seqs and who waits for which, the heartbeat.
//! Does not know: what pushes mean, stores, reconnecting.
//!
//! Whoever has a request writes it under the write lock and waits for the reader to bring the reply.
//! The reader is one coroutine; it alone reads, and it alone decides that the link is dead.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::base::time::Instant;

use super::adaptive::Outcome;
use super::connection::{ANSWER, Connection, READ, is_pause, lost, open_reply};
use super::error::TerminalError;
use super::heartbeat::{Due, Heartbeat, Rhythm};
use crate::longlink::{Decoder, Frame, SEQ_NOOP, SEQ_PUSH, SEQ_RESERVED};
use crate::model::brief;
use crate::proto::terminal as pb;

/// Requests that may be under way on one link.
const MAX_WAITING: usize = 256;

/// The shared half: everybody may ask.
#[derive(Debug)]
pub(super) struct Link {
    /// Whom it speaks for.
    pub(super) user: u64,
    stream: TcpStream,
    heart: Mutex<Heartbeat>,
    rhythm: Arc<Rhythm>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    next_seq: u32,
    /// By seq; at most [`MAX_WAITING`].
    calls: HashMap<u32, SyncSender<Bytes>>,
    /// Set once, with the reason; then every request fails at once.
    ended: Option<String>,
}

/// What the reader hands on.
#[derive(Debug)]
pub(super) enum Came {
    /// A word about the timeline.
    Push(Push),
    /// What passes.
    Signs(pb::Ephemeral),
}

/// How far the timeline is.
#[derive(Debug)]
pub(super) enum Push {
    /// The timeline has moved.
    Notify(pb::Notify),
    /// The answer to a heartbeat.
    Beat(pb::Beat),
}

/// The half of the one coroutine that reads.
pub(super) struct Reader {
    decoder: Decoder,
    /// The read timeout the socket has now.
    timeout: Duration,
}

impl Link {
    /// Takes over a connection whose AUTH succeeded.
    pub(super) fn new(
        connection: Connection,
        user: u64,
        rhythm: Arc<Rhythm>,
        keep_signal: bool,
    ) -> (Self, Reader) {
        let Connection {
            stream,
            decoder,
            next_seq,
        } = connection;
        let waiting = Waiting {
            next_seq,
            calls: HashMap::new(),
            ended: None,
        };
        let heart = Heartbeat::new(rhythm.linked(), Instant::now());
        let link = Self {
            user,
            stream,
            heart: Mutex::new(heart.keeping_signal(keep_signal)),
            rhythm,
            waiting: Mutex::new(waiting),
        };
        (
            link,
            Reader {
                decoder,
                timeout: Duration::ZERO,
            },
        )
    }

    /// Sends a command and waits for its reply.
    ///
    /// # Errors
    /// What went wrong. A request that got no answer ends the link, as in Mars: whatever holds it up
    /// would hold up the next one too.
    pub(super) fn request<Reply: Message + Default>(
        &self,
        command: pb::Command,
        request: &impl Message,
    ) -> Result<Reply, TerminalError> {
        let (answer, answered) = sync_channel(1);
        let seq = self.register(answer)?;
        let frame = Frame::of(command as u32, seq, request).inspect_err(|_| self.forget(seq))?;
        if let Err(error) = self.write(&frame) {
            self.forget(seq);
            return Err(error);
        }
        match answered.recv_timeout(ANSWER) {
            Ok(body) => open_reply(&body),
            Err(RecvTimeoutError::Timeout) => {
                self.forget(seq);
                self.end("a request was not answered");
                Err(TerminalError::Timeout(ANSWER))
            }
            Err(RecvTimeoutError::Disconnected) => Err(TerminalError::Lost(self.reason())),
        }
    }

    /// Ends the link: the reader wakes, requests under way fail.
    pub(super) fn end(&self, why: &str) {
        let mut waiting = self.waiting();
        if waiting.ended.is_none() {
            waiting.ended = Some(why.to_owned());
        }
        waiting.calls.clear();
        drop(waiting);
        // It fails only when the connection is gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn register(&self, answer: SyncSender<Bytes>) -> Result<u32, TerminalError> {
        let mut waiting = self.waiting();
        if let Some(why) = &waiting.ended {
            return Err(TerminalError::Lost(why.clone()));
        }
        if waiting.calls.len() >= MAX_WAITING {
            let text = format!("{MAX_WAITING} requests are under way; wait for their answers");
            return Err(TerminalError::Refused {
                code: super::error::code::RESOURCE_EXHAUSTED,
                text,
            });
        }
        let seq = waiting.next_seq;
        // 2^32 requests on one link would take years; if it happens the seqs start over.
        waiting.next_seq = if seq + 1 >= SEQ_RESERVED { 1 } else { seq + 1 };
        waiting.calls.insert(seq, answer);
        Ok(seq)
    }

    fn forget(&self, seq: u32) {
        self.waiting().calls.remove(&seq);
    }

    fn reason(&self) -> String {
        self.waiting()
            .ended
            .clone()
            .unwrap_or_else(|| "the link ended".to_owned())
    }

    /// Writes a packet. The heart's lock is the write lock too: a packet goes out whole.
    fn write(&self, frame: &Frame) -> Result<(), TerminalError> {
        let packet = frame.to_bytes();
        let mut heart = self.heart.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = (&self.stream).write_all(&packet) {
            drop(heart);
            let error = lost(&error);
            self.end(&error.to_string());
            return Err(error);
        }
        let now = Instant::now();
        if frame.seq == SEQ_NOOP {
            heart.beat_sent(now);
            self.rhythm.sent();
        } else {
            heart.sent(now);
        }
        if frame.cmd == pb::Command::Send as u32 {
            heart.interacted(now);
        }
        Ok(())
    }

    fn heart(&self) -> MutexGuard<'_, Heartbeat> {
        self.heart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// Reads until something comes that is no reply, sending beats when they are due and handing replies to those who wait.
    ///
    /// # Errors
    /// Why the link is over; [`Link::end`] was called.
    pub(super) fn next(&mut self, link: &Link) -> Result<Came, TerminalError> {
        let result = self.read_on(link);
        if let Err(error) = &result {
            // Says something only if a beat was under way, and is not known to have timed out.
            link.rhythm.ended(Outcome::LinkLost, Instant::now());
            link.end(&error.to_string());
        }
        result
    }

    fn read_on(&mut self, link: &Link) -> Result<Came, TerminalError> {
        let mut bytes = [0; READ];
        loop {
            while let Some(frame) = self.decoder.next_frame()? {
                if let Some(came) = take_frame(link, frame)? {
                    return Ok(came);
                }
            }
            let now = Instant::now();
            let due = link.heart().due(now);
            match due {
                Due::Dead => {
                    link.rhythm.ended(Outcome::TimedOut, now);
                    return Err(TerminalError::Lost(
                        "a heartbeat was not answered".to_owned(),
                    ));
                }
                Due::Beat => {
                    link.write(&empty(pb::Command::Noop, SEQ_NOOP))?;
                    continue;
                }
                Due::Signal => {
                    link.write(&empty(pb::Command::SignalKeep, SEQ_PUSH))?;
                    continue;
                }
                Due::At(until) => self.set_timeout(link, until.saturating_since(now))?,
            }
            match (&link.stream).read(&mut bytes) {
                Ok(0) => return Err(TerminalError::Lost("the other end closed it".to_owned())),
                Ok(length) => {
                    link.heart().moved(Instant::now());
                    self.decoder.feed(&bytes[..length]);
                }
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(lost(&error)),
            }
        }
    }

    /// Sets the socket's timeout, unless the one it has is close: a system call per read is not worth a
    /// beat that is an eighth late at most.
    fn set_timeout(&mut self, link: &Link, wanted: Duration) -> Result<(), TerminalError> {
        let wanted = wanted.max(Duration::from_millis(1));
        if self.timeout > wanted + wanted / 8 || self.timeout < wanted / 2 {
            link.stream
                .set_read_timeout(Some(wanted))
                .map_err(|error| lost(&error))?;
            self.timeout = wanted;
        }
        Ok(())
    }
}

/// A packet without a body.
fn empty(command: pb::Command, seq: u32) -> Frame {
    Frame {
        cmd: command as u32,
        seq,
        body: Bytes::new(),
    }
}

/// Hands a reply to its caller; gives back what is none. Commands of a later version are passed over.
fn take_frame(link: &Link, frame: Frame) -> Result<Option<Came>, TerminalError> {
    let nonsense = |error: prost::DecodeError| TerminalError::Nonsense(error.to_string());
    if frame.seq == SEQ_NOOP {
        let next = link.rhythm.ended(Outcome::Answered, Instant::now());
        let mut heart = link.heart();
        heart.answered();
        heart.set_interval(next);
        drop(heart);
        let beat = pb::Beat::decode(frame.body).map_err(nonsense)?;
        return Ok(Some(Came::Push(Push::Beat(beat))));
    }
    if frame.seq == SEQ_PUSH {
        let came = match i32::try_from(frame.cmd).map(pb::Command::try_from) {
            Ok(Ok(pb::Command::PushNotify)) => {
                let mut notify = pb::Notify::decode(frame.body).map_err(nonsense)?;
                brief::restore_notify(&mut notify, link.user);
                Came::Push(Push::Notify(notify))
            }
            Ok(Ok(pb::Command::PushEphemeral)) => {
                Came::Signs(pb::Ephemeral::decode(frame.body).map_err(nonsense)?)
            }
            _ => return Ok(None),
        };
        return Ok(Some(came));
    }
    // Nobody waits for it any more when the request timed out.
    if let Some(answer) = link.waiting().calls.remove(&frame.seq) {
        let _ = answer.try_send(frame.body);
    }
    Ok(None)
}
