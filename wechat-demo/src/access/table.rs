//! The links of this process that speak for somebody, by their number.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::session::{Closing, Limits, Outbound};
use crate::proto::logic::Caller;
use crate::proto::terminal as pb;
use crate::task::spawn;

/// Commands of one link that may be under way at once; the reader then waits with the next.
const IN_FLIGHT: usize = 8;
/// Bytes joined into one write.
const WRITE_ROOM: usize = 64 << 10;

/// One link, as those see it who have something to say to it.
#[derive(Debug)]
pub(super) struct Link {
    /// Grows with each link the process accepts; starts at its start time, so that the newest wins
    /// across restarts.
    pub(super) number: u64,
    pub(super) stream: TcpStream,
    caller: OnceLock<Caller>,
    /// Highest key that went out to the terminal in whatever form. Only what lies above it is worth a
    /// notify; it is never shown as the newest key.
    told: AtomicU64,
    state: Mutex<State>,
    /// `state` has changed.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    out: Outbound,
    /// Somebody writes, or the link has ended. An idle link needs no coroutine for that.
    writing: bool,
    in_flight: usize,
}

impl Link {
    pub(super) fn new(number: u64, stream: TcpStream, limits: Limits) -> Self {
        let state = State {
            out: Outbound::new(limits),
            writing: false,
            in_flight: 0,
        };
        Self {
            number,
            stream,
            caller: OnceLock::new(),
            told: AtomicU64::new(0),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Whom the link speaks for; `None` before AUTH.
    pub(super) fn caller(&self) -> Option<Caller> {
        self.caller.get().copied()
    }

    /// From here on the link speaks for `caller`, and notifies wait for the AuthReply.
    pub(super) fn begin_auth(&self, caller: Caller) {
        self.state().out.hold();
        self.caller.set(caller).expect("a link authenticates once");
    }

    /// Queues the AuthReply, then whatever was held.
    pub(super) fn finish_auth(
        self: &Arc<Self>,
        cmd: u32,
        seq: u32,
        reply: &pb::Reply,
        newest: u64,
    ) {
        self.tell(newest);
        let mut state = self.state();
        state.out.reply(cmd, seq, reply);
        state.out.release();
        self.flush(state, Writer::Here);
    }

    pub(super) fn reply(self: &Arc<Self>, cmd: u32, seq: u32, reply: &pb::Reply) {
        let mut state = self.state();
        state.out.reply(cmd, seq, reply);
        self.flush(state, Writer::Here);
    }

    pub(super) fn beat(self: &Arc<Self>, newest: Option<u64>) {
        self.tell(newest.unwrap_or(0));
        let mut state = self.state();
        state.out.beat(newest);
        self.flush(state, Writer::Here);
    }

    pub(super) fn notify(self: &Arc<Self>, notify: pb::Notify) {
        self.tell(notify.key);
        let mut state = self.state();
        state.out.notify(notify);
        self.flush(state, Writer::Beside);
    }

    /// Notes that the terminal knows of `key`; what it knew before.
    pub(super) fn tell(&self, key: u64) -> u64 {
        self.told.fetch_max(key, Ordering::AcqRel)
    }

    /// Ends the link; what is queued is sent first, then the stream is closed.
    pub(super) fn close(self: &Arc<Self>, reason: Closing) {
        let mut state = self.state();
        state.out.close(reason);
        self.flush(state, Writer::Beside);
    }

    /// Why the link ends, if it does.
    pub(super) fn closing(&self) -> Option<Closing> {
        self.state().out.closing()
    }

    /// Takes a place among the commands under way; waits for one. `false`: the link ends.
    pub(super) fn enter(&self) -> bool {
        let mut state = self.state();
        while state.in_flight >= IN_FLIGHT && state.out.closing().is_none() {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.in_flight += 1;
        state.out.closing().is_none()
    }

    /// Gives the place back.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.in_flight -= 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Sees to it that what is queued is written, and the stream closed if the link ends: by whoever
    /// writes already, or else by the caller or beside it.
    fn flush(self: &Arc<Self>, mut state: MutexGuard<'_, State>, writer: Writer) {
        let closing = state.out.closing();
        let start = !state.writing && (state.out.unsent() > 0 || closing.is_some());
        state.writing |= start;
        drop(state);
        if closing.is_some() {
            // Whoever waits for a place among the commands gives up.
            self.changed.notify_all();
        }
        if closing == Some(Closing::SlowReader) {
            // The writer sits in a write that the terminal does not take; this wakes it.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        match writer {
            _ if !start => {}
            Writer::Here => self.write(),
            Writer::Beside => {
                let link = self.clone();
                spawn("link-writer", move || link.write());
            }
        }
    }

    /// Writes until nothing is queued. One coroutine at a time is here: the one that set `writing`.
    fn write(self: &Arc<Self>) {
        loop {
            let bytes = {
                let mut state = self.state();
                match state.out.take(WRITE_ROOM) {
                    Some(bytes) => bytes,
                    None if state.out.closing().is_some() => break,
                    None => {
                        state.writing = false;
                        return;
                    }
                }
            };
            if let Err(error) = (&self.stream).write_all(&bytes) {
                let slow = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                let reason = if slow {
                    Closing::SlowReader
                } else {
                    Closing::Gone
                };
                self.state().out.close(reason);
                self.changed.notify_all();
                break;
            }
        }
        // Wakes the reader; it fails only when the connection is gone already. `writing` stays set: a link
        // that ends is not written to again.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who writes when nobody does yet.
enum Writer {
    /// The caller: it has nothing else to do for others.
    Here,
    /// A coroutine of its own: the caller must not wait for this terminal.
    Beside,
}

/// Links by number. Only those that speak for somebody are in it.
#[derive(Debug, Default)]
pub(super) struct Table {
    links: Mutex<BTreeMap<u64, Arc<Link>>>,
}

impl Table {
    pub(super) fn insert(&self, link: Arc<Link>) {
        self.lock().insert(link.number, link);
    }

    pub(super) fn remove(&self, number: u64) -> bool {
        self.lock().remove(&number).is_some()
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<Link>> {
        self.lock().get(&number).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Up to `limit` links with numbers above `after`, in the order of their numbers.
    pub(super) fn after(&self, after: u64, limit: usize) -> Vec<Arc<Link>> {
        let range = (Bound::Excluded(after), Bound::Unbounded);
        self.lock()
            .range(range)
            .take(limit)
            .map(|(_, link)| link.clone())
            .collect()
    }

    /// Ends every link.
    pub(super) fn close_all(&self, reason: Closing) {
        let links: Vec<_> = self.lock().values().cloned().collect();
        links.iter().for_each(|link| link.close(reason));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
