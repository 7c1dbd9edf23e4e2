//! A connection's turn at reading: sniff, feed the session, hand out what it found.
//!
//! Knows: probes, events, how much one turn may read.   Does not know: frames, handlers.
//!
//! Runs on the worker's loop, or in a turn that the connection asked for. Bytes are received under the
//! connection's lock, straight into the session's space; calls are spawned after it is released.

use std::sync::Arc;

use bytes::Bytes;

use super::call::{PendingCall, PendingPage};
use super::connection::{Connection, Prefix, Stage, State};
use super::options::{LINGER_BYTES_MAX, READ_PER_TURN};
use super::stats::CloseReason;
use crate::base::time::Instant;
use crate::net::Received;
use crate::rpc::protocol::call::fill;
use crate::rpc::protocol::{
    BadReason, EndOfInput, IncomingCall, Probe, Reply, ServerEvent, ServerSession,
};
use crate::runtime::nudge;

/// What one step of reading came to.
enum Step {
    /// Look for events, then read on.
    Again,
    /// Look for events; there is nothing more to read for now.
    Enough,
    /// Nothing was read; wait.
    Stop,
    /// The connection is lost.
    Lost(CloseReason),
}

impl Connection {
    /// Reads until the socket is drained, the turn's share is used, or reading is not wanted.
    pub(super) fn read_turn(&self) {
        let mut share = READ_PER_TURN;
        loop {
            let step = self.step(&mut share);
            match step {
                Step::Again => self.hand_out(),
                Step::Enough => return self.hand_out(),
                Step::Stop => return,
                Step::Lost(reason) => return self.lose(reason),
            }
        }
    }

    fn step(&self, share: &mut usize) -> Step {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.ending.is_some() && !matches!(state.stage, Stage::Lingering { .. }) {
            state.read_pending = false;
            return Step::Stop;
        }
        if *share == 0 {
            // Others of this worker first; the rest of what is there gets another turn.
            state.read_pending = true;
            drop(guard);
            self.ask_for_turn();
            return Step::Stop;
        }
        if matches!(state.stage, Stage::Open(_))
            && state.unwritten() > self.core().options.unwritten_pause
        {
            // The next flush that gets rid of bytes comes back here.
            state.read_pending = true;
            return Step::Stop;
        }
        match &mut state.stage {
            Stage::Open(session) if !session.wants_input() => {
                state.read_pending = true;
                Step::Stop
            }
            Stage::Open(_) => receive(self, state, share),
            Stage::Sniffing(_) => {
                let step = sniff(self, state, share);
                let answered = !state.leftover.is_empty();
                drop(guard);
                if answered {
                    self.ask_for_turn();
                }
                step
            }
            Stage::Lingering { .. } => discard(self, state),
            Stage::Closed => Step::Stop,
        }
    }

    /// Spawns the calls that the session has found.
    fn hand_out(&self) {
        let this = self
            .shared()
            .expect("whoever reads holds a reference to the connection");
        let mut started = 0;
        loop {
            let event = {
                let mut state = self.state.lock();
                let Stage::Open(session) = &mut state.stage else {
                    return;
                };
                let Some(event) = session.next_event() else {
                    break;
                };
                state.open_calls += 1;
                event
            };
            match event {
                ServerEvent::Call(call) => {
                    start(&this, call);
                    started += 1;
                }
                ServerEvent::Page(page) => {
                    let page = PendingPage::new(Arc::clone(&this), page);
                    self.core().spawn(page, "rpc page");
                }
            }
        }
        if started >= NUDGE_AT {
            nudge();
        }
        // The session may have queued answers of its own: refusals, the reply to bad input.
        let due = {
            let mut state = self.state.lock();
            let ending = state.ending.is_some();
            match &mut state.stage {
                Stage::Open(session) => {
                    ending || !session.transmit().is_empty() || session.is_finished()
                }
                _ => true,
            }
        };
        if due {
            self.ask_for_turn();
        }
    }
}

fn start(connection: &Arc<Connection>, call: IncomingCall) {
    if let Err(status) = connection.core().admit() {
        return connection.refuse(call.id, Reply::Refused(&status));
    }
    let pending = PendingCall::new(Arc::clone(connection), call);
    connection.core().spawn(pending, "rpc call");
}

/// Receives once into the session's space and lets it parse.
fn receive(connection: &Connection, state: &mut State, share: &mut usize) -> Step {
    let Stage::Open(session) = &mut state.stage else {
        return Step::Stop;
    };
    match connection.socket.receive(session.recv_space(), *share) {
        Received::Bytes { count, drained } => {
            *share -= count;
            let parsed = session.received(count, Instant::now());
            if parsed.is_err() {
                state.ending = Some(CloseReason::BadInput);
                return Step::Enough;
            }
            // N-1: after a short read the next edge tells, unless the stream's end was announced.
            let drained = drained && !state.hung_up;
            state.read_pending = !drained;
            if drained { Step::Enough } else { Step::Again }
        }
        Received::WouldBlock => {
            state.read_pending = false;
            Step::Stop
        }
        Received::Ended => ended(state),
        Received::Failed(_) => Step::Lost(CloseReason::PeerReset),
    }
}

