//! The terminal's coroutines around its pure parts; see the folder's front page for the picture.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use rpc_core::base::rng::{Rng, fill_secret};
use rpc_core::base::time::Instant;

use super::error::{TerminalError, code};
use super::heartbeat::{Beats, Rhythm};
use super::ladder::Ladder;
use super::link::{Came, Link, Push, Reader};
use super::nearby::{Finder, Place};
use super::outbox::{Full, Outbox};
use super::store::{LocalStore, StoreError};
use super::sync::{Cursor, Page, Step, Sync};
use crate::history::{Event as Told, Recorder};
use crate::model::brief;
use crate::proto::terminal as pb;
use crate::task::spawn;

mod telling;

use telling::sent_as;

/// Pushes that wait for the applier; beyond, only the newest key is remembered.
const EVENTS: usize = 512;
/// Shortest and longest pause before a send is tried again on a link that is up.
const RESEND: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A terminal that acknowledges does so this long after it applied something, for all that came meanwhile; well
/// within the time after which it would be woken.
const ACKNOWLEDGE: Duration = Duration::from_secs(3);

/// What a terminal needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the backend is found.
    pub place: Place,
    /// From the login.
    pub token: Bytes,
    /// When heartbeats are sent.
    pub heartbeat: Beats,
    /// Somebody uses the terminal; see [`Terminal::set_active`].
    pub active: bool,
    /// Fills the pauses of a burst of sending, so that a radio keeps its channel: 20 bytes every 5 s, for 20 s.
    pub keep_signal: bool,
    /// The device has a push token: it acknowledges what it applied, or it would be woken for it.
    pub acknowledges: bool,
    /// What is sent is acknowledged only once disks of two IDCs have it.
    pub geo: bool,
    /// Where the terminal writes what it saw and did; nowhere by default.
    pub history: Option<Recorder>,
}

impl Config {
    /// The usual settings, with the HOST:PORT of an access process's long link, or several with commas between.
    #[must_use]
    pub fn new(address: &str, token: Bytes) -> Self {
        Self {
            place: Place {
                address: address.to_owned(),
                ..Place::default()
            },
            token,
            heartbeat: Beats::Adaptive { scale: 1 },
            active: true,
            keep_signal: false,
            acknowledges: false,
            geo: false,
            history: None,
        }
    }
}

/// Is told what happens, on the terminal's own coroutines: what takes long here makes the terminal late.
pub trait Observer: Send + std::marker::Sync + 'static {
    /// The store holds these items now. Called in number order, each item once; a full sync brings all again.
    fn applied(&self, _items: &[pb::Item]) {}
    /// The backend has lost what the store had above this number, and the store has let go of it.
    fn rewound(&self, _to: u64) {}
    /// The backend answered for a message: it is durable there.
    fn acked(&self, _sent: &pb::Sent) {}
    /// The backend refused a message for good.
    fn refused(&self, _client_id: &[u8], _why: &TerminalError) {}
    /// What passes: who writes just now, who has come or gone. Called by the one who reads the link: it must not
    /// wait at all.
    fn signs(&self, _signs: &[pb::Sign]) {}
    /// A link is up and speaks for the user.
    fn linked(&self) {}
    /// The link is down; the terminal tries again unless `last`.
    fn unlinked(&self, _why: &TerminalError, _last: bool) {}
}

/// One account on one device. Clones are handles to the same terminal.
#[derive(Clone)]
pub struct Terminal {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    config: Config,
    pub(super) rhythm: Arc<Rhythm>,
    finder: Finder,
    store: Arc<dyn LocalStore>,
    pub(super) observer: Arc<dyn Observer>,
    events: SyncSender<Event>,
    /// Highest key of the notifies that found `events` full; 0 = none.
    behind: AtomicU64,
    outbox: Mutex<Outbox>,
    shared: Mutex<Shared>,
    /// `shared` has changed.
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct Shared {
    /// The link that is up.
    pub(super) link: Option<Arc<Link>>,
    stopping: bool,
    /// Coroutines that have not ended: keeper and applier.
    running: usize,
    /// What was lost is being said again; nothing new is said before.
    saying_again: bool,
    /// Why the terminal ended by itself.
    failed: Option<TerminalError>,
    /// Whose presence is asked for, on each link and with each heartbeat.
    pub(super) watched: Vec<u64>,
}

enum Event {
    /// A link is up; the newest key at its AUTH.
    Linked(u64),
    Push(Push),
    /// The backend says that the key is not what it was.
    Doubt,
    /// Ask whatever is known, then tell the key.
    Refresh(SyncSender<u64>),
    Stop,
}

impl Terminal {
    /// Starts keeping a link and applying what it brings. Must be called where coroutines can be started.
    pub fn start(config: Config, store: Arc<dyn LocalStore>, observer: Arc<dyn Observer>) -> Self {
        let (events, received) = sync_channel(EVENTS);
        let shared = Shared {
            running: 2,
            saying_again: true,
            ..Shared::default()
        };
        let rhythm = Rhythm::new(config.heartbeat, config.active, Instant::now());
        let rhythm = Arc::new(rhythm);
        let inner = Arc::new(Inner {
            finder: Finder::new(config.place.clone()),
            config,
            rhythm,
            store,
            observer,
            events,
            behind: AtomicU64::new(0),
            outbox: Mutex::default(),
            shared: Mutex::new(shared),
            changed: Condvar::new(),
        });
        inner.tell(|| Told::Start {
            key: inner.store.key(),
        });
        let (keeper, applier) = (inner.clone(), inner.clone());
        spawn("terminal-keeper", move || {
            keeper.keep();
            keeper.ended();
        });
        spawn("terminal-applier", move || {
            let result = applier.apply_all(&received);
            if let Err(error) = result {
                applier.fail(error.into());
            }
            applier.ended();
        });
        Self { inner }
    }

