//! Registrations of links with their users' primaries: in batches, and again in rotation.
//!
//! Knows:       how to gather what comes within a few milliseconds into one call.
//! Does not know: sockets, frames.
//!
//! A heartbeat renews its link's registration and brings back the newest key in one call; beats that
//! come together share it. Registrations live in a primary's memory, so a primary that restarts has lost
//! them: the sweep renews all links in rotation, and all at once after a call has failed or a primary of
//! another epoch has answered, and notifies terminals that turn out to be behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rpc_core::base::lock::SpinLock;

use super::backend::{Backend, Refusal};
use super::meter::Meter;
use super::table::{Link, Table};
use crate::model::limits::LINKS_PER_CALL;
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
    waiting: SpinLock<Vec<Waiting>>,
    leaving: SpinLock<Vec<logic::Link>>,
    /// The highest epoch of a primary that has answered; 0 = none yet.
    epoch: AtomicU64,
}

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
            epoch: AtomicU64::new(0),
        }
    }

    /// Registers or renews a link, and does `then` with the newest key of its user, read from the primary
    /// now; `None` when the primary cannot be reached. The first of a batch waits for company and asks for
    /// all; the others return at once.
    pub(super) fn renew(&self, link: &Link, then: impl FnOnce(Option<u64>) + Send + 'static) {
        let Some(link) = self.describe(link) else {
            return then(None);
        };
        let then = Box::new(then);
        let mut waiting = self.waiting.lock();
        waiting.push(Waiting { link, then });
        let (first, full) = (waiting.len() == 1, waiting.len() >= LINKS_PER_CALL);
        if full {
            let batch = std::mem::take(&mut *waiting);
            drop(waiting);
            self.ask(batch);
        } else {
            drop(waiting);
            if first {
                std::thread::sleep(GATHER);
                let batch = std::mem::take(&mut *self.waiting.lock());
                self.ask(batch);
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
        let epoch = newest.iter().map(|newest| newest.epoch).max();
        // Relaxed: the sweep sees it soon enough.
        self.epoch.fetch_max(epoch.unwrap_or(0), Ordering::Relaxed);
        Ok(newest)
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
    /// Links still to be renewed without pause, because a call failed or the primary is a new one; 0 = none.
    owed: usize,
    /// The epoch in which all links were registered.
    epoch: u64,
    /// The last step failed.
    failing: bool,
}

impl Sweep {
    /// Renews the next links: one call, or after a failure as many as there are links.
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
            let cursor = last.number;
            if !renew(&links, registrar, meter) {
                self.failing = true;
                return;
            }
            let epoch = registrar.epoch.load(Ordering::Relaxed);
            let deposed = std::mem::replace(&mut self.epoch, epoch) != epoch;
            if std::mem::take(&mut self.failing) || deposed {
                self.owed = table.len();
            }
            self.cursor = cursor;
            self.owed = self.owed.saturating_sub(links.len());
            if self.owed == 0 {
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

/// One call for these links; `false` when one of the primaries could not be asked.
fn renew(links: &[Arc<Link>], registrar: &Registrar, meter: &Meter) -> bool {
    let described: Vec<_> = links
        .iter()
        .filter_map(|link| registrar.describe(link))
        .collect();
    assert_eq!(
        described.len(),
        links.len(),
        "the table holds authenticated links only"
    );
    let Ok(newest) = registrar.register(described) else {
        return false;
    };
    let mut reached = newest.len() == links.len();
    for (link, newest) in links.iter().zip(newest) {
        reached &= newest.reached;
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
    reached
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
