//! A connection's turn at reading: feed the session, hand out what it found.
//!
//! Knows: events, how much one turn may read.   Does not know: frames, handlers.
//!
//! Runs on the worker's loop, or in a turn that the connection asked for. Bytes are received under the
//! connection's lock, straight into the session's space; calls are spawned after it is released.

use std::sync::Arc;
use std::time::Duration;

use super::call::{PendingCall, PendingPage, PendingWork};
use super::connection::{Connection, Stage, State};
use super::options::{LINGER_BYTES_MAX, READ_PER_TURN};
use super::stats::CloseReason;
use super::streams::Streams;
use crate::base::time::Instant;
use crate::net::Received;
use crate::rpc::protocol::{EndOfInput, IncomingCall, Kind, Reply, ServerEvent};
use crate::rpc::status::Status;
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
            Stage::Lingering { .. } => discard(self, state),
            Stage::Closed => Step::Stop,
        }
    }

    /// Spawns the calls that the session has found.
    pub(super) fn hand_out(&self) {
        let this = self
            .shared()
            .expect("whoever reads holds a reference to the connection");
        let mut started: u32 = 0;
        let mut woken = Vec::new();
        let open = loop {
            let event = {
                let mut guard = self.state.lock();
                let state = &mut *guard;
                let Stage::Open(session) = &mut state.stage else {
                    break false;
                };
                let Some(event) = session.next_event() else {
                    break true;
                };
                self.note_peer(&**session);
                match &event {
                    ServerEvent::Call(call) => {
                        state.open_calls += 1;
                        Streams::enter(&mut state.streams, call);
                    }
                    ServerEvent::Page(_) | ServerEvent::Work(_) => state.open_calls += 1,
                    _ => {
                        state.stream_event(event, &mut woken);
                        continue;
                    }
                }
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
                ServerEvent::Work(work) => {
                    let work = PendingWork::new(Arc::clone(&this), work);
                    self.core().spawn(work, "session work");
                }
                _ => unreachable!("events of streams are dealt with under the lock"),
            }
        };
        for waiter in woken {
            waiter.wake();
        }
        // Calls that would wait for each other longer than a wake-up takes are shared out.
        if started > 1 && self.core().mean_run() * started > WORTH_A_WAKE_UP {
            nudge();
        }
        // The session may have queued answers of its own: refusals, the reply to bad input.
        if open && self.has_news() {
            self.ask_for_turn();
        }
    }

    /// True if a turn's end has something to write, or to end.
    fn has_news(&self) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Stage::Open(session) = &mut state.stage else {
            return true;
        };
        // A full session may hold requests: the turn after the next answer asks again.
        state.read_pending |= !session.wants_input();
        // A full socket's next edge brings the turn.
        !state.out.is_blocked()
            && (state.ending.is_some() || session.is_finished() || !session.transmit().is_empty())
    }
}

fn start(connection: &Arc<Connection>, call: IncomingCall) {
    if call.route.kind != Kind::Unary && !connection.carries(call.route.kind) {
        let text = "the method has streams, which this protocol does not carry: call it over gRPC";
        let status = Status::unimplemented(text);
        return connection.refuse(call.id, Reply::Refused(&status));
    }
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
            let now = Instant::now();
            connection.core().seen(now);
            let parsed = session.received(count, now);
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

/// Expected work of the calls found in one go from which on a sleeping worker is woken to take some.
const WORTH_A_WAKE_UP: Duration = Duration::from_micros(50);
