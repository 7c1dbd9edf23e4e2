//! Telling access processes whose timeline has moved, and what passes.
//!
//! Knows: who has a link where, what fits into a notify.   Does not know: sockets, how calls travel.
//!
//! One outbox per access process. While a call is under way what comes up is gathered for the next, and
//! several moves of one user become one notify; so a slow access process gets fewer and larger calls.
//! Best effort: what an outbox cannot take or a call cannot deliver is dropped and counted, and the next
//! heartbeat of the link finds the newest key.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prost::Message;

use super::{
    links::{Link, Links},
    meter::Meter,
    shard::Moved,
};
use crate::{
    model::{
        DeviceId, UserId,
        clock::Clock,
        limits::{INLINE_BYTES, LINKS_PER_CALL, SIGNS},
    },
    planted::{self, Bug},
    proto::{access, terminal},
};

/// Calls access processes.
pub trait AccessCalls: Send + Sync + 'static {
    /// `Access.Notify` at `address`; blocks until it is answered. `None` if it is not.
    fn notify(&self, address: &str, request: access::NotifyRequest) -> Option<access::NotifyReply>;
}

/// Runs a job on a coroutine of its own. From any thread.
pub type Spawn = Box<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// Gathers and sends notifies.
pub struct Notifier {
    links: Arc<Links>,
    clock: Arc<dyn Clock>,
    calls: Arc<dyn AccessCalls>,
    spawn: Spawn,
    outboxes: Mutex<HashMap<Arc<str>, Arc<Outbox>>>,
    meter: Arc<Meter>,
}

/// What one access process is to be told next.
#[derive(Default)]
struct Outbox {
    state: Mutex<OutboxState>,
}

#[derive(Default)]
struct OutboxState {
    /// In the order of their first move; at most [`OUTBOX_TARGETS`].
    targets: VecDeque<access::Target>,
    /// A coroutine is at it.
    sending: bool,
}

/// Notifies that wait for one access process; beyond, they are dropped.
const OUTBOX_TARGETS: usize = 16_384;
/// Access processes; beyond, idle outboxes are let go of.
const OUTBOXES: usize = 1024;
/// A gathered target is looked for among this many newest ones; further back it stands for itself.
const MERGE_WINDOW: usize = 64;

impl Notifier {
    /// Over the links of a store.
    pub fn new(
        links: Arc<Links>,
        clock: Arc<dyn Clock>,
        calls: Arc<dyn AccessCalls>,
        spawn: Spawn,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            links,
            clock,
            calls,
            spawn,
            outboxes: Mutex::default(),
            meter,
        }
    }

    /// Takes what a round has made visible. Never waits for a call.
    pub fn moved(&self, moved: Vec<Moved>) {
        let now_ms = self.clock.unix_ms();
        let mut links: HashMap<UserId, Vec<Link>> = HashMap::new();
        for moved in moved {
            let links = links
                .entry(moved.user)
                .or_insert_with(|| self.links.of(moved.user, now_ms));
            let told = |link: &&mut Link| moved.answered != Some(link.device);
            let mut links = links.iter_mut().filter(told).peekable();
            if links.peek().is_none() {
                continue;
            }
            let notify = notify_of(&moved);
            for link in links {
                self.put(moved.user, link, notify.clone());
            }
        }
    }

    /// The links it looks at.
    pub fn links(&self) -> &Arc<Links> {
        &self.links
    }

    /// Passes a sign on to a user's links, or to one device's. Never waits for a call.
    pub fn sign(&self, user: UserId, device: Option<DeviceId>, sign: terminal::Sign) {
        for link in self.links.of(user, self.clock.unix_ms()) {
            if device.is_none_or(|device| device == link.device) {
                let target = access::Target {
                    signs: vec![sign],
                    ..target(user, &link)
                };
                self.send(link.access, target);
            }
        }
    }

    fn put(&self, user: UserId, link: &Link, notify: terminal::Notify) {
        if planted::is_on(Bug::LoseNotifies) && notify.key.is_multiple_of(3) {
            return;
        }
        let target = access::Target {
            notify: Some(notify),
            ..target(user, link)
        };
        self.send(Arc::clone(&link.access), target);
    }

    fn send(&self, address: Arc<str>, target: access::Target) {
        let outbox = self.outbox(&address);
        let mut state = outbox.lock();
        if let Err(full) = state.add(target) {
            drop(full);
            Meter::add(&self.meter.notifies_dropped, 1);
        }
        if !std::mem::replace(&mut state.sending, true) {
            drop(state);
            let sender = Sender {
                address,
                outbox,
                links: Arc::clone(&self.links),
                calls: Arc::clone(&self.calls),
                meter: Arc::clone(&self.meter),
            };
            (self.spawn)(Box::new(move || sender.run()));
        }
    }

    fn outbox(&self, address: &Arc<str>) -> Arc<Outbox> {
        let mut outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outbox) = outboxes.get(address) {
            return Arc::clone(outbox);
        }
        if outboxes.len() >= OUTBOXES {
            outboxes.retain(|_, outbox| outbox.lock().sending);
        }
        let outbox = Arc::<Outbox>::default();
        outboxes.insert(Arc::clone(address), Arc::clone(&outbox));
        outbox
    }
}