    /// Queues a message; it goes out in the order of the calls, one request per conversation at a time,
    /// and again under the same client id until the backend answers. The observer is told the outcome.
    ///
    /// # Errors
    /// [`Full`] when too many wait already.
    pub fn send(&self, receiver: u64, client_id: Bytes, text: String) -> Result<(), Full> {
        let extra = None;
        self.send_message(
            receiver,
            pb::Outgoing {
                client_id,
                text,
                extra,
                count: 0,
            },
        )
    }

    /// As [`Terminal::send`], with what a message may have besides its text.
    ///
    /// # Errors
    /// [`Full`] when too many wait already.
    pub fn send_message(&self, receiver: u64, message: pb::Outgoing) -> Result<(), Full> {
        let first = self.inner.outbox().push(receiver, message)?;
        if first {
            let inner = self.inner.clone();
            spawn("terminal-sender", move || inner.send_all(receiver));
        }
        Ok(())
    }

    /// Messages that the backend has not answered for.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.inner.outbox().waiting()
    }

    /// Asks the backend for something else than sending or syncing, again over new links and pauses
    /// while the trouble is transient, for `patience` at most. Use it for what may be done twice.
    ///
    /// # Errors
    /// A refusal, or the last trouble.
    pub fn call<Reply: Message + Default>(
        &self,
        command: pb::Command,
        request: &impl Message,
        patience: Duration,
    ) -> Result<Reply, TerminalError> {
        let until = Instant::now() + patience;
        let mut pause = RESEND.0;
        loop {
            let result = self
                .inner
                .wait_for_link(until, patience)
                .and_then(|link| self.inner.mutate(&link, command, request));
            match result {
                Err(error) if error.is_transient() && Instant::now() + pause < until => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(RESEND.1);
                }
                result => return result,
            }
        }
    }

    /// Changes something of the user's own: a contact, a message, marks, the account. Done twice it is
    /// as done once, so lost answers are asked for again.
    ///
    /// # Errors
    /// As [`Terminal::call`].
    pub fn change(
        &self,
        change: pb::change_request::Change,
        patience: Duration,
    ) -> Result<pb::ChangeReply, TerminalError> {
        let request = pb::ChangeRequest {
            change: Some(change),
        };
        self.call(pb::Command::Change, &request, patience)
    }

    /// Syncs until the backend has nothing newer, and returns the key then.
    ///
    /// # Errors
    /// [`TerminalError::Timeout`] when that is not reached within `patience`.
    pub fn refresh(&self, patience: Duration) -> Result<u64, TerminalError> {
        let (done, level) = sync_channel(1);
        self.inner
            .events
            .send(Event::Refresh(done))
            .map_err(|_| self.inner.why_ended())?;
        level.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => TerminalError::Timeout(patience),
            RecvTimeoutError::Disconnected => self.inner.why_ended(),
        })
    }

    /// The local copy of the timeline.
    #[must_use]
    pub fn store(&self) -> &dyn LocalStore {
        &*self.inner.store
    }

    /// Why the terminal ended by itself; `None` while it runs.
    #[must_use]
    pub fn failed(&self) -> Option<TerminalError> {
        self.inner.shared().failed.clone()
    }

    /// Ends the terminal and waits until it let go of link and store. Unsent messages are given up.
    pub fn stop(&self) {
        self.inner.stop();
        let shared = self.inner.shared();
        let ended = self
            .inner
            .changed
            .wait_while(shared, |shared| shared.running > 0);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Inner {
    // ---- The keeper: connect, AUTH, read, again. ----

    fn keep(self: &Arc<Self>) {
        let mut ladder = Ladder::default();
        let mut rng = Rng::from_entropy();
        while !self.shared().stopping {
            let active = self.rhythm.is_active();
            let error = match self.connect(active) {
                Ok((link, reader, newest)) => {
                    ladder.succeeded();
                    self.read_link(link, reader, newest, active)
                }
                Err(error) => error,
            };
            let last = error.is_refusal(code::UNAUTHENTICATED);
            if !self.shared().stopping {
                self.observer.unlinked(&error, last);
            }
            if last {
                return self.fail(error);
            }
            let salt = (rng.next_u64() >> 32) as u32;
            self.pause(ladder.next_wait(salt));
        }
    }

    fn connect(&self, active: bool) -> Result<(Arc<Link>, Reader, u64), TerminalError> {
        let mut connection = self.finder.open()?;
        let request = pb::AuthRequest {
            token: self.config.token.clone(),
            active,
        };
        let reply: pb::AuthReply = connection.call(pb::Command::Auth, &request)?;
        let rhythm = Arc::clone(&self.rhythm);
        let (link, reader) = Link::new(connection, reply.user_id, rhythm, self.config.keep_signal);
        Ok((Arc::new(link), reader, reply.newest))
    }

    /// Reads until the link is over; why it is. `active` is what the AUTH has said.
    fn read_link(
        self: &Arc<Self>,
        link: Arc<Link>,
        mut reader: Reader,
        newest: u64,
        active: bool,
    ) -> TerminalError {
        {
            let mut shared = self.shared();
            if shared.stopping {
                return TerminalError::Stopped;
            }
            shared.link = Some(link.clone());
        }
        self.changed.notify_all();
        self.tell(|| Told::Linked { newest });
        self.observer.linked();
        let _ = self.events.send(Event::Linked(newest));
        if self.rhythm.is_active() != active {
            self.tell_active(link.clone());
        }
        self.watch_again();
        let why = loop {
            match reader.next(&link) {
                Ok(Came::Signs(passing)) => self.observer.signs(&passing.signs),
                Ok(Came::Push(push)) => {
                    if matches!(push, Push::Beat(_)) {
                        self.watch_again();
                    }
                    self.hand_on(push);
                }
                Err(error) => break error,
            }
        };
        self.shared().link = None;
        self.tell(|| Told::Unlinked {});
        why
    }

    /// The reader never waits for the applier: replies to others may be behind this push.
    fn hand_on(&self, push: Push) {
        self.tell(|| match &push {
            Push::Notify(notify) => Told::Notify {
                prev: notify.prev_key,
                key: notify.key,
                items: notify.items.len() as u32,
            },
            Push::Beat(beat) => Told::Beat {
                newest: beat.newest,
            },
        });
        if let Err(TrySendError::Full(Event::Push(push))) = self.events.try_send(Event::Push(push))
        {
            let key = match push {
                Push::Notify(notify) => notify.key,
                Push::Beat(beat) => beat.newest.unwrap_or(0),
            };
            self.behind.fetch_max(key, Ordering::AcqRel);
        }
    }

    /// Waits, but not through a stop.
    fn pause(&self, length: Duration) {
        let shared = self.shared();
        let waited = self
            .changed
            .wait_timeout_while(shared, length, |shared| !shared.stopping);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    // ---- The applier: the only one who moves the key. ----

    fn apply_all(&self, events: &Receiver<Event>) -> Result<(), StoreError> {
        let mut sync = Sync::new(self.store.cursor());
        let mut refreshing: VecDeque<SyncSender<u64>> = VecDeque::new();
        // When what was applied is to be acknowledged.
        let mut acknowledge: Option<Instant> = None;
        self.say_again()?;
        while !self.shared().stopping {
            while let Ok(event) = events.try_recv() {
                if !take_event(&mut sync, &mut refreshing, event) {
                    return Ok(());
                }
            }
            sync.heard(self.behind.swap(0, Ordering::AcqRel));
            match sync.step(Instant::now()) {
                Step::Apply {
                    before,
                    page,
                    items,
                    after,
                } => {
                    self.tell_full(before, page, after);
                    self.store.apply_page(before, page, &items, after)?;
                    self.tell_applied(before, page, &items, after);
                    sync.applied();
                    if self.config.acknowledges {
                        acknowledge.get_or_insert_with(|| Instant::now() + ACKNOWLEDGE);
                    }
                    self.observer.applied(&items);
                }
                Step::Rewind { before, to } => sync.rewound(self.rewind(before, to)?),
                Step::Ask(at) => {
                    acknowledge = None;
                    if let Err(revoked) = self.ask(&mut sync, at) {
                        self.fail(revoked);
                        return Ok(());
                    }
                }
                Step::Wait(until) => {
                    if sync.is_level() {
                        if !refreshing.is_empty() {
                            self.tell(|| Told::Level { key: sync.key() });
                        }
                        for done in refreshing.drain(..) {
                            // Whoever asked may have lost patience.
                            let _ = done.try_send(sync.key());
                        }
                    }
                    let until = until.into_iter().chain(acknowledge).min();
                    let event = match until {
                        None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                        Some(until) => events.recv_timeout(until.saturating_since(Instant::now())),
                    };
                    match event {
                        Ok(event) => {
                            if !take_event(&mut sync, &mut refreshing, event) {
                                return Ok(());
                            }
                        }
                        Err(RecvTimeoutError::Timeout) => {
                            if acknowledge.take_if(|at| *at <= Instant::now()).is_some() {
                                sync.refresh();
                            }
                        }
                        Err(RecvTimeoutError::Disconnected) => return Ok(()),
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks, and notes what came of it. The error says that this device was logged out.
    fn ask(&self, sync: &mut Sync, at: Cursor) -> Result<(), TerminalError> {
        let link = self.shared().link.clone();
        let request = pb::SyncRequest {
            key: at.key,
            limit: 0,
            full_to: at.full_to,
            anew: at.anew,
            owed: at.owed,
        };
        let reply = link.ok_or(TerminalError::Stopped).and_then(|link| {
            self.tell(|| Told::Sync { from: at.key });
            let mut reply: pb::SyncReply = link.request(pb::Command::Sync, &request)?;
            brief::restore_items(&mut reply.items, link.user);
            Ok((link, reply))
        });
        match reply {
            Ok((link, reply)) => {
                if reply.rewind.is_none() {
                    self.tell(|| Told::Synced {
                        from: if at.begins(&reply) { 0 } else { at.key },
                        to: reply.key,
                        more: reply.more,
                        first: reply.items.first().map_or(0, |item| item.number),
                    });
                }
                if let Err(nonsense) = sync.answered(reply, Instant::now()) {
                    link.end(&nonsense.to_string());
                }
            }
            Err(error) if error.is_refusal(code::UNAUTHENTICATED) => return Err(error),
            Err(_) => sync.ask_failed(Instant::now()),
        }
        Ok(())
    }

    /// Lets go of what was lost, and says what was the user's own of it again; where the store is then.
    fn rewind(&self, before: u64, to: u64) -> Result<Cursor, StoreError> {
        self.shared().saying_again = true;
        self.tell(|| Told::Rewind { before, to });
        let at = self.store.rewind(before, to)?;
        self.observer.rewound(to);
        self.say_again()?;
        Ok(at)
    }

    /// Sends again what was lost, one message after the other, before anything new is sent. A message that was not
    /// lost after all is answered as it was, or refused because it reads differently by now; either way it is there.
    fn say_again(&self) -> Result<(), StoreError> {
        while let Some((name, mut request)) = self.store.again()? {
            request.key = self.store.key();
            let Some(outcome) = self.send_until_answered(&request, false) else {
                return Ok(());
            };
            match outcome {
                // Still more is lost: the next answer says so, and what waits here goes out after that.
                Err(error) if error.is_refusal(code::ABORTED) => break,
                Err(error) if !error.is_refusal(code::ALREADY_EXISTS) => {
                    let id = &request.messages[0].client_id;
                    self.observer.refused(id, &error);
                }
                _ => {}
            }
            self.store.said_again(name)?;
        }
        self.shared().saying_again = false;
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until something new may be said; the key of the store at that moment.
    fn may_speak(&self) -> u64 {
        let waited = self.changed.wait_while(self.shared(), |shared| {
            shared.saying_again && !shared.stopping
        });
        // Read under the lock: a key that is rewound after this is refused.
        let _shared = waited.unwrap_or_else(PoisonError::into_inner);
        self.store.key()
    }

    // ---- The senders: one per conversation that has something to say. ----

    fn send_all(&self, receiver: u64) {
        while let Some(request) = { self.outbox().batch(receiver) } {
            let Some(result) = self.send_until_answered(&request, true) else {
                return;
            };
            // The outbox first: an observer that sends on from here then finds the conversation free.
            let more = self.outbox().done(receiver);
            match result {
                Ok(reply) => reply.sent.iter().for_each(|sent| self.observer.acked(sent)),
                Err(error) => {
                    for message in &request.messages {
                        self.observer.refused(&message.client_id, &error);
                    }
                }
            }
            if !more {
                return;
            }
        }
    }

    /// The backend's answer; `None` when the terminal stops first. What is `new` waits while something older has to
    /// be said again.
    fn send_until_answered(
        &self,
        request: &pb::SendRequest,
        new: bool,
    ) -> Option<Result<pb::SendReply, TerminalError>> {
        let mut request = request.clone();
        request.geo = self.config.geo;
        let mut pause = RESEND.0;
        loop {
            let link = self.wait_for_link(Instant::NEVER, Duration::MAX).ok()?;
            if new {
                request.key = self.may_speak();
            }
            let op = self.invoke(&request);
            let result = link
                .request(pb::Command::Send, &request)
                .and_then(|reply| check_sent(&request, reply, link.user));
            self.answered(op, &result, |reply| {
                (reply.sent.iter().map(sent_as).collect(), 0)
            });
            match result {
                Err(error) if error.is_refusal(code::ABORTED) && !new => return Some(Err(error)),
                Err(error) if error.is_transient() => {
                    if error.is_refusal(code::ABORTED) {
                        // A full queue wakes the applier as well, and this comes again.
                        let _ = self.events.try_send(Event::Doubt);
                    }
                    self.pause(pause);
                    pause = (pause * 2).min(RESEND.1);
                }
                result => {
                    if let Ok(reply) = &result {
                        let notify = brief::told_by(reply, &request, link.user);
                        self.hand_on(Push::Notify(notify));
                    }
                    return Some(result);
                }
            }
        }
    }

    /// The link that is up, or the next one.
    fn wait_for_link(
        &self,
        until: Instant,
        patience: Duration,
    ) -> Result<Arc<Link>, TerminalError> {
        let mut shared = self.shared();
        loop {
            if shared.stopping {
                return Err(shared.failed.clone().unwrap_or(TerminalError::Stopped));
            }
            if let Some(link) = &shared.link {
                return Ok(link.clone());
            }
            let now = Instant::now();
            if now >= until {
                return Err(TerminalError::Timeout(patience));
            }
            // An hour at a time: a condvar does not take "for ever".
            let wait = until.saturating_since(now).min(Duration::from_secs(3_600));
            let woken = self.changed.wait_timeout(shared, wait);
            shared = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    // ---- Ending. ----

    fn stop(&self) {
        let link = {
            let mut shared = self.shared();
            shared.stopping = true;
            shared.link.take()
        };
        self.changed.notify_all();
        if let Some(link) = link {
            link.end("the terminal was stopped");
        }
        // It only wakes an applier that waits: one that is busy looks at `stopping` before its next step.
        let _ = self.events.try_send(Event::Stop);
    }

    fn fail(&self, error: TerminalError) {
        self.shared().failed.get_or_insert(error);
        self.stop();
    }

    fn ended(&self) {
        self.shared().running -= 1;
        self.changed.notify_all();
    }

    fn why_ended(&self) -> TerminalError {
        self.shared()
            .failed
            .clone()
            .unwrap_or(TerminalError::Stopped)
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Random bytes to name a message by: that two among a million of one sender are the same has a chance below 10^-12.
#[must_use]
pub fn new_client_id() -> Bytes {
    let mut id = [0; 10];
    fill_secret(&mut id);
    Bytes::copy_from_slice(&id)
}

/// `false`: the terminal stops.
fn take_event(sync: &mut Sync, refreshing: &mut VecDeque<SyncSender<u64>>, event: Event) -> bool {
    match event {
        Event::Linked(newest) => sync.linked(newest),
        Event::Push(Push::Notify(notify)) => sync.notified(notify, Instant::now()),
        Event::Push(Push::Beat(beat)) => sync.heard(beat.newest.unwrap_or(0)),
        Event::Doubt => sync.refresh(),
        Event::Refresh(done) => {
            sync.refresh();
            refreshing.push_back(done);
        }
        Event::Stop => return false,
    }
    true
}

/// The whole answer. One that leaves a message out, or answers for another, answers for none.
fn check_sent(
    request: &pb::SendRequest,
    mut reply: pb::SendReply,
    user: u64,
) -> Result<pb::SendReply, TerminalError> {
    let whole = brief::restore_sent(&mut reply, request, user);
    let asked = request.messages.iter().map(|message| &message.client_id);
    if whole && asked.eq(reply.sent.iter().map(|sent| &sent.client_id)) {
        Ok(reply)
    } else {
        Err(TerminalError::Nonsense(
            "a send was answered for other messages than were sent".to_owned(),
        ))
    }
}
