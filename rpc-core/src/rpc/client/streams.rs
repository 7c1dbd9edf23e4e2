//! A call with streams, from its start to its end.
//!
//! Knows: the connection's table, who waits to read and who to send.
//! Does not know: frames, messages.
//!
//! A call's slot lives as long as its [`StreamCall`]. The one who sends and the one who reads may be two
//! coroutines; each waits on its own.
//!
//! Invariants
//! - CS-1  A slot's end is set once. After that its sender stops and its reader takes what is left.
//! - CS-2  What waits in a slot is bounded by the session's window.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::connection::{Connection, LEFT, Slot, State, given_up};
use crate::base::time::Instant;
use crate::net::wait::{self, Waiter, wait_for};
use crate::rpc::compression::Compression;
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{Body, CallId, ClientEvent, IncomingReply, OutgoingCall, RawBody, Room};
use crate::rpc::status::Status;
use crate::rpc::status_map::{ECLOSE, ERESPONSE};
use crate::rpc::streaming::{Duplex, Pull, SendBytes};
use crate::runtime::{JoinHandle, Reason, yield_now};

/// What a call with streams has received, and who waits for it.
#[derive(Default)]
pub(super) struct StreamSlot {
    head: Option<MetadataMap>,
    inbox: VecDeque<RawBody>,
    /// The one answer, where there is one; taken out by the caller.
    reply: Option<Result<IncomingReply, Status>>,
    /// CS-1.
    end: Option<Result<MetadataMap, Status>>,
    /// The session takes no more until it says so.
    full: bool,
    reader: Option<Waiter>,
    writer: Option<Waiter>,
}

impl StreamSlot {
    /// Takes an event of the session; whom to wake is added to `woken`.
    pub fn take(&mut self, event: ClientEvent, woken: &mut Vec<Waiter>) {
        match event {
            ClientEvent::Reply { result, .. } => {
                if !matches!(&result, Ok(reply) if reply.stream_accepted) {
                    self.end.get_or_insert(Ok(MetadataMap::new()));
                }
                self.reply = Some(result);
            }
            ClientEvent::Head { metadata, .. } => self.head = Some(metadata),
            ClientEvent::Message { message, .. } => self.inbox.push_back(message),
            ClientEvent::End { result, .. } => {
                self.end.get_or_insert(result);
            }
            ClientEvent::Writable { .. } => {
                self.full = false;
                woken.extend(self.writer.take());
                return;
            }
            // About no call.
            ClientEvent::GoingAway => return,
        }
        woken.extend(self.reader.take());
        if self.end.is_some() {
            woken.extend(self.writer.take());
        }
    }
}

/// A call with streams that was sent.
pub(super) struct StreamCall {
    connection: Arc<Connection>,
    key: usize,
    id: CallId,
    /// The call's own time; the scope of whoever waits bounds it further.
    until: Instant,
}

impl StreamCall {
    /// Sends a call that has streams.
    pub fn start(
        connection: &Arc<Connection>,
        call: OutgoingCall<'_>,
        until: Instant,
    ) -> Result<Self, Status> {
        let slot = Slot::Stream(Box::default());
        let (key, id) = connection.send_call(call, slot)?;
        Ok(Self {
            connection: Arc::clone(connection),
            key,
            id,
            until,
        })
    }

    /// The same call without a deadline: its answer has come, its stream goes on.
    pub fn outlive_deadline(mut self) -> Self {
        self.until = Instant::NEVER;
        self
    }

    /// Waits for room, then sends a message. False if the call has ended, which its reader is told of.
    pub fn send(&self, message: Body<'_>, compression: Compression) -> Result<bool, Status> {
        let limits = self.connection.limits();
        let (size, limit) = (message.len(), limits.max_message);
        if size > limit {
            return Err(Status::resource_exhausted(format!(
                "a message has {size} bytes, the limit for one is {limit}: raise it or send less"
            )));
        }
        let mut message = Some(message);
        let sent = self.wait("room to send", |state| {
            state.look_at_queue(size, limits.max_unwritten);
            let Some(Slot::Stream(slot)) = state.slots.get_mut(self.key) else {
                return Some(None);
            };
            if slot.end.is_some() {
                return Some(None);
            }
            if slot.full {
                slot.writer = Some(Waiter::current());
                return None;
            }
            if state.crowd.is_full() {
                state.crowd.join();
                return None;
            }
            let message = message.take().expect("a message is sent once");
            slot.full = state.session.send(self.id, message, compression) == Room::Full;
            Some(Some(state.count_call()))
        })?;
        self.connection.ask_for_turn();
        if sent == Some(true) {
            self.connection.write_out();
            // As on the server.
            yield_now();
        }
        Ok(sent.is_some())
    }

