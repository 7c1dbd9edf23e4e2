//! Registrations of links with their users' primaries: in batches, and again in rotation.
//!
//! Knows:       how to gather what comes within a few milliseconds into one call.
//! Does not know: sockets, frames.
//!
//! A heartbeat renews its link's registration and brings back the newest key in one call; beats that
//! come together share it. Registrations live in a primary's memory, so a primary that restarts has lost
//! them: the sweep renews all links in rotation, and all at once after a home could not be asked or a primary of
//! another epoch has answered, and notifies terminals that turn out to be behind. Each home is asked for its own
//! users' links: one that is cut off keeps no heartbeat of another's waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rpc_core::base::lock::SpinLock;

use super::backend::{Backend, Refusal};
use super::meter::Meter;
use super::table::{Link, Table};
use crate::model::limits::LINKS_PER_CALL;
use crate::model::{HomeId, UserId};
use crate::planted::{self, Bug};
use crate::proto::logic;
use crate::proto::terminal as pb;
use crate::task::spawn;

/// How long the first of a batch waits for company.
const GATHER: Duration = Duration::from_millis(5);
/// How long an AUTH waits for its batch's answer; above the deadline of the call.
const PATIENCE: Duration = Duration::from_secs(8);

/// Gathers registrations and removals.
pub(super) struct Registrar {
    backend: Arc<dyn Backend>,
    /// HOST:PORT of this process's RPC port, where notifies are to go.
    address: String,
    /// By home.
    waiting: SpinLock<BTreeMap<HomeId, Vec<Waiting>>>,
    leaving: SpinLock<Vec<logic::Link>>,
    /// The highest epoch of each home's primary that has answered; 0 = none yet.
    epochs: [AtomicU64; HOMES],
}

/// As many as there can be.
const HOMES: usize = HomeId::MAX.0 as usize + 1;

struct Waiting {
    link: logic::Link,
    /// Gets the newest key, or `None` when the primary could not be asked.
    then: Then,
}

/// What is done with the newest key.
type Then = Box<dyn FnOnce(Option<u64>) + Send>;

impl Registrar {
    pub(super) fn new(backend: Arc<dyn Backend>, address: String) -> Self {
        Self {
            backend,
            address,
            waiting: SpinLock::default(),
            leaving: SpinLock::default(),
            epochs: Default::default(),
        }
    }

    /// Registers or renews a link, and does `then` with the newest key of its user, read from the primary
    /// now; `None` when the primary cannot be reached. The first of a batch waits for company and asks for
    /// all; the others return at once.
    pub(super) fn renew(&self, link: &Link, then: impl FnOnce(Option<u64>) + Send + 'static) {
        let Some(link) = self.describe(link) else {
            return then(None);
        };
        let home = UserId(link.user_id).home();
        let then = Box::new(then);
        let mut homes = self.waiting.lock();
        let waiting = homes.entry(home).or_default();
        waiting.push(Waiting { link, then });
        let (first, full) = (waiting.len() == 1, waiting.len() >= LINKS_PER_CALL);
        if full {
            let batch = std::mem::take(waiting);
            drop(homes);
            self.ask(batch);
        } else {
            drop(homes);
            if first {
                std::thread::sleep(GATHER);
                let batch = self.waiting.lock().remove(&home);
                self.ask(batch.unwrap_or_default());
            }
        }
    }

    /// As [`Registrar::renew`], waiting for the answer.
    pub(super) fn newest(&self, link: &Link) -> Option<u64> {
        let (answer, answered) = sync_channel(1);
        // Whoever asked may have lost patience.
        self.renew(link, move |key| {
            let _ = answer.try_send(key);
        });
        answered.recv_timeout(PATIENCE).ok().flatten()
    }

    /// Tells the primary that a link is gone, in company where there is some. Never waits.
    pub(super) fn forget(self: &Arc<Self>, link: &Link) {
        let Some(link) = self.describe(link) else {
            return;
        };
        let mut leaving = self.leaving.lock();
        leaving.push(link);
        let first = leaving.len() == 1;
        drop(leaving);
        if first {
            let registrar = Arc::clone(self);
            spawn("link-goodbye", move || registrar.say_goodbye());
        }
    }

