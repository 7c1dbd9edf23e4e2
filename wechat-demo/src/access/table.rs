//! The links of this process that speak for somebody, by their number.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use rpc_core::base::lock::SpinLock;
use rpc_core::rpc::protocol::Driver;

use super::meter::Meter;
use super::session::{Closing, Limits, Outbound, beat_packet, reply_packet};
use crate::model::brief;
use crate::proto::logic::Caller;
use crate::proto::terminal as pb;

/// Commands of one link that may be under way at once; the session then takes no further ones.
const IN_FLIGHT: usize = 8;

/// One link, as those see it who have something to say to it.
pub(super) struct Link {
    /// Grows with each link the process accepts; starts at its start time, so that the newest wins
    /// across restarts.
    pub(super) number: u64,
    caller: OnceLock<Caller>,
    /// Highest key that went out to the terminal in whatever form. Only what lies above it is worth a
    /// notify; it is never shown as the newest key.
    told: AtomicU64,
    /// Moves bytes between the session and the socket.
    driver: OnceLock<Weak<dyn Driver>>,
    meter: Arc<Meter>,
    /// Taken under the lock of the driver too: whoever holds it wakes nobody.
    state: SpinLock<State>,
}

struct State {
    out: Outbound,
    in_flight: usize,
    /// A command is under way that the next ones have to wait for.
    alone: bool,
    /// AUTH has succeeded.
    authenticated: bool,
}

impl Link {
    pub(super) fn new(number: u64, limits: Limits, meter: Arc<Meter>) -> Self {
        let state = State {
            out: Outbound::new(limits),
            in_flight: 0,
            alone: false,
            authenticated: false,
        };
        Self {
            number,
            caller: OnceLock::new(),
            told: AtomicU64::new(0),
            driver: OnceLock::new(),
            meter,
            state: SpinLock::new(state),
        }
    }

    /// Says who moves the bytes. Once.
    pub(super) fn driven_by(&self, driver: Weak<dyn Driver>) {
        self.driver.get_or_init(|| driver);
    }

    /// Whom the link speaks for; `None` before AUTH.
    pub(super) fn caller(&self) -> Option<Caller> {
        self.caller.get().copied()
    }

    /// From here on the link speaks for `caller`, and notifies wait for the AuthReply. `active`: somebody uses
    /// the terminal.
    pub(super) fn begin_auth(&self, caller: Caller, active: bool) {
        self.caller.set(caller).expect("a link authenticates once");
        let mut state = self.state.lock();
        state.out.hold();
        state.out.set_active(active);
    }

    /// Queues the AuthReply, then whatever was held.
    pub(super) fn finish_auth(&self, cmd: u32, seq: u32, reply: &pb::Reply, newest: u64) {
        self.tell(newest);
        let packet = reply_packet(cmd, seq, reply);
        self.change(|state| {
            state.out.push(packet);
            state.out.release();
            state.authenticated = true;
        });
        self.wake();
    }

    /// True once AUTH has succeeded.
    pub(super) fn is_authenticated(&self) -> bool {
        self.state.lock().authenticated
    }

    pub(super) fn reply(&self, cmd: u32, seq: u32, reply: &pb::Reply) {
        self.reply_quietly(cmd, seq, reply);
        self.wake();
    }

    /// As [`Link::reply`], for the driver's own turn, which looks by itself.
    pub(super) fn reply_quietly(&self, cmd: u32, seq: u32, reply: &pb::Reply) {
        let packet = reply_packet(cmd, seq, reply);
        self.change(|state| state.out.push(packet));
    }

    pub(super) fn beat(&self, newest: Option<u64>) {
        self.tell(newest.unwrap_or(0));
        self.beat_quietly(newest);
        self.wake();
    }

    /// As [`Link::beat`], for the driver's own turn.
    pub(super) fn beat_quietly(&self, newest: Option<u64>) {
        let packet = beat_packet(newest);
        self.change(|state| state.out.push(packet));
    }

    pub(super) fn notify(&self, mut notify: pb::Notify) {
        self.tell(notify.key);
        if let Some(caller) = self.caller() {
            brief::shorten_notify(&mut notify, caller.user_id);
        }
        self.change(|state| state.out.notify(notify));
        self.wake();
    }

    /// Passes on what passes.
    pub(super) fn sign(&self, signs: Vec<pb::Sign>) {
        self.change(|state| state.out.sign(signs));
        self.wake();
    }

