//! One connection of a server: its state, its calls, its end.
//!
//! Knows: sessions as traits, the socket, running calls.   Does not know: frames, services.
//!
//! ```text
//!  Open ──nothing more to say──▶ Lingering ──the peer ends──▶ Closed
//!     └───────── lost, at any time: calls cancelled, table left ─────▲
//! ```
//! Reading is in `reading.rs`; this file is what calls and flushes do.
//!
//! Invariants
//! - C-1  All state is behind one spin lock. Nothing under it waits; sockets are written outside it.
//! - C-2  `open_calls` counts events given out and not ended; `running` holds those of them that run.
//! - C-3  Whoever queues bytes afterwards asks its worker for a turn; one that is asked for twice comes once. So an answer
//!   waits for no call of another worker, whoever asked before.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use slab::Slab;

use super::core::Core;
use super::options::LINGER;
use super::stats::CloseReason;
use super::streams::Streams;
use crate::base::lock::SpinLock;
use crate::base::time::Instant;
use crate::net::{
    Attachment, Flush, Flushed, Handler, Outflow, Queued, Ready, Socket, Turns, flush, on_worker,
    take_turn,
};
use crate::rpc::metadata::MetadataMap;
use crate::rpc::protocol::{CallId, Driver, Kind, Page, Reply, ServerSession, server_session};
use crate::rpc::status::Status;
use crate::rpc::tls::Peer;
use crate::runtime::{self, TaskRef};

/// A connection. Alive while the server's table, the reactor or a running call refers to it.
pub(super) struct Connection {
    core: Arc<Core>,
    pub(super) socket: Socket,
    /// Its other end; `None` over a Unix socket.
    peer: Option<SocketAddr>,
    /// What the peer's protocol told of it; set with the first event.
    told: OnceLock<Arc<Peer>>,
    /// Its key in the server's table.
    key: usize,
    this: Weak<Self>,
    /// Its place in the reactor; `None` before it is attached and after it closed.
    attachment: SpinLock<Option<Attachment>>,
    /// Whose turns are to come (C-3).
    turns: Turns,
    pub(super) state: SpinLock<State>,
}

/// What changes.
pub(super) struct State {
    pub stage: Stage,
    pub out: Outflow,
    /// Bytes to send that no session holds.
    pub leftover: VecDeque<Bytes>,
    /// Calls that run, to cancel when the connection is lost or the peer gives one up.
    pub running: Slab<Running>,
    /// Calls with streams; `None` until the first.
    pub streams: Option<Box<Streams>>,
    /// Calls and pages given out and not ended (C-2).
    pub open_calls: usize,
    /// Answers and messages sent; each [`WRITE_EVERY`]th is written at once with those before it.
    answers: u32,
    /// The socket may hold bytes for which no edge will come.
    pub read_pending: bool,
    /// The peer has ended its stream, or the kernel says the connection is broken: a short read does not
    /// mean that there is nothing more to learn.
    pub hung_up: bool,
    /// Nothing more is read; closes when everything is written.
    pub ending: Option<CloseReason>,
}

/// A call that runs.
pub(super) struct Running {
    /// The coroutine of its handler.
    pub task: TaskRef,
}

/// How far a connection is.
pub(super) enum Stage {
    /// A session has it; the first bytes decide which.
    Open(Box<dyn ServerSession>),
    /// We have said everything; the peer's bytes are dropped until it ends.
    Lingering {
        /// When it is closed anyway.
        until: Instant,
        /// Bytes dropped so far.
        dropped: usize,
        reason: CloseReason,
    },
    /// Nothing more happens.
    Closed,
}

impl Queued for State {
    fn outflow(&mut self) -> (&mut Outflow, &mut VecDeque<Bytes>) {
        match &mut self.stage {
            Stage::Open(session) => (&mut self.out, session.transmit()),
            _ => (&mut self.out, &mut self.leftover),
        }
    }
}

impl State {
    /// Bytes that wait to be written; 0 while the socket takes them.
    pub fn unwritten(&mut self) -> usize {
        if !self.out.is_blocked() {
            return 0;
        }
        self.outflow().1.iter().map(Bytes::len).sum()
    }

    /// Nobody waits for the calls under way any more.
    fn cancel_all(&mut self) {
        for running in self.running.drain() {
            running.task.cancel();
        }
        if let Some(streams) = &mut self.streams {
            streams.lose();
        }
    }

    /// Counts something queued; true if it is time to write.
    pub fn count_answer(&mut self) -> bool {
        self.answers = self.answers.wrapping_add(1);
        self.answers.is_multiple_of(WRITE_EVERY)
    }
}