    /// No more messages will be sent.
    pub fn half_close(&self) {
        self.connection.state.lock().session.half_close(self.id);
        self.connection.ask_for_turn();
    }

    /// Waits for the one answer of the call.
    pub fn reply(&self) -> Result<IncomingReply, Status> {
        self.wait("an answer", |state| {
            let slot = self.slot(state)?;
            if let Some(reply) = slot.reply.take() {
                return Some(reply);
            }
            if let Some(end) = &slot.end {
                let text = "the call ended without an answer";
                let missing = || Status::from_errno(ERESPONSE, text);
                return Some(Err(end.as_ref().err().cloned().unwrap_or_else(missing)));
            }
            slot.reader = Some(Waiter::current());
            None
        })?
    }

    /// Waits for what precedes the messages.
    pub fn head(&self) -> Result<MetadataMap, Status> {
        self.wait("the stream's beginning", |state| {
            let slot = self.slot(state)?;
            match (&slot.head, &slot.end) {
                (Some(head), _) => Some(Ok(head.clone())),
                (None, Some(Ok(_))) => Some(Ok(MetadataMap::new())),
                (None, Some(Err(status))) => Some(Err(status.clone())),
                (None, None) => {
                    slot.reader = Some(Waiter::current());
                    None
                }
            }
        })?
    }

    /// Waits for the next message; after the last one gives the trailers instead.
    fn next(&self) -> Result<Result<RawBody, MetadataMap>, Status> {
        let next = self.wait("a message", |state| {
            let slot = self.slot(state)?;
            if let Some(message) = slot.inbox.pop_front() {
                state.session.consumed(self.id, message.data.len());
                return Some(Ok(Ok(message)));
            }
            if let Some(end) = &slot.end {
                return Some(end.clone().map(Err));
            }
            slot.reader = Some(Waiter::current());
            None
        })?;
        if matches!(next, Ok(Ok(_))) {
            // The session may have told the peer of its new room.
            self.connection.ask_for_turn();
        }
        next
    }

    /// Gives the call up: the peer is told where it can be, and whoever waits is woken.
    pub fn cancel(&self, why: &Status) {
        let mut woken = Vec::new();
        {
            let mut state = self.connection.state.lock();
            let Some(slot) = self.slot(&mut state) else {
                return;
            };
            if slot.end.is_some() {
                return;
            }
            slot.end = Some(Err(why.clone()));
            woken.extend(slot.reader.take());
            woken.extend(slot.writer.take());
            state.session.cancel(self.id);
        }
        for waiter in woken {
            waiter.wake();
        }
        self.connection.ask_for_turn();
    }

    fn slot<'a>(&self, state: &'a mut State) -> Option<&'a mut StreamSlot> {
        match state.slots.get_mut(self.key) {
            Some(Slot::Stream(slot)) => Some(slot),
            _ => None,
        }
    }

    /// Waits until `look` gives something. The call is given up where the time is over or the waiting
    /// coroutine is cancelled.
    fn wait<T>(
        &self,
        what: &'static str,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> Result<T, Status> {
        let until = self.until.min(wait::scope_deadline());
        let found = wait_for(Reason::Other(what), until, || {
            look(&mut self.connection.state.lock())
        });
        found.map_err(|gave_up| {
            let status = given_up(gave_up);
            self.cancel(&status);
            status
        })
    }
}

impl Drop for StreamCall {
    fn drop(&mut self) {
        self.cancel(&Status::cancelled("nobody waits for the call any more"));
        // What is in the slot is dropped outside the lock.
        let (slot, last) = self.connection.state.lock().take_out(self.key);
        drop(slot);
        if last {
            self.connection.lose(LEFT);
        }
    }
}