    /// Somebody begins or ceases to use the terminal.
    pub(super) fn set_active(&self, active: bool) {
        self.change(|state| state.out.set_active(active));
        self.wake();
    }

    /// Whether somebody uses the terminal.
    pub(super) fn is_active(&self) -> bool {
        self.state.lock().out.is_active()
    }

    /// Notes that the terminal knows of `key`; what it knew before.
    pub(super) fn tell(&self, key: u64) -> u64 {
        self.told.fetch_max(key, Ordering::AcqRel)
    }

    /// Ends the link; what is queued is sent first.
    pub(super) fn close(&self, reason: Closing) {
        self.close_quietly(reason);
        self.wake();
    }

    /// As [`Link::close`], for the driver's own turn.
    pub(super) fn close_quietly(&self, reason: Closing) {
        self.change(|state| state.out.close(reason));
    }

    /// True once the link ends.
    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().out.closing().is_some()
    }

    /// Whether the next command may be taken up.
    pub(super) fn has_room(&self) -> bool {
        let state = self.state.lock();
        !state.alone && state.in_flight < IN_FLIGHT && state.out.closing().is_none()
    }

    /// True with no command under way and nothing unsent.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.state.lock();
        state.in_flight == 0 && state.out.unsent() == 0
    }

    /// Bytes that wait for the session.
    pub(super) fn unsent(&self) -> usize {
        self.state.lock().out.unsent()
    }

    /// Packets to be written next, at most `room` bytes or one packet.
    pub(super) fn take(&self, room: usize) -> Option<Bytes> {
        self.state.lock().out.take(room)
    }

    /// Lets go of memory that an idle link does not need.
    pub(super) fn release(&self) {
        self.state.lock().out.shrink();
    }

    /// Takes a place among the commands under way: for one that the others need not wait for, or alone.
    pub(super) fn enter(self: &Arc<Self>, alone: bool) -> Place {
        let mut state = self.state.lock();
        state.in_flight += 1;
        state.alone |= alone;
        drop(state);
        Place {
            link: Arc::clone(self),
            alone,
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let ended = {
            let mut state = self.state.lock();
            let before = state.out.closing();
            change(&mut state);
            before.is_none().then(|| state.out.closing()).flatten()
        };
        if let Some(reason) = ended {
            self.meter.closed(reason);
        }
    }

    fn wake(&self) {
        if let Some(driver) = self.driver.get().and_then(Weak::upgrade) {
            driver.wake();
        }
    }
}

/// A place among a link's commands under way; given back even by a command that panics.
pub(super) struct Place {
    pub(super) link: Arc<Link>,
    alone: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.link.state.lock();
        state.in_flight -= 1;
        state.alone &= !self.alone;
    }
}

/// Links by number. Only those that speak for somebody are in it.
#[derive(Default)]
pub(super) struct Table {
    inner: SpinLock<Inner>,
}

#[derive(Default)]
struct Inner {
    links: BTreeMap<u64, Arc<Link>>,
    /// The newest link of each device, by user and device.
    devices: HashMap<(u64, u64), u64>,
}

impl Table {
    /// Takes in a link that speaks for somebody. The link of the same device that it takes over from, if
    /// there is one.
    pub(super) fn insert(&self, link: Arc<Link>) -> Option<Arc<Link>> {
        let device = device(&link);
        let mut inner = self.inner.lock();
        let older = inner.devices.insert(device, link.number);
        let older = older.and_then(|number| inner.links.get(&number).cloned());
        inner.links.insert(link.number, link);
        older
    }

    pub(super) fn remove(&self, link: &Link) -> bool {
        let mut inner = self.inner.lock();
        let removed = inner.links.remove(&link.number);
        if removed.is_some() && inner.devices.get(&device(link)) == Some(&link.number) {
            inner.devices.remove(&device(link));
        }
        removed.is_some()
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<Link>> {
        self.inner.lock().links.get(&number).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.inner.lock().links.len()
    }

    /// Up to `limit` links with numbers above `after`, in the order of their numbers.
    pub(super) fn after(&self, after: u64, limit: usize) -> Vec<Arc<Link>> {
        let range = (Bound::Excluded(after), Bound::Unbounded);
        let inner = self.inner.lock();
        let links = inner.links.range(range).take(limit);
        links.map(|(_, link)| Arc::clone(link)).collect()
    }
}

fn device(link: &Link) -> (u64, u64) {
    let caller = link.caller().unwrap_or_default();
    (caller.user_id, caller.device_id)
}