/// Empties one outbox, call by call, and ends.
struct Sender {
    address: Arc<str>,
    outbox: Arc<Outbox>,
    links: Arc<Links>,
    calls: Arc<dyn AccessCalls>,
    meter: Arc<Meter>,
}

impl Sender {
    fn run(self) {
        loop {
            // Its own statement: the lock is let go of before the call.
            let next = self.outbox.lock().take();
            let Some(targets) = next else { return };
            let users: Vec<(u64, u64)> = targets
                .iter()
                .map(|target| (target.link, target.user_id))
                .collect();
            match self
                .calls
                .notify(&self.address, access::NotifyRequest { targets })
            {
                None => Meter::add(&self.meter.notifies_dropped, users.len() as u64),
                Some(reply) => {
                    for gone in reply.gone_links {
                        for &(_, user) in users.iter().filter(|(link, _)| *link == gone) {
                            self.links.gone(UserId(user), &self.address, gone);
                        }
                    }
                }
            }
        }
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutboxState {
    /// Adds a target, or joins it to one that waits for the same link.
    fn add(&mut self, target: access::Target) -> Result<(), access::Target> {
        let same = |other: &&mut access::Target| {
            (other.link, other.user_id) == (target.link, target.user_id)
        };
        let waiting = self.targets.iter_mut().rev().take(MERGE_WINDOW).find(same);
        if let Some(waiting) = waiting.filter(|waiting| !parted(waiting, &target)) {
            match (&mut waiting.notify, target.notify) {
                (Some(waiting), Some(notify)) => join(waiting, notify),
                (waiting, Some(notify)) => *waiting = Some(notify),
                (_, None) => {}
            }
            for sign in target.signs {
                join_sign(&mut waiting.signs, sign);
            }
            return Ok(());
        }
        if self.targets.len() >= OUTBOX_TARGETS {
            return Err(target);
        }
        self.targets.push_back(target);
        Ok(())
    }

    /// The next call's targets; `None` ends the sending.
    fn take(&mut self) -> Option<Vec<access::Target>> {
        let count = self.targets.len().min(LINKS_PER_CALL);
        self.sending = count > 0;
        self.sending.then(|| self.targets.drain(..count).collect())
    }
}

/// The notify of one move, with the item itself if it is small.
fn notify_of(moved: &Moved) -> terminal::Notify {
    // An item that a head stands for, or that does not decode, is not in the notify; the sync shows it.
    let item = Some(moved.item.clone()).filter(|item| !item.is_empty());
    let items = item.and_then(|item| terminal::Item::decode(item).ok());
    let mut notify = terminal::Notify {
        prev_key: moved.given.previous.0,
        key: moved.given.number.0,
        items: items.into_iter().collect(),
    };
    keep_small(&mut notify);
    notify
}

/// Whether what lies between two notifies is on its way in an answer: then each is worth more alone.
fn parted(before: &access::Target, after: &access::Target) -> bool {
    let (Some(before), Some(after)) = (&before.notify, &after.notify) else {
        return false;
    };
    before.key < after.prev_key && !before.items.is_empty() && !after.items.is_empty()
}

/// Appends a later notify of the same user. Items go along only while none is missing in between.
fn join(before: &mut terminal::Notify, mut after: terminal::Notify) {
    let whole = before.key == after.prev_key && !before.items.is_empty() && !after.items.is_empty();
    before.key = before.key.max(after.key);
    if whole {
        before.items.append(&mut after.items);
        keep_small(before);
    } else {
        before.items.clear();
    }
}

/// Adds a sign in the place of an older one of its sort and sender.
fn join_sign(signs: &mut Vec<terminal::Sign>, sign: terminal::Sign) {
    let sort = |sign: &terminal::Sign| (sign.from, sign.what.as_ref().map(std::mem::discriminant));
    signs.retain(|other| sort(other) != sort(&sign));
    if signs.len() >= SIGNS {
        signs.remove(0);
    }
    signs.push(sign);
}

/// Whom something is for, and as yet nothing.
fn target(user: UserId, link: &Link) -> access::Target {
    access::Target {
        user_id: user.0,
        device_id: link.device.0,
        link: link.number,
        notify: None,
        signs: Vec::new(),
    }
}

fn keep_small(notify: &mut terminal::Notify) {
    let bytes: usize = notify.items.iter().map(Message::encoded_len).sum();
    if bytes > INLINE_BYTES {
        notify.items.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::{
        model::{DeviceId, Seq, clock::TestClock},
        storage::sequence::Given,
    };

    /// Answers nothing; keeps what it was asked.
    #[derive(Default)]
    struct Recorder {
        calls: Mutex<Vec<(String, access::NotifyRequest)>>,
        gone: Vec<u64>,
    }

    impl AccessCalls for Recorder {
        fn notify(
            &self,
            address: &str,
            request: access::NotifyRequest,
        ) -> Option<access::NotifyReply> {
            self.calls
                .lock()
                .unwrap()
                .push((address.to_owned(), request));
            Some(access::NotifyReply {
                gone_links: self.gone.clone(),
            })
        }
    }

    type Jobs = Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>>;

    fn setup(recorder: Recorder) -> (Notifier, Arc<Recorder>, Jobs, Arc<Links>) {
        let (links, recorder, jobs) =
            (Arc::<Links>::default(), Arc::new(recorder), Jobs::default());
        let queue = Arc::clone(&jobs);
        let notifier = Notifier::new(
            Arc::clone(&links),
            Arc::new(TestClock::default()),
            recorder.clone(),
            Box::new(move |job| queue.lock().unwrap().push(job)),
            Arc::default(),
        );
        (notifier, recorder, jobs, links)
    }

    fn run(jobs: &Jobs) {
        let ready = std::mem::take(&mut *jobs.lock().unwrap());
        ready.into_iter().for_each(|job| job());
    }

    fn link(number: u64) -> Link {
        Link {
            device: DeviceId(number),
            access: "127.0.0.1:1".into(),
            number,
            active: true,
        }
    }

    fn moved(user: u64, previous: u64, number: u64, payload: usize) -> Moved {
        let item = terminal::Item {
            number,
            payload: vec![7; payload].into(),
            ..Default::default()
        };
        let given = Given {
            previous: Seq(previous),
            number: Seq(number),
        };
        Moved {
            user: UserId(user),
            given,
            item: item.encode_to_vec().into(),
            answered: None,
        }
    }

    #[test]
    fn moves_of_one_user_become_one_notify_in_one_call() {
        let (notifier, recorder, jobs, links) = setup(Recorder::default());
        links.register(UserId(1), link(11), 0);
        links.register(UserId(2), link(22), 0);
        notifier.moved(vec![
            moved(1, 3, 4, 10),
            moved(2, 0, 1, 10),
            moved(1, 4, 6, 10),
        ]);
        notifier.moved(vec![moved(1, 6, 7, 10), moved(3, 0, 1, 10)]);
        run(&jobs);
        let calls = recorder.calls.lock().unwrap();
        assert_eq!(calls.len(), 1);
        let targets = &calls[0].1.targets;
        let notify = targets[0].notify.as_ref().unwrap();
        assert_eq!((targets.len(), targets[0].link), (2, 11));
        assert_eq!((notify.prev_key, notify.key), (3, 7));
        assert_eq!(
            notify
                .items
                .iter()
                .map(|item| item.number)
                .collect::<Vec<_>>(),
            [4, 6, 7]
        );
    }

    #[test]
    fn signs_go_with_what_moves_and_the_newest_of_a_sort_stands_for_all() {
        let (notifier, recorder, jobs, links) = setup(Recorder::default());
        links.register(UserId(1), link(11), 0);
        links.register(UserId(1), link(12), 0);
        let here = |from, here| terminal::Sign {
            from,
            what: Some(terminal::sign::What::Here(here)),
        };
        let typing = terminal::Sign {
            from: 5,
            what: Some(terminal::sign::What::Typing(true)),
        };
        let device = Some(DeviceId(11));
        notifier.sign(UserId(1), device, here(5, true));
        notifier.sign(UserId(1), device, typing);
        notifier.sign(UserId(1), device, here(5, false));
        notifier.moved(vec![moved(1, 0, 1, 1)]);
        run(&jobs);
        let calls = recorder.calls.lock().unwrap();
        let targets = &calls[0].1.targets;
        assert_eq!((calls.len(), targets.len()), (1, 2));
        assert_eq!(targets[0].signs, [typing, here(5, false)]);
        assert_eq!(targets[1].signs, [], "the other device did not ask");
        assert!(targets.iter().all(|target| target.notify.is_some()));
    }

    #[test]
    fn a_sign_moves_no_key_and_signs_are_bounded() {
        let (notifier, recorder, jobs, links) = setup(Recorder::default());
        links.register(UserId(1), link(11), 0);
        for from in 0..2 * SIGNS as u64 {
            let what = Some(terminal::sign::What::Typing(true));
            notifier.sign(UserId(1), None, terminal::Sign { from, what });
        }
        run(&jobs);
        let calls = recorder.calls.lock().unwrap();
        let [target] = &calls[0].1.targets[..] else {
            panic!("one link")
        };
        assert_eq!(
            (target.signs.len(), target.signs[0].from),
            (SIGNS, SIGNS as u64)
        );
        assert!(target.notify.is_none(), "no key goes with it");
    }

    #[test]
    fn the_device_whose_answer_shows_an_item_is_not_told_of_it_again() {
        let (notifier, recorder, jobs, links) = setup(Recorder::default());
        links.register(UserId(1), link(11), 0);
        links.register(UserId(1), link(12), 0);
        let said = Moved {
            answered: Some(DeviceId(11)),
            ..moved(1, 4, 5, 10)
        };
        notifier.moved(vec![moved(1, 3, 4, 10), said, moved(1, 5, 6, 10)]);
        run(&jobs);
        let calls = recorder.calls.lock().unwrap();
        let told = |link| {
            let targets = calls.iter().flat_map(|(_, request)| &request.targets);
            let notifies = targets
                .filter(|target| target.link == link)
                .flat_map(|target| &target.notify);
            notifies
                .map(|notify| (notify.prev_key, notify.key, notify.items.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(12), [(3, 6, 3)], "another device is told of all");
        assert_eq!(
            told(11),
            [(3, 4, 1), (5, 6, 1)],
            "the answer fits in between, and nothing has to be asked for"
        );
    }

    #[test]
    fn items_that_are_too_large_together_stay_behind() {
        let (notifier, recorder, jobs, links) = setup(Recorder::default());
        links.register(UserId(1), link(11), 0);
        notifier.moved(vec![
            moved(1, 0, 1, 600),
            moved(1, 1, 2, 600),
            moved(1, 2, 3, 1),
        ]);
        run(&jobs);
        let calls = recorder.calls.lock().unwrap();
        let notify = calls[0].1.targets[0].notify.as_ref().unwrap();
        assert_eq!((notify.prev_key, notify.key, notify.items.len()), (0, 3, 0));
    }

    #[test]
    fn a_link_that_access_does_not_have_is_forgotten() {
        let (notifier, _, jobs, links) = setup(Recorder {
            gone: vec![11],
            ..Recorder::default()
        });
        links.register(UserId(1), link(11), 0);
        links.register(UserId(1), link(12), 0);
        notifier.moved(vec![moved(1, 0, 1, 1)]);
        run(&jobs);
        assert_eq!(links.of(UserId(1), 0), [link(12)]);
    }

    #[test]
    fn what_an_outbox_cannot_take_is_dropped_and_counted() {
        let (notifier, recorder, jobs, links) = setup(Recorder::default());
        for user in 0..OUTBOX_TARGETS as u64 + 5 {
            links.register(UserId(user), link(user), 0);
        }
        notifier.moved(
            (0..OUTBOX_TARGETS as u64 + 5)
                .map(|user| moved(user, 0, 1, 1))
                .collect(),
        );
        let dropped = notifier.meter.notifies_dropped.load(Ordering::Relaxed);
        assert_eq!(dropped, 5);
        run(&jobs);
        let calls = recorder.calls.lock().unwrap();
        assert!(
            calls
                .iter()
                .all(|(_, request)| request.targets.len() <= LINKS_PER_CALL)
        );
        assert_eq!(
            calls
                .iter()
                .map(|(_, request)| request.targets.len())
                .sum::<usize>(),
            OUTBOX_TARGETS
        );
    }
}
