//! One connection of a channel: calls go out, answers come in.
//!
//! Knows: the session as a trait, the socket, who waits for which call.
//! Does not know: addresses, frames, messages.
//!
//! Invariants
//! - CC-1  All state is behind one spin lock; whoever waits for an answer is woken after it is released.
//! - CC-2  A slot is taken out by the caller that made it, and by nobody else: a late answer finds no
//!   call in the session and never reaches a slot.
//! - CC-3  Once `lost` is set no call is added, and every slot is done.
//! - CC-4  Once `leaving` is set no call is added, and whoever takes the last slot out ends the connection.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use slab::Slab;

use super::EHOSTDOWN;
use super::balance::Load;
use super::channel::ChannelLimits;
use super::link::Link;
use super::streams::StreamSlot;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::net::wait::{GaveUp, Waiter, wait_for_wake};
use crate::net::{
    Attachment, Bell, Crowd, Flush, Flushed, Handler, Outflow, Queued, Ready, Received, Socket,
    Turns, address, flush, on_worker, take_turn, watch,
};
use crate::rpc::protocol::{
    Bad, CallId, ClientEvent, ClientSession, IncomingReply, Limits, OutgoingCall,
};
use crate::rpc::status::Status;
use crate::rpc::status_map::{EFAILEDSOCKET, ELOGOFF, EOVERCROWDED};
use crate::runtime::Reason;

/// A connection to one server. Alive while its link, the reactor or a caller refers to it.
pub(super) struct Connection {
    link: Arc<Link>,
    socket: Socket,
    this: Weak<Self>,
    attachment: SpinLock<Option<Attachment>>,
    /// Whose turns are to come.
    turns: Turns,
    /// Rung by the first edges, while the link's coroutine waits for the connection to be made.
    made: Bell,
    pub(super) state: SpinLock<State>,
    /// Whom to wake after the state is released; its lock is taken before that of the state.
    waking: SpinLock<Vec<Waiter>>,
}

pub(super) struct State {
    pub session: Box<dyn ClientSession>,
    out: Outflow,
    /// Calls under way; the key is the session's token. At most `Limits::max_in_flight`.
    pub slots: Slab<Slot>,
    /// Senders of streams that wait for the socket.
    pub crowd: Crowd,
    /// Calls and messages sent; each [`WRITE_EVERY`]th is written at once with those before it.
    calls: u32,
    /// The socket may hold bytes for which no edge will come.
    read_pending: bool,
    /// As in the server's connection: a short read does not mean that there is nothing more to learn.
    hung_up: bool,
    /// Why no more calls are taken (CC-3).
    lost: Option<Arc<str>>,
    /// The server is not to be called any more (CC-4).
    leaving: bool,
}

pub(super) enum Slot {
    Waiting(Waiter),
    Done(Result<IncomingReply, Status>),
    /// Taken out when the last handle of the call goes.
    Stream(Box<StreamSlot>),
}

impl State {
    /// Bytes that wait to be written; 0 while the socket takes them.
    fn unwritten(&mut self) -> usize {
        if !self.out.is_blocked() {
            return 0;
        }
        self.session.transmit().iter().map(Bytes::len).sum()
    }

    /// A message of `size` bytes is about to be queued: stops the senders of streams where more than `max`
    /// bytes wait.
    pub fn look_at_queue(&mut self, size: usize, max: usize) {
        if self.crowd.is_due(size) {
            let full = self.unwritten() > max;
            self.crowd.set_full(full);
        }
    }

    /// Takes a call's slot out; true if the connection ends with it.
    pub fn take_out(&mut self, key: usize) -> (Option<Slot>, bool) {
        let slot = self.slots.try_remove(key);
        (slot, self.leaving && self.slots.is_empty())
    }

    /// Counts something queued; true if it is time to write.
    pub fn count_call(&mut self) -> bool {
        self.calls = self.calls.wrapping_add(1);
        self.calls.is_multiple_of(WRITE_EVERY)
    }
}