/// The messages that answer a call. Dropping it gives the call up.
pub(super) struct Answers {
    call: Arc<StreamCall>,
    /// The coroutine that sends the requests, where there is one.
    sending: Option<JoinHandle<()>>,
    head: Option<MetadataMap>,
    trailers: Option<MetadataMap>,
    /// Bytes of one message after decompression.
    max: usize,
    compression: Compression,
}

impl Answers {
    pub fn new(call: Arc<StreamCall>, sending: Option<JoinHandle<()>>, max: usize) -> Self {
        Self {
            call,
            sending,
            head: None,
            trailers: None,
            max,
            compression: Compression::None,
        }
    }
}

impl Pull for Answers {
    fn next(&mut self) -> Option<Result<Bytes, Status>> {
        match self.call.next() {
            Ok(Ok(message)) => {
                self.compression = message.compression;
                let opened = message.open(&Bytes::new(), self.max);
                Some(
                    opened.map_err(|status| {
                        Status::from_errno(ERESPONSE, status.message().to_owned())
                    }),
                )
            }
            Ok(Err(trailers)) => {
                self.trailers = Some(trailers);
                None
            }
            Err(status) => Some(Err(status)),
        }
    }

    fn metadata(&mut self) -> Result<&MetadataMap, Status> {
        if self.head.is_none() {
            self.head = Some(self.call.head()?);
        }
        Ok(self.head.get_or_insert_default())
    }

    fn trailers(&self) -> Option<&MetadataMap> {
        self.trailers.as_ref()
    }

    fn compression(&self) -> Compression {
        self.compression
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.call
            .cancel(&Status::cancelled("the stream of answers was dropped"));
        if let Some(sending) = &self.sending {
            sending.cancel();
        }
    }
}

/// The duty to send a call's requests to their end; the call is given up where that fails.
pub(super) struct Sending {
    call: Arc<StreamCall>,
    done: bool,
}

impl Sending {
    pub fn new(call: Arc<StreamCall>) -> Self {
        Self { call, done: false }
    }

    pub fn call(&self) -> &StreamCall {
        &self.call
    }

    /// The requests were sent, or why not all of them.
    pub fn ended(&mut self, sent: Result<(), Status>) {
        self.done = true;
        if let Err(status) = sent {
            self.call.cancel(&status);
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.done {
            let text = "the requests were not sent: their iterator panicked, or the runtime ended";
            self.call.cancel(&Status::internal(text));
        }
    }
}

/// A stream beside a unary call that the server accepted. Its last handle closes it.
pub(super) struct Beside {
    call: Arc<StreamCall>,
    trailers: Option<MetadataMap>,
}

impl Beside {
    pub fn new(call: StreamCall) -> Self {
        Self {
            call: Arc::new(call),
            trailers: None,
        }
    }
}

fn send(call: &StreamCall, message: Bytes) -> Result<(), Status> {
    if call.send(Body::Bytes(message), Compression::None)? {
        return Ok(());
    }
    let text = "the peer has closed the stream";
    Err(Status::from_errno(ECLOSE, text))
}

impl Pull for Beside {
    fn next(&mut self) -> Option<Result<Bytes, Status>> {
        match self.call.next() {
            Ok(Ok(message)) => Some(Ok(message.data)),
            Ok(Err(trailers)) => {
                self.trailers = Some(trailers);
                None
            }
            Err(status) => Some(Err(status)),
        }
    }

    fn metadata(&mut self) -> Result<&MetadataMap, Status> {
        static NONE: MetadataMap = MetadataMap::new();
        Ok(&NONE)
    }

    fn trailers(&self) -> Option<&MetadataMap> {
        self.trailers.as_ref()
    }
}

impl Duplex for Beside {
    /// It was, by the server.
    fn accept(&mut self) {}

    fn send(&mut self, message: Bytes) -> Result<(), Status> {
        send(&self.call, message)
    }

    fn sender(&self) -> Box<dyn SendBytes> {
        Box::new(BesideSender(Arc::clone(&self.call)))
    }
}

struct BesideSender(Arc<StreamCall>);

impl SendBytes for BesideSender {
    fn send(&self, message: Bytes) -> Result<(), Status> {
        send(&self.0, message)
    }
}