fn ended(state: &mut State) -> Step {
    state.read_pending = false;
    let Stage::Open(session) = &mut state.stage else {
        return Step::Lost(CloseReason::PeerClosed);
    };
    match session.end_of_input() {
        EndOfInput::Abandon => Step::Lost(CloseReason::PeerClosed),
        EndOfInput::Finish if session.is_finished() && session.transmit().is_empty() => {
            Step::Lost(CloseReason::PeerClosed)
        }
        EndOfInput::Finish => Step::Enough,
    }
}

/// Receives the first bytes of a connection and looks which protocol they belong to.
fn sniff(connection: &Connection, state: &mut State, share: &mut usize) -> Step {
    let Stage::Sniffing(prefix) = &mut state.stage else {
        return Step::Stop;
    };
    let mut room = &mut prefix.bytes[prefix.len..];
    match connection.socket.receive(&mut room, *share) {
        Received::Bytes { count, .. } => {
            *share -= count;
            prefix.len += count;
        }
        Received::WouldBlock => {
            state.read_pending = false;
            return Step::Stop;
        }
        Received::Ended => return Step::Lost(CloseReason::PeerClosed),
        Received::Failed(_) => return Step::Lost(CloseReason::PeerReset),
    }
    let config = &connection.core().config;
    let first = &prefix.bytes[..prefix.len];
    let mut open = None;
    let mut undecided = false;
    for protocol in &config.protocols {
        match protocol.probe(first) {
            Probe::Yes => {
                open = Some(protocol.session(config));
                break;
            }
            Probe::NeedMore => undecided = true,
            Probe::No => {}
        }
    }
    match open {
        Some(session) => begin(connection, state, session),
        None if undecided && prefix.len < prefix.bytes.len() => Step::Again,
        None => foreign(state),
    }
}

/// Hands the first bytes to the session that is to have the connection.
fn begin(connection: &Connection, state: &mut State, mut session: Box<dyn ServerSession>) -> Step {
    let Stage::Sniffing(Prefix { bytes, len }) = &state.stage else {
        return Step::Stop;
    };
    if connection.core().is_draining() {
        session.drain();
    }
    let now = Instant::now();
    let mut rest = &bytes[..*len];
    while !rest.is_empty() {
        let taken = fill(session.recv_space(), rest);
        rest = &rest[taken..];
        if taken == 0 || session.received(taken, now).is_err() {
            state.ending = Some(CloseReason::BadInput);
            break;
        }
    }
    state.stage = Stage::Open(session);
    state.read_pending = true;
    Step::Again
}

/// The first bytes belong to nobody here: counted, answered where a person may be at the other end.
fn foreign(state: &mut State) -> Step {
    let Stage::Sniffing(prefix) = &state.stage else {
        return Step::Stop;
    };
    let first = &prefix.bytes[..prefix.len];
    if first.starts_with(&[0x16, 3]) {
        return Step::Lost(CloseReason::Tls);
    }
    let reason = if first.starts_with(b"PRI ") {
        BadReason::Http2NotSpoken
    } else {
        BadReason::UnknownProtocol
    };
    reason.count();
    state.ending = Some(CloseReason::BadInput);
    if first[0].is_ascii_alphabetic() {
        let text = reason.explain();
        state.leftover.push_back(Bytes::from(format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{text}\n",
            text.len() + 1,
        )));
        return Step::Stop;
    }
    Step::Lost(CloseReason::BadInput)
}

/// Drops what a peer still sends after we have said everything.
fn discard(connection: &Connection, state: &mut State) -> Step {
    let Stage::Lingering { dropped, .. } = &mut state.stage else {
        return Step::Stop;
    };
    let mut bin = [0; 4096];
    loop {
        let mut room = &mut bin[..];
        match connection.socket.receive(&mut room, usize::MAX) {
            Received::Bytes { count, .. } => {
                *dropped += count;
                if *dropped > LINGER_BYTES_MAX {
                    return Step::Lost(CloseReason::Finished);
                }
            }
            Received::WouldBlock => {
                state.read_pending = false;
                return Step::Stop;
            }
            Received::Ended | Received::Failed(_) => return Step::Lost(CloseReason::Finished),
        }
    }
}

/// Calls found in one go from which on a sleeping worker is woken to take some of them. Below, the
/// wake-up costs more than the calls are likely to.
const NUDGE_AT: usize = 8;