impl Queued for State {
    fn outflow(&mut self) -> (&mut Outflow, &mut VecDeque<Bytes>) {
        (&mut self.out, self.session.transmit())
    }
}

impl Connection {
    /// Connects to the link's target, within its connect timeout. Called by the link's coroutine.
    pub fn open(link: &Arc<Link>) -> io::Result<Arc<Self>> {
        let until = Instant::after(link.limits().connect_timeout);
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for addr in address::resolve(link.target())? {
            let attempt = Socket::start_connect(&addr).and_then(|socket| {
                let connection = Self::new(Arc::clone(link), socket)?;
                connection.finish_connecting(until)?;
                Ok(connection)
            });
            match attempt {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn new(link: Arc<Link>, socket: Socket) -> io::Result<Arc<Self>> {
        let limits = Limits {
            max_body: link.limits().max_message,
            max_decompressed: link.limits().max_message,
            max_in_flight: link.limits().max_pending,
            keepalive: link.limits().keepalive,
            ..Limits::default()
        };
        let session = link.session(limits)?;
        Ok(Arc::new_cyclic(|this| Self {
            link,
            socket,
            this: Weak::clone(this),
            attachment: SpinLock::new(None),
            turns: Turns::default(),
            made: Bell::new(),
            state: SpinLock::new(State {
                session,
                out: Outflow::default(),
                slots: Slab::new(),
                crowd: Crowd::default(),
                calls: 0,
                read_pending: false,
                hung_up: false,
                lost: None,
                leaving: false,
            }),
            waking: SpinLock::new(Vec::new()),
        }))
    }

    fn finish_connecting(self: &Arc<Self>, until: Instant) -> io::Result<()> {
        let attachment = watch(self.socket.fd(), Arc::clone(self) as Arc<_>)?;
        *self.attachment.lock() = Some(attachment);
        let result = loop {
            if let Some(result) = self.socket.connect_result() {
                break result;
            }
            match self.made.wait("connect", until) {
                Ok(()) => {}
                Err(GaveUp::TimedOut) => {
                    let limit = self.link.limits().connect_timeout;
                    let text = format!("no answer within {limit:?}");
                    break Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Err(GaveUp::Cancelled) => break Err(io::Error::other("cancelled")),
            }
        };
        if let Err(error) = &result {
            self.lose(&error.to_string());
        }
        result
    }

    /// The time has come to look whether the server is still there, if the session thinks so.
    pub fn look_at_clock(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let due = state.session.deadline().is_some_and(|when| when <= now);
        if !due || state.lost.is_some() {
            return;
        }
        let result = state.session.timed_out(now);
        drop(state);
        match result {
            Ok(()) => self.ask_for_turn(),
            Err(bad) => self.lose(&bad.to_string()),
        }
    }

    pub fn limits(&self) -> &ChannelLimits {
        self.link.limits()
    }

    /// What the server has to do for this channel.
    pub fn load(&self) -> &Load {
        self.link.load()
    }

    /// Sends a call whose answer goes into `slot`: the slot's key, and the session's id.
    #[inline]
    pub fn send_call(&self, call: OutgoingCall<'_>, slot: Slot) -> Result<(usize, CallId), Status> {
        let (key, id, write_now) = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if let Some(why) = &state.lost {
                let text = format!("{why}; the call was not sent");
                return Err(Status::from_errno(EHOSTDOWN, text));
            }
            if state.leaving {
                let text = format!("{} {LEFT}; the call was not sent", self.link.target());
                return Err(Status::from_errno(EHOSTDOWN, text));
            }
            check_unwritten(state, self.link.limits().max_unwritten)?;
            let key = state.slots.insert(slot);
            let call = OutgoingCall {
                token: key as u64,
                ..call
            };
            match state.session.call(call) {
                Ok(id) => (key, id, state.count_call()),
                Err(status) => {
                    state.slots.remove(key);
                    return Err(status);
                }
            }
        };
        self.ask_for_turn();
        if write_now {
            self.write_out();
        }
        Ok((key, id))
    }

    /// Sends a call and waits for its answer until `until`, the scope's end included by the caller.
    pub fn call(&self, call: OutgoingCall<'_>, until: Instant) -> Result<IncomingReply, Status> {
        let (key, id) = self.send_call(call, Slot::Waiting(Waiter::current()))?;
        let done = || {
            let mut state = self.state.lock();
            match state.slots.get(key) {
                Some(Slot::Done(_)) => Some(state.take_out(key)),
                _ => None,
            }
        };
        let (result, last) = match wait_for_wake(Reason::Call, until, done) {
            Ok((Some(Slot::Done(result)), last)) => (result, last),
            Ok(_) => unreachable!("only a slot that is done is taken out"),
            Err(gave_up) => {
                let mut state = self.state.lock();
                state.session.cancel(id);
                let (slot, last) = state.take_out(key);
                drop(state);
                // The session may have told the peer.
                self.ask_for_turn();
                match slot {
                    // It came at the last moment.
                    Some(Slot::Done(result)) => (result, last),
                    _ => (Err(given_up(gave_up)), last),
                }
            }
        };
        if last {
            self.lose(LEFT);
        }
        result
    }

    /// The connection takes no more calls; it ends with the last of those under way, or now.
    pub fn finish(&self) {
        let idle = {
            let mut state = self.state.lock();
            state.leaving = true;
            state.slots.is_empty()
        };
        if idle {
            self.lose(LEFT);
        }
    }

    /// As on the server: one flush for all that a turn's coroutines have queued.
    pub fn ask_for_turn(&self) {
        if !on_worker() {
            // It takes no bit: a worker that sees its own set relies on a turn that also reads.
            return self.write_out();
        }
        if !self.turns.are_due() {
            return;
        }
        let this = self
            .this
            .upgrade()
            .expect("whoever queues bytes holds a reference");
        take_turn(this);
    }

    pub fn write_out(&self) {
        match flush(&self.socket, &self.state) {
            Flushed::Done => {
                let relieved = self.state.lock().crowd.relieve();
                for waiter in relieved {
                    waiter.wake();
                }
            }
            Flushed::Waiting => {}
            Flushed::Failed(error) => self.lose(&error.to_string()),
        }
    }

    /// Reads until the socket is drained or the turn's share is used, and wakes the callers.
    fn read_turn(&self) {
        let mut share = READ_PER_TURN;
        let mut waking = self.waking.lock();
        let lost = loop {
            if share == 0 {
                self.state.lock().read_pending = true;
                self.ask_for_turn();
                break None;
            }
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if state.lost.is_some() {
                break None;
            }
            match self.socket.receive(state.session.recv_space(), share) {
                Received::Bytes { count, drained } => {
                    share -= count;
                    let parsed = state.session.received(count, Instant::now());
                    let retire = deliver(state, &mut waking);
                    let drained = drained && !state.hung_up;
                    state.read_pending = !drained;
                    let failure = failure(&*state.session, parsed);
                    // The session has answers of its own: to pings, to settings.
                    let owes = !state.out.is_blocked() && !state.session.transmit().is_empty();
                    drop(guard);
                    if owes {
                        self.ask_for_turn();
                    }
                    if retire {
                        self.link.retire(self);
                    }
                    if let Some(why) = failure {
                        break Some(why);
                    }
                    if drained {
                        break None;
                    }
                }
                Received::WouldBlock => {
                    state.read_pending = false;
                    break None;
                }
                Received::Ended => break Some("the server closed the connection".to_owned()),
                Received::Failed(error) => break Some(error.to_string()),
            }
        };
        // CC-1: the woken take the state's lock.
        for waiter in waking.drain(..) {
            waiter.wake();
        }
        drop(waking);
        if let Some(why) = lost {
            return self.lose(&why);
        }
        // The session may have answered what it read by itself. A full socket's next edge brings the turn.
        let news = {
            let mut state = self.state.lock();
            state.lost.is_none() && !state.out.is_blocked() && !state.session.transmit().is_empty()
        };
        if news {
            self.ask_for_turn();
        }
    }

    /// The connection takes no more calls; those under way fail.
    pub fn lose(&self, why: &str) {
        let mut waking = Vec::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            if state.lost.is_some() {
                return;
            }
            let target = self.link.target();
            state.lost = Some(format!("the connection to {target} is lost: {why}").into());
            let text =
                format!("the connection to {target} was lost ({why}); the call may have run");
            state
                .session
                .abort(&Status::from_errno(EFAILEDSOCKET, text));
            deliver(state, &mut waking);
            waking.append(&mut state.crowd.relieve());
        }
        self.socket.end_both();
        drop(self.attachment.lock().take());
        self.link.retire(self);
        for waiter in waking {
            waiter.wake();
        }
    }
}

impl Handler for Connection {
    fn ready(&self, event: Ready) {
        // Only the first edges find a listener.
        self.made.ring();
        if event.closed {
            self.state.lock().hung_up = true;
        }
        if event.writable && self.state.lock().out.writable() {
            self.write_out();
        }
        if event.readable {
            self.read_turn();
        }
    }
}

impl Flush for Connection {
    fn flush(&self) {
        self.turns.begin();
        self.write_out();
        if self.state.lock().read_pending {
            self.read_turn();
        }
    }
}

/// Hands the session's events to their slots. True if the server says that it is going away.
fn deliver(state: &mut State, waking: &mut Vec<Waiter>) -> bool {
    let mut going_away = false;
    while let Some(event) = state.session.next_event() {
        let failed = match &event {
            ClientEvent::Reply { result, .. } => result.as_ref().err(),
            ClientEvent::End { result, .. } => result.as_ref().err(),
            ClientEvent::GoingAway => {
                going_away = true;
                continue;
            }
            _ => None,
        };
        going_away |= failed.is_some_and(|status| status.is_errno(ELOGOFF));
        let slot = event
            .token()
            .and_then(|token| state.slots.get_mut(token as usize));
        match (slot, event) {
            (Some(Slot::Stream(slot)), event) => slot.take(event, waking),
            (Some(slot), ClientEvent::Reply { result, .. }) => {
                if let Slot::Waiting(waiter) = std::mem::replace(slot, Slot::Done(result)) {
                    waking.push(waiter);
                }
            }
            _ => {}
        }
    }
    going_away
}

/// Why the connection cannot go on after what came; `None` = it can.
fn failure(session: &dyn ClientSession, parsed: Result<(), Bad>) -> Option<String> {
    let bad = parsed.err().map(|bad| bad.to_string());
    let finished = || Some("the server sent what is no answer".to_owned());
    let why = bad.or_else(|| session.is_finished().then(finished)?)?;
    Some(session.failure().map_or(why, str::to_owned))
}

fn check_unwritten(state: &mut State, max: usize) -> Result<(), Status> {
    let unwritten = state.unwritten();
    if unwritten <= max {
        return Ok(());
    }
    let text = format!("{unwritten} bytes wait to be written to the server; the call was not sent");
    Err(Status::from_errno(EOVERCROWDED, text))
}

pub(super) fn given_up(gave_up: GaveUp) -> Status {
    match gave_up {
        GaveUp::TimedOut => {
            Status::deadline_exceeded("no answer came in time; the call may have run")
        }
        GaveUp::Cancelled => Status::cancelled("cancelled; the call may have run"),
    }
}

/// Why a connection takes no more calls although it stands.
pub(super) const LEFT: &str = "is not named any more";
/// Calls that wait for the end of the turn together at most: the server works on them while we go on.
const WRITE_EVERY: u32 = 32;
/// Bytes read in one turn; see the server's.
const READ_PER_TURN: usize = 64 << 10;