    fn say_goodbye(&self) {
        std::thread::sleep(GATHER);
        let leaving = std::mem::take(&mut *self.leaving.lock());
        for batch in leaving.chunks(LINKS_PER_CALL) {
            // Best effort: a registration that is not dropped expires, and a notify to it is answered
            // with "gone".
            let _ = self.backend.drop_links(batch.to_vec());
        }
    }

    /// Asks for one batch, at most [`LINKS_PER_CALL`] links.
    fn ask(&self, batch: Vec<Waiting>) {
        if batch.is_empty() {
            return;
        }
        let links: Vec<_> = batch.iter().map(|waiting| waiting.link.clone()).collect();
        let newest = self.register(links).unwrap_or_default();
        let mut newest = newest.into_iter();
        for waiting in batch {
            let newest = newest.next().filter(|newest| newest.reached);
            (waiting.then)(newest.map(|newest| newest.key));
        }
    }

    fn register(&self, links: Vec<logic::Link>) -> Result<Vec<logic::NewestKey>, Refusal> {
        let newest = self.backend.register_links(links)?;
        for newest in &newest {
            let home = UserId(newest.user_id).home();
            // Relaxed: the sweep sees it soon enough.
            self.epochs[usize::from(home.0)].fetch_max(newest.epoch, Ordering::Relaxed);
        }
        Ok(newest)
    }

    /// The sum of all homes' epochs: each only grows, so it changes with each of them.
    fn epochs(&self) -> u64 {
        let epochs = self.epochs.iter();
        epochs.map(|epoch| epoch.load(Ordering::Relaxed)).sum()
    }

    fn describe(&self, link: &Link) -> Option<logic::Link> {
        let logic::Caller { user_id, device_id } = link.caller()?;
        Some(logic::Link {
            user_id,
            device_id,
            link: link.number,
            access: self.address.clone(),
            active: link.is_active(),
        })
    }
}

/// The rotation over all links. One step a second.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Number of the link that was renewed last.
    cursor: u64,
    /// Links still to be renewed without pause, because a home is back or has a new primary; 0 = none.
    owed: usize,
    /// The sum of the epochs in which all links were registered.
    epochs: u64,
    /// Homes that could not be asked when they were last.
    failing: BTreeSet<HomeId>,
}

impl Sweep {
    /// Renews the next links: one call, or when all are owed as many as there are links.
    pub(super) fn step(&mut self, table: &Table, registrar: &Registrar, meter: &Meter) {
        loop {
            let mut links = table.after(self.cursor, LINKS_PER_CALL);
            if links.is_empty() {
                self.cursor = 0;
                links = table.after(0, LINKS_PER_CALL);
            }
            let Some(last) = links.last() else {
                self.owed = 0;
                return;
            };
            self.cursor = last.number;
            let mut back = false;
            let outcomes = renew(&links, registrar, meter);
            for (&home, &reached) in &outcomes {
                match reached {
                    true => back |= self.failing.remove(&home),
                    false => drop(self.failing.insert(home)),
                }
            }
            let epochs = registrar.epochs();
            let deposed = std::mem::replace(&mut self.epochs, epochs) != epochs;
            if back || deposed {
                self.owed = table.len();
            }
            self.owed = self.owed.saturating_sub(links.len());
            // A home that cannot be asked costs a time-out a call: the rest has time until the next step.
            if self.owed == 0 || outcomes.values().any(|reached| !reached) {
                return;
            }
        }
    }
}

/// The key in the answer to a heartbeat: the primary's, or none.
pub(super) fn beat_key(link: &Link, newest: Option<u64>) -> Option<u64> {
    if planted::is_on(Bug::NoKeyInBeat) {
        return None;
    }
    if planted::is_on(Bug::BeatFromCache) {
        return Some(link.tell(0));
    }
    newest
}