impl Connection {
    pub(super) fn new(
        core: Arc<Core>,
        socket: Socket,
        peer: Option<SocketAddr>,
        key: usize,
    ) -> Arc<Self> {
        let mut session = server_session(&core.config);
        if core.is_draining() {
            session.drain();
        }
        let accepted = Instant::now();
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            core,
            socket,
            peer,
            told: OnceLock::new(),
            key,
            this: Weak::clone(this),
            attachment: SpinLock::new(None),
            turns: Turns::default(),
            state: SpinLock::new(State {
                stage: Stage::Open({
                    session.attached(Weak::clone(this) as Weak<dyn Driver>, accepted);
                    session
                }),
                out: Outflow::default(),
                leftover: VecDeque::new(),
                running: Slab::new(),
                streams: None,
                open_calls: 0,
                answers: 0,
                read_pending: false,
                hung_up: false,
                ending: None,
            }),
        })
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Where the peer is: the connection's other end, or what a proxy said.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        let told = self.told.get().and_then(|told| told.address);
        told.or(self.peer)
    }

    /// What the peer's protocol told of it.
    pub(super) fn told(&self) -> Option<&Arc<Peer>> {
        self.told.get()
    }

    /// Takes note of what the session knows of the peer.
    pub(super) fn note_peer(&self, session: &dyn ServerSession) {
        if self.told.get().is_none()
            && let Some(peer) = session.peer()
        {
            self.told.get_or_init(|| Arc::clone(peer));
        }
    }

    /// Keeps the place in the reactor until the connection closes.
    pub(super) fn keep(&self, attachment: Attachment) {
        *self.attachment.lock() = Some(attachment);
        // It may have been lost before we got here: then nobody else will take the attachment out.
        if matches!(self.state.lock().stage, Stage::Closed) {
            drop(self.attachment.lock().take());
        }
    }

    /// A call begins on the running coroutine, whose scope ends at `deadline`: its place, or `None` if
    /// nobody waits for it any more.
    pub(super) fn begin_call(&self, id: CallId, deadline: Instant) -> Option<usize> {
        let task = runtime::current().expect("calls run on coroutines");
        task.set_deadline(deadline);
        let mut state = self.state.lock();
        if matches!(state.stage, Stage::Closed) {
            return None;
        }
        let State {
            stage,
            running,
            streams,
            ..
        } = &mut *state;
        let place = running.vacant_key();
        let cancels = matches!(stage, Stage::Open(session) if session.cancels());
        if cancels || streams.is_some() {
            let streams = streams.get_or_insert_default();
            if !streams.began(id, place, cancels) {
                return None;
            }
        }
        running.insert(Running { task });
        Some(place)
    }

    /// A call ends. False if nobody is there to hear the answer.
    pub(super) fn end_call(&self, place: usize, id: CallId, mut end: Ending<'_>) -> bool {
        let mut state = self.state.lock();
        state.running.try_remove(place);
        let mut goes_on = false;
        if let Some(streams) = &mut state.streams {
            let mut answered = false;
            if let Ending::Reply(Reply::Success(success)) = &mut end {
                answered = true;
                success.accepts_stream = streams.is_accepted(id);
            }
            goes_on = streams.leave(id, answered);
        }
        let alive = self.answer(&mut state, id, end);
        state.open_calls += usize::from(goes_on);
        let write_now = state.count_answer();
        drop(state);
        if !goes_on {
            self.core.release();
        }
        self.ask_for_turn();
        if write_now {
            self.write_out();
        }
        alive
    }

    /// A page is ready.
    pub(super) fn end_page(&self, id: CallId, page: Page) {
        let mut state = self.state.lock();
        self.answer(&mut state, id, Ending::Reply(Reply::Page(page)));
        drop(state);
        self.ask_for_turn();
    }

    /// Work that the session gave out is done, or never will be.
    pub(super) fn end_work(&self) {
        let mut state = self.state.lock();
        debug_assert!(state.open_calls > 0, "C-2: work ends once");
        state.open_calls -= 1;
        drop(state);
        self.ask_for_turn();
    }

    /// Answers a call that never ran.
    pub(super) fn refuse(&self, id: CallId, reply: Reply<'_>) {
        let mut state = self.state.lock();
        if let Some(streams) = &mut state.streams {
            streams.leave(id, false);
        }
        self.answer(&mut state, id, Ending::Reply(reply));
        drop(state);
        self.ask_for_turn();
    }

    fn answer(&self, state: &mut State, id: CallId, end: Ending<'_>) -> bool {
        debug_assert!(state.open_calls > 0, "C-2: a call ends once");
        state.open_calls -= 1;
        let Stage::Open(session) = &mut state.stage else {
            return false;
        };
        match end {
            Ending::Reply(reply) => session.answer(id, reply),
            Ending::Stream(result, trailers) => session.finish(id, result, trailers),
        }
        if state.unwritten() > self.core.options.unwritten_close {
            self.close(state, CloseReason::UnwrittenLimit);
            return false;
        }
        true
    }

    /// Puts this connection into the worker's list for the end of the turn, once (C-3).
    pub(super) fn ask_for_turn(&self) {
        if !on_worker() {
            // A call answered from an OS thread. It takes no bit: a worker that sees its own set
            // relies on a turn that also reads.
            return self.write_out();
        }
        if !self.turns.are_due() {
            return;
        }
        let Some(this) = self.this.upgrade() else {
            return;
        };
        take_turn(this);
    }

    /// Writes what is queued and acts on how that went.
    pub(super) fn write_out(&self) {
        match flush(&self.socket, &self.state) {
            Flushed::Done => self.after_written(),
            Flushed::Waiting => {
                let mut state = self.state.lock();
                if state.unwritten() > self.core.options.unwritten_close {
                    self.close(&mut state, CloseReason::UnwrittenLimit);
                }
            }
            Flushed::Failed(_) => self.lose(CloseReason::PeerReset),
        }
    }

    /// Everything queued is with the kernel: perhaps that was the last of it.
    fn after_written(&self) {
        let mut state = self.state.lock();
        if let Some(streams) = &mut state.streams {
            let relieved = streams.crowd.relieve();
            if !relieved.is_empty() {
                drop(state);
                for waiter in relieved {
                    waiter.wake();
                }
                state = self.state.lock();
            }
        }
        let reason = match (&state.stage, state.ending) {
            (Stage::Open(_), Some(reason)) => reason,
            (Stage::Open(session), None) if session.is_finished() => CloseReason::Finished,
            _ => {
                drop(state);
                if self.core.is_draining() {
                    self.core.bell.ring();
                }
                return;
            }
        };
        let (out, queue) = state.outflow();
        if out.is_writing() || !queue.is_empty() {
            // More was queued since; its own turn comes back here.
            return;
        }
        state.cancel_all();
        let until = Instant::after(LINGER);
        let ended = std::mem::replace(
            &mut state.stage,
            Stage::Lingering {
                until,
                dropped: 0,
                reason,
            },
        );
        // What came meanwhile is dropped by the next turn; the peer's end is seen there as well.
        state.read_pending = true;
        drop(state);
        drop(ended);
        self.socket.end_sending();
        self.ask_for_turn();
    }

    /// The server is going away: new calls are refused, those under way still get their answers.
    pub(super) fn drain(&self) {
        if let Stage::Open(session) = &mut self.state.lock().stage {
            session.drain();
        }
        self.ask_for_turn();
    }

    /// Nothing is under way any more: answer what has just come, then say goodbye.
    pub(super) fn finish(&self, reason: CloseReason) {
        self.read_turn();
        self.state.lock().ending.get_or_insert(reason);
        self.ask_for_turn();
    }

    /// Whether the session carries calls of this kind.
    pub(super) fn carries(&self, kind: Kind) -> bool {
        matches!(&self.state.lock().stage, Stage::Open(session) if session.carries(kind))
    }

    /// True with no call under way and nothing unwritten.
    pub(super) fn is_quiet(&self) -> bool {
        let mut state = self.state.lock();
        let open_calls = state.open_calls;
        let (out, queue) = state.outflow();
        open_calls == 0 && !out.is_writing() && queue.is_empty()
    }

    /// The connection is gone or must go at once: every call of it is cancelled.
    pub(super) fn lose(&self, reason: CloseReason) {
        self.close(&mut self.state.lock(), reason);
    }

    fn close(&self, state: &mut State, reason: CloseReason) {
        // SV-2: under the lock that each call's end takes.
        state.cancel_all();
        let ended = std::mem::replace(&mut state.stage, Stage::Closed);
        let reason = match ended {
            Stage::Closed => return,
            // The connection ended for what was decided before, however the peer took it.
            Stage::Lingering { reason, .. } => reason,
            Stage::Open(_) => state.ending.unwrap_or(reason),
        };
        state.leftover = VecDeque::new();
        self.socket.end_both();
        drop(self.attachment.lock().take());
        self.core.leave(self.key, reason);
    }
}

impl Handler for Connection {
    fn ready(&self, event: Ready) {
        if event.closed {
            self.state.lock().hung_up = true;
        }
        let mut read = event.readable;
        if event.writable && self.state.lock().out.writable() {
            self.write_out();
            // Reading may have stopped for all that was unwritten.
            read |= self.state.lock().read_pending;
        }
        if read {
            self.read_turn();
        }
    }
}

impl Driver for Connection {
    fn wake(&self) {
        self.ask_for_turn();
    }
}

impl Flush for Connection {
    fn flush(&self) {
        self.turns.begin();
        self.write_out();
        if self.state.lock().read_pending {
            // An answer may have made room for requests that the session holds already.
            self.hand_out();
            self.read_turn();
        }
    }
}

impl Connection {
    /// A reference of its own, for what is spawned; `None` once nobody else refers to it.
    pub(super) fn shared(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }
}

/// Answers that wait for the end of the turn together at most: the peer works on them while we go on.
const WRITE_EVERY: u32 = 32;

/// How a call ends.
pub(super) enum Ending<'a> {
    /// With its one answer.
    Reply(Reply<'a>),
    /// After a stream: with its status and what follows.
    Stream(Result<(), &'a Status>, &'a MetadataMap),
}