/// One call for these links: which of their homes could be asked.
fn renew(links: &[Arc<Link>], registrar: &Registrar, meter: &Meter) -> BTreeMap<HomeId, bool> {
    let described: Vec<_> = links
        .iter()
        .filter_map(|link| registrar.describe(link))
        .collect();
    assert_eq!(
        described.len(),
        links.len(),
        "the table holds authenticated links only"
    );
    let homes = described.iter().map(|link| UserId(link.user_id).home());
    let mut outcomes: BTreeMap<HomeId, bool> = homes.map(|home| (home, false)).collect();
    let Ok(newest) = registrar.register(described) else {
        return outcomes;
    };
    outcomes
        .values_mut()
        .for_each(|reached| *reached = newest.len() == links.len());
    for (link, newest) in links.iter().zip(newest) {
        if !newest.reached {
            outcomes.insert(UserId(newest.user_id).home(), false);
        }
        let told = link.tell(0);
        let heals = !planted::is_on(Bug::NoKeyInBeat) && !planted::is_on(Bug::BeatFromCache);
        if heals && newest.reached && newest.key > told {
            Meter::add(&meter.healed);
            link.notify(pb::Notify {
                prev_key: told,
                key: newest.key,
                items: Vec::new(),
            });
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::super::backend::Answer;
    use super::super::session::Limits;
    use super::*;
    use crate::proto::logic::Caller;

    /// A home with primaries that know nothing of those before them.
    #[derive(Default)]
    struct Home {
        epoch: AtomicU64,
        calls: AtomicU64,
    }

    impl Backend for Home {
        fn authenticate(&self, _token: bytes::Bytes) -> Result<Caller, Refusal> {
            Err(Refusal::unreachable())
        }
        fn open_command(&self, _: pb::Command, _: bytes::Bytes) -> Result<Answer, Refusal> {
            Err(Refusal::unreachable())
        }
        fn command(&self, _: Caller, _: pb::Command, _: bytes::Bytes) -> Result<Answer, Refusal> {
            Err(Refusal::unreachable())
        }
        fn register_links(
            &self,
            links: Vec<logic::Link>,
        ) -> Result<Vec<logic::NewestKey>, Refusal> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            let epoch = self.epoch.load(Ordering::Relaxed);
            let newest = |link: logic::Link| logic::NewestKey {
                user_id: link.user_id,
                key: epoch,
                reached: true,
                epoch,
            };
            Ok(links.into_iter().map(newest).collect())
        }
        fn drop_links(&self, _links: Vec<logic::Link>) -> Result<(), Refusal> {
            Ok(())
        }
    }

    #[test]
    fn a_new_primary_is_told_of_all_links_at_once() {
        const CALLS: u64 = 4;
        let home = Arc::new(Home::default());
        home.epoch.store(1, Ordering::Relaxed);
        let (registrar, table) = (
            Registrar::new(home.clone(), "127.0.0.1:1".to_owned()),
            Table::default(),
        );
        let meter = Arc::new(Meter::default());
        for number in 1..=CALLS * LINKS_PER_CALL as u64 {
            let link = Arc::new(Link::new(number, Limits::default(), Arc::clone(&meter)));
            let (user_id, device_id) = (number, 1);
            link.begin_auth(Caller { user_id, device_id }, true);
            link.tell(1);
            table.insert(link);
        }
        let mut sweep = Sweep::default();
        let mut step = || {
            sweep.step(&table, &registrar, &meter);
            home.calls.swap(0, Ordering::Relaxed)
        };
        step();
        assert_eq!(step(), 1, "in rotation, while nothing happens");
        home.epoch.store(2, Ordering::Relaxed);
        let calls = step();
        assert!(
            calls >= CALLS,
            "{calls} calls: whoever was not in one is not known"
        );
        let behind = |link: &Arc<Link>| link.tell(0) < 2;
        assert!(
            !table.after(0, usize::MAX).iter().any(behind),
            "all are told"
        );
        assert_eq!(step(), 1);
    }
}
